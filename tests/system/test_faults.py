"""Faults and bad input, given to the real scripts: what they say, and what they leave as it was."""

import ctypes
import fcntl
import functools
import os
import pty
import random
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import time

import pytest
import tensorflow.compat.v1 as tf

from cifar10_support import checkpoints
from conftest import ROOT
from conftest import contents
from waiting import read_until
from waiting import wait_until
import warm_process

TRAIN, TOWERS = 'cifar10_train.py', 'cifar10_multi_gpu_train.py'
EVAL, PREDICT = 'cifar10_eval.py', 'cifar10_predict.py'


@pytest.fixture
def home(tmp_path):
  """The directory that the scripts run in."""
  path = tmp_path / 'home'
  path.mkdir()
  return path


@pytest.fixture(scope='module')
def two_steps(small_data_dir, tmp_path_factory):
  """The directory `cifar10` of a run of two steps."""
  home = tmp_path_factory.mktemp('trained')
  process = warm_process.WarmProcess(home, TRAIN, [
      '--data_dir=' + small_data_dir, '--max_steps=2', '--batch_size=8'])
  assert process.wait() == 0, process.err
  return home / 'cifar10'


@pytest.fixture
def run(two_steps, home):
  """A copy of that run in `home`; returns its `train`."""
  shutil.copytree(two_steps, home / 'cifar10')
  return home / 'cifar10' / 'train'


def _fails_and_changes_nothing(home, script, args, status, expected, **kwargs):
  before = contents(home)
  process = warm_process.WarmProcess(home, script, args, **kwargs)
  assert process.wait() == status, process.err
  assert re.fullmatch('%s: .*%s.*\n' % (script, expected), process.err)
  after = contents(home)
  # An evaluation may make its directory, for which it was asked.
  after = {path: data for path, data in after.items() if not path.startswith('cifar10/eval')}
  assert after == before


def _latest_step(train_dir):
  """Returns the step of the latest checkpoint, or 0."""
  names = checkpoints.paths(str(train_dir))
  return int(names[0].split('-')[-1]) if names else 0


# Bad input. The modules' own tests have the many cases.


@pytest.mark.parametrize('script, args, expected', [
    (TRAIN, ['--batch_size=0'], '--batch_size=0'),
    (TRAIN, ['--momentum=nan'], '--momentum=nan'),
    (TRAIN, ['--data_dri=x'], 'data_dri'),
    (TOWERS, ['--num_gpus=two'], '--num_gpus=two'),
    (EVAL, ['--max_steps=3'], 'max_steps')])
def test_wrong_flag_is_status_2(script, args, expected, home):
  _fails_and_changes_nothing(home, script, args, 2, expected)


@pytest.mark.parametrize('script', [TRAIN, TOWERS])
def test_cluster_for_a_script_that_trains_on_one_machine(script, home):
  _fails_and_changes_nothing(home, script, [], 1, 'python -m cifar10_cluster', env={
      'TF_CONFIG': '{"cluster": {"ps": ["a:1"], "chief": ["b:2"]}, "task": {"type": "chief"}}'})


def test_damaged_data_set(home, small_data_dir, run):
  shutil.copytree(small_data_dir, home / 'data')
  for script, name in ((TRAIN, 'data_batch_4.bin'), (EVAL, 'test_batch.bin')):
    os.truncate(home / 'data' / 'cifar-10-batches-bin' / name, 3073 + 1)
    args = ['--data_dir=data'] + (['--run_once'] if script == EVAL else ['--max_steps=4'])
    _fails_and_changes_nothing(home, script, args, 1, '%s .*3074' % name)
    shutil.copy(os.path.join(small_data_dir, 'cifar-10-batches-bin', name),
                home / 'data' / 'cifar-10-batches-bin')


def test_data_set_that_cannot_be_downloaded(home):
  (home / 'data').mkdir()
  _fails_and_changes_nothing(home, TRAIN, ['--data_dir=data', '--data_url=http://127.0.0.1:9/'], 1,
                             'http://127.0.0.1:9/ .*--data_url=file://.*--data_dir.*--synthetic')


