"""Federated averaging: clients train on images that they keep to themselves, and send variables.
A step is a round. Stop it when you like: the same command resumes.

  python exercises/federated.py --algorithm=fedavg

The towers of cifar10_multi_gpu_train.py share their variables, and what is averaged is their
gradients, after every batch. Here each client gets the server's variables and trains them by itself
for some epochs, and what is averaged is the variables, once a round: far less has to be sent. In
one graph the clients take turns on the same network. Beside each of its variables there are two
more: what the server has sent, and the sum of what has come back.

In FedSGD a client takes a single step, on all its images. After one step from the same place the
average of the variables is a step along the average of the gradients: what the towers do. Plain
SGD, the baseline, is a round of one client with one batch.

Checkpoints hold the server's variables. There are no moving averages, as there are none in the
paper: cifar10_eval.py --use_moving_averages=false evaluates them.

Source: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data,
2017, https://arxiv.org/abs/1602.05629, algorithm 1 and section 3.
"""

from cifar10_support import tf_setup  # First: it imports TensorFlow without its chatter.

import os

import numpy as np
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_input
from cifar10_support import console
from cifar10_support import settings
from cifar10_support import training
from cifar10_support.console import UserError

FLAGS = tf.app.flags.FLAGS

tf.app.flags.DEFINE_enum('algorithm', 'fedavg', ['fedavg', 'fedsgd', 'sgd'],
                         'Federated averaging; FedSGD, a single step on all images of a client; or '
                         'plain SGD, where a round is a step on a batch of all images.')
tf.app.flags.DEFINE_integer('clients', 100, 'Clients that the images are divided among.',
                            lower_bound=1)
tf.app.flags.DEFINE_integer('clients_per_round', 10, 'Clients that train in a round.',
                            lower_bound=1)
tf.app.flags.DEFINE_integer('local_epochs', 5, 'Epochs that a client trains for in a round of '
                            'fedavg.', lower_bound=1)
tf.app.flags.DEFINE_integer('eval_frequency', 5, 'Rounds between two evaluations.', lower_bound=1)
console.adopt_flags(training, cifar10)

BATCH_SIZES = {'fedavg': 50, 'fedsgd': None, 'sgd': 100}  # Unless --batch_size says otherwise.
CURVE = 'precision.csv'  # In --train_dir: rounds, images trained on, precision @ 1.
_EVAL_BATCH = 500


class Federation:
  """The graph: the network that the clients train in turn, and the server's part.

  Args:
    images_per_round: how many images a round trains on, for the schedule.

  Attributes:
    images, labels: placeholders, uint8 of shape [n, 32, 32, 3] and int32 of shape [n].
    begin: an op that starts a round: the server sends the variables as they are.
    receive: an op that has a client start from what the server has sent.
    step: an op that trains the client on a batch.
    send: an op that adds the client's variables, times `weight`, to the sum.
    weight: a placeholder, the client's part of the images of the round.
    average: an op that ends the round: the variables become the sum, and the global step counts.
    loss: of the last batch, a float32 scalar.
    crops: of the images, for evaluation, float32 of shape [n, 24, 24, 3].
    hits: how many of the images the network classifies right, as its variables are.
  """

  def __init__(self, images_per_round):
    self.images = tf.placeholder(tf.uint8, [None, 32, 32, 3], 'images')
    self.labels = tf.placeholder(tf.int32, [None], 'labels')
    self.weight = tf.placeholder(tf.float32, [], 'weight')
    number = tf.train.get_or_create_global_step()

    distorted = cifar10_input.distort(self.images, cifar10.DISTORTION_STRENGTH)
    loss = cifar10.loss(cifar10.inference(distorted, training=True), self.labels)
    optimizer = cifar10.gradient_descent(number, images_per_round)
    update = optimizer.minimize(loss)
    variables = tf.trainable_variables()
    sent, sums = ([_local_variable(variable.shape) for variable in variables] for _ in range(2))
    self.loss = _local_variable([])

    self.step = tf.group(update, self.loss.assign(loss))
    self.begin = tf.group(*_assign(sent, variables), *(total.initializer for total in sums))
    # If there is momentum, each client starts without any.
    self.receive = tf.group(*_assign(variables, sent),
                            *(slot.initializer for slot in optimizer.variables()))
    self.send = tf.group(*(total.assign_add(self.weight * variable)
                           for total, variable in zip(sums, variables)))
    self.average = tf.group(*_assign(variables, sums), number.assign_add(1))

    self.crops = cifar10_input.central_crop(self.images)
    with tf.variable_scope(tf.get_variable_scope(), reuse=True):
      predictions = tf.argmax(cifar10.inference(self.crops), axis=1, output_type=tf.int32)
    self.hits = tf.reduce_sum(tf.cast(tf.equal(predictions, self.labels), tf.int32))
    # Those of the layers are of a batch, and where a round ends there is none.
    tf.get_collection_ref(tf.GraphKeys.SUMMARIES).clear()
    tf.summary.scalar('loss', self.loss)

  def run_round(self, session, clients, images, labels):
    """Runs a round: `clients` as `clients_of_round` returns them, the rest as `read` does."""
    sizes = [sum(map(len, batches)) for batches in clients]
    session.run(self.begin)
    for batches, size in zip(clients, sizes):
      session.run(self.receive)
      for batch in batches:
        session.run(self.step, {self.images: images[batch], self.labels: labels[batch]})
      session.run(self.send, {self.weight: size / sum(sizes)})
    session.run(self.average)

  def precision(self, session, images, labels):
    """Returns the part of the images that the network classifies right."""
    parts = [slice(i, i + _EVAL_BATCH) for i in range(0, len(images), _EVAL_BATCH)]
    return sum(session.run(self.hits, {self.images: images[part], self.labels: labels[part]})
               for part in parts) / len(images)


