"""The data set on disk: what its files are called, getting it, proving it whole. No graph in here.

CIFAR-10 is 60,000 colour images of 32x32 pixels in ten classes. Its binary version is six files
of 10,000 records. A record is 3,073 bytes: the label (0..9), then the red plane, the green plane
and the blue plane, each row by row (https://www.cs.toronto.edu/~kriz/cifar.html).

Where there is no network, `write_synthetic` makes a stand-in of the same form.
"""

import gzip
import hashlib
import os
import shutil
import tarfile
import zlib

import numpy as np
from six.moves import http_client
from six.moves import urllib

import cifar10_lock
from cifar10_console import Progress
from cifar10_console import UserError

CLASSES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')

IMAGE_SIZE = 32  # Pixels on a side, in the files.
IMAGE_DEPTH = 3
RECORD_BYTES = 1 + IMAGE_DEPTH * IMAGE_SIZE * IMAGE_SIZE

FOLDER = 'cifar-10-batches-bin'
TRAIN_FILES = ['data_batch_%d.bin' % i for i in range(1, 6)]
TEST_FILE = 'test_batch.bin'
_NAMES = {'train_eval': TRAIN_FILES, 'test': [TEST_FILE]}
CLASSES_FILE = 'batches.meta.txt'
RECORDS_PER_FILE = 10000

DATA_URL = 'https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz'
# Of the file whose MD5 that page gives as c32a1d4ab5d03f1284b67883e8d87530.
ARCHIVE_SHA256 = 'c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd'
# All that the archive holds, in `FOLDER`: the names of the files, and their sizes in bytes.
ARCHIVE_SIZES = {name: RECORDS_PER_FILE * RECORD_BYTES for name in TRAIN_FILES + [TEST_FILE]}
ARCHIVE_SIZES.update({CLASSES_FILE: 61, 'readme.html': 88})

# CIFAR-100 is easily taken for CIFAR-10. Its records begin with two labels.
CIFAR100_FILES = ('train.bin', 'test.bin')
_CIFAR100_RECORD_BYTES = 1 + RECORD_BYTES

# In the folder that receives the data set, until it is whole.
UNFINISHED = '.unfinished'

_STALLED_SECS = 30  # A connection that is silent for so long is given up.

# More than the archive needs, and little enough to stop what would never end.
_SPARE_BYTES = 1 << 20

_RECORDS_PER_READ = 1000

_TEXT = bytes(range(0x20, 0x7f)) + b'\t\n\r'


def locate(data_dir):
  """Finds the folder with the `.bin` files: `FOLDER` inside `data_dir`, or `data_dir` itself.

  Args:
    data_dir: path of a folder; it need not exist.

  Returns:
    The path, or None where neither holds the data set.
  """
  for folder in (os.path.join(data_dir, FOLDER), data_dir):
    if any(os.path.exists(os.path.join(folder, name)) for name in TRAIN_FILES + [TEST_FILE]):
      return folder
  return None


def files(folder, eval_data):
  """Lists the paths of one part of the data set, each proved to have whole records.

  Args:
    folder: path of the folder that holds the `.bin` files.
    eval_data: 'test' for the test images, 'train_eval' for the training images.

  Returns:
    A list of paths, in the order of the data set.

  Raises:
    UserError: a file is missing, cannot be read, is not made of whole records with labels 0..9, or
      lacks some of its records.
  """
  paths = [os.path.join(folder, name) for name in _NAMES[eval_data]]
  for path in paths:
    _verify(path)
  _verify_sizes(folder, paths)
  return paths


def verify(folder):
  """Proves the whole data set, see `files`."""
  for eval_data in _NAMES:
    files(folder, eval_data)


