"""What the tests share: data sets that they make themselves, the flags, and the scripts."""

import os
import signal
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import cifar10_tensorflow  # noqa: E402, F401, before TensorFlow

from absl.testing import flagsaver  # noqa: E402
import pytest  # noqa: E402
import tensorflow.compat.v1 as tf  # noqa: E402

import cifar10  # noqa: E402
import cifar10_dataset  # noqa: E402
import cifar10_device  # noqa: E402
import cifar10_run  # noqa: E402

cifar10_device.use_graph_mode()

FLAGS = tf.app.flags.FLAGS
FLAGS(['pytest'])


def wait_until(is_so, is_alive, secs=120):
  """Waits until something is so; fails if what is to bring it about ends, or takes too long.

  Args:
    is_so, is_alive: functions that return whether it is so, and whether it is still to come.
    secs: how long that may take.
  """
  deadline = time.monotonic() + secs
  while not is_so():
    assert is_alive() and time.monotonic() < deadline
    time.sleep(0.05)


def read_until(process, text, secs=120):
  """Reads a process's output up to the line with `text`, and returns that; fails as `wait_until`.

  Args:
    process: a `subprocess.Popen` whose standard output is a pipe of text.
    text: a part of a line.
    secs: how long that may take.
  """
  # Nothing else ends the reading of a pipe.
  late = threading.Timer(secs, process.kill)
  late.start()
  try:
    line = next((line for line in process.stdout if text in line), None)
  finally:
    late.cancel()
  assert line is not None
  return line


@pytest.fixture(autouse=True)
def default_flags():
  """Every test starts with the flags' defaults, and its changes end with it."""
  FLAGS(['pytest'])
  with flagsaver.flagsaver():
    yield


@pytest.fixture(autouse=True)
def new_graph():
  with tf.Graph().as_default():
    yield


@pytest.fixture(autouse=True, scope='session')
def heard_signals():
  """Ctrl-C and termination as on a terminal, also where the tests run in the background."""
  signal.signal(signal.SIGINT, signal.default_int_handler)
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
  """A synthetic data set of the size of CIFAR-10."""
  path = tmp_path_factory.mktemp('data')
  cifar10_dataset.write_synthetic(str(path))
  return str(path)


@pytest.fixture(scope='session')
def small_data_dir(tmp_path_factory):
  """A synthetic data set of 100 images a file."""
  path = tmp_path_factory.mktemp('small_data')
  cifar10_dataset.write_synthetic(str(path), records_per_file=100)
  return str(path)


@pytest.fixture(scope='session')
def run_graph():
  """Evaluates tensors in a session of the current graph with its queues running."""
  def run(fetches, times=1):
    with tf.Session() as session:
      session.run(tf.global_variables_initializer())
      coordinator = tf.train.Coordinator()
      threads = tf.train.start_queue_runners(session, coordinator)
      results = [session.run(fetches) for _ in range(times)]
      coordinator.request_stop()
      coordinator.join(threads)
    return results
  return run


@pytest.fixture
def save(tmp_path):
  """Saves the checkpoint of an untrained network at a step, in a run that ends at `max_steps`."""
  train_dir = str(tmp_path / 'cifar10' / 'train')

  def save_at(step, max_steps, classes=None, flags={}):
    os.makedirs(train_dir, exist_ok=True)
    cifar10_run.record_start(train_dir, {'max_steps': max_steps, **flags},
                             classes or cifar10.classes())
    with tf.Graph().as_default(), tf.Session() as session:
      global_step = tf.train.get_or_create_global_step()
      cifar10.inference(tf.zeros([1, 24, 24, 3]))
      averages = tf.train.ExponentialMovingAverage(cifar10.MOVING_AVERAGE_DECAY)
      averages.apply(tf.trainable_variables())
      session.run(tf.global_variables_initializer())
      global_step.load(step, session)
      tf.train.Saver().save(session, train_dir + '/model.ckpt', global_step=step)

  return save_at
