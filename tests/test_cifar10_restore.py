import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_restore
import numpy_network
from cifar10_console import UserError

FLAGS = cifar10_restore.FLAGS


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


def test_without_a_checkpoint_is_one_sentence():
  with pytest.raises(UserError, match='There is no checkpoint in cifar10/train: train first, or'):
    cifar10_restore.latest_checkpoint(cifar10_restore.checked_checkpoint_dir())


@pytest.mark.parametrize('flag, run, expected', [
    ([], {'top_layers': 'local'}, 'local'), ([], {}, 'dense'),
    (['--top_layers=dense'], {'top_layers': 'local'}, 'dense')])
def test_top_layers_are_those_of_the_run_but_for_the_flag(flag, run, expected, save):
  save(1, max_steps=1, flags=run)
  FLAGS(['pytest', *flag])
  cifar10_restore.take_top_layers('cifar10/train')
  assert FLAGS.top_layers == expected


@pytest.mark.parametrize('averages, expected', [(True, 2), (False, 3)])
def test_variables_are_restored_from_their_averages_or_from_themselves(averages, expected):
  FLAGS.use_moving_averages = averages
  cifar10_restore.probabilities(tf.zeros([1, 24, 24, 3]))
  variables = tf.trainable_variables()
  restorer = cifar10_restore.Restorer()
  tf.train.ExponentialMovingAverage(0.5).apply(variables)
  tf.train.get_or_create_global_step()
  with tf.Session() as session:
    for variable in tf.global_variables():
      value = 2 if 'ExponentialMovingAverage' in variable.op.name else 3
      variable.load(np.full(variable.shape, value), session)
    checkpoint = tf.train.Saver().save(session, 'model.ckpt-3')
    session.run(tf.global_variables_initializer())
    assert restorer.restore(session, checkpoint) == 3
    for values in session.run(variables):
      assert np.unique(values).tolist() == [expected]


@pytest.mark.parametrize('multiview', [False, True])
def test_probabilities_are_those_of_numpy(multiview, save):
  save(1, max_steps=1)
  FLAGS.multiview = multiview
  shape = [2, 10, 24, 24, 3] if multiview else [2, 24, 24, 3]
  images = np.random.RandomState(0).normal(size=shape).astype(np.float32)
  probabilities = cifar10_restore.probabilities(tf.constant(images))
  checkpoint = cifar10_restore.latest_checkpoint('cifar10/train')
  with tf.Session() as session:
    cifar10_restore.Restorer().restore(session, checkpoint)
    actual = session.run(probabilities)
  expected = numpy_network.probabilities(images.reshape([-1, 24, 24, 3]),
                                         numpy_network.averages('cifar10/train'))
  if multiview:
    expected = expected.reshape([2, 10, cifar10.NUM_CLASSES]).mean(axis=1)
  np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-6)
