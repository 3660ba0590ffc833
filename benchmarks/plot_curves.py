"""Draws the learning curves of runs, and prints them as a table.

  python benchmarks/plot_curves.py cifar10 --out=curves.png
  python benchmarks/plot_curves.py faithful=runs/1 recipe=runs/2 --out=curves.png

A run is a folder with the event files of a training in `train` and of its evaluations in `eval`.
The pictures are the training loss, each point the mean over a hundredth of the run, and
precision @ 1 of the test images, a curve for each kind of evaluation that there is. Needs
matplotlib (the extra `plots`).
"""

import argparse
import collections
import contextlib
import glob
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import cifar10_tensorflow  # noqa: E402, F401, before TensorFlow

import numpy as np  # noqa: E402
import tensorflow.compat.v1 as tf  # noqa: E402

LOSS = 'losses/total_loss/raw'
PRECISION = 'precision @ 1'
# What follows that in the tag of a kind of evaluation, in the legend, and the style of its curve.
KINDS = [('', 'moving averages', '-'), (' without moving averages', 'plain variables', '--'),
         (' over ten views', 'moving averages, ten views', ':'),
         (' without moving averages over ten views', 'plain variables, ten views', '-.')]


def read_points(folder):
  """Yields the points of the curves in a folder's event files, in the order they were written in.

  Yields:
    A `tf.Event`, for its step and time, and the `tf.Summary.Value` in it.
  """
  # The files' names begin with the time.
  for path in sorted(glob.glob(os.path.join(glob.escape(folder), 'events.out.tfevents.*'))):
    # A training at work may just be writing the last record.
    with contextlib.suppress(tf.errors.DataLossError):
      for event in tf.train.summary_iterator(path):
        for value in event.summary.value:
          if value.tag == LOSS or value.tag.startswith(PRECISION):
            yield event, value


def read_curves(folder):
  """Reads the curves in a folder's event files.

  Returns:
    {tag: {step: value}}; of a step that was repeated after a resumption the latest value.
  """
  curves = collections.defaultdict(dict)
  for event, value in read_points(folder):
    curves[value.tag][event.step] = value.simple_value
  return curves


def smooth(curve, points=100):
  """Returns steps and values of a curve {step: value} in at most so many points, each a mean."""
  points = min(points, len(curve))
  return [[group.mean() for group in np.array_split(numbers, points)]
          for numbers in np.array(sorted(curve.items())).T]


def table(runs):
  """Returns rows, the first the headings: the precision of each evaluation, and the loss there.

  Args:
    runs: {label: {tag: {step: value}}}.
  """
  kinds = [kind for kind in KINDS if any(PRECISION + kind[0] in run for run in runs.values())]
  rows = [['run', 'step', 'training loss'] + [name for _, name, _ in kinds]]
  for label, run in runs.items():
    losses = smooth(run[LOSS])
    precisions = [run.get(PRECISION + suffix, {}) for suffix, _, _ in kinds]
    for step in sorted(set().union(*precisions)):
      rows.append([label, '%d' % step, '%.3f' % np.interp(step, *losses)]
                  + ['%.3f' % of_kind[step] if step in of_kind else '' for of_kind in precisions])
  return rows


def draw(runs, path):
  """Draws the picture of the runs, see `table`, into a file whose name says of which format."""
  import matplotlib
  matplotlib.use('Agg')  # Draws where there is no screen.
  from matplotlib import pyplot

  figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 3.6), layout='constrained')
  for i, (label, run) in enumerate(runs.items()):
    left.plot(*smooth(run[LOSS]), color='C%d' % i, label=label)
    for suffix, name, style in KINDS:
      if PRECISION + suffix in run:
        right.plot(*zip(*sorted(run[PRECISION + suffix].items())), style, color='C%d' % i,
                   marker='.', label='%s, %s' % (label, name) if len(runs) > 1 else name)
  left.set_title('training loss')
  # The weight decay of the first steps would hide what comes after.
  left.set_yscale('log')
  left.yaxis.set_major_formatter('{x:g}')
  left.yaxis.set_minor_formatter('{x:g}')
  right.set_title('precision @ 1')
  if len(runs) > 1:
    left.legend(frameon=False)
  for axes in (left, right):
    axes.set_xlabel('step')
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    axes.xaxis.set_major_formatter('{x:,.0f}')
    axes.locator_params(axis='x', nbins=5)
    axes.set_xlim(left=0)
  if right.lines:
    right.legend(frameon=False, fontsize='small', loc='upper left', bbox_to_anchor=(1, 1))
  figure.savefig(path, dpi=120)


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('runs', nargs='*', default=['cifar10'], metavar='[LABEL=]FOLDER',
                      help='folders of runs (cifar10), the name in the legend before each')
  parser.add_argument('--out', help='picture to write, .png or .svg; without it only the table')
  parser.add_argument('--csv', action='store_true', help='print the table as CSV, not Markdown')
  arguments = parser.parse_args()

  runs = {}
  for run in arguments.runs:
    label, _, folder = run.rpartition('=')
    curves = {**read_curves(os.path.join(folder, 'train')),
              **read_curves(os.path.join(folder, 'eval'))}
    if LOSS not in curves:
      sys.exit('There are no event files of a training in %s.' % os.path.join(folder, 'train'))
    label = label or os.path.basename(os.path.normpath(folder))
    if label in runs:
      sys.exit('Two runs have the name %s: write LABEL=%s.' % (label, folder))
    runs[label] = curves

  heading, *rows = table(runs)
  if arguments.csv:
    print('\n'.join(','.join(row) for row in [heading] + rows))
  else:
    print('\n'.join('| %s |' % ' | '.join(row) for row in [heading, ['---'] * len(heading)] + rows))
  if arguments.out:
    try:
      draw(runs, arguments.out)
    except ImportError:
      sys.exit("Pictures need matplotlib: pip install -e '.[plots]'.")
    except (OSError, ValueError) as error:  # ValueError: matplotlib does not know the format.
      sys.exit('%s cannot be drawn: %s' % (arguments.out, error))


if __name__ == '__main__':
  main()
