"""Tells what pictures show, PNG, JPEG, GIF or BMP of any size: the probability of each class.
With --export_dir writes the network as a SavedModel, which does the same wherever it is served.

  python cifar10_predict.py picture.png another.jpg

Pictures are taken as they are in the file: a JPEG that says that it is to be turned is not turned.
"""

import cifar10_tensorflow  # noqa: F401, before TensorFlow

import json
import os
import struct
import tempfile

import tensorflow.compat.v1 as tf

import cifar10
import cifar10_console
import cifar10_dataset
import cifar10_device
import cifar10_errors
import cifar10_input
import cifar10_lock
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

_BMP_BYTES = 54  # Of the two headers of the oldest kind of BMP picture.
_BMP_MASKS = struct.pack('<4I', 0xff0000, 0xff00, 0xff, 0xff000000)  # Red, green, blue, opacity.


def predict(paths):
  """Builds the graph, restores the latest checkpoint, and classifies the pictures.

  Args:
    paths: a list of paths of picture files.

  Returns:
    The exit status: 1 if any of them could not be read.
  """
  export_dir = _checked_export_dir()
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
    with tf.Session(config=cifar10_device.session_config()) as session, cifar10_errors.reported(
        'start the same command again', 'take a smaller picture, or end what else takes it'):
      restorer.restore(session, checkpoint)
      if export_dir:
        _export(session, export_dir, contents, probabilities, classes)
      predictions = []
      with cifar10_console.Progress('Classifying', len(paths), 'pictures') as progress:
        for i, path in enumerate(paths):
          progress.update(i)
          try:
            [values] = session.run(probabilities, {contents: [read(path)]})
          except UserError as error:
            cifar10_console.complain(error)
          except tf.errors.InvalidArgumentError:
            cifar10_console.complain('%s is no whole PNG, JPEG, GIF or BMP picture, or is too '
                                     'large.' % path)
          else:
            predictions.append((path, sorted(zip(values.tolist(), classes), reverse=True)))

  if FLAGS.json:
    _print_json(predictions)
  else:
    _print_table(predictions, in_full=len(paths) == 1)
  return 1 if len(predictions) < len(paths) else 0


def read(path):
  """Returns the contents of a picture file; a `UserError` if it has none that could be decoded."""
  try:
    with open(path, 'rb') as file:
      picture = file.read()
  except OSError as error:
    raise UserError('%s cannot be read: %s.' % (path, error.strerror)) from error
  if picture[:2] == b'BM' and len(picture) >= _BMP_BYTES:
    picture = _plain_bmp(picture)
    if picture is None:
      raise UserError('%s is a BMP picture of a kind that TensorFlow does not decode: save it as '
                      'PNG.' % path)
  return picture


def _plain_bmp(picture):
  """Returns a BMP picture as TensorFlow understands it, or None where it would not.

  TensorFlow looks at nothing but the number of bits: it takes places in a palette for greys,
  compressed pixels for plain ones, and every fourth byte for opacity.

  Source: https://learn.microsoft.com/windows/win32/gdi/bitmap-storage
  """
  pixels, header, bits, compression = struct.unpack_from('<10xII10xHI', picture)
  if header < 40:
    return None
  if compression == 0:  # BI_RGB
    if bits == 8:
      greys = b''.join(bytes([value, value, value, 0]) for value in range(256))
      return picture if picture[14 + header:pixels] == greys else None
    if bits == 32:
      return _without_opacity(picture, pixels)
    return picture if bits == 24 else None
  masks = picture[_BMP_BYTES:_BMP_BYTES + 16]
  if compression == 3 and bits == 32 and masks[:12] == _BMP_MASKS[:12]:  # BI_BITFIELDS
    has_opacity = header >= 56 and masks == _BMP_MASKS
    return picture if has_opacity else _without_opacity(picture, pixels)
  return None


def _without_opacity(picture, pixels):
  """Makes the fourth byte of each pixel, which has no meaning there, opaque."""
  picture = bytearray(picture)
  picture[pixels + 3::4] = b'\xff' * len(picture[pixels + 3::4])
  return bytes(picture)


def _checked_export_dir():
  """Returns the directory to make, or '' for none; a `UserError` if --export_dir can be none."""
  if not FLAGS.export_dir:
    return ''
  export_dir = cifar10.directory('export_dir')
  cifar10_run.check_directory(export_dir, 'export_dir')
  if os.path.exists(export_dir):
    raise UserError('%s is there already: name a directory to make with --export_dir.' % export_dir)
  return export_dir


def _export(session, export_dir, contents, probabilities, classes):
  """Writes the SavedModel: from encoded pictures to class names and their probabilities.

  The directory appears when it is whole, or not at all.
  """
  names = tf.tile([list(classes)], [tf.shape(contents)[0], 1], name='classes')
  export_dir = os.path.abspath(export_dir)
  folder = os.path.dirname(export_dir)
  try:
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='unfinished-', dir=folder) as unfinished:
      model = os.path.join(unfinished, 'model')
      tf.saved_model.simple_save(session, model, inputs={'pictures': contents},
                                 outputs={'classes': names, 'probabilities': probabilities})
      cifar10_lock.publish(model, export_dir)
  except (OSError, tf.errors.OpError) as error:
    path_and_reason = cifar10_errors.of_file(error)
    if not path_and_reason:
      raise
    raise UserError('Cannot write to %s (%s): name another directory with --export_dir.'
                    % (FLAGS.export_dir, path_and_reason[1])) from error


def _print_json(predictions):
  print(json.dumps([{'file': path, 'predictions': [{'class': name, 'probability': probability}
                                                   for probability, name in of_path]}
                    for path, of_path in predictions], indent=2))


def _print_table(predictions, in_full):
  """Prints all classes, or a line for each picture with the three most probable."""
  width = max((len(path) for path, _ in predictions), default=0)
  for path, of_path in predictions:
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
