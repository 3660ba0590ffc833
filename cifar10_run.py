"""A run on disk: its directory, and whether what is in it belongs to this program.

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

from cifar10_console import UserError

_RECORD = 'run.json'

# The names of the files that training writes, whole or while TensorFlow and we write them.
_WRITTEN = re.compile(r'''
    ( run\.json | checkpoint | graph\.pbtxt
    | model\.ckpt-\d+ (\.index | \.meta | \.data-\d{5}-of-\d{5})
    ) (\.tmp[0-9a-f]* | \.tempstate\d+)?
    | model\.ckpt-\d+_temp/part-\d{5}-of-\d{5}\..*
    | timeline-\d+\.json
    | events\.out\.tfevents\.\d+\..*''', re.VERBOSE)


def check_directory(path, flag):
  """Checks that a path can be that of a run's directory, whether it exists or not.

  Raises:
    UserError: it cannot; the sentence names the flag.
  """
  if not path:
    raise UserError('--%s is empty: it must name a directory.' % flag)
  if set(path) & set('*?['):
    raise UserError('TensorFlow takes *, ? and [ in %s for a pattern: name another directory with '
                    '--%s.' % (path, flag))
  if os.path.exists(path) and not os.path.isdir(path):
    raise UserError('%s is not a directory: name another with --%s.' % (path, flag))


def record_start(train_dir, flags, classes):
  """Makes the directory, if need be, and records in it that a training starts.

  Args:
    train_dir: path of the run's directory.
    flags: a dictionary of the flags' values; of these `max_steps` is read again.
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
    os.makedirs(train_dir, exist_ok=True)
    with open(path + '.tmp', 'w') as out:
      json.dump(record, out, indent=2)
      out.write('\n')
    os.replace(path + '.tmp', path)
  except OSError as error:
    raise UserError('Cannot write to %s (%s): name another directory with --train_dir.'
                    % (train_dir, error.strerror)) from error


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
  except ValueError:
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


def latest_checkpoint(train_dir):
  """Returns the path of a run's latest checkpoint, or None where there is none.

  Raises:
    UserError: the file `checkpoint` is damaged, or names one that is missing.
  """
  names = os.path.join(train_dir, 'checkpoint')
  if not os.path.exists(names):
    return None
  try:
    state = tf.train.get_checkpoint_state(train_dir)
  except ValueError:
    state = None
  if not state:
    raise UserError('%s is damaged, which names the latest checkpoint: put back a good copy, or '
                    'start over with --restart.' % names)
  path = state.model_checkpoint_path
  if not tf.train.checkpoint_exists(path):
    raise UserError('%s is missing, though %s names it: put it back, or remove that file.'
                    % (path, names))
  return path


def check_fits(checkpoint, variables):
  """Checks that a checkpoint is whole and one of this network.

  Args:
    checkpoint: path of a checkpoint, such as `cifar10/train/model.ckpt-100`.
    variables: a dictionary from the keys in the checkpoint to the variables to restore.

  Returns:
    The step at which it was taken.

  Raises:
    UserError: it cannot be read, or is one of another; the first variable that does not fit is
      named.
  """
  try:
    reader = tf.train.load_checkpoint(checkpoint)
    shapes = reader.get_variable_to_shape_map()
    for key, variable in variables.items():
      here = variable.shape.as_list()
      if shapes.get(key) != here:
        there = 'is missing' if key not in shapes else 'has shape %s' % shapes[key]
        raise UserError('%s is a checkpoint of another network: %s %s there and has shape %s here; '
                        'name another directory.' % (checkpoint, key, there, here))
      reader.get_tensor(key)  # Which compares its checksum.
    return int(reader.get_tensor('global_step'))
  except (tf.errors.OpError, ValueError, IndexError) as error:
    raise UserError('%s is damaged (%s): name another directory, or start over with --restart.'
                    % (checkpoint, error)) from error


def clear(train_dir):
  """Deletes a run: the files that training wrote, and no others.

  Raises:
    UserError: there are such files, but no `run.json` to prove that training wrote them.
  """
  train_dir = os.path.normpath(train_dir)
  written = [os.path.join(folder, name) for folder, _, names in os.walk(train_dir) for name in names
             if _WRITTEN.fullmatch(os.path.relpath(os.path.join(folder, name), train_dir))]
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
