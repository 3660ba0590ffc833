"""Measures what the training loop costs beside the step itself, in microseconds of Python a step.

  python benchmarks/loop.py

The graph is one variable and its moving average, and a step takes next to no time, so what is left
is the loop. The three ways to run it take turns; the numbers are medians over the rounds. Run it on
an otherwise idle machine.
"""

from cifar10_support import tf_setup  # First: it imports TensorFlow without its chatter.

import argparse
import contextlib
import functools
import os
import statistics
import tempfile
import time

import tensorflow.compat.v1 as tf

import cifar10
from cifar10_support import training

FLAGS = tf.app.flags.FLAGS


@contextlib.contextmanager
def bare(folder, loss, train_op):
  """A plain session and a callable: nothing is logged, checked or saved."""
  session = tf.Session()
  session.run(tf.global_variables_initializer())
  yield session.make_callable(train_op)


@contextlib.contextmanager
def ours(folder, loss, train_op):
  """`training_session`, as the scripts have it."""
  FLAGS.train_dir = folder
  with training.training_session(train_op, loss, 128, {'classes': []}) as session:
    yield functools.partial(session.run, train_op)


@contextlib.contextmanager
def monitored(folder, loss, train_op):
  """`tf.train.MonitoredTrainingSession`, with the hooks of the original."""
  hooks = [tf.train.StopAtStepHook(last_step=10 ** 9), tf.train.NanTensorHook(loss),
           tf.train.LoggingTensorHook({'loss': loss}, every_n_iter=10)]
  with tf.train.MonitoredTrainingSession(checkpoint_dir=folder, hooks=hooks) as session:
    yield functools.partial(session.run, train_op)


@contextlib.contextmanager
def opened(way, folder):
  """Builds the graph for one way to run it, and yields the function that runs a step."""
  with tf.Graph().as_default():
    loss = tf.square(tf.get_variable('weight', initializer=1.0))
    optimizer = tf.train.GradientDescentOptimizer(0.01)
    train_op = cifar10.apply_gradients(optimizer, optimizer.compute_gradients(loss),
                                       tf.train.get_or_create_global_step())
    tf.summary.scalar('loss', loss)
    with way(folder, loss, train_op) as step:
      yield step


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--rounds', type=int, default=9, help='turns of each (9)')
  parser.add_argument('--steps', type=int, default=2000, help='steps in a turn (2000)')
  arguments = parser.parse_args()
  if min(arguments.rounds, arguments.steps) < 1:
    parser.error('--rounds and --steps must be at least 1.')
  tf_setup.use_graph_mode()
  FLAGS(['loop.py', '--max_steps=1000000000', '--log_frequency=10'])
  ways = (bare, ours, monitored)
  microseconds = {way: [] for way in ways}
  with contextlib.ExitStack() as stack:
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    # The log goes nowhere.
    stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, 'w'))))
    steps = [stack.enter_context(opened(way, os.path.join(folder, way.__name__))) for way in ways]
    for _ in range(arguments.rounds):
      for way, step in zip(ways, steps):
        began = time.perf_counter()
        for _ in range(arguments.steps):
          step()
        microseconds[way].append(1e6 * (time.perf_counter() - began) / arguments.steps)
  for way in ways:
    print(f'{statistics.median(microseconds[way]):5.0f} us  {way.__doc__}')


if __name__ == '__main__':
  main()
