"""A stand-in for CIFAR-10 where there is no network: generated images in the same binary format.

An image shows one of five shapes in a warm or a cool colour, which makes ten classes. Where the
shape is, how large, on what background and under how much noise is random, so neither the mean
colour nor any single pixel gives the class away. The bytes are the same on every machine.
"""

import os

import numpy as np

# Where a URL is expected, this one asks for generated images.
URL = 'synthetic:'

# CIFAR-10's format, see `dataset`, which imports this module.
_SIZE, _DEPTH = 32, 3
_FOLDER = 'cifar-10-batches-bin'
_FILES = [f'data_batch_{i}.bin' for i in range(1, 6)] + ['test_batch.bin']
_CLASSES_FILE = 'batches.meta.txt'

# Each function says which coordinates lie inside the shape, which fills about [-1, 1].
_SHAPES = {
    'disc': lambda x, y: x * x + y * y < 1,
    'square': lambda x, y: np.maximum(abs(x), abs(y)) < 0.85,
    'triangle': lambda x, y: (y < 0.8) & (y > 2 * abs(x) - 1),
    'cross': lambda x, y: (np.minimum(abs(x), abs(y)) < 0.3) & (np.maximum(abs(x), abs(y)) < 1),
    'ring': lambda x, y: (x * x + y * y < 1) & (x * x + y * y > 0.35),
}

CLASSES = tuple(f'{colour} {shape}' for colour in ('warm', 'cool') for shape in _SHAPES)


def make_data_set(data_dir, records_per_file=10000):
  """Generates a data set in the folder `cifar-10-batches-bin` of a directory, which it makes.

  With a multiple of ten images in each of the six files, the classes are equally frequent.
  """
  folder = os.path.join(data_dir, _FOLDER)
  os.makedirs(folder)
  for i, name in enumerate(_FILES):
    # numpy has frozen the streams of RandomState for all its versions; default_rng may change.
    random = np.random.RandomState(seed=i)
    labels = random.permutation(records_per_file) % 10
    with open(os.path.join(folder, name), 'wb') as out:
      for start in range(0, records_per_file, 1000):
        out.write(_records(labels[start:start + 1000], random).tobytes())
  with open(os.path.join(folder, _CLASSES_FILE), 'w') as out:
    out.writelines(f'{name}\n' for name in CLASSES)


def _records(labels, random):
  """Returns one record for each label: uint8 of shape [len(labels), 3073]."""
  # Sums, products and comparisons alone: they round the same way on every processor.
  n = len(labels)

  def uniform(low, high, *shape):
    return random.uniform(low, high, (n,) + shape).astype(np.float32)

  # With the centre within 4 pixels of the middle and a radius up to 8, a 24x24 crop shows most of
  # the shape.
  radius, aspect = uniform(5, 8, 1, 1), uniform(0.8, 1.25, 1, 1)
  grid = np.arange(_SIZE, dtype=np.float32)
  x = (grid - uniform(12, 20, 1, 1)) / (radius * aspect)
  y = (grid[:, np.newaxis] - uniform(12, 20, 1, 1)) / (radius / aspect)
  inside = np.empty([n, _SIZE, _SIZE], bool)
  for i, shape in enumerate(_SHAPES.values()):
    chosen = labels % len(_SHAPES) == i
    inside[chosen] = shape(x[chosen], y[chosen])

  # Warm paint has more red than blue, cool paint more blue. The background leans either way.
  paint = np.concatenate([uniform(120, 230, 1, 1, 1), uniform(40, 160, 1, 1, 1),
                          uniform(20, 110, 1, 1, 1)], axis=1)
  cool = labels >= len(_SHAPES)
  paint[cool] = paint[cool, ::-1]
  slope = (grid - _SIZE / 2) / _SIZE
  background = (uniform(40, 200, _DEPTH, 1, 1) + uniform(-60, 60, _DEPTH, 1, 1) * slope
                + uniform(-60, 60, _DEPTH, 1, 1) * slope[:, np.newaxis])
  noise = random.randint(0, 256, (n, _DEPTH, _SIZE, _SIZE), np.uint8)
  pixels = (np.where(inside[:, np.newaxis], paint, background)
            + (noise.astype(np.float32) - 127.5) * uniform(0.2, 0.8, 1, 1, 1))
  planes = np.clip(pixels, 0, 255).astype(np.uint8).reshape(n, -1)
  return np.hstack([labels[:, np.newaxis].astype(np.uint8), planes])
