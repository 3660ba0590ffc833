import errno
import json
import os
import re

import pytest
import tensorflow.compat.v1 as tf

from cifar10_support import files
from cifar10_support import runs
from cifar10_support.console import UserError
from conftest import contents

FLAGS = {'max_steps': 7, 'batch_size': 3}
CLASSES = ('hot', 'cold')


def _start(train_dir, flags=FLAGS, classes=CLASSES, restart=False):
  with runs.locked(str(train_dir), restart):
    runs.record_start(str(train_dir), flags, {'classes': list(classes)})


@pytest.fixture(autouse=True)
def current_directory(tmp_path, monkeypatch):
  here = tmp_path / 'here'
  here.mkdir()
  monkeypatch.chdir(here)


@pytest.fixture
def train_dir(tmp_path):
  """The directory of a run, with files of the user's."""
  path = tmp_path / 'train'
  _start(path)
  (path / 'notes.txt').write_text('mine')
  (path / 'plots').mkdir()
  (path / 'plots' / 'loss.png').write_text('mine too')
  return path


def test_start_is_recorded(train_dir):
  record = json.loads((train_dir / 'run.json').read_text())
  assert record['flags'] == FLAGS
  assert record['classes'] == ['hot', 'cold']
  assert record['tensorflow'] == tf.__version__
  assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d', record['started'])
  assert record['earlier'] == []


def test_record_appears_whole_or_not_at_all(train_dir, monkeypatch):
  def fail(source, target):
    json.loads(open(source).read())
    raise OSError(errno.ENOSPC, 'No space left on device')

  before = (train_dir / 'run.json').read_bytes()
  monkeypatch.setattr(files, 'publish', fail)
  with pytest.raises(UserError, match='%s .*No space left on device.*--train_dir' % train_dir):
    _start(train_dir)
  assert (train_dir / 'run.json').read_bytes() == before


def test_later_start_keeps_the_earlier_ones(train_dir):
  first = runs.read(str(train_dir))
  for max_steps in (8, 9):
    _start(train_dir, dict(FLAGS, max_steps=max_steps))
  record = runs.read(str(train_dir))
  assert record['flags']['max_steps'] == 9
  assert [start['flags']['max_steps'] for start in record['earlier']] == [7, 8]
  assert record['earlier'][0]['started'] == first['started']
  assert 'earlier' not in record['earlier'][1]


@pytest.mark.parametrize('path', ['no run', 'no run/deeper', '/dev/null'])
def test_directory_of_no_run_has_no_record(path):
  assert runs.read(path) is None


@pytest.mark.parametrize('contents', [
    '', '{"flags"', '[]', '{}', 'null', '\xff',
    '{"classes": [], "flags": [], "earlier": []}',
    '{"classes": [], "flags": {"max_steps": "7"}, "earlier": []}',
    '{"classes": [], "flags": {"max_steps": 7}, "earlier": {}}',
    '{"classes": "hot", "flags": {"max_steps": 7}, "earlier": []}'])
def test_damaged_record_is_named(train_dir, contents):
  (train_dir / 'run.json').write_bytes(contents.encode('latin-1'))
  with pytest.raises(UserError, match='%s/run.json ' % train_dir):
    runs.read(str(train_dir))


def test_record_without_permission_cannot_be_read(train_dir, monkeypatch):
  path = str(train_dir / 'run.json')
  open_before = open

  def deny(name, *args, **kwargs):
    if name == path:
      raise PermissionError(errno.EACCES, 'Permission denied', name)
    return open_before(name, *args, **kwargs)

  monkeypatch.setattr('builtins.open', deny)
  with pytest.raises(UserError, match='%s .*Permission denied' % path):
    runs.read(str(train_dir))


@pytest.mark.parametrize('path', ['/dev/null', '/dev/null/train', '/proc/train', '/proc/self'])
@pytest.mark.parametrize('restart', [False, True])
def test_directory_that_cannot_be_written_to_is_named(path, restart):
  with pytest.raises(UserError, match='%s .*--train_dir' % path):
    _start(path, restart=restart)


@pytest.mark.parametrize('path', [
    '', 'run[1]', 'run*', 'run?', 'run\\1', 'run\n', 'gs://bucket/run', '/dev/null'])
def test_path_that_cannot_be_a_run_is_refused_with_its_flag(path):
  with pytest.raises(UserError, match='--eval_dir'):
    runs.check_directory(path, 'eval_dir')


@pytest.mark.parametrize('path', ['.', '..', 'new', 'new/deeper', 'with space', 'gr\xfc\xdfe'])
def test_any_other_path_can_be_one(path):
  runs.check_directory(path, 'eval_dir')


def test_two_processes_do_not_train_in_one_directory(train_dir):
  with runs.locked(str(train_dir)):
    for restart in (False, True):
      with pytest.raises(UserError, match='%s.*--train_dir' % train_dir):
        _start(train_dir, restart=restart)
  assert train_dir.is_dir()
  _start(train_dir)


# --restart


def _renamed(train_dir):
  """Returns the directories that runs were renamed to."""
  return [path for path in train_dir.parent.iterdir()
          if re.fullmatch(re.escape(train_dir.name) + r'\.old-\d{8}-\d{6}', path.name)]


def test_restart_renames_the_run_says_so_and_keeps_every_file(train_dir, capsys):
  before = contents(train_dir)
  _start(train_dir, restart=True)
  [old] = _renamed(train_dir)
  assert contents(old) == before
  assert os.listdir(train_dir) == ['run.json']
  assert runs.read(str(train_dir))['earlier'] == []
  out = capsys.readouterr().out
  assert str(train_dir) in out and str(old) in out


