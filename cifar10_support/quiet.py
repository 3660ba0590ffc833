"""Imports TensorFlow without its chatter.

That is about a hundred lines, which `TF_CPP_MIN_LOG_LEVEL=0` brings back. It also turns on oneDNN's
convolutions on every x86 processor; TensorFlow itself does so only where it finds VNNI, but they
are faster without it too (`TF_ENABLE_ONEDNN_OPTS=0` turns them off). And it gives each GPU two
threads of its own: in the common pool what launches its kernels waits behind the input
(`TF_GPU_THREAD_MODE=global`).
"""

import contextlib
import os
import platform
import sys


@contextlib.contextmanager
def _without_stderr():
  """Drops what is written to standard error."""
  with contextlib.ExitStack() as stack:
    with contextlib.suppress(OSError):  # Standard error may be closed (`2>&-`).
      stderr = os.dup(2)
      stack.callback(os.close, stderr)
      stack.callback(os.dup2, stderr, 2)
      os.dup2(stack.enter_context(open(os.devnull, 'w')).fileno(), 2)
    yield


def _import_tensorflow():
  if platform.machine() in ('x86_64', 'AMD64'):
    os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')
  if os.environ.setdefault('TF_GPU_THREAD_MODE', 'gpu_private') == 'gpu_private':
    os.environ.setdefault('TF_GPU_THREAD_COUNT', '2')
  is_quiet = (os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3') == '3'
              and 'tensorflow' not in sys.modules)
  # TensorFlow's libraries log while they load, before anything reads that variable, and straight to
  # the file descriptor.
  with _without_stderr() if is_quiet else contextlib.nullcontext():
    import tensorflow.compat.v1 as tf
  if is_quiet:
    tf.logging.set_verbosity(tf.logging.ERROR)
  return tf


try:
  tf = _import_tensorflow()
except ModuleNotFoundError as error:
  if error.name != 'tensorflow':
    raise
  sys.exit(f'{sys.executable} has no TensorFlow: activate the virtual environment that has it '
           '(. .venv/bin/activate), or install it here (pip install -e .).')