def count(folder, eval_data):
  """Returns the number of images in one part of the data set, told from the sizes of its files.

  Args:
    folder: path of the folder that holds the `.bin` files; those that are missing count nothing.
    eval_data: 'test' for the test images, 'train_eval' for the training images.
  """
  paths = [os.path.join(folder, name) for name in _NAMES[eval_data]]
  return sum(os.path.getsize(path) // RECORD_BYTES for path in paths if os.path.exists(path))


def read_images(folder, eval_data, indices):
  """Reads some of the images, without a graph.

  Args:
    folder: path of the folder that holds the `.bin` files.
    eval_data: 'test' for the test images, 'train_eval' for the training images.
    indices: of the images, counted from 0 in the order of the files.

  Returns:
    uint8 of shape [len(indices), 32, 32, 3].
  """
  paths = [os.path.join(folder, name) for name in _NAMES[eval_data]]
  # The index of each file's first image.
  firsts = np.cumsum([0] + [os.path.getsize(path) // RECORD_BYTES for path in paths[:-1]])
  planes = []
  for index in indices:
    i = np.searchsorted(firsts, index, side='right') - 1
    planes.append(np.fromfile(paths[i], np.uint8, RECORD_BYTES - 1,
                              offset=(index - firsts[i]) * RECORD_BYTES + 1))
  return np.reshape(planes, [-1, IMAGE_DEPTH, IMAGE_SIZE, IMAGE_SIZE]).transpose(0, 2, 3, 1)


def classes(folder):
  """Returns the names of the ten classes, a tuple: what the data set is of.

  Args:
    folder: path of the folder that holds the `.bin` files. Without a `batches.meta.txt`, which
      has a name a line, they are taken for CIFAR-10's own.

  Raises:
    UserError: that file cannot be read, or does not name ten classes.
  """
  path = os.path.join(folder, CLASSES_FILE)
  if not os.path.exists(path):
    return CLASSES
  try:
    with open(path, errors='replace') as lines:
      names = tuple(line.strip() for line in lines if line.strip())
  except OSError as error:
    raise _unreadable(path, error) from error
  if len(names) != len(CLASSES):
    raise UserError('%s names %d classes, not %d: put the data set\'s own file there, or remove it '
                    'if the images are CIFAR-10\'s.' % (path, len(names), len(CLASSES)))
  return names


def _verify(path):
  if not os.path.exists(path):
    raise UserError('%s is missing: put the data set\'s own file there, or name the folder of a '
                    'whole one with --data_dir.' % path)
  if not os.path.isfile(path):
    raise UserError('%s is not a file: put the data set\'s own in its place.' % path)
  try:
    with open(path, 'rb') as records:
      _verify_records(path, records)
  except OSError as error:
    raise _unreadable(path, error) from error


def _unreadable(path, error):
  return UserError('%s cannot be read (%s): make it readable, or put the data set\'s own file in '
                   'its place.' % (path, error.strerror))


def _verify_records(path, records):
  size = os.fstat(records.fileno()).st_size
  if size == 0:
    raise UserError('%s is empty: put the data set\'s own file in its place.' % path)
  # A saved web page, say. No record begins with such a label.
  head = records.peek(RECORD_BYTES)[:RECORD_BYTES]
  if head[0] >= len(CLASSES) and not head.translate(None, _TEXT):
    raise UserError('%s is a text file: put the data set\'s own file in its place.' % path)
  if size % RECORD_BYTES and size % _CIFAR100_RECORD_BYTES == 0:
    raise UserError('%s has records of %d bytes, which are CIFAR-100\'s: put the file of '
                    'CIFAR-10\'s binary version in its place.' % (path, _CIFAR100_RECORD_BYTES))
  if size % RECORD_BYTES:
    raise UserError('%s has %d bytes, which is no multiple of a record\'s %d: it is cut off, or '
                    'not in CIFAR-10\'s binary format.' % (path, size, RECORD_BYTES))
  # Read, not mapped: where a disk fails, a map ends the process without a word.
  for first in range(0, size // RECORD_BYTES, _RECORDS_PER_READ):
    values = np.frombuffer(records.read(_RECORDS_PER_READ * RECORD_BYTES), np.uint8)
    labels = values[::RECORD_BYTES]
    wrong = np.flatnonzero(labels >= len(CLASSES))
    if wrong.size:
      raise UserError('%s has label %d in record %d, above %d: it is damaged, or not in '
                      'CIFAR-10\'s binary format.'
                      % (path, labels[wrong[0]], first + wrong[0], len(CLASSES) - 1))


def _verify_sizes(folder, paths):
  """Proves that no file is cut off between two records.

  That shows if the set is CIFAR-10 or the stand-in, and another file has its full length: a small
  set made for a test, or a set of other images, has files of any length.
  """
  every = [os.path.join(folder, name) for name in TRAIN_FILES + [TEST_FILE]]
  counts = {path: os.path.getsize(path) / RECORD_BYTES for path in every if os.path.isfile(path)}
  if RECORDS_PER_FILE not in counts.values():
    return
  for path in paths:
    if counts[path] != RECORDS_PER_FILE and classes(folder) in (CLASSES, SYNTHETIC_CLASSES):
      raise UserError('%s has %d records, not %d: put the data set\'s own file in its place.'
                      % (path, counts[path], RECORDS_PER_FILE))


def download_and_extract(data_dir, url=DATA_URL):
  """Fetches the official archive into `data_dir` and unpacks it.

  Nothing is believed before its SHA-256 is right, and the folder appears under its name only when
  it is complete: an interruption at any moment leaves nothing that a later start would trust.

  Args:
    data_dir: path of a folder, made if it does not exist.
    url: where the archive is: its own place, a mirror, or `file://` and a path.

  Raises:
    UserError: the archive cannot be fetched or written, or is not the official one.
  """
  def fill(folder):
    archive = os.path.join(folder, 'archive.tar.gz')
    _download(url, archive)
    _extract(archive, folder)
    os.remove(archive)

  make(data_dir, fill)


def _download(url, path):
  print('Fetching CIFAR-10 (170 MB) from %s' % url)
  digest = hashlib.sha256()
  size = 0
  with open(path, 'wb') as archive:
    for block in _blocks(url):
      archive.write(block)
      digest.update(block)
      size += len(block)
      # What goes on for ever would fill the disk. The archive is smaller than what it holds.
      if size > sum(ARCHIVE_SIZES.values()) + _SPARE_BYTES:
        break
  if digest.hexdigest() != ARCHIVE_SHA256:
    raise UserError('What %s sent is not the official archive (%d bytes, SHA-256 %s): try again '
                    'later, name another source with --data_url, or unpack a good copy and name '
                    'its folder with --data_dir.' % (url, size, digest.hexdigest()))


def _blocks(url):
  """Yields what is at `url` block by block, and shows the progress."""
  try:
    with urllib.request.urlopen(url, timeout=_STALLED_SECS) as response:
      length = response.headers.get('Content-Length')
      length = length and int(length)
      done = 0
      with Progress('Downloading', length, 'MB', scale=10**6) as progress:
        while True:
          block = response.read(1 << 16)
          if not block:
            break
          done += len(block)
          progress.update(done)
          yield block
      if length and done < length:
        raise EOFError('it ended after %d of %d bytes' % (done, length))
  # A ValueError is a malformed address or header.
  except (OSError, EOFError, ValueError, http_client.HTTPException) as error:
    raise UserError('Fetching %s failed (%s): try again later, name another source with '
                    '--data_url or a folder that has the data set with --data_dir, or start with '
                    '--synthetic, which needs no network.'
                    % (url, error or type(error).__name__)) from error


def _extract(archive, folder):
  """Unpacks the files of `ARCHIVE_SIZES`, and refuses an archive that holds anything else."""
  missing = {'%s/%s' % (FOLDER, name): name for name in ARCHIVE_SIZES}
  try:
    with tarfile.open(archive, 'r:gz') as tar:
      for member in tar:
        if member.isdir() and member.name == FOLDER:
          continue
        if member.name not in missing or member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
          raise tarfile.ReadError('%r is none of its files' % member.name)
        name = missing.pop(member.name)
        if member.size != ARCHIVE_SIZES[name]:
          raise tarfile.ReadError('%s has %d bytes, not %d'
                                  % (member.name, member.size, ARCHIVE_SIZES[name]))
        with tar.extractfile(member) as contents:
          with open(os.path.join(folder, name), 'wb') as extracted:
            shutil.copyfileobj(contents, extracted)
    if missing:
      raise tarfile.ReadError('%s is missing' % min(missing))
  # tarfile does not wrap all that it meets.
  except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
    raise UserError('The archive is not that of the data set (%s): name another source with '
                    '--data_url, or a folder that has the data set with --data_dir.'
                    % error) from error


def write_synthetic(data_dir, records_per_file=RECORDS_PER_FILE):
  """Generates a stand-in for CIFAR-10, the same on every machine, in its binary format.

  An image shows one of five shapes in a warm or a cool colour: ten classes. Where the shape is,
  how large, on what background and under how much noise is random, so neither the mean colour nor
  any single pixel tells the class.

  Args:
    data_dir: path of a folder, made if it does not exist.
    records_per_file: how many images each of the six files gets; a multiple of ten makes the
      classes equally frequent.

  Raises:
    UserError: the files cannot be written.
  """
  def fill(folder):
    names = TRAIN_FILES + [TEST_FILE]
    with Progress('Generating', len(names) * records_per_file, 'images') as progress:
      for i, name in enumerate(names):
        # RandomState's streams are frozen for all versions of numpy; default_rng's are not.
        random = np.random.RandomState(seed=i)
        labels = random.permutation(records_per_file) % 10
        with open(os.path.join(folder, name), 'wb') as out:
          for start in range(0, records_per_file, 1000):
            chunk = labels[start:start + 1000]
            out.write(_synthetic_records(chunk, random).tobytes())
            progress.update(i * records_per_file + start + len(chunk))
    with open(os.path.join(folder, CLASSES_FILE), 'w') as out:
      out.write(''.join('%s\n' % name for name in SYNTHETIC_CLASSES))

  make(data_dir, fill)


# Each tells from the coordinates whether a point lies inside; the shapes fill about [-1, 1].
_SHAPES = {
    'disc': lambda x, y: x * x + y * y < 1,
    'square': lambda x, y: np.maximum(abs(x), abs(y)) < 0.85,
    'triangle': lambda x, y: (y < 0.8) & (y > 2 * abs(x) - 1),
    'cross': lambda x, y: (np.minimum(abs(x), abs(y)) < 0.3) & (np.maximum(abs(x), abs(y)) < 1),
    'ring': lambda x, y: (x * x + y * y < 1) & (x * x + y * y > 0.35),
}

SYNTHETIC_CLASSES = tuple('%s %s' % (colour, shape)
                          for colour in ('warm', 'cool') for shape in _SHAPES)


def _synthetic_records(labels, random):
  """Draws one record for each label: uint8, shape [len(labels), RECORD_BYTES].

  Only sums, products and comparisons, which round alike on every processor.
  """
  n = len(labels)

  def uniform(low, high, *shape):
    return random.uniform(low, high, (n,) + shape).astype(np.float32)

  # Centres within 4 pixels of the middle and radii up to 8 survive the 24x24 crops, mostly.
  radius, aspect = uniform(5, 8, 1, 1), uniform(0.8, 1.25, 1, 1)
  grid = np.arange(IMAGE_SIZE, dtype=np.float32)
  x = (grid - uniform(12, 20, 1, 1)) / (radius * aspect)
  y = (grid[:, np.newaxis] - uniform(12, 20, 1, 1)) / (radius / aspect)
  inside = np.empty([n, IMAGE_SIZE, IMAGE_SIZE], bool)
  for i, shape in enumerate(_SHAPES.values()):
    chosen = labels % len(_SHAPES) == i
    inside[chosen] = shape(x[chosen], y[chosen])

  # Warm paint has more red than blue. The background leans either way, whatever the paint.
  paint = np.concatenate([uniform(120, 230, 1, 1, 1), uniform(40, 160, 1, 1, 1),
                          uniform(20, 110, 1, 1, 1)], axis=1)
  cool = labels >= len(_SHAPES)
  paint[cool] = paint[cool, ::-1]
  slope = (grid - IMAGE_SIZE / 2) / IMAGE_SIZE
  background = (uniform(40, 200, IMAGE_DEPTH, 1, 1) + uniform(-60, 60, IMAGE_DEPTH, 1, 1) * slope
                + uniform(-60, 60, IMAGE_DEPTH, 1, 1) * slope[:, np.newaxis])
  noise = random.randint(0, 256, (n, IMAGE_DEPTH, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
  pixels = (np.where(inside[:, np.newaxis], paint, background)
            + (noise.astype(np.float32) - 127.5) * uniform(0.2, 0.8, 1, 1, 1))

  records = np.empty([n, RECORD_BYTES], np.uint8)
  records[:, 0] = labels
  records[:, 1:] = np.clip(pixels, 0, 255).reshape(n, -1)
  return records


def make(data_dir, fill):
  """Makes `FOLDER` in a folder: it appears when it is whole, or not at all.

  Of several processes at once one does it, and the others wait for that. What is there stays.

  Args:
    data_dir: path of the folder, made if it does not exist.
    fill: a function that writes the files into the folder whose path it gets.

  Raises:
    UserError: it cannot be written.
  """
  try:
    os.makedirs(data_dir, exist_ok=True)
    with cifar10_lock.locked(data_dir, when_busy=lambda: print(
        'Another process is making the data set in %s: waiting for it.' % data_dir)):
      if locate(data_dir):
        return
      folder = os.path.join(data_dir, FOLDER)
      if os.path.exists(folder):
        raise UserError('%s is there, but without a data set: remove it.' % folder)
      unfinished = os.path.join(data_dir, UNFINISHED)
      # A process that was killed left it: we have the lock, so nobody works there.
      shutil.rmtree(unfinished, ignore_errors=True)
      os.mkdir(unfinished)
      try:
        fill(unfinished)
        cifar10_lock.publish(unfinished, folder)
      finally:
        shutil.rmtree(unfinished, ignore_errors=True)
  except OSError as error:
    raise UserError('Cannot make the data set in %s (%s): it takes 350 MB there, and the right to '
                    'write.' % (data_dir, error.strerror)) from error
