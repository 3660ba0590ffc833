"""The scripts as you run them: processes, in an empty directory."""

import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from conftest import ROOT
import numpy_network
from waiting import read_until
import warm_process

TIME = r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}'
STEP = TIME + r': step \d+, loss = \d+\.\d\d \(\d+\.\d examples/sec; \d+\.\d{3} sec/batch\)'
PRECISION = TIME + r': precision @ 1 = (\d\.\d{3})'
# Then, in lines of their own, of what that was, and where the rest is.
# Of some of the images, whose classes are not equally frequent, there is one more line.
EVALUATED = PRECISION + (r'(?:\n.*: balanced accuracy = 0\.\d{3})?'
                         r'\nStep 600 of cifar10/synthetic/train, \d+ (?:test|training) images\.'
                         r'\n.*tensorboard --logdir cifar10/synthetic/eval\n')
FILLING = ('Filling queue with 20000 CIFAR images before starting to train. '
           'This will take about a second.')

AVERAGES = '/ExponentialMovingAverage'


def _environment():
  # It is the scripts that keep TensorFlow quiet, not the environment of the tests.
  return {k: v for k, v in os.environ.items() if k != 'TF_CPP_MIN_LOG_LEVEL'}


def _run(cwd, script, *args):
  return subprocess.run([sys.executable, os.path.join(ROOT, script), *args], cwd=cwd,
                        env=_environment(), capture_output=True, text=True, timeout=300)


def _start(cwd, script, *args):
  return subprocess.Popen([sys.executable, os.path.join(ROOT, script), *args], cwd=cwd,
                          env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True)


def _precision(home, *args):
  process = warm_process.WarmProcess(home, 'cifar10_eval.py', ['--synthetic', '--run_once', *args])
  assert (process.wait(), process.err) == (0, '')
  return float(re.fullmatch(EVALUATED, process.out).group(1))


@pytest.fixture(scope='module')
def home(tmp_path_factory):
  return tmp_path_factory.mktemp('home')


@pytest.fixture(scope='module')
def trained(home):
  """The finished process of a training run on the synthetic set, 600 steps."""
  return _run(home, 'cifar10_train.py', '--synthetic', '--max_steps=600', '--batch_size=32',
              '--log_frequency=20')


@pytest.fixture(scope='module')
def run_dir(trained, home):
  return home / 'cifar10' / 'synthetic'


def test_training_prints_the_lines_of_the_contract_and_where_it_writes(trained):
  assert (trained.returncode, trained.stderr) == (0, '')
  lines = trained.stdout.splitlines()
  assert lines[0] == FILLING
  assert 'cifar10/synthetic/train' in lines[1]
  assert [re.match(TIME + r': step (\d+),', line).group(1) for line in lines[2:-2]] == [
      str(step) for step in range(0, 600, 20)]
  assert all(re.fullmatch(STEP, line) for line in lines[2:-2])
  assert 'step 600.' in lines[-2] and 'cifar10_eval.py' in lines[-1]
  losses = [float(line.split()[6]) for line in lines[2:-2]]
  assert 4.5 < losses[0] < 4.8
  assert np.mean(losses[-10:]) < losses[0] - 1  # One batch of 32 says little.


def test_everything_written_is_under_cifar10(trained, home, run_dir):
  assert os.listdir(home) == ['cifar10']
  assert os.listdir(home / 'cifar10') == ['synthetic']
  assert {'data', 'train'} <= set(os.listdir(run_dir))
  record = json.loads((run_dir / 'train' / 'run.json').read_text())
  assert record['flags']['max_steps'] == 600
  assert record['flags']['batch_size'] == 32
  assert record['tensorflow'] == tf.__version__


@pytest.fixture(scope='module')
def recognised(run_dir):
  """For each test image whether numpy's network recognises it, by the suffix of the variables."""
  reader = tf.train.load_checkpoint(str(run_dir / 'train' / 'model.ckpt-600'))
  keys = [key for key in reader.get_variable_to_shape_map() if re.search('(weights|biases)$', key)]

  def recognise(suffix, count, name='test_batch.bin'):
    images, labels = numpy_network.read(run_dir / 'data' / 'cifar-10-batches-bin' / name)
    variables = {key: reader.get_tensor(key + suffix) for key in keys}
    logits = [numpy_network.logits(numpy_network.central_crop(images[i:i + 100]), variables)
              for i in range(0, count, 100)]
    return np.concatenate(logits).argmax(1) == labels[:count]

  return {AVERAGES: recognise(AVERAGES, 1000), '': recognise('', 1000),
          'train_eval': recognise(AVERAGES, 1000, 'data_batch_1.bin')}


