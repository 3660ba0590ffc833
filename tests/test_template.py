"""Other networks in the tutorial's frame: on one device, with towers and in a cluster alike."""

import importlib

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_eval
import cifar10_multi_gpu_train
import cifar10_train
from cifar10_support import freezing
from cifar10_support.console import UserError
from test_cluster_replica import _in_threads, _start_job

cluster_main = importlib.import_module('cifar10_cluster.__main__')

FLAGS = tf.app.flags.FLAGS

IMAGES = np.random.RandomState(0).normal(size=[6, 24, 24, 3]).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 4, 9], np.int32)
FROZEN, LEARNED = (np.random.RandomState(seed).normal(size=size).astype(np.float32)
                   for seed, size in ((1, [20, 8]), (2, [8, 10])))
DECAY, STATISTICS_DECAY, RATE, STEPS = 0.3, 0.9, 0.1, 3


def _features(images):
  return tf.reshape(images, [-1, 24 * 24 * 3])[:, :20]


def network(images, training=False, is_frozen_trainable=False):
  """A frozen layer, batch normalisation, a layer with a regularizer, a variable nobody uses."""
  with tf.variable_scope('frozen'):
    weights = tf.get_variable('weights', initializer=FROZEN, trainable=is_frozen_trainable)
    x = tf.matmul(_features(images), weights)
  with tf.variable_scope('normalised'):
    mean = tf.get_variable('mean', [8], initializer=tf.zeros_initializer(), trainable=False)
    if training:
      of_batch = tf.reduce_mean(x, axis=0)
      tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, mean.assign_sub(
          (1 - STATISTICS_DECAY) * (mean - of_batch)).op)
      x -= of_batch
    else:
      x -= mean
  with tf.variable_scope('learned'):
    weights = tf.get_variable('weights', initializer=LEARNED,
                              regularizer=lambda weights: DECAY * tf.nn.l2_loss(weights))
    tf.get_variable('unused', initializer=[5.0, 6.0])
    return tf.matmul(x, weights) + tf.get_variable('biases', initializer=tf.zeros([10]))


class TwoOptimizers:
  """Adam for the weights, plain descent for the rest: what the scripts ask of an optimizer."""

  def __init__(self, rate, examples_per_step=None):
    self._adam = tf.train.AdamOptimizer(RATE)
    self._descent = tf.train.GradientDescentOptimizer(RATE)
    self.compute_gradients = self._descent.compute_gradients

  def apply_gradients(self, gradients, global_step):
    weights = [pair for pair in gradients if pair[1].op.name.endswith('weights')]
    others = [pair for pair in gradients if pair not in weights]
    with tf.control_dependencies([self._adam.apply_gradients(weights)]):
      return self._descent.apply_gradients(others, global_step=global_step)


def _reference(for_weights):
  """Three steps in a graph of a few lines; returns the expected variables by their names."""
  with tf.Graph().as_default(), tf.Session() as session:
    x = _features(IMAGES) @ FROZEN
    weights = tf.get_variable('weights', initializer=LEARNED)
    biases = tf.get_variable('biases', [10], initializer=tf.zeros_initializer())
    logits = tf.matmul(x - tf.reduce_mean(x, axis=0), weights) + biases
    loss = tf.reduce_mean(-tf.reduce_sum(tf.nn.log_softmax(logits) * np.eye(10)[LABELS], axis=1))
    of_weights, of_biases = tf.gradients(loss + DECAY / 2 * tf.reduce_sum(weights ** 2),
                                         [weights, biases])
    steps = [for_weights().apply_gradients([(of_weights, weights)]),
             biases.assign_sub(RATE * of_biases)]
    session.run(tf.global_variables_initializer())
    values = [session.run(weights)]
    for _ in range(STEPS):
      session.run(steps)
      values.append(session.run(weights))
    biases = session.run(biases)
  mean = (1 - STATISTICS_DECAY ** STEPS) * np.mean(IMAGES.reshape(6, -1)[:, :20] @ FROZEN, axis=0)
  average = values[0]
  for i, value in enumerate(values[1:], 1):
    decay = min(cifar10.MOVING_AVERAGE_DECAY, (1 + i) / (10 + i))
    average = decay * average + (1 - decay) * value
  return {'learned/weights': values[-1], 'learned/weights/ExponentialMovingAverage': average,
          'learned/biases': biases,
          'normalised/mean': mean, 'frozen/weights': FROZEN, 'learned/unused': [5.0, 6.0]}


