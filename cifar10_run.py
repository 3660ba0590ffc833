"""A run on disk: its directory, and whether a checkpoint in it belongs to this program.

Training writes what evaluation reads. Besides TensorFlow's checkpoints and event files there is
`run.json`, which says how the run was started: `flags`, `tensorflow` (the version), `started`, and
under `earlier` the same of the starts before the latest.
"""

import datetime
import glob
import json
import os

import tensorflow.compat.v1 as tf

from cifar10_console import UserError

_RECORD = 'run.json'

# All that training writes, as patterns.
_WRITTEN = [_RECORD, 'checkpoint', 'model.ckpt-*', 'graph.pbtxt', 'events.out.tfevents.*']


def session_config(log_device_placement=False):
  """Returns the `tf.ConfigProto` that training and evaluation open their sessions with."""
  # A GPU's memory is taken as it is needed, so that evaluation finds room beside training.
  return tf.ConfigProto(allow_soft_placement=True,
                        log_device_placement=log_device_placement,
                        gpu_options=tf.GPUOptions(allow_growth=True))


def start(train_dir, flags):
  """Makes the directory, if need be, and records this start in it.

  Args:
    train_dir: path of the run's directory.
    flags: a dictionary of the flags' values.

  Raises:
    UserError: the directory cannot be written, or has a run on another data set.
  """
  try:
    before = read(train_dir)
    if before:
      check_data_set(train_dir, flags['synthetic'])
    record = {
        'started': datetime.datetime.now().isoformat(timespec='seconds'),
        'tensorflow': tf.__version__,
        'flags': flags,
        'earlier': before.pop('earlier') + [before] if before else [],
    }
    os.makedirs(train_dir, exist_ok=True)
    path = os.path.join(train_dir, _RECORD)
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
    UserError: there is one, but it is not what `start` wrote.
  """
  path = os.path.join(train_dir, _RECORD)
  try:
    with open(path) as lines:
      record = json.load(lines)
  except FileNotFoundError:
    return None
  except ValueError:
    record = None
  if not isinstance(record, dict) or not {'flags', 'earlier'} <= record.keys():
    raise UserError('%s is damaged: remove it to go on without the history of the run.' % path)
  return record


def check_data_set(train_dir, synthetic):
  """Raises a `UserError` if the run in `train_dir` is on the other data set than this program."""
  record = read(train_dir)
  if record and record['flags']['synthetic'] != synthetic:
    raise UserError('The run in %s is on %s: %s, or name another directory.'
                    % ((train_dir, 'the real images', 'leave out --synthetic') if synthetic else
                       (train_dir, 'the synthetic images', 'add --synthetic')))


def check_fits(checkpoint, variables):
  """Checks that a checkpoint is one of this network.

  Args:
    checkpoint: path of a checkpoint, such as `cifar10/train/model.ckpt-100`.
    variables: a dictionary from the keys in the checkpoint to the variables to restore.

  Raises:
    UserError: it is not; the first variable that does not fit is named.
  """
  shapes = tf.train.load_checkpoint(checkpoint).get_variable_to_shape_map()
  for key, variable in variables.items():
    here = variable.shape.as_list()
    if shapes.get(key) != here:
      there = 'is missing' if key not in shapes else 'has shape %s' % shapes[key]
      raise UserError('%s is a checkpoint of another network: %s %s there and has shape %s here; '
                      'name another directory.' % (checkpoint, key, there, here))


def clear(train_dir):
  """Deletes a run: the files that training wrote, and no others.

  Raises:
    UserError: there are such files, but no `run.json` to prove that training wrote them.
  """
  written = [path for pattern in _WRITTEN
             for path in glob.glob(os.path.join(glob.escape(train_dir), pattern))]
  if written and read(train_dir) is None:
    raise UserError('%s holds %s but no %s: it is not from here, and --restart does not delete it.'
                    % (train_dir, os.path.basename(written[0]), _RECORD))
  # The proof goes last: an interrupted deletion can be taken up again.
  for path in sorted(written, key=lambda path: path.endswith(_RECORD)):
    os.remove(path)
