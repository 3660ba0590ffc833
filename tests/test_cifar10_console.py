import io
import sys

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


def test_progress_is_shown_on_a_terminal_only(monkeypatch):
  for terminal, expected in (
      (True, '\r%-79s\n' % 'Copying: 3 of 3 MB, '), (False, '')):
    out = io.StringIO()
    monkeypatch.setattr(sys, 'stdout', out)
    monkeypatch.setattr(out, 'isatty', lambda: terminal, raising=False)
    progress = cifar10_console.Progress('Copying', 3000000, 'MB', scale=10**6)
    progress.update(3000000)
    assert out.getvalue()[:21] == expected[:21]
    assert out.getvalue().endswith('\n') == terminal
