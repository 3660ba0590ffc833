"""What evaluation and prediction share: which checkpoint, which values, and the probabilities."""

import tensorflow.compat.v1 as tf

import cifar10
import cifar10_checkpoint
import cifar10_run
from cifar10_console import UserError

FLAGS = tf.app.flags.FLAGS

tf.app.flags.DEFINE_string('checkpoint_dir', 'cifar10/train', 'Directory with the checkpoints.')
tf.app.flags.DEFINE_boolean('use_moving_averages', True, 'Take the moving averages of the '
                            'variables; false takes the variables themselves.')
tf.app.flags.DEFINE_boolean('multiview', False, 'Classify by the mean of the probabilities over '
                            'ten views of each image: the centre, the corners, and their mirror '
                            'images. Takes ten times as long.')


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


def take_top_layers(checkpoint_dir):
  """Sets --top_layers to that of a run; a flag on the command line goes before that."""
  run = cifar10_run.read(checkpoint_dir)
  if run and FLAGS['top_layers'].using_default_value:
    FLAGS.top_layers = run['flags'].get('top_layers', FLAGS.top_layers)


def probabilities(images):
  """Adds the network and its softmax.

  Args:
    images: float32 of shape [n, 24, 24, 3], see `cifar10_input.center`, or with --multiview
      [n, 10, 24, 24, 3], see `cifar10_input.views`.

  Returns:
    float32 of shape [n, 10]: the probability of each class; of several views their mean.
  """
  if not FLAGS.multiview:
    return tf.nn.softmax(cifar10.inference(images), name='probabilities')
  _, views, *shape = images.shape.as_list()
  of_views = tf.nn.softmax(cifar10.inference(tf.reshape(images, [-1] + shape)))
  return tf.reduce_mean(tf.reshape(of_views, [-1, views, cifar10.NUM_CLASSES]), axis=1,
                        name='probabilities')


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
