"""Makes a data set of your own pictures, in a folder with a folder for each class. It also takes
CIFAR-100, SVHN and .npz files. Train and evaluate on it with the same --data_dir.

  python cifar10_convert.py my_pictures --data_dir=my_data

In the place of my_pictures there may be

  - a folder with a folder for each class, which may have more folders in it. If the folders at the
    top are train, test, and val or validation, the classes are in these, and these are the parts;
  - cifar-100-binary.tar.gz, or the folder in it;
  - a folder with SVHN's cropped digits, train_32x32.mat and test_32x32.mat;
  - an .npz file with x_train, y_train, x_test, y_test, or with train_images, train_labels,
    val_images, val_labels, test_images, test_labels: the images uint8 of shape [n, height, width]
    or [n, height, width, 3], the labels integers from 0.

A part that is missing is split off the images for training, class by class. An image is the central
square of a picture, scaled by area averaging, as cifar10_predict.py scales. If all are grey, the
data set has one channel. Memory holds a few pictures at a time, but arrays as a whole.
"""

import collections
from concurrent import futures
import contextlib
import hashlib
import json
import os
import tarfile
import warnings

from absl import flags
import numpy as np
from PIL import Image

from cifar10_support import console
from cifar10_support import dataset
from cifar10_support import files
from cifar10_support import pictures
from cifar10_support.console import UserError

FLAGS = flags.FLAGS

FILES = {'train': dataset.TRAIN_FILES, 'validation': [dataset.VALIDATION_FILE],
         'test': [dataset.TEST_FILE]}
FOLDERS = {'train': 'train', 'val': 'validation', 'valid': 'validation',
           'validation': 'validation', 'test': 'test'}
PASSED_OVER = {'thumbs.db', 'ehthumbs.db', 'desktop.ini', '__macosx', '@eadir'}
CIFAR_100 = 'cifar-100-binary'
SVHN = {'train': 'train_32x32.mat', 'test': 'test_32x32.mat'}

# What to convert: the names of the classes; an iterator of (part, label, image), where an image is
# uint8 of shape [1 or 3, side, side], or a `UserError`; and the number of files, if it is pictures.
Source = collections.namedtuple('Source', 'classes images num_files', defaults=[None])

# What is known of an image whose pixels are in a file: `first` is the first with the same pixels.
Stored = collections.namedtuple('Stored', 'part label first size')


def convert(path, data_dir, image_size=32, test_fraction=0.2, validation_fraction=0.0, seed=0,
            labels='fine'):
  """Makes a data set of what is at a path. The arguments are the script's flags.

  Returns:
    The names of the classes; and for each part a list, how many images of each class it has.

  Raises:
    UserError: that is not possible, or there is a data set in `data_dir`.
  """
  exists = UserError(f'{data_dir} holds a data set: name another directory with --data_dir.')
  if dataset.locate(data_dir):
    raise exists
  source, counts = open_source(path, image_size, labels), {}
  if not 2 <= len(source.classes) <= 256:
    raise UserError(f'{path} has {len(source.classes)} class(es), {_some(source.classes)}. A data '
                    'set has 2 to 256, each in a folder of its own.')

  def fill(unfinished):
    folder = os.path.join(unfinished, dataset.FOLDER)
    os.mkdir(folder)
    with open(os.path.join(unfinished, 'pixels'), 'w+b') as pixels:
      images = _collect(source, pixels)
      parts = _split(images, {'test': test_fraction, 'validation': validation_fraction}, seed,
                     drops_copies=source.num_files is not None)
      for part in FILES:
        labels_there = [image.label for image, own in zip(images, parts) if own == part]
        counts[part] = np.bincount(labels_there, minlength=len(source.classes)).tolist()
      empty = [name for name, count in zip(source.classes, counts['train']) if not count]
      if empty:
        raise UserError(f'{path} has no image to train on in {_some(empty)}.')
      channels = max(image.size for image in images) // image_size**2
      _write(folder, images, parts, pixels, channels * image_size**2, seed)
    files.write(os.path.join(folder, dataset.DESCRIPTION), json.dumps({
        'side': image_size, 'channels': channels, 'classes': source.classes,
        'images': {part: sum(counts[part]) for part in FILES}, 'source': _text(path),
        'flags': {'image_size': image_size, 'test_fraction': test_fraction,
                  'validation_fraction': validation_fraction, 'seed': seed, 'labels': labels},
    }, indent=2, ensure_ascii=False))

  dataset.make(data_dir, fill)
  if not counts:  # Another process was first, and this one waited for it.
    raise exists
  return source.classes, counts


# What there is to convert.


