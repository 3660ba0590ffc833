import contextlib
import os
import resource

import pytest
import tensorflow.compat.v1 as tf

import cifar10_checkpoint
from cifar10_console import UserError


def test_checkpoint_of_another_network_is_refused_with_the_variable(tmp_path):
  weights = tf.get_variable('layer/weights', [3, 4])
  global_step = tf.train.get_or_create_global_step()
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    global_step.load(12, session)
    path = tf.train.Saver().save(session, str(tmp_path / 'model.ckpt'))
  assert cifar10_checkpoint.check_fits(path, {'layer/weights': weights}) == 12
  with pytest.raises(UserError, match=r'layer/weights is float32 of shape \[3, 4\] there and '
                     r'float32 of shape \[4\] here'):
    cifar10_checkpoint.check_fits(path, {'layer/weights': tf.get_variable('other', [4])})
  with pytest.raises(UserError, match=r'layer/biases is missing there and float32 of .* here'):
    cifar10_checkpoint.check_fits(path, {'layer/biases': weights})
  with pytest.raises(UserError, match=r'layer/weights is float32 .* there and float64 of shape'):
    cifar10_checkpoint.check_fits(
        path, {'layer/weights': tf.get_variable('double', [3, 4], tf.float64)})


@pytest.fixture
def checkpoint(tmp_path):
  """The path of a checkpoint of a variable `weights`."""
  tf.get_variable('weights', [3])
  tf.train.get_or_create_global_step()
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    return tf.train.Saver().save(session, str(tmp_path / 'model.ckpt'), global_step=5)


def test_latest_checkpoint_is_found(checkpoint, tmp_path):
  assert cifar10_checkpoint.latest(str(tmp_path)) == checkpoint
  assert cifar10_checkpoint.latest(str(tmp_path / 'nowhere')) is None


def test_missing_checkpoint_is_one_sentence(checkpoint, capfd):
  os.remove(checkpoint + '.index')
  with pytest.raises(cifar10_checkpoint.Damaged, match='model.ckpt-5 is missing: start the train'):
    cifar10_checkpoint.check_fits(checkpoint, {})
  assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('suffix, size', [
    ('.index', 0), ('.index', 20), ('.data-00000-of-00001', 0), ('.data-00000-of-00001', 15)])
def test_damaged_checkpoint_is_one_sentence(checkpoint, suffix, size):
  assert os.path.getsize(checkpoint + suffix) > size
  os.truncate(checkpoint + suffix, size)
  with pytest.raises(UserError, match='model.ckpt-5 is damaged'):
    cifar10_checkpoint.check_fits(checkpoint, {v.op.name: v for v in tf.global_variables()})


def test_checkpoint_with_a_wrong_byte_is_noticed(checkpoint):
  with open(checkpoint + '.data-00000-of-00001', 'r+b') as data:
    data.write(b'x')
  with pytest.raises(UserError, match='model.ckpt-5 is damaged'):
    cifar10_checkpoint.check_fits(checkpoint, {v.op.name: v for v in tf.global_variables()})


@contextlib.contextmanager
def _too_many_open_files():
  limits = resource.getrlimit(resource.RLIMIT_NOFILE)
  resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_checkpoint_that_cannot_be_read_as_things_are_is_not_damaged(checkpoint):
  with pytest.raises(UserError, match=r'\(Too many open files\): put that right') as raised:
    with _too_many_open_files():
      cifar10_checkpoint.check_fits(checkpoint, {})
  assert not isinstance(raised.value, cifar10_checkpoint.Damaged)


@pytest.mark.parametrize('contents', [b'', b'nonsense', b'\xff\xfe'])
def test_damaged_name_of_the_latest_checkpoint_is_one_sentence(checkpoint, tmp_path, contents):
  (tmp_path / 'checkpoint').write_bytes(contents)
  with pytest.raises(UserError, match='/checkpoint is damaged'):
    cifar10_checkpoint.latest(str(tmp_path))


