"""The checkpoints of a run on disk: which is the latest, is it whole, does it fit this network.

TensorFlow's file `checkpoint` names the latest and those before it; `model.ckpt-N.index` and
`model.ckpt-N.data-*` are the one of step N, and `model.ckpt-N.meta` is its graph.
"""

import glob
import os
import re
import shutil

import tensorflow.compat.v1 as tf

from cifar10_console import UserError

# What TensorFlow leaves when it is killed while it writes.
_UNFINISHED = re.compile(r'(checkpoint|graph\.pbtxt|model\.ckpt-\d+\.meta)\.tmp[0-9a-f]+'
                         r'|model\.ckpt-\d+\.(index|data-\d{5}-of-\d{5})\.tempstate\d+')
_REMEDY = 'start the training again, which goes on from the one before.'

_FILE = re.compile(r'(model\.ckpt-\d+)\.(index|meta|data-\d{5}-of-\d{5})')


class Damaged(UserError):
  """A checkpoint is missing or cannot be read."""


def latest(train_dir):
  """Returns the path of a run's latest checkpoint, or None where there is none.

  Raises:
    Damaged: the file `checkpoint` cannot be read.
  """
  names = os.path.join(train_dir, 'checkpoint')
  if not os.path.exists(names):
    return None
  path, _ = _named(train_dir)
  if not path:
    raise Damaged('%s is damaged, which names the latest checkpoint: %s' % (names, _REMEDY))
  return path


def recover(train_dir):
  """Puts in order what a run that was killed, or a failing disk, left behind.

  Deletes files that TensorFlow had not finished, and sets checkpoints aside that are damaged, as
  `damaged-model.ckpt-N.*`; says so if there are any. Afterwards TensorFlow goes on from the latest
  that is whole. Nobody else may be at work in the directory.

  Args:
    train_dir: path of the run's directory.

  Returns:
    The path of that checkpoint, or None where there is none.
  """
  _delete_unfinished(train_dir)
  named, before = _named(train_dir)
  on_disk = sorted((path[:-len('.index')]
                    for path in glob.glob(os.path.join(train_dir, 'model.ckpt-*.index'))
                    if _FILE.fullmatch(os.path.basename(path))), key=_step)
  # The names come last, because the user may have chosen an older one to go on from.
  known = before + [named] if named else []
  paths = [path for path in on_disk if path not in known] + known
  while paths:
    try:
      _read(paths[-1])
      break
    except Damaged:
      _set_aside(paths[-1])
      print('%s is damaged or missing: set aside, and the one before it is used.' % paths.pop())
  if paths and paths[-1] != named:
    names = [os.path.basename(path) for path in paths]
    # Names relative to the directory, which this function keeps only if that is absolute.
    tf.train.update_checkpoint_state(os.path.abspath(train_dir), names[-1], names)
  elif named and not paths:
    os.remove(os.path.join(train_dir, 'checkpoint'))
  return paths[-1] if paths else None


def _named(train_dir):
  """Returns the paths that `checkpoint` names: the latest, or None, and a list of those before."""
  try:
    state = tf.train.get_checkpoint_state(train_dir)
  except ValueError:
    state = None
  if not state:
    return None, []
  path = state.model_checkpoint_path
  return path, [other for other in state.all_model_checkpoint_paths if other != path]


def _step(path):
  return int(path.rsplit('-', 1)[1])


def _delete_unfinished(train_dir):
  names = os.listdir(train_dir)
  whole = {name[:-len('.index')] for name in names if name.endswith('.index')}
  for name in names:
    path = os.path.join(train_dir, name)
    of_checkpoint = _FILE.fullmatch(name)
    # The index is written after the data: data without it are not finished either.
    if _UNFINISHED.fullmatch(name) or of_checkpoint and of_checkpoint.group(1) not in whole:
      os.remove(path)
    elif re.fullmatch(r'model\.ckpt-\d+_temp', name):
      shutil.rmtree(path)


def _set_aside(checkpoint):
  folder, name = os.path.split(checkpoint)
  for path in glob.glob(glob.escape(checkpoint) + '.*'):
    suffix = path[len(checkpoint):]
    os.replace(path, os.path.join(folder, 'damaged-' + name + suffix))


def check_fits(checkpoint, variables):
  """Checks that a checkpoint is whole and one of this network.

  Args:
    checkpoint: path of a checkpoint, such as `cifar10/train/model.ckpt-100`.
    variables: a dictionary from the keys in the checkpoint to the variables to restore.

  Returns:
    The step at which it was taken.

  Raises:
    Damaged: it cannot be read.
    UserError: it is one of another network; the first key that does not fit is named.
  """
  step, shapes = _read(checkpoint)
  for key, variable in sorted(variables.items()):
    here = variable.shape.as_list()
    if shapes.get(key) != here:
      there = 'is missing' if key not in shapes else 'has shape %s' % shapes[key]
      raise UserError('%s is a checkpoint of another network: %s %s there and has shape %s here; '
                      'name another directory, or give the flags of that run (see its run.json).'
                      % (checkpoint, key, there, here))
  return step


def restore(session, saver, checkpoint, variables):
  """Restores variables, see `check_fits`; also `Damaged` if the checkpoint vanishes meanwhile."""
  step = check_fits(checkpoint, variables)
  try:
    saver.restore(session, checkpoint)
  except (tf.errors.OpError, ValueError) as error:
    raise Damaged('%s has vanished: %s' % (checkpoint, _REMEDY)) from error
  return step


def _read(checkpoint):
  """Reads a checkpoint whole; returns its step and the shapes of its variables by key."""
  if not tf.train.checkpoint_exists(checkpoint):
    raise Damaged('%s is missing: %s' % (checkpoint, _REMEDY))
  try:
    reader = tf.train.load_checkpoint(checkpoint)
    shapes = reader.get_variable_to_shape_map()
    for key in shapes:
      reader.get_tensor(key)  # Which compares its checksum.
    return int(reader.get_tensor('global_step')), shapes
  except (tf.errors.OpError, ValueError, IndexError) as error:
    raise Damaged('%s is damaged (%s): %s' % (checkpoint, error, _REMEDY)) from error
