import contextlib
import errno
import fcntl
import importlib.util
import os
import sys
import threading

import pytest

from cifar10_support import files


class Busy(Exception):
  pass


def refuse():
  raise Busy


@pytest.fixture
def windows(monkeypatch):
  """The module as Windows loads it, with system calls that fail as they do there."""
  def open_file(path, *args):
    if os.path.isdir(path):
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return os_open(path, *args)

  def fsync(descriptor):
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
      raise OSError(errno.EBADF, os.strerror(errno.EBADF))

  os_open = os.open
  spec = importlib.util.spec_from_file_location('files_on_windows', files.__file__)
  module = importlib.util.module_from_spec(spec)
  with monkeypatch.context() as imports:
    imports.setitem(sys.modules, 'fcntl', None)
    spec.loader.exec_module(module)
  monkeypatch.setattr(os, 'open', open_file)
  monkeypatch.setattr(os, 'fsync', fsync)
  return module


def test_folder_is_for_one_at_a_time_and_free_afterwards(tmp_path):
  with files.locked(str(tmp_path), when_busy=refuse):
    with pytest.raises(Busy):
      with files.locked(str(tmp_path), when_busy=refuse):
        pass
  with pytest.raises(ZeroDivisionError):
    with files.locked(str(tmp_path), when_busy=refuse):
      1 / 0
  with files.locked(str(tmp_path), when_busy=refuse):
    pass


def test_second_waits_until_the_first_is_done(tmp_path):
  waits, events = threading.Event(), []

  def second():
    with files.locked(str(tmp_path), when_busy=waits.set):
      events.append('second')

  thread = threading.Thread(target=second, daemon=True)
  with files.locked(str(tmp_path), when_busy=refuse):
    thread.start()
    assert waits.wait(60)
    events.append('first')
  thread.join(60)
  assert events == ['first', 'second']


def test_file_system_without_locks_will_do(tmp_path, monkeypatch):
  def no_locks(descriptor, operation):
    raise OSError(errno.EBADF, os.strerror(errno.EBADF))

  monkeypatch.setattr(fcntl, 'flock', no_locks)
  with files.locked(str(tmp_path), when_busy=refuse) as is_in_place:
    assert is_in_place()


def test_folder_that_was_replaced_is_no_longer_in_place(tmp_path):
  folder = tmp_path / 'folder'
  folder.mkdir()
  with files.locked(str(folder), when_busy=refuse) as is_in_place:
    assert is_in_place()
    (folder / 'file').touch()
    assert is_in_place()
    folder.rename(tmp_path / 'elsewhere')
    assert not is_in_place()
    folder.mkdir()
    assert not is_in_place()
    folder.rmdir()
    (tmp_path / 'elsewhere').rename(folder)
    assert is_in_place()


def test_missing_folder_is_an_error(tmp_path):
  with pytest.raises(FileNotFoundError):
    with files.locked(str(tmp_path / 'nowhere'), when_busy=refuse):
      pass


def test_system_without_locks_will_do(windows, tmp_path):
  with windows.locked(str(tmp_path), when_busy=refuse) as is_in_place:
    assert is_in_place()


def test_folder_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
  (tmp_path / 'new' / 'inner').mkdir(parents=True)
  for path in ('new/file', 'new/inner/other'):
    (tmp_path / path).write_text('whole')
  events, replace = [], os.replace
  monkeypatch.setattr(os, 'fsync', lambda descriptor: events.append(
      os.path.relpath(os.readlink('/proc/self/fd/%d' % descriptor), tmp_path)))
  monkeypatch.setattr(os, 'replace', lambda *paths: events.append('replace') or replace(*paths))
  files.publish(str(tmp_path / 'new'), str(tmp_path / 'name'))
  assert events[-3:] == ['new', 'replace', '.']
  assert sorted(events[:-3]) == ['new/file', 'new/inner', 'new/inner/other']
  assert events.index('new/inner/other') < events.index('new/inner')
  assert (tmp_path / 'name' / 'inner' / 'other').read_text() == 'whole'


@pytest.fixture(params=['posix', 'windows'])
def module(request):
  return files if request.param == 'posix' else request.getfixturevalue('windows')


def test_file_replaces_the_one_with_its_name(module, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'new').write_text('new')
  (tmp_path / 'name').write_text('old')
  module.publish('new', 'name')
  assert os.listdir() == ['name']
  assert (tmp_path / 'name').read_text() == 'new'


@pytest.mark.parametrize('fails', ['file', 'folder'])
def test_file_that_does_not_reach_the_disk_gets_no_name(tmp_path, monkeypatch, fails):
  (tmp_path / 'new').write_text('half')

  def fsync(descriptor):
    if os.path.isdir('/proc/self/fd/%d' % descriptor) == (fails == 'folder'):
      raise OSError(errno.EIO if fails == 'file' else errno.EINVAL, 'No')

  monkeypatch.setattr(os, 'fsync', fsync)
  # Some file systems cannot flush a folder.
  with pytest.raises(OSError) if fails == 'file' else contextlib.nullcontext():
    files.publish(str(tmp_path / 'new'), str(tmp_path / 'name'))
  assert (tmp_path / 'name').exists() == (fails == 'folder')
