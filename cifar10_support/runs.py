"""A run on disk: its directory, who may work in it, and how it was started.

Beside TensorFlow's checkpoints and event files a run has `run.json`: `flags` (and those `given`),
`classes` and `side` (the data set's), `image_shape` (what the network sees), `tensorflow` (the
version) and `started` of its last start, and under `earlier` the same of the starts before that. A
directory of evaluations has `evaluated.json`, a list of the runs. If `end.txt` appears in the
directory of a run, training ends; the file says why.
"""

import contextlib
import datetime
import json
import os
import re
import textwrap

from cifar10_support import checkpoints
from cifar10_support import files
from cifar10_support import tf_setup
from cifar10_support.console import UserError
from cifar10_support.quiet import tf

RECORD = 'run.json'
END = 'end.txt'
_EVALUATED = 'evaluated.json'
SET_ASIDE = re.compile(r'\.old-\d{8}-\d{6}$')


def check_directory(path, flag):
  """Raises a `UserError` that names the flag if a path can be no run's directory."""
  if not path:
    raise UserError(f'--{flag} is empty: name a directory.')
  if '://' in path:
    raise UserError(f'{path} is a URL: name a directory on this machine with --{flag}.')
  if set(path) & set('*?[\\') or not path.isprintable():
    raise UserError(f'{path!r} has characters that TensorFlow cannot take in a path: name another '
                    f'directory with --{flag}.')
  if os.path.exists(path) and not os.path.isdir(path):
    raise UserError(f'{path} is not a directory: name another one with --{flag}.')


def directory_and_path(named, flag):
  """Returns a run's directory and, if a flag names that, the path of a checkpoint in it."""
  # What the Tab key completes is one of a checkpoint's files.
  named = re.sub(r'\.(index|meta|data-\d+-of-\d+)$', '', named)
  directory, name = os.path.split(named)
  if name and not os.path.isdir(named):
    check_directory(directory or '.', flag)
    is_ours = name.startswith('model.ckpt')  # Which in 2015 was a single file.
    if os.path.exists(f'{named}.index') or is_ours and tf.train.checkpoint_exists(named):
      return directory or '.', named
    if is_ours:
      raise UserError(f'There is no checkpoint {named}.')
  check_directory(named, flag)
  return named, None


def find_checkpoint(named, flag):
  """Returns the `checkpoints.Checkpoint` that a flag names, or the latest one in that directory."""
  directory, path = directory_and_path(named, flag)
  checkpoint = checkpoints.read(path) if path else checkpoints.latest_intact(directory)
  if not checkpoint:
    raise UserError(f'There is no checkpoint in {directory}: train first, or name the directory '
                    f'of a run, such as cifar10/trained, with --{flag}.')
  return checkpoint


@contextlib.contextmanager
def locked(train_dir, restart=False):
  """Makes the directory if there is none, and keeps other training processes out of it.

  With `restart` it renames a run that is there, see `set_aside`. It yields a function that returns
  whether the directory is still in place, see `files.locked`.
  """
  def refuse():
    raise UserError(f'Another process is training in {train_dir}: wait until it ends, or name '
                    'another directory with --train_dir.')

  with contextlib.ExitStack() as stack:
    with tf_setup.writing_to(train_dir, 'train_dir'):
      if restart and _holds_run(train_dir):
        with files.locked(train_dir, when_busy=refuse):
          set_aside(train_dir)
      # The real path, because a symbolic link now leads to nothing.
      os.makedirs(os.path.realpath(train_dir), exist_ok=True)
      is_in_place = stack.enter_context(files.locked(train_dir, when_busy=refuse))
      if not is_in_place():  # Another process has just renamed it, and trains in a new one.
        refuse()
    yield is_in_place


def _holds_run(path):
  return (os.path.exists(os.path.join(path, RECORD))
          or any(map(tf.train.checkpoint_exists, checkpoints.paths(path))))


