"""Keeps the curves of a run: copies what compare_runs.py reads, and no more.

  python benchmarks/keep_curves.py cifar10 docs/runs/mine

Images, histograms and graphs make the event files of a long run hundreds of megabytes; its curves
are a few hundred kilobytes, which you can keep for good. TensorBoard and compare_runs.py
read the copy like the run itself. New points are merged into an existing copy, so that a run may
continue on another machine.
"""

import curves  # First: it imports TensorFlow without its chatter.

import argparse
import glob
import os
import shutil
import sys
import tempfile

import tensorflow.compat.v1 as tf

from cifar10_support import runs

# A single name, so that keeping a run twice does not list it twice.
NAME = 'events.out.tfevents.0000000000.curves'


def keep(source, target):
  """Merges the curves in a directory's event files into the copy of them in another directory.

  Args:
    source: path of the directory of event files.
    target: path of the directory of the copy, made if it does not exist.

  Raises:
    OSError, tf.errors.OpError: the target cannot be written.
  """
  points = {}
  for directory in (target, source):
    for event, value in curves.read_points(directory):
      points[event.step, value.tag] = tf.Event(
          wall_time=event.wall_time, step=event.step, summary=tf.Summary(value=[value]))

  os.makedirs(target, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=target) as unfinished:
    path = os.path.join(unfinished, NAME)
    with tf.io.TFRecordWriter(path) as out:
      out.write(tf.Event(file_version='brain.Event:2').SerializeToString())
      for _, event in sorted(points.items()):
        out.write(event.SerializeToString())
    os.replace(path, os.path.join(target, NAME))


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('run', help='directory of the run, with `train` and `eval`')
  parser.add_argument('copy', help='directory of the copy, made if it does not exist')
  arguments = parser.parse_args()
  if not glob.glob(os.path.join(glob.escape(arguments.run), 'train', 'events.out.tfevents.*')):
    sys.exit(f"There are no event files in {os.path.join(arguments.run, 'train')}.")
  record = os.path.join('train', runs.RECORD)
  try:
    for part in ('train', 'eval'):
      keep(os.path.join(arguments.run, part), os.path.join(arguments.copy, part))
    if os.path.exists(os.path.join(arguments.run, record)):
      shutil.copyfile(os.path.join(arguments.run, record), os.path.join(arguments.copy, record))
  except (OSError, tf.errors.OpError) as error:
    sys.exit(f'Cannot write the copy: {error}')


if __name__ == '__main__':
  main()
