import io
import re
import sys
import time

import pytest

import cifar10_console


def _status(monkeypatch, main, *args):
  monkeypatch.setattr(sys, 'argv', ['script.py', *args])
  with pytest.raises(SystemExit) as exit_info:
    cifar10_console.run(main)
  return exit_info.value.code or 0


def _raise(error):
  def main():
    raise error
  return main


@pytest.fixture(autouse=True)
def text_stdout(monkeypatch):
  """A standard output of the kind that scripts have; pytest's own cannot be reconfigured."""
  monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(io.BytesIO()))


def test_success_is_status_0(monkeypatch, capsys):
  assert _status(monkeypatch, lambda: None) == 0
  assert capsys.readouterr().err == ''


def test_user_error_is_one_sentence_and_status_1(monkeypatch, capsys):
  error = cifar10_console.UserError('The tea is cold:\n boil water.')
  assert _status(monkeypatch, _raise(error)) == 1
  assert capsys.readouterr().err == 'script.py: The tea is cold: boil water.\n'


def test_error_of_the_file_system_names_the_file(monkeypatch, capsys):
  assert _status(monkeypatch, lambda: open('/nowhere/at/all')) == 1
  assert capsys.readouterr().err == 'script.py: /nowhere/at/all: No such file or directory.\n'


def test_error_of_the_system_about_no_file_keeps_its_traceback(monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['script.py'])
  with pytest.raises(OSError, match='no file'):
    cifar10_console.run(_raise(OSError('no file')))


def test_full_disk_under_the_output_is_one_sentence_and_ends_it(monkeypatch, capsys):
  def main():
    try:
      print('This is too much for the disk.')
    finally:
      print('And this goes nowhere.')

  monkeypatch.setattr(sys, 'stdout', open('/dev/full', 'w'))
  assert _status(monkeypatch, main) == 1
  sys.stdout.close()  # What is left is written once more.
  assert capsys.readouterr().err == (
      'script.py: Standard output cannot be written (No space left on device): put that right, and '
      'start the same command again.\n')


def test_bug_keeps_its_traceback(monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['script.py'])
  with pytest.raises(ZeroDivisionError):
    cifar10_console.run(lambda: 1 / 0)


def test_control_c_is_status_130(monkeypatch, capsys):
  assert _status(monkeypatch, _raise(KeyboardInterrupt())) == 130
  assert capsys.readouterr().err == ''


@pytest.mark.parametrize('argument, sentence', [
    ('--no_such_flag', "Unknown command line flag 'no_such_flag'"),
    ('--verbosity=loud', 'flag --verbosity=loud: '),
    ('picture.png', "'picture.png' is not a flag"),
])
def test_wrong_flag_is_one_sentence_and_status_2(monkeypatch, capsys, argument, sentence):
  assert _status(monkeypatch, lambda: None, argument) == 2
  err = capsys.readouterr().err
  assert err.startswith('script.py: ' + sentence)
  assert err.count('\n') == 1


def test_closed_standard_streams_will_do(monkeypatch):
  monkeypatch.setattr(sys, 'stdout', None)
  monkeypatch.setattr(sys, 'stderr', None)
  assert _status(monkeypatch, _raise(cifar10_console.UserError('Nobody reads this.'))) == 1


ERASE = '\r\x1b[K'


def _terminal(monkeypatch, isatty=True):
  """Returns what stands in for standard error, as if it were a terminal."""
  err = io.StringIO()
  monkeypatch.setattr(err, 'isatty', lambda: isatty, raising=False)
  monkeypatch.setattr(sys, 'stderr', err)
  monkeypatch.setattr(cifar10_console, '_PATIENCE_SECS', 0)
  return err


def test_progress_is_one_line_that_goes_with_the_work(monkeypatch):
  terminal = _terminal(monkeypatch)
  with cifar10_console.Progress('Copying', 3000000, 'MB', scale=10**6) as progress:
    progress.update(1000000)
    progress.update(1000001)  # Less than a tenth of a second later.
    assert re.fullmatch(re.escape(ERASE) + r'Copying: 1 of 3 MB, \d+\.\d MB/s', terminal.getvalue())
  assert terminal.getvalue().endswith('MB/s' + ERASE)


def test_progress_of_an_unknown_total_fits_the_terminal(monkeypatch):
  terminal = _terminal(monkeypatch)
  cifar10_console.Progress('Copying ' + 80 * 'x', None, 'MB').update(5)
  assert terminal.getvalue() == ERASE + 'Copying ' + 71 * 'x'


def test_sentence_takes_the_line_of_the_progress(monkeypatch):
  terminal = _terminal(monkeypatch)
  monkeypatch.setattr(sys, 'argv', ['script.py'])
  with cifar10_console.Progress('Copying', 3, 'files') as progress:
    progress.update(1)
    cifar10_console.complain('One is broken.')
  assert 'files/s' + ERASE + 'script.py: One is broken.\n' in terminal.getvalue()


def test_progress_waits_a_second(monkeypatch):
  terminal = _terminal(monkeypatch)
  monkeypatch.setattr(cifar10_console, '_PATIENCE_SECS', 1)
  now = time.perf_counter()
  monkeypatch.setattr(time, 'perf_counter', lambda: now)
  progress = cifar10_console.Progress('Copying', 3, 'files')
  now += 0.99
  progress.update(1)
  assert terminal.getvalue() == ''
  now += 0.02
  progress.update(1)
  assert 'Copying: 1 of 3 files' in terminal.getvalue()


def test_progress_is_not_shown_but_on_a_terminal(monkeypatch):
  terminal = _terminal(monkeypatch, isatty=False)
  with cifar10_console.Progress('Copying', 3, 'files') as progress:
    progress.update(3)
  assert terminal.getvalue() == ''
