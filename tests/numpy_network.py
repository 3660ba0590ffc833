"""The network in numpy, written from its description, to compare the graph with."""

import functools

import numpy as np
import tensorflow.compat.v1 as tf


def logits(images, variables):
  """Args: images [n, 24, 24, 3]; variables, arrays by checkpoint key. Returns [n, 10]."""
  x = np.maximum(_conv(images, variables['conv1/weights']) + variables['conv1/biases'], 0)
  x = _lrn(_pool(x))
  x = np.maximum(_conv(x, variables['conv2/weights']) + variables['conv2/biases'], 0)
  x = _pool(_lrn(x))
  for layer in ('local3', 'local4'):
    weights, biases = variables[layer + '/weights'], variables[layer + '/biases']
    linear = local if weights.ndim == 4 else _dense
    x = np.maximum(linear(x, weights) + biases, 0)
  return (_dense(x, variables['softmax_linear/weights'])
          + variables['softmax_linear/biases'])


def local(x, weights):
  """A 3x3 layer with weights of its own at each place: [rows, columns, 3 * 3 * channels, filters].
  """
  _, rows, columns, _ = x.shape
  padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
  out = np.empty([len(x), rows, columns, weights.shape[3]], x.dtype)
  for i in range(rows):
    for j in range(columns):
      out[:, i, j] = _dense(padded[:, i:i + 3, j:j + 3], weights[i, j])
  return out


def _dense(x, weights):
  return x.reshape(len(x), -1) @ weights


def central_crop(images):
  """The central 24x24 crops of uint8 [n, 32, 32, 3], each to mean 0 and standard deviation 1."""
  crops = images[:, 4:28, 4:28].astype(np.float32)
  means = crops.mean(axis=(1, 2, 3), keepdims=True)
  deviations = crops.std(axis=(1, 2, 3), keepdims=True)
  return (crops - means) / np.maximum(deviations, np.float32((24 * 24 * 3) ** -0.5))


def ten_crops(images):
  """The centres and corners of uint8 images, and their horizontal flips: [n, 10, 24, 24, 3]."""
  shifted = [np.roll(images, shift, axis=(1, 2))
             for shift in ((0, 0), (4, 4), (4, -4), (-4, 4), (-4, -4))]
  return np.stack([central_crop(images) for images in shifted]
                  + [central_crop(images[:, :, ::-1]) for images in shifted], axis=1)


def probabilities(images, variables):
  """The softmax of `logits`."""
  exponentials = np.exp(logits(images, variables))
  return exponentials / exponentials.sum(axis=1, keepdims=True)


def multiview_probabilities(images, variables):
  """The mean over the `ten_crops` of uint8 images."""
  return np.mean([probabilities(crops, variables) for crops in ten_crops(images).swapaxes(0, 1)],
                 axis=0)


def averages(train_dir):
  """Returns the moving averages of a run's latest checkpoint, by the key of the variable."""
  reader = tf.train.load_checkpoint(train_dir)
  return {key: reader.get_tensor(key + '/ExponentialMovingAverage')
          for key in reader.get_variable_to_shape_map() if key.endswith(('weights', 'biases'))}


def read(path):
  """Returns the images, uint8 [n, 32, 32, 3], and the labels of a file in the binary format."""
  records = np.fromfile(path, np.uint8).reshape(-1, 3073)
  return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0].astype(int)


def _conv(x, kernel):
  """SAME, stride 1, with a kernel of 5x5."""
  padded = np.pad(x, [(0, 0), (2, 2), (2, 2), (0, 0)])
  windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(1, 2))
  return np.einsum('nyxcij,ijcd->nyxd', windows, kernel, optimize=True)


def _pool(x):
  """3x3, stride 2. An even side needs one row of padding, which SAME puts at the end."""
  _, height, width, _ = x.shape
  padded = np.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)], constant_values=-np.inf)
  return functools.reduce(np.maximum, [padded[:, i:i + height:2, j:j + width:2]
                                       for i in range(3) for j in range(3)])


def _lrn(x):
  channels = x.shape[-1]
  squares = np.pad(x ** 2, [(0, 0), (0, 0), (0, 0), (4, 4)])
  sums = sum(squares[..., i:i + channels] for i in range(9))
  return x / (1.0 + 0.001 / 9.0 * sums) ** 0.75
