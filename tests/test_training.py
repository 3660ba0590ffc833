import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10_input
from cifar10_support import runs
from cifar10_support import signals
from cifar10_support import tf_setup
from cifar10_support import training
from cifar10_support.console import UserError
from conftest import contents

FLAGS = training.FLAGS

LINE = re.compile(r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}: step (\d+), loss = ([\d.]+) '
                  r'\(([\d.]+) examples/sec; ([\d.]+) sec/batch\)')


@pytest.fixture(autouse=True)
def train_dir(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  FLAGS(['pytest', '--log_frequency=2'])
  return tmp_path / 'cifar10' / 'train'


def _step(counter, by=1):
  """Adds a step that only counts; returns the new count."""
  with tf.control_dependencies([tf.assign_add(counter, by)]):
    return counter.read_value()


def _train(max_steps, after_step=lambda step: None, loss_at=lambda step: 100.0 - step,
           classes=('hot', 'cold'), size=3, **kwargs):
  """Trains a network of one variable, whose loss is told by its step; returns the last step."""
  FLAGS.max_steps = max_steps
  with tf.Graph().as_default():
    global_step = tf.train.get_or_create_global_step()
    weights = tf.get_variable('weights', [size])
    if FLAGS.momentum:
      tf.get_variable('weights/Momentum', [size])
    loss = tf.py_func(lambda step: np.float32(loss_at(step)), [global_step], tf.float32)
    loss.set_shape([])
    tf.summary.scalar('loss', loss)
    with tf.control_dependencies([loss, tf.assign_add(weights, tf.ones([size]))]):
      train_op = _step(global_step)
    step = None
    with training.training_session(train_op, loss, 5, {'classes': list(classes)},
                                   **kwargs) as session:
      while not session.should_stop():
        step = session.run(train_op)
        after_step(step)
  return step


@pytest.fixture
def save_each_step(monkeypatch):
  """A clock on which each step takes longer than --save_checkpoint_secs."""
  monkeypatch.setattr(training.time, 'monotonic', itertools.count(step=1000).__next__)


def _log(out):
  return [(int(step), float(loss)) for step, loss, _, _ in LINE.findall(out)]


def _steps(train_dir):
  return {int(path.stem.split('-')[1]) for path in train_dir.glob('model.ckpt-*.index')}


def _events(train_dir):
  """Returns (step, tag, value) of all event files, in the order of their names.

  Each start's flags are left out, see test_tensorboard_tabs.py.
  """
  return [(event.step, value.tag, value.simple_value)
          for path in sorted(train_dir.glob('events.*'))
          for event in tf.train.summary_iterator(str(path)) for value in event.summary.value
          if not value.tag.startswith('_hparams_')]


def test_run_logs_saves_and_ends_at_the_last_step(train_dir, capsys):
  assert _train(5) == 5
  out = capsys.readouterr().out
  assert 'cifar10/train' in out.splitlines()[0]
  assert _log(out) == [(0, 100.0), (2, 98.0), (4, 96.0)]
  assert tf.train.latest_checkpoint(str(train_dir)).endswith('model.ckpt-5')
  assert _steps(train_dir) == {0, 5}


def test_speed_is_the_mean_since_the_last_line(train_dir, capsys, monkeypatch):
  clock = [1000.0]

  def loss_at(step):
    clock[0] += [0.5, 0.5, 0.5, 1.0, 2.0][step]
    return 1.0

  monkeypatch.setattr(training.time, 'perf_counter', lambda: clock[0])
  _train(5, loss_at=loss_at)
  lines = LINE.findall(capsys.readouterr().out)
  # Step 0 alone; then steps 1 and 2; then 3 and 4 in three seconds, each with 5 examples.
  assert [line[2:] for line in lines] == [('10.0', '0.500'), ('10.0', '0.500'), ('3.3', '1.500')]
  # TensorBoard shows the same speeds, in images a second.
  assert [(step, pytest.approx(speed)) for step, tag, speed in _events(train_dir)
          if tag == 'examples/sec'] == [(0, 10), (2, 10), (4, 10 / 3)]


def test_summaries_come_every_so_many_steps(train_dir):
  FLAGS.save_summaries_steps = 3
  _train(8)
  # TensorFlow counts from the step after the first.
  assert [step for step, tag, _ in _events(train_dir) if tag == 'loss'] == [1, 4, 7]


def test_event_files_say_where_a_start_begins(train_dir):
  FLAGS.save_summaries_steps = 3
  for max_steps in (5, 9):
    _train(max_steps)
  # TensorBoard drops what an earlier start wrote from this step on.
  assert [event.step for path in sorted(train_dir.glob('events.*'))
          for event in tf.train.summary_iterator(str(path))
          if event.session_log.status == tf.SessionLog.START] == [1, 6]


def test_no_summaries_means_no_speed_either(train_dir):
  FLAGS.save_summaries_steps = 0
  _train(5)
  assert _events(train_dir) == []


@pytest.mark.parametrize('flag, default', [
    ('train_dir', 'cifar10/train'), ('max_steps', 100000), ('log_frequency', 10),
    ('log_device_placement', False), ('save_checkpoint_secs', 600), ('save_summaries_steps', 100)])
def test_default_is_the_tutorials(flag, default):
  assert FLAGS[flag].default == default


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


def test_checkpoints_come_every_so_many_seconds(train_dir, monkeypatch):
  clock = [1000.0]

  def after_step(step):
    clock[0] += 0.4

  monkeypatch.setattr(training.time, 'monotonic', lambda: clock[0])
  FLAGS.save_checkpoint_secs = 1
  _train(9, after_step)
  # The hook looks after a step and before `after_step`: at 1.2 and 2.4 seconds.
  assert _steps(train_dir) == {0, 4, 7, 9}


def test_second_start_resumes(train_dir, capsys):
  _train(4)
  capsys.readouterr()
  assert _train(7) == 7
  out = capsys.readouterr().out
  assert 'cifar10/train' in out.splitlines()[0]
  assert 'step 4' in out.splitlines()[0]
  assert _log(out) == [(4, 96.0), (6, 94.0)]
  assert tf.train.load_variable(str(train_dir), 'weights')[0] == pytest.approx(
      7 + tf.train.load_variable(str(train_dir / 'model.ckpt-0'), 'weights')[0])
  record = runs.read(str(train_dir))
  assert record['flags']['max_steps'] == 7
  assert record['flags'].keys() >= {'batch_size', 'train_dir', 'log_frequency', 'synthetic'}
  assert 'verbosity' not in record['flags']  # absl's.
  assert [start['flags']['max_steps'] for start in record['earlier']] == [4]


def test_checkpoint_that_was_restored_is_not_written_again(train_dir):
  _train(4)
  before = {path: (path.read_bytes(), path.stat().st_mtime_ns)
            for path in train_dir.glob('model.ckpt-4.*')}
  _train(6)
  assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns)
                    for path in train_dir.glob('model.ckpt-4.*')}


