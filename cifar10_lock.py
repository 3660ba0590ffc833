"""One process at a time in a folder."""

import contextlib
import fcntl
import os


@contextlib.contextmanager
def locked(folder, when_busy):
  """Keeps other processes that ask the same out of a folder.

  On a network file system without such locks it keeps nobody out.

  Args:
    folder: path of a folder.
    when_busy: called if another process is there; if it returns, we wait for that process.

  Raises:
    OSError: the folder cannot be opened.
  """
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      when_busy()
      fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
      pass  # There are no such locks.
    yield
  finally:
    os.close(descriptor)  # Which unlocks; so does the end of a process, however it ends.
