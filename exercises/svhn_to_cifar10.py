"""Converts SVHN, photos of the digits of house numbers, to CIFAR-10's binary format. Then train and
evaluate on it with --data_dir=svhn.

  python exercises/svhn_to_cifar10.py

Download train_32x32.mat and test_32x32.mat, the cropped digits, from
http://ufldl.stanford.edu/housenumbers/ first.
"""

import os

from absl import flags
import numpy as np

from cifar10_support import console
from cifar10_support import dataset
from cifar10_support.console import UserError

FLAGS = flags.FLAGS

console.DEFINE_path('mat_dir', '.', 'Directory that holds train_32x32.mat and test_32x32.mat.')
console.DEFINE_path('output_dir', 'svhn', 'Directory to write the data set to, about 300 MB.')

CLASSES = '0123456789'


def convert(mat_dir, output_dir):
  """Writes the data set, all of it or nothing.

  Args:
    mat_dir: path of the directory that holds the two `.mat` files.
    output_dir: path of the directory to write to, made if it does not exist.

  Returns:
    The data set, a `dataset.DataSet`.

  Raises:
    UserError: a file is missing or is not SVHN's, or the data set cannot be written.
  """
  if dataset.locate(output_dir):
    raise UserError(f'{output_dir} already holds a data set. Name another directory with '
                    '--output_dir.')
  train, test = (read(os.path.join(mat_dir, f'{name}_32x32.mat')) for name in ('train', 'test'))

  def fill(directory):
    folder = os.path.join(directory, dataset.FOLDER)
    os.mkdir(folder)
    parts = np.array_split(train, len(dataset.TRAIN_FILES)) + [test]
    for name, records in zip(dataset.TRAIN_FILES + [dataset.TEST_FILE], parts):
      with open(os.path.join(folder, name), 'wb') as out:
        out.write(records.tobytes())
    with open(os.path.join(folder, dataset.CLASSES_FILE), 'w') as out:
      out.writelines(f'{name}\n' for name in CLASSES)

  dataset.make(output_dir, fill)
  return dataset.find(output_dir, len(CLASSES))


def read(path):
  """Reads one of SVHN's files and returns its images as CIFAR-10's records.

  Its `X` is uint8 of shape [32, 32, 3, n], and its `y`, of shape [n, 1], has the digits 1 to 9, and
  10 for the digit 0.

  Args:
    path: of the file.

  Returns:
    uint8 of shape [n, 3073].

  Raises:
    UserError: the file is missing or is not one of SVHN's, or scipy is not installed.
  """
  try:
    import scipy.io
  except ImportError as error:
    raise UserError("Reading .mat files takes scipy. Install it with pip install -e '.[svhn]', or "
                    'pip install scipy.') from error
  print(f'Reading {path}')
  try:
    with open(path, 'rb') as mat:
      variables = scipy.io.loadmat(mat, variable_names=['X', 'y'])
    images, digits = variables['X'], variables['y'][:, 0]
    if (images.dtype != np.uint8 or images.shape != (32, 32, 3, len(digits))
        or not np.isin(digits, range(1, 11)).all()):
      raise ValueError('X or y has another shape, or other values')
  except OSError as error:
    raise UserError(f'{path} cannot be read ({error.strerror}). Download it from '
                    'http://ufldl.stanford.edu/housenumbers/, or name its directory with '
                    '--mat_dir.') from error
  # On a damaged file scipy may raise anything.
  except Exception as error:
    raise UserError(f'{path} is damaged, or not the file of the cropped digits. Download it again '
                    'from http://ufldl.stanford.edu/housenumbers/.') from error
  labels, planes = digits.astype(np.uint8) % 10, images.transpose(3, 2, 0, 1)
  return np.hstack([labels[:, np.newaxis], planes.reshape(len(labels), -1)])


def main():
  converted = convert(FLAGS.mat_dir, FLAGS.output_dir)
  print(f'Wrote {converted.num_train} images for training and {converted.num_test} for testing to '
        f'{FLAGS.output_dir}.')


if __name__ == '__main__':
  console.run(main)
