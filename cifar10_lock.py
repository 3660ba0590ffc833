"""Folders that processes share: one at a time in them, and what one leaves there is whole."""

import contextlib
import fcntl
import os


@contextlib.contextmanager
def locked(folder, when_busy):
  """Keeps other processes that ask the same out of a folder.

  On a network file system it may keep out nobody, or only processes of the same machine.

  Args:
    folder: path of a folder.
    when_busy: called if another process is there; if it returns, we wait for that process.

  Yields:
    A function that returns whether the folder is still the one at that path. If it was moved or
    deleted, another process may be at work in the one that is there now.

  Raises:
    OSError: the folder cannot be opened.
  """
  descriptor = os.open(folder, os.O_RDONLY)

  def is_in_place():
    try:
      return os.path.samestat(os.fstat(descriptor), os.stat(folder))
    except OSError:
      return False

  try:
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      when_busy()
      fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
      pass  # There are no such locks.
    yield is_in_place
  finally:
    os.close(descriptor)  # Which unlocks; so does the end of a process, however it ends.


def publish(source, target):
  """Gives a file, or a folder of files, its name, when all of it is on the disk.

  Otherwise a power cut could leave the name, and behind it nothing.

  Args:
    source: path of the file or the folder.
    target: the path to give it, on the same file system; a file there is replaced.

  Raises:
    OSError: it cannot be written.
  """
  for folder, _, names in os.walk(source, topdown=False):
    for path in [os.path.join(folder, name) for name in names] + [folder]:
      _write_through(path)
  if not os.path.isdir(source):
    _write_through(source)
  os.replace(source, target)
  _write_through(os.path.dirname(target) or '.')


def _write_through(path):
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError:
    if not os.path.isdir(path):  # Not every file system can do it for a folder.
      raise
  finally:
    os.close(descriptor)
