"""Classifies your own pictures, of any size and common format: the probability of each class.
With --export_dir it writes the network as a SavedModel, for servers, phones and browsers: see
docs/deploying.md.

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
    images = tf.identity(decode(contents, data_set.side, data_set.channels), name='images')
    # As floats: TensorFlow Lite has no op that pads uint8, which is a part of cropping.
    floats = tf.cast(images, tf.float32)
    crops = (cifar10_input.ten_crops if FLAGS.multiview else cifar10_input.central_crop)(floats)
    runs.check_data(directory, run, data_set.seen_as(crops))
    probabilities = cifar10.probabilities(crops)
    with tf.Session(config=tf_setup.session_config()) as session, tf_setup.explained_errors(
        'run the same command again', 'close other programs that use it'):
      evaluation.restore(session, checkpoint)
      if FLAGS.export_dir:
        _export(session, contents, images, probabilities, data_set.classes)
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


def decode(contents, size, depth):
  """Adds to the graph the decoding of pictures, for a SavedModel too.

  By itself TensorFlow does less than `pictures.load`. It ignores EXIF orientation, reads BMP right
  only with 24 bits per pixel, and knows transparency only as an alpha channel or in the palette of
  a PNG; that is laid on white.

  Args:
    contents: strings of shape [n], each the contents of a PNG, JPEG, GIF or BMP file.
    size: pixels on a side of the images to return.
    depth: number of their channels: 3, or 1 for grey.

  Returns:
    uint8 of shape [n, size, size, depth].
  """
  def decode_one(content):
    picture = tf.cond(
        tf.io.is_jpeg(content),
        # As Pillow does: `decode_image` takes shortcuts that cost up to three grey levels.
        lambda: tf.io.decode_jpeg(content, dct_method='INTEGER_ACCURATE'),
        lambda: tf.io.decode_image(content, expand_animations=False))
    picture.set_shape([None, None, None])
    side = tf.minimum(tf.shape(picture)[0], tf.shape(picture)[1])
    square = tf.image.resize_with_crop_or_pad(picture, side, side)

    def scaled(pixels):
      return tf.image.resize_area(pixels[tf.newaxis], [size, size])[0]

    def scaled_on_white():
      alpha = tf.cast(square[:, :, -1:], tf.float32) / 255
      return scaled(tf.cast(square[:, :, :-1], tf.float32) * alpha + 255 * (1 - alpha))

    # Grey with alpha has two channels, RGB with alpha four. A photo has no alpha and is scaled as
    # uint8: a copy in floats would take four times its memory.
    small = tf.cond(tf.equal(tf.shape(picture)[2] % 2, 0), scaled_on_white, lambda: scaled(square))
    if depth == 1:
      small = tf.image.rgb_to_grayscale(tf.broadcast_to(small, [size, size, 3]))
    return tf.broadcast_to(tf.cast(tf.round(small), tf.uint8), [size, size, depth])

  with tf.name_scope('decode'):
    return tf.map_fn(decode_one, contents, fn_output_signature=tf.uint8)


def _check_export_dir():
  """Checks, before any work, that --export_dir can be made."""
  if FLAGS.export_dir:
    runs.check_directory(FLAGS.export_dir, 'export_dir')
    if os.path.exists(FLAGS.export_dir):
      raise UserError(f'{FLAGS.export_dir} exists already: name a directory to make with '
                      '--export_dir.')


def _export(session, contents, images, probabilities, classes):
  """Writes the SavedModel, with two signatures: for encoded pictures, and for decoded images.

  The second has no strings, so that it converts for phones and browsers. The names of the classes
  are therefore in assets/classes.txt too, a line each. The directory appears when it is whole, or
  not at all.
  """
  names = tf.tile([list(classes)], [tf.shape(contents)[0], 1], name='classes')
  signatures = {
      'serving_default': tf.saved_model.predict_signature_def(
          {'pictures': contents}, {'classes': names, 'probabilities': probabilities}),
      'images': tf.saved_model.predict_signature_def(
          {'images': images}, {'probabilities': probabilities})}
  export_dir = os.path.abspath(FLAGS.export_dir)
  parent = os.path.dirname(export_dir)
  with tf_setup.writing_to(FLAGS.export_dir, 'export_dir'):
    os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='unfinished-', dir=parent) as unfinished:
      model = os.path.join(unfinished, 'model')
      builder = tf.saved_model.Builder(model)
      builder.add_meta_graph_and_variables(session, ['serve'], signatures, clear_devices=True)
      builder.save()
      os.mkdir(os.path.join(model, 'assets'))
      with open(os.path.join(model, 'assets', 'classes.txt'), 'w', encoding='utf-8') as file:
        file.writelines(f'{name}\n' for name in classes)
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
