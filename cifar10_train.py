"""Trains the network on one device, or as one task of a cluster.
Stop it when you like: started again, it goes on from the last checkpoint.

  python cifar10_train.py

What the network has learned is measured by cifar10_eval.py.

Where the environment variable TF_CONFIG describes a cluster, every task of it runs this script,
with the same flags, see cifar10_cluster.py and docs/scaling.md.
"""

import cifar10_tensorflow  # noqa: F401, before TensorFlow

import contextlib

import tensorflow.compat.v1 as tf

import cifar10
import cifar10_cluster
import cifar10_console
import cifar10_device
import cifar10_eval
import cifar10_replica
import cifar10_restore
import cifar10_session

FLAGS = tf.app.flags.FLAGS

# For --help.
tf.app.flags.adopt_module_key_flags(cifar10_session)
tf.app.flags.adopt_module_key_flags(cifar10)
tf.app.flags.adopt_module_key_flags(cifar10_cluster)


def train(replica=None):
  """Builds the graph and trains for --max_steps.

  Args:
    replica: this task of a cluster, a `cifar10_replica.Replica`, or None for one device.
  """
  with tf.Graph().as_default(), replica.placement() if replica else contextlib.nullcontext():
    global_step = tf.train.get_or_create_global_step()

    # On the CPU even where there is a GPU, which has better things to do.
    with tf.device('/cpu:0'):
      images, labels = cifar10.distorted_inputs()

    logits = cifar10.inference(images)
    loss = cifar10.loss(logits, labels)
    if replica:
      train_op = replica.train(loss, global_step)
    else:
      train_op = cifar10.train(loss, global_step)

    with cifar10_session.training_session(loss, FLAGS.batch_size, replica=replica) as session:
      while not session.should_stop():
        session.run(train_op)


def _refuse_flags_of_evaluation():
  """Raises a `WrongFlag` for one that only a cluster's evaluator heeds.

  In a cluster every task gets the same flags, so the others must bear with it there.
  """
  flags = FLAGS.flags_by_module_dict()
  for flag in flags[cifar10_eval.__name__] + flags[cifar10_restore.__name__]:
    if flag.present:
      raise cifar10_console.WrongFlag('--%s is no flag of training: give it to cifar10_eval.py.'
                                      % flag.name)


def main(argv=None):
  """Trains; `argv` is what `tf.app.run` would pass, and is not looked at."""
  cluster = cifar10_cluster.from_environment()
  if not cluster:
    _refuse_flags_of_evaluation()
  if cluster and cluster.job == 'ps':
    cifar10_cluster.serve(cluster)
    return
  if cluster and cluster.job == 'evaluator':
    # Of the training that the same flags describe.
    FLAGS.checkpoint_dir = cifar10.directory('train_dir')
    cifar10_eval.main(patience_secs=FLAGS.save_checkpoint_secs + FLAGS.peer_timeout_secs)
    return
  cifar10_session.checked_train_dir()  # Before anything is downloaded for it.
  cifar10.maybe_download_and_extract()
  if cluster:
    replica = cifar10_replica.Replica(cluster)
    with replica.at_work():
      train(replica)
  else:
    train()


if __name__ == '__main__':
  cifar10_device.use_graph_mode()
  cifar10_console.run(main)
