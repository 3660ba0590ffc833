"""Turns SVHN, photographs of the digits of house numbers, into CIFAR-10's binary format.
The other scripts then take --data_dir=svhn.

  python svhn_to_cifar10.py

It reads train_32x32.mat and test_32x32.mat, the cropped digits of
http://ufldl.stanford.edu/housenumbers/.
"""

import os

from absl import flags
import numpy as np

import cifar10_console
import cifar10_dataset
from cifar10_console import Progress
from cifar10_console import UserError

FLAGS = flags.FLAGS

flags.DEFINE_string('mat_dir', '.', 'Folder that holds train_32x32.mat and test_32x32.mat.')
flags.DEFINE_string('output_dir', 'svhn', 'Folder that receives the data set, about 300 MB.')

CLASSES = tuple('0123456789')

_SOURCE = 'http://ufldl.stanford.edu/housenumbers/'

_SIZE, _DEPTH = cifar10_dataset.IMAGE_SIZE, cifar10_dataset.IMAGE_DEPTH


def convert(mat_dir, output_dir):
  """Writes the data set, all of it or nothing.

  Args:
    mat_dir: path of the folder that holds the two `.mat` files.
    output_dir: path of the folder that receives the data set, made if it does not exist.

  Returns:
    The numbers of images for training and for testing.

  Raises:
    UserError: a file is missing or is not SVHN's, or the data set cannot be written.
  """
  if cifar10_dataset.locate(output_dir):
    raise UserError('There is a data set in %s already: name another folder with --output_dir.'
                    % output_dir)
  train, test = (read(os.path.join(mat_dir, name)) for name in ('train_32x32.mat',
                                                                'test_32x32.mat'))
  names = cifar10_dataset.TRAIN_FILES
  parts = list(zip(*(np.array_split(values, len(names)) for values in train))) + [test]
  counts = [len(labels) for _, labels in parts]
  if min(counts) == 0:
    raise UserError('The .mat files in %s have %d and %d images, too few for %d files and one.'
                    % (mat_dir, sum(counts[:-1]), counts[-1], len(names)))

  def fill(folder):
    with Progress('Writing', sum(counts), 'images') as progress:
      for i, (name, (planes, labels)) in enumerate(zip(names + [cifar10_dataset.TEST_FILE], parts)):
        progress.update(sum(counts[:i]))
        records = np.hstack([labels[:, np.newaxis], planes.reshape(len(planes), -1)])
        with open(os.path.join(folder, name), 'wb') as out:
          out.write(records.tobytes())
    with open(os.path.join(folder, cifar10_dataset.CLASSES_FILE), 'w') as out:
      out.write(''.join('%s\n' % name for name in CLASSES))

  cifar10_dataset.make(output_dir, fill)
  return sum(counts[:-1]), counts[-1]


def read(path):
  """Reads one of SVHN's files.

  There `X` is uint8 of shape [32, 32, 3, n], and `y`, of shape [n, 1], has the digits 1 to 9, and
  10 for the digit 0.

  Args:
    path: of the file.

  Returns:
    planes: uint8 of shape [n, 3, 32, 32], the colour planes of each image.
    labels: uint8 of shape [n], 0..9.

  Raises:
    UserError: it is missing or is not such a file, or scipy, which reads it, is missing.
  """
  try:
    import scipy.io
  except ImportError as error:
    raise UserError('scipy is missing, which reads .mat files: install it with '
                    "pip install -e '.[svhn]', or pip install scipy.") from error
  print('Reading %s.' % path)
  try:
    mat = open(path, 'rb')
  except OSError as error:
    raise UserError('%s cannot be read (%s): fetch it from %s, or name the folder that holds it '
                    'with --mat_dir.' % (path, error.strerror, _SOURCE)) from error
  with mat:
    try:
      variables = scipy.io.loadmat(mat, variable_names=['X', 'y'])
    # In a damaged file scipy stumbles over anything.
    except Exception as error:
      raise UserError('%s is damaged, or not a .mat file of MATLAB before 7.3: fetch it again.'
                      % path) from error
  images, labels = (np.asarray(variables.get(name)) for name in ('X', 'y'))
  if images.dtype != np.uint8 or images.shape[:-1] != (_SIZE, _SIZE, _DEPTH):
    raise UserError('%s has no X of uint8 and shape [32, 32, 3, n]: take the file of the cropped '
                    'digits.' % path)
  if labels.dtype.kind not in 'uif' or labels.shape != (images.shape[-1], 1):
    raise UserError('%s has no y of numbers and shape [%d, 1], one for each image: take the file '
                    'of the cropped digits.' % (path, images.shape[-1]))
  labels = labels[:, 0]
  wrong = np.flatnonzero(~np.isin(labels, np.arange(1, 11)))
  if wrong.size:
    raise UserError('%s has label %s for image %d, not 1 to 10: it is damaged.'
                    % (path, labels[wrong[0]], wrong[0]))
  return images.transpose(3, 2, 0, 1), (labels % 10).astype(np.uint8)


def main():
  for_training, for_testing = convert(FLAGS.mat_dir, FLAGS.output_dir)
  print('Wrote %d images for training and %d for testing to %s.'
        % (for_training, for_testing, FLAGS.output_dir))


if __name__ == '__main__':
  cifar10_console.run(main)
