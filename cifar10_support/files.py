"""One process at a time in a folder; files that appear whole or not at all."""

import contextlib
import os

try:
  import fcntl
except ImportError:  # Windows, where nothing keeps two processes apart.
  fcntl = None


@contextlib.contextmanager
def locked(folder, when_busy):
  """Keeps out other processes that lock the same folder; on a network file system perhaps not all.

  If another process has the lock, it calls `when_busy`, and if that returns, waits. It yields a
  function that returns whether the locked folder is still the one at that path. If it was moved or
  deleted, another process may be working in a new one there.
  """
  if not fcntl:
    yield lambda: os.path.isdir(folder)
    return
  descriptor = os.open(folder, os.O_RDONLY)

  def is_in_place():
    return os.path.exists(folder) and os.path.samestat(os.fstat(descriptor), os.stat(folder))

  try:
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      when_busy()
      fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
      pass  # This file system has no locks.
    yield is_in_place
  finally:
    os.close(descriptor)  # Which unlocks; so does the end of the process, however it comes.


def publish(source, target):
  """Gives a file, or a folder of files, its name once all of it is on the disk.

  In any other order, a power cut could leave the name with nothing behind it. `target`, on the
  same file system, may be a file that it replaces.
  """
  paths = [source] + [os.path.join(folder, name) for folder, folders, names in os.walk(source)
                      for name in folders + names]
  for path in reversed(paths):
    _flush(path)
  os.replace(source, target)
  _flush(os.path.dirname(target) or '.')


def write(path, text):
  """Writes a text file, see `publish`."""
  with open(f'{path}.tmp', 'w', encoding='utf-8') as out:
    out.write(text)
  publish(f'{path}.tmp', path)


def _flush(path):
  """Waits until a file, or a folder's list of files, is on the disk."""
  is_folder = os.path.isdir(path)
  try:
    # Windows flushes only what is open for writing.
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
      os.fsync(descriptor)
    finally:
      os.close(descriptor)
  except OSError:
    if not is_folder:  # Windows cannot open a folder, and some file systems cannot flush one.
      raise
