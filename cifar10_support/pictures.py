"""From a picture of any size to a 32x32 image like those of the data set.

There are two ways. `load` reads a file with Pillow, which knows some forty formats and which way up
a phone was held. `decode` does it inside the graph, for a SavedModel, which is served where there
may be no Python at all. Where both can read a picture, they agree to one grey level.
"""

import contextlib
import warnings

import numpy as np
from PIL import Image, ImageOps

from cifar10_support.console import UserError
from cifar10_support.dataset import IMAGE_SIZE

import tensorflow.compat.v1 as tf


def load(path):
  """Reads a picture file: upright, on white, its central square scaled to 32x32 pixels.

  Args:
    path: of a file in any format that Pillow reads. Of an animation, the first frame counts.

  Returns:
    uint8 array of shape [32, 32, 3].

  Raises:
    UserError: the file is missing, damaged, too large, or not a picture.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # Of odd metadata, and of pictures that are merely large.
      with Image.open(path) as picture:
        picture.load()
        with contextlib.suppress(Exception):  # Damaged EXIF data is no reason to refuse a picture.
          ImageOps.exif_transpose(picture, in_place=True)
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
    return _scaled(_in_8_bits(square) if square.mode[0] in 'IF' else square)
  except Image.UnidentifiedImageError as error:
    raise UserError('%s is not a picture in a format that Pillow reads: save it as PNG or JPEG.'
                    % path) from error
  except Image.DecompressionBombError as error:
    raise UserError('%s has more than %d million pixels: scale it down first.'
                    % (path, 2 * Image.MAX_IMAGE_PIXELS // 10**6)) from error
  except Exception as error:  # Damage makes Pillow's decoders raise almost anything.
    if isinstance(error, OSError) and error.strerror:
      raise UserError('Cannot read %s: %s.' % (path, error.strerror)) from error
    raise UserError('Cannot decode %s (%s): save it again, as PNG or JPEG.' % (
        path, ' '.join(str(error).split()) or type(error).__name__)) from error


def _in_8_bits(square):
  """Converts a grey image of 16 bits, or of floats, which Pillow itself would clip at 255."""
  values = np.array(square.convert('F'))
  white = 65535
  if square.mode == 'F':  # The file does not say which of the customary ranges it uses.
    white = next((level for level in (1, 255) if values.max() <= level), white)
  values[values == square.info.get('transparency')] = white
  return Image.fromarray(np.rint(np.clip(values * (255 / white), 0, 255)).astype(np.uint8))


def _scaled(square):
  """Averages over areas like `tf.image.resize_area`; Pillow's BOX filter takes whole pixels."""
  side = square.width
  pixels = np.arange(side)
  edges = np.arange(IMAGE_SIZE + 1)[:, np.newaxis] * side / IMAGE_SIZE
  # The part of each input pixel (columns) that lies in each output pixel (rows).
  overlaps = np.clip(np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels), 0, None)
  weights = overlaps * IMAGE_SIZE / side

  image = np.empty([IMAGE_SIZE, IMAGE_SIZE, 3])
  for i in range(IMAGE_SIZE):  # Row by row: as floats, a whole photo could fill the memory.
    top, bottom = int(edges[i, 0]), int(np.ceil(edges[i + 1, 0]))
    band = np.asarray(square.crop((0, top, side, bottom)).convert('RGBA'), np.float32)
    alpha = band[:, :, 3:] / 255
    on_white = band[:, :, :3] * alpha + 255 * (1 - alpha)
    image[i] = weights @ np.tensordot(weights[i, top:bottom], on_white, 1)
  return np.rint(image).astype(np.uint8)


def decode(contents):
  """Adds to the graph the decoding of pictures, for a SavedModel.

  TensorFlow does less than Pillow. It ignores EXIF orientation, reads BMP right only with 24 bits
  per pixel, and knows transparency only as an alpha channel or in the palette of a PNG; that is
  laid on white.

  Args:
    contents: strings of shape [n], each the contents of a PNG, JPEG, GIF or BMP file.

  Returns:
    uint8 of shape [n, 32, 32, 3].
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
      return tf.image.resize_area(pixels[tf.newaxis], [IMAGE_SIZE, IMAGE_SIZE])[0]

    def scaled_on_white():
      alpha = tf.cast(square[:, :, -1:], tf.float32) / 255
      return scaled(tf.cast(square[:, :, :-1], tf.float32) * alpha + 255 * (1 - alpha))

    # Grey with alpha has two channels, RGB with alpha four. A photo has no alpha and is scaled as
    # uint8: a copy in floats would take four times its memory.
    small = tf.cond(tf.equal(tf.shape(picture)[2] % 2, 0), scaled_on_white, lambda: scaled(square))
    return tf.broadcast_to(tf.cast(tf.round(small), tf.uint8), [IMAGE_SIZE, IMAGE_SIZE, 3])

  with tf.name_scope('decode'):
    return tf.map_fn(decode_one, contents, fn_output_signature=tf.uint8)
