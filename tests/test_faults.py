"""Bad input and faults, given to the real scripts: each has its sentence and status."""

import fcntl
import functools
import json
import os
import pty
import random
import re
import select
import shutil
import signal
import socket
import sys
import time

import pytest
import tensorflow.compat.v1 as tf

import cifar10_checkpoint
from conftest import wait_until
import warm_process

TRAIN, TOWERS, EVAL = 'cifar10_train.py', 'cifar10_multi_gpu_train.py', 'cifar10_eval.py'

# Script, arguments, a part of the sentence; the status is 2.
WRONG_FLAGS = [
    (TRAIN, ['--batch_size=0'], 'flag --batch_size=0: '),
    (TRAIN, ['--batch_size=-1'], 'flag --batch_size=-1: '),
    (TRAIN, ['--batch_size=1000000'], 'flag --batch_size=1000000: '),
    (TRAIN, ['--batch_size=many'], 'flag --batch_size=many: '),
    (TRAIN, ['--batch_size='], 'flag --batch_size=: '),
    (TRAIN, ['--max_steps=0'], 'flag --max_steps=0: '),
    (TRAIN, ['--max_steps=1e3'], 'flag --max_steps=1e3: '),
    (TRAIN, ['--log_frequency=0'], 'flag --log_frequency=0: '),
    (TRAIN, ['--save_checkpoint_secs=0'], 'flag --save_checkpoint_secs=0: '),
    (TRAIN, ['--save_summaries_steps=-1'], 'flag --save_summaries_steps=-1: '),
    (TRAIN, ['--profile_steps=-1'], 'flag --profile_steps=-1: '),
    (TRAIN, ['--peer_timeout_secs=0'], 'flag --peer_timeout_secs=0: '),
    (TRAIN, ['--restart=perhaps'], 'flag --restart=perhaps: '),
    (TRAIN, ['--synthetic=2'], 'flag --synthetic=2: '),
    (TRAIN, ['--top_layers=convolutional'], 'flag --top_layers=convolutional: '),
    (TRAIN, ['--min_queue_examples=0'], 'flag --min_queue_examples=0: '),
    (TRAIN, ['--min_queue_examples=50001'], 'flag --min_queue_examples=50001: '),
    (TRAIN, ['--mixed_precision=half'], 'flag --mixed_precision=half: '),
    (TRAIN, ['--initial_learning_rate=-0.1'], 'flag --initial_learning_rate=-0.1: '),
    (TRAIN, ['--learning_rate_schedule=up'], 'flag --learning_rate_schedule=up: '),
    (TRAIN, ['--num_epochs_per_decay=0'], 'flag --num_epochs_per_decay=0: '),
    (TRAIN, ['--momentum=1.5'], 'flag --momentum=1.5: '),
    (TRAIN, ['--weight_decay=-1'], 'flag --weight_decay=-1: '),
    (TRAIN, ['--conv_weight_decay=-1'], 'flag --conv_weight_decay=-1: '),
    (TRAIN, ['--moving_average_decay=2'], 'flag --moving_average_decay=2: '),
    (TRAIN, ['--distortion_strength=1.1'], 'flag --distortion_strength=1.1: '),
    (TRAIN, ['--momentum=nan'], 'flag --momentum=nan: must be a finite number'),
    (TRAIN, ['--num_epochs_per_decay=inf'], 'flag --num_epochs_per_decay=inf: '),
    (TRAIN, ['--num_epochs_per_decay=1e20'], 'flag --num_epochs_per_decay=1e20: '),
    (TRAIN, ['--distortion_strength=nan'], 'flag --distortion_strength=nan: '),
    (TRAIN, ['--num_examples=5'], '--num_examples is no flag of training: give it to cifar10_eval'),
    (TRAIN, ['--checkpoint_dir=x'], '--checkpoint_dir is no flag of training: '),
    (TRAIN, ['--data_dri=x'], "Unknown command line flag 'data_dri'"),
    (TRAIN, ['--num_gpus=2'], "Unknown command line flag 'num_gpus'"),
    (TRAIN, ['--train_dir'], 'Missing value for flag --train_dir'),
    (TRAIN, ['train'], "'train' is not a flag"),
    (TOWERS, ['--num_gpus=0'], 'flag --num_gpus=0: '),
    (TOWERS, ['--num_gpus=two'], 'flag --num_gpus=two: '),
    (EVAL, ['--eval_data=foo'], 'flag --eval_data=foo: '),
    (EVAL, ['--num_examples=0'], 'flag --num_examples=0: '),
    (EVAL, ['--eval_interval_secs=-1'], 'flag --eval_interval_secs=-1: '),
    (EVAL, ['--run_once=twice'], 'flag --run_once=twice: '),
    (EVAL, ['--use_moving_averages=no!'], 'flag --use_moving_averages=no!: '),
    (EVAL, ['--max_steps=3'], "Unknown command line flag 'max_steps'"),
]


