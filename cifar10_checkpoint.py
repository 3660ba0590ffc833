"""The checkpoints of a run on disk: which is the latest, is it whole, does it fit this network.

TensorFlow's file `checkpoint` names the latest and those before it; `model.ckpt-N.index` and
`model.ckpt-N.data-*` are the one of step N, and `model.ckpt-N.meta` is its graph.
"""

import contextlib
import errno
import glob
import os
import re

import tensorflow.compat.v1 as tf

import cifar10_errors
from cifar10_console import UserError

_PART = r'(index|data-\d{5}-of-\d{5})'
_FILE = re.compile(r'(model\.ckpt-\d+)\.(meta|%s)' % _PART)
# What TensorFlow leaves when it is killed while it writes.
_UNFINISHED = re.compile(r'(checkpoint|graph\.pbtxt|model\.ckpt-\d+\.meta)\.tmp[0-9a-f]{32}'
                         r'|model\.ckpt-\d+\.%s\.tempstate\d+'
                         r'|model\.ckpt-\d+_temp/part-\d{5}-of-\d{5}\.%s(\.tempstate\d+)?'
                         % (_PART, _PART))
_DAMAGED = 'damaged-'  # Before the names of what is set aside.

# What the file system says of a file that is gone, or on a failing disk. Whatever else it says, as
# of permissions, passes, and the checkpoint is none to set aside.
_LOST = {os.strerror(code) for code in (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.ESTALE)}

_STEP = 'global_step'

_REMEDY = 'start the training again, which goes on from the one before.'


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


def is_written(path):
  """Returns whether TensorFlow or `recover` gives this name to what it writes.

  Args:
    path: of a file, relative to the run's directory.
  """
  return bool(path in ('checkpoint', 'graph.pbtxt') or _UNFINISHED.fullmatch(path)
              or _FILE.fullmatch(path.removeprefix(_DAMAGED)))


def check_restart(train_dir, keys):
  """Checks that a directory, whose run is about to be deleted, has no checkpoint of something else.

  One that is damaged may be anything, and is none.

  Args:
    train_dir: path of the directory.
    keys: those that every checkpoint of this program has.

  Raises:
    UserError: it has one.
  """
  _own_names(train_dir)
  for checkpoint in _on_disk(train_dir):
    try:
      _, contents = _read(checkpoint)
    except Damaged:
      continue
    for key in keys:
      if key not in contents:
        raise UserError('%s is a checkpoint of something else, without %s, and --restart deletes '
                        'nothing beside it: move it elsewhere, or name another directory with '
                        '--train_dir.' % (checkpoint, key))


def latest_as_it_is(train_dir):
  """Finds the checkpoint to go on from where nothing proves that the run is one of ours.

  Nothing is put in order there: it may belong to something else.

  Returns:
    The path of that checkpoint, which is whole, or None where there is none.

  Raises:
    UserError: the latest is damaged, or it cannot be told which that is.
  """
  _own_names(train_dir)
  try:
    checkpoint = latest(train_dir)
    if checkpoint:
      _read(checkpoint)
  except Damaged as error:
    raise UserError('The latest checkpoint in %s is damaged or missing, and no run.json proves '
                    'that it is from here, so nothing is put in order: name another directory '
                    'with --train_dir.' % train_dir) from error
  if not checkpoint and _on_disk(train_dir):
    raise UserError('%s is there, but neither a run.json nor a file `checkpoint` that names it: '
                    'move it elsewhere, or name another directory with --train_dir.'
                    % _on_disk(train_dir)[-1])
  return checkpoint


def recover(train_dir):
  """Puts in order what a run that was killed, or a failing disk, left behind.

  Deletes files that TensorFlow had not finished, and sets checkpoints aside that are damaged, as
  `damaged-model.ckpt-N.*`; says so if there are any. Afterwards TensorFlow goes on from the latest
  that is whole. Nobody else may be at work in the directory.

  Args:
    train_dir: path of the directory of a run that is one of ours.

  Returns:
    The path of that checkpoint, or None where there is none.

  Raises:
    UserError: the file `checkpoint` is not that of such a run.
  """
  named, before = _own_names(train_dir)
  # The names come last, because the user may have chosen an older one to go on from.
  known = before + [named] if named else []
  _delete_unfinished(train_dir, known)
  paths = [path for path in _on_disk(train_dir) if path not in known] + known
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


def _own_names(train_dir):
  """Returns what `_named` does; a `UserError` if these are not all checkpoints of the directory."""
  names = os.path.join(train_dir, 'checkpoint')
  if os.path.isdir(names):
    raise UserError('%s is a directory, in the place of the file that names the latest '
                    'checkpoint: move it elsewhere, or name another directory with --train_dir.'
                    % names)
  named, before = _named(train_dir)
  for path in before + [named] if named else []:
    folder, name = os.path.split(path)
    if (not re.fullmatch(r'model\.ckpt-\d+', name)
        or os.path.realpath(folder) != os.path.realpath(train_dir)):
      raise UserError('%s names %s, which is no model.ckpt-N of this directory: remove it, if '
                      'the run is one of ours, or name another directory with --train_dir.'
                      % (names, path))
  # Also where it names the directory in another way, as an absolute path, say.
  own = [os.path.join(train_dir, os.path.basename(path)) for path in before]
  return named and os.path.join(train_dir, os.path.basename(named)), own


