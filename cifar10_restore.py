"""What evaluation and prediction share: which checkpoint, and which values of the variables."""

import tensorflow.compat.v1 as tf

import cifar10
import cifar10_checkpoint
import cifar10_run
from cifar10_console import UserError

FLAGS = tf.app.flags.FLAGS

tf.app.flags.DEFINE_string('checkpoint_dir', 'cifar10/train', 'Directory with the checkpoints.')
tf.app.flags.DEFINE_boolean('use_moving_averages', True, 'Take the moving averages of the '
                            'variables; false takes the variables themselves.')


def checked_checkpoint_dir():
  """Returns the directory with the checkpoints; a `UserError` if --checkpoint_dir can be none."""
  checkpoint_dir = cifar10.directory('checkpoint_dir')
  cifar10_run.check_directory(checkpoint_dir, 'checkpoint_dir')
  return checkpoint_dir


def latest_checkpoint(checkpoint_dir):
  """Returns the path of the latest checkpoint.

  Raises:
    UserError: there is none, or it cannot be found.
  """
  checkpoint = cifar10_checkpoint.latest(checkpoint_dir)
  if not checkpoint:
    raise UserError('There is no checkpoint in %s: train first, or name the directory of a run '
                    'with --checkpoint_dir.' % checkpoint_dir)
  return checkpoint


class Restorer:
  """Restores the network of the current graph from checkpoints."""

  def __init__(self):
    """Adds the operations for it, once the network is built."""
    averages = tf.train.ExponentialMovingAverage(cifar10.MOVING_AVERAGE_DECAY)
    if FLAGS.use_moving_averages:
      self._variables = averages.variables_to_restore(tf.trainable_variables())
    else:
      self._variables = {v.op.name: v for v in tf.trainable_variables()}
    self._saver = tf.train.Saver(self._variables)

  def restore(self, session, checkpoint):
    """Restores the variables and returns the step, see `cifar10_checkpoint.restore`."""
    return cifar10_checkpoint.restore(session, self._saver, checkpoint, self._variables)
