"""The data set on disk: what it has, where it is, whether it is whole, and how to get it.

CIFAR-10 has 60,000 colour images of 32x32 pixels in ten classes. Its binary version is six files
of 10,000 records. A record is 3,073 bytes: the label (0 to 9), then the red, the green and the blue
plane, each row by row (https://www.cs.toronto.edu/~kriz/cifar.html).

Another data set in that format, see cifar10_convert.py, has `data_set.json` beside its files, with
its `side`, `channels`, `classes` and the number of `images` in each part. The constants of the
tutorial then take its values, see `follow`.
"""

import collections
import hashlib
import json
import os
import shutil
import tarfile
import textwrap

import numpy as np
from six.moves import http_client
from six.moves import urllib

from cifar10_support import console
from cifar10_support import files
from cifar10_support import synthetic
from cifar10_support.console import UserError

IMAGE_SIZE = 32  # Pixels on a side, in CIFAR-10's files.
IMAGE_DEPTH = 3
RECORD_BYTES = 1 + IMAGE_DEPTH * IMAGE_SIZE * IMAGE_SIZE

# The tutorial's constants as they are for CIFAR-10, and as `follow` has set them last.
CONSTANTS = {'IMAGE_SIZE': 24, 'NUM_CLASSES': 10, 'NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN': 50000,
             'NUM_EXAMPLES_PER_EPOCH_FOR_EVAL': 10000}
_followed = dict(CONSTANTS)

FOLDER = 'cifar-10-batches-bin'
TRAIN_FILES = [f'data_batch_{i}.bin' for i in range(1, 6)]
TEST_FILE = 'test_batch.bin'
VALIDATION_FILE = 'validation_batch.bin'  # CIFAR-10 has none.
# Its last 5,000 training images can stand in: they and the others in that file, by their keys.
_HELD_OUT, _NOT_HELD_OUT = r'\C*data_batch_5\.bin:[5-9]\d{3}', r'\C*:(\d{1,3}|[1-4]\d{3})'

DESCRIPTION = 'data_set.json'
SPLIT = ('seed', 'test_fraction', 'validation_fraction')  # Flags of the conversion.
CLASSES_FILE = 'batches.meta.txt'
CLASSES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')

DATA_URL = 'https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz'
ARCHIVE = 'cifar-10-binary.tar.gz'
# The archive is the one whose MD5 that page gives as c32a1d4ab5d03f1284b67883e8d87530.
ARCHIVE_SHA256 = 'c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd'

STALLED_SECS = 30  # After this long without a byte, a download has failed.


class DataError(UserError, ValueError):
  """The data set is missing, damaged, or cannot be had.

  For a missing file the original raised ValueError, which programs catch.
  """


