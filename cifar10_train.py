"""Trains the network on one device. Stop it when you like: the same command resumes.

  python cifar10_train.py

cifar10_eval.py measures what it has learned, while it trains or afterwards.
"""

from cifar10_support import tf_setup  # First: it imports TensorFlow without its chatter.

import tensorflow.compat.v1 as tf

import cifar10
import cifar10_input
from cifar10_support import console
from cifar10_support import settings
from cifar10_support import training

FLAGS = tf.app.flags.FLAGS

console.adopt_flags(training, cifar10)


def train(data_set=None):
  """Builds the graph and trains for --max_steps.

  Args:
    data_set: a `dataset.DataSet`, by default that of `cifar10.maybe_download_and_extract`.
  """
  training.check_train_dir()  # Before a long download, and not after it.
  data_set = data_set or cifar10.maybe_download_and_extract()
  with tf.Graph().as_default():
    tf.set_random_seed(training.graph_seed())
    global_step = tf.train.get_or_create_global_step()

    images, labels = cifar10.distorted_inputs(data_set)
    with tf_setup.on_gpu():  # If there is one; the variables too.
      images, labels = cifar10_input.stage(images, labels)
      logits = cifar10.inference(images, training=True)
      loss = cifar10.loss(logits, labels)
      train_op = cifar10.train(loss, global_step)

    # Which resumes or initialises, starts the queues, logs, saves, and ends after --max_steps.
    with training.training_session(train_op, loss, FLAGS.batch_size,
                                   data_set.seen_as(images)) as session:
      while not session.should_stop():
        session.run(train_op)


def main(argv=None):
  """Trains; `argv` is what `tf.app.run` would pass, and is not used."""
  tf_setup.check_single_machine()
  with settings.from_flags(cifar10):
    train()


if __name__ == '__main__':
  tf_setup.use_graph_mode()
  console.run(main)