def _remove(path):
  os.remove(path)


def _empty(path):
  os.truncate(path, 0)


def _half(path):
  os.truncate(path, os.path.getsize(path) // 2 + 1)


def _text(path):
  path.write_text('Not pictures, but words. ' * 1000)


def _wrong_label(path):
  with open(path, 'r+b') as records:
    records.seek(2 * 3073)
    records.write(b'\x0a')


def _cifar100(path):
  # Each record has two labels.
  path.write_bytes((b'\x03\x63' + bytes(3072)) * 100)


def _directory(path):
  path.unlink()
  path.mkdir()


def _dangling_link(path):
  path.unlink()
  path.symlink_to('nowhere')


def _two_classes(path):
  path.write_text('cat\ndog\n')


# What happens to a file of the data set, and a part of the sentence; the status is 1.
DAMAGED_DATA = [
    (_remove, '{} is missing: '),
    (_dangling_link, '{} is missing: '),
    (_empty, '{} is empty: '),
    (_half, '{} has 153651 bytes, which is no multiple of a record'),
    (_text, '{} is a text file: '),
    (_wrong_label, '{} has label 10 in record 2, above 9: '),
    (_cifar100, '{} has records of 3074 bytes, which are CIFAR-100\'s: '),
    (_directory, '{} is not a file: '),
]


def _write(name, contents):
  return lambda train_dir: (train_dir / name).write_text(contents)


def _is_directory(name):
  def replace(train_dir):
    (train_dir / name).unlink()
    (train_dir / name).mkdir()
  return replace


def _of_tensorflow_2(train_dir):
  """Leaves what a `tf.train.CheckpointManager` of a program of the user's has written."""
  shutil.rmtree(train_dir)
  train_dir.mkdir()
  with tf.Graph().as_default(), tf.Session() as session:
    tf.get_variable('kernel', [3])
    session.run(tf.global_variables_initializer())
    for step in (1, 2):
      tf.train.Saver().save(session, str(train_dir / 'ckpt'), step, write_meta_graph=False)


def _damaged_of_unknown_origin(train_dir):
  (train_dir / 'run.json').unlink()
  os.truncate(train_dir / 'model.ckpt-2.index', 0)


def _nothing(train_dir):
  pass


def _cut(name, size):
  return lambda train_dir: os.truncate(train_dir / name, size)


def _delete(name):
  return lambda train_dir: (train_dir / name).unlink()


def _other_network(train_dir):
  with tf.Graph().as_default(), tf.Session() as session:
    tf.get_variable('conv1/weights', [3, 3, 3, 64])
    tf.train.get_or_create_global_step()
    session.run(tf.global_variables_initializer())
    tf.train.Saver().save(session, str(train_dir / 'model.ckpt'), global_step=7)


def _other_data_set(train_dir):
  record = (train_dir / 'run.json').read_text()
  (train_dir / 'run.json').write_text(record.replace('"warm disc"', '"airplane"'))


DATA = 'model.ckpt-2.data-00000-of-00001'

# Script, arguments, what happens to a run of two steps, a part of the sentence; the status is 1.
BAD_RUNS = [
    (TRAIN, ['--train_dir='], _nothing, '--train_dir is empty'),
    (TRAIN, ['--train_dir=a*b'], _nothing, '*, ?, [ and \\ in a*b for a pattern'),
    (TRAIN, ['--train_dir=/dev/null'], _nothing, '/dev/null is not a directory: '),
    (TRAIN, ['--train_dir=/dev/null/a'], _nothing, 'Cannot write to /dev/null/a (Not a directory)'),
    (TRAIN, ['--train_dir=/proc/self'], _nothing, 'Cannot write to /proc/self ('),
    (TRAIN, [], _write('run.json', ''), 'run.json is damaged: '),
    (TRAIN, [], _write('run.json', '{}'), 'run.json is damaged: '),
    (TRAIN, [], _write('run.json', '[1, 2]'), 'run.json is damaged: '),
    (TRAIN, [], _write('run.json', 200000 * '['), 'run.json is damaged: '),
    (TRAIN, [], _is_directory('checkpoint'), 'checkpoint is a directory, in the place of the file'),
    (TRAIN, [], _of_tensorflow_2, 'ckpt-2, which is no model.ckpt-N of this directory: '),
    (TRAIN, ['--restart'], _of_tensorflow_2, 'ckpt-2, which is no model.ckpt-N of this directory'),
    (TRAIN, [], _write('checkpoint', 'model_checkpoint_path: "/other/model.ckpt-4"'),
     'checkpoint names /other/model.ckpt-4, which is no model.ckpt-N of this directory: '),
    (TRAIN, [], _damaged_of_unknown_origin, 'is damaged or missing, and no run.json proves that'),
    (TRAIN, ['--restart'], _other_network, 'model.ckpt-7 is a checkpoint of something else, without'
     ' softmax_linear/biases, and --restart deletes nothing beside it: '),
    (TRAIN, [], _other_data_set, 'is on another data set (airplane, '),
    (TRAIN, [], _other_network, 'model.ckpt-7 is a checkpoint of another network: conv1/'),
    (TRAIN, ['--top_layers=local'], _nothing, 'model.ckpt-2 is a checkpoint of another network: '
     'local3/biases is float32 of shape [384] there and float32 of shape [6, 6, 32] here; '
     'name another directory, or give the flags of that run (see its run.json).'),
    (TRAIN, ['--restart'], _delete('run.json'), 'it is not from here, and --restart does not'),
    (TRAIN, ['--synthetic', '--data_dir=x'], _nothing, '--synthetic and --data_dir=x name two'),
    (TOWERS, ['--train_dir=/dev/null'], _nothing, '/dev/null is not a directory: '),
    (TOWERS, [], _other_network, 'model.ckpt-7 is a checkpoint of another network: conv1/'),
    (EVAL, ['--checkpoint_dir=none'], _nothing, 'There is no checkpoint in none: train first'),
    (EVAL, ['--checkpoint_dir='], _nothing, '--checkpoint_dir is empty'),
    (EVAL, ['--checkpoint_dir=/dev/null'], _nothing, '/dev/null is not a directory: '),
    (EVAL, ['--checkpoint_dir=a[b'], _nothing, '*, ?, [ and \\ in a[b for a pattern'),
    (EVAL, ['--eval_dir='], _nothing, '--eval_dir is empty'),
    (EVAL, ['--eval_dir=/dev/null'], _nothing, '/dev/null is not a directory: '),
    (EVAL, ['--eval_dir=/dev/null/a'], _nothing, 'Cannot write to /dev/null/a (Not a directory)'),
    (EVAL, ['--eval_dir=/proc/self'], _nothing, 'Cannot write to /proc/self ('),
    (EVAL, [], _write('run.json', '{"flags": 3}'), 'run.json is damaged: '),
    (EVAL, [], _is_directory('checkpoint'), 'checkpoint is damaged, which names the latest'),
    (EVAL, [], _write('checkpoint', ''), 'checkpoint is damaged, which names the latest'),
    (EVAL, [], _write('checkpoint', 'nonsense'), 'checkpoint is damaged, which names the latest'),
    (EVAL, [], _write('checkpoint', 'model_checkpoint_path: "model.ckpt-9"'),
     'model.ckpt-9 is missing: '),
    (EVAL, [], _cut('model.ckpt-2.index', 0), 'model.ckpt-2 is damaged ('),
    (EVAL, [], _cut('model.ckpt-2.index', 100), 'model.ckpt-2 is damaged ('),
    (EVAL, [], _cut(DATA, 0), 'model.ckpt-2 is damaged ('),
    (EVAL, [], _cut(DATA, 1000000), 'model.ckpt-2 is damaged ('),
    (EVAL, [], _delete(DATA), 'model.ckpt-2 is damaged ('),
    (EVAL, [], _delete('model.ckpt-2.index'), 'model.ckpt-2 is missing: '),
    (EVAL, [], _other_data_set, 'is on another data set (airplane, '),
    (EVAL, ['--top_layers=local'], _nothing, 'is a checkpoint of another network: local3/biases'),
    (EVAL, [], _other_network, 'model.ckpt-7 is a checkpoint of another network: conv1/'),
]


CLUSTER = '{"cluster": {"ps": ["a:1"], "chief": ["b:2"]}, "task": %s}'

# The environment variable, a part of the sentence; the status is 1.
BAD_TF_CONFIGS = [
    ('not JSON', 'TF_CONFIG is not JSON ('),
    ('{}', 'TF_CONFIG names no task: it must be like {"cluster": '),
    (CLUSTER % '{"type": "gardener", "index": 0}', 'a task of type "gardener", which is none of'),
    (CLUSTER % '{"type": "chief", "index": 1}', 'is for chief 1, but names 1 of them'),
    ('{"cluster": {"chief": ["b:2"]}, "task": {"type": "chief", "index": 0}}', 'names no ps'),
    ('{"cluster": {"ps": ["a"]}, "task": {"type": "ps", "index": 0}}', 'that is not host:port'),
    ('{"cluster": {"ps": ["http://a:1"]}, "task": {"type": "ps"}}', 'that is not host:port'),
    ('[' * 100000, 'TF_CONFIG is not JSON ('),
]


def _case_name(value):
  if callable(value):
    return value.__name__.strip('_').replace('<lambda>', '')
  return value[:40] if isinstance(value, str) else ' '.join(value)


def _contents(folder):
  return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
          for path in folder.rglob('*')}


