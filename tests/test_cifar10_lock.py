import contextlib
import errno
import os

import pytest

import cifar10_lock


class Busy(Exception):
  pass


def refuse():
  raise Busy


def test_folder_is_for_one_at_a_time_and_free_afterwards(tmp_path):
  with cifar10_lock.locked(str(tmp_path), when_busy=refuse):
    with pytest.raises(Busy):
      with cifar10_lock.locked(str(tmp_path), when_busy=refuse):
        pass
  with pytest.raises(ZeroDivisionError):
    with cifar10_lock.locked(str(tmp_path), when_busy=refuse):
      1 / 0
  with cifar10_lock.locked(str(tmp_path), when_busy=refuse):
    pass


def test_folder_that_was_replaced_is_not_in_place_any_more(tmp_path):
  folder = tmp_path / 'folder'
  folder.mkdir()
  with cifar10_lock.locked(str(folder), when_busy=refuse) as is_in_place:
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


def test_folder_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
  (tmp_path / 'new' / 'inner').mkdir(parents=True)
  (tmp_path / 'new' / 'file').write_text('whole')
  (tmp_path / 'new' / 'inner' / 'other').write_text('whole')
  events, replace = [], os.replace
  monkeypatch.setattr(os, 'fsync', lambda descriptor: events.append(
      os.path.relpath(os.readlink('/proc/self/fd/%d' % descriptor), tmp_path)))
  monkeypatch.setattr(os, 'replace', lambda *paths: events.append('replace') or replace(*paths))
  cifar10_lock.publish(str(tmp_path / 'new'), str(tmp_path / 'name'))
  assert events == ['new/inner/other', 'new/inner', 'new/file', 'new', 'replace', '.']
  assert (tmp_path / 'name' / 'file').read_text() == 'whole'


@pytest.mark.parametrize('fails', ['file', 'folder'])
def test_file_that_does_not_get_to_the_disk_gets_no_name(tmp_path, monkeypatch, fails):
  (tmp_path / 'new').write_text('half')

  def fsync(descriptor):
    if os.path.isdir('/proc/self/fd/%d' % descriptor) == (fails == 'folder'):
      raise OSError(errno.EIO if fails == 'file' else errno.EINVAL, 'No')

  monkeypatch.setattr(os, 'fsync', fsync)
  # Some file systems cannot do it for folders.
  with pytest.raises(OSError) if fails == 'file' else contextlib.nullcontext():
    cifar10_lock.publish(str(tmp_path / 'new'), str(tmp_path / 'name'))
  assert (tmp_path / 'name').exists() == (fails == 'folder')


def test_missing_folder_is_an_error(tmp_path):
  with pytest.raises(FileNotFoundError):
    with cifar10_lock.locked(str(tmp_path / 'nowhere'), when_busy=refuse):
      pass
