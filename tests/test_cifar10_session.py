import contextlib
import json
import os
import re
import shutil
import signal
import sys
import subprocess
import time
import types

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10_checkpoint
import cifar10_cluster
import cifar10_console
import cifar10_run
import cifar10_session
import cifar10_watchdog
from cifar10_console import UserError
from conftest import read_until
from conftest import ROOT

FLAGS = cifar10_session.FLAGS

LINE = re.compile(r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}: step (\d+), loss = ([\d.]+) '
                  r'\(([\d.]+) examples/sec; ([\d.]+) sec/batch\)')


@pytest.fixture(autouse=True)
def train_dir(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  tf.summary.FileWriterCache.clear()  # It knows directories by their relative path.
  FLAGS(['pytest', '--log_frequency=2'])
  return tmp_path / 'cifar10' / 'train'


def _train(max_steps, after_step=lambda step: None, loss_at=lambda step: 100.0 - step,
           replica=None):
  """Trains a network whose loss is told by its step; returns the last step."""
  FLAGS.max_steps = max_steps
  with tf.Graph().as_default():
    global_step = tf.train.get_or_create_global_step()
    tf.get_variable('weights', [3])
    loss = tf.py_func(lambda step: np.float32(loss_at(step)), [global_step], tf.float32)
    loss.set_shape([])
    tf.summary.scalar('loss', loss)
    with tf.control_dependencies([loss]):
      train_op = tf.assign_add(global_step, 1)
    step = None
    with cifar10_session.training_session(loss, examples_per_step=5, replica=replica) as session:
      while not session.should_stop():
        step = session.run(train_op)
        after_step(step)
  return step


def _log(out):
  return [(int(step), float(loss)) for step, loss, _, _ in LINE.findall(out)]


def test_run_logs_saves_and_ends_at_the_last_step(train_dir, capsys):
  assert _train(5) == 5
  out = capsys.readouterr().out
  assert out.startswith('Training in cifar10/train.\n')
  assert _log(out) == [(0, 100.0), (2, 98.0), (4, 96.0)]
  assert tf.train.latest_checkpoint(str(train_dir)).endswith('model.ckpt-5')
  assert [name for name in os.listdir(train_dir) if name.startswith('events.')]


def test_speed_is_the_mean_since_the_last_line(capsys, monkeypatch):
  clock = [1000.0]

  def loss_at(step):
    clock[0] += [0.5, 0.5, 0.5, 1.0, 2.0][step]
    return 1.0

  monkeypatch.setattr(cifar10_session.time, 'perf_counter', lambda: clock[0])
  _train(5, loss_at=loss_at)
  lines = LINE.findall(capsys.readouterr().out)
  # Step 0 alone; then steps 1 and 2; then 3 and 4 in three seconds, each with 5 examples.
  assert [line[2:] for line in lines] == [('10.0', '0.500'), ('10.0', '0.500'), ('3.3', '1.500')]


def test_speed_of_each_line_is_a_summary_too(train_dir, capsys):
  _train(5)
  printed = [(int(step), float(speed)) for step, _, speed, _ in
             LINE.findall(capsys.readouterr().out)]
  [events] = train_dir.glob('events.*')
  assert [(event.step, pytest.approx(value.simple_value, abs=0.1))
          for event in tf.train.summary_iterator(str(events))
          for value in event.summary.value if value.tag == 'examples/sec'] == printed


def test_no_summaries_are_none_of_the_speed_either(train_dir):
  FLAGS.save_summaries_steps = 0
  _train(5)
  [events] = train_dir.glob('events.*')
  assert not [value.tag for event in tf.train.summary_iterator(str(events))
              for value in event.summary.value]


@pytest.mark.parametrize('flag, default', [
    ('train_dir', 'cifar10/train'), ('max_steps', 100000), ('log_frequency', 10),
    ('save_checkpoint_secs', 600), ('save_summaries_steps', 100), ('profile_steps', 0),
    ('log_device_placement', False),
    ('restart', False)])
def test_default_is_the_tutorials(flag, default):
  assert FLAGS[flag].default == default


def test_summaries_come_every_so_many_steps(train_dir):
  FLAGS.save_summaries_steps = 3
  _train(8)
  [events] = train_dir.glob('events.*')
  assert [event.step for event in tf.train.summary_iterator(str(events))
          for value in event.summary.value if value.tag == 'loss'] == [1, 4, 7]


def test_profile_is_written_every_so_many_steps(train_dir):
  FLAGS.profile_steps = 3
  _train(8)
  traces = {int(path.stem.split('-')[1]): json.loads(path.read_text())
            for path in train_dir.glob('timeline-*.json')}
  # TensorFlow counts from what it reads beside the first step, whose update may be quicker.
  first, second = sorted(traces)
  assert first in (3, 4)
  assert second == first + 3
  for trace in traces.values():
    assert 'AssignAdd' in ' '.join(event['name'] for event in trace['traceEvents'])
  FLAGS.restart, FLAGS.profile_steps = True, 0
  _train(8)
  assert not list(train_dir.glob('timeline-*'))


def test_checkpoints_come_every_so_many_seconds(train_dir):
  FLAGS.save_checkpoint_secs = 1
  _train(3, after_step=lambda step: time.sleep(1.1))
  assert {path.name for path in train_dir.glob('*.index')} == {
      'model.ckpt-%d.index' % step for step in (0, 2, 3)}


def test_second_start_resumes(train_dir, capsys):
  _train(4)
  capsys.readouterr()
  assert _train(7) == 7
  out = capsys.readouterr().out
  assert out.startswith('Resuming cifar10/train from step 4.\n')
  assert _log(out) == [(4, 96.0), (6, 94.0)]
  record = cifar10_run.read(str(train_dir))
  assert record['flags']['max_steps'] == 7
  assert record['flags'].keys() >= {'batch_size', 'train_dir', 'log_frequency', 'synthetic'}
  assert 'verbosity' not in record['flags']
  assert len(record['earlier']) == 1


def test_finished_run_takes_no_further_step(capsys):
  _train(4)
  capsys.readouterr()
  assert _train(4) is None
  assert capsys.readouterr().out == (
      'cifar10/train has reached step 4: for more, raise --max_steps.\n')


def test_directory_whose_checkpoints_could_not_be_found_again_is_refused(tmp_path):
  FLAGS.train_dir = 'run[1]'
  with pytest.raises(UserError, match='for a pattern: name another'):
    _train(1)
  assert not (tmp_path / 'run[1]').exists()


def test_copy_of_a_run_goes_on_by_itself(train_dir, tmp_path):
  FLAGS.train_dir = str(train_dir)
  _train(2)
  before = sorted(os.listdir(train_dir))
  FLAGS.train_dir = str(tmp_path / 'copy')
  shutil.copytree(train_dir, FLAGS.train_dir)
  for max_steps in range(3, 9):
    _train(max_steps)
  assert cifar10_checkpoint.latest(FLAGS.train_dir) == str(tmp_path / 'copy' / 'model.ckpt-8')
  assert sorted(os.listdir(train_dir)) == before


def test_restart_begins_at_step_0(train_dir, capsys):
  _train(4)
  (train_dir / 'notes.txt').write_text('mine')
  FLAGS.restart = True
  capsys.readouterr()
  assert _train(2) == 2
  assert capsys.readouterr().out.startswith('Training in cifar10/train.\n')
  assert not list(train_dir.glob('model.ckpt-4*'))
  assert (train_dir / 'notes.txt').read_text() == 'mine'


def _contents(folder):
  return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob('*')}


