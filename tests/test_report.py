import io

import numpy as np
from PIL import Image
import pytest
import tensorflow.compat.v1 as tf

from cifar10_support import report

CLASSES = ['class %d' % i for i in range(10)]


def _probabilities(predictions):
  """Each prediction a class and its probability; the other classes share the rest."""
  rows = np.array([[(1 - probability) / 9] * 10 for _, probability in predictions])
  for row, (predicted, probability) in zip(rows, predictions):
    row[predicted] = probability
  return rows


# What is shown, what it is taken for, and how surely.
IMAGES = [(3, 3, 0.9), (3, 5, 0.6), (3, 3, 0.8), (5, 5, 0.7), (4, 5, 0.9), (5, 3, 0.5), (3, 5, 0.8),
          (6, 5, 0.7), (7, 5, 0.65)]


@pytest.fixture(scope='module')
def evaluation():
  """The summaries of `IMAGES`, by tag; an image of index i is a plane of colour i."""
  summary = report.summary(
      np.array([shown for shown, _, _ in IMAGES]), _probabilities([rest for _, *rest in IMAGES]),
      CLASSES, lambda indices: np.broadcast_to(
          np.uint8(indices)[:, np.newaxis, np.newaxis, np.newaxis], [len(indices), 32, 32, 3]),
      ' of a kind')
  by_tag = {value.tag: value for value in summary.value}
  # TensorBoard shows one of those that share a tag.
  assert len(by_tag) == len(summary.value)
  return by_tag


def _pixels(value):
  """The picture, in the form that TensorBoard's images plugin takes: width, height, PNG."""
  assert value.metadata.plugin_data.plugin_name == 'images'
  width, height, png = tf.make_ndarray(value.tensor)
  pixels = np.asarray(Image.open(io.BytesIO(png)))
  assert pixels.shape == (int(height), int(width), 3)
  return pixels


def _text(value):
  assert value.metadata.plugin_data.plugin_name == 'text'
  [text] = tf.make_ndarray(value.tensor)
  return text.decode()


def test_recall_and_precision_are_fractions_of_the_rows_and_the_columns(evaluation):
  # Classes without an image have no recall, those nothing was taken for no precision.
  curves = {tag: value.simple_value for tag, value in evaluation.items()
            if value.HasField('simple_value')}
  assert curves == {
      'recall of a kind/class 3': 0.5, 'recall of a kind/class 4': 0,
      'recall of a kind/class 5': 0.5, 'recall of a kind/class 6': 0,
      'recall of a kind/class 7': 0, 'precision of a kind/class 3': pytest.approx(2 / 3),
      'precision of a kind/class 5': pytest.approx(1 / 6)}


def test_confusion_matrix_counts_what_is_shown_by_row_and_what_it_is_taken_for_by_column():
  matrix = report.confusion_matrix(np.array([0, 0, 0, 1]), np.array([0, 2, 2, 1]), 3)
  assert matrix.tolist() == [[1, 0, 2], [0, 1, 0], [0, 0, 0]]


def _cells(draw):
  """The colour of each cell, near its corner where there is no number, and the cells' side.

  Args:
    draw: a function that draws the matrix of that many classes.
  """
  picture = draw(10)
  # Names of the same length leave the same margin, so that a class adds the side of a cell.
  side = len(picture) - len(draw(9))
  return picture[-10 * side + 3::side, -10 * side + 3::side], side


def test_cell_of_the_confusion_matrix_is_the_darker_the_larger_its_part_of_the_row():
  matrix = report.confusion_matrix(*np.transpose(IMAGES)[:2].astype(int), 10)
  cells, _ = _cells(lambda count: report.draw_matrix(matrix[:count, :count], CLASSES[:count]))

  def cell(fraction):
    return [round(255 - fraction ** 0.5 * (255 - dark)) for dark in (8, 48, 107)]

  expected = np.full([10, 10, 3], 255)
  expected[3, 3] = expected[3, 5] = expected[5, 5] = expected[5, 3] = cell(0.5)
  expected[4, 5] = expected[6, 5] = expected[7, 5] = cell(1)
  np.testing.assert_array_equal(cells, expected)


def test_percentages_are_those_of_the_rows():
  matrix = np.array([[859, 3, 138], [1, 2, 0], [0, 0, 0]])
  assert report.percentages(matrix).tolist() == [[86, 0, 14], [33, 67, 0], [0, 0, 0]]