def _local_variable(shape):
  # No checkpoint holds it: one is written between two rounds, where it means nothing.
  return tf.Variable(tf.zeros(shape), trainable=False, collections=[tf.GraphKeys.LOCAL_VARIABLES])


def _assign(variables, values):
  return [variable.assign(value) for variable, value in zip(variables, values)]


def clients_of_round(number, num_images):
  """Returns who trains on what in a round, counted from 0, the same each time.

  It is a list with an element for each client: a list of batches, which are arrays of indices.
  """
  seed = FLAGS.seed or 0
  if FLAGS.algorithm == 'sgd':  # Epoch after epoch; what does not fill a batch is left out.
    epoch, i = divmod(number, num_images // FLAGS.batch_size)
    images = np.random.default_rng([seed, 0, epoch]).permutation(num_images)
    return [[images[i * FLAGS.batch_size:(i + 1) * FLAGS.batch_size]]]
  parts = np.array_split(np.random.default_rng([seed, 0]).permutation(num_images), FLAGS.clients)
  random = np.random.default_rng([seed, 1, number])
  chosen = [parts[i] for i in random.choice(FLAGS.clients, FLAGS.clients_per_round, replace=False)]
  if FLAGS.algorithm == 'fedsgd':
    return [[part] for part in chosen]
  return [[batch for _ in range(FLAGS.local_epochs)
           for batch in np.split(random.permutation(part),
                                 range(FLAGS.batch_size, len(part), FLAGS.batch_size))]
          for part in chosen]


def read(data_set, part):
  """Reads a part of the data set, see `DataSet.files`.

  Returns:
    Images, uint8 of shape [n, 32, 32, 3], and their labels, uint8 of shape [n].
  """
  records = np.concatenate([np.fromfile(path, np.uint8) for path in data_set.files(part)])
  # Those that --validation holds out are the last ones.
  records = records.reshape(-1, data_set.record_bytes)[:data_set.num_examples(part)]
  planes = records[:, 1:].reshape(-1, 3, 32, 32)
  return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, 0]


def train(data_set=None):
  """Builds the graph and trains for --max_steps rounds.

  Args:
    data_set: a `dataset.DataSet`, by default that of `cifar10.maybe_download_and_extract`.
  """
  training.check_train_dir()  # Before a long download, and not after it.
  data_set = data_set or cifar10.maybe_download_and_extract()
  data_set.check_is_like_cifar10()
  images, labels = read(data_set, 'train_eval')
  test = read(data_set, 'test')
  if not FLAGS.clients_per_round <= FLAGS.clients <= len(images) >= FLAGS.batch_size:
    raise UserError(f'{len(images)} images cannot be divided like that: --clients_per_round may be '
                    'at most --clients, and that and --batch_size at most the number of images.')
  images_per_round = sum(len(batch) for client in clients_of_round(0, len(images))
                         for batch in client)
  with tf.Graph().as_default():
    tf.set_random_seed(training.graph_seed())
    federation = Federation(images_per_round)
    with training.training_session(federation.average, federation.loss, images_per_round,
                                   data_set.seen_as(federation.crops)) as session:
      while not session.should_stop():
        number = int(session.run(tf.train.get_global_step()))
        federation.run_round(session, clients_of_round(number, len(images)), images, labels)
        number += 1
        if number % FLAGS.eval_frequency == 0 or number == FLAGS.max_steps:
          precision = federation.precision(session, *test)
          total = number * images_per_round
          console.log(f'round {number}: precision @ 1 = {precision:.4f} ({total} images)')
          with tf_setup.writing_to(FLAGS.train_dir, 'train_dir'), open(
              os.path.join(FLAGS.train_dir, CURVE), 'a') as out:
            out.write(f'{number},{total},{precision:.4f}\n')


def main():
  tf_setup.check_single_machine()
  training.EVALUATOR = 'cifar10_eval.py --use_moving_averages=false'
  if FLAGS['batch_size'].using_default_value and BATCH_SIZES[FLAGS.algorithm]:
    FLAGS['batch_size'].value = BATCH_SIZES[FLAGS.algorithm]
  with settings.from_flags(cifar10):
    train()


if __name__ == '__main__':
  FLAGS.set_default('train_dir', 'cifar10/federated/train')
  tf_setup.use_graph_mode()
  console.run(main)