def _fails_and_changes_nothing(home, script, args, status, sentence, env=None):
  before = _contents(home)
  process = warm_process.WarmProcess(home, script, args, env=env)
  assert process.wait() == status, process.err
  assert process.err.startswith(script + ': ')
  assert process.err.count('\n') == 1
  assert sentence in process.err
  after = _contents(home)
  # An evaluation may make its directory, for which it was asked.
  after = {path: data for path, data in after.items() if not path.startswith('cifar10/eval')}
  assert after == before


@pytest.fixture
def home(tmp_path):
  """The directory that the scripts are started in."""
  path = tmp_path / 'home'
  path.mkdir()
  return path


@pytest.mark.parametrize('script, args, sentence', WRONG_FLAGS, ids=_case_name)
def test_wrong_flag(script, args, sentence, home):
  _fails_and_changes_nothing(home, script, args, 2, sentence)


@pytest.mark.parametrize('config, sentence', BAD_TF_CONFIGS, ids=_case_name)
def test_bad_tf_config(config, sentence, home):
  _fails_and_changes_nothing(home, TRAIN, [], 1, sentence, {'TF_CONFIG': config})


def test_cluster_for_the_script_that_trains_on_one_machine(home):
  config = CLUSTER % '{"type": "chief", "index": 0}'
  _fails_and_changes_nothing(home, TOWERS, [], 1, 'TF_CONFIG describes a cluster, and this script '
                             'trains on one machine: run cifar10_train.py ', {'TF_CONFIG': config})


