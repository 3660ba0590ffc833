"""The scripts as a user runs them: processes, in an empty directory."""

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

import cifar10_eval
from conftest import read_until
from conftest import ROOT
import numpy_network

TIME = r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}'
STEP = TIME + r': step \d+, loss = \d+\.\d\d \(\d+\.\d examples/sec; \d+\.\d{3} sec/batch\)'
PRECISION = TIME + r': precision @ 1 = \d\.\d{3}'
FILLING = ('Filling queue with 20000 CIFAR images before starting to train. '
           'This will take about a second.')


def _environment():
  # It is the scripts that keep TensorFlow quiet, not the environment of the tests.
  return {k: v for k, v in os.environ.items() if k != 'TF_CPP_MIN_LOG_LEVEL'}


def _run(cwd, script, *args):
  return subprocess.run([sys.executable, os.path.join(ROOT, script), *args], cwd=cwd,
                        env=_environment(), capture_output=True, text=True, timeout=300)


def _precision(process):
  assert (process.returncode, process.stderr) == (0, '')
  assert re.fullmatch(PRECISION + '\n', process.stdout)
  return float(process.stdout.split()[-1])


@pytest.fixture(scope='module')
def home(tmp_path_factory):
  return tmp_path_factory.mktemp('home')


@pytest.fixture(scope='module')
def trained(home):
  """The finished process of a training on the synthetic set, 1,000 steps."""
  return _run(home, 'cifar10_train.py', '--synthetic', '--max_steps=1000', '--batch_size=32',
              '--log_frequency=100')


@pytest.fixture(scope='module')
def run_dir(trained, home):
  return home / 'cifar10' / 'synthetic'


def test_training_prints_the_lines_of_the_contract_and_no_others(trained):
  assert (trained.returncode, trained.stderr) == (0, '')
  lines = trained.stdout.splitlines()
  assert lines[:2] == [FILLING, 'Training in cifar10/synthetic/train.']
  assert [re.match(TIME + r': step (\d+),', line).group(1) for line in lines[2:]] == [
      str(step) for step in range(0, 1000, 100)]
  assert all(re.fullmatch(STEP, line) for line in lines[2:])
  losses = [float(line.split()[6]) for line in lines[2:]]
  assert 4.5 < losses[0] < 4.8
  assert losses[-1] < losses[0] - 1


def test_everything_written_is_under_cifar10(trained, home, run_dir):
  assert os.listdir(home) == ['cifar10']
  assert os.listdir(home / 'cifar10') == ['synthetic']
  assert {'data', 'train'} <= set(os.listdir(run_dir))
  record = json.loads((run_dir / 'train' / 'run.json').read_text())
  assert record['flags']['max_steps'] == 1000
  assert record['flags']['batch_size'] == 32
  assert record['tensorflow'] == tf.__version__


@pytest.fixture(scope='module')
def recognised(run_dir):
  """For each test image whether numpy's network recognises it, by the suffix of the variables."""
  reader = tf.train.load_checkpoint(str(run_dir / 'train' / 'model.ckpt-1000'))
  keys = [key for key in reader.get_variable_to_shape_map() if re.search('(weights|biases)$', key)]

  def recognise(suffix, count, name='test_batch.bin'):
    images, labels = numpy_network.read(run_dir / 'data' / 'cifar-10-batches-bin' / name)
    variables = {key: reader.get_tensor(key + suffix) for key in keys}
    logits = [numpy_network.logits(numpy_network.center(images[i:i + 100]), variables)
              for i in range(0, count, 100)]
    return np.concatenate(logits).argmax(1) == labels[:count]

  averages = '/ExponentialMovingAverage'
  return {averages: recognise(averages, 10000), '': recognise('', 1000),
          'train_eval': recognise(averages, 1000, 'data_batch_1.bin')}


