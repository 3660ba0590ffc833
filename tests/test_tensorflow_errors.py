import errno

import pytest
import tensorflow.compat.v1 as tf

from cifar10_support import tf_setup
from cifar10_support.console import UserError


@pytest.mark.parametrize('name, reason', [('no', 'No such file or directory'), ('', '.*directory')])
def test_file_is_named_with_the_reason_and_what_to_do(name, reason, tmp_path):
  with tf.Session() as session:
    with pytest.raises(UserError, match='%s: %s.*boil water' % (tmp_path / name, reason)):
      with tf_setup.explained_errors('boil water'):
        session.run(tf.read_file(str(tmp_path / name)))


# As the writers of events and of checkpoints word it; the latter in the class of full memory.
@pytest.mark.parametrize('path, error', [
    ('run/events.out.tfevents.1795602665.vm', RuntimeError(
        'run/events.out.tfevents.1795602665.vm; No space left on device\n'
        '\tFailed to flush 1 events\n\tFlushing first event.')),
    ('run/model.ckpt-7_temp/part-00000', tf.errors.ResourceExhaustedError(
        None, None, 'run/model.ckpt-7_temp/part-00000; No space left on device'))])
def test_full_disk_is_named_with_the_file(path, error):
  with pytest.raises(UserError, match='^%s: No space left on device' % path):
    with tf_setup.explained_errors('boil water'):
      raise error


def test_full_memory_of_a_device_has_advice_of_its_own():
  # As TensorFlow words it of a GPU.
  error = tf.errors.ResourceExhaustedError(
      None, None, 'OOM when allocating tensor with shape[128,24,24,64] and type float on '
      '/job:localhost/replica:0/task:0/device:GPU:0 by allocator GPU_0_bfc')
  for arguments, expected in [(['boil water'], '--batch_size.*boil water'),
                              (['boil water', 'drink milk'], 'drink milk.*boil water')]:
    with pytest.raises(UserError, match=expected):
      with tf_setup.explained_errors(*arguments):
        raise error


def test_other_errors_keep_their_traceback():
  with tf.Session() as session, pytest.raises(tf.errors.InvalidArgumentError):
    with tf_setup.explained_errors('boil water'):
      session.run(tf.check_numerics(float('nan'), 'what'))


def test_errors_of_python_tell_their_file_too():
  error = OSError(errno.EACCES, 'Permission denied', 'run/run.json')
  assert tf_setup.file_error(error) == ('run/run.json', 'Permission denied')
