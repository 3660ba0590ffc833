"""How the scripts meet the person in front of them: flags, errors and progress. No TensorFlow.

Every script ends in `cifar10_console.run(main)`. Whatever a person can put right raises
`UserError`; anything else that escapes is a bug and keeps its traceback.
"""

import datetime
import os
import signal
import sys
import textwrap
import time

from absl import app
from absl import flags

# Other than absl's own answer, ours shows a script's own flags first.
_HELP = {'--help', '-help', '-h', '--helpshort', '-helpshort', '-?'}

# Those that ask a script to end: Ctrl-C, `kill`, and a terminal that closes.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_PATIENCE_SECS = 1  # Of a person, before a counter is welcome.


class UserError(Exception):
  """An expected failure: its text is one sentence saying what is wrong, where, and what to do."""

  status = 1


class WrongFlag(UserError):
  """A flag that the script knows, but not in this place."""

  status = 2


def run(main, takes_arguments=False):
  """Parses the flags, calls `main()` and ends the process.

  The exit status is what `main` returns (0 for None), 1 after a `UserError`, 2 after a wrong
  flag, 130 after Ctrl-C.

  Args:
    main: a function.
    takes_arguments: whether arguments that are no flags are welcome; `main` gets a list of them.
  """
  def reported(arguments):
    try:
      return main(arguments) if takes_arguments else main()
    except UserError as error:
      return _fail(error, error.status)
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
  # Line by line also into a file or a pipe, where someone may be following the run.
  # And whatever a file is called, its name can be printed.
  sys.stdout.reconfigure(line_buffering=True, errors='backslashreplace')
  sys.stdout = _Output(sys.stdout)
  app.run(reported, flags_parser=lambda argv: _parse_flags(argv, takes_arguments))


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
      # What is left, and what Python flushes at exit, goes into nothing.
      os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
      if isinstance(error, BrokenPipeError):
        raise
      raise UserError('Standard output cannot be written (%s): put that right, and start %s again.'
                      % (error.strerror, same_command())) from error


def same_command():
  """Returns what to start to go on: the same command, but for a flag that would delete the run."""
  restarts = 'restart' in flags.FLAGS and flags.FLAGS.restart
  return 'the same command' + (' without --restart' if restarts else '')


def log(message):
  """Prints a line that begins with the time, as people's scripts expect it."""
  print('%s: %s' % (datetime.datetime.now().strftime('%Y-%m-%d %H:%M:%S.%f'), message))


def _parse_flags(argv, takes_arguments):
  if _HELP.intersection(argv[1:]):
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
  """Returns what the script does, from its docstring, and its key flags, its own before others."""
  what, command = sys.modules['__main__'].__doc__.split('\n\n')[:2]
  lines = [textwrap.fill(what, 79), '', command, '', 'Its flags, with their defaults:', '']
  for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0]):
    default = str(flag.default).lower() if flag.boolean else flag.default
    lines.append('  --%s=%s' % (flag.name, default))
    lines.append(textwrap.fill(flag.help, 79, initial_indent=6 * ' ', subsequent_indent=6 * ' '))
  return '\n'.join(lines + ['', "--helpfull lists TensorFlow's and absl's too."])


def complain(message):
  """Prints a sentence on standard error, behind the script's name."""
  script = os.path.basename(sys.argv[0])
  _erase_line()
  print('%s: %s' % (script, ' '.join(str(message).split())), file=sys.stderr)


def _fail(message, status):
  complain(message)
  return status


class Progress:
  """A counter on the last line of a terminal, for work that takes more than a moment.

  It appears after a second and goes when the work is done. It is on standard error, so as not to
  get between results. Not on a terminal (a log file, a test) it prints nothing.
  """

  def __init__(self, what, total, unit, scale=1):
    """Args:
      what: what is being done, such as 'Downloading'.
      total: the number of items that make it whole, or None where it is not known.
      unit: what is counted, such as 'MB'.
      scale: how many of the counted items make one unit.
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
