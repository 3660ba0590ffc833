import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10_confusion

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


@pytest.fixture
def summaries():
  """The summaries of `IMAGES`, by tag; an image of index i is a plane of colour i."""
  summary = cifar10_confusion.summary(
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
  with tf.Session() as session:
    pixels = session.run(tf.image.decode_png(png))
  assert pixels.shape == (int(height), int(width), 3)
  return pixels


def test_recall_is_the_fraction_of_a_class_that_is_recognised(summaries):
  # Classes without an image have none.
  assert _scalars(summaries, 'recall') == {
      'recall of a kind/class 3': 0.5, 'recall of a kind/class 4': 0,
      'recall of a kind/class 5': 0.5, 'recall of a kind/class 6': 0,
      'recall of a kind/class 7': 0}


def test_precision_is_the_fraction_of_right_answers_among_those_of_a_class(summaries):
  precisions = _scalars(summaries, 'precision')
  assert precisions.keys() == {'precision of a kind/class 3', 'precision of a kind/class 5'}
  assert precisions['precision of a kind/class 3'] == pytest.approx(2 / 3)
  assert precisions['precision of a kind/class 5'] == pytest.approx(1 / 6)


def _scalars(summaries, measure):
  return {tag: value.simple_value for tag, value in summaries.items()
          if tag.startswith(measure) and value.HasField('simple_value')}


def test_confusion_matrix_counts_what_is_shown_by_row_and_what_it_is_taken_for_by_column():
  matrix = cifar10_confusion.confusion_matrix(np.array([0, 0, 0, 1]), np.array([0, 2, 2, 1]), 3)
  assert matrix.tolist() == [[1, 0, 2], [0, 1, 0], [0, 0, 0]]


def test_cell_of_the_confusion_matrix_is_the_darker_the_larger_its_part_of_the_row(summaries):
  picture = _pixels(summaries['confusion matrix of a kind/picture'])
  side = len(picture) // 10
  assert picture.shape == (10 * side, 10 * side, 3)
  cells = picture[side // 2::side, side // 2::side].astype(int)

  def cell(fraction):
    return [round(255 - fraction ** 0.5 * (255 - dark)) for dark in (8, 48, 107)]

  expected = np.full([10, 10, 3], 255)
  expected[3, 3] = expected[3, 5] = expected[5, 5] = expected[5, 3] = cell(0.5)
  expected[4, 5] = expected[6, 5] = expected[7, 5] = cell(1)
  np.testing.assert_array_equal(cells, expected)


def test_picture_and_table_of_the_confusion_matrix_name_the_classes_in_order(summaries):
  description = summaries['confusion matrix of a kind/picture'].metadata.summary_description
  assert ', '.join(CLASSES) in description
  lines = _text(summaries['confusion matrix of a kind/counts']).splitlines()
  assert lines[0] == '| shown, taken for | %s |' % ' | '.join(CLASSES)
  assert lines[1] == '|' + ' --- |' * 11
  assert lines[5] == '| class 3 | 0 | 0 | 0 | 2 | 0 | 2 | 0 | 0 | 0 | 0 |'
  assert len(lines) == 12


def _text(value):
  assert value.metadata.plugin_data.plugin_name == 'text'
  [text] = tf.make_ndarray(value.tensor)
  return text.decode()


def test_mistakes_are_shown_the_surest_first_under_what_they_were_taken_for(summaries):
  assert {tag for tag in summaries if 'taken for' in tag} == {
      'mistakes of a kind/taken for class 3', 'mistakes of a kind/taken for class 5'}
  # Image 1 is a mistake too, but there are four surer ones.
  row = _pixels(summaries['mistakes of a kind/taken for class 5'])
  width = row.shape[1] // 4
  assert row[5, width // 3::width, 0].tolist() == [4, 6, 7, 8]
  lines = _text(summaries['mistakes of a kind/names']).splitlines()
  assert lines[7] == ('| class 5 | class 4 (0.900, image 4), class 3 (0.800, image 6), '
                      'class 6 (0.700, image 7), class 7 (0.650, image 8) |')
  assert lines[2] == '| class 0 |  |'


def test_perfect_network_makes_no_mistakes():
  summary = cifar10_confusion.summary(np.arange(10), np.eye(10), CLASSES, None)
  assert not [value.tag for value in summary.value if 'taken for' in value.tag]
  assert {value.simple_value for value in summary.value if value.tag.startswith('recall/')} == {1}
