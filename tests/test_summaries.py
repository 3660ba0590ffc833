import io

import numpy as np
from PIL import Image
import pytest
import tensorflow.compat.v1 as tf

from cifar10_support import summaries


def _collected():
  """Returns what the graph's summaries hold, by tag."""
  with tf.Session() as session:
    summary = tf.Summary.FromString(session.run(tf.summary.merge_all()))
  return {value.tag: value for value in summary.value}


def test_histogram_of_a_large_tensor_has_a_share_of_each_channel():
  channels = np.broadcast_to(np.arange(384.0, dtype=np.float32), [1000, 384])
  for name, values in (('known', channels),
                       ('unknown', tf.placeholder_with_default(channels, [None, 384]))):
    summaries.histogram(name, tf.convert_to_tensor(values))
  by_tag = _collected()
  assert by_tag.keys() == {'known', 'unknown'}
  for histogram in (value.histo for value in by_tag.values()):
    # The stride by hand: a multiple of six and one.
    assert histogram.num == -(-384000 // 37)
    np.testing.assert_allclose(histogram.sum / histogram.num, 383 / 2, rtol=0.01)
    variance = histogram.sum_squares / histogram.num - (histogram.sum / histogram.num) ** 2
    np.testing.assert_allclose(variance, (384 ** 2 - 1) / 12, rtol=0.01)
    assert (histogram.min, histogram.max) == (0, 383)


def test_histogram_of_a_small_tensor_is_of_all_its_values():
  values = np.random.RandomState(1).normal(size=[100, 100])
  summaries.histogram('small', tf.constant(values))
  histogram = _collected()['small'].histo
  assert histogram.num == 10000
  np.testing.assert_allclose([histogram.sum, histogram.sum_squares],
                             [values.sum(), (values ** 2).sum()], rtol=1e-9)


def test_tag_is_the_one_given_in_any_scope_and_numbered_if_it_is_taken():
  with tf.name_scope('tower_0') as scope:
    summaries.scalar('layer/sparsity', tf.constant(0.25))
  summaries.scalar('layer/sparsity', tf.constant(0.5))
  summaries.scalar('layer/sparsity', tf.constant(0.75))
  assert len(tf.get_collection(tf.GraphKeys.SUMMARIES, scope)) == 1
  assert sorted((tag, value.simple_value) for tag, value in _collected().items()) == [
      ('layer/sparsity', 0.25), ('layer/sparsity_1', 0.5), ('layer/sparsity_2', 0.75)]


@pytest.mark.parametrize('count, side', [(5, 3), (32, 6), (64, 8), (128, 12)])
def test_filters_are_drawn_in_one_grid(count, side):
  # Each filter has one colour: the first is red, the second green, the last blue, all others black.
  kernel = np.zeros([5, 5, 3, count], np.float32)
  kernel[..., 0, 0] = kernel[..., 1, 1] = kernel[..., 2, -1] = 1.0
  summaries.filters('conv1/filters', tf.constant(kernel))
  image = _collected()['conv1/filters/image'].image
  pixels = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
  expected = np.zeros([6 * side, 6 * side, 3])
  expected[0:5, 0:5, 0] = expected[0:5, 6:11, 1] = 255
  row, column = 6 * ((count - 1) // side), 6 * ((count - 1) % side)
  expected[row:row + 5, column:column + 5, 2] = 255
  np.testing.assert_array_equal(pixels, expected)


def test_filters_without_colours_are_not_drawn():
  summaries.filters('filters', tf.zeros([5, 5, 64, 64]))
  assert not tf.get_collection(tf.GraphKeys.SUMMARIES)
