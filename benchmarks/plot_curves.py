"""Draws the learning curves of runs, and prints them as a table.

  python benchmarks/plot_curves.py cifar10 --out=curves.png
  python benchmarks/plot_curves.py faithful=runs/1 recipe=runs/2 --out=curves.png

A run is a directory with the event files of training in `train` and those of its evaluations in
`eval`. On the left is the training loss, each point the mean over a hundredth of the run; on the
right precision @ 1 of the test images. Each run has a colour, each kind of evaluation a line style.
Drawing needs matplotlib (the extra `plots`).
"""

import argparse
import collections
import contextlib
import glob
import os
import sys

import numpy as np

from cifar10_support.quiet import tf

LOSS = 'losses/total_loss/raw'
PRECISION = 'precision @ 1'
# The kinds of evaluation: how its tag continues, its name in the legend, the style of its curve.
KINDS = [('', 'moving averages', '-'), (' without moving averages', 'raw weights', '--'),
         (' with ten crops', 'moving averages, ten crops', ':'),
         (' without moving averages with ten crops', 'raw weights, ten crops', '-.')]
# Runs that are kept in docs/runs have an earlier name for it.
OLD_NAME, NEW_NAME = ' over ten views', ' with ten crops'


def read_values(directory):
  """Yields what the event files of a directory hold, in the order of writing.

  Yields:
    A `tf.Event`, for its step and time, and a `tf.Summary.Value` in it.
  """
  # The files' names begin with the time.
  for path in sorted(glob.glob(os.path.join(glob.escape(directory), 'events.out.tfevents.*'))):
    # While training runs, the last record may be incomplete.
    with contextlib.suppress(tf.errors.DataLossError):
      for event in tf.train.summary_iterator(path):
        for value in event.summary.value:
          yield event, value


def read_points(directory):
  """Yields the points of the curves, as `read_values` does."""
  for event, value in read_values(directory):
    if value.tag == LOSS or value.tag.startswith(PRECISION):
      value.tag = value.tag.replace(OLD_NAME, NEW_NAME)
      yield event, value


def read_curves(directory):
  """Reads the curves in a directory's event files.

  Returns:
    {tag: {step: value}}; for a step that was repeated after a resumption the latest value.
  """
  curves = collections.defaultdict(dict)
  for event, value in read_points(directory):
    curves[value.tag][event.step] = value.simple_value
  return curves


def smooth(curve, points=100):
  """Returns a curve {step: value} in at most this many points, each a mean: steps and values."""
  points = min(points, len(curve))
  return [[group.mean() for group in np.array_split(numbers, points)]
          for numbers in np.array(sorted(curve.items())).T]


def table(runs):
  """Returns rows of text: the headings, then for each evaluated step the loss and the precisions.

  Args:
    runs: {label: {tag: {step: value}}}.
  """
  kinds = [kind for kind in KINDS if any(PRECISION + kind[0] in run for run in runs.values())]
  rows = [['run', 'step', 'training loss'] + [name for _, name, _ in kinds]]
  for label, run in runs.items():
    losses = smooth(run[LOSS])
    precisions = [run.get(PRECISION + suffix, {}) for suffix, _, _ in kinds]
    for step in sorted(set().union(*precisions)):
      rows.append([label, f'{step}', f'{np.interp(step, *losses):.3f}']
                  + [f'{of_kind[step]:.3f}' if step in of_kind else '' for of_kind in precisions])
  return rows


def draw(runs, path):
  """Draws the runs, see `table`, into a file; the ending of its name gives the format."""
  import matplotlib
  matplotlib.use('Agg')  # Needs no screen.
  from matplotlib import lines, pyplot, ticker

  # As wide as a page of GitHub, in twice its pixels.
  figure, (left, right) = pyplot.subplots(1, 2, figsize=(8.3, 3.4), layout='constrained')
  styles = {}
  for i, (label, run) in enumerate(runs.items()):
    left.plot(*smooth(run[LOSS]), color=f'C{i}', label=label)
    for suffix, name, style in KINDS:
      if PRECISION + suffix in run:
        right.plot(*zip(*sorted(run[PRECISION + suffix].items())), style, color=f'C{i}',
                   marker='.')
        styles[name] = style
  left.set_title('training loss')
  # On a linear scale the weight decay of the first steps would flatten all that follows.
  left.set_yscale('log')
  left.yaxis.set_major_locator(ticker.LogLocator(subs=[1, 2, 3, 5]))
  left.yaxis.set_major_formatter('{x:g}')
  left.yaxis.set_minor_locator(ticker.NullLocator())
  right.set_title('precision @ 1 on the test images')
  for axes in (left, right):
    axes.set_xlabel('step')
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    axes.xaxis.set_major_formatter('{x:,.0f}')
    axes.locator_params(axis='x', nbins=4)
    axes.set_xlim(left=0)
  if len(runs) > 1:
    left.legend(loc='upper right', frameon=False)
  if styles:
    right.legend([lines.Line2D([], [], color='dimgrey', linestyle=style)
                  for style in styles.values()], styles, loc='lower right', frameon=False)
  figure.savefig(path, dpi=200)


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('runs', nargs='*', default=['cifar10'], metavar='[LABEL=]DIRECTORY',
                      help='directories of runs (cifar10), each with its name in the legend')
  parser.add_argument('--out', help='image file to write, .png or .svg (none, only the table)')
  parser.add_argument('--csv', action='store_true', help='print the table as CSV, not Markdown')
  parser.add_argument('--single_crop', action='store_true',
                      help='leave out the evaluations with ten crops')
  arguments = parser.parse_args()

  runs = {}
  for run in arguments.runs:
    label, _, directory = run.rpartition('=')
    curves = {**read_curves(os.path.join(directory, 'train')),
              **read_curves(os.path.join(directory, 'eval'))}
    if arguments.single_crop:
      curves = {tag: curve for tag, curve in curves.items() if not tag.endswith(NEW_NAME)}
    if LOSS not in curves:
      sys.exit(f"There is no training loss in {os.path.join(directory, 'train')}: name the "
               'directory of a run.')
    label = label or os.path.basename(os.path.normpath(directory))
    if label in runs:
      sys.exit(f'Two runs have the name {label}: write LABEL={directory}.')
    runs[label] = curves

  heading, *rows = table(runs)
  if arguments.csv:
    print('\n'.join(','.join(row) for row in [heading] + rows))
  else:
    print('\n'.join(f"| {' | '.join(row)} |" for row in [heading, ['---'] * len(heading)] + rows))
  if arguments.out:
    try:
      draw(runs, arguments.out)
    except ImportError:
      sys.exit("Drawing needs matplotlib: pip install -e '.[plots]'.")
    except (OSError, ValueError) as error:  # ValueError: matplotlib does not know the format.
      sys.exit(f'Cannot write {arguments.out}: {error}')


if __name__ == '__main__':
  main()
