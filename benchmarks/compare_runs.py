"""Compares runs: which flags differ, the curves, the final scores, and how long they took.

  python benchmarks/compare_runs.py cifar10/train runs/mine --out=curves.png
  python benchmarks/compare_runs.py faithful=docs/runs/faithful recipe=docs/runs/recipe

A run is the directory of its training, or the one that has that as `train`. Its evaluations are
beside it, in any directory, or in `eval`. The training loss is the mean over a hundredth of the
run; a precision counts as reached at the first evaluation that has it. The time is that of
training, without pauses between two starts. --out draws all of this: each run has a colour, each
kind of evaluation a line style. Drawing needs matplotlib (the extra `plots`).
"""

import curves  # First: it imports TensorFlow without its chatter.

import argparse
import collections
import glob
import itertools
import os
import sys

import numpy as np

from cifar10_support import runs
from cifar10_support.console import UserError
from curves import LOSS, PRECISION

# The kinds of evaluation: how its tag continues, its name in the legend, the style of its curve.
KINDS = [('', 'moving averages', '-'), (' without moving averages', 'raw weights', '--'),
         (' with ten crops', 'moving averages, ten crops', ':'),
         (' without moving averages with ten crops', 'raw weights, ten crops', '-.')]
TO_REACH = (0.80, 0.86)
MARKS = 'abcdefghijklmnopqrstuvwxyz'  # Of the runs in the terminal's curves.
WIDTH, HEIGHT = 80, 12  # Of the terminal, and of a curve in it, in characters.

# Its curves and seconds are what `curves` returns, its record what `runs.read` does.
Run = collections.namedtuple('Run', ['curves', 'seconds', 'record'])


def read(directory):
  """Returns the `Run` in a directory, or exits."""
  train_dir = os.path.join(directory, 'train')
  if not os.path.isdir(train_dir) and glob.glob(
      os.path.join(glob.escape(directory), 'events.out.tfevents.*')):
    train_dir = directory
  values, times = curves.read_curves(train_dir)
  if LOSS not in values:
    sys.exit(f'There is no training loss in {train_dir}: name the directory of a run.')
  for evaluations in evaluations_of(train_dir):
    for tag, curve in curves.read_curves(evaluations)[0].items():
      values[tag].update(curve)
  try:
    record = runs.read(train_dir)
  except UserError as error:
    sys.exit(str(error))
  return Run(dict(values), curves.training_seconds(times[LOSS]), record)


def evaluations_of(train_dir):
  """Returns the directories of a run's evaluations: those that say so, or the one named `eval`."""
  # --restart gives an old run and its evaluations, which know it by its old name, one ending.
  path = os.path.realpath(train_dir)
  ending = ''.join(runs.SET_ASIDE.findall(path))
  beside = [name for name in glob.glob(os.path.join(glob.escape(os.path.dirname(path)), '*'))
            if ''.join(runs.SET_ASIDE.findall(name)) == ending]
  found = [name for name in beside if path.removesuffix(ending) in runs.evaluated_in(name)]
  for name in found:
    if len(runs.evaluated_in(name)) > 1:
      print(f'{name} has evaluations of other runs too.', file=sys.stderr)
  usual = os.path.join(os.path.dirname(path), f'eval{ending}')
  # One that was moved or copied along with its run knows that by a path where nothing is now.
  return found or [usual] * (not any(map(os.path.isdir, runs.evaluated_in(usual))))


def differences(records):
  """Returns rows of what differs between the records of runs: a flag, and its value in each run."""
  known = [record for record in records if record]
  names = sorted(set().union(*(record['flags'] for record in known)) - {'train_dir', 'restart'})
  rows = [[name] + [_value(record, name) if record else '?' for record in records]
          for name in names]
  rows += [[name] + [str(record.get(name)) if record else '?' for record in records]
           for name in ('classes', 'tensorflow')]
  return [row for row in rows if len(set(row[1:]) - {'?'}) > 1]


def _value(record, name):
  """Returns a flag's value as text; those of earlier starts too, if they were others."""
  values = [start['flags'].get(name, '-') for start in [*record['earlier'], record]]
  values = [','.join(value) if isinstance(value, list) else str(value) for value in values]
  if name == 'max_steps':  # A run that was resumed has had others.
    return values[-1]
  return ', then '.join(value for value, _ in itertools.groupby(values))


