"""Classifies your own pictures, of any size and common format: the probability of each class.
With --export_dir it writes the network as a SavedModel, which takes PNG, JPEG, GIF and BMP.

  python cifar10_predict.py picture.png another.jpg
"""

from cifar10_support import tf_setup  # First: it imports TensorFlow without its chatter.

import contextlib
import json
import os
import sys
import tempfile

import tensorflow.compat.v1 as tf

import cifar10
import cifar10_input
from cifar10_support import console
from cifar10_support import dataset
from cifar10_support import evaluation
from cifar10_support import files
from cifar10_support import pictures
from cifar10_support import runs
from cifar10_support import settings
from cifar10_support.console import UserError

FLAGS = tf.app.flags.FLAGS

tf.app.flags.DEFINE_boolean('json', False, 'Print JSON, for programs: a list with an object for '
                            'each picture.')
console.DEFINE_path('export_dir', '', 'Directory to create for the SavedModel.')
console.adopt_flags(evaluation)
for name in ('synthetic', 'mixed_precision'):
  tf.app.flags.declare_key_flag(name)


def predict(paths):
  """Builds the graph, restores the checkpoint, and classifies the pictures.

  Args:
    paths: a list of paths of picture files.

  Returns:
    A list of (path, [(probability, name), ...]) with the most probable class first, without the
    pictures that could not be read.
  """
  _check_export_dir()
  checkpoint = runs.find_checkpoint(FLAGS.checkpoint_dir, 'checkpoint_dir')
  directory = os.path.dirname(checkpoint.path)
  run = runs.read(directory)
  data_set = dataset.of_run(run, cifar10.NUM_CLASSES)
  dataset.follow(data_set.constants, vars(cifar10), vars(cifar10_input))

  with tf.Graph().as_default():
    contents = tf.placeholder(tf.string, [None], name='pictures')
    images = pictures.decode(contents, data_set.side, data_set.channels)
    crops = (cifar10_input.ten_crops if FLAGS.multiview else cifar10_input.central_crop)(images)
    runs.check_data(directory, run, data_set.seen_as(crops))
    probabilities = cifar10.probabilities(crops)
    with tf.Session(config=tf_setup.session_config()) as session, tf_setup.explained_errors(
        'run the same command again', 'close other programs that use it'):
      evaluation.restore(session, checkpoint)
      if FLAGS.export_dir:
        _export(session, contents, probabilities, data_set.classes)
      predictions = []
      for path in console.progress('Classifying', len(paths), 'pictures', iterable=paths):
        try:
          [values] = session.run(probabilities, {contents: [pictures.load(path)]})
        except UserError as error:
          console.complain(error)
        else:
          predictions.append((path, sorted(zip(values.tolist(), data_set.classes),
                                           reverse=True)))
  return predictions


def _check_export_dir():
  """Checks, before any work, that --export_dir can be made."""
  if FLAGS.export_dir:
    runs.check_directory(FLAGS.export_dir, 'export_dir')
    if os.path.exists(FLAGS.export_dir):
      raise UserError(f'{FLAGS.export_dir} exists already: name a directory to make with '
                      '--export_dir.')


def _export(session, contents, probabilities, classes):
  """Writes the SavedModel: from encoded pictures to class names and their probabilities.

  The directory appears when it is whole, or not at all.
  """
  names = tf.tile([list(classes)], [tf.shape(contents)[0], 1], name='classes')
  export_dir = os.path.abspath(FLAGS.export_dir)
  parent = os.path.dirname(export_dir)
  with tf_setup.writing_to(FLAGS.export_dir, 'export_dir'):
    os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='unfinished-', dir=parent) as unfinished:
      model = os.path.join(unfinished, 'model')
      tf.saved_model.simple_save(session, model, inputs={'pictures': contents},
                                 outputs={'classes': names, 'probabilities': probabilities})
      files.publish(model, export_dir)


def _print_json(predictions):
  print(json.dumps([{'file': path, 'predictions': [{'class': name, 'probability': probability}
                                                   for probability, name in ranking]}
                    for path, ranking in predictions], indent=2))


def _print_table(predictions, in_full):
  """Prints all classes, or a line for each picture with the three most probable."""
  width = max((len(path) for path, _ in predictions), default=0)
  for path, ranking in predictions:
    if in_full:
      for probability, name in ranking:
        print(f'{name:20} {100 * probability:5.1f} %')
    else:
      best = ', '.join(f'{name} {100 * probability:.0f} %'
                       for probability, name in ranking[:3])
      print(f'{path:{width}}  {best}')


def main(paths):
  """Prints the classes of the pictures at these paths; returns 1 if one of them is unreadable."""
  if not paths and not FLAGS.export_dir:
    raise UserError('Name at least one picture, or --export_dir.')
  # Notes, such as that a checkpoint is damaged, must not get into the JSON.
  with settings.from_flags(cifar10), contextlib.redirect_stdout(
      sys.stderr if FLAGS.json else sys.stdout):
    predictions = predict(paths)
  if FLAGS.json:
    _print_json(predictions)
  else:
    _print_table(predictions, in_full=len(paths) == 1)
  return 1 if len(predictions) < len(paths) else 0


if __name__ == '__main__':
  tf_setup.use_graph_mode()
  console.run(main, takes_arguments=True)