@pytest.mark.parametrize('restart, sentence', [
    (False, 'is damaged or missing, and no run.json proves that it is from here'),
    (True, 'it is not from here, and --restart does not delete it')])
def test_directory_that_no_record_proves_to_be_ours_is_left_as_it_is(train_dir, restart, sentence):
  _train(4)
  (train_dir / 'run.json').unlink()
  os.truncate(train_dir / 'model.ckpt-4.index', 0)
  (train_dir / 'model.ckpt-5.meta').write_text('mine')
  before = _contents(train_dir)
  FLAGS.restart = restart
  with pytest.raises(UserError, match=sentence):
    _train(6)
  assert _contents(train_dir) == before


def test_checkpoint_without_a_record_is_resumed(train_dir):
  _train(4)
  (train_dir / 'run.json').unlink()
  assert _train(6) == 6


@pytest.mark.parametrize('restart', [False, True])
def test_checkpoints_of_tensorflow_2_are_left_as_they_are(train_dir, restart):
  train_dir.mkdir(parents=True)
  with tf.Graph().as_default(), tf.Session() as session:
    tf.get_variable('kernel', [3])
    session.run(tf.global_variables_initializer())
    saver = tf.train.Saver()
    for step in (1, 2):
      saver.save(session, str(train_dir / 'ckpt'), step, write_meta_graph=False)
  before = _contents(train_dir)
  FLAGS.restart = restart
  with pytest.raises(UserError, match='checkpoint names .*/ckpt-1, which is no model.ckpt-N of'):
    _train(6)
  assert _contents(train_dir) == before


