import os
import sys

import hypothesis
from hypothesis import strategies
import numpy as np
import pytest
import scipy.io

import cifar10_dataset
import numpy_network
import svhn_to_cifar10
import warm_process
from cifar10_console import UserError

BIN = 'cifar-10-batches-bin'


def _save(path, count, seed=0, **changes):
  """Writes such a file as SVHN's, with changes; returns its images [n, 32, 32, 3] and digits."""
  random = np.random.RandomState(seed)
  variables = {'X': random.randint(0, 256, [32, 32, 3, count]).astype(np.uint8),
               'y': random.randint(1, 11, [count, 1]).astype(np.uint8)}
  scipy.io.savemat(str(path), {name: value for name, value in {**variables, **changes}.items()
                               if value is not None}, do_compression=True)
  return np.moveaxis(variables['X'], 3, 0), variables['y']


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  """The current directory, with the two files in it."""
  path = tmp_path / 'home'
  path.mkdir()
  monkeypatch.chdir(path)
  return path


@pytest.fixture
def mats(home):
  return _save('train_32x32.mat', 23, seed=1), _save('test_32x32.mat', 7, seed=2)


def _read(*names):
  parts = [numpy_network.read(os.path.join('svhn', BIN, name)) for name in names]
  return [np.concatenate(values) for values in zip(*parts)]


def test_images_and_digits_are_those_of_the_files(mats):
  assert svhn_to_cifar10.convert('.', 'svhn') == (23, 7)
  for (images, y), names in zip(mats, (['data_batch_%d.bin' % i for i in range(1, 6)],
                                       ['test_batch.bin'])):
    written, labels = _read(*names)
    np.testing.assert_array_equal(written, images)
    assert labels.tolist() == [0 if digit == 10 else digit for digit in y[:, 0]]
  assert os.listdir('svhn') == [BIN]
  assert cifar10_dataset.classes(os.path.join('svhn', BIN)) == tuple('0123456789')


def test_number_of_images_comes_from_the_files(mats):
  svhn_to_cifar10.convert('.', 'svhn')
  folder = cifar10_dataset.locate('svhn')
  assert cifar10_dataset.count(folder, 'train_eval') == 23
  assert cifar10_dataset.count(folder, 'test') == 7
  sizes = map(os.path.getsize, cifar10_dataset.files(folder, 'train_eval'))
  assert [size / 3073 for size in sizes] == [5, 5, 5, 4, 4]


def test_training_and_evaluation_take_the_folder(home):
  _save('train_32x32.mat', 50)
  _save('test_32x32.mat', 30)
  for script, args, line in (
      ('svhn_to_cifar10.py', [], 'Wrote 50 images for training and 30 for testing to svhn.\n'),
      ('cifar10_train.py', ['--data_dir=svhn', '--max_steps=1', '--batch_size=8'], 'step 0, loss'),
      ('cifar10_eval.py', ['--data_dir=svhn', '--run_once'], 'precision @ 1 = ')):
    process = warm_process.WarmProcess(home, script, args)
    assert (process.wait(), process.err) == (0, '')
    assert line in process.out


