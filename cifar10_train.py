"""Trains on one device.

  python cifar10_train.py

Stop it when you like: started again, it goes on from the last checkpoint. What the network has
learned is measured by cifar10_eval.py.
"""

import cifar10_quiet  # noqa: F401, before TensorFlow

import tensorflow.compat.v1 as tf

import cifar10
import cifar10_console
import cifar10_device
import cifar10_session

FLAGS = tf.app.flags.FLAGS

# For --help.
tf.app.flags.adopt_module_key_flags(cifar10_session)
tf.app.flags.adopt_module_key_flags(cifar10)


def train():
  """Builds the graph and trains for --max_steps."""
  with tf.Graph().as_default():
    global_step = tf.train.get_or_create_global_step()

    # On the CPU even where there is a GPU, which has better things to do.
    with tf.device('/cpu:0'):
      images, labels = cifar10.distorted_inputs()

    logits = cifar10.inference(images)
    loss = cifar10.loss(logits, labels)
    train_op = cifar10.train(loss, global_step)

    with cifar10_session.training_session(loss, FLAGS.batch_size) as session:
      while not session.should_stop():
        session.run(train_op)


def main():
  cifar10_session.checked_train_dir()  # Before anything is downloaded for it.
  cifar10.maybe_download_and_extract()
  train()


if __name__ == '__main__':
  cifar10_device.use_graph_mode()
  cifar10_console.run(main)