def test_port_of_a_task_is_taken(home, small_data_dir):
  with socket.socket() as taken:
    taken.bind(('', 0))
    taken.listen()
    address = '127.0.0.1:%d' % taken.getsockname()[1]
    for job, jobs in [('ps', {'ps': [address], 'chief': ['127.0.0.1:1']}),
                      ('chief', {'ps': ['127.0.0.1:1'], 'chief': [address]})]:
      config = json.dumps({'cluster': jobs, 'task': {'type': job, 'index': 0}})
      _fails_and_changes_nothing(home, TRAIN, ['--data_dir=' + small_data_dir], 1,
                                 '%s 0 cannot serve at %s (Address already in use): '
                                 % (job, address), {'TF_CONFIG': config})


@pytest.mark.parametrize('damage, sentence', DAMAGED_DATA, ids=_case_name)
@pytest.mark.parametrize('name', ['data_batch_4.bin', 'test_batch.bin'])
@pytest.mark.parametrize('script', [TRAIN, EVAL])
def test_damaged_data_set(script, name, damage, sentence, home, small_data_dir):
  shutil.copytree(small_data_dir, home / 'data')
  damage(home / 'data' / 'cifar-10-batches-bin' / name)
  _fails_and_changes_nothing(home, script, ['--data_dir=data'], 1, sentence.format(name))


