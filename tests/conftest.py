"""What the tests share: generated data sets, the flags' defaults, a graph each, and the scripts."""

import os
import signal
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TRAINED = os.path.join(ROOT, 'cifar10', 'trained')
sys.path.insert(0, ROOT)

os.environ['TF_FORCE_GPU_ALLOW_GROWTH'] = 'true'  # Several processes test at once.

from cifar10_support import dataset  # noqa: E402
from cifar10_support import runs  # noqa: E402, which imports TensorFlow quietly
from cifar10_support import settings  # noqa: E402
from cifar10_support import synthetic  # noqa: E402
from cifar10_support import tf_setup  # noqa: E402

from absl.testing import flagsaver  # noqa: E402
import pytest  # noqa: E402
import tensorflow.compat.v1 as tf  # noqa: E402

import cifar10  # noqa: E402

tf_setup.use_graph_mode()
# Where a GPU multiplies float32 in TF32, the third digit is not numpy's.
tf.config.experimental.enable_tensor_float_32_execution(False)

FLAGS = tf.app.flags.FLAGS
FLAGS(['pytest'])


def contents(folder):
  """Returns what is in a folder, by path: the bytes of a file, None for a directory."""
  return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob('*')}


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
    runs.record_start(train_dir, {'max_steps': max_steps, **flags}, classes)
    with tf.Graph().as_default(), tf.Session() as session:
      global_step = tf.train.get_or_create_global_step()
      cifar10.inference(tf.zeros([1, 24, 24, 3]))
      averages = tf.train.ExponentialMovingAverage(cifar10.MOVING_AVERAGE_DECAY)
      averages.apply(tf.trainable_variables())
      session.run(tf.global_variables_initializer())
      global_step.load(step, session)
      tf.train.Saver().save(session, train_dir + '/model.ckpt', global_step=step)

  return save_at