@pytest.mark.parametrize('max_steps', [4, 2])
def test_start_that_trains_nothing_writes_nothing(train_dir, capsys, max_steps):
  _train(4)
  before = contents(train_dir)
  capsys.readouterr()
  assert _train(max_steps) is None
  assert contents(train_dir) == before
  out = capsys.readouterr().out
  assert 'cifar10/train' in out and 'step 4' in out and '--max_steps' in out


def test_flags_that_differ_are_named_with_both_values(train_dir, capsys):
  FLAGS(['pytest', '--initial_learning_rate=0.1', '--batch_size=32'])
  _train(2)
  FLAGS(['pytest', '--initial_learning_rate=0.25', '--batch_size=64', '--log_frequency=1'])
  capsys.readouterr()
  _train(4)
  out = capsys.readouterr().out
  [line] = [line for line in out.splitlines() if '--batch_size' in line]
  assert re.search(r'--batch_size\D*64\D*32', line)
  assert re.search(r'--initial_learning_rate\D*0\.25\D*0\.1\b', line)
  assert '--log_frequency' not in out  # It changes nothing in what is learned.
  _train(6)
  assert '--batch_size' not in capsys.readouterr().out


def test_number_of_towers_that_differs_is_named_even_where_there_are_none(train_dir, capsys):
  _train(2)
  runs.record_start(str(train_dir), {'max_steps': 2, 'num_gpus': 2},
                    {'classes': ['hot', 'cold']})
  capsys.readouterr()
  _train(4)
  assert '--num_gpus is 1, was 2' in capsys.readouterr().out


