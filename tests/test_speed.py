"""The benchmarks of speed: throughput.py, operations.py, startup.py."""

import os
import subprocess
import sys

import pytest

from conftest import ROOT

sys.path.insert(0, os.path.join(ROOT, 'benchmarks'))

import throughput  # noqa: E402

# A program that measures 4, 6, 5 images a second; `naive` ends in its second turn, `keras` at once.
STAND_IN = """
import sys
name = sys.argv[1]
if name == 'keras':
  sys.exit(1)
print('ready', flush=True)
for i, _ in enumerate(sys.stdin):
  if name == 'naive' and i == 1:
    sys.exit(1)
  print('{"images_per_second": %d, "peak_mb": 7}' % [4, 6, 5][i], flush=True)
"""


def _main(monkeypatch, *arguments):
  """Runs the script; returns the status that it exits with, or the sentence."""
  monkeypatch.setattr(sys, 'argv', ['throughput.py', *arguments])
  with pytest.raises(SystemExit) as raised:
    throughput.main()
  return raised.value.code


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
  (tmp_path / 'programs.py').write_text(STAND_IN)
  monkeypatch.setattr(throughput, 'HERE', str(tmp_path))


def test_program_that_ends_early_leaves_the_others(stand_in, small_data_dir, monkeypatch, capsys):
  assert _main(monkeypatch, '--data_dir=' + small_data_dir, '--rounds=3', '--programs', 'naive',
               'project', 'keras') == 0
  out, err = capsys.readouterr()
  assert err.splitlines() == ['keras does not run here and is left out.',
                              'naive has ended and is left out.']
  # The median, the least and the greatest.
  assert out.splitlines()[1].split() == ['project', '5', '4', '..', '6', '7']
  assert 'naive' not in out


def test_interruption_keeps_what_was_measured(stand_in, small_data_dir, monkeypatch, capsys):
  measure = throughput.Program.measure

  def interrupted(self, seconds):
    if len(self.rates) == 2:
      raise KeyboardInterrupt
    return measure(self, seconds)
  monkeypatch.setattr(throughput.Program, 'measure', interrupted)
  assert _main(monkeypatch, '--data_dir=' + small_data_dir, '--programs', 'project') == 130
  assert capsys.readouterr().out.splitlines()[1].split() == ['project', '5', '4', '..', '6', '7']


def test_no_program_at_all_is_a_failure(stand_in, small_data_dir, monkeypatch):
  assert _main(monkeypatch, '--data_dir=' + small_data_dir, '--programs',
               'keras') == 'No program ran.'


@pytest.mark.parametrize('arguments, sentence', [
    (['--programs', 'nosuch'], "invalid choice: 'nosuch'"),
    (['--rounds=0'], '--rounds must be above 0.'),
    (['--batch_size=0'], '--batch_size must be above 0.'),
    (['--data_dir=nowhere'], 'no data set in nowhere: name its folder with --data_dir, or fetch'),
    (['--json=/dev/null/mine'], '--json cannot be written: [Errno 20] Not a directory')])
def test_argument_that_does_not_fit_is_one_sentence(
    arguments, sentence, small_data_dir, monkeypatch, capsys):
  assert _main(monkeypatch, '--data_dir=' + small_data_dir, *arguments) == 2
  assert sentence in capsys.readouterr().err


@pytest.mark.parametrize('script, flag, sentence', [
    ('operations.py', '--nosuch=1', "Unknown command line flag 'nosuch'"),
    ('operations.py', 'mixed_precision', "'mixed_precision' is no flag."),
    ('startup.py', '--rounds=0', '--rounds must be at least 1.')])
def test_wrong_flag_of_the_other_benchmarks_is_one_sentence(script, flag, sentence):
  process = subprocess.run([sys.executable, os.path.join(ROOT, 'benchmarks', script), flag],
                           capture_output=True, text=True, timeout=300)
  assert process.returncode == 2
  assert sentence in process.stderr.splitlines()[-1]