def _on_disk(train_dir):
  """Returns the paths of the checkpoints that have an index, in the order of their steps."""
  indices = glob.glob(os.path.join(glob.escape(train_dir), 'model.ckpt-*.index'))
  return sorted((path[:-len('.index')] for path in indices
                 if _FILE.fullmatch(os.path.basename(path)) and os.path.isfile(path)),
                key=lambda path: int(path.rsplit('-', 1)[1]))


def _delete_unfinished(train_dir, known):
  folder = glob.escape(train_dir)
  whole = {os.path.basename(path) for path in _on_disk(train_dir) + known}
  for path in (glob.glob(os.path.join(folder, '*'))
               + glob.glob(os.path.join(folder, 'model.ckpt-*_temp', '*'))):
    name = os.path.relpath(path, train_dir)
    of_checkpoint = _FILE.fullmatch(name)
    # The index is written after the data, and then `checkpoint`: data without either are not
    # finished.
    if os.path.isfile(path) and (_UNFINISHED.fullmatch(name)
                                 or of_checkpoint and of_checkpoint.group(1) not in whole):
      os.remove(path)
  for path in glob.glob(os.path.join(folder, 'model.ckpt-*_temp')):
    with contextlib.suppress(OSError):  # The user keeps something in it.
      os.rmdir(path)


def _set_aside(checkpoint):
  for path in glob.glob(glob.escape(checkpoint) + '.*'):
    folder, name = os.path.split(path)
    if _FILE.fullmatch(name) and os.path.isfile(path):
      os.replace(path, os.path.join(folder, _DAMAGED + name))


def check_fits(checkpoint, variables):
  """Checks that a checkpoint is whole and one of this network.

  Args:
    checkpoint: path of a checkpoint, such as `cifar10/train/model.ckpt-100`.
    variables: a dictionary from the keys in the checkpoint to the variables to restore.

  Returns:
    The step at which it was taken.

  Raises:
    Damaged: it is missing, or can never be read.
    UserError: it cannot be read as things are, or it is one of another network; the first key that
      does not fit is named.
  """
  step, contents = _read(checkpoint)
  wanted = {key: (variable.dtype.base_dtype, variable.shape.as_list())
            for key, variable in variables.items()}
  # An evaluation has no variable for the step, and takes it of any integer type.
  wanted.setdefault(_STEP, (tf.as_dtype(getattr(step, 'dtype', tf.int64)), []))
  for key, here in sorted(wanted.items()):
    if contents.get(key) != here:
      there = 'is %s of shape %s' % _words(contents[key]) if key in contents else 'is missing'
      raise UserError('%s is a checkpoint of another network: %s %s there and %s of shape %s here; '
                      'name another directory, or give the flags of that run (see its run.json).'
                      % (checkpoint, key, there, *_words(here)))
  return int(step)


def _words(contents):
  """Returns what to call a dtype and a shape in a sentence."""
  dtype, shape = contents
  return dtype.name, shape


def restore(session, saver, checkpoint, variables):
  """Restores variables, see `check_fits`.

  Raises:
    Damaged: also if the checkpoint vanishes meanwhile.
    tf.errors.OpError: it cannot be restored for another reason, such as too little memory.
  """
  step = check_fits(checkpoint, variables)
  try:
    saver.restore(session, checkpoint)
  except (tf.errors.OpError, ValueError) as error:
    if tf.train.checkpoint_exists(checkpoint):
      raise
    raise Damaged('%s has vanished: %s' % (checkpoint, _REMEDY)) from error
  return step


def _read(checkpoint):
  """Reads a checkpoint whole; returns its step, if it has one, and {key: (dtype, shape)}.

  Raises:
    Damaged: it is missing, or can never be read.
    UserError: it cannot be read as things are: too many files are open, say.
  """
  if not tf.train.checkpoint_exists(checkpoint):
    raise Damaged('%s is missing: %s' % (checkpoint, _REMEDY))
  try:
    reader = tf.train.load_checkpoint(checkpoint)
    dtypes = reader.get_variable_to_dtype_map()
    step, contents = None, {}
    for key, shape in reader.get_variable_to_shape_map().items():
      contents[key] = dtypes[key].base_dtype, shape
      value = reader.get_tensor(key)  # Which compares its checksum.
      if key == _STEP:
        step = value
    return step, contents
  except (tf.errors.OpError, ValueError, IndexError) as error:
    path_and_reason = cifar10_errors.of_file(error)
    if path_and_reason and path_and_reason[1] not in _LOST:
      raise UserError('%s cannot be read (%s): put that right, and start again.'
                      % path_and_reason) from error
    raise Damaged('%s is damaged (%s): %s' % (checkpoint, error, _REMEDY)) from error