@pytest.mark.parametrize('script', [TRAIN, EVAL])
def test_data_set_with_other_than_ten_classes(script, home, small_data_dir):
  shutil.copytree(small_data_dir, home / 'data')
  _two_classes(home / 'data' / 'cifar-10-batches-bin' / 'batches.meta.txt')
  args = ['--data_dir=data', '--max_steps=1'] if script == TRAIN else ['--data_dir=data']
  if script == EVAL:
    (home / 'cifar10' / 'train').mkdir(parents=True)
    _other_network(home / 'cifar10' / 'train')
  _fails_and_changes_nothing(home, script, args, 1, 'batches.meta.txt names 2 classes, not 10')


@pytest.mark.parametrize('data_dir, sentence', [
    ('nowhere', 'There is no folder nowhere: '),
    ('/dev/null', 'There is no folder /dev/null: '),
    ('cifar100', 'The data set in cifar100 is CIFAR-100: '),
    ('mine', 'There is no data set in mine, which is not empty either: ')])
@pytest.mark.parametrize('script', [TRAIN, TOWERS, EVAL])
def test_folder_without_a_data_set(script, data_dir, sentence, home):
  (home / 'mine').mkdir()
  (home / 'mine' / 'letter.txt').write_text('mine')
  (home / 'cifar100').mkdir()
  (home / 'cifar100' / 'train.bin').write_text('mine')
  _fails_and_changes_nothing(home, script, ['--data_dir=' + data_dir], 1, sentence)


@pytest.mark.parametrize('url', ['http://127.0.0.1:9/', 'nonsense', 'file:///nowhere.tar.gz'])
def test_data_set_that_cannot_be_fetched(url, home):
  (home / 'data').mkdir()
  _fails_and_changes_nothing(home, TRAIN, ['--data_dir=data', '--data_url=' + url], 1,
                             'Fetching %s failed (' % url)


@pytest.fixture(scope='module')
def run(small_data_dir, tmp_path_factory):
  """The directory `cifar10` of a run of two steps."""
  home = tmp_path_factory.mktemp('trained')
  process = warm_process.WarmProcess(home, TRAIN, [
      '--data_dir=' + small_data_dir, '--max_steps=2', '--batch_size=8'])
  assert process.wait() == 0, process.err
  return home / 'cifar10'


