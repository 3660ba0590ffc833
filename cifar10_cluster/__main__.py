"""Trains the network on a cluster. Run this command with the same flags on every machine that the
environment variable TF_CONFIG names: it trains there, serves the variables, or evaluates.

  python -m cifar10_cluster

docs/scaling.md shows how to set TF_CONFIG, by hand or through Kubernetes. The checkpoints are those
of cifar10_train.py, and each resumes the other's runs.
"""

from cifar10_support import tf_setup  # First: it imports TensorFlow without its chatter.

import os
import sys

import tensorflow.compat.v1 as tf

import cifar10
import cifar10_eval
from cifar10_cluster import parameter_server
from cifar10_cluster import replica as replicas
from cifar10_cluster import tf_config
from cifar10_support import console
from cifar10_support import settings
from cifar10_support import signals
from cifar10_support import training

FLAGS = tf.app.flags.FLAGS

if __name__ == '__main__':  # Messages begin with the name of the program: not __main__.py.
  sys.argv[0] = os.path.dirname(sys.argv[0])

console.adopt_flags(training, cifar10, tf_config, cifar10_eval)


def train(replica, data_set):
  """Builds the graph of a replica and trains until the job ends.

  Args:
    replica: a `replica.Replica`.
    data_set: a `dataset.DataSet`, see `cifar10.maybe_download_and_extract`.
  """
  with tf.Graph().as_default(), replica.placement():
    global_step = tf.train.get_or_create_global_step()

    images, labels = cifar10.distorted_inputs(data_set)
    with tf.variable_scope(tf.get_variable_scope(), custom_getter=tf_setup.read_once()):
      logits = cifar10.inference(images, training=True)
    loss = cifar10.loss(logits, labels)
    train_op = replica.train(loss, global_step)

    with replica.session(train_op, loss, data_set.seen_as(images)) as session:
      while not session.should_stop():
        session.run(train_op)


def main(argv=None):
  """Does this task's work; `argv` is what `tf.app.run` would pass, and is not used."""
  cluster = tf_config.from_environment()
  if cluster.job == 'ps':
    parameter_server.serve(cluster)
  elif cluster.job == 'evaluator':
    # The run that the same flags train: with --synthetic too, unless --train_dir names one.
    run, evaluated = FLAGS['train_dir'], FLAGS['checkpoint_dir']
    evaluated.value, evaluated.using_default_value = run.value, run.using_default_value
    cifar10_eval.main(patience_secs=FLAGS.save_checkpoint_secs + FLAGS.peer_timeout_secs)
  else:
    with settings.from_flags(cifar10):
      training.check_train_dir()  # Before a long download, and not after it.
      data_set = cifar10.maybe_download_and_extract()
      with signals.StopSignals() as stop_signals:
        replica = replicas.Replica(cluster, stop_signals)
        with replica.running():
          train(replica, data_set)


if __name__ == '__main__':
  tf_setup.use_graph_mode()
  console.run(main)
