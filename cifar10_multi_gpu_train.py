"""Trains the network on several GPUs at once, a tower on each, all in step.
Without a GPU the towers are logical devices of the processor.

  python cifar10_multi_gpu_train.py --num_gpus=2

A tower is the whole network with a batch of its own. The towers share the variables, which live on
the CPU; there their gradients meet and are averaged, and one update follows: N towers with batches
of n images compute what one device does with N * n. So the checkpoints are those of
cifar10_train.py, and each script goes on where the other stopped.
"""

import cifar10_tensorflow  # noqa: F401, before TensorFlow

import os

import tensorflow.compat.v1 as tf

import cifar10
import cifar10_console
import cifar10_device
import cifar10_input
import cifar10_session
from cifar10_console import UserError

FLAGS = tf.app.flags.FLAGS

tf.app.flags.DEFINE_integer('num_gpus', 1, 'Towers, each with a batch of --batch_size images.',
                            lower_bound=1)
# For --help.
tf.app.flags.adopt_module_key_flags(cifar10_session)
tf.app.flags.adopt_module_key_flags(cifar10)


def train():
  """Builds the graph and trains for --max_steps."""
  with tf.Graph().as_default():
    loss, train_op = build()

    with cifar10_session.training_session(
        loss, FLAGS.num_gpus * FLAGS.batch_size, FLAGS.num_gpus) as session:
      while not session.should_stop():
        session.run(train_op)


def build():
  """Adds the input and the training of --num_gpus towers, see `train_towers`."""
  # Unless a line below says otherwise, on the CPU, which every GPU reaches.
  with tf.device('/cpu:0'):
    global_step = tf.train.get_or_create_global_step()

    # One input feeds all towers.
    images, labels = cifar10.distorted_inputs()
    queue = cifar10_input.prefetch_queue(images, labels, 2 * FLAGS.num_gpus)
    batches = [queue.dequeue() for _ in range(FLAGS.num_gpus)]

    return train_towers(batches, global_step)


def train_towers(batches, global_step):
  """Adds a tower for each batch, and one step of training of them all.

  Args:
    batches: a list of (images, labels), see `cifar10.distorted_inputs`.
    global_step: an integer variable, counted up by one each step.

  Returns:
    The loss, averaged over the towers, and the op that does the step.
  """
  optimizer = cifar10.gradient_descent(global_step, len(batches) * FLAGS.batch_size)

  losses, gradients = [], []
  devices = cifar10_device.tower_devices(len(batches))
  for i, ((images, labels), device) in enumerate(zip(batches, devices)):
    with tf.variable_scope(tf.get_variable_scope(), reuse=i > 0), tf.device(device):
      with tf.name_scope('%s_%d' % (cifar10.TOWER_NAME, i)) as scope:
        losses.append(tower_loss(scope, images, labels))
        gradients.append(optimizer.compute_gradients(losses[i]))

  loss = tf.divide(tf.add_n(losses), len(losses), name='loss')
  averages = average_gradients(gradients)
  cifar10.gradient_summaries(averages)
  update = cifar10.apply_gradients(optimizer, averages, global_step)
  first = tf.get_collection('losses', cifar10.TOWER_NAME + '_0/') + losses[:1]
  return loss, tf.group(update, cifar10.loss_summaries(first), name='train')


def tower_loss(scope, images, labels):
  """Adds the network and its loss for one tower.

  Args:
    scope: the tower's name scope, such as 'tower_0/'.
    images: float32 of shape [n, 24, 24, 3].
    labels: int32 of shape [n], 0..9.

  Returns:
    The total loss of the tower's batch, a float32 scalar.
  """
  cifar10.add_cross_entropy(cifar10.inference(images), labels)
  return cifar10.total_loss(scope)


def average_gradients(tower_grads):
  """Adds the averages of the towers' gradients; here the towers wait for each other.

  Args:
    tower_grads: a list with an element for each tower: a list of (gradient, variable), with the
      same variables in the same order, as `compute_gradients` returns it.

  Returns:
    One such list, of the averaged gradients.
  """
  averages = []
  with tf.name_scope('average_gradients'):
    for of_one_variable in zip(*tower_grads):
      gradients = [gradient for gradient, _ in of_one_variable]
      _, variable = of_one_variable[0]
      averages.append((tf.add_n(gradients) / len(gradients), variable))
  return averages


def main(argv=None):
  """Trains; `argv` is what `tf.app.run` would pass, and is not looked at."""
  if os.environ.get('TF_CONFIG'):
    raise UserError('TF_CONFIG describes a cluster, and this script trains on one machine: run '
                    'cifar10_train.py there, or unset TF_CONFIG.')
  cifar10_session.checked_train_dir()  # Before anything is downloaded for it.
  cifar10.maybe_download_and_extract()
  train()


if __name__ == '__main__':
  cifar10_device.use_graph_mode()
  cifar10_console.run(main)
