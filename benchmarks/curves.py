"""Reads the curves of runs from their event files."""

import collections
import contextlib
import glob
import os

import numpy as np

from cifar10_support.quiet import tf

LOSS = 'losses/total_loss/raw'
PRECISION = 'precision @ 1'
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
    {tag: {step: value}}, and {tag: {step: seconds since 1970}}; for a step that was repeated after
    a resumption the latest.
  """
  values, times = collections.defaultdict(dict), collections.defaultdict(dict)
  for event, value in read_points(directory):
    values[value.tag][event.step] = value.simple_value
    times[value.tag][event.step] = event.wall_time
  return values, times


def smooth(curve, points=100):
  """Returns a curve {step: value} in at most this many points, each a mean: steps and values."""
  points = min(points, len(curve))
  return [[group.mean() for group in np.array_split(numbers, points)]
          for numbers in np.array(sorted(curve.items())).T]


def training_seconds(times):
  """Returns how long a run had trained at each step of {step: seconds since 1970}.

  Between two starts nobody trained. A kept curve does not say where that was, but it shows: what
  took more than three times as long a step as most of the run counts at the speed of most.

  Returns:
    Steps, and seconds from the first one to each.
  """
  steps, seconds = np.array(sorted(times.items())).reshape(-1, 2).T
  lengths, passed = np.diff(steps), np.diff(seconds)
  usual = lengths * np.median(passed / lengths) if len(lengths) else passed
  # A clock that was set back passes for a pause too.
  passed = np.where((passed > 0) & (passed < 3 * usual), passed, usual)
  return steps, np.concatenate([[0.0], np.cumsum(passed)])
