import os
import re
import signal
import subprocess
import sys

import pytest

from conftest import read_until
from conftest import ROOT

SCRIPT = os.path.join(ROOT, 'benchmarks', 'train_and_evaluate.py')


def _command(small_data_dir, max_steps):
  return [sys.executable, SCRIPT, '--run_dir=run', '--evaluate_every=3',
          '--max_steps=%d' % max_steps, '--data_dir=' + small_data_dir, '--batch_size=8',
          '--log_frequency=1']


def _steps(out):
  return [int(step) for step in re.findall(': step ([0-9]+),', out)]


def test_each_stage_is_trained_and_evaluated_once(small_data_dir, tmp_path):
  first = subprocess.run(_command(small_data_dir, 3), cwd=tmp_path, stdout=subprocess.PIPE,
                         text=True, check=True, timeout=300)
  assert _steps(first.stdout) == [0, 1, 2]
  second = subprocess.run(_command(small_data_dir, 5), cwd=tmp_path, stdout=subprocess.PIPE,
                          text=True, check=True, timeout=300)
  assert _steps(second.stdout) == [3, 4]
  precisions = re.findall(r'precision @ 1 = ([0-9.]+)', first.stdout + second.stdout)
  assert len(precisions) == 4  # Two stages, each with the averages and without.
  heading, *rows = [line.split(',') for line in
                    (tmp_path / 'run' / 'evaluations.csv').read_text().splitlines()]
  assert heading == ['step', 'precision', 'precision without moving averages',
                     'seconds of training']
  assert [row[:3] for row in rows] == [['3', *precisions[:2]], ['5', *precisions[2:]]]
  seconds = [float(line) for line in (tmp_path / 'run' / 'seconds.txt').read_text().split()]
  assert [int(row[3]) for row in rows] == [round(seconds[0]), round(sum(seconds))]


@pytest.mark.parametrize('number, status', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_lets_the_training_save(number, status, small_data_dir, tmp_path):
  process = subprocess.Popen(_command(small_data_dir, 10**6), cwd=tmp_path, text=True,
                             stdout=subprocess.PIPE, start_new_session=True)
  try:
    read_until(process, 'step 1,')
    if number == signal.SIGINT:
      os.killpg(process.pid, number)  # As a terminal does.
    else:
      process.send_signal(number)
    out, _ = process.communicate(timeout=120)
  finally:
    process.kill()
  assert process.returncode == status
  assert 'Stopped by %s' % number.name in out
  assert len((tmp_path / 'run' / 'seconds.txt').read_text().splitlines()) == 1


@pytest.mark.parametrize('flag, sentence', [
    ('--restart', '--restart does not go with stages'), ('5', "'5' is no flag"),
    ('--evaluate_every=0', '--evaluate_every must be at least 1.')])
def test_flag_that_does_not_fit_is_one_sentence(flag, sentence, tmp_path):
  process = subprocess.run([sys.executable, SCRIPT, '--run_dir=run', flag], cwd=tmp_path,
                           capture_output=True, text=True, timeout=120)
  assert process.returncode == 2
  assert sentence in process.stderr
  assert not os.listdir(tmp_path)


def test_training_that_was_begun_elsewhere_is_refused(tmp_path):
  (tmp_path / 'run' / 'train').mkdir(parents=True)
  process = subprocess.run([sys.executable, SCRIPT, '--run_dir=run'], cwd=tmp_path,
                           capture_output=True, text=True, timeout=120)
  assert process.returncode == 2
  assert 'run has a training that was not begun here: name a new directory' in process.stderr
  assert os.listdir(tmp_path / 'run') == ['train']


def test_stage_that_the_training_has_passed_is_left_out(small_data_dir, tmp_path):
  (tmp_path / 'run' / 'train').mkdir(parents=True)
  (tmp_path / 'run' / 'seconds.txt').write_text('1.0\n')
  (tmp_path / 'run' / 'train' / 'checkpoint').write_text(
      'model_checkpoint_path: "model.ckpt-7"\nall_model_checkpoint_paths: "model.ckpt-2"\n')
  process = subprocess.run(_command(small_data_dir, 6), cwd=tmp_path, capture_output=True,
                           text=True, timeout=120)
  assert process.stdout.splitlines() == [
      'The training is beyond step %d, which is not evaluated.' % step for step in (3, 6)]
  assert process.returncode == 0
  assert not (tmp_path / 'run' / 'evaluations.csv').exists()


def test_script_that_is_killed_gives_the_status_of_a_shell(tmp_path):
  (tmp_path / 'killed.py').write_text('import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n')
  process = subprocess.run(
      [sys.executable, '-c', 'import train_and_evaluate\n'
       'train_and_evaluate.Scripts().run(%r, [])' % str(tmp_path / 'killed.py')],
      cwd=os.path.dirname(SCRIPT), timeout=120)
  assert process.returncode == 137


def test_signal_between_two_scripts_ends_it_before_the_next(tmp_path):
  (tmp_path / 'script.py').write_text('print("at work")\n')
  process = subprocess.run(
      [sys.executable, '-c', 'import signal, train_and_evaluate\n'
       'scripts = train_and_evaluate.Scripts()\n'
       'scripts.run(%r, [])\n'
       'signal.raise_signal(signal.SIGTERM)\n'
       'scripts.run(%r, [])\n' % ((str(tmp_path / 'script.py'),) * 2)],
      cwd=os.path.dirname(SCRIPT), capture_output=True, text=True, timeout=120)
  assert (process.returncode, process.stdout, process.stderr) == (143, 'at work\n', '')