def _cut(path):
  os.truncate(path, os.path.getsize(path) // 2)


def _text(path):
  with open(path, 'w') as out:
    out.write('<html>Not found</html>' * 100)


def _matlab73(path):
  with open(path, 'wb') as out:
    out.write(b'MATLAB 7.3 MAT-file'.ljust(124) + b'\0\2IM' + 384 * b'\0' + b'\x89HDF\r\n\x1a\n')


NO_X = r'train_32x32.mat has no X of uint8 and shape \[32, 32, 3, n\]: take the file'
NO_Y = r'train_32x32.mat has no y of numbers and shape \[6, 1\], one for each image: take'
X = np.zeros([32, 32, 3, 6], np.uint8)


@pytest.mark.parametrize('damage, sentence', [
    (os.remove, r'train_32x32.mat cannot be read \(No such file or directory\): fetch it from'),
    (lambda path: os.remove(path) or os.mkdir(path), r'cannot be read \(Is a directory\)'),
    (_cut, 'train_32x32.mat is damaged, or not a .mat file of MATLAB before 7.3: fetch it again'),
    (lambda path: os.truncate(path, 0), 'train_32x32.mat is damaged'),
    (_text, 'train_32x32.mat is damaged'),
    (_matlab73, 'train_32x32.mat is damaged, or not a .mat file of MATLAB before 7.3'),
    (lambda path: _save(path, 6, X=None), NO_X),
    (lambda path: _save(path, 6, X=X[:28]), NO_X),
    (lambda path: _save(path, 6, X=X.transpose(3, 0, 1, 2)), NO_X),
    (lambda path: _save(path, 6, X=X.astype(float)), NO_X),
    (lambda path: _save(path, 6, X='pictures'), NO_X),
    (lambda path: _save(path, 6, y=None), NO_Y),
    (lambda path: _save(path, 6, y=np.ones([5, 1])), NO_Y),
    (lambda path: _save(path, 6, y='123456'), NO_Y),
    (lambda path: _save(path, 6, y=np.array([[1, 2, 3, 10, 11, 1]]).T),
     'has label 11 for image 4, not 1 to 10: it is damaged'),
    (lambda path: _save(path, 6, y=np.zeros([6, 1])), 'has label 0.0 for image 0, not 1 to 10'),
    (lambda path: _save(path, 6, y=np.full([6, 1], 1.5)), 'has label 1.5 for image 0'),
    (lambda path: _save(path, 6, y=np.full([6, 1], np.nan)), 'has label nan for image 0'),
    (lambda path: _save(path, 4), 'The .mat files in . have 4 and 7 images, too few for 5 files'),
])
def test_file_that_is_not_svhns_is_one_sentence_and_nothing_is_written(mats, damage, sentence):
  damage('train_32x32.mat')
  before = sorted(os.listdir())
  with pytest.raises(UserError, match=sentence):
    svhn_to_cifar10.convert('.', 'svhn')
  assert sorted(os.listdir()) == before


def test_missing_scipy_is_one_sentence(mats, monkeypatch):
  monkeypatch.setitem(sys.modules, 'scipy.io', None)
  with pytest.raises(UserError, match=r"scipy is missing, .* pip install -e '.\[svhn\]'"):
    svhn_to_cifar10.convert('.', 'svhn')


def test_data_set_that_is_there_is_not_overwritten(mats):
  svhn_to_cifar10.convert('.', 'svhn')
  before = _read('test_batch.bin')
  _save('test_32x32.mat', 9)
  with pytest.raises(UserError, match='There is a data set in svhn already: name another folder'):
    svhn_to_cifar10.convert('.', 'svhn')
  np.testing.assert_array_equal(_read('test_batch.bin')[0], before[0])


@pytest.mark.parametrize('output_dir', ['/dev/null/svhn', '/proc/self'])
def test_folder_that_cannot_be_written_is_one_sentence(mats, output_dir):
  with pytest.raises(UserError, match='Cannot make the data set in %s ' % output_dir):
    svhn_to_cifar10.convert('.', output_dir)


def test_full_disk_is_one_sentence(home):
  _save('train_32x32.mat', 50)
  _save('test_32x32.mat', 30)
  process = warm_process.WarmProcess(home, 'svhn_to_cifar10.py', [], largest_file=5000)
  assert process.wait() == 1
  assert 'Cannot make the data set in svhn (File too large): ' in process.err
  assert os.listdir(home / 'svhn') == []


@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
@hypothesis.given(edits=strategies.lists(strategies.tuples(
    strategies.integers(0, 1 << 14), strategies.integers(0, 12), strategies.binary(max_size=12)),
    min_size=1, max_size=3))
def test_any_file_is_read_or_refused_in_a_sentence(edits, tmp_path_factory):
  folder = tmp_path_factory.mktemp('fuzz')
  path = folder / 'train_32x32.mat'
  _save(path, 5)
  contents = path.read_bytes()
  for start, count, replacement in edits:
    start %= len(contents)
    contents = contents[:start] + replacement + contents[start + count:]
  path.write_bytes(contents)
  try:
    planes, labels = svhn_to_cifar10.read(str(path))
  except UserError as error:
    assert 'train_32x32.mat' in str(error)
  else:
    assert planes.shape == (len(labels), 3, 32, 32)


def test_script_without_the_files_ends_in_one_sentence(home):
  process = warm_process.WarmProcess(home, 'svhn_to_cifar10.py', ['--mat_dir=nowhere'])
  assert process.wait() == 1
  assert process.err.startswith('svhn_to_cifar10.py: nowhere/train_32x32.mat cannot be read (')
  assert process.err.count('\n') == 1
  assert os.listdir(home) == []
