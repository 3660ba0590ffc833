import io
import struct

import numpy as np
from PIL import Image
import pytest
import tensorflow.compat.v1 as tf

import cifar10_predict
from cifar10_support import pictures
from cifar10_support.console import UserError

RED, GREEN, BLUE, ORANGE = [255, 0, 0], [0, 128, 0], [0, 0, 255], [200, 90, 0]
ORIENTATION = 0x112  # The number of the EXIF tag.

# How a picture lies in the file whose EXIF orientation is the index: the standard says on which
# sides of the scene its first row and its first column are.
STORED = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright),  # First row: the scene's right side.
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


def _noise(width, height, channels=3):
  return np.random.RandomState(0).randint(256, size=[height, width, channels]).astype(np.uint8)


def _smooth(width, height):
  """A colour gradient, which JPEG hardly changes."""
  y, x = np.mgrid[:height, :width]
  return np.stack([y * 255 / height, x * 255 / width, 255 - x * 255 / width], 2).astype(np.uint8)


def _plain(value, dtype=np.uint8):
  return Image.fromarray(np.full([40, 40], value, dtype))


def _palette_picture(colour):
  picture = Image.new('P', (40, 40))
  picture.putpalette(colour)
  return picture


def _encoded(picture, kind='PNG', **options):
  """Returns the contents of a picture file; `picture` is a Pillow image or a uint8 array."""
  if isinstance(picture, np.ndarray):
    picture = Image.fromarray(np.ascontiguousarray(picture))
  file = io.BytesIO()
  picture.save(file, kind, **options)
  return file.getvalue()


def _oriented(orientation):
  exif = Image.Exif()
  exif[ORIENTATION] = orientation
  return exif


def _area_averages(square):
  """Makes each pixel 32x32 of its kind: then every output pixel is the mean of a whole block."""
  side = len(square)
  fine = square.astype(float).repeat(32, axis=0).repeat(32, axis=1)
  return fine.reshape(32, side, 32, side, 3).mean(axis=(1, 3))


def _bmp(bits, pixels, compression=0, masks=(), palette=b'', header=40):
  """A BMP file of 8x8 pixels, with more variants than Pillow writes."""
  masks = struct.pack('<%dI' % len(masks), *masks)
  start = 54 + len(masks) + len(palette)
  return (struct.pack('<2sIHHI', b'BM', start + len(pixels), 0, 0, start)
          + struct.pack('<IiiHHIIiiII', header, 8, 8, 1, bits, compression, len(pixels), 0, 0, 0, 0)
          + masks + palette + pixels)


@pytest.fixture
def load(tmp_path, decode):
  """Loads a picture from its contents, as prediction does: with Pillow, then in the graph."""
  def load_contents(contents):
    path = tmp_path / 'picture'
    path.write_bytes(contents)
    [image] = decode(pictures.load(str(path)))
    return image
  return load_contents


@pytest.fixture
def colour(load):
  """Loads a picture of a single colour and returns that."""
  def colour_of(contents):
    [value] = np.unique(load(contents).reshape(-1, 3), axis=0).tolist()
    return value
  return colour_of


@pytest.fixture(scope='module')
def decode():
  """Decodes a picture from its contents, in a graph."""
  with tf.Graph().as_default(), tf.Session() as session:
    contents = tf.placeholder(tf.string, [None])
    images = cifar10_predict.decode(contents, 32, 3)
    assert (images.dtype, images.shape.as_list()) == (tf.uint8, [None, 32, 32, 3])
    yield lambda *pictures: session.run(images, {contents: pictures})


@pytest.mark.parametrize('kind', ['PNG', 'TIFF', 'WEBP'])
@pytest.mark.parametrize('orientation', STORED)
def test_picture_is_upright_in_every_orientation(orientation, kind, load):
  upright = np.zeros([32, 32, 3], np.uint8)
  upright[:16, :16], upright[:16, 16:], upright[16:, :16] = RED, GREEN, BLUE
  options = {'lossless': True} if kind == 'WEBP' else {}
  image = load(_encoded(STORED[orientation](upright), kind, exif=_oriented(orientation), **options))
  np.testing.assert_array_equal(image, upright)


def test_rotated_photo_is_the_photo(load):
  photo = _smooth(101, 72)
  upright = load(_encoded(photo, 'JPEG', quality=95)).astype(int)
  rotated = load(_encoded(np.rot90(photo), 'JPEG', quality=95, exif=_oriented(6)))
  np.testing.assert_allclose(rotated, upright, atol=3)
  unmarked = load(_encoded(np.rot90(photo), 'JPEG', quality=95))
  assert np.abs(unmarked - upright).max() > 100