def open_source(path, side, labels):
  """Finds out what is at a path; returns it as a `Source`, or raises a `UserError`."""
  if os.path.isdir(path):
    if any(os.path.exists(os.path.join(path, name)) for name in SVHN.values()):
      return _svhn(path, side)
    if dataset.locate(path):
      raise UserError(f'{path} has the format of CIFAR-10 already: --data_dir={path} is enough.')
    for folder in (path, os.path.join(path, CIFAR_100)):
      if os.path.exists(os.path.join(folder, 'train.bin')):
        return _cifar_100(path, side, labels, lambda name: open(os.path.join(folder, name), 'rb'))
    return _folder(path, side)
  if not os.path.exists(path):
    raise UserError(f'{path} does not exist.')
  if path.endswith('.npz'):
    return _npz(path, side)
  if os.path.basename(path) == dataset.ARCHIVE:
    raise UserError(f'{path} needs no conversion: move it into the directory --data_dir.')
  if not path.endswith('.tar.gz'):
    raise UserError(f'{path} is neither a folder, nor an .npz file, nor {CIFAR_100}.tar.gz.')
  return _cifar_100(path, side, labels, lambda name: tarfile.open(path).extractfile(
      f'{CIFAR_100}/{name}'))


def _folder(path, side):
  tops = _folders(path)
  parts = {top: FOLDERS[top.lower()] for top in tops
           if top.lower() in FOLDERS and _folders(os.path.join(path, top))}
  if parts and (len(parts) < len(tops) or 'train' not in parts.values()):
    raise UserError(f'{path} has the folders {_some(tops)}. If these are the parts of a data set, '
                    'only train, val and test may be there, each with a folder for each class.')
  places = [(part, os.path.join(path, top)) for top, part in parts.items()] or [('train', path)]
  names = sorted({name for _, place in places for name in _folders(place)})
  if not names:
    raise UserError(f"{path} has {_some(_names(path)) or 'nothing'}, and no folder for each class.")
  paths = [(part, names.index(name), file) for part, place in places for name in _folders(place)
           for file in _files(os.path.join(place, name), [os.path.realpath(path)])]

  def images():
    # Threads are as fast as processes here: Pillow releases Python's lock while it decodes.
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
      at_once = 32 * os.cpu_count()  # Not all: there may be a million.
      for start in range(0, len(paths), at_once):
        yield from pool.map(lambda item: (*item[:2], _decoded(item[2], side)),
                            paths[start:start + at_once])

  return Source([_text(name) for name in names], images(), len(paths))


def _names(folder):
  """Returns the names in a folder, sorted, without hidden files and what file managers leave."""
  return sorted(name for name in os.listdir(folder)
                if name[0] != '.' and name.lower() not in PASSED_OVER)


def _folders(folder):
  return [name for name in _names(folder) if os.path.isdir(os.path.join(folder, name))]


def _files(path, above):
  """Yields the paths of all files below a folder; `above` are the real paths of those above it."""
  if os.path.isdir(path):
    real = os.path.realpath(path)
    for name in _names(path) if real not in above else ():  # A link may lead back.
      yield from _files(os.path.join(path, name), [*above, real])
  elif os.path.isfile(path) or os.path.islink(path):  # Not a pipe, in which nothing may ever come.
    yield path


