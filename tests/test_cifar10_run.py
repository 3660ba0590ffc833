import json
import os

import pytest
import tensorflow.compat.v1 as tf

import cifar10_run
from cifar10_console import UserError

FLAGS = {'synthetic': False, 'max_steps': 7}


# Files of the user's whose names resemble those of training.
MINE = ['notes.txt', 'model.txt', 'graph.png', 'events.csv', 'run.json.bak', 'checkpoint.md']


@pytest.fixture
def train_dir(tmp_path):
  """The directory of a run as training leaves it, with files of the user's."""
  path = tmp_path / 'train [1]*'  # Not a pattern.
  cifar10_run.start(str(path), FLAGS)
  for name in ('checkpoint', 'model.ckpt-7.index', 'model.ckpt-7.data-00000-of-00001',
               'graph.pbtxt', 'events.out.tfevents.1.host', *MINE):
    (path / name).write_text(name)
  return path


def test_start_is_recorded(train_dir):
  record = json.loads((train_dir / 'run.json').read_text())
  assert record['flags'] == FLAGS
  assert record['tensorflow'] == tf.__version__
  assert record['started'][:2] == '20'
  assert record['earlier'] == []


def test_later_start_keeps_the_earlier_ones(train_dir):
  first = cifar10_run.read(str(train_dir))
  for max_steps in (8, 9):
    cifar10_run.start(str(train_dir), dict(FLAGS, max_steps=max_steps))
  record = cifar10_run.read(str(train_dir))
  assert record['flags']['max_steps'] == 9
  assert [start['flags']['max_steps'] for start in record['earlier']] == [7, 8]
  assert record['earlier'][0]['started'] == first['started']
  assert 'earlier' not in record['earlier'][1]


@pytest.mark.parametrize('contents', ['', '{"flags"', '[]', '{}', 'null'])
def test_damaged_record_is_one_sentence(train_dir, contents):
  (train_dir / 'run.json').write_text(contents)
  with pytest.raises(UserError, match='run.json is damaged: remove it'):
    cifar10_run.read(str(train_dir))


def test_run_on_the_other_data_set_is_refused(train_dir):
  with pytest.raises(UserError, match='is on the real images: leave out --synthetic'):
    cifar10_run.start(str(train_dir), dict(FLAGS, synthetic=True))
  assert cifar10_run.read(str(train_dir))['earlier'] == []
  cifar10_run.clear(str(train_dir))
  cifar10_run.start(str(train_dir), dict(FLAGS, synthetic=True))
  with pytest.raises(UserError, match='is on the synthetic images: add --synthetic'):
    cifar10_run.check_data_set(str(train_dir), False)


@pytest.mark.parametrize('path', ['/dev/null', '/dev/null/train', '/proc/train'])
def test_unwritable_directory_is_one_sentence(path):
  with pytest.raises(UserError, match='Cannot write to %s .*: name another .* --train_dir' % path):
    cifar10_run.start(path, FLAGS)


def test_clear_deletes_what_training_wrote_and_nothing_else(train_dir):
  cifar10_run.clear(str(train_dir))
  assert sorted(os.listdir(train_dir)) == sorted(MINE)


def test_interrupted_clearing_can_be_taken_up_again(train_dir, monkeypatch):
  remove = os.remove
  removed = []

  def interrupted(path):
    if len(removed) == 3:
      raise KeyboardInterrupt
    removed.append(path)
    remove(path)

  monkeypatch.setattr(os, 'remove', interrupted)
  with pytest.raises(KeyboardInterrupt):
    cifar10_run.clear(str(train_dir))
  monkeypatch.undo()
  cifar10_run.clear(str(train_dir))
  assert sorted(os.listdir(train_dir)) == sorted(MINE)


def test_sessions_take_gpu_memory_as_needed_and_tell_placement_if_asked():
  config = cifar10_run.session_config()
  assert config.gpu_options.allow_growth
  assert config.allow_soft_placement
  assert not config.log_device_placement
  assert cifar10_run.session_config(log_device_placement=True).log_device_placement


def test_clear_refuses_what_is_not_from_here(train_dir):
  os.remove(train_dir / 'run.json')
  before = sorted(os.listdir(train_dir))
  with pytest.raises(UserError, match='it is not from here'):
    cifar10_run.clear(str(train_dir))
  assert sorted(os.listdir(train_dir)) == before


def test_clear_of_nothing_is_fine(tmp_path):
  cifar10_run.clear(str(tmp_path / 'never made'))


def test_checkpoint_of_another_network_is_refused_with_the_variable(tmp_path):
  weights = tf.get_variable('layer/weights', [3, 4])
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    path = tf.train.Saver().save(session, str(tmp_path / 'model.ckpt'))
  cifar10_run.check_fits(path, {'layer/weights': weights})
  with pytest.raises(UserError, match=r'layer/weights has shape \[3, 4\] there and .* \[4\] here'):
    cifar10_run.check_fits(path, {'layer/weights': tf.get_variable('other', [4])})
  with pytest.raises(UserError, match=r'layer/biases is missing there and has shape \[3, 4\] here'):
    cifar10_run.check_fits(path, {'layer/biases': weights})
