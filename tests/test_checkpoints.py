import contextlib
import os
import re
import resource
import shutil

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_eval
import cifar10_predict
from cifar10_support import checkpoints
from cifar10_support import dataset
from cifar10_support import runs
from cifar10_support.console import UserError
import cifar10_train
from conftest import contents

FLAGS = tf.app.flags.FLAGS

DATA = '.data-00000-of-00001'


@pytest.fixture(scope='module')
def four_checkpoints(tmp_path_factory):
  path = tmp_path_factory.mktemp('run')
  with tf.Graph().as_default(), tf.Session() as session:
    weights = tf.get_variable('weights', [3])
    global_step = tf.train.get_or_create_global_step()
    saver = tf.train.Saver(save_relative_paths=True)
    for step in range(1, 5):
      weights.load([step] * 3, session)
      global_step.load(step, session)
      saver.save(session, str(path / 'model.ckpt'), global_step=step)
  return path


@pytest.fixture
def run_dir(four_checkpoints, tmp_path):
  """A directory with the checkpoints of steps 1 to 4, whose variable `weights` is the step."""
  return shutil.copytree(four_checkpoints, tmp_path / 'run')


def _steps(run_dir):
  return [int(path.split('-')[-1]) for path in checkpoints.paths(str(run_dir))]


def test_latest_checkpoint_comes_first(run_dir):
  assert checkpoints.paths(str(run_dir)) == [
      str(run_dir / ('model.ckpt-%d' % step)) for step in (4, 3, 2, 1)]


def test_step_10_is_later_than_step_9(run_dir):
  (run_dir / 'checkpoint').unlink()
  for path in run_dir.glob('model.ckpt-1.*'):
    path.rename(run_dir / path.name.replace('-1.', '-10.'))
  assert _steps(run_dir) == [10, 4, 3, 2]


@pytest.mark.parametrize('directory', ['', 'nowhere'])
def test_directory_of_no_run_has_no_checkpoint(tmp_path, directory):
  assert checkpoints.paths(str(tmp_path / directory)) == []
  assert checkpoints.latest_intact(str(tmp_path / directory)) is None


def test_checkpoint_is_read(run_dir, capsys):
  before = contents(run_dir)
  checkpoint = checkpoints.latest_intact(str(run_dir))
  assert checkpoint.path == str(run_dir / 'model.ckpt-4')
  assert checkpoint.step == 4
  assert checkpoint.contents == {'weights': (tf.float32, [3]), 'global_step': (tf.int64, [])}
  assert contents(run_dir) == before
  assert capsys.readouterr().out == ''


@pytest.mark.parametrize('replace', [
    lambda path: None, os.mkdir, *[lambda path, contents=contents: path.write_bytes(contents)
                                   for contents in (b'', b'nonsense', b'\xff\xfe')]])
def test_checkpoints_are_found_without_a_file_that_names_them(run_dir, replace):
  (run_dir / 'checkpoint').unlink()
  replace(run_dir / 'checkpoint')
  assert _steps(run_dir) == [4, 3, 2, 1]


def test_user_may_choose_an_older_checkpoint(run_dir):
  (run_dir / 'checkpoint').write_text('model_checkpoint_path: "model.ckpt-2"\n')
  assert _steps(run_dir) == [2, 4, 3, 1]
  assert checkpoints.latest_intact(str(run_dir)).step == 2


@pytest.mark.parametrize('old_place_exists', [True, False])
def test_only_the_names_of_absolute_paths_count(run_dir, tmp_path, old_place_exists):
  old, new = tmp_path / 'old', tmp_path / 'new'
  shutil.copytree(run_dir, old)
  (old / 'checkpoint').write_text('model_checkpoint_path: "%s/model.ckpt-3"\n' % old)
  shutil.copytree(old, new)
  if not old_place_exists:
    shutil.rmtree(old)
  assert checkpoints.paths(str(new))[0] == str(new / 'model.ckpt-3')


def _zero(path):
  os.truncate(path, 0)


def _cut(path):
  os.truncate(path, os.path.getsize(path) - 5)


def _flip(path):
  contents = bytearray(path.read_bytes())
  contents[4] ^= 1
  path.write_bytes(contents)


def _directory(path):
  path.unlink()
  path.mkdir()