@pytest.mark.parametrize('batch_size', [1, 7, 128, 10000])
def test_each_of_the_10000_images_counts_once_at_every_batch_size(
    batch_size, home, run_dir, recognised, monkeypatch, capsys):
  monkeypatch.chdir(home)
  cifar10_eval.FLAGS(['cifar10_eval.py', '--synthetic', '--run_once',
                      '--batch_size=%d' % batch_size])
  evaluate_once = cifar10_eval._evaluate_once
  evaluated = []

  def noted(*args):
    evaluated.append(evaluate_once(*args))
    return evaluated[-1]

  monkeypatch.setattr(cifar10_eval, '_evaluate_once', noted)
  cifar10_eval.evaluate()
  [(probabilities, truth, _)] = evaluated
  _, labels = numpy_network.read(run_dir / 'data' / 'cifar-10-batches-bin' / 'test_batch.bin')
  np.testing.assert_array_equal(truth, labels)
  right = probabilities.argmax(axis=1) == labels
  # As numpy says, but for a rounding error that decides between two equal logits.
  assert np.mean(right != recognised['/ExponentialMovingAverage']) <= 0.0002
  assert capsys.readouterr().out.endswith('precision @ 1 = %.3f\n' % right.mean())


def test_precision_is_well_above_chance(home, recognised):
  precision = _precision(_run(home, 'cifar10_eval.py', '--synthetic', '--run_once'))
  assert precision > 0.4
  assert precision == pytest.approx(np.mean(recognised['/ExponentialMovingAverage']), abs=0.001)


def test_plain_variables_can_be_evaluated_too(home, recognised, run_dir):
  precision = _precision(_run(home, 'cifar10_eval.py', '--synthetic', '--run_once',
                              '--use_moving_averages=false', '--num_examples=1000'))
  assert np.any(recognised[''] != recognised['/ExponentialMovingAverage'][:1000])
  assert precision == pytest.approx(np.mean(recognised['']), abs=0.0011)


def test_training_images_can_be_evaluated_too(home, recognised):
  precision = _precision(_run(home, 'cifar10_eval.py', '--synthetic', '--run_once',
                              '--eval_data=train_eval', '--num_examples=1000'))
  assert np.any(recognised['train_eval'] != recognised['/ExponentialMovingAverage'][:1000])
  assert precision == pytest.approx(np.mean(recognised['train_eval']), abs=0.0011)


def test_num_examples_evaluates_the_first_ones(home, recognised):
  # 200 is no multiple of the batch size, 128.
  precision = _precision(_run(home, 'cifar10_eval.py', '--synthetic', '--run_once',
                              '--num_examples=200'))
  assert precision == pytest.approx(np.mean(recognised['/ExponentialMovingAverage'][:200]),
                                    abs=0.0051)


def test_evaluation_ends_by_itself_when_training_has(trained, home):
  _precision(_run(home, 'cifar10_eval.py', '--synthetic', '--num_examples=100',
                  '--eval_interval_secs=1'))


def test_second_start_resumes(run_dir, tmp_path):
  shutil.copytree(run_dir, tmp_path / 'cifar10' / 'synthetic')  # The other tests need it as it is.
  process = _run(tmp_path, 'cifar10_train.py', '--synthetic', '--max_steps=1002',
                 '--batch_size=32', '--log_frequency=1')
  assert (process.returncode, process.stderr) == (0, '')
  lines = process.stdout.splitlines()
  assert lines[1] == 'Resuming cifar10/synthetic/train from step 1000.'
  assert [re.search('step ([0-9]+)', line).group(1) for line in lines[2:]] == ['1000', '1001']