def test_number_in_a_cell_is_its_percentage_if_there_is_one():
  def inside(row):
    picture = report.draw_matrix(np.array([row, [0, 1000]]), ['a', 'b'])
    side = len(report.draw_matrix(np.eye(3), ['a', 'b', 'c'])) - len(picture)
    return picture[-2 * side + 2:-side - 2, -side + 2:-2].astype(int)

  # A share decides, not a count.
  np.testing.assert_array_equal(inside([90, 10]), inside([900, 100]))
  eleven, twelve = inside([890, 110]), inside([880, 120])
  assert (eleven.min(axis=(0, 1)) < 50).all() and (abs(eleven - twelve) > 100).any()
  assert np.ptp(inside([996, 4]), axis=(0, 1)).tolist() == [0, 0, 0]
  # Light numbers on dark cells.
  assert (inside([0, 1000]) > 200).all(axis=-1).any()


def test_names_of_the_classes_stand_on_the_left_and_from_bottom_to_top_above_the_columns():
  picture = report.draw_matrix(np.eye(5), ['', 'Wg', '', '', ''])
  side = len(report.draw_matrix(np.eye(6), ['', 'Wg', '', '', '', ''])) - len(picture)
  margin = len(picture) - 5 * side
  left, above = picture[margin:, :margin - 1], picture[:margin - 1, margin:]
  # Turned by a quarter to the right, the name above the column can be read from left to right.
  shapes = []
  for ink in (np.argwhere(left.max(axis=-1) < 128),
              np.argwhere(np.rot90(above, -1).max(axis=-1) < 128)):
    assert side < ink[:, 0].min() and ink[:, 0].max() < 2 * side
    shapes.append(np.ptp(ink, axis=0).tolist())
  assert shapes[0] == shapes[1] and shapes[0][1] > shapes[0][0]


@pytest.mark.parametrize('count, largest', [(2, 200), (10, 350), (20, 700), (100, 1400)])
def test_picture_of_the_confusion_matrix_grows_with_the_classes(count, largest):
  classes = ['class %d' % i for i in range(count)]
  picture = report.draw_matrix(np.eye(count, dtype=int), classes)
  assert picture.dtype == np.uint8 and picture.shape == (len(picture), len(picture), 3)
  assert 10 * count < len(picture) <= largest


def test_a_hundred_classes_have_cells_without_numbers():
  matrix, classes = np.eye(100, dtype=int), ['class'] * 100
  picture = report.draw_matrix(matrix, classes)
  side = len(picture) - len(report.draw_matrix(matrix[:99, :99], classes[:99]))
  assert np.ptp(picture[-side:-1, -side:-1], axis=(0, 1)).tolist() == [0, 0, 0]


@pytest.mark.parametrize('label_type', [np.uint8, np.int64])
@pytest.mark.parametrize('type_', [np.float16, np.float64, tf.bfloat16.as_numpy_dtype])
def test_evaluation_takes_labels_and_probabilities_of_any_type(label_type, type_):
  summary = report.summary(np.array([1, 0], label_type), np.eye(2).astype(type_), ['a', 'b'],
                           lambda indices: np.zeros([len(indices), 32, 32, 3], np.uint8))
  by_tag = {value.tag: value for value in summary.value}
  assert by_tag['recall/a'].simple_value == 0
  _pixels(by_tag['confusion matrix/picture'])
  assert _text(by_tag['mistakes/names']).endswith('| b | a (1.000, image 1) |')


def test_table_of_the_confusion_matrix_names_the_classes_in_order(evaluation):
  fence, *lines, end = _text(evaluation['confusion matrix of a kind/counts']).splitlines()
  assert fence == end == '```'  # Which keeps the columns below each other.
  rows = [line.split() for line in lines[-10:]]
  assert [' '.join(row[1:3]) for row in rows] == CLASSES
  assert rows[3][3:13] == list('0002020000')


