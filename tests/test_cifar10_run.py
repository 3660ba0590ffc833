import json
import os

import pytest
import tensorflow.compat.v1 as tf

import cifar10_run
from cifar10_console import UserError

FLAGS = {'max_steps': 7, 'batch_size': 3}
CLASSES = ('hot', 'cold')

WRITTEN = [
    'checkpoint', 'graph.pbtxt', 'events.out.tfevents.1764066000.vm.example.org',
    'model.ckpt-7.index', 'model.ckpt-7.meta', 'model.ckpt-7.data-00000-of-00001',
    # As a process that is killed leaves them.
    'run.json.tmp', 'checkpoint.tmp0123456789abcdef0123456789abcdef',
    'model.ckpt-9.meta.tmp0123456789abcdef0123456789abcdef',
    'model.ckpt-9.index.tempstate1234567890123456789',
    'model.ckpt-9_temp/part-00000-of-00001.data-00000-of-00001',
    'model.ckpt-9_temp/part-00000-of-00001.index.tempstate1234567890123456789',
]

# The user's, although their names resemble those of training.
MINE = ['notes.txt', 'model.txt', 'graph.png', 'events.csv', 'run.json.bak', 'checkpoint.md',
        'model.ckpt-4.notes.md', 'model.ckpt-mine/weights.npy', 'model.ckpt-8_temp/part-of-me',
        'model.ckpt-8_temp/part-00000-of-00001.index/notes.txt',
        'model.ckpt-8_temp/part-00000-of-00001.notes.md',
        'events.out.tfevents.123.vm.notes.md', 'events.out.tfevents.123.backup/thesis.tex',
        'events.out.tfevents.1764066000.vm.notes.md', 'checkpoint.tmpl', 'run.json.tmp2',
        'timeline-7.json.md', 'old/model.ckpt-7.index', 'old/run.json']


def _start(train_dir, flags=FLAGS, classes=CLASSES):
  with cifar10_run.locked(str(train_dir)):
    cifar10_run.record_start(str(train_dir), flags, classes)


def _files(folder):
  return sorted(str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file())


@pytest.fixture
def train_dir(tmp_path):
  """The directory of a run as training leaves it, with files of the user's."""
  path = tmp_path / 'train [1]*'  # Not a pattern.
  _start(path)
  for name in WRITTEN + MINE:
    (path / name).parent.mkdir(exist_ok=True, parents=True)
    (path / name).write_text(name)
  # An event file is told by its contents, whatever the host is called.
  events = path / 'events.out.tfevents.1764066000.vm.example.org'
  with tf.io.TFRecordWriter(str(events)) as writer:
    writer.write(tf.Event(wall_time=1764066000.5, file_version='brain.Event:2').SerializeToString())
  return path


def test_start_is_recorded(train_dir):
  record = json.loads((train_dir / 'run.json').read_text())
  assert record['flags'] == FLAGS
  assert record['classes'] == ['hot', 'cold']
  assert record['tensorflow'] == tf.__version__
  assert record['started'][:2] == '20'
  assert record['earlier'] == []


def test_record_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
  events = []
  fsync, replace = os.fsync, os.replace

  def noted_fsync(descriptor):
    events.append('write through ' + os.readlink('/proc/self/fd/%d' % descriptor))
    fsync(descriptor)

  def noted_replace(source, target):
    events.append('replace ' + target)
    replace(source, target)

  monkeypatch.setattr(os, 'fsync', noted_fsync)
  monkeypatch.setattr(os, 'replace', noted_replace)
  _start(tmp_path)
  assert events == ['write through %s/run.json.tmp' % tmp_path, 'replace %s/run.json' % tmp_path,
                    'write through %s' % tmp_path]


def test_later_start_keeps_the_earlier_ones(train_dir):
  first = cifar10_run.read(str(train_dir))
  for max_steps in (8, 9):
    _start(train_dir, dict(FLAGS, max_steps=max_steps))
  record = cifar10_run.read(str(train_dir))
  assert record['flags']['max_steps'] == 9
  assert [start['flags']['max_steps'] for start in record['earlier']] == [7, 8]
  assert record['earlier'][0]['started'] == first['started']
  assert 'earlier' not in record['earlier'][1]


@pytest.mark.parametrize('contents', [
    '', '{"flags"', '[]', '{}', 'null', '\xff', pytest.param(200000 * '[', id='brackets'),
    '{"classes": [], "flags": [], "earlier": []}',
    '{"classes": [], "flags": {"max_steps": "7"}, "earlier": []}',
    '{"classes": [], "flags": {"max_steps": 7}, "earlier": {}}',
    '{"classes": "hot", "flags": {"max_steps": 7}, "earlier": []}'])
