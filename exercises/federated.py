"""Federated averaging: clients train on images that never leave them, a server averages their models.
A step is a round. Stop it when you like: the same command resumes.

  python exercises/federated.py --algorithm=fedavg

In `cifar10_multi_gpu_train.py` the towers share the variables, and the average is of their
gradients, once for every batch. Here each client starts from the server's variables, trains them by
itself for several epochs, and the average is of the variables, once a round: far less has to be
sent. In one graph that takes no towers. The clients take turns on the same network, and beside each
of its variables there are two more: what the server has sent, and the sum of what came back.

FedSGD is the special case of a single step on all images of a client: after one step from the same
place, the average of the variables is a step along the average of the gradients. The baseline, plain
SGD, is a round with one client that has one batch.

Checkpoints hold the server's variables, without moving averages, which the paper does not have
either: `cifar10_eval.py --use_moving_averages=false` evaluates them.

Source: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data,
2017, https://arxiv.org/abs/1602.05629, algorithm 1 and section 3.
"""

from cifar10_support import tf_setup  # First: it imports TensorFlow without its chatter.

import collections
import os

import numpy as np
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_input
from cifar10_support import console
from cifar10_support import dataset
from cifar10_support import settings
from cifar10_support import training
from cifar10_support.console import UserError

FLAGS = tf.app.flags.FLAGS

tf.app.flags.DEFINE_enum('algorithm', 'fedavg', ['fedavg', 'fedsgd', 'sgd'],
                         'Federated averaging; FedSGD, a single step on all images of a client; or '
                         'plain SGD, where a round is a step.')
tf.app.flags.DEFINE_integer('clients', 100, 'Clients that share the images for training.',
                            lower_bound=1)
tf.app.flags.DEFINE_integer('clients_per_round', 10, 'Clients that train in a round.',
                            lower_bound=1)
tf.app.flags.DEFINE_integer('local_epochs', 5, 'Epochs that a client trains for in a round, with '
                            '--algorithm=fedavg.', lower_bound=1)
tf.app.flags.DEFINE_integer('eval_frequency', 5, 'Rounds between two evaluations.', lower_bound=1)
console.adopt_flags(training, cifar10)

CURVE = 'precision.csv'  # In --train_dir: rounds, images trained on, precision @ 1.

Graph = collections.namedtuple(
    'Graph', 'images labels share begin download step upload average loss crops hits')


def build(global_step, images_per_round):
  """Adds the network, what a client does with it, and what the server does.

  Args:
    global_step: an integer variable, the number of rounds.
    images_per_round: how many images the clients of a round train on, for the schedule.

  Returns:
    A `Graph` of placeholders, ops and tensors:
      images, labels: what to feed: uint8 of shape [n, 32, 32, 3], and int32 of shape [n].
      share: to feed when a client is done: its part of all images of the round, a float32.
      download: has a client start from the server's variables.
      step: trains a client on a batch.
      upload: adds a client's variables, times `share`, to the sum.
      average: ends the round: the sum becomes the server's variables, and `global_step` counts.
      loss: of the last step, a float32 scalar.
      hits: how many of the images the network, as it is, classifies right.
  """
  size, depth = dataset.IMAGE_SIZE, dataset.IMAGE_DEPTH
  images = tf.placeholder(tf.uint8, [None, size, size, depth], name='images')
  labels = tf.placeholder(tf.int32, [None], name='labels')
  distorted = cifar10_input.distort(images, cifar10.DISTORTION_STRENGTH)
  batch_loss = cifar10.loss(cifar10.inference(distorted, training=True), labels)
  optimizer = cifar10.gradient_descent(global_step, images_per_round)
  with tf.control_dependencies([optimizer.minimize(batch_loss)]):
    loss = tf.Variable(0.0, trainable=False, collections=[tf.GraphKeys.LOCAL_VARIABLES])
    step = loss.assign(batch_loss).op

  variables = tf.trainable_variables()
  with tf.name_scope('server'):
    share = tf.placeholder(tf.float32, [], name='share')
    # Local variables, which no checkpoint holds: it is written between two rounds.
    sent, sums = ([tf.Variable(tf.zeros(v.shape), trainable=False,
                               collections=[tf.GraphKeys.LOCAL_VARIABLES]) for v in variables]
                  for _ in range(2))
    begin = [s.assign(v) for s, v in zip(sent, variables)] + [s.initializer for s in sums]
    # A client has no momentum yet, if there is any.
    download = [v.assign(s) for v, s in zip(variables, sent)] + [
        v.initializer for v in optimizer.variables()]
    upload = [s.assign_add(share * v) for s, v in zip(sums, variables)]
    average = [v.assign(s) for v, s in zip(variables, sums)] + [global_step.assign_add(1)]

  with tf.variable_scope(tf.get_variable_scope(), reuse=True), tf.name_scope('evaluation'):
    crops = cifar10_input.central_crop(images)
    logits = cifar10.inference(crops)
    is_hit = tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), labels)
    hits = tf.reduce_sum(tf.cast(is_hit, tf.int32))
  # The summaries of the layers need images, and what ends a round has none.
  tf.get_collection_ref(tf.GraphKeys.SUMMARIES).clear()
  tf.summary.scalar('loss', loss)
  return Graph(images, labels, share, tf.group(*begin), tf.group(*download), step,
               tf.group(*upload), tf.group(*average), loss, crops, hits)