def test_damaged_exif_data_does_not_matter(load):
  contents = _encoded(_smooth(32, 32), exif=b'Exif\0\0Me*\0\x08\0\0\0')
  np.testing.assert_array_equal(load(contents), _smooth(32, 32))


# A fifth of the colour on white: 0.2 * 128 + 0.8 * 255 is 230.
@pytest.mark.parametrize('picture, options, expected', [
    (Image.new('RGBA', (40, 40), (0, 128, 0, 51)), {}, [204, 230, 204]),
    (Image.new('LA', (40, 40), (128, 51)), {}, [230, 230, 230]),
    (_palette_picture(GREEN), {'transparency': b'\x33'}, [204, 230, 204]),
    (Image.new('L', (40, 40), 128), {'transparency': 128}, [255, 255, 255]),
    (Image.new('RGB', (40, 40), (0, 128, 0)), {'transparency': (0, 128, 0)}, [255, 255, 255]),
    (_plain(30000, np.uint16), {'transparency': 30000}, [255, 255, 255]),
], ids=['RGBA', 'LA', 'palette', 'a grey', 'a colour', 'a grey of 16 bits'])
def test_transparent_pictures_lie_on_white(picture, options, expected, colour):
  assert colour(_encoded(picture, **options)) == expected


@pytest.mark.parametrize('contents, expected', [
    (_encoded(_plain(30000, np.uint16)), 117),  # 30000 / 257 = 116.7.
    (_encoded(_plain(30000, np.uint16), 'TIFF'), 117),
    (_encoded(_plain(30000, np.int32), 'TIFF'), 117),
    (b'P5 8 8 1000\n' + b'\x01\xf4' * 64, 128),  # A PGM file: 500 of 1000.
    (_encoded(_plain(0.2, np.float32), 'TIFF'), 51),
    (_encoded(_plain(100.4, np.float32), 'TIFF'), 100),
    (_encoded(_plain(30000, np.float32), 'TIFF'), 117),
    (_encoded(_plain(-0.1, np.float32), 'TIFF'), 0),
    (_encoded(_plain(70), 'JPEG'), 70),
    (_encoded(_plain(255).convert('1')), 255),
], ids=['PNG', 'TIFF', 'integers', 'PGM', 'floats to 1', 'floats to 255', 'floats to 65535',
        'negative', 'eight bits', 'one bit'])
def test_grey_of_any_depth_has_three_equal_channels(contents, expected, colour):
  assert colour(contents) == [expected] * 3


@pytest.mark.parametrize('contents, expected', [
    (_encoded(Image.new('CMYK', (40, 40), (0, 255, 255, 0)), 'JPEG'), RED),  # Adobe's, inverted.
    (_encoded(Image.new('CMYK', (40, 40), (0, 255, 255, 0)), 'TIFF'), RED),
    (_encoded(Image.new('YCbCr', (40, 40), (76, 85, 255)), 'TIFF'), RED),
    (_encoded(Image.new('RGB', (40, 40), (200, 90, 0)), 'WEBP', lossless=True), ORANGE),
    (_encoded(Image.new('P', (40, 40)), 'GIF', save_all=True, append_images=[_plain(255)]),
     [0, 0, 0]),  # The first frame.
], ids=['CMYK JPEG', 'CMYK TIFF', 'YCbCr', 'WebP', 'animation'])
def test_colours_are_those_of_the_picture(contents, expected, colour):
  np.testing.assert_allclose(colour(contents), expected, atol=1)


PIXEL = bytes([0, 90, 200])  # Orange as blue, green, red.
PALETTE = bytes(4) + PIXEL + bytes(1) + bytes(254 * 4)
MASKS = [0xff0000, 0xff00, 0xff]


@pytest.mark.parametrize('contents, expected', [
    (_bmp(24, PIXEL * 64), ORANGE),
    (_bmp(32, (PIXEL + b'\0') * 64), ORANGE),
    (_bmp(8, b'\1' * 64, palette=PALETTE), ORANGE),
    (_bmp(8, b'\x08\1\0\0' * 8 + b'\0\1', compression=1, palette=PALETTE), ORANGE),
    (_bmp(4, b'\x11' * 32, palette=PALETTE[:64]), ORANGE),
    (_bmp(16, struct.pack('<H', 31 << 10) * 64), RED),
    (_bmp(32, (PIXEL + b'\0') * 64, compression=3, masks=MASKS), ORANGE),
    (_bmp(32, (PIXEL + b'\x33') * 64, compression=3, masks=MASKS + [0xff000000], header=56),
     [244, 222, 204]),  # A fifth of it on white.
], ids=['24 bits', '32 bits', 'palette', 'run lengths', '4 bits', '16 bits', 'masks', 'alpha'])
def test_bmp_of_every_kind(contents, expected, colour):
  assert colour(contents) == expected


