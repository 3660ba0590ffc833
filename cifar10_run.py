"""A run on disk: its directory, who may work in it, and how the run was started.

Training writes what evaluation reads. Besides TensorFlow's checkpoints and event files there is
`run.json`, which says how the run was started: `flags`, `classes` (the data set's), `tensorflow`
(the version), `started`, and under `earlier` the same of the starts before the latest.
"""

import contextlib
import datetime
import json
import os
import re

import tensorflow.compat.v1 as tf

import cifar10_checkpoint
import cifar10_lock
from cifar10_console import UserError

_RECORD = 'run.json'

# What training writes beside checkpoints, whole or while we write it.
_WRITTEN = re.compile(r'run\.json(\.tmp)?|timeline-\d+\.json')
# Of a host, whose name can be anything: what is in such a file tells it from one of the user's.
_EVENTS = re.compile(r'events\.out\.tfevents\.\d{10}\.[^/]+')
_EVENTS_BEGIN = b'\x1a\x0dbrain.Event:'


def check_directory(path, flag):
  """Checks that a path can be that of a run's directory, whether it exists or not.

  Raises:
    UserError: it cannot; the sentence names the flag.
  """
  if not path:
    raise UserError('--%s is empty: it must name a directory.' % flag)
  if '://' in path:
    raise UserError('%s is an address: --%s must name a directory of this machine.' % (path, flag))
  if set(path) & set('*?[\\'):
    raise UserError('TensorFlow takes *, ?, [ and \\ in %s for a pattern: name another directory '
                    'with --%s.' % (path, flag))
  if os.path.exists(path) and not os.path.isdir(path):
    raise UserError('%s is not a directory: name another with --%s.' % (path, flag))


@contextlib.contextmanager
def locked(train_dir):
  """Makes the directory, if need be, and keeps other trainings out of it.

  Yields:
    A function that returns whether the directory is still there, see `cifar10_lock.locked`.

  Raises:
    UserError: another training is in it, or it cannot be made.
  """
  def refuse():
    raise UserError('Another training is at work in %s: wait until it ends, or name another '
                    'directory with --train_dir.' % train_dir)

  with contextlib.ExitStack() as stack:
    try:
      os.makedirs(train_dir, exist_ok=True)
      is_in_place = stack.enter_context(cifar10_lock.locked(train_dir, when_busy=refuse))
    except OSError as error:
      raise _cannot_write(train_dir, error) from error
    yield is_in_place


def _cannot_write(train_dir, error):
  return UserError('Cannot write to %s (%s): name another directory with --train_dir.'
                   % (train_dir, error.strerror))


def record_start(train_dir, flags, classes):
  """Records in a run's directory that a training starts.

  Args:
    train_dir: path of the directory.
    flags: a dictionary of the flags' values; of these `max_steps` and `top_layers` are read again.
    classes: the names of the data set's classes.

  Raises:
    UserError: the directory cannot be written.
  """
  before = read(train_dir)
  record = {
      'started': datetime.datetime.now().isoformat(timespec='seconds'),
      'tensorflow': tf.__version__,
      'classes': list(classes),
      'flags': flags,
      'earlier': before.pop('earlier') + [before] if before else [],
  }
  path = os.path.join(train_dir, _RECORD)
  try:
    with open(path + '.tmp', 'w') as out:
      json.dump(record, out, indent=2)
      out.write('\n')
    cifar10_lock.publish(path + '.tmp', path)
  except OSError as error:
    raise _cannot_write(train_dir, error) from error


def read(train_dir):
  """Returns the record of a run's latest start, a dictionary, or None where there is none.

  Raises:
    UserError: there is one, but it is not what `record_start` wrote.
  """
  path = os.path.join(train_dir, _RECORD)
  try:
    with open(path, encoding='utf-8') as lines:
      record = json.load(lines)
  except (FileNotFoundError, NotADirectoryError):
    return None
  except (ValueError, RecursionError):  # The second of brackets in brackets, by the thousand.
    record = None
  if not _is_record(record):
    raise UserError('%s is damaged: remove it to go on without the history of the run.' % path)
  return record


def _is_record(record):
  return (isinstance(record, dict)
          and isinstance(record.get('classes'), list)
          and isinstance(record.get('flags'), dict)
          and isinstance(record['flags'].get('max_steps'), int)
          and isinstance(record.get('earlier'), list))


def check_data_set(train_dir, classes):
  """Checks that a run, if there is one, has learned the data set of this program.

  Args:
    train_dir: path of the run's directory.
    classes: the names of the data set's classes.

  Raises:
    UserError: it is on another.
  """
  record = read(train_dir)
  if record and record['classes'] != list(classes):
    raise UserError('The run in %s is on another data set (%s, ...) than this one (%s, ...): name '
                    'another directory, or the other data set.'
                    % (train_dir, ', '.join(map(str, record['classes'][:3])),
                       ', '.join(classes[:3])))


def clear(train_dir):
  """Deletes a run: the files that training wrote, and no others.

  Raises:
    UserError: there are such files, but no `run.json` to prove that training wrote them.
  """
  train_dir = os.path.normpath(train_dir)
  written = [os.path.join(folder, name) for folder, _, names in os.walk(train_dir) for name in names
             if _is_written(train_dir, os.path.relpath(os.path.join(folder, name), train_dir))]
  if written and not any(os.path.basename(path).startswith(_RECORD) for path in written):
    raise UserError('%s holds %s but no %s: it is not from here, and --restart does not delete it.'
                    % (train_dir, os.path.basename(written[0]), _RECORD))
  # First what names the latest checkpoint, so that none that is half deleted is taken for whole;
  # last the proof, so that an interrupted deletion can be taken up again.
  order = {'checkpoint': 0, _RECORD: 2}
  for path in sorted(written, key=lambda path: order.get(os.path.basename(path), 1)):
    os.remove(path)
  for folder in {os.path.dirname(path) for path in written} - {train_dir}:
    with contextlib.suppress(OSError):  # The user keeps something in it.
      os.rmdir(folder)


def _is_written(train_dir, path):
  """Returns whether training wrote a file, whose path is relative to the run's directory."""
  if not _EVENTS.fullmatch(path):
    return bool(_WRITTEN.fullmatch(path)) or cifar10_checkpoint.is_written(path)
  with open(os.path.join(train_dir, path), 'rb') as events:
    beginning = events.read(100)
  # Of a process that was killed it may be empty.
  return not beginning or _EVENTS_BEGIN in beginning
