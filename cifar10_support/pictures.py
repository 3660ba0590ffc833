"""From a picture of any size to an image like those of the data set.

The graph decodes and scales, see `decode`: so a SavedModel needs no Python where it is served.
`load` comes before that where there is Python: Pillow reads some forty formats and knows which way
up a phone was held, and hands the graph what it read as PNG.
"""

import contextlib
import io
import warnings

import numpy as np
from PIL import Image, ImageOps
import tensorflow.compat.v1 as tf

from cifar10_support.console import UserError


def load(path):
  """Reads a picture file in any format that Pillow reads; of an animation, the first frame.

  Returns:
    Its central square, upright, as the contents of a PNG file, bytes, for `decode`.

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
        has_alpha = square.has_transparency_data
    if square.mode[0] in 'IF':
      square = _in_8_bits(square)
    png = io.BytesIO()
    square.convert('RGBA' if has_alpha else 'RGB').save(png, 'PNG', compress_level=0)
    return png.getvalue()
  except Image.UnidentifiedImageError as error:
    raise UserError(f'{path} is not a picture in a format that Pillow reads: save it as PNG or '
                    'JPEG.') from error
  except Image.DecompressionBombError as error:
    raise UserError(f'{path} has more than {2 * Image.MAX_IMAGE_PIXELS // 10**6} million pixels: '
                    'scale it down first.') from error
  except Exception as error:  # Damage makes Pillow's decoders raise almost anything.
    if isinstance(error, OSError) and error.strerror:
      raise UserError(f'Cannot read {path}: {error.strerror}.') from error
    reason = ' '.join(str(error).split()) or type(error).__name__
    raise UserError(f'Cannot decode {path} ({reason}): save it again, as PNG or JPEG.') from error


def _in_8_bits(square):
  """Converts a grey image of 16 bits, or of floats, which Pillow itself would clip at 255."""
  values = np.array(square.convert('F'))
  white = 65535
  if square.mode == 'F':  # The file does not say which of the customary ranges it uses.
    white = next((level for level in (1, 255) if values.max() <= level), white)
  values[values == square.info.get('transparency')] = white
  return Image.fromarray(np.rint(np.clip(values * (255 / white), 0, 255)).astype(np.uint8))


def decode(contents, size, depth):
  """Adds to the graph the decoding of pictures, for a SavedModel too.

  By itself TensorFlow does less than `load`. It ignores EXIF orientation, reads BMP right only with
  24 bits per pixel, and knows transparency only as an alpha channel or in the palette of a PNG;
  that is laid on white.

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
