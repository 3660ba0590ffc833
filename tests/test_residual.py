import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10
from cifar10_support import freezing
from cifar10_support.console import UserError
from exercises import residual


def test_network_has_twenty_layers_and_as_many_parameters_as_the_tutorials():
  logits = residual.inference(tf.zeros([5, 24, 24, 3]), training=True)
  assert logits.shape.as_list() == [5, 10]
  kernels = [v for v in tf.trainable_variables() if v.op.name.endswith('/weights')]
  assert len(kernels) == 20
  # 3x3 kernels from 3 to 32, 32 to 32 (6), to 64, 64 (5), to 128, 128 (5); two numbers for each
  # channel of the 19 convolutions; and 128 x 10 weights with 10 biases.
  expected = (9 * (3 * 32 + 6 * 32**2 + 32 * 64 + 5 * 64**2 + 64 * 128 + 5 * 128**2)
              + 2 * (7 * 32 + 6 * 64 + 6 * 128) + 1290)
  assert sum(v.shape.num_elements() for v in tf.trainable_variables()) == expected == 1073962
  assert len(freezing.update_ops([])) == 2 * 19


def test_batch_normalisation_against_numpy():
  x = np.random.RandomState(0).normal(3, 2, size=[4, 5, 5, 2]).astype(np.float32)
  with tf.variable_scope('it'):
    in_training = residual.batch_normalization(tf.constant(x), training=True)
  with tf.variable_scope('it', reuse=True):
    in_evaluation = residual.batch_normalization(tf.constant(x), training=False)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    of_batch = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    np.testing.assert_allclose(session.run(in_training), (x - of_batch[0]) / np.sqrt(
        of_batch[1] + 0.001), rtol=1e-4, atol=1e-4)
    for _ in range(3):
      session.run(freezing.update_ops([]))
    # From 0 and 1, a hundredth of the way in each step; the variance of a sample is unbiased.
    share = 1 - 0.99 ** 3
    mean, variance = share * of_batch[0], 1 - share + share * of_batch[1] * 100 / 99
    np.testing.assert_allclose(session.run(in_evaluation), (x - mean) / np.sqrt(variance + 0.001),
                               rtol=1e-4, atol=1e-4)


def test_shortcut_skips_pixels_and_has_zeros_for_new_channels():
  x = np.abs(np.random.RandomState(0).normal(size=[2, 8, 8, 32])).astype(np.float32)
  output = residual.residual_block(tf.constant(x), 64, 2, 'block', training=False)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for variable in tf.trainable_variables():
      if variable.op.name == 'block/second/scale':  # Then the block changes nothing.
        variable.load(np.zeros(64), session)
    np.testing.assert_array_equal(session.run(output), np.concatenate(
        [x[:, ::2, ::2], np.zeros([2, 4, 4, 32])], axis=-1))


@pytest.mark.parametrize('arguments', [[], ['learn'], ['train', 'now']])
def test_wrong_argument_is_one_line(arguments, monkeypatch):
  monkeypatch.setattr(cifar10, 'inference', cifar10.inference)
  with pytest.raises(UserError, match='train, evaluate, or predict'):
    residual.main(arguments)