@pytest.fixture
def run_dir(tmp_path):
  """A directory with the checkpoints of steps 1 to 4, whose variable `weights` is the step."""
  weights = tf.get_variable('weights', [3])
  global_step = tf.train.get_or_create_global_step()
  saver = tf.train.Saver(save_relative_paths=True)
  with tf.Session() as session:
    for step in range(1, 5):
      weights.load([step] * 3, session)
      global_step.load(step, session)
      saver.save(session, str(tmp_path / 'model.ckpt'), global_step=step)
  return tmp_path


def _recovered(run_dir):
  """Recovers; returns the step, and the steps that TensorFlow knows of, the latest last."""
  path = cifar10_checkpoint.recover(str(run_dir))
  state = tf.train.get_checkpoint_state(str(run_dir))
  assert path == (state and state.model_checkpoint_path)
  return path and int(path.split('-')[-1]), [
      int(path.split('-')[-1]) for path in state.all_model_checkpoint_paths] if state else None


def test_run_in_order_is_left_as_it_is(run_dir, capsys):
  before = {path.name: path.read_bytes() for path in run_dir.iterdir()}
  assert _recovered(run_dir) == (4, [1, 2, 3, 4])
  assert {path.name: path.read_bytes() for path in run_dir.iterdir()} == before
  assert capsys.readouterr().out == ''


def test_empty_directory_has_nothing_to_recover(tmp_path):
  assert _recovered(tmp_path) == (None, None)


def _zero(path):
  os.truncate(path, 0)


def _cut(path):
  os.truncate(path, os.path.getsize(path) - 5)


def _flip(path):
  with open(path, 'r+b') as data:
    data.seek(4)
    byte = data.read(1)[0]
    data.seek(4)
    data.write(bytes([byte ^ 1]))


@pytest.mark.parametrize('suffix', ['.index', '.data-00000-of-00001'])
@pytest.mark.parametrize('damage', [_zero, _cut, _flip, os.remove])
def test_damaged_latest_checkpoint_is_set_aside_and_the_one_before_is_used(
    run_dir, suffix, damage, capsys):
  damage(run_dir / ('model.ckpt-4' + suffix))
  assert _recovered(run_dir) == (3, [1, 2, 3])
  assert capsys.readouterr().out == '%s/model.ckpt-4 %s\n' % (
      run_dir, 'is damaged or missing: set aside, and the one before it is used.')
  assert not list(run_dir.glob('model.ckpt-4*'))
  assert {path.name for path in run_dir.glob('damaged-*')} == {
      'damaged-model.ckpt-4' + other for other in ('.index', '.data-00000-of-00001', '.meta')
      if damage is not os.remove or other != suffix}
  assert _recovered(run_dir) == (3, [1, 2, 3])


@pytest.mark.parametrize('function', [
    cifar10_checkpoint.recover, lambda path: cifar10_checkpoint.check_restart(path, ['weights'])])
def test_checkpoint_that_cannot_be_read_at_the_moment_stays(run_dir, function, monkeypatch):
  def deny(path):
    # As TensorFlow says it.
    raise tf.errors.PermissionDeniedError(None, None, path + '.index; Permission denied')

  monkeypatch.setattr(tf.train, 'load_checkpoint', deny)
  before = sorted(os.listdir(run_dir))
  with pytest.raises(UserError, match=r'model.ckpt-\d.index cannot be read \(Permission denied\)'):
    function(str(run_dir))
  assert sorted(os.listdir(run_dir)) == before


def test_users_files_beside_a_damaged_checkpoint_stay(run_dir):
  _cut(run_dir / 'model.ckpt-4.index')
  (run_dir / 'model.ckpt-4.notes.md').write_text('mine')
  (run_dir / 'model.ckpt-9.index').mkdir()
  assert _recovered(run_dir) == (3, [1, 2, 3])
  assert (run_dir / 'model.ckpt-4.notes.md').read_text() == 'mine'
  assert (run_dir / 'model.ckpt-9.index').is_dir()


def _contents(folder):
  return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob('*')}


FOREIGN_NAMES = [
    'model_checkpoint_path: "ckpt-2"', 'model_checkpoint_path: "mine.ckpt-7"',
    'model_checkpoint_path: "../other/model.ckpt-4"',
    'model_checkpoint_path: "model.ckpt-4"\nall_model_checkpoint_paths: "../other/model.ckpt-3"']


