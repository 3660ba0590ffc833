"""What the tests share: data sets that they make themselves, the flags, and the scripts."""

import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

import cifar10_quiet  # noqa: E402, F401, before TensorFlow

from absl.testing import flagsaver  # noqa: E402
import pytest  # noqa: E402
import tensorflow.compat.v1 as tf  # noqa: E402

import cifar10_dataset  # noqa: E402

# As the scripts do.
tf.disable_v2_behavior()
tf.enable_resource_variables()

FLAGS = tf.app.flags.FLAGS


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


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
  """A synthetic data set of the size of CIFAR-10."""
  path = tmp_path_factory.mktemp('data')
  cifar10_dataset.write_synthetic(str(path))
  return str(path)


@pytest.fixture(scope='session')
def small_data_dir(tmp_path_factory):
  """A synthetic data set of 100 images a file, with a folder that a test may damage a copy of."""
  path = tmp_path_factory.mktemp('small_data')
  cifar10_dataset.write_synthetic(str(path), records_per_file=100)
  return str(path)


@pytest.fixture
def run_script(tmp_path):
  """Runs a script as a user does, in an empty directory, and returns the finished process."""
  def run(name, *args, timeout=300):
    # Chatter is kept away by the script, not by the environment of the tests.
    environment = {k: v for k, v in os.environ.items() if k != 'TF_CPP_MIN_LOG_LEVEL'}
    return subprocess.run([sys.executable, os.path.join(ROOT, name), *args], cwd=tmp_path,
                          env=environment, capture_output=True, text=True, timeout=timeout)
  return run


@pytest.fixture
def run_graph():
  """Evaluates tensors in a session of the current graph with its queues running."""
  def run(fetches, times=1):
    with tf.Session() as session:
      session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
      coordinator = tf.train.Coordinator()
      threads = tf.train.start_queue_runners(session, coordinator)
      results = [session.run(fetches) for _ in range(times)]
      coordinator.request_stop()
      coordinator.join(threads)
    return results
  return run
