"""Imports TensorFlow without its chatter; each script imports this before anything else.

TensorFlow tells the processor's features, missing GPU drivers, deprecations and the queues'
cancellation at the end: about a hundred lines around the ten that a short run has to say. Set
`TF_CPP_MIN_LOG_LEVEL` (0 is everything) to see them all. Errors that matter are exceptions, not
log lines, and are not touched.
"""

import os
import sys
import tempfile


def _import_tensorflow():
  """Imports TensorFlow with its standard error set aside, and shows that if the import fails."""
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
  # Libraries inside TensorFlow log while they load, before anything reads that variable, and
  # straight to the file descriptor: only there can they be caught.
  stderr = os.dup(2)
  with tempfile.TemporaryFile() as aside:
    os.dup2(aside.fileno(), 2)
    try:
      import tensorflow.compat.v1 as tf
    except BaseException:
      aside.seek(0)
      os.write(stderr, aside.read())
      raise
    finally:
      os.dup2(stderr, 2)
      os.close(stderr)
  tf.logging.set_verbosity(tf.logging.ERROR)


if 'TF_CPP_MIN_LOG_LEVEL' not in os.environ and 'tensorflow' not in sys.modules:
  _import_tensorflow()