@pytest.mark.parametrize('function', [
    cifar10_checkpoint.recover, cifar10_checkpoint.latest_as_it_is,
    lambda train_dir: cifar10_checkpoint.check_restart(train_dir, ['weights', 'global_step'])])
@pytest.mark.parametrize('contents', FOREIGN_NAMES)
def test_name_of_a_checkpoint_that_is_none_of_the_run_is_refused(run_dir, contents, function):
  # Beside it, or above.
  (run_dir / 'other').mkdir()
  train_dir = run_dir / 'train'
  train_dir.mkdir()
  for path in run_dir.glob('model.ckpt-*'):
    (train_dir / path.name).write_bytes(path.read_bytes())
    path.rename(run_dir / 'other' / path.name)
  for path in (run_dir / 'other').glob('*.index'):
    _cut(path)
  (train_dir / 'checkpoint').write_text(contents)
  before = _contents(run_dir)
  with pytest.raises(UserError, match='which is no model.ckpt-N of this directory: remove it, if'):
    function(str(train_dir))
  assert _contents(run_dir) == before


def test_names_may_be_absolute(run_dir, monkeypatch):
  (run_dir / 'checkpoint').write_text('\n'.join(
      ['model_checkpoint_path: "%s/model.ckpt-4"' % run_dir]
      + ['all_model_checkpoint_paths: "%s/model.ckpt-%d"' % (run_dir, step) for step in (3, 4)]))
  _cut(run_dir / 'model.ckpt-4.index')
  monkeypatch.chdir(run_dir.parent)
  assert cifar10_checkpoint.recover(run_dir.name) == '%s/model.ckpt-3' % run_dir.name


@pytest.mark.parametrize('function', [
    cifar10_checkpoint.recover, cifar10_checkpoint.latest_as_it_is])
def test_directory_in_the_place_of_the_names_is_one_sentence(run_dir, function):
  (run_dir / 'checkpoint').unlink()
  (run_dir / 'checkpoint').mkdir()
  before = _contents(run_dir)
  with pytest.raises(UserError, match='/checkpoint is a directory, in the place of the file that'):
    function(str(run_dir))
  assert _contents(run_dir) == before


def test_run_that_may_not_be_ours_is_left_as_it_is(run_dir):
  (run_dir / 'model.ckpt-5.meta').write_text('mine')
  (run_dir / 'model.ckpt-5_temp').mkdir()
  before = _contents(run_dir)
  assert cifar10_checkpoint.latest_as_it_is(str(run_dir)) == str(run_dir / 'model.ckpt-4')
  assert _contents(run_dir) == before
  _cut(run_dir / 'model.ckpt-4.index')
  before = _contents(run_dir)
  with pytest.raises(UserError, match='is damaged or missing, and no run.json proves that it is'):
    cifar10_checkpoint.latest_as_it_is(str(run_dir))
  (run_dir / 'checkpoint').unlink()
  with pytest.raises(UserError, match='model.ckpt-4 is there, but neither a run.json nor a file'):
    cifar10_checkpoint.latest_as_it_is(str(run_dir))
  del before[run_dir / 'checkpoint']
  assert _contents(run_dir) == before


def test_directory_of_no_run_has_no_checkpoint(tmp_path):
  assert cifar10_checkpoint.latest_as_it_is(str(tmp_path)) is None


def test_readable_checkpoint_without_a_step_is_one_of_another_network(tmp_path):
  weights = tf.get_variable('weights', [3])
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    path = tf.train.Saver().save(session, str(tmp_path / 'model.ckpt'), global_step=4)
  with pytest.raises(UserError, match='of another network: global_step is missing') as error:
    cifar10_checkpoint.check_fits(path, {'weights': weights})
  assert not isinstance(error.value, cifar10_checkpoint.Damaged)
  before = _contents(tmp_path)
  assert cifar10_checkpoint.recover(str(tmp_path)) == path  # And not set aside.
  assert _contents(tmp_path) == before


def test_restart_is_refused_beside_a_checkpoint_of_something_else(run_dir):
  keys = ['weights', 'global_step']
  cifar10_checkpoint.check_restart(str(run_dir), keys)
  _cut(run_dir / 'model.ckpt-3.index')
  cifar10_checkpoint.check_restart(str(run_dir), keys)
  with pytest.raises(UserError, match='model.ckpt-1 is a checkpoint of something else, without mo'):
    cifar10_checkpoint.check_restart(str(run_dir), keys + ['more'])