def set_aside(train_dir):
  """Renames the directory of a run to `DIR.old-DATE-TIME`, and says so.

  Directories beside it with its evaluations get the same ending, so that no curve mixes two runs.
  A `UserError` if it is the current directory, one above it, or a mount point.
  """
  directory = os.path.realpath(train_dir)  # Behind a symbolic link, so that the link stays.
  here = os.path.realpath('.')
  if os.path.ismount(directory) or os.path.commonpath([directory, here]) == directory:
    raise UserError(f'--restart cannot rename {train_dir}, which is a mount point, or the current '
                    'directory or one above it: name another directory with --train_dir.')
  ending = f'.old-{datetime.datetime.now():%Y%m%d-%H%M%S}'
  os.rename(directory, directory + ending)
  print(f'The run that was in {train_dir} is now in {directory}{ending}.')
  parent = os.path.dirname(directory)
  for evaluations in [os.path.join(parent, name) for name in os.listdir(parent)]:
    if directory in evaluated_in(evaluations) and not SET_ASIDE.search(evaluations):
      os.rename(evaluations, evaluations + ending)
      print(f'Its evaluations are now in {evaluations}{ending}.')


def record_evaluation(eval_dir, train_dir):
  """Records in a directory of evaluations that it has some of a run, for `set_aside`."""
  evaluated, run = evaluated_in(eval_dir), os.path.realpath(train_dir)
  if run not in evaluated:
    if evaluated:
      print(f'{eval_dir} also has evaluations of {evaluated[-1]}: --eval_dir keeps them apart.')
    with open(os.path.join(eval_dir, _EVALUATED), 'w') as out:
      json.dump(evaluated + [run], out)


def evaluated_in(eval_dir):
  """Returns the paths of the runs that `record_evaluation` has recorded in a directory."""
  try:
    with open(os.path.join(eval_dir, _EVALUATED)) as lines:
      return list(json.load(lines))
  except (OSError, ValueError):
    return []


def record_start(train_dir, flags, data, given=()):
  """Records that training starts, with these flags, of which some were given, on this data."""
  before = read(train_dir)
  record = {
      'started': datetime.datetime.now().isoformat(timespec='seconds'),
      'tensorflow': tf.__version__,
      **data,
      'flags': flags,
      'given': list(given),
      'earlier': before.pop('earlier') + [before] if before else [],
  }
  with tf_setup.writing_to(train_dir, 'train_dir'):
    files.write(os.path.join(train_dir, RECORD), f'{json.dumps(record, indent=2)}\n')
    with contextlib.suppress(FileNotFoundError):
      os.remove(os.path.join(train_dir, END))


def read(train_dir):
  """Returns the record of a run's last start, a dictionary, or None if there is none."""
  path = os.path.join(train_dir, RECORD)
  try:
    with open(path, encoding='utf-8') as lines:
      record = json.load(lines)
    # What the others rely on.
    record['classes'] + [], record['earlier'] + [], record['flags']['max_steps'] + 0
    return record
  except (FileNotFoundError, NotADirectoryError):
    return None
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}.') from error
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f'{path} is damaged: remove it to continue without the history of the '
                    'run.') from error


def why_to_end(train_dir):
  """Returns the reason for which training should end, or None."""
  with contextlib.suppress(FileNotFoundError, NotADirectoryError):
    with open(os.path.join(train_dir, END), encoding='utf-8') as lines:
      return lines.read().strip()


def check_held_out(directory, data):
  """Raises a `UserError` if a run may have learned the images for validation of a data set."""
  record = read(directory)
  if not record or any(start['classes'] == data['classes'] and not start['flags'].get('validation')
                       for start in [record, *record['earlier']]):
    raise UserError(f'The run in {directory} may have learned the images for validation: {RECORD} '
                    'there does not say that it was trained with --validation from its beginning.')


def check_data(directory, record, data):
  """Raises a `UserError` if the run, whose record `read` returned, had other data."""
  for key, there in (record or {}).items():
    if there != data.get(key, there):
      there, here = (textwrap.shorten(str(value), 80) for value in (there, data[key]))
      raise UserError(f'The run in {directory} was trained on another data set ({key}: {there}, '
                      f'not {here}). Name another directory, or the other data set.')