@pytest.mark.parametrize('script, args, damage, sentence', BAD_RUNS, ids=_case_name)
def test_bad_run(script, args, damage, sentence, home, run, small_data_dir):
  shutil.copytree(run, home / 'cifar10')
  damage(home / 'cifar10' / 'train')
  args = ['--batch_size=8', *args] + (['--run_once'] if script == EVAL else ['--max_steps=4'])
  if '--synthetic' not in args:
    args.append('--data_dir=' + small_data_dir)
  _fails_and_changes_nothing(home, script, args, 1, sentence)


def test_second_training_at_work_in_the_directory(home, run, small_data_dir):
  shutil.copytree(run, home / 'cifar10')
  descriptor = os.open(home / 'cifar10' / 'train', os.O_RDONLY)
  fcntl.flock(descriptor, fcntl.LOCK_EX)
  try:
    _fails_and_changes_nothing(home, TRAIN, ['--data_dir=' + small_data_dir, '--max_steps=4'], 1,
                               'Another training is at work in cifar10/train: ')
  finally:
    os.close(descriptor)


def test_full_disk_ends_the_run_and_the_checkpoints_before_it_load(home, run, small_data_dir):
  shutil.copytree(run, home / 'cifar10')
  args = ['--data_dir=' + small_data_dir, '--max_steps=4', '--batch_size=8']
  process = warm_process.WarmProcess(home, TRAIN, args, largest_file=4000000)
  assert process.wait() == 1
  assert process.err.count('\n') == 1
  assert re.search(r'cifar10/train/model.ckpt-2.* \(File too large\): put that right, and the same '
                   'command goes on from the last checkpoint', process.err)
  process = warm_process.WarmProcess(home, TRAIN, args)
  assert process.wait() == 0
  assert 'Resuming cifar10/train from step 2.' in process.out
  assert not list((home / 'cifar10' / 'train').glob('*tempstate*'))


@pytest.mark.parametrize('script', [TRAIN, EVAL])
def test_full_disk_under_the_log_is_one_sentence(script, home, run, small_data_dir):
  shutil.copytree(run, home / 'cifar10')
  args = ['--data_dir=' + small_data_dir] + (['--max_steps=4'] if script == TRAIN else [])
  process = warm_process.WarmProcess(home, script, args, out='/dev/full')
  assert process.wait() == 1
  assert process.err == ('%s: Standard output cannot be written (No space left on device): put '
                         'that right, and start the same command again.\n' % script)


def test_full_disk_under_the_events_of_an_evaluation_is_one_sentence(home, run, small_data_dir):
  shutil.copytree(run, home / 'cifar10')
  process = warm_process.WarmProcess(
      home, EVAL, ['--data_dir=' + small_data_dir, '--run_once'], largest_file=100000)
  assert process.wait() == 1
  assert process.err == (EVAL + ': Cannot write to cifar10/eval (File too large): name another '
                         'directory with --eval_dir.\n')
  assert os.listdir(home / 'cifar10' / 'eval') == []


def test_restart_takes_a_run_with_other_flags(home, run, small_data_dir):
  shutil.copytree(run, home / 'cifar10')
  process = warm_process.WarmProcess(home, TRAIN, [
      '--data_dir=' + small_data_dir, '--batch_size=8', '--max_steps=1', '--restart',
      '--top_layers=local', '--momentum=0.9'])
  assert process.wait() == 0, process.err
  assert not list((home / 'cifar10' / 'train').glob('model.ckpt-2*'))


