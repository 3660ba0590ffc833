"""What the scripts ask of TensorFlow and the machine: graph mode, sessions, devices, errors."""

import contextlib
import errno
import functools
import json
import os
import re

from cifar10_support.console import UserError
from cifar10_support.quiet import tf

_CPUINFO = '/proc/cpuinfo'

# How TensorFlow words what the file system said. Its exception classes are no help: many of these
# are an `UnknownError`, whatever was wrong.
_FILE_ERROR = re.compile(r'(/?[^;\s][^;\n]*); (%s)'
                         % '|'.join(re.escape(os.strerror(code)) for code in errno.errorcode))

# The collection of the ops that copy the next batch to a GPU, see `cifar10_input.stage`.
STAGING = 'staging'


def use_graph_mode():
  """Sets TensorFlow to the mode that the scripts are written for."""
  tf.disable_v2_behavior()
  # A reference variable may be read before or after its update in the same step; the reads and
  # writes of a resource variable have an order.
  tf.enable_resource_variables()


def session_config(log_device_placement=False, num_cpus=1, xla=False):
  """Returns the `tf.ConfigProto` that training and evaluation open their sessions with.

  It splits the processor into `num_cpus` logical devices, see `tower_devices`. With `xla`, XLA
  finds clusters of ops on GPUs, and makes a few kernels of each in place of one for every op.
  """
  # GPU memory is taken as it is needed, so that evaluation finds room beside training.
  config = tf.ConfigProto(
      allow_soft_placement=True, log_device_placement=log_device_placement,
      device_count={'CPU': num_cpus}, gpu_options=tf.GPUOptions(allow_growth=True))
  if xla:
    config.graph_options.optimizer_options.global_jit_level = tf.OptimizerOptions.ON_1
  return config


def can_compile():
  """Returns whether there is a GPU that XLA compiles for, and says so.

  Some installations lack what it needs, such as `ptxas`, so it is tried out on a small function.
  """
  if not num_gpus():
    return False
  with tf.Graph().as_default(), tf.device('/gpu:0'):
    [result] = tf.xla.experimental.compile(tf.exp, [tf.random_uniform([2])])
    try:
      with tf.Session(config=session_config()) as session:
        session.run(result)
    except tf.errors.OpError:
      print('XLA cannot compile for the GPU (is ptxas missing?): training without it, more slowly. '
            'TF_CPP_MIN_LOG_LEVEL=1 shows the cause.')
      return False
  print('XLA compiles the network, with and without summaries: the first two steps take about ten '
        'seconds each. --noxla turns it off.')
  return True


def num_gpus():
  """Returns how many GPUs TensorFlow can use here."""
  return len(tf.config.list_physical_devices('GPU'))


@contextlib.contextmanager
def on_gpu():
  """Puts what is added inside on the GPU, variables included. Without a GPU it changes nothing.

  Towers share variables on the CPU. Those of a single network need no copying on the GPU.
  """
  if not num_gpus():
    yield
    return

  def variable_on_gpu(getter, *args, **kwargs):
    with tf.device('/gpu:0'):  # Further in than that of `cifar10._variable_on_cpu`, so it counts.
      return getter(*args, **kwargs)

  with tf.device('/gpu:0'), tf.variable_scope(tf.get_variable_scope(),
                                              custom_getter=variable_on_gpu):
    yield


def tower_devices(num_towers):
  """Returns a device for each tower, such as '/gpu:0': shared ones, which it says, if need be.

  Without any GPU each tower gets a logical device of the processor; the session then needs
  `session_config(num_cpus=num_towers)`.
  """
  gpus = num_gpus()
  if not gpus:
    print('No GPU here: the towers run on the CPU.')
    return [f'/cpu:{i}' for i in range(num_towers)]
  if gpus < num_towers:
    print(f'{num_towers} towers on {gpus} GPUs: some share one.')
  return [f'/gpu:{i % gpus}' for i in range(num_towers)]


def read_once():
  """Returns a custom getter for `tf.variable_scope`: of trainable variables it gives the values.

  Each reading of a variable on another device is a transfer. With this getter all uses of a
  variable share a single reading, so it goes to each device once, however many towers are there.
  """
  values = {}

  def read(getter, name, *args, **kwargs):
    variable = getter(name, *args, **kwargs)
    if not variable.trainable:  # A network may assign to it, to a moving mean for example.
      return variable
    if name not in values:
      with tf.name_scope(f'{name}/'):  # Its own, not that of the tower that happens to be first.
        values[name] = variable.read_value()
    return values[name]

  return read


@functools.lru_cache(maxsize=None)
def bfloat16_or_float32():
  """Returns tf.bfloat16 if the machine computes in it; otherwise tf.float32, and says so once."""
  if _has_bfloat16():
    return tf.bfloat16
  print('This machine has no bfloat16 arithmetic: --mixed_precision computes in float32.')
  return tf.float32


def _has_bfloat16():
  gpus = tf.config.list_physical_devices('GPU')
  if gpus:
    # Ampere, the first generation with bfloat16, is 8.0.
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return all(detail.get('compute_capability', (0, 0)) >= (8, 0) for detail in details)
  with contextlib.suppress(OSError), open(_CPUINFO) as text:  # Linux has it.
    return bool(re.search(r'^(flags|Features).*\b(avx512_bf16|amx_bf16|bf16)\b', text.read(), re.M))
  return False


def check_single_machine():
  """Sends the task of a cluster to the program for clusters, with a `UserError`.

  Job operators set TF_CONFIG even where there is only one machine: then training runs here.
  """
  with contextlib.suppress(ValueError, AttributeError, TypeError):  # Any nonsense is no lone task.
    jobs = json.loads(os.environ.get('TF_CONFIG') or '{}').get('cluster') or {}
    if sum(map(len, jobs.values())) < 2 and 'ps' not in jobs:
      return
  raise UserError('TF_CONFIG is for a cluster: run python -m cifar10_cluster in each of its tasks, '
                  'or unset it to train on this machine alone.')


def file_error(error):
  """Returns the path and what the file system said of it; None if it is no error of that kind."""
  if isinstance(error, OSError):
    return error.filename, error.strerror
  match = _FILE_ERROR.search(str(error))
  return match and match.groups()


@contextlib.contextmanager
def writing_to(directory, flag):
  """Turns errors about the files that are written inside into a `UserError` that names the flag."""
  try:
    yield
  except (OSError, tf.errors.OpError) as error:
    if not file_error(error):
      raise
    raise UserError(f'Cannot write to {directory} ({file_error(error)[1]}): name another directory '
                    f'with --{flag}.') from error


@contextlib.contextmanager
def explained_errors(
    then, if_out_of_memory='lower --batch_size, or close other programs that use it'):
  """Turns TensorFlow's errors about files and memory into a `UserError`.

  `then` is what to do once the cause is fixed, as the end of a sentence: 'run ... again'.
  """
  try:
    yield
  except (tf.errors.OpError, RuntimeError) as error:  # The event writer raises the second.
    if file_error(error):
      path, reason = file_error(error)
      raise UserError(f'{path}: {reason}. Fix this, then {then}.') from error
    if isinstance(error, tf.errors.ResourceExhaustedError):
      raise UserError(f'The memory of the device is full: {if_out_of_memory}, then '
                      f'{then}.') from error
    raise
