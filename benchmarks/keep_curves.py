"""Copies the curves of a run: what plot_curves.py reads of its event files, and no more.

  python benchmarks/keep_curves.py cifar10 docs/runs/mine

Pictures, histograms and graphs make the event files of a long run hundreds of megabytes; its curves
are a few hundred kilobytes, which can be kept for good. A copy that is there is added to, so that a
run may go on somewhere else. TensorBoard and plot_curves.py read it like the run itself.
"""

import argparse
import glob
import os
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import cifar10_tensorflow  # noqa: E402, F401, before TensorFlow

import tensorflow.compat.v1 as tf  # noqa: E402

import plot_curves  # noqa: E402

# One in a folder, so that keeping a run twice does not list it twice.
NAME = 'events.out.tfevents.0000000000.curves'


def keep(source, target):
  """Adds the curves in a folder's event files to the copy of them in another folder.

  Raises:
    OSError, tf.errors.OpError: the target cannot be written.
  """
  points = {}
  for folder in (target, source):
    for event, value in plot_curves.read_points(folder):
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
  parser.add_argument('run', help='folder of the run, with `train` and `eval`')
  parser.add_argument('copy', help='folder of the copy, made if it does not exist')
  arguments = parser.parse_args()
  if not glob.glob(os.path.join(glob.escape(arguments.run), 'train', 'events.out.tfevents.*')):
    sys.exit('There are no event files of a training in %s.'
             % os.path.join(arguments.run, 'train'))
  for part in ('train', 'eval'):
    try:
      keep(os.path.join(arguments.run, part), os.path.join(arguments.copy, part))
    except (OSError, tf.errors.OpError) as error:
      sys.exit('The copy cannot be written: %s' % error)


if __name__ == '__main__':
  main()
