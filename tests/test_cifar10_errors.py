import pytest
import tensorflow.compat.v1 as tf

import cifar10_errors
from cifar10_console import UserError


def test_what_tensorflow_says_of_a_file_is_one_sentence(tmp_path):
  with tf.Session() as session:
    with pytest.raises(UserError, match=r'^%s/no \(No such file or directory\): put that right, '
                       'and wait.$' % tmp_path):
      with cifar10_errors.reported('wait'):
        session.run(tf.read_file(str(tmp_path / 'no')))


def test_full_memory_of_a_device_is_one_sentence():
  # As TensorFlow says it of a GPU.
  error = tf.errors.ResourceExhaustedError(
      None, None, 'OOM when allocating tensor with shape[128,24,24,64] and type float on '
      '/job:localhost/replica:0/task:0/device:GPU:0 by allocator GPU_0_bfc')
  with pytest.raises(UserError, match='memory of the device is full: lower --batch_size, .* wait.'):
    with cifar10_errors.reported('wait'):
      raise error


def test_other_errors_keep_their_traceback():
  with tf.Session() as session, pytest.raises(tf.errors.InvalidArgumentError):
    with cifar10_errors.reported('wait'):
      session.run(tf.check_numerics(float('nan'), 'what'))