def test_damaged_record_is_one_sentence(train_dir, contents):
  (train_dir / 'run.json').write_bytes(contents.encode('latin-1'))
  with pytest.raises(UserError, match='run.json is damaged: remove it'):
    cifar10_run.read(str(train_dir))


def test_run_on_another_data_set_is_refused(train_dir, tmp_path):
  cifar10_run.check_data_set(str(train_dir), CLASSES)
  cifar10_run.check_data_set(str(tmp_path / 'no run'), ('other',))
  with pytest.raises(UserError, match=r'another data set \(hot, cold, ...\) than .* \(red, blue'):
    cifar10_run.check_data_set(str(train_dir), ('red', 'blue'))


@pytest.mark.parametrize('path', ['/dev/null', '/dev/null/train', '/proc/train', '/proc/self'])
def test_unwritable_directory_is_one_sentence(path):
  with pytest.raises(UserError, match='Cannot write to %s .*: name another .* --train_dir' % path):
    _start(path)


@pytest.mark.parametrize('path, sentence', [
    ('', '--eval_dir is empty'),
    ('run[1]', r'TensorFlow takes .* in run\[1\] for a pattern: .* with --eval_dir'),
    ('run\\1', r'TensorFlow takes .* in run\\1 for a pattern: .* with --eval_dir'),
    ('gs://bucket/run', 'gs://bucket/run is an address: --eval_dir must name a directory of this'),
    ('/dev/null', '/dev/null is not a directory: name another with --eval_dir')])
def test_path_that_cannot_be_a_run_is_refused_with_its_flag(path, sentence, tmp_path):
  cifar10_run.check_directory(str(tmp_path), 'eval_dir')
  cifar10_run.check_directory(str(tmp_path / 'new'), 'eval_dir')
  with pytest.raises(UserError, match=sentence):
    cifar10_run.check_directory(path, 'eval_dir')


def test_clear_deletes_what_training_wrote_and_nothing_else(train_dir):
  os.mkdir(train_dir / 'model.ckpt-7.meta.d')
  os.symlink('/', train_dir / 'elsewhere')
  cifar10_run.clear(str(train_dir))
  assert _files(train_dir) == sorted(MINE)
  assert not (train_dir / 'model.ckpt-9_temp').exists()
  assert (train_dir / 'model.ckpt-7.meta.d').is_dir()


def test_clear_deletes_an_event_file_in_which_nothing_is_yet(train_dir):
  (train_dir / 'events.out.tfevents.1764066001.vm').touch()
  cifar10_run.clear(str(train_dir))
  assert _files(train_dir) == sorted(MINE)


@pytest.mark.parametrize('stop_after', range(len(WRITTEN) + 1))
def test_interrupted_clearing_can_be_taken_up_again(train_dir, monkeypatch, stop_after):
  remove = os.remove
  removed = []

  def interrupted(path):
    if len(removed) == stop_after:
      raise KeyboardInterrupt
    removed.append(path)
    remove(path)

  monkeypatch.setattr(os, 'remove', interrupted)
  with pytest.raises(KeyboardInterrupt):
    cifar10_run.clear(str(train_dir))
  monkeypatch.undo()
  assert not stop_after or 'checkpoint' not in os.listdir(train_dir)
  cifar10_run.clear(str(train_dir))
  assert _files(train_dir) == sorted(MINE)


def test_clear_refuses_what_is_not_from_here(train_dir):
  os.remove(train_dir / 'run.json')
  os.remove(train_dir / 'run.json.tmp')
  before = sorted(os.listdir(train_dir))
  with pytest.raises(UserError, match='it is not from here'):
    cifar10_run.clear(str(train_dir))
  assert sorted(os.listdir(train_dir)) == before


@pytest.mark.parametrize('record', ['run.json', 'run.json.tmp'])
def test_clear_takes_a_damaged_record_for_a_proof_too(train_dir, record):
  os.remove(train_dir / 'run.json')
  os.remove(train_dir / 'run.json.tmp')
  (train_dir / record).write_text('{')
  cifar10_run.clear(str(train_dir))
  assert _files(train_dir) == sorted(MINE)


def test_clear_leaves_the_directory_itself(tmp_path):
  _start(tmp_path)
  cifar10_run.clear(str(tmp_path) + '/')
  assert os.listdir(tmp_path) == []


def test_clear_of_nothing_is_fine(tmp_path):
  cifar10_run.clear(str(tmp_path / 'never made'))