def test_several_damaged_checkpoints_are_set_aside(run_dir, capsys):
  for step in (2, 3, 4):
    _cut(run_dir / ('model.ckpt-%d.index' % step))
  assert _recovered(run_dir) == (1, [1])
  assert capsys.readouterr().out.count('set aside') == 3


def test_without_any_whole_checkpoint_the_run_starts_anew(run_dir):
  for step in (1, 2, 3, 4):
    _cut(run_dir / ('model.ckpt-%d.index' % step))
  assert _recovered(run_dir) == (None, None)
  assert not (run_dir / 'checkpoint').exists()
  assert len(list(run_dir.glob('damaged-*.index'))) == 4


@pytest.mark.parametrize('contents', [None, b'', b'nonsense', b'\xff\xfe'])
def test_checkpoints_are_found_without_the_file_that_names_them(run_dir, contents):
  (run_dir / 'checkpoint').unlink()
  if contents is not None:
    (run_dir / 'checkpoint').write_bytes(contents)
  assert _recovered(run_dir) == (4, [1, 2, 3, 4])


def test_user_may_choose_an_older_checkpoint_to_go_on_from(run_dir):
  (run_dir / 'checkpoint').write_text('model_checkpoint_path: "model.ckpt-2"\n')
  path = cifar10_checkpoint.recover(str(run_dir))
  assert path.endswith('model.ckpt-2')
  assert cifar10_checkpoint.latest(str(run_dir)) == path


def test_unfinished_files_are_deleted(run_dir):
  unfinished = [
      'checkpoint.tmp0123456789abcdef0123456789abcdef', 'model.ckpt-5.index.tempstate12345',
      'graph.pbtxt.tmp0123456789abcdef0123456789abcdef', 'model.ckpt-5.data-00000-of-00001',
      'model.ckpt-5.data-00000-of-00001.tempstate12345',
      'model.ckpt-5.meta.tmp0123456789abcdef0123456789abcdef', 'model.ckpt-5.meta']
  mine = ['notes.tmp', 'checkpoint.tmpl', 'model.ckpt-5.txt', 'model.ckpt-6_temp']
  before = set(os.listdir(run_dir))
  for name in unfinished + mine:
    if not name.endswith('_temp'):
      (run_dir / name).write_text('mine')
  for step in (5, 6):
    (run_dir / ('model.ckpt-%d_temp' % step)).mkdir()
  (run_dir / 'model.ckpt-6_temp' / 'mine.txt').write_text('mine')
  (run_dir / 'model.ckpt-5_temp' / 'part-00000-of-00001.index').write_text('half')
  assert _recovered(run_dir) == (4, [1, 2, 3, 4])
  assert set(os.listdir(run_dir)) == before | set(mine)
  assert os.listdir(run_dir / 'model.ckpt-6_temp') == ['mine.txt']


def test_checkpoint_that_vanishes_while_it_is_read_is_one_sentence(run_dir):
  saver, path = tf.train.Saver(), str(run_dir / 'model.ckpt-4')

  class Vanishing:
    def restore(self, session, checkpoint):
      os.remove(checkpoint + '.index')
      saver.restore(session, checkpoint)

  variables = {v.op.name: v for v in tf.global_variables()}
  with tf.Session() as session:
    assert cifar10_checkpoint.restore(session, saver, path, variables) == 4
    assert session.run(variables['weights']).tolist() == [4] * 3
    with pytest.raises(cifar10_checkpoint.Damaged, match='model.ckpt-4 has vanished'):
      cifar10_checkpoint.restore(session, Vanishing(), path, variables)


def test_checkpoint_that_cannot_be_restored_has_not_vanished(run_dir):
  class Failing:
    def restore(self, session, checkpoint):
      raise tf.errors.ResourceExhaustedError(None, None, 'out of memory')

  path = str(run_dir / 'model.ckpt-4')
  with pytest.raises(tf.errors.ResourceExhaustedError):
    cifar10_checkpoint.restore(None, Failing(), path, {})
