"""What the tests share: generated data sets, the flags' defaults, a graph each, and the scripts."""

from cifar10_support import tf_setup  # First: it imports TensorFlow without its chatter.

import os
import shutil
import signal
import sys

from absl.testing import flagsaver
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_input
from cifar10_support import dataset
from cifar10_support import runs
from cifar10_support import settings
from cifar10_support import synthetic
import numpy_network

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TRAINED = os.path.join(ROOT, 'cifar10', 'trained')
DATA = os.environ.get('CIFAR10_DATA_DIR', os.path.join(ROOT, 'cifar10', 'data'))

sys.path.append(os.path.join(ROOT, 'benchmarks'))  # Its programs import each other like that.
os.environ['TF_FORCE_GPU_ALLOW_GROWTH'] = 'true'  # Several processes test at once.
tf_setup.use_graph_mode()
# Where a GPU multiplies float32 in TF32, the third digit is not numpy's.
tf.config.experimental.enable_tensor_float_32_execution(False)

FLAGS = tf.app.flags.FLAGS
FLAGS(['pytest'])


def contents(folder):
  """Returns what is in a folder, by path: the bytes of a file, None for a directory."""
  return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
          for path in folder.rglob('*')}


@pytest.fixture(autouse=True)
def default_flags():
  """Every test starts with the flags' defaults, and its changes end with it."""
  FLAGS(['pytest'])
  with flagsaver.flagsaver():
    yield


@pytest.fixture(autouse=True)
def default_constants():
  """The constants that a test's data set has set are CIFAR-10's again for the next one."""
  yield
  dataset.follow(dataset.CONSTANTS, vars(cifar10), vars(cifar10_input))


@pytest.fixture(autouse=True)
def new_graph():
  with tf.Graph().as_default():
    yield


@pytest.fixture(autouse=True, scope='session')
def default_signals():
  """Ctrl-C and termination as on a terminal, also where the tests run in the background."""
  signal.signal(signal.SIGINT, signal.default_int_handler)
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  signal.signal(signal.SIGHUP, signal.SIG_DFL)
  signal.signal(signal.SIGUSR1, signal.SIG_DFL)


@pytest.fixture
def with_gpus(monkeypatch):
  """A function after which graphs are built as on a machine with that many GPUs.

  They run on any machine: TensorFlow places ops on the CPU if the GPU they ask for does not exist.
  """
  def pretend(count):
    monkeypatch.setattr(tf.config, 'list_physical_devices', {'GPU': ['any'] * count}.get)

  return pretend


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
  """Path of a synthetic data set of the size of CIFAR-10."""
  path = str(tmp_path_factory.mktemp('data'))
  synthetic.make_data_set(path)
  return path


@pytest.fixture(scope='session')
def small_data_dir(tmp_path_factory):
  """Path of a synthetic data set of 100 images a file."""
  path = str(tmp_path_factory.mktemp('small_data'))
  synthetic.make_data_set(path, records_per_file=100)
  return path


@pytest.fixture(scope='session')
def small_data_set(small_data_dir):
  """The `dataset.DataSet` of `small_data_dir`."""
  return dataset.find(small_data_dir, 10)


@pytest.fixture(scope='session')
def labelled_data_dir(tmp_path_factory, small_data_dir):
  """A data set whose test labels are what the trained network answers, but for the first 20."""
  data_dir = tmp_path_factory.mktemp('labelled') / 'data'
  shutil.copytree(small_data_dir, data_dir)
  (data_dir / dataset.FOLDER / 'batches.meta.txt').unlink()
  path = data_dir / dataset.FOLDER / dataset.TEST_FILE
  images, _ = numpy_network.read(path)
  answers = numpy_network.logits(numpy_network.central_crop(images),
                                 numpy_network.averages(TRAINED)).argmax(axis=1)
  records = np.fromfile(path, np.uint8).reshape(100, -1)
  records[:, 0] = answers
  records[:20, 0] = (answers[:20] + 1) % 10
  records.tofile(path)
  return str(data_dir)


@pytest.fixture
def from_flags():
  """Flags and the constants of `cifar10` agree, as in the scripts; a test may set flags before."""
  return lambda: settings.from_flags(cifar10)


@pytest.fixture(scope='session')
def run_graph():
  """A function that evaluates tensors in a session of the current graph, queues running."""
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
  """A function that saves an untrained network at a step, in a run that ends at `max_steps`."""
  train_dir = str(tmp_path / 'cifar10' / 'train')

  def save_at(step, max_steps, classes=dataset.CLASSES, flags={}):
    os.makedirs(train_dir, exist_ok=True)
    runs.record_start(train_dir, {'max_steps': max_steps, **flags},
                      {'classes': list(classes)})
    with tf.Graph().as_default(), tf.Session() as session:
      global_step = tf.train.get_or_create_global_step()
      cifar10.inference(tf.zeros([1, 24, 24, 3]))
      averages = tf.train.ExponentialMovingAverage(cifar10.MOVING_AVERAGE_DECAY)
      averages.apply(tf.trainable_variables())
      session.run(tf.global_variables_initializer())
      global_step.load(step, session)
      tf.train.Saver().save(session, train_dir + '/model.ckpt', global_step=step)

  return save_at
