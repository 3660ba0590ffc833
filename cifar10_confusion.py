"""What the network takes for what, as summaries: recall and precision, confusion matrix, mistakes.

In TensorBoard the recall and the precision of each class are curves, the confusion matrix and the
mistakes are pictures, and tables with the names are under Text. Nothing here adds to a graph.
"""

import numpy as np
import tensorflow.compat.v1 as tf

import cifar10_device

_CELL = 24  # Pixels on a side of a cell of the confusion matrix.
_DARKEST = np.array([8, 48, 107])  # Blue.

_MISTAKES = 4  # So many images for each class that they are taken for.
_MAGNIFICATION = 3
_GAP = 6  # Pixels between two images.


def summary(labels, probabilities, classes, read_images, kind=''):
  """Returns all of it as one `tf.Summary`.

  Args:
    labels: integers of shape [n], the true classes.
    probabilities: floats of shape [n, 10], those of the classes as the network gives them.
    classes: the names of the ten classes.
    read_images: a function from the indices of images, 0..n-1, to uint8 of shape [., 32, 32, 3].
    kind: of evaluation; it becomes part of every tag.
  """
  matrix = confusion_matrix(labels, probabilities.argmax(1), len(classes))
  # What is right, of the images that show a class, and of those that are taken for it.
  measures = [('recall', matrix.sum(axis=1)), ('precision', matrix.sum(axis=0))]
  values = [tf.Summary.Value(tag='%s%s/%s' % (measure, kind, classes[i]),
                             simple_value=matrix[i, i] / totals[i])
            for measure, totals in measures for i in np.flatnonzero(totals)]

  order = ', '.join(classes)
  values.append(_picture('confusion matrix%s/picture' % kind, draw_matrix(matrix),
                         'Rows: what the images show. Columns: what they were taken for. Both '
                         'from the top left: %s. The darker, the more of the row.' % order))
  values.append(_text('confusion matrix%s/counts' % kind, _table(
      ['shown, taken for'] + list(classes),
      [[name] + row.tolist() for name, row in zip(classes, matrix)])))

  rows = []
  for predicted, name in enumerate(classes):
    mistakes = confident_mistakes(labels, probabilities, predicted)
    rows.append([name, ', '.join(
        '%s (%.3f, image %d)' % (classes[labels[i]], probabilities[i, predicted], i)
        for i in mistakes)])
    if mistakes.size:
      values.append(_picture('mistakes%s/taken for %s' % (kind, name),
                             draw_row(read_images(mistakes)),
                             'The images that are most surely taken for %s, and are not.' % name))
  values.append(_text('mistakes%s/names' % kind, _table(
      ['taken for', 'what it is (probability of the mistake, index of the image), left to right'],
      rows)))
  return tf.Summary(value=values)


def confusion_matrix(labels, predictions, classes):
  """Returns how many images of each class (row) were taken for each class (column)."""
  matrix = np.zeros([classes, classes], int)
  np.add.at(matrix, (labels, predictions), 1)
  return matrix


def confident_mistakes(labels, probabilities, predicted):
  """Returns the indices of the images most surely, but wrongly, taken for the class `predicted`."""
  wrong = np.flatnonzero((probabilities.argmax(1) == predicted) & (labels != predicted))
  return wrong[np.argsort(-probabilities[wrong, predicted], kind='stable')[:_MISTAKES]]


def draw_matrix(matrix):
  """Returns a picture of a confusion matrix, uint8 of shape [height, width, 3].

  A cell is the darker, the larger its fraction of the row; by the square root, or else mistakes of
  a few percent would look like none. A dark line after the fifth row and column helps to count.
  """
  fractions = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
  colours = 255 - np.sqrt(fractions)[:, :, np.newaxis] * (255 - _DARKEST)
  picture = colours.round().astype(np.uint8).repeat(_CELL, axis=0).repeat(_CELL, axis=1)
  picture[_CELL::_CELL] = picture[:, _CELL::_CELL] = 208
  middle = len(matrix) // 2 * _CELL
  picture[middle] = picture[:, middle] = 96
  return picture


def draw_row(images):
  """Returns one picture of images, uint8 of shape [n, height, width, 3], side by side."""
  large = images.repeat(_MAGNIFICATION, axis=1).repeat(_MAGNIFICATION, axis=2)
  spaced = np.pad(large, [(0, 0), (0, 0), (0, _GAP), (0, 0)], constant_values=255)
  return np.concatenate(spaced, axis=1)


def _picture(tag, pixels, description):
  height, width, _ = pixels.shape
  with tf.Graph().as_default(), tf.Session(config=cifar10_device.session_config()) as session:
    png = session.run(tf.image.encode_png(pixels))
  # In TensorFlow 2's form: of pictures in TensorFlow 1's, TensorBoard drops the description.
  return _strings(tag, 'images', [b'%d' % width, b'%d' % height, png], description)


def _text(tag, markdown):
  return _strings(tag, 'text', [markdown])


def _strings(tag, plugin, strings, description=''):
  """Returns a summary for one of TensorBoard's plugins; no two of a run may share a tag."""
  return tf.Summary.Value(tag=tag, tensor=tf.make_tensor_proto(strings),
                          metadata=tf.SummaryMetadata(
                              plugin_data=tf.SummaryMetadata.PluginData(plugin_name=plugin),
                              summary_description=description))


def _table(header, rows):
  """Returns a table in Markdown."""
  return '\n'.join('| %s |' % ' | '.join(map(str, row))
                   for row in [header, ['---'] * len(header)] + rows)
