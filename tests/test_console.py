import io
import os
import re
import sys

from absl import flags
import pytest
import tqdm

import cifar10_eval  # noqa: F401, for its flags
import cifar10_predict  # noqa: F401
from cifar10_support import console
import cifar10_train  # noqa: F401


@pytest.fixture
def run(monkeypatch, capsys):
  """A function that runs `main` as a script with arguments; returns its status and stderr."""
  def run_main(main, *args, **kwargs):
    monkeypatch.setattr(sys, 'argv', ['script.py', *args])
    with pytest.raises(SystemExit) as raised:
      console.run(main, **kwargs)
    return raised.value.code or 0, capsys.readouterr().err
  return run_main


def _raise(error):
  def main():
    raise error
  return main


@pytest.fixture(autouse=True)
def text_stdout(monkeypatch):
  """A standard output of the kind that scripts have; pytest's own cannot be reconfigured."""
  monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(io.BytesIO()))


@pytest.mark.parametrize('returned, status', [(None, 0), (1, 1)])
def test_status_is_what_main_returns(run, returned, status):
  assert run(lambda: returned) == (status, '')


def test_user_error_is_one_line_and_status_1(run):
  error = console.UserError('The tea is cold:\n boil water.')
  assert run(_raise(error)) == (1, 'script.py: The tea is cold: boil water.\n')


def test_error_of_the_file_system_names_the_file(run):
  status, err = run(lambda: open('/nowhere/at/all'))
  assert status == 1
  assert re.fullmatch('script.py: .*/nowhere/at/all.*No such file or directory.*\n', err)


@pytest.mark.parametrize('error', [OSError('no file'), ZeroDivisionError('a bug')])
def test_any_other_error_keeps_its_traceback(monkeypatch, error):
  monkeypatch.setattr(sys, 'argv', ['script.py'])
  with pytest.raises(type(error), match=str(error)):
    console.run(_raise(error))


def test_control_c_is_status_130(run):
  assert run(_raise(KeyboardInterrupt())) == (130, '')


@pytest.mark.parametrize('argument, expected', [
    ('--no_such_flag', 'no_such_flag'), ('--verbosity=loud', '--verbosity=loud'),
    ('picture.png', 'picture.png')])
def test_wrong_flag_is_named_in_one_line_and_status_2(run, argument, expected):
  status, err = run(lambda: None, argument)
  assert status == 2
  assert re.fullmatch('script.py: .*%s.*--help.*\n' % expected, err)


def test_arguments_that_are_no_flags_are_for_those_who_take_them(run):
  given = []
  assert run(given.extend, 'a.png', '--batch_size=7', 'b.png', takes_arguments=True) == (0, '')
  assert given == ['a.png', 'b.png']
  assert flags.FLAGS.batch_size == 7


def test_path_flag_expands_the_home_directory(monkeypatch):
  monkeypatch.setenv('HOME', '/home/of/mine')
  for name in ('train_dir', 'data_dir', 'eval_dir', 'checkpoint_dir', 'export_dir'):
    flags.FLAGS(['script.py', '--%s=~/run' % name])
    assert flags.FLAGS[name].value == '/home/of/mine/run'
    flags.FLAGS(['script.py', '--%s=a/~b' % name])
    assert flags.FLAGS[name].value == 'a/~b'


def test_full_disk_under_the_output_is_a_one_line_error(monkeypatch, run):
  def main():
    try:
      print('This is too much for the disk.')
    finally:
      print('And this goes nowhere.')

  monkeypatch.setattr(sys, 'stdout', open('/dev/full', 'w'))
  status, err = run(main)
  sys.stdout.close()  # What is left is written once more.
  assert status == 1
  assert re.fullmatch('script.py: .*standard output.*No space left on device.*\n', err)


def test_advice_after_a_restart_is_not_to_restart_again():
  assert '--restart' not in console.same_command()
  flags.FLAGS.restart = True
  assert 'without --restart' in console.same_command()


def test_reader_of_the_output_may_leave(monkeypatch, run):
  reader, writer = os.pipe()
  os.close(reader)
  monkeypatch.setattr(sys, 'stdout', os.fdopen(writer, 'w'))
  assert run(lambda: print('Is anybody there?')) == (1, '')
  sys.stdout.close()


def test_any_file_name_can_be_printed(monkeypatch, run):
  out = io.BytesIO()
  monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(out, encoding='ascii'))
  assert run(lambda: print('gr\xfc\xdfe\udcff')) == (0, '')
  assert out.getvalue() == b'gr\\xfc\\xdfe\\udcff\n'


def test_closed_standard_streams_will_do(monkeypatch, run):
  monkeypatch.setattr(sys, 'stdout', None)
  monkeypatch.setattr(sys, 'stderr', None)
  status, _ = run(_raise(console.UserError('Nobody reads this.')))
  assert status == 1


def test_log_line_begins_with_the_time(monkeypatch):
  monkeypatch.setattr(sys, 'stdout', io.StringIO())
  console.log('precision @ 1 = 0.860')
  assert re.fullmatch(r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}: precision @ 1 = 0\.860\n',
                      sys.stdout.getvalue())


@pytest.fixture
def clock(monkeypatch):
  """A list whose only element is what the clock of `tqdm` shows, in seconds."""
  now = [100.0]
  monkeypatch.setattr(tqdm.std, 'time', lambda: now[0])
  return now


def _terminal(monkeypatch, isatty=True):
  """Returns what stands in for standard error, as if it were a terminal."""
  err = io.StringIO()
  monkeypatch.setattr(err, 'isatty', lambda: isatty, raising=False)
  monkeypatch.setattr(sys, 'stderr', err)
  return err


def test_progress_appears_after_a_second_and_disappears_with_the_work(monkeypatch, clock):
  terminal = _terminal(monkeypatch)
  monkeypatch.setattr(sys, 'argv', ['script.py'])
  with console.progress('Copying', 3, 'files') as progress:
    clock[0] += 0.9
    progress.update(1)
    assert terminal.getvalue() == ''
    clock[0] += 0.2
    progress.update(1)
    assert re.search('\rCopying: .*2/3 .*files', terminal.getvalue())
    console.complain('One is broken.')
    lines = terminal.getvalue().splitlines()
    assert 'script.py: One is broken.' in lines and 'Copying' in lines[-1]
  assert terminal.getvalue().endswith('\r') and not terminal.getvalue().split('\r')[-2].strip()


def test_progress_needs_a_terminal(monkeypatch, clock):
  terminal = _terminal(monkeypatch, isatty=False)
  with console.progress('Copying', 3, 'files') as progress:
    clock[0] += 2
    progress.update(3)
  assert terminal.getvalue() == ''
