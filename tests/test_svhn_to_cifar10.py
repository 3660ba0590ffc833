import os
import sys

import numpy as np
import pytest
import scipy.io

from cifar10_support.console import UserError
from exercises import svhn_to_cifar10

BIN = 'cifar-10-batches-bin'
TRAIN = ['data_batch_%d.bin' % i for i in range(1, 6)]


def _save(name, count, seed=0, **changes):
  """Writes a file like SVHN's, with changes (None leaves out); returns its variables."""
  random = np.random.RandomState(seed)
  variables = {'X': random.randint(0, 256, [32, 32, 3, count]).astype(np.uint8),
               'y': random.randint(1, 11, [count, 1]).astype(np.uint8), **changes}
  variables = {key: value for key, value in variables.items() if value is not None}
  scipy.io.savemat(name, variables, do_compression=True)
  return variables


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


@pytest.fixture
def mats():
  return _save('train_32x32.mat', 23, seed=1), _save('test_32x32.mat', 7, seed=2)


def test_images_and_digits_are_those_of_the_files(mats):
  made = svhn_to_cifar10.convert('.', 'svhn')
  assert (made.num_train, made.num_test) == (23, 7)
  assert made.classes == ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
  assert os.listdir('svhn') == [BIN]
  for mat, names in zip(mats, (TRAIN, ['test_batch.bin'])):
    records = np.concatenate([np.fromfile(os.path.join('svhn', BIN, name), np.uint8)
                              for name in names]).reshape(-1, 3073)
    planes = records[:, 1:].reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(planes.transpose(2, 3, 1, 0), mat['X'])
    assert records[:, 0].tolist() == [0 if digit == 10 else digit for digit in mat['y'][:, 0]]


def test_training_files_are_about_equally_long(mats):
  svhn_to_cifar10.convert('.', 'svhn')
  assert [os.path.getsize(os.path.join('svhn', BIN, name)) / 3073 for name in TRAIN] == [
      5, 5, 5, 4, 4]


X = np.zeros([32, 32, 3, 6], np.uint8)


def _write(contents):
  def damage(path):
    with open(path, 'wb') as out:
      out.write(contents)
  return damage


@pytest.mark.parametrize('damage', [
    os.remove,
    lambda path: os.remove(path) or os.mkdir(path),
    lambda path: os.truncate(path, os.path.getsize(path) // 2),
    lambda path: os.truncate(path, 0),
    _write(100 * b'<html>Not found</html>'),
    _write(b'MATLAB 7.3 MAT-file'.ljust(124) + b'\0\2IM' + 384 * b'\0' + b'\x89HDF\r\n\x1a\n'),
    lambda path: _save(path, 6, X=None),
    lambda path: _save(path, 6, X=X[:28]),
    lambda path: _save(path, 6, X=X.transpose(3, 0, 1, 2)),
    lambda path: _save(path, 6, X=X.astype(float)),
    lambda path: _save(path, 6, y=None),
    lambda path: _save(path, 6, y=np.ones([5, 1])),
    lambda path: _save(path, 6, y=np.array([[1, 2, 3, 10, 11, 1]]).T),
    lambda path: _save(path, 6, y=np.zeros([6, 1])),
    lambda path: _save(path, 6, y=np.full([6, 1], 1.5)),
])
def test_file_that_is_not_svhns_is_one_line_and_nothing_is_written(damage, mats):
  damage('train_32x32.mat')
  before = sorted(os.listdir())
  with pytest.raises(UserError) as error:
    svhn_to_cifar10.convert('.', 'svhn')
  assert 'train_32x32.mat' in str(error.value)
  assert 'http://ufldl.stanford.edu/housenumbers/' in str(error.value)
  assert sorted(os.listdir()) == before


def test_missing_scipy_is_one_line(mats, monkeypatch):
  monkeypatch.setitem(sys.modules, 'scipy.io', None)
  with pytest.raises(UserError, match='pip install scipy'):
    svhn_to_cifar10.convert('.', 'svhn')


def test_data_set_that_is_there_is_not_overwritten(mats):
  svhn_to_cifar10.convert('.', 'svhn')
  before = os.path.getsize(os.path.join('svhn', BIN, 'test_batch.bin'))
  _save('test_32x32.mat', 9)
  with pytest.raises(UserError, match='--output_dir'):
    svhn_to_cifar10.convert('.', 'svhn')
  assert os.path.getsize(os.path.join('svhn', BIN, 'test_batch.bin')) == before