def test_evaluation_follows_a_training_to_its_end(small_data_dir, tmp_path):
  arguments = ['--data_dir=' + small_data_dir]
  evaluation = subprocess.Popen(
      [sys.executable, os.path.join(ROOT, 'cifar10_eval.py'), '--eval_interval_secs=0', *arguments],
      cwd=tmp_path, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
  try:
    assert read_until(evaluation, '') == 'No checkpoint in cifar10/train yet: waiting for one.\n'
    training = _run(tmp_path, 'cifar10_train.py', '--max_steps=20', '--batch_size=8', *arguments)
    assert training.returncode == 0, training.stderr
    out, _ = evaluation.communicate(timeout=120)
  finally:
    evaluation.kill()
  assert evaluation.returncode == 0
  lines = out.splitlines()
  assert 1 <= len(lines) <= 2  # The checkpoint before the first step may have come and gone.
  assert all(re.fullmatch(PRECISION, line) for line in lines)
  [events] = (tmp_path / 'cifar10' / 'eval').iterdir()
  steps = [event.step for event in tf.train.summary_iterator(str(events))
           for value in event.summary.value if value.tag == 'precision @ 1']
  assert steps[-1] == 20
  assert len(steps) == len(lines)


def test_control_c_saves_and_tells(small_data_dir, tmp_path):
  process = subprocess.Popen(
      [sys.executable, os.path.join(ROOT, 'cifar10_train.py'), '--data_dir=' + small_data_dir,
       '--batch_size=8', '--log_frequency=1'],
      cwd=tmp_path, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  try:
    read_until(process, 'step 3,')
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
  finally:
    process.kill()
  assert (process.returncode, err) == (130, '')
  last = re.fullmatch('Stopped by SIGINT after step ([0-9]+); the same command goes on from there, '
                      'in cifar10/train.', out.splitlines()[-1])
  assert tf.train.latest_checkpoint(str(tmp_path / 'cifar10' / 'train')).endswith(
      'model.ckpt-' + last.group(1))


def test_control_c_ends_a_waiting_evaluation(small_data_dir, tmp_path):
  process = subprocess.Popen(
      [sys.executable, os.path.join(ROOT, 'cifar10_eval.py'), '--data_dir=' + small_data_dir],
      cwd=tmp_path, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  try:
    read_until(process, 'waiting for one')
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


def test_reader_of_the_log_may_leave_early(small_data_dir, tmp_path):
  process = subprocess.run(
      ['bash', '-c', '"$0" "$1" --data_dir="$2" --batch_size=8 --log_frequency=1 | head -n 3',
       sys.executable, os.path.join(ROOT, 'cifar10_train.py'), small_data_dir],
      cwd=tmp_path, env=_environment(), capture_output=True, text=True, timeout=120)
  assert process.stderr == ''
  assert len(process.stdout.splitlines()) == 3


@pytest.mark.parametrize('script, args, status, sentence', [
    # In processes without TensorFlow; test_faults.py has many more in others.
    ('cifar10_train.py', ['--data_dir={damaged}'], 1, 'data_batch_4.bin has 5000 bytes, '),
    ('cifar10_eval.py', ['--data_dir={good}', '--run_once'], 1,
     'There is no checkpoint in cifar10/train: train first'),
    ('cifar10_train.py', ['--data_dri={good}'], 2, "Unknown command line flag 'data_dri'."),
])
def test_bad_input_is_one_sentence_and_changes_nothing(
    script, args, status, sentence, small_data_dir, tmp_path):
  damaged = tmp_path / 'damaged'
  damaged.mkdir()
  for i in range(1, 6):
    (damaged / ('data_batch_%d.bin' % i)).write_bytes(bytes(3073 if i != 4 else 5000))
  before = sorted(str(path) for path in tmp_path.rglob('*'))
  process = _run(tmp_path, script,
                 *[arg.format(damaged=damaged, good=small_data_dir) for arg in args])
  assert process.returncode == status
  assert process.stderr.count('\n') == 1
  assert process.stderr.startswith(script + ': ')
  assert sentence in process.stderr
  after = sorted(str(path) for path in tmp_path.rglob('*'))
  assert after == before


@pytest.mark.parametrize('script, flags', [
    ('cifar10_train.py', ['train_dir=cifar10/train', 'max_steps=100000', 'log_frequency=10']),
    ('cifar10_multi_gpu_train.py', ['num_gpus=1', 'train_dir=cifar10/train']),
    ('cifar10_eval.py', ['eval_dir=cifar10/eval', 'eval_data=test', 'eval_interval_secs=300']),
    ('cifar10_predict.py', ['json=false', 'export_dir=', 'checkpoint_dir=cifar10/train']),
    ('svhn_to_cifar10.py', ['mat_dir=.', 'output_dir=svhn']),
])
def test_help_fits_the_terminal_and_begins_with_the_scripts_own_flags(script, flags, tmp_path):
  process = _run(tmp_path, script, '--batch_size=7', '--help')
  assert (process.returncode, process.stderr) == (0, '')
  lines = process.stdout.splitlines()
  assert 2 <= lines.index('') <= 3  # What it does.
  assert '  python %s' % script in process.stdout
  assert max(map(len, lines)) < 80
  listed = [line[4:] for line in lines if line.startswith('  --')]
  assert listed[:len(flags)] == flags
  # None of TensorFlow's or absl's.
  assert not {'verbosity', 'alsologtostderr', 'help'} & {flag.split('=')[0] for flag in listed}