def _nothing(train_dir):
  pass


def _damage_record(train_dir):
  (train_dir / 'run.json').write_text('{')


def _damage_checkpoints(train_dir):
  for path in train_dir.glob('*.index'):
    os.truncate(path, 100)


def _other_network(train_dir):
  with tf.Graph().as_default(), tf.Session() as session:
    tf.get_variable('conv1/weights', [3, 3, 3, 64])
    tf.train.get_or_create_global_step()
    session.run(tf.global_variables_initializer())
    tf.train.Saver().save(session, str(train_dir / 'model.ckpt'), global_step=7)


@pytest.mark.parametrize('script, args, damage, expected', [
    (TRAIN, ['--train_dir=/dev/null'], _nothing, '/dev/null .*--train_dir'),
    (TRAIN, [], _damage_record, 'run.json'),
    (TRAIN, [], _damage_checkpoints, 'cifar10/train '),
    (TOWERS, [], _other_network, 'model.ckpt-7 .*conv1/biases'),
    (EVAL, ['--checkpoint_dir=none'], _nothing, 'none'),
    (EVAL, ['--eval_dir=/dev/null'], _nothing, '/dev/null .*--eval_dir'),
    (EVAL, [], _damage_checkpoints, 'cifar10/train '),
    (EVAL, [], _other_network, 'model.ckpt-7 .*--use_moving_averages=false'),
    (PREDICT, ['none.png'], _damage_checkpoints, 'cifar10/train ')])
def test_bad_run(script, args, damage, expected, home, run, small_data_dir):
  damage(run)
  more = {EVAL: ['--run_once'], PREDICT: []}.get(script, ['--max_steps=4', '--batch_size=8'])
  if script != PREDICT:
    more.append('--data_dir=' + small_data_dir)
  _fails_and_changes_nothing(home, script, args + more, 1, expected)


def test_second_training_in_the_directory(home, run, small_data_dir):
  descriptor = os.open(run, os.O_RDONLY)
  fcntl.flock(descriptor, fcntl.LOCK_EX)
  try:
    for more in ([], ['--restart']):
      _fails_and_changes_nothing(home, TRAIN, [
          '--data_dir=' + small_data_dir, '--max_steps=4', *more], 1, 'cifar10/train.*--train_dir')
  finally:
    os.close(descriptor)


# A disk or a directory that cannot be written, or read.


def _obey_permissions():
  """Takes all capabilities from a process of root: then permissions hold for it too."""
  if not os.geteuid():
    header = struct.pack('Ii', 0x20080522, 0)  # The version of the interface; this process.
    assert ctypes.CDLL(None).capset(header, bytes(24)) == 0


@pytest.mark.parametrize('script', [TRAIN, EVAL])
def test_read_only_directory(script, home, run, small_data_dir):
  for path in (run.parent, run):
    path.chmod(0o555)
  what = 'cifar10/train' if script == TRAIN else 'cifar10/eval'
  args = ['--run_once'] if script == EVAL else ['--max_steps=4']
  _fails_and_changes_nothing(home, script, ['--data_dir=' + small_data_dir, *args], 1,
                             '%s.*Permission denied' % what, before=_obey_permissions)


@pytest.mark.parametrize('script', [TRAIN, EVAL])
@pytest.mark.parametrize('what', ['.', 'model.ckpt-2.index', 'run.json'])
def test_run_without_permission_cannot_be_read(script, what, home, run, small_data_dir):
  path = run / what
  mode = path.stat().st_mode
  path.chmod(0)
  try:
    args = ['--run_once'] if script == EVAL else ['--max_steps=4']
    process = warm_process.WarmProcess(home, script, ['--data_dir=' + small_data_dir, *args],
                                       before=_obey_permissions)
    assert process.wait() == 1
    assert re.fullmatch('%s: .*%s.*Permission denied.*\n' % (
        script, 'cifar10/train' if what == '.' else what), process.err)
  finally:
    path.chmod(mode)