def results(all_runs):
  """Returns rows of the runs' results: what it is, and its value in each run."""
  def row(name, value):
    return [name] + [value(run) for run in all_runs]

  def score(tag):
    def last(run):
      step, value = max(run.curves.get(tag, {}).items(), default=(None, None))
      return '-' if step is None else f'{value:.3f} at {step:,}'
    return last

  def first_at(precision, text):
    def reached(run):
      steps = [step for step, value in run.curves.get(PRECISION, {}).items()
               if value >= precision]
      return text(run, min(steps)) if steps else '-'
    return reached

  def time(run, step):
    seconds = np.interp(step, *run.seconds)
    return f'{seconds:.0f} s' if seconds < 60 else f'{seconds / 60:,.1f} min'

  def last_step(run):
    return max(map(max, run.curves.values()))

  rows = [row('steps', lambda run: f'{last_step(run):,}'),
          row('training time', lambda run: time(run, last_step(run))),
          row('training loss', lambda run: f'{curves.smooth(run.curves[LOSS])[1][-1]:.3f}')]
  rows += [row(f'  {name}' if kind else PRECISION, score(PRECISION + kind))
           for kind, name, _ in KINDS if any(PRECISION + kind in run.curves for run in all_runs)]
  for precision in TO_REACH:
    rows += [row(f'steps to {precision:.2f}', first_at(precision, lambda run, step: f'{step:,}')),
             row(f'time to {precision:.2f}', first_at(precision, time))]
  return rows


def table(labels, rows):
  """Returns lines with a column for each run, in as many blocks as the terminal needs."""
  columns = list(zip(['', *labels], *rows))
  # Of a long path the end says most.
  heading, *columns = [[cell if len(cell) <= 32 else f'...{cell[-29:]}' for cell in column]
                       for column in columns]
  width = max(map(len, heading))
  lines, block = [], []
  for i, column in enumerate(columns):
    block.append([cell.rjust(max(map(len, column)) + 2) for cell in column])
    following = max(map(len, columns[i + 1])) + 2 if i + 1 < len(columns) else WIDTH
    if width + sum(len(cells[0]) for cells in block) + following > WIDTH:
      lines += [''.join([name.ljust(width), *cells]).rstrip()
                for name, *cells in zip(heading, *block)] + ['']
      block = []
  return lines


def chart(all_curves, scale=lambda value: value):
  """Returns lines of characters that draw a {step: value} for each run, with its mark."""
  steps, values = [np.concatenate([list(part(curve)) for curve in all_curves])
                   for part in (dict.keys, dict.values)]
  left, width = 7, WIDTH - 8
  low, high = scale(values.min()), scale(values.max())
  grid = np.full([HEIGHT, width], ' ')
  for mark, curve in zip(MARKS, all_curves):
    if not curve:
      continue
    at, heights = np.array(sorted(curve.items())).T
    columns = np.round(at / max(steps.max(), 1) * (width - 1)).astype(int)
    for column in range(columns[0], columns[-1] + 1):
      height = scale(np.interp(column, columns, heights))
      row = round((high - height) / ((high - low) or 1) * (HEIGHT - 1))
      grid[row, column] = mark if grid[row, column] == ' ' else '*'
  lines = [f'{"":{left}}|{"".join(row)}'.rstrip() for row in grid]
  lines[0] = f'{values.max():{left - 1}.3f} ' + lines[0][left:]
  lines[-1] = f'{values.min():{left - 1}.3f} ' + lines[-1][left:]
  return lines + [f'{"":{left}}0{steps.max():>{width},.0f}']


def report(labels, all_runs):
  """Returns the lines for the terminal: the runs, their curves, their flags and results."""
  lines = [f'{mark}  {label}' for mark, label in zip(MARKS, labels)]
  smoothed = [dict(zip(*curves.smooth(run.curves[LOSS]))) for run in all_runs]
  lines += ['', 'training loss', *chart(smoothed, np.log)]
  if any(PRECISION in run.curves for run in all_runs):
    lines += ['', PRECISION, *chart([run.curves.get(PRECISION, {}) for run in all_runs])]
  return lines + ['', *summary(labels, all_runs)]


def summary(labels, all_runs):
  """Returns the lines of the table: the flags that differ, then the results."""
  flags = differences([run.record for run in all_runs])
  return table(labels, flags + ([[''] * (len(labels) + 1)] if flags else []) + results(all_runs))