def test_precision_is_well_above_chance(home, recognised):
  precision = _precision(home)
  assert precision > 0.4  # Chance is 0.1.
  # Five standard deviations of the part that numpy has seen.
  assert precision == pytest.approx(np.mean(recognised[AVERAGES]), abs=0.08)


@pytest.mark.parametrize('batch_size', [7, 128, 1000])
def test_precision_is_that_of_numpy_at_every_batch_size(batch_size, home, recognised):
  precision = _precision(home, '--num_examples=1000', '--batch_size=%d' % batch_size)
  # Apart from a rounding error that decides between two nearly equal logits.
  assert precision == pytest.approx(np.mean(recognised[AVERAGES]), abs=0.0011)


def test_plain_variables_can_be_evaluated_too(home, recognised):
  precision = _precision(home, '--use_moving_averages=false', '--num_examples=1000')
  assert np.any(recognised[''] != recognised[AVERAGES])
  assert precision == pytest.approx(np.mean(recognised['']), abs=0.0011)


def test_training_images_can_be_evaluated_too(home, recognised):
  precision = _precision(home, '--eval_data=train_eval', '--num_examples=1000')
  assert np.any(recognised['train_eval'] != recognised[AVERAGES])
  assert precision == pytest.approx(np.mean(recognised['train_eval']), abs=0.0011)


def test_num_examples_evaluates_the_first_ones(home, recognised):
  # 200 is not a multiple of the batch size, 128.
  precision = _precision(home, '--num_examples=200')
  assert precision == pytest.approx(np.mean(recognised[AVERAGES][:200]), abs=0.0051)


def test_evaluation_of_a_finished_run_ends_by_itself(trained, home):
  process = _run(home, 'cifar10_eval.py', '--synthetic', '--num_examples=100',
                 '--eval_interval_secs=1')
  assert (process.returncode, process.stderr) == (0, '')
  assert re.fullmatch(EVALUATED, process.stdout)


def test_second_start_resumes(run_dir, tmp_path):
  home = tmp_path / 'home'
  shutil.copytree(run_dir, home / 'cifar10' / 'synthetic')  # The other tests need it as it is.
  process = warm_process.WarmProcess(home, 'cifar10_train.py', [
      '--synthetic', '--max_steps=602', '--batch_size=32', '--log_frequency=1'])
  assert (process.wait(), process.err) == (0, '')
  lines = process.out.splitlines()
  assert 'cifar10/synthetic/train' in lines[1] and 'step 600' in lines[1]
  assert [re.search('step ([0-9]+)', line).group(1) for line in lines[2:-2]] == ['600', '601']


def test_evaluation_follows_a_training_to_its_end(small_data_dir, tmp_path):
  data = '--data_dir=' + small_data_dir
  evaluation = _start(tmp_path, 'cifar10_eval.py', '--eval_interval_secs=0', data)
  try:
    assert ' 100 ' in read_until(evaluation, '')  # The data set is smaller than CIFAR-10.
    assert 'cifar10/train' in read_until(evaluation, '')  # It waits for a checkpoint there.
    training = _run(tmp_path, 'cifar10_train.py', '--max_steps=20', '--batch_size=8', data)
    assert training.returncode == 0, training.stderr
    out, err = evaluation.communicate(timeout=120)
  finally:
    evaluation.kill()
  assert (evaluation.returncode, err) == (0, '')
  steps = [event.step for path in sorted((tmp_path / 'cifar10' / 'eval').glob('events.*'))
           for event in tf.train.summary_iterator(str(path))
           for value in event.summary.value if value.tag == 'precision @ 1']
  # The checkpoint before the first step may have come and gone.
  assert steps in ([0, 20], [20])
  assert len(re.findall(PRECISION + '\n', out)) == len(steps)
  assert out.count(' Waiting for ') == len(steps) - 1


def test_control_c_saves_and_says_so(small_data_dir, tmp_path):
  process = _start(tmp_path, 'cifar10_train.py', '--data_dir=' + small_data_dir, '--batch_size=8',
                   '--log_frequency=1')
  try:
    read_until(process, 'step 3,')
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
  finally:
    process.kill()
  assert (process.returncode, err) == (130, '')
  last = out.splitlines()[-1]
  assert 'SIGINT' in last and 'cifar10/train' in last
  assert tf.train.latest_checkpoint(str(tmp_path / 'cifar10' / 'train')).endswith(
      'model.ckpt-' + re.search('step ([0-9]+)', last).group(1))


