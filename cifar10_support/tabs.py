"""What TensorBoard's tabs HParams and Projector read, of training and of evaluation."""

import pathlib

import numpy as np
from PIL import Image
from tensorboard.plugins.hparams import summary as hparams

from cifar10_support import runs
from cifar10_support import settings
from cifar10_support.console import UserError
from cifar10_support.quiet import tf

# The columns of TensorBoard's HParams tab. It shows five flags and five results until asked.
_SHOWN = {*settings.LEARNING, 'data_dir', 'synthetic', 'seed', 'init_from'}
_FIRST = {'batch_size', 'initial_learning_rate', 'momentum', 'num_epochs_per_decay', 'weight_decay'}
_RESULTS = ('precision @ 1', 'losses/total_loss/average', 'losses/cross_entropy/average',
            'learning_rate', 'examples/sec', 'precision @ 1 of validation images')


def hyperparameters(train_dir):
  """Returns a `tf.Summary` for the HParams tab of how a run began, empty if there is no record.

  Training and evaluation write it, so that both are in one row: that of its name.
  """
  record = runs.read(train_dir)
  if not record:
    return tf.Summary()
  first = (record['earlier'] or [record])[0]
  values = {flag: value if type(value) in (int, float) else str(value)
            for flag, value in first['flags'].items() if flag in _SHOWN}
  name = [f'{flag}={values[flag]}' for flag in first.get('given', ()) if flag in values]
  result = hparams.session_start_pb(values, group_name=' '.join([*name, first['started']]))
  columns = [{'name': flag, 'differs': flag in _FIRST, 'type': 'DATA_TYPE_' + (
      'STRING' if isinstance(value, str) else 'FLOAT64')} for flag, value in values.items()]
  result.MergeFrom(hparams.experiment_pb(columns, [{'name': {'tag': tag}} for tag in _RESULTS]))
  return result


def embedding(labels):
  """With --projector adds what the layer `softmax_linear` sees, of several crops the mean.

  Returns a list of no tensor or one, float32 of shape [n, features] for `labels` of shape [n].
  """
  if not tf.app.flags.FLAGS.projector:
    return []
  try:
    x = tf.get_default_graph().get_operation_by_name('softmax_linear/MatMul').inputs[0]
  except KeyError:
    raise UserError('--projector needs a network whose last layer is softmax_linear.') from None
  return [tf.reduce_mean(tf.reshape(x, [tf.size(labels), -1, x.shape[-1]]), axis=1)]


def write_projector(directory, labels, probabilities, classes, images, points):
  """Writes an `embedding` of images into a directory of event files, see `summary`."""
  folder = pathlib.Path(directory, 'projector')
  folder.mkdir(exist_ok=True)
  columns = int(np.ceil(len(images) ** 0.5))
  tiles = np.pad(images, [(0, columns ** 2 - len(images)), (0, 0), (0, 0), (0, 0)])
  sheet = np.vstack([np.hstack(row) for row in np.split(tiles, columns)]).squeeze()
  side = min(images.shape[1], 8192 // columns)  # Browsers take no larger picture.
  Image.fromarray(sheet).resize([columns * side] * 2, Image.BOX).save(folder / 'images.png')
  points.tofile(folder / 'points.bytes')
  rows = ['class\ttaken for\timage'] + [
      f'{classes[label]}\t{classes[answer]}\t{i}'
      for i, (label, answer) in enumerate(zip(labels, probabilities.argmax(axis=1)))]
  (folder / 'classes.tsv').write_text('\n'.join(rows), encoding='utf-8')
  (folder.parent / 'projector_config.pbtxt').write_text(
      'embeddings { tensor_name: "images" tensor_path: "projector/points.bytes" '
      f'tensor_shape: {list(points.shape)} metadata_path: "projector/classes.tsv" '
      f'sprite {{ image_path: "projector/images.png" single_image_dim: {[side, side]} }} }}\n')
