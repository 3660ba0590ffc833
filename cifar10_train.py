"""Trains the network on one device. Stop it when you like: the same command resumes.

  python cifar10_train.py

cifar10_eval.py measures what it has learned, while it trains or afterwards.
"""

from cifar10_support import console
from cifar10_support import session as training
from cifar10_support import settings
from cifar10_support import tf_setup

import tensorflow.compat.v1 as tf

import cifar10
import cifar10_input

FLAGS = tf.app.flags.FLAGS

tf.app.flags.adopt_module_key_flags(training)  # For --help.
tf.app.flags.adopt_module_key_flags(cifar10)


def train(data_set):
  """Builds the graph and trains for --max_steps.

  Args:
    data_set: a `dataset.DataSet`, see `cifar10.maybe_download_and_extract`.
  """
  with tf.Graph().as_default():
    global_step = tf.train.get_or_create_global_step()

    images, labels = cifar10.distorted_inputs(data_set)
    with tf_setup.on_gpu():  # If there is one.
      images, labels = cifar10_input.stage(images, labels)
      logits = cifar10.inference(images)
      loss = cifar10.loss(logits, labels)
      train_op = cifar10.train(loss, global_step)

    with training.training_session(loss, FLAGS.batch_size, data_set.classes) as session:
      while not session.should_stop():
        session.run(train_op)


def main(argv=None):
  """Trains; `argv` is what `tf.app.run` would pass, and is not used."""
  tf_setup.check_single_machine()
  with settings.from_flags(cifar10):
    training.checked_train_dir()  # Before anything is downloaded for it.
    train(cifar10.maybe_download_and_extract())


if __name__ == '__main__':
  tf_setup.use_graph_mode()
  console.run(main)