@pytest.mark.parametrize('first, second', [(None, 0.0), (0.0, None)])
def test_flags_that_were_left_to_the_constants_are_not_named(first, second, capsys):
  FLAGS.momentum = first  # None as in a notebook, which uses no `settings.from_flags`.
  _train(2)
  FLAGS.momentum = second
  capsys.readouterr()
  _train(4)
  assert '--momentum' not in capsys.readouterr().out


def test_run_with_momentum_is_not_resumed_without(train_dir):
  FLAGS.momentum = 0.9
  _train(4)
  before = contents(train_dir)
  for max_steps in (4, 6):
    FLAGS.momentum = 0.0
    with pytest.raises(UserError, match=r'--momentum is 0\.0, was 0\.9') as raised:
      _train(max_steps)
    assert 'weights/Momentum' in str(raised.value)
    assert contents(train_dir) == before
  FLAGS.momentum = 0.9
  assert _train(6) == 6


def test_checkpoint_of_another_network_is_refused_and_kept(train_dir):
  _train(4)
  before = contents(train_dir)
  with pytest.raises(UserError, match=r'weights is .*\[3\] there, .* \[4\] here') as raised:
    _train(6, size=4)
  assert 'model.ckpt-4' in str(raised.value)
  assert contents(train_dir) == before


def test_run_on_another_data_set_is_refused_and_kept(train_dir):
  _train(4)
  before = contents(train_dir)
  with pytest.raises(UserError, match='cifar10/train.*hot.*red'):
    _train(6, classes=('red', 'blue'))
  assert contents(train_dir) == before


def _original(train_dir, step):
  """Leaves a run as the original tutorial does; returns the names of its last checkpoint's files.

  It has no run.json, absolute paths in the file `checkpoint`, and keys that ours has not.
  """
  train_dir.mkdir(parents=True)
  with tf.Graph().as_default(), tf.Session() as session:
    tf.get_variable('weights', [3])
    tf.get_variable('conv1/weight_loss/avg', [])
    global_step = tf.train.get_or_create_global_step()
    session.run(tf.global_variables_initializer())
    saver = tf.train.Saver()
    for number in (step - 1, step):
      global_step.load(number, session)
      saver.save(session, str(train_dir / 'model.ckpt'), global_step=number)
  assert str(train_dir) in (train_dir / 'checkpoint').read_text()
  return sorted(train_dir.glob('model.ckpt-%d.*' % step))


def test_run_of_the_original_is_continued_and_its_last_checkpoint_stays(train_dir, capsys):
  files = _original(train_dir, 7)
  before = [path.read_bytes() for path in files]
  assert _train(9) == 9
  assert 'from step 7' in capsys.readouterr().out
  assert [path.read_bytes() for path in files] == before
  assert tf.train.latest_checkpoint(str(train_dir)).endswith('model.ckpt-9')
  # From here on the run is ours.
  assert 'conv1/weight_loss/avg' not in dict(tf.train.list_variables(str(train_dir)))
  assert _train(10) == 10


def test_run_that_was_copied_is_resumed_in_its_new_place(tmp_path):
  old, new = tmp_path / 'old', tmp_path / 'new'
  _original(old, 7)
  shutil.copytree(old, new)
  before = contents(old)
  FLAGS.train_dir = 'new'
  assert _train(9) == 9
  assert _steps(new) == {6, 7, 9}
  assert contents(old) == before


def test_copy_of_a_run_continues_by_itself(train_dir, tmp_path, save_each_step):
  FLAGS.train_dir = str(train_dir)
  _train(2)
  before = contents(train_dir)
  FLAGS.train_dir = str(tmp_path / 'copy')
  shutil.copytree(train_dir, FLAGS.train_dir)
  _train(8)
  # The last five.
  assert _steps(tmp_path / 'copy') == {4, 5, 6, 7, 8}
  assert contents(train_dir) == before


def test_checkpoints_of_other_programs_stay_in_the_directory(train_dir, save_each_step):
  _train(2)
  for path in train_dir.glob('model.ckpt-2.*'):
    shutil.copy(path, train_dir / path.name.replace('model.ckpt-2', 'cifar_net-1'))
  _train(9)
  assert len(list(train_dir.glob('cifar_net-1.*'))) == 3