def test_control_c_ends_a_waiting_evaluation(small_data_dir, tmp_path):
  process = _start(tmp_path, 'cifar10_eval.py', '--data_dir=' + small_data_dir)
  try:
    read_until(process, 'cifar10/train')
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
  finally:
    process.kill()
  assert (process.returncode, out, err) == (130, '', '')


def test_installed_modules_are_found_beside_the_folder_of_a_run(tmp_path):
  try:
    importlib.metadata.version('cifar10-graph-tutorial')
  except importlib.metadata.PackageNotFoundError:
    pytest.skip('the project is not installed')
  (tmp_path / 'cifar10').mkdir()
  process = subprocess.run(
      [sys.executable, '-c', 'import cifar10; print(cifar10.INITIAL_LEARNING_RATE)'],
      cwd=tmp_path, env=_environment(), capture_output=True, text=True)
  assert process.stdout == '0.1\n', process.stderr


# What Windows has not.
WINDOWS = '''
import builtins, sys
import signal
import cifar10_support  # TensorFlow and Python themselves may use what they find.
del signal.SIGHUP, signal.SIGUSR1
sys.modules["fcntl"] = sys.modules["resource"] = None
open_before = builtins.open
def no_proc(name, *args, **kwargs):
  if str(name).startswith("/proc"):
    raise FileNotFoundError(2, "No such file or directory", name)
  return open_before(name, *args, **kwargs)
builtins.open = no_proc
import cifar10_train
cifar10_train.tf_setup.use_graph_mode()
cifar10_train.console.run(cifar10_train.main)
'''


def test_training_needs_nothing_that_windows_has_not(tmp_path, small_data_dir):
  process = subprocess.run(
      [sys.executable, '-c', WINDOWS, '--data_dir=' + small_data_dir, '--max_steps=1',
       '--batch_size=2', '--min_queue_examples=1', '--mixed_precision'],
      cwd=tmp_path, env=dict(_environment(), PYTHONPATH=ROOT), capture_output=True, text=True,
      timeout=120)
  assert (process.returncode, process.stderr) == (0, '')
  assert 'step 0, loss = ' in process.stdout
  assert (tmp_path / 'cifar10' / 'train' / 'model.ckpt-1.index').exists()


def test_reader_of_the_log_may_leave_early(small_data_dir, tmp_path):
  process = subprocess.run(
      ['bash', '-c', '"$0" "$1" --data_dir="$2" --batch_size=8 --log_frequency=1 | head -n 3',
       sys.executable, os.path.join(ROOT, 'cifar10_train.py'), small_data_dir],
      cwd=tmp_path, env=_environment(), capture_output=True, text=True, timeout=120)
  assert process.stderr == ''
  assert len(process.stdout.splitlines()) == 3


def test_error_is_one_line_in_a_process_of_its_own_too(tmp_path):
  process = _run(tmp_path, 'cifar10_eval.py', '--run_once')
  assert process.returncode == 1
  assert re.fullmatch('cifar10_eval.py: .*cifar10/train.*\n', process.stderr)
  assert process.stdout == ''
  assert os.listdir(tmp_path) == []


def test_model_by_itself_says_which_scripts_there_are(tmp_path):
  process = _run(tmp_path, 'cifar10.py')
  assert process.returncode == 1
  assert re.fullmatch(r'.*cifar10_train\.py.*cifar10_eval\.py.*\n', process.stderr)


@pytest.mark.parametrize('script, flags', [
    ('cifar10_train.py', ['train_dir=cifar10/train', 'max_steps=100000', 'log_frequency=10']),
    ('cifar10_multi_gpu_train.py', ['num_gpus=1', 'train_dir=cifar10/train']),
    ('cifar10_eval.py', ['eval_dir=cifar10/eval', 'eval_data=test', 'eval_interval_secs=300']),
    ('cifar10_predict.py', ['json=false', 'export_dir=', 'checkpoint_dir=cifar10/train']),
    ('cifar10_convert.py', ['data_dir=', 'image_size=32', 'test_fraction=0.2']),
])
def test_help_fits_the_terminal_and_begins_with_the_scripts_own_flags(script, flags, tmp_path):
  home = tmp_path / 'home'
  home.mkdir()
  process = warm_process.WarmProcess(home, script, ['--batch_size=7', '--help'])
  assert (process.wait(), process.err) == (0, '')
  lines = process.out.splitlines()
  assert 2 <= lines.index('') <= 3  # What it does.
  assert '  python %s' % script in process.out
  assert max(map(len, lines)) < 80
  listed = [line[4:] for line in lines if line.startswith('  --')]
  assert listed[:len(flags)] == flags
  # None of TensorFlow's or absl's.
  assert not {'verbosity', 'alsologtostderr', 'help'} & {flag.split('=')[0] for flag in listed}
