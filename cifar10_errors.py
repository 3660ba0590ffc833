"""What TensorFlow's errors about files and memory mean to a person, in one sentence."""

import contextlib
import errno
import os
import re

import tensorflow.compat.v1 as tf

from cifar10_console import UserError

# How TensorFlow words what the file system said. The classes of its errors are no help: many are
# of `UnknownError`, whatever was wrong.
_OF_FILE = re.compile('(/?[^;\\s][^;\n]*); (%s)'
                      % '|'.join(re.escape(os.strerror(code)) for code in errno.errorcode))


def of_file(error):
  """Returns the path and what the file system said of it, or None if the error is another.

  Args:
    error: of TensorFlow, or an `OSError`.
  """
  if isinstance(error, OSError):
    return error.filename, error.strerror
  match = _OF_FILE.search(str(error))
  return match and match.groups()


@contextlib.contextmanager
def reported(then, on_full_memory='lower --batch_size, or end what else takes it'):
  """Turns what the file system or a full memory said to TensorFlow into a `UserError`.

  Args:
    then: what is to be done, or happens, when that is put right; the end of a sentence.
    on_full_memory: what puts a full memory right.
  """
  try:
    yield
  except (tf.errors.OpError, RuntimeError) as error:  # The second is that of the event writer.
    path_and_reason = of_file(error)
    if path_and_reason:
      raise UserError('%s (%s): put that right, and %s.' % (*path_and_reason, then)) from error
    if isinstance(error, tf.errors.ResourceExhaustedError):
      raise UserError('The memory of the device is full: %s, and %s.'
                      % (on_full_memory, then)) from error
    raise