def test_older_checkpoint_that_the_user_chose_is_resumed(train_dir, capsys):
  for max_steps in (2, 4, 6):
    _train(max_steps)
  (train_dir / 'checkpoint').write_text('model_checkpoint_path: "model.ckpt-2"\n')
  capsys.readouterr()
  assert _train(3) == 3
  assert 'from step 2' in capsys.readouterr().out
  assert tf.train.latest_checkpoint(str(train_dir)).endswith('model.ckpt-3')
  assert _steps(train_dir) == {0, 2, 3, 4, 6}


def test_damaged_latest_checkpoint_is_passed_over(train_dir, capsys):
  _train(2)
  _train(4)
  os.truncate(train_dir / 'model.ckpt-4.index', 10)
  capsys.readouterr()
  assert _train(6) == 6
  out = capsys.readouterr().out
  assert 'model.ckpt-4' in out.splitlines()[0]
  assert 'from step 2' in out
  assert _log(out)[0] == (2, 98.0)


def test_run_whose_checkpoints_are_all_damaged_is_left_as_it_is(train_dir):
  _train(4)
  for path in train_dir.glob('*.index'):
    os.truncate(path, 10)
  before = contents(train_dir)
  with pytest.raises(UserError, match='cifar10/train '):
    _train(6)
  assert contents(train_dir) == before


@pytest.mark.parametrize('start_over', [
    lambda train_dir: setattr(FLAGS, 'restart', True), shutil.rmtree])
def test_second_training_in_one_process_writes_event_files_too(train_dir, start_over):
  FLAGS.profile_steps = 1
  FLAGS.save_summaries_steps = 1
  _train(3)
  start_over(train_dir)
  _train(3)
  assert {tag for _, tag, _ in _events(train_dir)} == {'loss', 'examples/sec'}


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
@pytest.mark.parametrize('log_frequency', [1, 100])
def test_loss_that_is_not_finite_ends_the_run(train_dir, bad, log_frequency):
  FLAGS.log_frequency = log_frequency
  with pytest.raises(UserError, match='%s at step 5' % bad):
    _train(10, loss_at=lambda step: 1.0 if step < 5 else bad)
  assert _steps(train_dir) == {0}


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_loss_that_is_not_finite_ends_the_run_with_the_last_checkpoint_kept(
    train_dir, save_each_step, bad):
  with pytest.raises(UserError, match='%s at step 5' % bad) as raised:
    _train(10, loss_at=lambda step: 1.0 if step < 5 else bad)
  assert '--initial_learning_rate' in str(raised.value)
  assert _steps(train_dir) == {1, 2, 3, 4, 5}
  assert tf.train.latest_checkpoint(str(train_dir)).endswith('model.ckpt-5')


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
    with pytest.raises(UserError, match='cifar10/train'):
      with training.training_session(train_op, loss, 5, {'classes': ['hot', 'cold']}) as session:
        session.run(train_op)
  assert _steps(train_dir) == {0, 3}


@pytest.mark.parametrize('number, status', [
    (signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)])
def test_signal_ends_the_run_after_the_step_with_a_checkpoint(train_dir, capsys, number, status):
  before = signal.getsignal(number)
  with pytest.raises(SystemExit) as raised:
    _train(100000, lambda step: signal.raise_signal(number) if step == 3 else None)
  assert raised.value.code == status
  assert signal.getsignal(number) is before
  last = capsys.readouterr().out.splitlines()[-1]
  [step] = _steps(train_dir) - {0}
  assert 3 <= step < 100000
  assert number.name in last and 'step %d;' % step in last and 'cifar10/train' in last


def test_advice_after_a_restart_is_not_to_restart_again():
  FLAGS.restart = True
  with pytest.raises(UserError, match='without --restart'):
    _train(100, loss_at=lambda step: float('nan'))


def test_signals_of_the_callers_own_count(train_dir):
  with signals.StopSignals() as stop:
    stop.received = signal.SIGTERM  # As if it had come while the caller was waiting.
    with pytest.raises(SystemExit) as raised:
      _train(100, signals=stop)
  assert raised.value.code == 143
  assert _steps(train_dir) == {0}