def test_mistakes_are_shown_the_surest_first_under_what_they_were_taken_for(evaluation):
  assert {tag for tag in evaluation if 'taken for' in tag} == {
      'mistakes of a kind/taken for class 3', 'mistakes of a kind/taken for class 5'}
  # Image 1 is a mistake too, but there are four surer ones.
  row = _pixels(evaluation['mistakes of a kind/taken for class 5'])
  width = row.shape[1] // 4
  assert row[5, width // 3::width, 0].tolist() == [4, 6, 7, 8]
  lines = _text(evaluation['mistakes of a kind/names']).splitlines()
  assert lines[7] == ('| class 5 | class 4 (0.900, image 4), class 3 (0.800, image 6), '
                      'class 6 (0.700, image 7), class 7 (0.650, image 8) |')


@pytest.mark.parametrize('count', [2, 10, 20])
def test_perfect_network_makes_no_mistakes(count):
  classes = ['class %d' % i for i in range(count)]
  summary = report.summary(np.arange(count), np.eye(count), classes, None)
  assert not [value.tag for value in summary.value if 'taken for' in value.tag]
  assert [value.simple_value for value in summary.value
          if value.tag.startswith('recall/')] == [1] * count
  [picture] = [_pixels(value) for value in summary.value if value.tag.endswith('/picture')]
  np.testing.assert_array_equal(picture, report.draw_matrix(np.eye(count), classes))


# Classes of different sizes, and many of them.

def test_balanced_accuracy_counts_every_class_the_same():
  # Recalls of 3/4 and 0/1; of the third class nothing is shown.
  assert report.balanced_accuracy(np.array([[3, 1, 0], [1, 0, 0], [0, 0, 0]])) == 0.375


@pytest.mark.parametrize('count', [2, 10])
def test_confusion_table_has_counts_recall_and_precision(count):
  matrix = np.full([count, count], 3) + np.eye(count, dtype=int) * 997
  classes = ['a class with a long name'] * count
  lines = report.confusion_table(matrix, classes).splitlines()
  assert max(map(len, lines)) <= 80
  rows = [line.split()[-count - 2:] for line in lines[-count:]]
  share = '%.3f' % (1000 / (1000 + 3 * (count - 1)))
  assert rows == [[str(n) for n in matrix[i]] + [share, share] for i in range(count)]


def test_confusion_table_of_many_classes_has_the_worst_and_the_most_frequent_mistakes():
  matrix = np.eye(100, dtype=int) * 20
  matrix[7, 7], matrix[7, 8] = 5, 15  # A recall of a quarter; and a precision of 20 / 35.
  matrix[30, 30], matrix[30, 31] = 10, 10
  matrix[50] = 0  # Of which no image is shown.
  table = report.confusion_table(matrix, ['kind %d of a long and winding name' % i
                                          for i in range(100)])
  assert max(map(len, table.splitlines())) <= 80
  worst, mistakes = (part.splitlines()[1:] for part in table.split('\n\n'))
  assert len(worst) == 10
  assert [line.split()[1] for line in worst[:2]] == ['7', '30']
  assert [line.split()[-3:] for line in worst[:2]] == [
      ['20', '0.250', '1.000'], ['20', '0.500', '1.000']]
  assert [(line.split()[1], line.split()[-2:]) for line in mistakes] == [
      ('7', ['15', '0.750']), ('30', ['10', '0.500'])]


def test_mistakes_of_many_classes_are_one_picture_of_the_surest():
  labels = np.arange(30)
  probabilities = np.eye(30) * 0.9
  for i in range(20):  # The first 20 are mistakes, ever surer.
    probabilities[i] = 0
    probabilities[i, i + 1] = 0.5 + i / 100
  summary = report.summary(labels, probabilities, ['kind %d' % i for i in range(30)],
                           lambda indices: np.uint8(indices)[:, np.newaxis, np.newaxis, np.newaxis]
                           * np.ones([1, 28, 28, 1], np.uint8))
  by_tag = {value.tag: value for value in summary.value}
  [picture] = [_pixels(value) for tag, value in by_tag.items() if 'taken for' in tag]
  width = picture.shape[1] // 8
  assert picture[5, width // 3::width, 0].tolist() == list(range(19, 11, -1))
  assert '19' in _text(by_tag['mistakes/names']) and '0.690' in _text(by_tag['mistakes/names'])
  assert 'kind 0' in _text(by_tag['confusion matrix/counts'])


def test_long_names_do_not_make_a_huge_picture():
  assert len(report.draw_matrix(np.eye(2, dtype=int), ['x' * 1000, 'y'])) < 500
