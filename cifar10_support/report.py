"""What TensorBoard shows of an evaluation.

Recall and precision of each class as curves, the confusion matrix and the most confident mistakes
as pictures, and both as tables with names under Text; under Projector the images as points.
"""

import io
import pathlib

import numpy as np
from PIL import Image, ImageDraw, ImageFont
import tensorflow.compat.v1 as tf

from cifar10_support.console import UserError

# Of the confusion matrix: pixels on a side of a cell, and the size of the letters. TensorBoard
# scales a picture to 350 pixels by leaving out some, which letters do not survive: that is the size
# for ten classes, if their names fit into the margin.
_CELL, _LETTERS, _MARGIN = 26, 12, 89
_MOST_NUMBERED = 20  # With more classes than this, cells are small and have no numbers.
_SMALL_CELL, _SMALL_LETTERS = 12, 10
_DARKEST = np.array([8, 48, 107])  # Blue.

_MISTAKES = 4  # Images for each class that they were taken for.
_MAGNIFICATION = 3
_GAP = 6  # Pixels between two images.


def summary(labels, probabilities, classes, read_images, kind=''):
  """Returns a `tf.Summary` of what the network mistook for what.

  `labels` is integers of shape [n], `probabilities` floats of shape [n, classes]. `read_images`
  gives images, uint8 of shape [., 32, 32, 3], for their indices. Every tag contains `kind`.
  """
  matrix = confusion_matrix(labels, probabilities.argmax(1), len(classes))
  # The fraction that is right, of the images that show a class and of those taken for it.
  measures = [('recall', matrix.sum(axis=1)), ('precision', matrix.sum(axis=0))]
  values = [tf.Summary.Value(tag=f'{measure}{kind}/{classes[i]}',
                             simple_value=matrix[i, i] / totals[i])
            for measure, totals in measures for i in np.flatnonzero(totals)]

  values.append(_picture(f'confusion matrix{kind}/picture', draw_matrix(matrix, classes),
                         'A row is the images of one class: the percentage of them that were taken '
                         'for each class. A cell without a number has less than half a percent.'))
  values.append(_strings(f'confusion matrix{kind}/counts', 'text', [_table(
      ['shown, taken for'] + list(classes),
      [[name] + row.tolist() for name, row in zip(classes, matrix)])]))

  rows = []
  for predicted, name in enumerate(classes):
    mistakes = confident_mistakes(labels, probabilities, predicted)
    rows.append([name, ', '.join(
        f'{classes[labels[i]]} ({probabilities[i, predicted]:.3f}, image {i})'
        for i in mistakes)])
    if mistakes.size:
      values.append(_picture(f'mistakes{kind}/taken for {name}',
                             draw_row(read_images(mistakes)),
                             f'The images most confidently mistaken for {name}.'))
  values.append(_strings(f'mistakes{kind}/names', 'text', [_table(
      ['taken for', 'what it is (probability of the mistake, index of the image), left to right'],
      rows)]))
  return tf.Summary(value=values)


def confusion_matrix(labels, predictions, num_classes):
  """Returns how many images of each class (row) were taken for each class (column)."""
  matrix = np.zeros([num_classes, num_classes], int)
  np.add.at(matrix, (labels, predictions), 1)
  return matrix


def confident_mistakes(labels, probabilities, predicted):
  """Returns the indices of the images most confidently mistaken for the class `predicted`."""
  wrong = np.flatnonzero((probabilities.argmax(1) == predicted) & (labels != predicted))
  return wrong[np.argsort(-probabilities[wrong, predicted], kind='stable')[:_MISTAKES]]


def percentages(matrix):
  """Returns a confusion matrix as integers: percent of each row, zeros if the row has no image."""
  return (100 * _fractions(matrix)).round().astype(int)


def _fractions(matrix):
  return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)


