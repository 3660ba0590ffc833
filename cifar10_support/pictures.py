"""Picture files, in some forty formats: Pillow reads them, and knows which way up a phone was."""

import contextlib
import io
import warnings

import numpy as np
from PIL import Image, ImageOps

from cifar10_support.console import UserError


def load(path):
  """Returns the `central_square` as the contents of a PNG file, bytes, for `decode`."""
  png = io.BytesIO()
  central_square(path).save(png, 'PNG', compress_level=0)
  return png.getvalue()


def central_square(path, at_least=None):
  """Reads the central square, upright, of a picture or of the first frame of an animation.

  It is a Pillow image of mode L, LA, RGB or RGBA; a `UserError` if the file cannot be read. If
  `at_least` pixels on a side will do, a large JPEG is decoded at a fraction of its size.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # Of odd metadata, and of pictures that are merely large.
      with Image.open(path) as picture:
        picture.draft(None, at_least and (at_least, at_least))
        picture.load()
        with contextlib.suppress(Exception):  # Damaged EXIF data is no reason to refuse a picture.
          ImageOps.exif_transpose(picture, in_place=True)
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
        alpha = 'A' if square.has_transparency_data else ''
    if square.mode[0] in 'IF':
      square = _in_8_bits(square)
    return square.convert(('L' if square.mode in ('1', 'L', 'LA') else 'RGB') + alpha)
  except Image.UnidentifiedImageError as error:
    raise UserError(f'{path} is not a picture that Pillow reads: save as PNG or JPEG.') from error
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
  # A file of floats does not say which of the customary ranges it uses.
  white = next((level for level in (1, 255) if square.mode == 'F' and values.max() <= level), 65535)
  values[values == square.info.get('transparency')] = white
  return Image.fromarray(np.rint(np.clip(values * (255 / white), 0, 255)).astype(np.uint8))
