"""Summaries that a graph collects beyond those of `tf.summary`: of samples, and of filters."""

import numpy as np

from cifar10_support.quiet import tf

# Histograms sample about this many values; tensors up to six times this size are used whole.
_HISTOGRAM_VALUES = 10000


def histogram(tag, values):
  """Adds the histogram of a tensor, or of a sample spread evenly over it.

  All 4.7 million values of `conv1`, counted singly, would take longer than three training steps.

  `tag` is its name in TensorBoard, numbered if the graph has a summary of that name. The name of
  the op comes from the current name scope, so that `tf.get_collection(tf.GraphKeys.SUMMARIES,
  scope)` finds the summaries of a tower whose curves have the names of the only network's.
  """
  name = tag.split('/')[-1]
  size = values.shape.num_elements()
  if size is None or size >= 6 * _HISTOGRAM_VALUES:
    with tf.name_scope(f'{name}_sample'):
      # A multiple of six, plus one, has no factor in common with the 64, 192 or 384 channels of a
      # layer: each channel gets its share.
      stride = (size or tf.size(values)) // (6 * _HISTOGRAM_VALUES) * 6 + 1
      values = tf.reshape(values, [-1])[::stride]
  _collect(tf.raw_ops.HistogramSummary(tag=_unused(tag), values=values, name=name))


def scalar(tag, value):
  """Adds a curve, see `histogram` for the names."""
  _collect(tf.raw_ops.ScalarSummary(tags=_unused(tag), values=value, name=tag.split('/')[-1]))


def filters(tag, kernel):
  """Adds a picture of a first layer's filters: side by side in a square, a pixel apart.

  `kernel` is floats of shape [height, width, channels, count]; without 1, 3 or 4 channels there is
  nothing to see, and nothing is added.
  """
  height, width, channels, count = kernel.shape.as_list()
  if channels not in (1, 3, 4):
    return
  side = int(np.ceil(count ** 0.5))
  with tf.name_scope('filter_grid'):
    tiles = tf.pad(tf.transpose(kernel, [3, 0, 1, 2]),
                   [[0, side * side - count], [0, 1], [0, 1], [0, 0]])
    rows = tf.reshape(tiles, [side, side, height + 1, width + 1, channels])
    grid = tf.reshape(tf.transpose(rows, [0, 2, 1, 3, 4]),
                      [1, side * (height + 1), side * (width + 1), channels])
  _collect(tf.raw_ops.ImageSummary(tag=_unused(tag), tensor=grid, max_images=1,
                                   name=tag.split('/')[-1]))


def _unused(tag):
  """Returns the tag, numbered if the graph has it: summaries that share one cannot be merged.

  They would where a program builds the network twice, or merges the summaries of all its towers.
  """
  with tf.name_scope(None):  # From here names are counted apart from those of ops and scopes.
    return tf.get_default_graph().unique_name(f'tag/{tag}').removeprefix('tag/')


def _collect(summary):
  tf.add_to_collection(tf.GraphKeys.SUMMARIES, summary)