def test_full_disk_ends_the_run_and_it_resumes(home, run, small_data_dir):
  args = ['--data_dir=' + small_data_dir, '--max_steps=4', '--batch_size=8']
  process = warm_process.WarmProcess(home, TRAIN, args, largest_file=4000000)
  assert process.wait() == 1
  assert re.fullmatch(TRAIN + ': cifar10/train/model.ckpt-4.*File too large.*\n', process.err)
  process = warm_process.WarmProcess(home, TRAIN, args)
  assert (process.wait(), process.err) == (0, '')
  assert 'from step 2' in process.out
  assert _latest_step(run) == 4


@pytest.mark.parametrize('script', [TRAIN, EVAL])
def test_full_disk_under_the_log(script, home, run, small_data_dir):
  args = ['--run_once'] if script == EVAL else ['--max_steps=4']
  process = warm_process.WarmProcess(home, script, ['--data_dir=' + small_data_dir, *args],
                                     out='/dev/full')
  assert process.wait() == 1
  assert re.fullmatch(script + ': .*standard output.*No space left on device.*\n', process.err)


def test_full_disk_under_the_events_of_an_evaluation(home, run, small_data_dir):
  process = warm_process.WarmProcess(
      home, EVAL, ['--data_dir=' + small_data_dir, '--run_once'], largest_file=100000)
  assert process.wait() == 1
  assert re.fullmatch(EVAL + ': .*cifar10/eval.*File too large.*--eval_dir.*\n', process.err)


# Kills and signals.


def test_kills_at_random_moments_of_training_lose_nothing_that_was_saved(home, small_data_dir):
  moments = random.Random(0)
  args = ['--data_dir=' + small_data_dir, '--batch_size=4', '--save_checkpoint_secs=1',
          '--log_frequency=1', '--max_steps=1000000']
  train_dir = home / 'cifar10' / 'train'

  # How long the machine takes from the start to a checkpoint; the moments reach further.
  begin = time.monotonic()
  process = warm_process.WarmProcess(home, TRAIN, args)
  wait_until(lambda: _latest_step(train_dir) > 0, process.alive)
  until_saved = time.monotonic() - begin
  process.kill()

  saved = _latest_step(train_dir)
  for _ in range(10):
    process = warm_process.WarmProcess(home, TRAIN, args)
    time.sleep(moments.uniform(0.1, 1.6) * until_saved)
    process.kill()
    assert process.err == ''
    start = re.search('from step ([0-9]+)', process.out)
    if start:
      assert int(start.group(1)) == saved
    step = _latest_step(train_dir)
    assert step >= saved
    saved = step
  process = warm_process.WarmProcess(home, TRAIN, args)  # However slow the machine has become.
  wait_until(lambda: _latest_step(train_dir) > saved, process.alive)
  process.kill()
  saved = _latest_step(train_dir)

  process = warm_process.WarmProcess(home, TRAIN, args[:-1] + ['--max_steps=%d' % (saved + 2)])
  assert process.wait() == 0
  assert 'from step %d' % saved in process.out
  process = warm_process.WarmProcess(home, EVAL, [args[0], '--run_once'])
  assert process.wait() == 0
  assert re.search(r'precision @ 1 = \d\.\d{3}\n', process.out)
  # TensorFlow deletes an old one after it has forgotten it: a kill in between leaves it.
  assert len(tf.train.get_checkpoint_state(str(train_dir)).all_model_checkpoint_paths) <= 5


@pytest.mark.parametrize('script, number, status', [
    (TRAIN, signal.SIGINT, 130), (TRAIN, signal.SIGTERM, 143), (TOWERS, signal.SIGHUP, 129),
    (TOWERS, signal.SIGUSR1, 138)])
def test_signal_saves_and_says_so(script, number, status, home, small_data_dir):
  process = warm_process.WarmProcess(home, script, [
      '--data_dir=' + small_data_dir, '--batch_size=4', '--log_frequency=1'])
  wait_until(lambda: 'step 3,' in process.out, process.alive)
  process.signal(number)
  assert (process.wait(), process.err) == (status, '')
  last = process.out.splitlines()[-1]
  assert number.name in last
  assert int(re.search('step ([0-9]+)', last).group(1)) == (
      _latest_step(home / 'cifar10' / 'train'))


