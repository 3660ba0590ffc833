"""What the scripts ask of TensorFlow and the machine: graph mode, session settings, bfloat16."""

import functools

import tensorflow.compat.v1 as tf

_CPUINFO = '/proc/cpuinfo'


def use_graph_mode():
  """Sets TensorFlow to the mode that the scripts are written for."""
  tf.disable_v2_behavior()
  # Graph mode's first variables are read at no defined moment of a step; these are.
  tf.enable_resource_variables()


def session_config(log_device_placement=False, towers=1):
  """Returns the `tf.ConfigProto` that training and evaluation open their sessions with.

  Args:
    log_device_placement: whether TensorFlow tells on which device each op runs.
    towers: how many towers the session trains, see `tower_devices`.
  """
  # A GPU's memory is taken as it is needed, so that evaluation finds room beside training.
  return tf.ConfigProto(allow_soft_placement=True,
                        log_device_placement=log_device_placement,
                        device_count={'CPU': towers},
                        gpu_options=tf.GPUOptions(allow_growth=True))


def tower_devices(towers):
  """Returns the device of each tower: a GPU each, and tells where there are not so many.

  Without any GPU each tower gets a device of its own all the same, a logical one of the processor.
  Its session needs `session_config(towers=...)`.

  Args:
    towers: how many there are.

  Returns:
    A list of strings, such as '/gpu:0'.
  """
  gpus = len(tf.config.list_physical_devices('GPU'))
  if not gpus:
    print('No GPU here: the towers run on the processor.')
    return ['/cpu:%d' % i for i in range(towers)]
  if gpus < towers:
    print('%d towers on %d GPUs: some share one.' % (towers, gpus))
  return ['/gpu:%d' % (i % gpus) for i in range(towers)]


@functools.lru_cache(maxsize=None)
def bfloat16_or_float32():
  """Returns tf.bfloat16 if the machine computes in it, or else tf.float32, and says so once."""
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
  return bool(_processor_features() & {'avx512_bf16', 'amx_bf16', 'bf16'})


def _processor_features():
  """Returns what Linux says of the processor; nothing on other systems."""
  try:
    with open(_CPUINFO) as lines:
      return {feature for line in lines if line.lower().startswith(('flags', 'features'))
              for feature in line.split(':', 1)[1].split()}
  except OSError:
    return set()