def _decoded(path, side):
  """Returns a picture as uint8 of shape [1 or 3, side, side], or a `UserError`."""
  try:
    square = pictures.central_square(path, at_least=8 * side)
  except UserError as error:
    return error
  mode = square.mode.removesuffix('A')
  if mode != square.mode:  # What is transparent lies on white.
    white = Image.new('RGBA', square.size, 'white')
    square = Image.alpha_composite(white, square.convert('RGBA')).convert(mode)
  factor = max(1, square.width // (8 * side))
  return _scaled(np.asarray(square.reduce(factor)), square.width / factor, side)


def _scaled(square, width, side):
  """Scales by area averaging: uint8 of shape [n, n] or [n, n, channels] to [channels, side, side].

  `width`, which need not be an integer, is how many of the n pixels count.
  """
  planes = np.atleast_3d(square).transpose(2, 0, 1)
  if width == side:
    return planes
  edges = np.linspace(0, width, side + 1)
  whole = np.minimum(edges.astype(int), planes.shape[1] - 1)  # Pixels to the left of each edge.
  for _ in range(2):  # Along the rows; then these are the columns.
    # Sums, not a product of matrices: in several threads at once BLAS is ten times slower.
    sums = np.cumsum(planes, axis=2, dtype=np.float32) - planes
    planes = np.diff(sums[..., whole] + (edges - whole) * planes[..., whole]).transpose(0, 2, 1)
  return np.rint(planes * (side / width)**2).astype(np.uint8)


def _npz(path, side):
  remedy = '--help says what it must have.'
  with _explained(path, remedy):
    arrays = np.load(path, allow_pickle=False)
    names = {FOLDERS[part]: pair for part in ('train', 'val', 'test')
             for pair in ((f'x_{part}', f'y_{part}'), (f'{part}_images', f'{part}_labels'))
             if pair[0] in arrays}
    if 'train' not in names:
      raise ValueError(f'it has {_some(arrays.files)}')
    labels = {part: arrays[y].reshape(len(arrays[y]), -1) for part, (_, y) in names.items()}
    for part, values in labels.items():
      if values.dtype.kind not in 'iu' or values.shape[1] != 1 or not 0 <= values.min() <= (
          values.max()) < 256:
        raise ValueError(f'{names[part][1]} is not an integer from 0 to 255 for each image')
  number = int(max(values.max() for values in labels.values())) + 1
  return Source([f'class {i}' for i in range(number)], _images(
      dict.fromkeys(names, path), remedy, side,
      lambda part: (arrays[names[part][0]], labels[part][:, 0])))


def _cifar_100(path, side, labels, open_file):
  """`open_file` opens a file of the data set by its name."""
  remedy = ('It should be the binary version of CIFAR-100: download it again from '
            'https://www.cs.toronto.edu/~kriz/cifar.html.')
  with _explained(path, remedy):
    classes = open_file(f'{labels}_label_names.txt').read().decode().split()

  def load(part):
    # A record is the coarse label, the fine label, and the pixels, plane by plane.
    records = np.frombuffer(open_file(f'{part}.bin').read(), np.uint8).reshape(-1, 3074)
    column = records[:, ['coarse', 'fine'].index(labels)]
    if column.max() >= len(classes):
      raise ValueError(f'label {column.max()} in {part}.bin')
    return records[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), column

  return Source(classes, _images(dict.fromkeys(['train', 'test'], path), remedy, side, load))


def _svhn(path, side):
  paths = {part: os.path.join(path, name) for part, name in SVHN.items()}

  def load(part):
    try:
      import scipy.io
    except ImportError as error:
      raise UserError("Reading .mat files takes scipy: pip install -e '.[svhn]', or pip install "
                      'scipy.') from error
    with open(paths[part], 'rb') as mat:
      variables = scipy.io.loadmat(mat, variable_names=['X', 'y'])
    # `X` is of shape [32, 32, 3, n]. `y`, of shape [n, 1], has 10 for the digit 0.
    images, digits = variables['X'].transpose(3, 0, 1, 2), variables['y'][:, 0]
    if images.shape[1:] != (32, 32, 3) or not np.isin(digits, range(1, 11)).all():
      raise ValueError('X has another shape, or y other numbers')
    return images, digits.astype(np.uint8) % 10

  remedy = 'Download it from http://ufldl.stanford.edu/housenumbers/.'
  return Source(list('0123456789'), _images(paths, remedy, side, load))


def _images(paths, remedy, side, load):
  """Yields the images of the parts in `paths`; `load` returns those of a part, and the labels."""
  for part, path in paths.items():
    with _explained(path, remedy):
      images, labels = load(part)
      if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] not in (
          (), (1,), (3,)) or len(images) != len(labels):
        raise ValueError(f'images for {part} are {images.dtype} of shape {images.shape}, with '
                         f'{len(labels)} labels')
    size = min(images.shape[1:3])
    top, left = ((length - size) // 2 for length in images.shape[1:3])
    for image, label in zip(images[:, top:top + size, left:left + size], labels.tolist()):
      yield part, label, _scaled(image, size, side)


@contextlib.contextmanager
def _explained(path, remedy):
  """Makes a `UserError` of what reading a file raises: if it is damaged, that may be anything."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    reason = getattr(error, 'strerror', None) or error or type(error).__name__
    raise UserError(f'{path} cannot be read ({reason}). {remedy}') from error


# The images on the way.


def _collect(source, pixels):
  """Writes the pixels of all images to a file; returns a list with a `Stored` for each."""
  images, firsts = [], {}
  for part, label, image in console.progress('Converting', source.num_files, 'images',
                                             iterable=source.images):
    if isinstance(image, UserError):
      console.complain(image)
    else:
      pixels.write(image.tobytes())
      in_colour = np.broadcast_to(image, [3, *image.shape[1:]]).tobytes()
      first = firsts.setdefault(hashlib.sha256(in_colour).digest(), len(images))
      images.append(Stored(part, label, first, image.size))
  return images


def _split(images, fractions, seed, drops_copies):
  """Returns the part of each image, and says what it did with copies.

  A part without images gets its fraction of those for training, class by class. Copies of an image
  get the same part; if they are in several classes, training. Where copies come in several parts
  and it `drops_copies`, only those for testing, or else for validation, stay; others get None.
  """
  parts, groups, of_class = [image.part for image in images], {}, {}
  missing = [part for part in fractions if part not in parts]
  for i, image in enumerate(images):
    groups.setdefault(image.first, []).append(i)
  ambiguous, leaked = 0, []
  for group in groups.values():
    part = max((parts[i] for i in group), key=list(FILES).index)
    leaked += [i for i in group if parts[i] != part]
    labels = {images[i].label for i in group}
    ambiguous += len(labels) > 1
    if part == 'train' and len(labels) == 1:
      of_class.setdefault(labels.pop(), []).append(group)
  for i in leaked if drops_copies else ():
    parts[i] = None

  random = np.random.RandomState(seed)
  for _, candidates in sorted(of_class.items()):
    random.shuffle(candidates)
    number = sum(map(len, candidates))
    for part in missing:
      quota = int(number * fractions[part] + 0.5)
      while len(candidates) > 1 and len(candidates[-1]) <= quota:
        quota -= len(candidates[-1])
        for i in candidates.pop():
          parts[i] = part

  for number, what in [
      (len(images) - len(groups), 'copies of others'),
      (ambiguous, 'in several classes'),
      (len(leaked), 'also in a part for evaluation, and ' + (
          'left out of training' if drops_copies else 'used for both, as they were published'))]:
    if number:
      print(f'Images that are {what}: {number}.')
  return parts


def _write(folder, images, parts, pixels, size, seed):
  """Writes the files of the parts, each part in random order, with `size` pixels in a record."""
  ends = np.cumsum([image.size for image in images])
  random = np.random.RandomState(seed)
  for part, names in FILES.items():
    order = random.permutation([i for i, its in enumerate(parts) if its == part]).astype(int)
    for name, some in zip(names, np.array_split(order, len(names))):
      if not some.size:
        continue
      with open(os.path.join(folder, name), 'wb') as out:
        for i in some:
          pixels.seek(ends[i] - images[i].size)
          planes = pixels.read(images[i].size)
          out.write(bytes([images[i].label]) + planes * (size // len(planes)))


# What it says.


def print_table(classes, counts):
  """Prints how many images of each class are in each part, in at most 79 columns."""
  parts = [part for part in FILES if any(counts[part])]
  rows = [('class', *parts), *zip(classes, *(counts[part] for part in parts)),
          ('all', *(sum(counts[part]) for part in parts))]
  width = min(max(len(name) for name, *_ in rows), 79 - 12 * len(parts))
  for name, *cells in rows:
    name = name if len(name) <= width else f'{name[:width - 3]}...'
    print(f'{name:{width}}' + ''.join(f'{cell:>12}' for cell in cells))


def _some(names):
  """Returns the first three names, and the number of the others."""
  return ', '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')


def _text(name):
  """Returns a file's name as text; bytes that are not UTF-8 as they are written in Python."""
  return os.fsencode(name).decode('utf-8', 'backslashreplace')


def main(arguments):
  if len(arguments) != 1 or not FLAGS.data_dir:
    raise UserError('Name what to convert, and with --data_dir where to: python cifar10_convert.py '
                    'my_pictures --data_dir=my_data')
  warnings.simplefilter('ignore')  # What `pictures` does about them is not for several threads.
  print_table(*convert(arguments[0], FLAGS.data_dir, FLAGS.image_size, FLAGS.test_fraction,
                       FLAGS.validation_fraction, FLAGS.seed, FLAGS.labels))


if __name__ == '__main__':
  # Defined here, because other modules have flags of the same names.
  console.DEFINE_path('data_dir', '', 'Directory for the data set.')
  flags.DEFINE_integer('image_size', 32, 'Width and height in the data set, in pixels.',
                       lower_bound=8, upper_bound=1024)
  flags.DEFINE_float('test_fraction', 0.2, 'Fraction of the images of each class to set aside for '
                     'testing, if none are for that.', lower_bound=0.0, upper_bound=0.9)
  flags.DEFINE_float('validation_fraction', 0.0, 'The same for validation.', lower_bound=0.0,
                     upper_bound=0.9)
  flags.DEFINE_integer('seed', 0, 'Decides which images are set aside, and the order of all.',
                       lower_bound=0, upper_bound=2**32 - 1)
  flags.DEFINE_enum('labels', 'fine', ['fine', 'coarse'], 'Of CIFAR-100: 100 classes, or 20.')
  console.run(main, takes_arguments=True)