def test_restart_renames_the_evaluations_of_the_run_beside_it_and_no_others(
    train_dir, tmp_path, capsys):
  other = tmp_path / 'other'
  _start(other)
  evaluations = {'eval': [train_dir], 'raw': [train_dir], 'of both': [other, train_dir],
                 'of the other': [other], 'of none': []}
  for name, evaluated in evaluations.items():
    (tmp_path / name).mkdir()
    (tmp_path / name / 'events').write_text(name)
    for run in evaluated:
      # As from any directory, and through any link.
      runs.record_evaluation(str(tmp_path / name), os.path.relpath(run))
  (tmp_path / 'damaged').mkdir()
  (tmp_path / 'damaged' / 'evaluated.json').write_text('{')
  capsys.readouterr()
  _start(train_dir, restart=True)
  ending = _renamed(train_dir)[0].name[len('train'):]
  assert {path.name for path in tmp_path.iterdir()} == {
      'here', 'train', 'train' + ending, 'eval' + ending, 'raw' + ending, 'of both' + ending,
      'other', 'of the other', 'of none', 'damaged'}
  assert (tmp_path / ('eval' + ending) / 'events').read_text() == 'eval'
  assert str(tmp_path / ('raw' + ending)) in capsys.readouterr().out
  # And stay where they are when the next run is put aside.
  for name in ('train', 'eval'):
    (tmp_path / (name + ending)).rename(tmp_path / (name + '.old-20151104-114549'))
  _start(train_dir, restart=True)
  assert (tmp_path / 'eval.old-20151104-114549').is_dir()


def test_second_run_in_a_directory_of_evaluations_is_said(train_dir, tmp_path, capsys):
  for run, is_said in [(train_dir, False), (train_dir, False), (tmp_path / 'other', True),
                       (train_dir, False)]:
    runs.record_evaluation(str(tmp_path), str(run))
    out = capsys.readouterr().out
    assert (str(train_dir) in out and '--eval_dir' in out) == is_said == bool(out)


# The original has no run.json, and in its first form a checkpoint was one file.
@pytest.mark.parametrize('names', [
    ['checkpoint', 'model.ckpt-7.index'], ['model.ckpt-7.index'], ['model.ckpt-7']])
def test_restart_renames_whatever_would_be_resumed(tmp_path, names):
  train_dir = tmp_path / 'train'
  train_dir.mkdir()
  for name in names:
    (train_dir / name).write_text(name)
  _start(train_dir, restart=True)
  [old] = _renamed(train_dir)
  assert sorted(os.listdir(old)) == names


@pytest.mark.parametrize('names', [
    [], ['notes.txt'], ['checkpoint'], ['model.ckpt-7.meta'], ['book.index'],
    ['train/run.json']])
def test_restart_leaves_a_directory_without_a_run_as_it_is(tmp_path, names):
  train_dir = tmp_path / 'other'
  train_dir.mkdir()
  for name in names:
    (train_dir / name).parent.mkdir(exist_ok=True)
    (train_dir / name).write_text('model_checkpoint_path: "model.ckpt-7"')
  before = contents(train_dir)
  _start(train_dir, restart=True)
  assert _renamed(train_dir) == []
  after = contents(train_dir)
  assert after.pop('run.json')
  assert after == before


def test_restart_makes_a_directory_that_is_not_there(tmp_path):
  _start(tmp_path / 'new', restart=True)
  assert os.listdir(tmp_path / 'new') == ['run.json']


@pytest.mark.parametrize('here', ['.', 'plots'])
def test_restart_does_not_rename_where_you_are(train_dir, here, monkeypatch):
  monkeypatch.chdir(train_dir / here)
  before = contents(train_dir)
  for path in (str(train_dir), os.path.relpath(train_dir)):
    with pytest.raises(UserError, match='--restart .*%s.*--train_dir' % re.escape(path)):
      _start(path, restart=True)
  assert contents(train_dir) == before
  assert _renamed(train_dir) == []


def test_restart_does_not_rename_a_mount_point(train_dir, monkeypatch):
  monkeypatch.setattr(os.path, 'ismount', lambda path: path == str(train_dir))
  before = contents(train_dir)
  with pytest.raises(UserError, match='--restart .*%s.*--train_dir' % train_dir):
    _start(train_dir, restart=True)
  assert contents(train_dir) == before
  assert _renamed(train_dir) == []


def test_restart_keeps_a_symbolic_link_and_renames_what_is_behind_it(train_dir, tmp_path):
  link = tmp_path / 'here' / 'link'
  link.symlink_to(train_dir)
  before = contents(train_dir)
  _start(link, restart=True)
  assert link.is_symlink()
  [old] = _renamed(train_dir)
  assert contents(old) == before
  assert os.listdir(train_dir) == os.listdir(link) == ['run.json']


def test_restart_of_a_run_that_cannot_be_renamed_names_it(train_dir, monkeypatch):
  def deny(source, target):
    raise PermissionError(errno.EACCES, 'Permission denied', source)

  monkeypatch.setattr(os, 'rename', deny)
  before = contents(train_dir)
  with pytest.raises(UserError, match='%s .*Permission denied.*--train_dir' % train_dir):
    _start(train_dir, restart=True)
  assert contents(train_dir) == before
