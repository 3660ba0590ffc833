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


def test_missing_folder_is_an_error(tmp_path):
  with pytest.raises(FileNotFoundError):
    with cifar10_lock.locked(str(tmp_path / 'nowhere'), when_busy=refuse):
      pass