@pytest.mark.parametrize('key', ['weights', 'global_step'])
def test_restart_is_refused_beside_a_checkpoint_of_something_else(train_dir, key):
  _train(4)
  with tf.Graph().as_default(), tf.Session() as session:
    tf.get_variable(key, [])
    session.run(tf.global_variables_initializer())
    tf.train.Saver().save(session, str(train_dir / 'model.ckpt'), 7, 'others')
  before = _contents(train_dir)
  FLAGS.restart = True
  with pytest.raises(UserError, match='model.ckpt-7 is a checkpoint of something else, without'):
    _train(6)
  assert _contents(train_dir) == before


def test_restart_deletes_a_run_with_other_flags_or_damaged_checkpoints(train_dir):
  _train(4)
  os.truncate(train_dir / 'model.ckpt-4.index', 10)
  with tf.Graph().as_default(), tf.Session() as session:
    tf.get_variable('weights', [5, 5])  # Of another size.
    tf.get_variable('weights/Momentum', [5, 5])
    tf.train.get_or_create_global_step()
    session.run(tf.global_variables_initializer())
    tf.train.Saver().save(session, str(train_dir / 'model.ckpt'), 5)
  FLAGS.restart = True
  assert _train(2) == 2
  assert {path.name for path in train_dir.glob('*.index')} == {
      'model.ckpt-0.index', 'model.ckpt-2.index'}


def test_checkpoint_of_another_network_is_refused_and_kept(train_dir):
  _train(4)
  before = sorted(os.listdir(train_dir))
  with tf.Graph().as_default():
    loss = tf.reduce_sum(tf.get_variable('weights', [4]))
    tf.train.get_or_create_global_step()
    with pytest.raises(UserError, match=r'weights is .* shape \[3\] there and .* shape \[4\] here'):
      with cifar10_session.training_session(loss, examples_per_step=5):
        pass
  assert sorted(os.listdir(train_dir)) == before


def test_start_that_takes_no_step_leaves_the_end_of_the_run_as_it_is(train_dir):
  _train(4)
  _train(2)
  record = cifar10_run.read(str(train_dir))
  assert record['flags']['max_steps'] == 4
  assert record['earlier'] == []


def test_run_on_another_data_set_is_refused_and_kept(train_dir, small_data_dir):
  _train(4)
  before = sorted(os.listdir(train_dir))
  FLAGS.data_dir = small_data_dir
  with pytest.raises(UserError, match=r'another data set \(airplane, .*\) than .* \(warm disc, '):
    _train(6)
  assert sorted(os.listdir(train_dir)) == before


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_loss_that_is_not_finite_ends_the_run_with_the_last_checkpoint_kept(train_dir, bad):
  _train(3)
  handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

  def loss_at(step):
    if step < 5:
      return 1.0
    time.sleep(1.1)
    return bad

  # A checkpoint is due at that very step.
  FLAGS.save_checkpoint_secs = 1
  with pytest.raises(UserError, match='The loss is (nan|inf) at step 5: '):
    _train(10, loss_at=loss_at)
  assert tf.train.latest_checkpoint(str(train_dir)).endswith('model.ckpt-3')
  assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


