"""Trains the network on several GPUs at once, a tower on each, all in step.
Without a GPU the towers are logical devices of the CPU.

  python cifar10_multi_gpu_train.py --num_gpus=2

A tower is the whole network with a batch of its own. The towers share the variables, which live on
the CPU, where their gradients are gathered and averaged, and one update follows: N towers with
batches of n images compute what one device does with N * n. So the checkpoints are those of
cifar10_train.py, and each script resumes the other's runs.
"""

from cifar10_support import tf_setup  # First: it imports TensorFlow without its chatter.

import tensorflow.compat.v1 as tf

import cifar10
import cifar10_input
from cifar10_support import console
from cifar10_support import freezing
from cifar10_support import settings
from cifar10_support import training

FLAGS = tf.app.flags.FLAGS

tf.app.flags.DEFINE_integer('num_gpus', 1, 'Number of towers, one per GPU. Each takes its '
                            'own batch of --batch_size images.', lower_bound=1)
console.adopt_flags(training, cifar10)


def train(data_set=None):
  """Builds the graph and trains for --max_steps.

  Args:
    data_set: a `dataset.DataSet`, by default that of `cifar10.maybe_download_and_extract`.
  """
  training.check_train_dir()  # Before a long download, and not after it.
  data_set = data_set or cifar10.maybe_download_and_extract()
  with tf.Graph().as_default(), tf.device('/cpu:0'):
    tf.set_random_seed(training.graph_seed())
    global_step = tf.train.get_or_create_global_step()

    # One input feeds all towers.
    images, labels = cifar10.distorted_inputs(data_set)
    queue = cifar10_input.prefetch_queue(images, labels, 2 * FLAGS.num_gpus)
    batches = [queue.dequeue() for _ in range(FLAGS.num_gpus)]
    loss, train_op = train_towers(batches, global_step)

    with training.training_session(train_op, loss, FLAGS.num_gpus * FLAGS.batch_size,
                                   data_set.seen_as(images), num_cpus=FLAGS.num_gpus) as session:
      while not session.should_stop():
        session.run(train_op)


def train_towers(batches, global_step):
  """Adds a tower for each batch, and one step of training for all of them.

  Args:
    batches: a list of (images, labels), see `cifar10.distorted_inputs`.
    global_step: an integer variable, incremented by each step.

  Returns:
    The loss, averaged over the towers, and the op that does the step.
  """
  optimizer = cifar10.gradient_descent(global_step, len(batches) * FLAGS.batch_size)

  losses, gradients = [], []
  devices = tf_setup.tower_devices(len(batches))
  read_once = tf_setup.read_once()
  for i, ((images, labels), device) in enumerate(zip(batches, devices)):
    # The first tower makes the variables, the others share them.
    with tf.variable_scope(tf.get_variable_scope(), reuse=i > 0,
                           custom_getter=read_once), tf.device(device):
      with tf.name_scope(f'{cifar10.TOWER_NAME}_{i}') as scope:
        losses.append(tower_loss(scope, *cifar10_input.stage(images, labels)))
        gradients.append(optimizer.compute_gradients(
            losses[i], freezing.variables_to_train(cifar10.FREEZE)))

  others = tuple(f'{cifar10.TOWER_NAME}_{i}/' for i in range(1, len(batches)))
  for key in (tf.GraphKeys.SUMMARIES, tf.GraphKeys.UPDATE_OPS):  # The first tower's stand for all.
    collection = tf.get_collection_ref(key)
    collection[:] = [item for item in collection if not item.name.startswith(others)]

  loss = tf.divide(tf.add_n(losses), len(losses), name='loss')
  averages = average_gradients(gradients)
  cifar10.gradient_summaries(averages)
  update = cifar10.apply_gradients(optimizer, averages, global_step)
  first_losses = tf.get_collection('losses', f'{cifar10.TOWER_NAME}_0/') + losses[:1]
  return loss, cifar10.whole_step(update, first_losses)


def tower_loss(scope, images, labels):
  """Adds the network and its loss for one tower.

  Args:
    scope: the tower's name scope, such as 'tower_0/'.
    images: float32 of shape [n, 24, 24, 3].
    labels: numbers of shape [n], 0..9.

  Returns:
    The total loss of the tower's batch, a float32 scalar.
  """
  return cifar10.loss(cifar10.inference(images, training=True), labels, scope)


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
    for grads_and_vars in zip(*tower_grads):
      gradients = [gradient for gradient, _ in grads_and_vars]
      _, variable = grads_and_vars[0]
      is_used = gradients[0] is not None
      averages.append((tf.add_n(gradients) / len(gradients) if is_used else None, variable))
  return averages


def main(argv=None):
  """Trains; `argv` is what `tf.app.run` would pass, and is not used."""
  tf_setup.check_single_machine()
  with settings.from_flags(cifar10):
    train()


if __name__ == '__main__':
  tf_setup.use_graph_mode()
  console.run(main)
