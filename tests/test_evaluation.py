import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from cifar10_support import evaluation
from cifar10_support import runs
from cifar10_support.console import UserError

FLAGS = tf.app.flags.FLAGS


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'cifar10' / 'train').mkdir(parents=True)
  return tmp_path


def _found():
  return runs.find_checkpoint(FLAGS.checkpoint_dir, 'checkpoint_dir')


def _save(step, value, name='model.ckpt-%d', with_averages=True):
  """Saves one variable, its moving average, which is half of it, and one without an average."""
  with tf.Graph().as_default(), tf.Session() as session:
    _network()
    if with_averages:
      tf.train.ExponentialMovingAverage(0.5).apply(tf.trainable_variables())
    for variable in tf.global_variables():
      is_average = variable.op.name.endswith('ExponentialMovingAverage')
      variable.load(np.full(variable.shape, value / 2 if is_average else value), session)
    tf.train.Saver().save(session, 'cifar10/train/' + name % step)


def _network(units=3):
  """Adds a weight, which is trained, and a mean of batch normalisation, which is not."""
  return [tf.get_variable('weights', [units]),
          tf.get_variable('batch_norm/moving_mean', [2], trainable=False)]


def _restored():
  with tf.Session() as session:
    evaluation.restore(session, _found())
    return [value.tolist() for value in session.run(tf.global_variables())]


@pytest.mark.parametrize('use_moving_averages, weights', [(True, 4), (False, 8)])
def test_variables_are_restored_from_their_averages_or_from_themselves(
    use_moving_averages, weights):
  _save(step=3, value=8)
  FLAGS.use_moving_averages = use_moving_averages
  _network()
  # What is not trained has no average.
  assert _restored() == [[weights] * 3, [8] * 2]


def test_variable_without_an_average_is_restored_from_itself():
  _save(step=3, value=8)
  tf.get_variable('batch_norm/moving_mean', [2])  # Here it is trained; there it was frozen.
  assert _restored() == [[8] * 2]


def test_checkpoint_without_averages_says_which_flag_does_without(home):
  _save(step=3, value=8, with_averages=False)
  _network()
  with pytest.raises(UserError, match='model.ckpt-3 .*--use_moving_averages=false'):
    _restored()
  FLAGS.use_moving_averages = False
  assert _restored() == [[8] * 3, [8] * 2]


# The last two are names that other programs gave.
@pytest.mark.parametrize('name', ['model.ckpt-%d', 'cifar_net-%d', 'my_model_%d'])
def test_checkpoint_is_the_latest_or_the_named_one(name, home):
  for step in (150000, 90000, 300000):
    _save(step, value=step / 100, name=name)
  FLAGS.use_moving_averages = False
  _network()
  for named, step in [('', 300000), (name % 90000, 90000), (name % 90000 + '.index', 90000)]:
    FLAGS.checkpoint_dir = os.path.join('cifar10/train', named)
    assert _restored() == [[step / 100] * 3, [step / 100] * 2]
    assert _found().step == step  # It is in the name alone.
    assert runs.directory_and_path(FLAGS.checkpoint_dir, 'any')[0].rstrip('/') == 'cifar10/train'
  # Of those that no file `checkpoint` names, the one with the highest step counts as the latest.
  (home / 'cifar10' / 'train' / 'checkpoint').unlink()
  FLAGS.checkpoint_dir = 'cifar10/train'
  assert _found().path == 'cifar10/train/' + name % 300000


@pytest.mark.parametrize('named', ['cifar10/train', 'elsewhere', 'cifar10/train/model.ckpt-7'])
def test_missing_checkpoint_is_an_error_that_names_the_place(named):
  FLAGS.checkpoint_dir = named
  with pytest.raises(UserError, match=named):
    _found()


def test_checkpoint_of_another_network_is_refused_and_the_variable_named(home):
  _save(step=1, value=10)
  _network(units=5)
  with pytest.raises(UserError, match=r'model\.ckpt-1 .*weights/ExponentialMovingAverage.*\[3\]'):
    _restored()
