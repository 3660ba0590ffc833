"""What evaluation and prediction share: which checkpoint, and which values of its variables."""

import os
import re

import tensorflow.compat.v1 as tf

from cifar10_support import checkpoints
from cifar10_support import console
from cifar10_support import runs
from cifar10_support.console import UserError

FLAGS = tf.app.flags.FLAGS

console.DEFINE_path('checkpoint_dir', 'cifar10/train',
                    'Directory of a run, for its latest checkpoint; or one checkpoint in it, such '
                    'as cifar10/train/model.ckpt-100.')
tf.app.flags.DEFINE_boolean('use_moving_averages', True, 'Use the moving averages of the '
                            'variables; false uses the variables themselves.')
tf.app.flags.DEFINE_boolean('multiview', False, '10-crop evaluation: average the probabilities '
                            'over the central crop, the four corners, and their horizontal flips. '
                            'Takes ten times as long.')


def directory_and_path():
  """Returns the run's directory, and the path of the checkpoint if --checkpoint_dir names one.

  Raises:
    UserError: --checkpoint_dir is neither a directory nor a checkpoint.
  """
  # What the Tab key completes is one of a checkpoint's files.
  named = re.sub(r'(model\.ckpt-\d+)\.(index|meta|data-\d+-of-\d+)$', r'\1', FLAGS.checkpoint_dir)
  if named and not os.path.isdir(named) and os.path.basename(named).startswith('model.ckpt'):
    runs.check_directory(os.path.dirname(named) or '.', 'checkpoint_dir')
    if not tf.train.checkpoint_exists(named):
      raise UserError('There is no checkpoint %s.' % named)
    return os.path.dirname(named) or '.', named
  runs.check_directory(named, 'checkpoint_dir')
  return named, None


def checkpoint():
  """Reads the checkpoint that --checkpoint_dir names, or the latest one there.

  Returns:
    A `checkpoints.Checkpoint`.

  Raises:
    UserError: there is none, or it cannot be read.
  """
  directory, path = directory_and_path()
  found = checkpoints.read(path) if path else checkpoints.latest_whole(directory)
  if not found:
    raise UserError('There is no checkpoint in %s: train first, or name the directory of a run, '
                    'such as cifar10/trained, with --checkpoint_dir.' % directory)
  return found


class Restorer:
  """Restores the network of the current graph from checkpoints."""

  def __init__(self):
    """Adds the ops for it, once the network is built."""
    if FLAGS.use_moving_averages:
      # Only the names of the averages matter here, and they do not depend on the decay.
      averages = tf.train.ExponentialMovingAverage(decay=0.0)
      self._variables = averages.variables_to_restore()
    else:
      self._variables = {variable.op.name: variable for variable in tf.global_variables()}
    self._saver = tf.train.Saver(self._variables)

  def restore(self, session, checkpoint):
    """Restores the variables from a `checkpoints.Checkpoint`; a `UserError` if it does not fit."""
    checkpoints.check_fits(checkpoint, self._variables)
    checkpoints.restore(session, self._saver, checkpoint)
