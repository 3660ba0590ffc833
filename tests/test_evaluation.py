import numpy as np
import pytest

from cifar10_support import checkpoints
from cifar10_support import evaluation
from cifar10_support.console import UserError

import tensorflow.compat.v1 as tf

FLAGS = tf.app.flags.FLAGS


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def _save(step, value):
  """Saves one variable, its moving average, which is half of it, and one without an average."""
  with tf.Graph().as_default(), tf.Session() as session:
    _network()
    global_step = tf.train.get_or_create_global_step()
    tf.train.ExponentialMovingAverage(0.5).apply(tf.trainable_variables())
    for variable in tf.global_variables():
      is_average = variable.op.name.endswith('ExponentialMovingAverage')
      variable.load(np.full(variable.shape, value / 2 if is_average else value), session)
    global_step.load(step, session)
    tf.train.Saver().save(session, 'cifar10/train/model.ckpt', global_step=step)


def _network(units=3):
  """Adds a weight, which is trained, and a mean of batch normalisation, which is not."""
  return [tf.get_variable('weights', [units]),
          tf.get_variable('batch_norm/moving_mean', [2], trainable=False)]


def _restored():
  restorer = restore.Restorer()
  with tf.Session() as session:
    restorer.restore(session, restore.checkpoint())
    return [value.tolist() for value in session.run(tf.global_variables())]


@pytest.mark.parametrize('use_moving_averages, weights', [(True, 4), (False, 8)])
def test_variables_are_restored_from_their_averages_or_from_themselves(
    use_moving_averages, weights, home):
  (home / 'cifar10' / 'train').mkdir(parents=True)
  _save(step=3, value=8)
  FLAGS.use_moving_averages = use_moving_averages
  _network()
  # What is not trained has no average.
  assert _restored() == [[weights] * 3, [8] * 2]


@pytest.mark.parametrize('named, value', [
    ('cifar10/train', 20), ('cifar10/train/model.ckpt-1', 10)])
def test_checkpoint_is_the_latest_or_the_named_one(named, value, home):
  (home / 'cifar10' / 'train').mkdir(parents=True)
  _save(step=1, value=10)
  _save(step=2, value=20)
  FLAGS(['pytest', '--use_moving_averages=false', '--checkpoint_dir=' + named])
  _network()
  assert _restored() == [[value] * 3, [value] * 2]
  assert restore.checkpoint().step == value / 10
  assert restore.directory_and_path()[0] == 'cifar10/train'


@pytest.mark.parametrize('named', ['cifar10/train', 'elsewhere', 'cifar10/train/model.ckpt-7'])
def test_missing_checkpoint_is_an_error_that_names_the_place(named):
  FLAGS.checkpoint_dir = named
  with pytest.raises(UserError, match=named):
    restore.checkpoint()


def test_checkpoint_of_another_network_is_refused_and_the_variable_named(home):
  (home / 'cifar10' / 'train').mkdir(parents=True)
  _save(step=1, value=10)
  _network(units=5)
  with pytest.raises(UserError, match=r'model\.ckpt-1 .*weights/ExponentialMovingAverage.*\[3\]'):
    _restored()


def test_checkpoint_that_vanished_since_it_was_read_is_damaged(home):
  (home / 'cifar10' / 'train').mkdir(parents=True)
  _save(step=1, value=10)
  checkpoint = restore.checkpoint()
  for path in (home / 'cifar10' / 'train').glob('model.ckpt-1.*'):
    path.unlink()
  _network()
  restorer = restore.Restorer()
  with tf.Session() as session, pytest.raises(checkpoints.Damaged, match='model.ckpt-1'):
    restorer.restore(session, checkpoint)