SIZES = [(32, 32), (64, 64), (33, 33), (47, 34), (35, 52), (5, 9), (1, 1)]


@pytest.mark.parametrize('width, height', SIZES)
def test_central_square_is_scaled_by_area(width, height, load, decode):
  pixels = _noise(width, height)
  side = min(width, height)
  left, top = (width - side) // 2, (height - side) // 2
  expected = _area_averages(pixels[top:top + side, left:left + side])
  np.testing.assert_allclose(load(_encoded(pixels)), expected, atol=0.501)
  np.testing.assert_allclose(decode(_encoded(pixels))[0], expected, atol=0.501)


@pytest.mark.parametrize('size', SIZES + [(200, 150)])
def test_graph_decodes_what_pillow_loads(size, load, decode):
  rgb = Image.fromarray(_noise(*size))
  rgba = Image.fromarray(_noise(*size, channels=4))
  palette = rgb.quantize(64)
  contents = {
      'RGB': _encoded(rgb), 'RGBA': _encoded(rgba), 'grey': _encoded(rgb.convert('L')),
      'LA': _encoded(rgba.convert('LA')), 'palette': _encoded(palette),
      'transparent palette': _encoded(palette, transparency=bytes(range(0, 256, 4))),
      '16 bits': _encoded(Image.fromarray(_noise(*size, channels=2).view(np.uint16)[:, :, 0])),
      'JPEG': _encoded(rgb, 'JPEG'), 'fine JPEG': _encoded(rgb, 'JPEG', quality=98, subsampling=0),
      'grey JPEG': _encoded(rgb.convert('L'), 'JPEG'), 'BMP': _encoded(rgb, 'BMP'),
      'GIF': _encoded(palette, 'GIF'),
  }
  for (kind, picture), image in zip(contents.items(), decode(*contents.values())):
    np.testing.assert_allclose(load(picture).astype(int), image, atol=1, err_msg=kind)


def test_graph_lays_alpha_on_white(decode):
  [image] = decode(_encoded(Image.new('RGBA', (40, 40), (0, 128, 0, 51))))
  np.testing.assert_array_equal(image, np.broadcast_to([204, 230, 204], [32, 32, 3]))


@pytest.mark.parametrize('contents', [
    b'', b'a letter', b'<html><img></html>',
    _encoded(_noise(60, 60))[:5000], _encoded(_noise(60, 60), 'JPEG')[:2000],
    _encoded(_noise(60, 60), 'GIF')[:2000], _encoded(_noise(60, 60), 'BMP')[:5000],
    _encoded(_noise(60, 60), 'WEBP')[:2000],
    # libtiff writes about these to the file descriptor of standard error.
    _encoded(_noise(60, 60), 'TIFF', compression='tiff_lzw').replace(b'\x80', b'\x81'),
    _encoded(_noise(60, 60), 'TIFF', compression='jpeg').replace(b'\xff\xda', b'\xff\xdb'),
], ids=['empty', 'text', 'web page', 'PNG', 'JPEG', 'GIF', 'BMP', 'WebP', 'LZW', 'JPEG in TIFF'])
def test_what_is_no_whole_picture_is_one_line_that_names_it(contents, tmp_path, recwarn):
  path = tmp_path / 'mine.png'
  path.write_bytes(contents)
  with pytest.raises(UserError) as error:
    pictures.load(str(path))
  assert str(path) in str(error.value)
  assert '\n' not in str(error.value)
  assert not recwarn.list


def test_what_cannot_be_read_is_named_with_the_reason(tmp_path):
  for path, reason in ((tmp_path, 'directory'), (tmp_path / 'none.png', 'No such file')):
    with pytest.raises(UserError) as error:
      pictures.load(str(path))
    assert str(path) in str(error.value) and reason in str(error.value)


def test_large_pictures_load_in_silence_and_huge_ones_are_refused(tmp_path, monkeypatch, recwarn):
  path = str(tmp_path / 'mine.png')
  Image.new('1', (1500, 1000)).save(path)
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10**6)  # Above this Pillow warns,
  assert Image.open(io.BytesIO(pictures.load(path))).size == (1000, 1000)
  Image.new('1', (1500, 2000)).save(path)  # and above twice this it fails.
  with pytest.raises(UserError) as error:
    pictures.load(path)
  assert path in str(error.value) and ' 2 million ' in str(error.value)
  assert not recwarn.list