def _on_one_device(data_set):
  cifar10_train.train(data_set)


def _with_towers(data_set):
  cifar10_multi_gpu_train.train(data_set)


def _in_a_cluster(data_set):
  def train(replica):
    with replica.running():
      cluster_main.train(replica, data_set)

  _in_threads(*[lambda replica=replica: train(replica) for replica in _start_job()])


@pytest.fixture
def train(small_data_set, tmp_path, monkeypatch, from_flags):
  """A function that trains three steps, each on the same batch, also in each tower."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(cifar10, 'distorted_inputs', lambda data_set: (
      tf.constant(IMAGES), tf.constant(LABELS)))
  FLAGS(['pytest', f'--max_steps={STEPS}', '--train_dir=train', '--num_gpus=2',
         '--save_summaries_steps=1', '--peer_timeout_secs=60'])

  def train_in(way):
    with from_flags():
      way(small_data_set)
    reader = tf.train.load_checkpoint('train')
    assert reader.get_tensor('global_step') == STEPS
    return {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}

  return train_in


WAYS = pytest.mark.parametrize('way', [_on_one_device, _with_towers, _in_a_cluster])


@WAYS
@pytest.mark.parametrize('freeze', [[], ['frozen']])
def test_batch_normalisation_a_frozen_layer_and_a_regularizer(way, freeze, train, monkeypatch):
  monkeypatch.setattr(cifar10, 'FREEZE', freeze)
  monkeypatch.setattr(cifar10, 'inference', lambda images, training=False: network(
      images, training, is_frozen_trainable=bool(freeze)))
  actual = train(way)
  for key, value in _reference(lambda: tf.train.GradientDescentOptimizer(RATE)).items():
    np.testing.assert_allclose(actual[key], value, rtol=1e-5, atol=1e-5, err_msg=key)
  assert 'frozen/weights/ExponentialMovingAverage' not in actual


@WAYS
def test_two_optimizers(way, train, monkeypatch):
  monkeypatch.setattr(cifar10, 'inference', network)
  monkeypatch.setattr(cifar10, 'gradient_descent', TwoOptimizers)
  actual = train(way)
  for key, value in _reference(lambda: tf.train.AdamOptimizer(RATE)).items():
    np.testing.assert_allclose(actual[key], value, rtol=1e-4, atol=1e-4, err_msg=key)


@WAYS
@pytest.mark.parametrize('freeze, names', [
    (['conv3'], '--freeze=conv3.*frozen, learned'), (['frozen', 'learned'], '--freeze')])
def test_freezing_what_is_not_there_or_all_ends_before_the_first_step(
    way, freeze, names, train, monkeypatch):
  monkeypatch.setattr(cifar10, 'FREEZE', freeze)
  monkeypatch.setattr(cifar10, 'inference', lambda images, training=False: network(
      images, training, is_frozen_trainable=True))
  with pytest.raises(UserError, match=names):
    train(way)


def test_statistics_of_a_frozen_scope_stay(train, monkeypatch):
  monkeypatch.setattr(cifar10, 'FREEZE', ['learned'])

  def inference(images, training=False):
    with tf.variable_scope('learned', reuse=tf.AUTO_REUSE):
      logits = network(images, training, is_frozen_trainable=True)
    return logits + tf.get_variable('bias', [10], initializer=tf.zeros_initializer())

  monkeypatch.setattr(cifar10, 'inference', inference)
  for way in (_on_one_device, _with_towers):
    actual = train(way)
    assert not actual['learned/normalised/mean'].any()
    assert actual['bias'].any()


def test_scope_of_the_same_name_further_in_is_not_frozen():
  for name in ('frozen/weights', 'block/frozen/weights'):
    tf.get_variable(name, [1])
  assert [variable.op.name for variable in freezing.variables_to_train(['frozen'])] == [
      'block/frozen/weights']


def test_network_is_told_when_it_trains(train, monkeypatch, small_data_dir):
  told = []

  def inference(images, training=False):
    told.append(training)
    return network(images, training)

  monkeypatch.setattr(cifar10, 'inference', inference)
  train(_on_one_device)
  train(_with_towers)
  FLAGS(['pytest', '--run_once', '--checkpoint_dir=train', '--data_dir=' + small_data_dir])
  cifar10_eval.evaluate()
  assert told == [True, True, True, False]