@pytest.mark.parametrize('suffix', ['.index', DATA])
@pytest.mark.parametrize('damage', [_zero, _cut, _flip, os.remove, _directory])
def test_damaged_latest_checkpoint_is_passed_over_with_a_line(run_dir, suffix, damage, capfd):
  damage(run_dir / ('model.ckpt-4' + suffix))
  before = contents(run_dir)
  assert checkpoints.latest_intact(str(run_dir)).path == str(run_dir / 'model.ckpt-3')
  out, err = capfd.readouterr()
  assert out.count('\n') == 1
  assert 'model.ckpt-4' in out
  assert err == ''
  assert contents(run_dir) == before


@pytest.mark.parametrize('damage', [_zero, _cut, _flip, os.remove, _directory])
def test_one_checkpoint_that_is_named_has_to_be_whole(run_dir, damage):
  damage(run_dir / 'model.ckpt-4.index')
  with pytest.raises(checkpoints.Damaged, match='model.ckpt-4 is'):
    checkpoints.read(str(run_dir / 'model.ckpt-4'))


def test_directory_whose_checkpoints_are_all_damaged_is_an_error(run_dir, capsys):
  for step in (1, 2, 3, 4):
    _cut(run_dir / ('model.ckpt-%d.index' % step))
  before = contents(run_dir)
  with pytest.raises(checkpoints.Damaged, match='%s ' % run_dir):
    checkpoints.latest_intact(str(run_dir))
  lines = capsys.readouterr().out.splitlines()
  assert [re.search('model.ckpt-([0-9])', line).group(1) for line in lines] == list('4321')
  assert contents(run_dir) == before


@contextlib.contextmanager
def _too_many_open_files():
  limits = resource.getrlimit(resource.RLIMIT_NOFILE)
  resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_checkpoint_that_cannot_be_read_at_the_moment_is_not_damaged(run_dir):
  with pytest.raises(UserError, match='model.ckpt-4.*Too many open files') as raised:
    with _too_many_open_files():
      checkpoints.read(str(run_dir / 'model.ckpt-4'))
  assert not isinstance(raised.value, checkpoints.Damaged)


def test_checkpoint_without_permission_is_no_reason_to_take_an_older_one(run_dir, monkeypatch):
  def deny(path):
    # As TensorFlow words it.
    raise tf.errors.PermissionDeniedError(None, None, path + '.index; Permission denied')

  monkeypatch.setattr(tf.train, 'load_checkpoint', deny)
  with pytest.raises(UserError, match='model.ckpt-4.index .*Permission denied') as raised:
    checkpoints.latest_intact(str(run_dir))
  assert not isinstance(raised.value, checkpoints.Damaged)


def test_directory_without_permission_is_not_an_empty_one(run_dir, monkeypatch):
  def deny(path):
    raise PermissionError(13, 'Permission denied', path)

  monkeypatch.setattr(os, 'listdir', deny)
  with pytest.raises(PermissionError):  # Which `console.run` says in one line.
    checkpoints.latest_intact(str(run_dir))


def test_checkpoint_of_another_network_is_refused_with_the_variable(run_dir):
  checkpoint = checkpoints.latest_intact(str(run_dir))
  for dtype in (tf.float32, tf.float64, tf.float16):  # `restore` converts.
    checkpoints.check_fits(checkpoint, {'weights': tf.get_variable(dtype.name, [3], dtype)})
  for key, other, expected in [
      ('weights', tf.get_variable('longer', [4]), r'weights is float32 .*\[3\].*float32 .*\[4\]'),
      ('weights', tf.get_variable('whole', [3], tf.int32), 'weights is float32 .*int32'),
      ('biases', tf.get_variable('biases', [3]), r'biases is missing .*float32 .*\[3\]')]:
    with pytest.raises(UserError, match='model.ckpt-4.*' + expected):
      checkpoints.check_fits(checkpoint, {key: other})


def test_checkpoint_that_vanishes_before_it_is_restored_is_damaged(run_dir):
  weights = tf.get_variable('weights', [3])
  checkpoint = checkpoints.latest_intact(str(run_dir))
  with tf.Session() as session:
    checkpoints.restore(session, checkpoint, [('weights', weights)])
    assert session.run(weights).tolist() == [4] * 3
    os.remove(checkpoint.path + '.index')
    with pytest.raises(checkpoints.Damaged, match='model.ckpt-4'):
      checkpoints.restore(session, checkpoint, [('weights', weights)])


