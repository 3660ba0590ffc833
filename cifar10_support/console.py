"""How the scripts meet the person in front of them: flags, one-line errors, progress.

Every script ends in `console.run(main)`. Whatever the person can fix raises `UserError`; anything
else that escapes is a bug and keeps its traceback. Nothing here uses TensorFlow.
"""

import contextlib
import datetime
import os
import sys
import textwrap
import time

from absl import app
from absl import flags

# The flags defined here belong to the module that asks for them, in --help too.
flags.disclaim_key_flags()

_HELP = {'--help', '-help', '-h', '--helpshort', '-helpshort', '-?'}

_PATIENCE_SECS = 1  # A progress line that comes and goes sooner than this only flickers.

# A notebook's kernel has a command line of its own, which says nothing to us: flags have their
# defaults there, and `FLAGS.batch_size = 64` sets one.
if 'ipykernel' in sys.modules and not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()


class UserError(Exception):
  """An expected failure. Its text is one line: what is wrong, where, and what to do about it."""


class _PathParser(flags.ArgumentParser):
  """Reads a path, in which the shell leaves the ~ of `--train_dir=~/run` to us."""

  def parse(self, argument):
    return os.path.expanduser(argument)

  def flag_type(self):
    return 'path'


def DEFINE_path(name, default, help):
  """Defines a flag whose value is a path; a ~ at its beginning is your home directory."""
  flags.DEFINE(_PathParser(), name, default, help)


def run(main, takes_arguments=False):
  """Parses the flags, calls `main()` and ends the process.

  The exit status is what `main` returns (0 for None), 1 after a `UserError`, 2 after a wrong flag,
  130 after Ctrl-C.

  Args:
    main: a function.
    takes_arguments: whether there may be arguments that are not flags; `main` gets a list of them.
  """
  def call_main(arguments):
    try:
      return main(arguments) if takes_arguments else main()
    except UserError as error:
      return _fail(error, 1)
    except BrokenPipeError:  # Whoever read our lines has left (`| head`).
      return 1
    except OSError as error:
      if error.filename is None:
        raise
      return _fail('%s: %s.' % (error.filename, error.strerror), 1)
    except KeyboardInterrupt:
      return 130

  # Closed (`>&-`) they are None.
  sys.stdout = sys.stdout or open(os.devnull, 'w')
  sys.stderr = sys.stderr or open(os.devnull, 'w')
  # Line by line, because someone may be following a log file; and any file name can be printed.
  sys.stdout.reconfigure(line_buffering=True, errors='backslashreplace')
  sys.stdout = _Output(sys.stdout)
  app.run(call_main, flags_parser=lambda argv: _parse_flags(argv, takes_arguments))


class _Output:
  """Standard output, whose failure is an expected one: the disk of a log file may be full."""

  def __init__(self, stream):
    self._stream = stream

  def __getattr__(self, name):
    return getattr(self._stream, name)

  def write(self, text):
    try:
      return self._stream.write(text)
    except OSError as error:
      # What is left, and what Python flushes at exit, goes nowhere.
      os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
      if isinstance(error, BrokenPipeError):
        raise
      raise UserError('Cannot write to standard output (%s). Fix this, then run %s again.'
                      % (error.strerror, same_command())) from error


def same_command():
  """Returns how to say what resumes a run: the same command, without a flag that starts over."""
  restarts = 'restart' in flags.FLAGS and flags.FLAGS.restart
  return 'the same command' + (' without --restart' if restarts else '')


def log(message):
  """Prints a line that begins with the time, in the shape that people's scripts parse."""
  print('%s: %s' % (datetime.datetime.now().strftime('%Y-%m-%d %H:%M:%S.%f'), message))


def _parse_flags(argv, takes_arguments):
  if _HELP.intersection(argv[1:]):
    with contextlib.suppress(BrokenPipeError):  # `--help | head`
      print(_help())
    sys.exit()
  try:
    arguments = flags.FLAGS(argv)[1:]
  except flags.Error as error:
    sys.exit(_fail('%s (--help lists the flags)' % error, 2))
  if arguments and not takes_arguments:
    sys.exit(_fail('%r is not a flag (--help lists them)' % arguments[0], 2))
  return arguments


def _help():
  """Returns the opening of the script's docstring and its flags, the script's own first."""
  main = sys.modules['__main__']
  what, command = main.__doc__.split('\n\n')[:2]
  lines = [textwrap.fill(what, 79), '', command, '', 'Flags and their defaults:', '']
  for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0]):
    default = '' if flag.default is None else '=%s' % (
        str(flag.default).lower() if flag.boolean else flag.default)
    lines.append('  --%s%s' % (flag.name, default))
    lines.append(textwrap.fill(flag.help, 79, initial_indent=6 * ' ', subsequent_indent=6 * ' '))
  return '\n'.join(lines + ['', "--helpfull adds TensorFlow's and absl's flags."])


def complain(message):
  """Prints one line on standard error, after the script's name."""
  _erase_line()
  print('%s: %s' % (os.path.basename(sys.argv[0]), ' '.join(str(message).split())),
        file=sys.stderr)


def _fail(message, status):
  complain(message)
  return status


class Progress:
  """A counter on the last line of a terminal, for work that takes more than a moment.

  It appears after a second and disappears when the work is done. It is on standard error, where it
  cannot get between results; without a terminal (a log file, a test) it prints nothing.
  """

  def __init__(self, what, total, unit, scale=1):
    """Args:
      what: what is being done, such as 'Downloading'.
      total: the number of items, or None if it is not known.
      unit: what is counted, such as 'MB'.
      scale: how many items make one unit.
    """
    self._what, self._total, self._unit, self._scale = what, total, unit, scale
    self._start = time.perf_counter()
    self._next = self._start + _PATIENCE_SECS

  def __enter__(self):
    return self

  def __exit__(self, *error):
    _erase_line()

  def update(self, done):
    """Shows that `done` items are done; at most ten times a second."""
    now = time.perf_counter()
    if now < self._next or not sys.stderr.isatty():
      return
    self._next = now + 0.1
    amount = '%d' % (done / self._scale)
    if self._total:
      amount += ' of %d' % (self._total / self._scale)
    rate = done / self._scale / (now - self._start)
    line = '%s: %s %s, %.1f %s/s' % (self._what, amount, self._unit, rate, self._unit)
    _erase_line()
    print(line[:79], end='', file=sys.stderr, flush=True)


def _erase_line():
  """Erases what `Progress` shows, if anything."""
  if sys.stderr.isatty():
    print('\r\x1b[K', end='', file=sys.stderr, flush=True)