def test_callers_hooks_run_in_every_step_before_the_log_and_what_saves(
    train_dir, save_each_step, capsys):
  class Hook(tf.train.SessionRunHook):
    def after_run(self, run_context, run_values):
      print('hook after', _steps(train_dir))

  _train(3, hooks=[Hook()])
  out = [line for line in capsys.readouterr().out.splitlines()
         if LINE.match(line) or line.startswith('hook')]
  assert [LINE.sub(r'step \1', line) for line in out] == [
      'hook after {0}', 'step 0', 'hook after {0, 1}', 'hook after {0, 1, 2}', 'step 2']


def _trace(session, fetches):
  """Runs `fetches`; TensorFlow says what it ran for them."""
  options, metadata = tf.RunOptions(trace_level=tf.RunOptions.SOFTWARE_TRACE), tf.RunMetadata()
  value = session.run(fetches, options=options, run_metadata=metadata)
  assert metadata.step_stats.dev_stats
  return value


@pytest.mark.parametrize('run_step', [
    lambda session, train_op, loss, scale: session.run(train_op),
    lambda session, train_op, loss, scale: session.run([train_op, loss])[0],
    lambda session, train_op, loss, scale: session.run({'loss': loss, 'step': train_op})['step'],
    lambda session, train_op, loss, scale: session.run(train_op, feed_dict={scale: 1.0}),
    lambda session, train_op, loss, scale: session.run(train_op.op) or session.run(
        tf.train.get_global_step()),
    lambda session, train_op, loss, scale: _trace(session, train_op),
    lambda session, train_op, loss, scale: session.run_step_fn(
        lambda step_context: step_context.run_with_hooks(train_op)),
], ids=['alone', 'in a list', 'in a dictionary', 'fed', 'its op', 'traced', 'step function'])
def test_run_of_the_train_op_is_a_step_and_any_other_is_not(
    run_step, train_dir, monkeypatch, capsys):
  FLAGS(['pytest', '--max_steps=8', '--log_frequency=3', '--save_summaries_steps=3',
         '--save_checkpoint_secs=4'])
  clock = [0.0]
  for name in ('perf_counter', 'monotonic'):
    monkeypatch.setattr(training.time, name, lambda: clock[0])
  global_step = tf.train.get_or_create_global_step()
  scale = tf.placeholder_with_default(1.0, [])
  weights = tf.get_variable('weights', initializer=[1.0, 2.0])
  loss = scale * (100 - tf.cast(global_step, tf.float32))
  tf.summary.scalar('loss', loss)
  with tf.control_dependencies([loss]):
    train_op = _step(global_step)
  with training.training_session(train_op, loss, 5, {'classes': ['hot', 'cold']}) as session:
    assert isinstance(session, tf.train.MonitoredSession)
    assert session.graph is tf.get_default_graph()
    for step in range(8):
      assert not session.should_stop()
      clock[0] += 0.5
      assert run_step(session, train_op, loss, scale) == step + 1
      # What a program may also do in its loop, such as validation.
      clock[0] += 0.5
      assert session.run(loss) == 99 - step
      values, total = session.run([weights, loss], feed_dict={scale: 0.0})
      assert values.tolist() == [1.0, 2.0] and total == 0.0
      assert _trace(session, [loss]) == [99 - step]
      assert session.run_step_fn(lambda step_context: step_context.session.run(scale)) == 1.0
    assert session.should_stop()
  # Step 0 took half a second, and so much passed between all others and what came between them.
  assert LINE.findall(capsys.readouterr().out) == [
      ('0', '100.00', '10.0', '0.500'), ('3', '97.00', '5.0', '1.000'),
      ('6', '94.00', '5.0', '1.000')]
  # A summary has the step that it is of, counted from 1.
  assert [(step, value) for step, tag, value in _events(train_dir) if tag == 'loss'] == [
      (1, 100.0), (4, 97.0), (7, 94.0)]
  assert _steps(train_dir) == {0, 5, 8}  # The fifth step was the first that ended after 4 seconds.


def _bit_by_bit(global_step):
  with tf.control_dependencies([_step(global_step)]):
    return _step(global_step, 2)