HANGING = """
from cifar10_support import training
from cifar10_support import tf_setup
import tensorflow.compat.v1 as tf

tf_setup.use_graph_mode()
training.FLAGS(['hanging'])
tf.train.get_or_create_global_step()
tf.get_variable('weights', [3])
loss = tf.FIFOQueue(1, tf.float32, [[]]).dequeue()
with training.training_session(loss, loss, 5, {'classes': ['hot', 'cold']}) as session:
  print('From here on nothing comes.')
  session.run(loss)
"""


@pytest.mark.parametrize('sent, status', [
    ([signal.SIGINT, signal.SIGINT], 130),
    # A terminal that closes sends SIGHUP twice, which is no second signal.
    ([signal.SIGHUP, signal.SIGHUP, signal.SIGTERM], 143)])
def test_second_signal_ends_a_training_whose_step_hangs(sent, status, tmp_path):
  process = subprocess.Popen([sys.executable, '-u', '-c', HANGING], text=True, cwd=tmp_path,
                             stdout=subprocess.PIPE, env={**os.environ, 'PYTHONPATH': ROOT})
  try:
    read_until(process, 'From here on nothing comes.')
    for number in sent:
      time.sleep(1.5)  # Two signals within a second are one.
      assert process.poll() is None
      process.send_signal(number)
    out, _ = process.communicate(timeout=60)
  finally:
    process.kill()
  assert process.returncode == status
  assert sent[-1].name in out


def _take_terminal(path):
  """Makes a terminal the one of this process, with its output."""
  os.setsid()
  terminal = os.open(path, os.O_RDWR)  # The first that a session opens is its own.
  os.dup2(terminal, 2)
  sys.stdout = open(terminal, 'w')


def test_terminal_that_closes_loses_nothing(home, small_data_dir):
  ours, theirs = pty.openpty()
  process = warm_process.WarmProcess(
      home, TRAIN, ['--data_dir=' + small_data_dir, '--batch_size=4', '--log_frequency=1'],
      before=functools.partial(_take_terminal, os.ttyname(theirs)))
  out = bytearray()

  def is_training():
    if select.select([ours], [], [], 0)[0]:
      out.extend(os.read(ours, 1000))
    return b'step 3,' in out

  wait_until(is_training, process.alive)
  os.close(theirs)
  os.close(ours)
  assert process.wait() == 129
  assert _latest_step(home / 'cifar10' / 'train') > 3


def test_evaluation_beside_a_training_whose_checkpoints_come_and_go(home, small_data_dir):
  data = '--data_dir=' + small_data_dir
  (home / 'evaluation').mkdir()
  evaluation = warm_process.WarmProcess(home / 'evaluation', EVAL, [
      data, '--eval_interval_secs=0', '--checkpoint_dir=%s/cifar10/train' % home])
  training = warm_process.WarmProcess(home, TRAIN, [
      data, '--batch_size=8', '--max_steps=900', '--save_checkpoint_secs=1'])
  assert training.wait() == 0, training.err
  assert evaluation.wait() == 0, evaluation.err
  assert (training.err, evaluation.err) == ('', '')
  files = sorted((home / 'evaluation' / 'cifar10' / 'eval').glob('events.*'))
  points = [(event.step, value.simple_value) for path in files
            for event in tf.train.summary_iterator(str(path))
            for value in event.summary.value if value.tag == 'precision @ 1']
  steps = [step for step, _ in points]
  assert steps == sorted(set(steps))
  assert steps[-1] == 900
  # Training keeps the last five: some were deleted meanwhile.
  assert len(steps) > 5
  # Of the 100 test images each is counted.
  assert all(precision * 100 == pytest.approx(round(precision * 100), abs=1e-4)
             for _, precision in points)