def clients_of_round(number, num_images):
  """Returns which images the clients of a round train on, in which batches.

  The same round has the same clients with the same batches, also in a run that was stopped.

  Args:
    number: of the round, from 0.
    num_images: how many images there are for training.

  Returns:
    A list with an element for each client: a list of batches, which are arrays of indices.
  """
  seed = FLAGS.seed or 0
  random = np.random.default_rng([seed, 1, number])
  if FLAGS.algorithm == 'sgd':
    epoch, i = divmod(number, num_images // FLAGS.batch_size)
    order = np.random.default_rng([seed, 0, epoch]).permutation(num_images)
    return [[order[i * FLAGS.batch_size:(i + 1) * FLAGS.batch_size]]]
  whole = np.random.default_rng([seed, 0]).permutation(num_images)
  parts = np.array_split(whole, FLAGS.clients)
  chosen = [parts[i] for i in random.choice(FLAGS.clients, FLAGS.clients_per_round, replace=False)]
  if FLAGS.algorithm == 'fedsgd':
    return [[part] for part in chosen]
  return [[batch for _ in range(FLAGS.local_epochs)
           for batch in in_batches(random.permutation(part))] for part in chosen]


def in_batches(items):
  """Splits an array into batches of --batch_size; the last one may be smaller."""
  return np.split(items, range(FLAGS.batch_size, len(items), FLAGS.batch_size))


def run_round(session, graph, clients, images, labels):
  """Runs a round: the clients in turn, then the average of their variables.

  Args:
    session: a session of the graph.
    graph: a `Graph`.
    clients: see `clients_of_round`.
    images, labels: all there are for training, as `read` returns them.
  """
  sizes = [len(np.unique(np.concatenate(batches))) for batches in clients]
  session.run(graph.begin)
  for batches, size in zip(clients, sizes):
    session.run(graph.download)
    for batch in batches:
      session.run(graph.step, {graph.images: images[batch], graph.labels: labels[batch]})
    session.run(graph.upload, {graph.share: size / sum(sizes)})
  session.run(graph.average)


def precision(session, graph, images, labels):
  """Returns the part of the images that the network classifies right."""
  hits = sum(session.run(graph.hits, {graph.images: images[i:i + 500],
                                      graph.labels: labels[i:i + 500]})
             for i in range(0, len(images), 500))
  return hits / len(images)


def read(data_set, part):
  """Reads all images of a part, see `DataSet.files`.

  Returns:
    Images, uint8 of shape [n, 32, 32, 3], and labels, uint8 of shape [n].
  """
  records = np.concatenate([np.fromfile(path, np.uint8) for path in data_set.files(part)])
  # Without those that are held out for validation, which are the last ones for training.
  records = records.reshape(-1, data_set.record_bytes)[:data_set.num_examples(part)]
  planes = records[:, 1:].reshape(-1, data_set.channels, data_set.side, data_set.side)
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
  if not FLAGS.clients_per_round <= FLAGS.clients <= len(images):
    raise UserError(f'{FLAGS.clients_per_round} of {FLAGS.clients} clients, with {len(images)} '
                    'images, make no round: change --clients_per_round or --clients.')
  images_per_round = sum(map(len, sum(clients_of_round(0, len(images)), [])))
  with tf.Graph().as_default():
    tf.set_random_seed(training.graph_seed())
    graph = build(tf.train.get_or_create_global_step(), images_per_round)
    with training.training_session(graph.average, graph.loss, images_per_round,
                                   data_set.seen_as(graph.crops)) as session:
      while not session.should_stop():
        number = int(session.run(tf.train.get_global_step()))
        run_round(session, graph, clients_of_round(number, len(images)), images, labels)
        number += 1
        if number % FLAGS.eval_frequency == 0 or number == FLAGS.max_steps:
          result, total = precision(session, graph, *test), number * images_per_round
          console.log(f'round {number}: precision @ 1 = {result:.4f} ({total} images)')
          with open(os.path.join(FLAGS.train_dir, CURVE), 'a') as out:
            out.write(f'{number},{total},{result:.4f}\n')


def main():
  tf_setup.check_single_machine()
  training.EVALUATOR = 'cifar10_eval.py --use_moving_averages=false'
  if FLAGS['batch_size'].using_default_value:
    FLAGS.batch_size = {'fedavg': 50, 'fedsgd': 500, 'sgd': 100}[FLAGS.algorithm]
  with settings.from_flags(cifar10):
    train()


if __name__ == '__main__':
  FLAGS.set_default('train_dir', 'cifar10/federated/train')
  tf_setup.use_graph_mode()
  console.run(main)