def test_checkpoint_that_cannot_be_restored_has_not_vanished(run_dir):
  class Failing:
    dtype = tf.float32

    def load(self, value, session):
      raise tf.errors.ResourceExhaustedError(None, None, 'out of memory')

  with pytest.raises(tf.errors.ResourceExhaustedError):
    checkpoints.restore(None, checkpoints.latest_intact(str(run_dir)), [('weights', Failing())])


# What the scripts do with --checkpoint_dir and --train_dir, on the network itself.


@pytest.fixture
def trained(save, small_data_dir, tmp_path, monkeypatch):
  """The directory of a run with untrained networks of steps 3 and 5, in the current directory."""
  monkeypatch.chdir(tmp_path)
  for step in (3, 5):
    save(step, max_steps=5, classes=dataset.find(small_data_dir, 10).classes,
         flags={'data_dir': small_data_dir})
  return tmp_path / 'cifar10' / 'train'


def _evaluated_step(small_data_dir, tmp_path, *args):
  """Evaluates; returns the step that the event file has."""
  FLAGS(['pytest', '--data_dir=' + small_data_dir, '--run_once', '--batch_size=50',
         '--num_examples=50', *args])
  cifar10_eval.main()
  [events] = (tmp_path / 'cifar10' / 'eval').glob('events.*')
  [step] = [event.step for event in tf.train.summary_iterator(str(events))
            for value in event.summary.value if value.tag == 'precision @ 1']
  return step


def test_evaluation_prediction_and_training_need_no_file_that_names_the_checkpoints(
    trained, small_data_dir, tmp_path, capsys):
  (trained / 'checkpoint').unlink()
  assert _evaluated_step(small_data_dir, tmp_path) == 5

  assert cifar10_predict.predict([]) == []
  assert runs.find_checkpoint('cifar10/train', 'any').path == 'cifar10/train/model.ckpt-5'

  FLAGS(['pytest', '--data_dir=' + small_data_dir, '--batch_size=2', '--min_queue_examples=1',
         '--max_steps=6'])
  capsys.readouterr()
  cifar10_train.main()
  assert 'from step 5' in capsys.readouterr().out


@pytest.mark.parametrize('key, initial, dtype, write_version', [
    ('Variable', 7, tf.float16, tf.train.SaverDef.V2),
    ('global_step', 7.0, tf.float32, tf.train.SaverDef.V1)], ids=['int32', 'float32'])
def test_checkpoints_of_2015_are_evaluated_and_resumed(
    key, initial, dtype, write_version, tmp_path, small_data_dir, monkeypatch, capsys):
  """The first forms counted in an int32 `Variable` or in float32, and wrote one file each time.

  With --use_fp16 all other variables were of half precision.
  """
  monkeypatch.chdir(tmp_path)
  train_dir = tmp_path / 'cifar10' / 'train'
  train_dir.mkdir(parents=True)
  with tf.Graph().as_default(), tf.Session() as session:
    tf.Variable(initial, name=key, trainable=False)
    with tf.variable_scope('', dtype=dtype):
      cifar10.inference(tf.zeros([1, 24, 24, 3], dtype))
    averages = tf.train.ExponentialMovingAverage(cifar10.MOVING_AVERAGE_DECAY)
    averages.apply(tf.trainable_variables())
    session.run(tf.global_variables_initializer())
    weights = session.run(tf.trainable_variables()[2])
    assert weights.dtype == dtype.as_numpy_dtype
    tf.train.Saver(write_version=write_version).save(
        session, str(train_dir / 'model.ckpt'), global_step=7, write_meta_graph=False)
  is_one_file = write_version == tf.train.SaverDef.V1
  assert (train_dir / 'model.ckpt-7').exists() == is_one_file
  (train_dir / 'checkpoint').unlink()
  assert _evaluated_step(small_data_dir, tmp_path) == 7

  FLAGS(['pytest', '--data_dir=' + small_data_dir, '--batch_size=2', '--min_queue_examples=1',
         '--max_steps=8'])
  cifar10_train.main()
  assert 'from step 7' in capsys.readouterr().out
  reader = tf.train.load_checkpoint('cifar10/train')
  assert reader.get_tensor('global_step') == 8
  assert reader.get_variable_to_dtype_map()['global_step'] == tf.int64
  after = reader.get_tensor('conv2/weights')
  assert after.dtype == np.float32
  np.testing.assert_allclose(after, weights, atol=0.02)
  assert (after != weights).any()
