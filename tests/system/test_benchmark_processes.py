"""Starts each benchmark with the smallest numbers, and looks at those that it prints."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from conftest import ROOT
import warm_process

SMALL_RUN = ['--batch_size=8', '--min_queue_examples=100', '--log_frequency=1']


def _command(script, *arguments):
  return [sys.executable, os.path.join(ROOT, 'benchmarks', script), *arguments]


def _run(cwd, script, *arguments):
  """Runs a benchmark to its end; returns the words of each line that it prints."""
  process = warm_process.WarmProcess(cwd, 'benchmarks/' + script, arguments)
  assert process.wait(300) == 0, process.err
  return [line.split() for line in process.out.splitlines()]


@pytest.mark.parametrize('name', [
    'project', 'project_mixed_precision', 'project_bare_loop', 'project_without_onednn',
    'project_computation', 'project_input', 'project_evaluation', 'one_tower', 'two_towers',
    'cluster_of_two', 'naive', 'naive_input', 'keras', 'pytorch', 'pytorch_compiled',
    'matrix_product'])
def test_every_program_measures(name, small_data_dir, tmp_path):
  if 'pytorch' in name and not importlib.util.find_spec('torch'):
    pytest.skip('PyTorch is not installed.')
  process = subprocess.Popen(
      _command('programs.py', name, small_data_dir, '8'), cwd=tmp_path, text=True,
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
      env={**os.environ, 'TMPDIR': str(tmp_path)})
  try:
    out, _ = process.communicate('0.1\n', timeout=300)
  finally:
    try:
      os.killpg(process.pid, signal.SIGKILL)  # The other tasks of the cluster.
    except ProcessLookupError:
      pass
  assert process.returncode == 0
  ready, answer = out.splitlines()
  assert ready == 'ready'
  answer = json.loads(answer)
  assert answer['images_per_second'] > 1 and answer['peak_mb'] > 100


def test_throughput(small_data_dir, tmp_path):
  done = subprocess.run(
      _command('throughput.py', '--data_dir=' + small_data_dir, '--batch_size=8', '--rounds=2',
               '--seconds=0.1', '--programs', 'project_evaluation', 'pytorch',
               '--json=rates.json', '--checkouts', 'here=' + ROOT, 'again=' + ROOT),
      cwd=tmp_path, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr
  _, programs, ratios, comparison = [[line.split() for line in table.splitlines()]
                                     for table in done.stdout.split('\n\n')]
  measured = {(name, checkout): float(rate) for name, _, checkout, rate, *_ in programs[1:]}
  assert {('project_evaluation', 'here'), ('project_evaluation', 'again')} <= measured.keys()
  assert all(rate > 1 for rate in measured.values())
  assert ratios[0][-2:] == ['here', 'again']
  assert comparison[1][:4] == ['project_evaluation,', 'again', 'to', 'here']
  assert float(comparison[1][4]) > 0
  if not importlib.util.find_spec('torch'):
    assert done.stderr.count('\n') == 2 and done.stderr.count("No module named 'torch'") == 2
  with open(tmp_path / 'rates.json') as file:
    assert all(len(program['rates']) == 2 for program in json.load(file)['programs'])


def test_operations(tmp_path):
  rows = _run(tmp_path, 'operations.py', '--steps=1', '--batch_size=2')
  assert rows[-1][0] == 'together' and all(row[-1] == 'ms' for row in rows)
  *times, total = [float(row[-2]) for row in rows]
  # Only of the last, what is left over, there may be next to nothing.
  assert len(times) == 6 and all(milliseconds > 0 for milliseconds in times[:5])
  assert sum(times) == pytest.approx(total, abs=0.4)


def test_loop(tmp_path):
  rows = _run(tmp_path, 'loop.py', '--rounds=1', '--steps=5')
  assert len(rows) == 3 and all(float(row[0]) > 0 and row[1] == 'us' for row in rows)
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize('script, flag, named', [
    ('loop.py', '--steps=0', '--steps'),
    ('operations.py', '--nosuch=1', 'nosuch'),
    ('startup.py', '--rounds=0', '--rounds')])
def test_wrong_flag_is_one_line(script, flag, named):
  done = subprocess.run(_command(script, flag), capture_output=True, text=True, timeout=300)
  assert done.returncode == 2
  assert named in done.stderr.splitlines()[-1]


def test_startup(small_data_dir, tmp_path):
  rows = _run(tmp_path, 'startup.py', '--rounds=1', '--data_dir=' + small_data_dir, *SMALL_RUN)
  imports, step, aim = [float(re.search(r' ([\d.]+) s', ' '.join(row)).group(1)) for row in rows]
  assert 0.1 < imports and 0.1 < step
  assert aim == pytest.approx(1.25 * imports + 3, abs=0.02)
  assert not os.listdir(tmp_path)


def test_simulate_scaling(tmp_path):
  rows = _run(tmp_path, 'simulate_scaling.py')
  assert rows[0][0] == '4273192'  # Bytes of 1,068,298 parameters.
  # As docs/scaling.md quotes it: 10 Gbit/s, 40 ms, one server.
  numbers = [word for word in rows[2] if word != '|']
  assert numbers[:4] == ['10', '40', '1', '4']
  assert [numbers[i] for i in (4, 5, 7, 8, 10, 11)] == [
      '41.7', '40.3', '109.5', '109.4', '435.2', '437.6']


def test_stages_are_trained_evaluated_kept_and_drawn(small_data_dir, tmp_path):
  def train(max_steps):
    done = subprocess.run(
        _command('train_and_evaluate.py', '--run_dir=run', '--evaluate_every=3',
                 '--max_steps=%d' % max_steps, '--data_dir=' + small_data_dir, *SMALL_RUN),
        cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    return done.stdout

  first, second = train(3), train(5)
  assert [re.findall(': step ([0-9]+),', out) for out in (first, second)] == [
      ['0', '1', '2'], ['3', '4']]
  precisions = re.findall(r'precision @ 1 = ([0-9.]+)', first + second)
  assert len(precisions) == 4  # Two stages, each with the moving averages and without.
  _, *rows = [line.split(',') for line in
              (tmp_path / 'run' / 'evaluations.csv').read_text().splitlines()]
  assert [row[:3] for row in rows] == [['3', *precisions[:2]], ['5', *precisions[2:]]]
  seconds = [float(line) for line in (tmp_path / 'run' / 'seconds.txt').read_text().split()]
  assert [int(row[3]) for row in rows] == [round(seconds[0]), round(sum(seconds))]

  assert _run(tmp_path, 'keep_curves.py', 'run', 'kept') == []
  out = [] if not importlib.util.find_spec('matplotlib') else ['--out=curves.svg']
  _, *table = _run(tmp_path, 'compare_runs.py', 'first=run', 'second=kept', '--csv', *out)
  table = [' '.join(row).split(',') for row in table]
  assert [[row[0], row[1], row[3], row[4]] for row in table] == [
      [name, row[0], row[1], row[2]] for name in ('first', 'second') for row in rows]
  if out:
    picture = (tmp_path / 'curves.svg').read_text()
    for label in ('first', 'second', 'moving averages', 'raw weights'):
      assert '<!-- %s -->' % label in picture


def test_picture_that_cannot_be_written_is_one_line(tmp_path):
  pytest.importorskip('matplotlib', reason='matplotlib is not here: pip install -e .[plots]')
  run = os.path.join(ROOT, 'docs', 'runs', 'faithful')
  done = subprocess.run(_command('compare_runs.py', run, '--out=nowhere/curves.png'), cwd=tmp_path,
                        capture_output=True, text=True, timeout=300)
  assert done.returncode == 1
  assert 'nowhere/curves.png' in done.stderr and done.stderr.count('\n') == 1
  assert '0.869' in done.stdout  # Its precision at the end.


def test_copy_on_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
  run = os.path.join(ROOT, 'docs', 'runs', 'faithful')
  done = subprocess.run(
      ['bash', '-c', 'ulimit -f 8; exec "$@"', '', *_command('keep_curves.py', run, 'copy')],
      cwd=tmp_path, capture_output=True, text=True, timeout=300)
  assert done.returncode == 1
  assert 'copy' in done.stderr and done.stderr.count('\n') == 1
  assert os.listdir(tmp_path / 'copy' / 'train') == []


@pytest.mark.parametrize('number, status', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_lets_training_save(number, status, small_data_dir, tmp_path):
  process = subprocess.Popen(
      _command('train_and_evaluate.py', '--run_dir=run', '--max_steps=1000000',
               '--evaluate_every=1000000', '--data_dir=' + small_data_dir, *SMALL_RUN),
      cwd=tmp_path, text=True, stdout=subprocess.PIPE, start_new_session=True)
  try:
    assert any('step 1,' in line for line in process.stdout)
    if number == signal.SIGINT:
      os.killpg(process.pid, number)  # As a terminal does.
    else:
      process.send_signal(number)
    out, _ = process.communicate(timeout=120)
  finally:
    process.kill()
  assert process.returncode == status
  assert number.name in out
  assert len((tmp_path / 'run' / 'seconds.txt').read_text().splitlines()) == 1
  assert 'model.ckpt-' in (tmp_path / 'run' / 'train' / 'checkpoint').read_text()


def test_stage_that_training_has_passed_is_left_out(small_data_dir, tmp_path):
  (tmp_path / 'run' / 'train').mkdir(parents=True)
  (tmp_path / 'run' / 'seconds.txt').write_text('1.0\n')
  (tmp_path / 'run' / 'train' / 'checkpoint').write_text(
      'model_checkpoint_path: "model.ckpt-7"\nall_model_checkpoint_paths: "model.ckpt-2"\n')
  rows = _run(tmp_path, 'train_and_evaluate.py', '--run_dir=run', '--evaluate_every=3',
              '--max_steps=6')
  assert [re.search('step ([0-9]+)', ' '.join(row)).group(1) for row in rows] == ['3', '6']
  assert not (tmp_path / 'run' / 'evaluations.csv').exists()


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_script_that_a_signal_ends_gives_the_status_of_a_shell(number, tmp_path):
  (tmp_path / 'killed.py').write_text('import os\nos.kill(os.getpid(), %d)\n' % number)
  done = subprocess.run(
      [sys.executable, '-c', 'import train_and_evaluate\n'
       'train_and_evaluate.Scripts().run(%r, [])' % str(tmp_path / 'killed.py')],
      cwd=os.path.join(ROOT, 'benchmarks'), timeout=120)
  assert done.returncode == 128 + number


def test_signal_between_two_scripts_ends_it_before_the_next(tmp_path):
  (tmp_path / 'script.py').write_text('print("at work")\n')
  done = subprocess.run(
      [sys.executable, '-c', 'import signal, train_and_evaluate\n'
       'scripts = train_and_evaluate.Scripts()\n'
       'scripts.run(%r, [])\n'
       'signal.raise_signal(signal.SIGTERM)\n'
       'scripts.run(%r, [])\n' % ((str(tmp_path / 'script.py'),) * 2)],
      cwd=os.path.join(ROOT, 'benchmarks'), capture_output=True, text=True, timeout=120)
  assert (done.returncode, done.stdout, done.stderr) == (143, 'at work\n', '')