def _in_a_branch(global_step):
  return tf.cond(tf.less(global_step, 100), lambda: _step(global_step, 3), lambda: global_step)


@pytest.mark.parametrize('add_step', [lambda step: _step(step, 3), _bit_by_bit, _in_a_branch])
def test_steps_are_what_the_variable_counts(add_step, train_dir, capsys):
  FLAGS.max_steps = 12
  by_three = add_step(tf.train.get_or_create_global_step())
  loss = tf.reduce_sum(tf.zeros_like(tf.get_variable('weights', [3])))
  with training.training_session(by_three, loss, 5, {'classes': ['hot', 'cold']}) as session:
    for step in (3, 6, 9, 12):
      assert not session.should_stop()
      assert session.run(by_three) == step
    assert session.should_stop()
  assert [step for step, _ in _log(capsys.readouterr().out)] == [0, 6]
  assert _steps(train_dir) == {0, 12}


def test_finished_run_can_still_be_asked():
  FLAGS.max_steps = 1
  weights = tf.get_variable('weights', initializer=[1.0, 2.0])
  loss = tf.reduce_sum(weights)
  train_op = _step(tf.train.get_or_create_global_step())
  for step in (0, 1):
    with training.training_session(train_op, loss, 5, {'classes': ['hot', 'cold']}) as session:
      assert session.run([weights, loss])[1] == 3.0
      assert session.should_stop() == bool(step)
      session.run(train_op)


@pytest.mark.parametrize('can_compile', [True, False])
@pytest.mark.parametrize('xla', [True, False])
def test_session_is_compiled_where_that_works_unless_noxla(xla, can_compile, monkeypatch):
  monkeypatch.setattr(tf_setup, 'can_compile', lambda: can_compile)
  FLAGS.xla = xla
  configs = []

  def creator(scaffold, config):
    configs.append(config)
    return tf.train.ChiefSessionCreator(scaffold, config=config)

  assert _train(2, session_creator=creator, num_cpus=3) == 2
  assert _train(2, session_creator=creator) is None  # Nothing to train, so nothing to compile.
  assert [config.graph_options.optimizer_options.global_jit_level for config in configs] == [
      tf.OptimizerOptions.ON_1 if xla and can_compile else tf.OptimizerOptions.DEFAULT,
      tf.OptimizerOptions.DEFAULT]
  assert configs[0].device_count['CPU'] == 3


def _train_on_numbers(max_steps, numbers, with_gpus):
  """Trains with numbers from a queue, staged as on a GPU; the loss of a step is its number."""
  with_gpus(1)
  FLAGS.max_steps = max_steps
  with tf.Graph().as_default():
    queue = tf.train.input_producer(tf.constant(list(numbers), tf.float32), num_epochs=1,
                                    shuffle=False)
    number = queue.dequeue()
    staged, _ = cifar10_input.stage(number, number)
    tf.get_variable('weights', [3])
    step = _step(tf.train.get_or_create_global_step())
    train_op = tf.group(step, *tf.get_collection(tf_setup.STAGING))
    with training.training_session(train_op, staged, 5, {'classes': ['hot', 'cold']}) as session:
      while not session.should_stop():
        session.run(train_op)


def test_each_staged_batch_is_used_once_in_order_also_after_a_resume(with_gpus, capsys):
  FLAGS(['pytest', '--log_frequency=1', '--save_summaries_steps=3'])
  _train_on_numbers(7, range(10, 90), with_gpus)
  assert _log(capsys.readouterr().out) == [(step, 10 + step) for step in range(7)]
  _train_on_numbers(9, range(50, 90), with_gpus)
  assert _log(capsys.readouterr().out) == [(7, 50), (8, 51)]


def test_input_that_fails_before_the_first_step_is_a_one_line_error(with_gpus, train_dir):
  with_gpus(1)
  names = tf.train.string_input_producer(['missing.bin'])
  _, record = tf.FixedLengthRecordReader(1).read(names)
  values = tf.cast(tf.decode_raw(tf.train.batch([record], 2), tf.uint8), tf.float32)
  staged, _ = cifar10_input.stage(values, values)
  tf.get_variable('weights', [3])
  train_op = tf.assign_add(tf.train.get_or_create_global_step(), 1)
  with pytest.raises(UserError, match='missing.bin: No such file or directory'):
    with training.training_session(train_op, tf.reduce_sum(staged), 2,
                                   {'classes': ['hot', 'cold']}) as session:
      while not session.should_stop():
        session.run(train_op)
  assert _steps(train_dir) == {0}