def draw_matrix(matrix, classes):
  """Draws a `confusion_matrix` with the names of the classes and the percentages.

  The larger its fraction of the row, the darker a cell; by the square root, or mistakes of a few
  percent would look like none. Returns uint8 of shape [side, side, 3].
  """
  count = len(classes)
  numbered = count <= _MOST_NUMBERED
  cell, letters = (_CELL, _LETTERS) if numbered else (_SMALL_CELL, _SMALL_LETTERS)
  font = ImageFont.load_default(letters)
  gap = letters // 2
  margin = max([_MARGIN] + [2 * gap + int(font.getlength(name)) for name in classes])

  def names(x, anchor):
    strip = Image.new('RGB', [margin, count * cell], 'white')
    for i, name in enumerate(classes):
      ImageDraw.Draw(strip).text([x, (i + 0.5) * cell], name, 'black', font, anchor)
    return strip

  picture = Image.new('RGB', [margin + count * cell + 1] * 2, 'white')
  picture.paste(names(margin - gap, 'rm'), [0, margin])
  picture.paste(names(gap, 'lm').rotate(90, expand=True), [margin, 0])
  draw = ImageDraw.Draw(picture)
  draw.line([0, 0, margin, margin], 'lightgrey')
  draw.text([margin - gap, gap], 'taken for', 'grey', font, 'ra')
  draw.text([gap, margin - gap], 'shown', 'grey', font, 'ls')

  colours = 255 - np.sqrt(_fractions(matrix))[:, :, np.newaxis] * (255 - _DARKEST)
  for (row, column), percentage in np.ndenumerate(percentages(matrix)):
    x, y = margin + column * cell, margin + row * cell
    draw.rectangle([x, y, x + cell, y + cell], tuple(colours[row, column].round().astype(int)),
                   'lightgrey')
    if numbered and percentage:
      draw.text([x + cell / 2, y + cell / 2], str(percentage),
                'white' if percentage > 40 else 'black', font, 'mm')
  return np.asarray(picture)


def draw_row(images):
  """Draws images, uint8 of shape [n, height, width, 3], side by side."""
  large = images.repeat(_MAGNIFICATION, axis=1).repeat(_MAGNIFICATION, axis=2)
  spaced = np.pad(large, [(0, 0), (0, 0), (0, _GAP), (0, 0)], constant_values=255)
  return np.concatenate(spaced, axis=1)


def _picture(tag, pixels, description):
  height, width, _ = pixels.shape
  png = io.BytesIO()
  Image.fromarray(pixels).save(png, 'PNG')
  # In TensorFlow 2's form: TensorBoard drops the description of pictures in TensorFlow 1's.
  return _strings(tag, 'images', [b'%d' % width, b'%d' % height, png.getvalue()], description)


def _strings(tag, plugin, strings, description=''):
  """Returns a summary for one of TensorBoard's plugins; no two of a run may share a tag."""
  return tf.Summary.Value(tag=tag, tensor=tf.make_tensor_proto(strings),
                          metadata=tf.SummaryMetadata(
                              plugin_data=tf.SummaryMetadata.PluginData(plugin_name=plugin),
                              summary_description=description))


def _table(header, rows):
  """Returns a table in Markdown."""
  return '\n'.join(f"| {' | '.join(map(str, row))} |"
                   for row in [header, ['---'] * len(header)] + rows)


def embedding(labels):
  """With --projector adds what the layer `softmax_linear` sees, of several crops the mean.

  Returns a list of no tensor or one, float32 of shape [n, features] for `labels` of shape [n].
  """
  if not tf.app.flags.FLAGS.projector:
    return []
  try:
    x = tf.get_default_graph().get_operation_by_name('softmax_linear/MatMul').inputs[0]
  except KeyError:
    raise UserError('--projector needs a network whose last layer is softmax_linear.') from None
  return [tf.reduce_mean(tf.reshape(x, [tf.size(labels), -1, x.shape[-1]]), axis=1)]


def write_projector(directory, labels, probabilities, classes, images, points):
  """Writes an `embedding` of images into a directory of event files, see `summary`."""
  folder = pathlib.Path(directory, 'projector')
  folder.mkdir(exist_ok=True)
  columns = int(np.ceil(len(images) ** 0.5))
  tiles = np.pad(images, [(0, columns ** 2 - len(images)), (0, 0), (0, 0), (0, 0)])
  sheet = np.vstack([np.hstack(row) for row in np.split(tiles, columns)]).squeeze()
  side = min(images.shape[1], 8192 // columns)  # Browsers take no larger picture.
  Image.fromarray(sheet).resize([columns * side] * 2, Image.BOX).save(folder / 'images.png')
  points.tofile(folder / 'points.bytes')
  rows = ['class\ttaken for\timage'] + [
      f'{classes[label]}\t{classes[answer]}\t{i}'
      for i, (label, answer) in enumerate(zip(labels, probabilities.argmax(axis=1)))]
  (folder / 'classes.tsv').write_text('\n'.join(rows), encoding='utf-8')
  (folder.parent / 'projector_config.pbtxt').write_text(
      'embeddings { tensor_name: "images" tensor_path: "projector/points.bytes" '
      f'tensor_shape: {list(points.shape)} metadata_path: "projector/classes.tsv" '
      f'sprite {{ image_path: "projector/images.png" single_image_dim: {[side, side]} }} }}\n')
