"""Choosing a model: --keep_best keeps the best checkpoint, --patience ends what brings no better.

The directory of the best holds a run with that one checkpoint, and `best.json`: by the names of
checkpoints how good they are. A kill leaves the old best there or the new one: first `best.json`
gets the new one too, then come its files, then `checkpoint` names it, and only then the old one's
files go. The next evaluation removes what is left.
"""

import json
import os
import shutil

from cifar10_support import checkpoints
from cifar10_support import console
from cifar10_support import files
from cifar10_support import runs
from cifar10_support.console import UserError
from cifar10_support.quiet import tf

FLAGS = tf.app.flags.FLAGS

console.DEFINE_path('keep_best', None, 'Directory for the checkpoint with the best precision so '
                    'far. --eval_data=validation chooses it without a look at the test images.')
tf.app.flags.DEFINE_integer('patience', None, 'End, and have training end, after this many '
                            'checkpoints in a row that were not better than the best, which '
                            '--keep_best keeps (default: in --eval_dir).', lower_bound=1)


class Best:
  """The best checkpoint so far of the run in a directory, if a flag asks for it."""

  def __init__(self, directory):
    self._directory = directory
    self._folder = FLAGS.keep_best or FLAGS.patience and os.path.join(FLAGS.eval_dir, 'best')
    if self._folder:
      runs.check_directory(self._folder, 'keep_best')
      self._load()

  def consider(self, checkpoint, precision, measure):
    """Keeps a `checkpoints.Checkpoint` if it is the best so far.

    Returns what to say of it, and whether patience has run out. `measure` says what the precision
    is of: only with the same one can another be better.
    """
    if not self._folder:
      return '', False
    name, best = self._load()
    record = runs.read(self._directory)
    measure += f", run of {record and (record['earlier'] or [record])[0]['started']}"
    if best and best['measure'] != measure:
      raise UserError(f"{self._folder} has the best by {best['measure']}, and not by {measure}: "
                      'name another directory with --keep_best.')
    other = os.path.basename(checkpoint.path)
    if not best or (precision > best['precision'] and other != name):
      new = {'precision': float(precision), 'step': checkpoint.step, 'eval_data': FLAGS.eval_data,
             'measure': measure, 'not_better': []}
      if not self._replace({name: best} if best else {}, checkpoint.path, new):
        return f' Better, but training has deleted it: {self._folder} is as before.', False
      return f' The best so far, now in {self._folder}.', False
    if other not in [name, *best['not_better']]:  # It may have been evaluated before.
      best['not_better'].append(other)
      self._record({name: best})
    facts = f"{best['precision']:.4f} at step {best['step']}, in {self._folder}"
    if not FLAGS.patience or len(best['not_better']) < FLAGS.patience:
      return f' The best so far: {facts}.', False
    why = f"{len(best['not_better'])} checkpoints were not better than the best ({facts})"
    files.write(os.path.join(self._directory, runs.END), why)
    return f' Training ends: {why}.', True

  def _load(self):
    """Returns the best one's name and facts, or Nones; removes what a kill has left of another."""
    os.makedirs(self._folder, exist_ok=True)
    known = {}
    if os.path.exists(self._path('best.json')):
      with open(self._path('best.json'), encoding='utf-8') as lines:
        known = json.load(lines)
    if (os.path.realpath(self._folder) == os.path.realpath(self._directory)
        or {os.path.basename(path) for path in checkpoints.paths(self._folder)} - known.keys()):
      raise UserError(f'{self._folder} is for the checkpoints of training: name another directory '
                      'with --keep_best.')
    state = tf.train.get_checkpoint_state(self._folder)
    name = state and os.path.basename(state.model_checkpoint_path)
    best = known.pop(name, None)
    for obsolete in known:
      for path in _files(self._path(obsolete)):
        os.remove(path)
    return name, best

  def _replace(self, old, source, new):
    """Puts a checkpoint in the place of the best; returns False if it has just been deleted."""
    name, record = os.path.basename(source), os.path.join(self._directory, runs.RECORD)
    self._record({**old, name: new})
    try:
      for path in _files(source) + [record] * os.path.exists(record):
        copy = self._path(os.path.basename(path))
        shutil.copyfile(path, f'{copy}.tmp')
        files.publish(f'{copy}.tmp', copy)
      checkpoints.read(self._path(name))
    except (FileNotFoundError, checkpoints.Damaged):
      return False
    state = tf.train.generate_checkpoint_state_proto('.', name)
    files.write(self._path('checkpoint'), str(state))
    self._load()
    self._record({name: new})
    return True

  def _record(self, known):
    files.write(self._path('best.json'), json.dumps(known, indent=2))

  def _path(self, name):
    return os.path.join(self._folder, name)


def _files(checkpoint):
  """Returns the paths of a checkpoint's files."""
  directory, name = os.path.split(checkpoint)
  return [os.path.join(directory, file) for file in os.listdir(directory)
          if file == name or file.startswith(f'{name}.')]