def test_25_kills_at_random_moments_of_training_lose_nothing_that_was_saved(home, small_data_dir):
  moments = random.Random(0)
  args = ['--data_dir=' + small_data_dir, '--batch_size=4', '--save_checkpoint_secs=1',
          '--log_frequency=1', '--max_steps=1000000']
  train_dir = home / 'cifar10' / 'train'

  def latest_step():
    latest = cifar10_checkpoint.latest(str(train_dir))
    return int(latest.split('-')[-1]) if latest else 0

  # How long the machine takes from the start to a checkpoint; the moments reach further.
  begin = time.monotonic()
  process = warm_process.WarmProcess(home, TRAIN, args)
  wait_until(lambda: latest_step() > 0, process.alive)
  until_saved = time.monotonic() - begin
  process.kill()

  first = saved = latest_step()
  for _ in range(25):
    process = warm_process.WarmProcess(home, TRAIN, args)
    time.sleep(moments.uniform(0.1, 1.6) * until_saved)  # To resume may take longer.
    process.kill()
    assert process.err == ''
    start = re.search('(Resuming .* from step ([0-9]+)|Training in)', process.out)
    if start:
      assert int(start.group(2) or 0) == saved
    step = latest_step()
    assert step >= saved
    saved = step
  assert saved > first

  process = warm_process.WarmProcess(home, TRAIN, args[:-1] + ['--max_steps=%d' % (saved + 2)])
  assert process.wait() == 0
  assert 'Resuming cifar10/train from step %d.' % saved in process.out
  process = warm_process.WarmProcess(home, EVAL, [args[0], '--run_once'])
  assert process.wait() == 0
  assert re.search(r'precision @ 1 = \d\.\d{3}\n', process.out)
  strays = [path.name for path in train_dir.iterdir() if not re.fullmatch(
      r'checkpoint|run\.json|graph\.pbtxt|events\..*|model\.ckpt-\d+\.(index|meta|data-.*)',
      path.name)]
  assert strays == []
  assert len(list(train_dir.glob('*.data*'))) == len(list(train_dir.glob('*.index')))
  # TensorFlow deletes an old one after it has forgotten it: a kill in between leaves it.
  assert len(tf.train.get_checkpoint_state(str(train_dir)).all_model_checkpoint_paths) <= 5


@pytest.mark.parametrize('number, status', [
    (signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize('script', [TRAIN, TOWERS])
def test_signal_saves_and_tells(script, number, status, home, small_data_dir):
  process = warm_process.WarmProcess(home, script, [
      '--data_dir=' + small_data_dir, '--batch_size=4', '--log_frequency=1'])
  wait_until(lambda: 'step 3,' in process.out, process.alive)
  process.signal(number)
  assert process.wait() == status
  last = re.search('Stopped by %s after step ([0-9]+); the same command goes on' % number.name,
                   process.out)
  assert cifar10_checkpoint.latest(str(home / 'cifar10' / 'train')).endswith(
      'model.ckpt-' + last.group(1))


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

  def is_at_work():
    if select.select([ours], [], [], 0)[0]:
      out.extend(os.read(ours, 1000))
    return b'step 3,' in out

  wait_until(is_at_work, process.alive)
  os.close(theirs)
  os.close(ours)
  assert process.wait() == 129
  latest = cifar10_checkpoint.latest(str(home / 'cifar10' / 'train'))
  assert int(latest.rsplit('-', 1)[1]) > 3


def test_evaluation_beside_a_training_whose_checkpoints_come_and_go(home, small_data_dir):
  data = '--data_dir=' + small_data_dir
  (home / 'evaluation').mkdir()
  evaluation = warm_process.WarmProcess(home / 'evaluation', EVAL, [
      data, '--eval_interval_secs=0', '--checkpoint_dir=%s/cifar10/train' % home])
  training = warm_process.WarmProcess(home, TRAIN, [
      data, '--batch_size=16', '--max_steps=1000', '--save_checkpoint_secs=1'])
  assert training.wait() == 0, training.err
  assert evaluation.wait() == 0, evaluation.err
  assert (training.err, evaluation.err) == ('', '')
  [events] = (home / 'evaluation' / 'cifar10' / 'eval').iterdir()
  points = [(event.step, value.simple_value) for event in tf.train.summary_iterator(str(events))
            for value in event.summary.value if value.tag == 'precision @ 1']
  steps = [step for step, _ in points]
  assert steps == sorted(set(steps))
  assert steps[-1] == 1000
  # Training keeps the last five: some were deleted while this went on.
  assert len(steps) > 5
  # Of the 100 test images each is counted.
  assert all(precision * 100 == pytest.approx(round(precision * 100), abs=1e-4)
             for _, precision in points)
