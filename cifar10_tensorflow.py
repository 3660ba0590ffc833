"""Imports TensorFlow as the scripts want it; each one with a graph imports this first of all.

Without its chatter: TensorFlow tells the processor's features, missing GPU drivers, deprecations
and the queues' cancellation at the end, about a hundred lines around the ten that a short run has
to say. Set `TF_CPP_MIN_LOG_LEVEL` to see them (0 is everything, 3 nothing). Errors that matter are
exceptions, not log lines, and are not touched; one that kills the process while TensorFlow loads,
as on a processor without AVX, is only seen so.

With the convolutions of oneDNN on every x86 processor: TensorFlow itself takes them where there are
AVX-512 instructions for neural networks, but they are quicker without these too. Set
`TF_ENABLE_ONEDNN_OPTS` to 0 to do without.
"""

import contextlib
import os
import platform
import signal
import sys
import tempfile
import threading


@contextlib.contextmanager
def _stderr_aside():
  """Sets aside what is written to standard error, and shows it if the body fails."""
  with contextlib.ExitStack() as stack:
    try:
      stderr = os.dup(2)
      stack.callback(os.close, stderr)
      aside = stack.enter_context(tempfile.TemporaryFile())
    except OSError:  # Standard error is closed (`2>&-`), or no folder takes a temporary file.
      yield
      return
    os.dup2(aside.fileno(), 2)
    try:
      yield
    except BaseException:
      aside.seek(0)
      os.write(stderr, aside.read())
      raise
    finally:
      os.dup2(stderr, 2)


@contextlib.contextmanager
def _ended_by_control_c():
  """Has Ctrl-C end the process without a traceback of whatever module was being imported."""
  ours = (signal.getsignal(signal.SIGINT) is signal.default_int_handler
          and threading.current_thread() is threading.main_thread())
  if ours:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
  try:
    yield
  finally:
    if ours:
      signal.signal(signal.SIGINT, signal.default_int_handler)


def _import_quietly():
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
  # Libraries inside TensorFlow log while they load, before anything reads that variable, and
  # straight to the file descriptor: only there can they be caught.
  with _stderr_aside():
    import tensorflow.compat.v1 as tf
  tf.logging.set_verbosity(tf.logging.ERROR)


if 'tensorflow' not in sys.modules:
  if platform.machine() in ('x86_64', 'AMD64'):
    os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')
  with _ended_by_control_c():
    if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '3') == '3':
      _import_quietly()
    else:
      import tensorflow.compat.v1  # noqa: F401
