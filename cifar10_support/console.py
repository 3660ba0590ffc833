"""How the scripts meet the person in front of them: flags, one-line errors, progress.

Every script ends in `console.run(main)`. Whatever the person can fix raises `UserError`; anything
else that escapes is a bug and keeps its traceback. Nothing here uses TensorFlow.
"""

import contextlib
import datetime
import os
import sys
import textwrap

from absl import app
from absl import flags
import tqdm

# The flags defined here belong to the module that asks for them, in --help too.
flags.disclaim_key_flags()

_HELP = {'--help', '-help', '-h', '--helpshort', '-helpshort', '-?'}

# A notebook's kernel has a command line of its own, which says nothing to us: flags have their
# defaults there, and `FLAGS.batch_size = 64` sets one.
if 'ipykernel' in sys.modules and not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()


class UserError(Exception):
  """An expected failure. Its text is one line: what is wrong, where, and what to do about it."""


class _PathParser(flags.ArgumentParser):
  """Reads a path, in which the shell leaves the ~ of `--train_dir=~/run` to us."""
  parse = staticmethod(os.path.expanduser)


def DEFINE_path(name, default, help):
  """Defines a flag whose value is a path; a ~ at its beginning is your home directory."""
  flags.DEFINE(_PathParser(), name, default, help)


def adopt_flags(*modules):
  """Has the --help of the calling module list the flags of other modules too."""
  for module in modules:
    flags.adopt_module_key_flags(module)


def run(main, takes_arguments=False):
  """Parses the flags, calls `main()` and ends the process.

  The exit status is what `main` returns (0 for None), 1 after a `UserError`, 2 after a wrong flag,
  130 after Ctrl-C. If it `takes_arguments`, `main` gets a list of those that are not flags.
  """
  def call_main(arguments):
    try:
      return main(arguments) if takes_arguments else main()
    except UserError as error:
      return complain(error)
    except BrokenPipeError:  # Whoever read our lines is gone (`| head`).
      return 1
    except OSError as error:
      if error.filename is None:
        raise
      return complain(f'{error.filename}: {error.strerror}.')
    except KeyboardInterrupt:
      return 130

  # Closed (`>&-`) they are None.
  sys.stdout = sys.stdout or open(os.devnull, 'w')
  sys.stderr = sys.stderr or open(os.devnull, 'w')
  with contextlib.suppress(AttributeError):  # That of a notebook.
    # Line by line, because someone may be following a log file; and any file name can be printed.
    sys.stdout.reconfigure(line_buffering=True, errors='backslashreplace')
  try:
    with contextlib.redirect_stdout(_Output(sys.stdout)):
      app.run(call_main, flags_parser=lambda argv: _parse_flags(argv, takes_arguments))
  finally:  # IPython may run the script once more in this process, and so define its flags again.
    for flag in list(flags.FLAGS.flags_by_module_dict().get(sys.argv[0], ())):
      delattr(flags.FLAGS, flag.name)


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
      raise UserError(f'Cannot write to standard output ({error.strerror}). Fix this, then run '
                      f'{same_command()} again.') from error


def same_command():
  """Returns how to say what resumes a run: the same command, without a flag that starts over."""
  restarts = 'restart' in flags.FLAGS and flags.FLAGS.restart
  return 'the same command' + (' without --restart' if restarts else '')


def log(message):
  """Prints a line that begins with the time, in the shape that people's scripts parse."""
  print(f"{datetime.datetime.now().strftime('%Y-%m-%d %H:%M:%S.%f')}: {message}")


def _parse_flags(argv, takes_arguments):
  if _HELP.intersection(argv[1:]):
    with contextlib.suppress(BrokenPipeError):  # `--help | head`
      print(_help())
    sys.exit()
  flags.FLAGS.unparse_flags()  # What an earlier run in this process has set.
  try:
    arguments = flags.FLAGS(argv)[1:]
  except flags.Error as error:
    sys.exit(complain(f'{error} (--help lists the flags)', 2))
  if arguments and not takes_arguments:
    sys.exit(complain(f'{arguments[0]!r} is not a flag (--help lists them)', 2))
  return arguments


def _help():
  """Returns the opening of the script's docstring and its flags, the script's own first."""
  main = sys.modules['__main__']
  what, command = main.__doc__.split('\n\n')[:2]
  lines = [textwrap.fill(what, 79), '', command, '', 'Flags and their defaults:', '']
  for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0]):
    default = str(flag.default).lower() if flag.boolean else flag.default
    lines.append(f'  --{flag.name}' + ('' if default is None else f'={default}'))
    lines.append(textwrap.fill(flag.help, 79, initial_indent=6 * ' ', subsequent_indent=6 * ' '))
  return '\n'.join(lines + ['', "--helpfull adds TensorFlow's and absl's flags."])


def complain(message, status=1):
  """Prints one line on standard error, after the script's name; returns `status`, to exit with."""
  line = f"{os.path.basename(sys.argv[0])}: {' '.join(str(message).split())}"
  tqdm.tqdm.write(line, sys.stderr)  # Which puts it above a progress bar.
  return status


def progress(what, total, unit, **arguments):
  """Returns a `tqdm` bar for work that takes more than a moment.

  It appears after a second and disappears when the work is done. It is on standard error, where it
  cannot get between results; without a terminal (a log file, a test) it prints nothing. `what` is
  being done, such as 'Downloading'; `unit` is plural, such as 'images'.
  """
  return tqdm.tqdm(desc=what, total=total, unit=f' {unit}', delay=1, leave=False, disable=None,
                   file=sys.stderr, dynamic_ncols=True, **arguments)