def test_second_training_in_a_directory_is_refused(train_dir):
  def start_another(step):
    with pytest.raises(UserError, match='cifar10/train.*--train_dir'):
      _train(3)
    FLAGS.max_steps = 2

  _train(2, after_step=start_another)
  assert _train(3) == 3
  with pytest.raises(ZeroDivisionError):
    _train(5, after_step=lambda step: 1 / 0)
  assert _train(5) == 5  # However the one before ended.


@pytest.mark.parametrize('replace', [lambda path: None, os.mkdir, lambda path: path.write_text('')])
def test_directory_that_vanishes_ends_the_run(train_dir, replace):
  def vanish(step):
    if step == 3:
      shutil.rmtree(train_dir)
      replace(train_dir)

  with pytest.raises(UserError, match='cifar10/train '):
    _train(10, after_step=vanish)
  assert not train_dir.is_dir() or os.listdir(train_dir) == []


def test_new_run_in_the_place_of_one_that_vanished_is_alone(train_dir):
  def another(step):
    if step == 3:
      shutil.rmtree(train_dir)
      _train(7)
      FLAGS.max_steps = 10

  with pytest.raises(UserError, match='cifar10/train '):
    _train(10, after_step=another)
  assert _steps(train_dir) == {0, 7}


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
    with pytest.raises(UserError, match='cifar10/train/.*model.ckpt-10.*'
                       '(Permission denied|Operation not permitted)'):
      _train(10, after_step=lambda step: stack.enter_context(_read_only(train_dir)) if step == 5
             else None)
  assert _train(10) == 10


@pytest.mark.parametrize('method', ['add_summary', 'close'])
def test_event_file_that_cannot_be_written_is_a_one_line_error(method, monkeypatch):
  def full(self, *args, **kwargs):
    # As TensorFlow words it.
    raise RuntimeError('cifar10/train/events.out.tfevents.1795602665.vm; No space left on device\n'
                       '\tFailed to flush 1 events\n\tFlushing first event.')

  monkeypatch.setattr(tf.summary.FileWriter, method, full)
  with pytest.raises(UserError, match='cifar10/train/events.*No space left on device'):
    _train(3)


@pytest.mark.parametrize('with_loss', [True, False])
def test_input_that_fails_is_a_one_line_error(with_loss, tmp_path):
  FLAGS(['pytest', '--max_steps=1000000', '--log_frequency=1000000', '--save_summaries_steps=0'])
  path = tmp_path / 'records.bin'
  path.write_bytes(bytes(10))
  names = tf.train.string_input_producer([str(path)])
  _, record = tf.FixedLengthRecordReader(1).read(names)
  loss = tf.reduce_sum(tf.cast(tf.decode_raw(tf.train.batch([record], 2), tf.uint8), tf.float32))
  train_op = tf.assign_add(tf.train.get_or_create_global_step(), 1)
  tf.get_variable('weights', [3])
  with pytest.raises(UserError, match='records.bin: No such file or directory'):
    with training.training_session(train_op, loss, 2, {'classes': ['hot', 'cold']}) as session:
      while not session.should_stop():
        step = session.run([train_op, loss])[0] if with_loss else session.run(train_op)
        if step == 3:
          path.unlink()


@pytest.mark.parametrize('error', [BrokenPipeError, UserError])
def test_log_that_cannot_be_written_ends_the_run_with_a_checkpoint(train_dir, error, monkeypatch):
  def leave(message):
    if 'step 2' in message:
      raise error

  monkeypatch.setattr(training.console, 'log', leave)
  with pytest.raises(error):
    _train(100)
  assert _steps(train_dir) == {0, 3}


def test_path_that_cannot_be_a_run_is_refused(tmp_path):
  FLAGS.train_dir = 'run[1]'
  with pytest.raises(UserError, match='--train_dir'):
    _train(3)
  assert contents(tmp_path) == {}
