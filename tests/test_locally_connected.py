import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10
from cifar10_support.console import UserError
from exercises import locally_connected


@pytest.fixture
def replaced(monkeypatch):
  monkeypatch.setattr(cifar10, 'fully_connected', locally_connected.locally_connected)


def test_network_has_the_variables_of_krizhevskys(replaced):
  logits = cifar10.inference(tf.zeros([2, 24, 24, 3]))
  assert logits.shape.as_list() == [2, 10]
  shapes = {variable.op.name: variable.shape.as_list() for variable in tf.trainable_variables()}
  assert shapes == {
      'conv1/weights': [5, 5, 3, 64], 'conv1/biases': [64],
      'conv2/weights': [5, 5, 64, 64], 'conv2/biases': [64],
      'local3/weights': [6, 6, 9 * 64, 32], 'local3/biases': [6, 6, 32],
      'local4/weights': [6, 6, 9 * 32, 32], 'local4/biases': [6, 6, 32],
      'softmax_linear/weights': [6 * 6 * 32, 10], 'softmax_linear/biases': [10]}
  assert sum(np.prod(shape) for shape in shapes.values()) == 1116490


def test_each_place_has_weights_of_its_own(run_graph):
  random = np.random.RandomState(0)
  images = random.normal(size=[2, 3, 4, 5]).astype(np.float32)
  with tf.variable_scope('', reuse=tf.AUTO_REUSE):
    result = locally_connected.locally_connected(tf.constant(images), 384, 'local')
    weights, biases = tf.get_variable('local/weights'), tf.get_variable('local/biases')
  [(actual, weights, biases)] = run_graph([result, weights, biases])

  expected = np.zeros([2, 3, 4, 32])
  for row in range(3):
    for column in range(4):
      sums = np.tile(biases[row, column], [2, 1])
      for dy in range(3):
        for dx in range(3):
          y, x = row + dy - 1, column + dx - 1
          if 0 <= y < 3 and 0 <= x < 4:
            start = (3 * dy + dx) * 5
            sums += images[:, y, x] @ weights[row, column, start:start + 5]
      expected[:, row, column] = np.maximum(sums, 0)
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_initial_values_and_weight_decay(run_graph, monkeypatch):
  monkeypatch.setattr(cifar10, 'WEIGHT_DECAY', 0.25)
  locally_connected.locally_connected(tf.zeros([1, 6, 6, 64]), 384, 'local3')
  weights, biases = tf.trainable_variables()
  [decay] = tf.get_collection('losses')
  [(weights, biases, decay)] = run_graph([weights, biases, decay])
  assert np.all(biases == np.float32(0.1))
  # Truncated at two standard deviations, which makes it 0.8796 times as wide.
  assert np.std(weights) == pytest.approx(0.04 * 0.8796, rel=0.01)
  assert decay == pytest.approx(0.25 * np.sum(np.square(weights, dtype=float)) / 2, rel=1e-4)


@pytest.mark.parametrize('arguments', [[], ['predict'], ['train', 'evaluate']])
def test_wrong_arguments_are_one_line(arguments, monkeypatch):
  monkeypatch.setattr(cifar10, 'fully_connected', None)
  with pytest.raises(UserError, match='train, or evaluate'):
    locally_connected.main(arguments)