@pytest.mark.parametrize('number, status', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_the_run_after_the_step_with_a_checkpoint(train_dir, capsys, number, status):
  before = signal.getsignal(number)
  with pytest.raises(SystemExit) as exit_info:
    _train(100, lambda step: signal.raise_signal(number) if step == 3 else None)
  assert exit_info.value.code == status
  assert signal.getsignal(number) is before
  # The signal comes between two steps, so one more is taken.
  assert capsys.readouterr().out.splitlines()[-1] == (
      'Stopped by %s after step 4; the same command goes on from there, in cifar10/train.'
      % number.name)
  assert tf.train.latest_checkpoint(str(train_dir)).endswith('model.ckpt-4')


def test_advice_after_a_restart_is_not_to_restart_again(monkeypatch, capsys):
  FLAGS.restart = True
  with pytest.raises(SystemExit):
    _train(100, lambda step: signal.raise_signal(signal.SIGINT) if step == 1 else None)
  assert capsys.readouterr().out.endswith(
      '; the same command without --restart goes on from there, in cifar10/train.\n')
  with pytest.raises(UserError, match='step 0: the same command without --restart resumes'):
    _train(100, loss_at=lambda step: float('nan'))
  jobs = {'ps': ['a:1'], 'chief': ['b:2']}
  assert str(cifar10_cluster.Cluster(jobs, 'chief', 0).lost([('ps', 0)])).endswith(
      '; the same command without --restart goes on from the last checkpoint.')
  capsys.readouterr()
  monkeypatch.setattr(os, '_exit', lambda status: None)
  cifar10_watchdog.Watchdog().end(signal.SIGTERM, 'at last')
  assert capsys.readouterr().out == ('Stopped by SIGTERM at last; the same command without '
                                     '--restart goes on from the last checkpoint.\n')
  output = cifar10_console._Output(open('/dev/full', 'w', buffering=1))
  with pytest.raises(UserError, match='and start the same command without --restart again'):
    output.write('Too much.\n')


def test_weights_that_are_not_finite_are_never_saved(train_dir):
  _train(3)
  FLAGS.max_steps = 10
  with tf.Graph().as_default():
    global_step = tf.train.get_or_create_global_step()
    weights = tf.get_variable('weights', [3])
    # The loss of a step is that of the weights before it.
    loss = tf.reduce_sum(tf.zeros_like(weights))
    with tf.control_dependencies([loss, tf.assign_add(global_step, 1)]):
      train_op = tf.assign(weights, [1.0, np.inf, 1.0])
    with pytest.raises(UserError, match='The weights are not finite any more: the same command '):
      with cifar10_session.training_session(loss, examples_per_step=5) as session:
        session.run(train_op)
  assert cifar10_checkpoint.latest('cifar10/train').endswith('model.ckpt-3')
  reader = tf.train.load_checkpoint('cifar10/train')
  assert np.isfinite(reader.get_tensor('weights')).all()


def test_second_training_in_a_directory_is_refused(train_dir, tmp_path):
  def start_another(step):
    with pytest.raises(UserError, match='Another training is at work in cifar10/train'):
      _train(3)

  before = FLAGS.max_steps
  _train(2, after_step=start_another)
  FLAGS.max_steps = before
  assert _train(3) == 3
  with pytest.raises(ZeroDivisionError):
    _train(5, after_step=lambda step: 1 / 0)
  assert _train(5) == 5  # Whatever ended the one before.


@pytest.mark.parametrize('replace', [lambda path: None, os.mkdir, lambda path: path.write_text('')])
def test_directory_that_vanishes_ends_the_run(train_dir, replace):
  def vanish(step):
    if step == 3:
      shutil.rmtree(train_dir)
      replace(train_dir)

  with pytest.raises(UserError, match='cifar10/train has vanished, or is not the directory that it '
                     'was: put it back, and the same command goes on from the last checkpoint'):
    _train(10, after_step=vanish)
  assert not train_dir.is_dir() or os.listdir(train_dir) == []


def test_directory_that_vanishes_while_a_checkpoint_is_written_ends_the_run(train_dir, monkeypatch):
  save = tf.train.Saver.save

  def vanish_and_save(self, session, path, *args, **kwargs):
    shutil.rmtree(train_dir)
    return save(self, session, path, *args, **kwargs)

  _train(3)
  monkeypatch.setattr(tf.train.Saver, 'save', vanish_and_save)
  with pytest.raises(UserError, match='cifar10/train has vanished, or is not the directory that'):
    _train(10)


def test_new_run_in_the_place_of_one_that_vanished_is_alone(train_dir):
  def another(step):
    if step == 3:
      shutil.rmtree(train_dir)
      _train(7)
      FLAGS.max_steps = 10

  with pytest.raises(UserError, match='cifar10/train has vanished'):
    _train(10, after_step=another)
  assert cifar10_checkpoint.latest('cifar10/train').endswith('model.ckpt-7')
  assert sorted(path.name for path in train_dir.glob('*.index')) == [
      'model.ckpt-0.index', 'model.ckpt-7.index']


@contextlib.contextmanager
def _read_only(folder):
  """Keeps everyone from making files in a folder, also root, who may do what the mode forbids."""
  if os.geteuid():
    folder.chmod(0o500)
  elif subprocess.run(['chattr', '+i', folder], stderr=subprocess.DEVNULL).returncode:
    pytest.skip('root can write everywhere, and this file system has no immutable folders')
  try:
    yield
  finally:
    if os.geteuid():
      folder.chmod(0o700)
    else:
      subprocess.run(['chattr', '-i', folder], check=True)


def test_directory_that_turns_read_only_ends_the_run(train_dir):
  _train(3)
  with contextlib.ExitStack() as stack:
    with pytest.raises(UserError, match='cifar10/train/.*model.ckpt-10.* '
                       r'\((Permission denied|Operation not permitted)\): put that right, and the'):
      _train(10, after_step=lambda step: stack.enter_context(_read_only(train_dir)) if step == 5
             else None)
  assert _train(10) == 10


def test_event_file_that_cannot_be_made_is_one_sentence(monkeypatch):
  def full(logdir):
    # As TensorFlow says it.
    raise RuntimeError('cifar10/train/events.out.tfevents.1795602665.vm; No space left on device\n'
                       '\tFailed to flush 1 events\n\tFlushing first event.')

  monkeypatch.setattr(tf.summary.FileWriterCache, 'get', full)
  with pytest.raises(UserError, match=r'events.* \(No space left on device\): put that right, and'):
    _train(3)


def test_input_that_fails_is_one_sentence(tmp_path):
  FLAGS.max_steps = 10 ** 6
  path = tmp_path / 'records.bin'
  path.write_bytes(bytes(10))
  names = tf.train.string_input_producer([str(path)])
  _, record = tf.FixedLengthRecordReader(1).read(names)
  loss = tf.reduce_sum(tf.cast(tf.decode_raw(tf.train.batch([record], 2), tf.uint8), tf.float32))
  train_op = tf.assign_add(tf.train.get_or_create_global_step(), 1)
  tf.get_variable('weights', [3])
  with pytest.raises(UserError, match=r'records.bin \(No such file or directory\): put that right'):
    with cifar10_session.training_session(loss, examples_per_step=2) as session:
      while not session.should_stop():
        if session.run([train_op, loss])[0] == 3:
          path.unlink()


@pytest.mark.parametrize('error', [BrokenPipeError, UserError])
def test_log_that_cannot_be_written_ends_the_run_with_a_checkpoint(train_dir, error, monkeypatch):
  def leave(message):
    if 'step 2' in message:
      raise error

  monkeypatch.setattr(cifar10_session.cifar10_console, 'log', leave)
  with pytest.raises(error):
    _train(100)
  assert cifar10_checkpoint.latest('cifar10/train').endswith('model.ckpt-3')


def test_signal_that_was_ignored_stays_ignored():
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    assert _train(5, lambda step: signal.raise_signal(signal.SIGINT)) == 5
  finally:
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize('is_chief', [True, False])
def test_signal_while_a_replica_waits_for_others_ends_it(is_chief, capsys):
  class Waiting(tf.train.SessionCreator):
    def __init__(self, check_stopped):
      self._check_stopped = check_stopped

    def create_session(self):
      self._check_stopped()  # Not yet.
      signal.raise_signal(signal.SIGTERM)
      self._check_stopped()

  replica = types.SimpleNamespace(
      watchdog=cifar10_watchdog.Watchdog(), is_chief=is_chief, count=2,
      hook=lambda is_stopped: tf.train.SessionRunHook(),
      session_creator=lambda config, check_stopped, *args: Waiting(check_stopped))
  tf.train.get_or_create_global_step()
  loss = tf.reduce_sum(tf.get_variable('weights', [3]))
  with pytest.raises(SystemExit) as exit_info:
    with cifar10_session.training_session(loss, examples_per_step=5, replica=replica):
      pass
  assert exit_info.value.code == 143
  assert capsys.readouterr().out == (
      'Stopped by SIGTERM waiting for other tasks; the same command goes on from there, '
      'in cifar10/train.\n')


def test_log_counts_the_images_of_all_replicas(capsys, monkeypatch):
  clock = [1000.0]

  def loss_at(step):
    clock[0] += 0.5
    return 1.0

  monkeypatch.setattr(cifar10_session.time, 'perf_counter', lambda: clock[0])
  replica = types.SimpleNamespace(
      watchdog=cifar10_watchdog.Watchdog(), is_chief=True, count=3,
      hook=lambda is_stopped: tf.train.SessionRunHook(),
      session_creator=lambda config, check_stopped, scaffold, checkpoint_dir:
      tf.train.ChiefSessionCreator(scaffold, config=config, checkpoint_dir=checkpoint_dir))
  _train(1, loss_at=loss_at, replica=replica)
  # 5 of each in half a second.
  assert '(30.0 examples/sec; 0.500 sec/batch)' in capsys.readouterr().out


def test_second_control_c_stops_at_once():
  def twice(step):
    if step == 3:
      signal.raise_signal(signal.SIGINT)
      signal.raise_signal(signal.SIGINT)

  with pytest.raises(KeyboardInterrupt):
    _train(100, twice)


def test_terminal_that_closes_may_say_so_twice(train_dir):
  def twice(step):
    if step == 3:
      signal.raise_signal(signal.SIGHUP)
      signal.raise_signal(signal.SIGHUP)

  with pytest.raises(SystemExit) as exit_info:
    _train(100, twice)
  assert exit_info.value.code == 129
  assert tf.train.latest_checkpoint(str(train_dir)).endswith('model.ckpt-4')


HANGING = """
import cifar10_tensorflow
import tensorflow.compat.v1 as tf
import cifar10_device
import cifar10_session

cifar10_device.use_graph_mode()
cifar10_session.FLAGS(['hanging'])
tf.train.get_or_create_global_step()
tf.get_variable('weights', [3])
losses = tf.FIFOQueue(1, tf.float32, [[]])
enqueue, loss = losses.enqueue(1.0), losses.dequeue()
with cifar10_session.training_session(loss, examples_per_step=5) as session:
  session.run(enqueue)
  print('From here on nothing comes.')
  session.run(loss)
"""


@pytest.mark.parametrize('number, status', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_second_signal_ends_a_training_whose_step_hangs(number, status, tmp_path):
  process = subprocess.Popen([sys.executable, '-u', '-c', HANGING], text=True,
                             stdout=subprocess.PIPE, env={**os.environ, 'PYTHONPATH': ROOT})
  try:
    read_until(process, 'From here on nothing comes.')
    # A terminal that closes sends SIGHUP twice, which is no second signal.
    for sent in (signal.SIGHUP, signal.SIGHUP, number, number):
      time.sleep(2)  # The watchdog looks every second.
      assert process.poll() is None
      process.send_signal(sent)
    out, _ = process.communicate(timeout=60)
  finally:
    process.kill()
  assert process.returncode == status
  assert out == ('Stopped by %s while TensorFlow did not come back; the same command goes on from '
                 'the last checkpoint.\n' % number.name)


def test_both_signals_at_once_end_it_as_one(monkeypatch, capsys):
  complaints = []
  monkeypatch.setattr(sys, 'unraisablehook', complaints.append)

  def both(step):
    if step == 3:
      signals = {signal.SIGINT, signal.SIGTERM}
      signal.pthread_sigmask(signal.SIG_BLOCK, signals)
      for number in signals:
        signal.raise_signal(number)
      signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

  with pytest.raises(SystemExit) as exit_info:
    _train(100, both)
  assert exit_info.value.code == 130
  assert 'Stopped by SIGINT after step 4; ' in capsys.readouterr().out
  assert complaints == []
