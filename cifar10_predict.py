"""Tells what pictures show: the probability of each class.

  python cifar10_predict.py picture.png another.jpg

The pictures may be PNG, JPEG, GIF or BMP, of any size and shape. With --export_dir the network is
written as a SavedModel, which does the same wherever TensorFlow serves models.
"""

import cifar10_quiet  # noqa: F401, before TensorFlow

import json
import os
import struct

import tensorflow.compat.v1 as tf

import cifar10_console
import cifar10_dataset
import cifar10_device
import cifar10_input
import cifar10_restore
import cifar10_run
from cifar10_console import UserError

FLAGS = tf.app.flags.FLAGS

tf.app.flags.DEFINE_boolean('json', False, 'Print JSON, for programs: a list with an object for '
                            'each picture.')
tf.app.flags.DEFINE_string('export_dir', '', 'Directory to make, for the network as a SavedModel.')
# For --help.
tf.app.flags.adopt_module_key_flags(cifar10_restore)
for name in ('synthetic', 'top_layers', 'mixed_precision'):
  tf.app.flags.declare_key_flag(name)


def predict(paths):
  """Builds the graph, restores the latest checkpoint, and classifies the pictures.

  Args:
    paths: a list of paths of picture files.

  Returns:
    The exit status: 1 if any of them could not be read.
  """
  checkpoint_dir = cifar10_restore.checked_checkpoint_dir()
  checkpoint = cifar10_restore.latest_checkpoint(checkpoint_dir)
  run = cifar10_run.read(checkpoint_dir)
  classes = run['classes'] if run else cifar10_dataset.CLASSES
  cifar10_restore.take_top_layers(checkpoint_dir)

  with tf.Graph().as_default():
    contents = tf.placeholder(tf.string, [None], name='pictures')
    images = cifar10_input.decode_pictures(contents)
    images = cifar10_input.views(images) if FLAGS.multiview else cifar10_input.center(images)
    probabilities = cifar10_restore.probabilities(images)
    restorer = cifar10_restore.Restorer()
    with tf.Session(config=cifar10_device.session_config()) as session:
      restorer.restore(session, checkpoint)
      if FLAGS.export_dir:
        _export(session, contents, probabilities, classes)
      predictions = {}
      with cifar10_console.Progress('Classifying', len(paths), 'pictures') as progress:
        for i, path in enumerate(paths):
          progress.update(i)
          try:
            [values] = session.run(probabilities, {contents: [_read(path)]})
          except UserError as error:
            cifar10_console.complain(error)
          except tf.errors.InvalidArgumentError:
            cifar10_console.complain('%s is no whole PNG, JPEG, GIF or BMP picture.' % path)
          else:
            predictions[path] = sorted(zip(values.tolist(), classes), reverse=True)

  if FLAGS.json:
    _print_json(predictions)
  else:
    _print_table(predictions, in_full=len(paths) == 1)
  return 1 if len(predictions) < len(set(paths)) else 0


def _read(path):
  """Returns the contents of a picture file; a `UserError` if it has none that could be decoded."""
  try:
    with open(path, 'rb') as file:
      picture = file.read()
  except OSError as error:
    raise UserError('%s cannot be read: %s.' % (path, error.strerror)) from error
  if _has_palette(picture):
    raise UserError('%s is a BMP picture with a palette, which TensorFlow does not decode: save it '
                    'as PNG.' % path)
  return picture


def _has_palette(picture):
  """Returns whether a picture is a BMP whose values are places in a palette.

  TensorFlow would take them for greys, as which only one palette has them.
  """
  if picture[:2] != b'BM' or len(picture) < 54:
    return False
  pixels, header, bits = struct.unpack_from('<10xII10xH', picture)
  greys = b''.join(bytes([value, value, value, 0]) for value in range(256))
  return bits < 8 or bits == 8 and picture[14 + header:pixels] != greys


def _export(session, contents, probabilities, classes):
  """Writes the SavedModel: from encoded pictures to class names and their probabilities."""
  if os.path.exists(FLAGS.export_dir):
    raise UserError('%s is there already: name a directory to make with --export_dir.'
                    % FLAGS.export_dir)
  names = tf.tile([list(classes)], [tf.shape(contents)[0], 1], name='classes')
  try:
    tf.saved_model.simple_save(session, FLAGS.export_dir, inputs={'pictures': contents},
                               outputs={'classes': names, 'probabilities': probabilities})
  except tf.errors.OpError as error:
    raise UserError('Cannot write to %s (%s): name another directory with --export_dir.'
                    % (FLAGS.export_dir, error.message)) from error


def _print_json(predictions):
  print(json.dumps([{'file': path, 'predictions': [{'class': name, 'probability': probability}
                                                   for probability, name in of_path]}
                    for path, of_path in predictions.items()], indent=2))


def _print_table(predictions, in_full):
  """Prints all classes, or a line for each picture with the three most probable."""
  width = max(map(len, predictions), default=0)
  for path, of_path in predictions.items():
    if in_full:
      for probability, name in of_path:
        print('%-20s %5.1f %%' % (name, 100 * probability))
    else:
      best = ', '.join('%s %.0f %%' % (name, 100 * probability)
                       for probability, name in of_path[:3])
      print('%-*s  %s' % (width, path, best))


def main(paths):
  if not paths and not FLAGS.export_dir:
    raise UserError('Name one picture or more, or --export_dir.')
  return predict(paths)


if __name__ == '__main__':
  cifar10_device.use_graph_mode()
  cifar10_console.run(main, takes_arguments=True)
