"""The checkpoints of a run: which is the latest intact one, does it fit this graph, restore it.

The file `checkpoint` names the latest one and those before it; `model.ckpt-N.index` and
`model.ckpt-N.data-*` are the one of step N. Before 2016 it was a single file, `model.ckpt-N`.
Programs of other people give them other names, such as `cifar_net-N`.
"""

import collections
import errno
import os
import re

import numpy as np

from cifar10_support import tf_setup
from cifar10_support.console import UserError
from cifar10_support.quiet import tf

_ON_DISK = re.compile(r'(model\.ckpt-\d+)(?:\.index)?|(?!model\.ckpt)(.+[-_]\d+)\.data-0+-of-\d+')

# What the file system says of files that are gone or on a failing disk. Anything else, such as
# missing permissions, may pass, and is no reason to fall back on an older checkpoint.
_LOST = {os.strerror(code) for code in (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.ESTALE)}


class Damaged(UserError):
  """A checkpoint is missing, or can never be read."""


class Checkpoint(collections.namedtuple('Checkpoint', 'path step contents')):
  """A checkpoint that was read and is intact: `contents` is {key: (dtype, shape)}.

  `step`, after which it was taken, is None if it is not known.
  """


def paths(directory):
  """Lists the paths of the checkpoints in a directory, the one to use first.

  First comes the one that the file `checkpoint` names as the latest: it may be an older one that
  somebody chose. That file may be missing, and its paths may be those of another place from which
  the run was moved: only the names in it count. The directory need not exist.
  """
  try:
    matches = [_ON_DISK.fullmatch(name) for name in os.listdir(directory)]
  except (FileNotFoundError, NotADirectoryError):
    return []
  names = {match.group(1) or match.group(2) for match in matches if match}
  names = sorted(names, key=step_in, reverse=True)
  try:
    state = tf.train.get_checkpoint_state(directory)
  except (ValueError, tf.errors.OpError):
    state = None
  if state:
    latest = os.path.basename(state.model_checkpoint_path)
    names = [latest] + [name for name in names if name != latest]
  return [os.path.join(directory, name) for name in names]


def step_in(path):
  """Returns the step that a checkpoint's name ends in, or None."""
  match = re.search(r'[-_](\d+)$', path)
  return match and int(match.group(1))


def latest_intact(directory):
  """Reads the latest checkpoint; if it is damaged, says so and reads the one before it.

  Returns a `Checkpoint`, or None if the directory has none; `Damaged` if all are.
  """
  found = paths(directory)
  for path in found:
    try:
      return read(path)
    except Damaged as error:
      print(f'{error} Trying the one before it.')
  if found:
    raise Damaged(f'{directory} has no checkpoint that can be read: put a good copy there, or '
                  'name another directory.')
  return None


def read(path):
  """Reads all of a checkpoint, which compares its checksums; returns a `Checkpoint`.

  It raises `Damaged` if it is missing or can never be read, and a `UserError` if the reason may
  pass, such as missing permissions.
  """
  if not tf.train.checkpoint_exists(path):
    raise Damaged(f'{path} is missing.')
  try:
    reader = tf.train.load_checkpoint(path)
    dtypes = reader.get_variable_to_dtype_map()
    step, contents = step_in(path), {}
    for key, shape in reader.get_variable_to_shape_map().items():
      contents[key] = dtypes[key].base_dtype, shape
      value = reader.get_tensor(key)
      if key == 'global_step':
        step = int(value)
    return Checkpoint(path, step, contents)
  except (tf.errors.OpError, ValueError, IndexError) as error:
    path_and_reason = tf_setup.file_error(error)
    if path_and_reason and path_and_reason[1] not in _LOST:
      raise UserError('{} cannot be read: {}.'.format(*path_and_reason)) from error
    raise Damaged(f'{path} is damaged ({error}).') from error


def fits(checkpoint, key, variable):
  """Returns whether `restore` can give a variable the value that a `Checkpoint` has for a key."""
  if key == 'global_step' and checkpoint.step is not None:
    return True
  dtype, shape = checkpoint.contents.get(key, (None, None))
  here = variable.dtype.base_dtype
  return (shape == variable.shape.as_list()
          and (dtype == here or (dtype.is_floating and here.is_floating)))


def check_fits(checkpoint, variables):
  """Raises a `UserError` if a `Checkpoint` has no value that fits for one of {key: variable}."""
  for key, variable in sorted(variables.items()):
    if not fits(checkpoint, key, variable):
      kind = '{0.name} of shape {1}'
      there = kind.format(*checkpoint.contents[key]) if key in checkpoint.contents else 'missing'
      here = kind.format(variable.dtype.base_dtype, variable.shape.as_list())
      raise UserError(f'{checkpoint.path} does not fit this network: {key} is {there} there, and '
                      f'{here} here. Use the program and the flags of that run (see its run.json), '
                      'or train this network in another directory or with --restart.')


def restore(session, checkpoint, keys_and_variables):
  """Gives variables the values that a `Checkpoint` has; `Damaged` if it has vanished since.

  `tf.train.Saver` would do the same, but demands the same precision (early versions of the tutorial
  saved float16) and a step in an int64 variable with this name (they had others).
  """
  try:
    reader = tf.train.load_checkpoint(checkpoint.path)
    for key, variable in keys_and_variables:
      is_step = key == 'global_step' and checkpoint.step is not None
      value = checkpoint.step if is_step else reader.get_tensor(key)
      variable.load(np.asarray(value, variable.dtype.as_numpy_dtype), session)
  except (tf.errors.OpError, ValueError) as error:
    if tf.train.checkpoint_exists(checkpoint.path):
      raise
    raise Damaged(f'{checkpoint.path} has vanished.') from error