def evaluations(all_runs):
  """Returns rows of text: the headings, then for each evaluated step the loss and the precisions.

  Args:
    all_runs: {label: Run}.
  """
  kinds = [kind for kind in KINDS
           if any(PRECISION + kind[0] in run.curves for run in all_runs.values())]
  rows = [['run', 'step', 'training loss'] + [name for _, name, _ in kinds]]
  for label, run in all_runs.items():
    losses = curves.smooth(run.curves[LOSS])
    precisions = [run.curves.get(PRECISION + suffix, {}) for suffix, _, _ in kinds]
    for step in sorted(set().union(*precisions)):
      rows.append([label, f'{step}', f'{np.interp(step, *losses):.3f}']
                  + [f'{of_kind[step]:.3f}' if step in of_kind else '' for of_kind in precisions])
  return rows


def draw(all_runs, path, lines):
  """Draws the curves of {label: Run} and below them lines of text into a file.

  The ending of its name gives the format.
  """
  import matplotlib
  matplotlib.use('Agg')  # Needs no screen.
  from matplotlib import lines as shapes, pyplot, ticker

  # As wide as a page of GitHub, in twice its pixels.
  heights = [3.4] + [0.13 * len(lines)] * bool(lines)
  figure, axes = pyplot.subplot_mosaic(
      [['loss', 'precision'], ['text', 'text']][:len(heights)], layout='constrained',
      figsize=(8.3, sum(heights)), height_ratios=heights)
  left, right = axes['loss'], axes['precision']
  styles = {}
  for i, (label, run) in enumerate(all_runs.items()):
    left.plot(*curves.smooth(run.curves[LOSS]), color=f'C{i}', label=label)
    for suffix, name, style in KINDS:
      if PRECISION + suffix in run.curves:
        right.plot(*zip(*sorted(run.curves[PRECISION + suffix].items())), style, color=f'C{i}',
                   marker='.')
        styles[name] = style
  left.set_title('training loss')
  # On a linear scale the weight decay of the first steps would flatten all that follows.
  left.set_yscale('log')
  left.yaxis.set_major_locator(ticker.LogLocator(subs=[1, 2, 3, 5]))
  left.yaxis.set_major_formatter('{x:g}')
  left.yaxis.set_minor_locator(ticker.NullLocator())
  right.set_title('precision @ 1 on the test images')
  for part in (left, right):
    part.set_xlabel('step')
    part.grid(alpha=0.3)
    part.spines[['top', 'right']].set_visible(False)
    part.xaxis.set_major_formatter('{x:,.0f}')
    part.locator_params(axis='x', nbins=4)
    part.set_xlim(left=0)
  if len(all_runs) > 1:
    left.legend(loc='upper right', frameon=False)
  if styles:
    right.legend([shapes.Line2D([], [], color='dimgrey', linestyle=style)
                  for style in styles.values()], styles, loc='lower right', frameon=False)
  if lines:
    axes['text'].axis('off')
    axes['text'].text(0, 1, '\n'.join(lines), family='monospace', fontsize=7, va='top')
  figure.savefig(path, dpi=200)


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('runs', nargs='*', default=['cifar10'], metavar='[LABEL=]DIRECTORY',
                      help='directories of runs (cifar10), each with its name in the legend')
  parser.add_argument('--out', help='image file to write, .png or .svg (none)')
  parser.add_argument('--csv', action='store_true',
                      help='print every evaluation as CSV, and no comparison')
  parser.add_argument('--curves_only', action='store_true', help='draw no table below the curves')
  parser.add_argument('--single_crop', action='store_true',
                      help='leave out the evaluations with ten crops')
  arguments = parser.parse_args()

  all_runs = {}
  for argument in arguments.runs:
    label, _, directory = argument.rpartition('=')
    run = read(directory)
    if arguments.single_crop:
      for tag in [tag for tag in run.curves if tag.endswith(curves.NEW_NAME)]:
        del run.curves[tag]
    label = label or os.path.basename(os.path.normpath(directory))
    if label in all_runs:
      sys.exit(f'Two runs have the name {label}: write LABEL={directory}.')
    all_runs[label] = run
  if len(all_runs) > len(MARKS):
    sys.exit(f'Name at most {len(MARKS)} runs.')

  named = list(all_runs), list(all_runs.values())
  print('\n'.join(map(','.join, evaluations(all_runs)) if arguments.csv else report(*named)))
  if arguments.out:
    try:
      draw(all_runs, arguments.out, [] if arguments.curves_only else summary(*named))
    except ImportError:
      sys.exit("Drawing needs matplotlib: pip install -e '.[plots]'.")
    except (OSError, ValueError) as error:  # ValueError: matplotlib does not know the format.
      sys.exit(f'Cannot write {arguments.out}: {error}')


if __name__ == '__main__':
  main()