class DataSet(collections.namedtuple('DataSet', [
    'train_files', 'test_files', 'num_train', 'num_test', 'classes', 'validation_files',
    'num_validation', 'left_out', 'side', 'channels', 'constants', 'split'],
    defaults=[[], 0, {}, IMAGE_SIZE, IMAGE_DEPTH, CONSTANTS, None])):
  """A verified data set: lists of paths, the numbers of images in them, the classes' names.

  `left_out` has, for parts that are not all of their files, a regular expression for the keys of
  the records to skip. `side` and `channels` are those of an image in the files, `constants` what
  the tutorial's are for it, see `follow`. `split` tells conversions of the same pictures apart.
  """

  @property
  def record_bytes(self):
    """Returns the size of a record: the label and the pixels."""
    return 1 + self.channels * self.side * self.side

  def files(self, eval_data):
    """Returns the paths of one part: 'test', 'train_eval' (the training images), 'validation'."""
    paths = getattr(self, f"{eval_data.removesuffix('_eval')}_files")
    if not paths:
      raise DataError(f'The data set has no images for {eval_data}.')
    return paths

  def num_examples(self, eval_data):
    """Returns the number of images in one part, see `files`."""
    return getattr(self, f"num_{eval_data.removesuffix('_eval')}")

  def read_images(self, eval_data, indices):
    """Reads images of a part by their numbers, from 0: uint8 of shape [n, side, side, channels]."""
    paths, size = self.files(eval_data), self.record_bytes
    if eval_data == 'validation' and self.left_out:
      indices = np.add(indices, 5000)
    # The index of each file's first image, and the number of all.
    firsts = np.cumsum([0] + [os.path.getsize(path) // size for path in paths])
    planes = []
    for index in indices:
      i = np.searchsorted(firsts, index, side='right') - 1
      planes.append(np.fromfile(paths[i], np.uint8, size - 1,
                                offset=(index - firsts[i]) * size + 1))
    return np.reshape(planes, [-1, self.channels, self.side, self.side]).transpose(0, 2, 3, 1)

  def check_is_like_cifar10(self):
    """Raises a `DataError` unless it has colour images of 32x32 pixels in ten classes."""
    if (self.side, self.channels, len(self.classes)) != (IMAGE_SIZE, IMAGE_DEPTH, len(CLASSES)):
      raise DataError(f'This program takes colour images of 32x32 pixels in ten classes, not '
                      f'{self.side}x{self.side}x{self.channels} in {len(self.classes)}.')

  def seen_as(self, images):
    """Returns what a run records of its data; `images`, a tensor, is what the network sees."""
    return {'classes': list(self.classes), 'side': self.side,
            'image_shape': images.shape.as_list()[-3:], 'split': self.split}


def follow(constants, *namespaces):
  """Sets a `DataSet`'s constants in modules, given by their `vars`, but for those you changed."""
  for namespace in namespaces:
    for name, value in constants.items():
      if _is_unchanged(name, namespace[name]):
        namespace[name] = value
  _followed.update(constants)


def _is_unchanged(name, value):
  return value in (CONSTANTS[name], _followed[name])


def prepare(data_dir, url, num_classes, hold_out=False):
  """Verifies the data set in a directory; gets it first if there is none.

  It comes from the official archive: a copy that you have put into `data_dir`, or a download from
  `url`; if that is `synthetic.URL`, it is generated.

  Returns:
    A `DataSet`, see `find`. If it cannot be had, that is a `DataError`.
  """
  def fill(folder):
    if url == synthetic.URL:
      synthetic.make_data_set(folder)
      return
    archive = os.path.join(data_dir, ARCHIVE)
    if os.path.isfile(archive):
      print(f'Unpacking {archive}')
      source, remedy = archive, 'Replace it with a good copy, or move it away to download one.'
    else:
      archive = os.path.join(folder, ARCHIVE)
      print(f'Downloading CIFAR-10 (170 MB) from {url}')
      with open(archive, 'wb') as out:
        out.writelines(_download(url))
      source, remedy = url, 'Try again later, or name another source with --data_url.'
    try:
      with open(archive, 'rb') as contents:
        digest = hashlib.sha256(contents.read()).hexdigest()
    except OSError as error:
      raise DataError(f'{archive} cannot be read ({error.strerror}). {remedy}') from error
    if digest != ARCHIVE_SHA256:
      raise DataError(f'{source} is not the whole official archive ({os.path.getsize(archive)} '
                      f'bytes, SHA-256 {digest}). {remedy}')
    with tarfile.open(archive) as tar:
      tar.extractall(folder)

  if not locate(data_dir):
    _check_is_free(data_dir)
    make(data_dir, fill)
  found = find(data_dir, num_classes, hold_out=hold_out)
  train, test = found.num_train + bool(found.left_out) * found.num_validation, found.num_test
  if found.constants == CONSTANTS and (train, test) != (50000, 10000):
    print(f'{locate(data_dir)} has {train} images for training and {test} for testing; CIFAR-10 '
          'has 50000 and 10000.')
  return found


def _check_is_free(data_dir):
  """Raises a `DataError` if a directory holds something else, such as pictures, and no archive."""
  names = sorted(os.listdir(data_dir)) if os.path.isdir(data_dir) else []
  found = ', '.join(name for name in names if name[0] != '.' and name != FOLDER)
  if found and ARCHIVE not in names:
    raise DataError(f'{data_dir} holds no data set, but {textwrap.shorten(found, 50)}: name an '
                    'empty directory with --data_dir, or make a data set of what is there with '
                    f'python cifar10_convert.py {data_dir} --data_dir=NEW.')


def find(data_dir, num_classes, parts=('train_eval', 'test'), hold_out=False):
  """Verifies parts of the data set in a directory; a `DataError` if a file is missing or damaged.

  The part for validation, if there is one, is always verified. If CIFAR-10 has none, and `hold_out`
  or `parts` ask for it, it is the last 5,000 images for training, which then lacks them. In the
  `DataSet` that it returns, any other part is empty. `num_classes` is the constant NUM_CLASSES.
  """
  folder = locate(data_dir) or os.path.join(data_dir, FOLDER)
  asks_for_validation = hold_out or 'validation' in parts
  described = _described(folder, num_classes)
  expected = described or _cifar_10(folder, num_classes, asks_for_validation)
  paths = {'train_eval': expected.train_files if 'train_eval' in parts else [],
           'test': expected.test_files if 'test' in parts else [],
           'validation': expected.validation_files}
  counts = {part: sum(_verify(path, expected) for path in paths[part]) for part in paths}
  for part in paths:
    if described and paths[part] and counts[part] != described.num_examples(part):
      raise _damaged(folder, f'has {counts[part]} images for {part}, but {DESCRIPTION} there says '
                             f'{described.num_examples(part)}')
  if asks_for_validation and counts['validation'] < (10000 if expected.left_out else 1):
    raise DataError(f'{folder} has no images for validation, and only those of CIFAR-10 can be '
                    'held out: cifar10_convert.py sets some aside with --validation_fraction.')
  if expected.left_out:
    counts['validation'], counts['train_eval'] = 5000, max(0, counts['train_eval'] - 5000)
  return expected._replace(
      train_files=paths['train_eval'], num_train=counts['train_eval'],
      test_files=paths['test'], num_test=counts['test'], num_validation=counts['validation'])


def _described(folder, num_classes):
  """Returns what the description in a folder says, a `DataSet` to be verified, or None."""
  path = os.path.join(folder, DESCRIPTION)
  try:
    with open(path, encoding='utf-8-sig') as lines:
      description = json.load(lines)
    side, channels = (description[key] + 0 for key in ('side', 'channels'))
    train, test, validation = (description['images'][part] + 0
                               for part in ('train', 'test', 'validation'))
    classes = description['classes'] + []
    split = {name: description.get('flags', {}).get(name) for name in SPLIT}
    constants = dict(zip(CONSTANTS, [side * 3 // 4, len(classes), train, test]))
  except FileNotFoundError:
    return None
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise _damaged(path, f'is no description of a data set ({error!r})') from error
  if num_classes != len(classes) and not _is_unchanged('NUM_CLASSES', num_classes):
    raise DataError(f'NUM_CLASSES is {num_classes}, but {path} names {len(classes)} classes.')

  part_files = [[os.path.join(folder, name) for name in names[:count]]  # Of a small part fewer.
                for names, count in ((TRAIN_FILES, train), ([TEST_FILE], test),
                                     ([VALIDATION_FILE], validation))]
  return DataSet(part_files[0], part_files[1], train, test, tuple(classes), part_files[2],
                 validation, {}, side, channels, constants, split)


def _cifar_10(folder, num_classes, hold_out):
  """Returns what a folder without a description should have; its numbers of images are open."""
  if _is_unchanged('NUM_CLASSES', num_classes):
    num_classes = CONSTANTS['NUM_CLASSES']
  *train_files, test_file, validation_file = [
      os.path.join(folder, name) for name in TRAIN_FILES + [TEST_FILE, VALIDATION_FILE]]
  validation_files, left_out = [validation_file] * os.path.exists(validation_file), {}
  if hold_out and not validation_files:
    validation_files = train_files[-1:]
    left_out = {'train_eval': _HELD_OUT, 'validation': _NOT_HELD_OUT}
  return DataSet(train_files, [test_file], 0, 0,
                 _class_names(os.path.join(folder, CLASSES_FILE), num_classes),
                 validation_files, 0, left_out)


def of_run(record, num_classes):
  """Returns a `DataSet` without images, like that of a run, whose record `runs.read` returned."""
  record = record or {}
  classes = record.get('classes') or _default_classes(num_classes)
  side = record.get('side', IMAGE_SIZE)
  crop, _, channels = record.get('image_shape', [side * 3 // 4, 0, IMAGE_DEPTH])
  return DataSet([], [], 0, 0, tuple(classes), side=side, channels=channels,
                 constants={'NUM_CLASSES': len(classes), 'IMAGE_SIZE': crop},
                 split=record.get('split'))


def _default_classes(num_classes):
  return CLASSES if num_classes == 10 else tuple(f'class {i}' for i in range(num_classes))


def locate(data_dir):
  """Returns the folder with the `.bin` files, `FOLDER` in `data_dir` or `data_dir`, or None."""
  for folder in (os.path.join(data_dir, FOLDER), data_dir):
    if any(os.path.exists(os.path.join(folder, name)) for name in TRAIN_FILES + [TEST_FILE]):
      return folder
  return None


def make(data_dir, fill):
  """Makes a data set in a directory: it appears whole or not at all.

  If several processes want to, one makes it and the others wait. One that is there stays. `fill`
  makes the folder `FOLDER`, with the files, in a temporary directory whose path it gets.
  """
  try:
    os.makedirs(data_dir, exist_ok=True)
    with files.locked(data_dir, when_busy=lambda: print(
        f'Waiting for another process that is making the data set in {data_dir}')):
      if locate(data_dir):
        return
      folder = os.path.join(data_dir, FOLDER)
      if os.path.exists(folder):
        raise DataError(f'{folder} holds no data set. Move it away, then run the same command '
                        'again.')
      unfinished = os.path.join(data_dir, '.unfinished')
      # What a killed process left: we have the lock, so nobody is at work there.
      shutil.rmtree(unfinished, ignore_errors=True)
      os.mkdir(unfinished)
      try:
        fill(unfinished)
        files.publish(os.path.join(unfinished, FOLDER), folder)
      finally:
        shutil.rmtree(unfinished, ignore_errors=True)
  except OSError as error:
    raise DataError(f'Cannot write the data set to {data_dir} ({error.strerror}). It takes 350 MB '
                    'of free space and write permission there.') from error


def _download(url):
  """Yields what is at a URL, block by block."""
  try:
    with urllib.request.urlopen(url, timeout=STALLED_SECS) as response:
      length = int(response.headers.get('Content-Length', 0)) or None
      with console.progress('Downloading', length, 'B', unit_scale=True) as progress:
        while block := response.read(1 << 16):
          yield block
          progress.update(len(block))
  # A ValueError is a malformed address or header.
  except (OSError, ValueError, http_client.HTTPException) as error:
    raise DataError(f'Downloading {url} failed ({error or type(error).__name__}). Try again '
                    'later, name a copy of the archive with --data_url=file://PATH or a '
                    'directory that has the data set with --data_dir, or start with --synthetic, '
                    'which needs no network.') from error


def _verify(path, data_set):
  """Returns the number of records in a file of a `DataSet`, or raises DataError."""
  if not os.path.isfile(path):
    raise _damaged(path, 'is not a file' if os.path.exists(path) else 'is missing')
  try:
    # Read, not memory-mapped: if the disk fails, a map ends the process without a word.
    with open(path, 'rb') as file:
      contents = file.read()
  except OSError as error:
    raise _damaged(path, f'cannot be read ({error.strerror})') from error
  if not contents:
    raise _damaged(path, 'is empty')
  size, record_bytes = len(contents), data_set.record_bytes
  if size % record_bytes:
    # CIFAR-100, which is easily mistaken for CIFAR-10, has two labels in a record.
    reason = 'from CIFAR-100' if size % (record_bytes + 1) == 0 else 'cut off, or of another format'
    raise _damaged(path, f'has {size} bytes, which is not a multiple of {record_bytes}: it is '
                         f'{reason}')
  labels, num_classes = np.frombuffer(contents, np.uint8)[::record_bytes], len(data_set.classes)
  wrong = np.flatnonzero(labels >= num_classes)
  if wrong.size:
    raise _damaged(path, f'has label {labels[wrong[0]]} in record {wrong[0]}, but labels go from '
                         f'0 to {num_classes - 1}')
  return len(labels)


def _class_names(path, num_classes):
  if not os.path.exists(path):
    return _default_classes(num_classes)
  # Some editors begin a file with a byte-order mark, which utf-8-sig drops.
  with open(path, encoding='utf-8-sig', errors='replace') as lines:
    names = tuple(line.strip() for line in lines if line.strip())
  if len(names) != num_classes:
    raise DataError(f'{path} names {len(names)} classes, not {num_classes}. Write one name a line '
                    'into it, or delete it.')
  return names


def _damaged(path, problem):
  return DataError(f'{path} {problem}. Replace it, move its folder away to get the data set '
                   'again, or name another one with --data_dir.')
