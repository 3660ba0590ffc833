"""What an evaluation shows: in TensorBoard, and as a table in the terminal.

TensorBoard has recall and precision of each class as curves, the confusion matrix and the most
confident mistakes as pictures, and both with names under Text. Nothing here adds to a graph.
"""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cifar10_support.quiet import tf

# Of the confusion matrix: pixels on a side of a cell, and the size of the letters. TensorBoard
# scales a picture to 350 pixels by leaving out some, which letters do not survive: that is the size
# for ten classes, if their names fit into the margin.
_CELL, _LETTERS, _MARGIN = 26, 12, 89
_MANY = 20  # With more classes, cells are small and have no numbers, and texts show the worst.
_SMALL_CELL, _SMALL_LETTERS = 12, 10
_DARKEST = np.array([8, 48, 107])  # Blue.

_MISTAKES = 4  # Images for each class that they were taken for; of many classes twice that for all.
_MAGNIFICATION = 3
_GAP = 6  # Pixels between two images.


def summary(labels, probabilities, classes, read_images, kind=''):
  """Returns a `tf.Summary` of what the network mistook for what.

  `labels` is integers of shape [n], `probabilities` floats of shape [n, classes]. `read_images`
  gives images, uint8 [., height, width, 1 or 3], for their indices. Every tag contains `kind`.
  """
  is_large = len(classes) > _MANY
  matrix = confusion_matrix(labels, probabilities.argmax(1), len(classes))
  # The fraction that is right, of the images that show a class and of those taken for it.
  measures = [('recall', matrix.sum(axis=1)), ('precision', matrix.sum(axis=0))]
  values = [tf.Summary.Value(tag=f'{measure}{kind}/{classes[i]}',
                             simple_value=matrix[i, i] / totals[i])
            for measure, totals in measures for i in np.flatnonzero(totals)]

  values.append(_picture(f'confusion matrix{kind}/picture', draw_matrix(matrix, classes),
                         'A row is the images of one class: the percentage of them that were taken '
                         'for each class. A cell without a number has less than half a percent.'))
  values.append(_strings(f'confusion matrix{kind}/counts', 'text',
                         [f'```\n{confusion_table(matrix, classes)}\n```']))

  rows = []
  for predicted, name in [(None, 'any other')] if is_large else enumerate(classes):
    mistakes = confident_mistakes(labels, probabilities, predicted)
    rows.append([name, ', '.join(
        f'{classes[labels[i]]} ({probabilities[i].max():.3f}, image {i})' for i in mistakes)])
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


def balanced_accuracy(matrix):
  """Returns the recall of a class in a `confusion_matrix`, averaged over the classes shown."""
  shown = matrix.sum(axis=1)
  return np.mean(matrix.diagonal()[shown > 0] / shown[shown > 0])


def confusion_table(matrix, classes):
  """Returns a `confusion_matrix` as lines of up to 80 characters, with recall and precision.

  Of more classes than fit, it has the ten with the lowest recall, and the most frequent mistakes.
  """
  right, shown, taken = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
  measures = [''.join(f'{right[i] / total:8.3f}' if total else f"{'-':>8}"
                      for total in (shown[i], taken[i])) for i in range(len(classes))]
  cell = len(str(matrix.max())) + 1
  if 14 + cell * len(classes) + 16 <= 80:
    lines = ['A row is the images of one class, a column what they were taken for.',
             ' ' * 14 + ''.join(f'{i:{cell}}' for i in range(len(classes))) + '  recall precis.']
    for i, (name, row) in enumerate(zip(classes, matrix)):
      counts = ''.join(f'{count:{cell}}' for count in row)
      lines.append(f'{i} {name}'[:13].ljust(14) + counts + measures[i])
    return '\n'.join(lines)
  worst = sorted(np.flatnonzero(shown), key=lambda i: right[i] / shown[i])[:10]
  lines = [f"{'the lowest recalls':48}  images  recall precis."]
  lines += [f'{classes[i][:47]:48}{shown[i]:8}{measures[i]}' for i in worst]
  lines += ['', f"{'the most frequent mistakes':48}  images  of all"]
  mistakes = matrix - np.diag(right)
  for i, j in np.transpose(np.unravel_index(np.argsort(-mistakes, axis=None), mistakes.shape))[:10]:
    if mistakes[i, j]:
      pair = f'{classes[i][:17]}, taken for {classes[j][:17]}'
      lines.append(f'{pair:48}{mistakes[i, j]:8}{mistakes[i, j] / shown[i]:8.3f}')
  return '\n'.join(lines)


def confident_mistakes(labels, probabilities, predicted=None):
  """Returns the indices of the images most confidently mistaken for one class, or for any."""
  predictions = probabilities.argmax(axis=1)
  is_meant = True if predicted is None else predictions == predicted
  wrong = np.flatnonzero(is_meant & (labels != predictions))
  surest = np.argsort(-probabilities[wrong].max(axis=1, initial=0), kind='stable')
  return wrong[surest[:2 * _MISTAKES if predicted is None else _MISTAKES]]


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
  numbered = count <= _MANY
  cell, letters = (_CELL, _LETTERS) if numbered else (_SMALL_CELL, _SMALL_LETTERS)
  font = ImageFont.load_default(letters)
  gap = letters // 2
  classes = [name[:24] for name in classes]
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
  """Draws images, uint8 of shape [n, height, width, 1 or 3], side by side, in colour."""
  images = np.broadcast_to(images, [*images.shape[:3], 3])
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
