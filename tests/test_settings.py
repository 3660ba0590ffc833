import contextlib
import sys

from absl import flags
import pytest
import tensorflow.compat.v1 as tf

import cifar10
from cifar10_support import synthetic
from cifar10_support import training  # noqa: F401, which defines the flags.

FLAGS = tf.app.flags.FLAGS

# For each constant the value of the tutorial, and another one.
CONSTANTS = {
    'INITIAL_LEARNING_RATE': (0.1, 0.2), 'LEARNING_RATE_SCHEDULE': ('staircase', 'linear'),
    'NUM_EPOCHS_PER_DECAY': (350.0, 30.0), 'LEARNING_RATE_DECAY_FACTOR': (0.1, 0.5),
    'MOMENTUM': (0.0, 0.9), 'WEIGHT_DECAY': (0.004, 0.001), 'CONV_WEIGHT_DECAY': (0.0, 0.002),
    'MOVING_AVERAGE_DECAY': (0.9999, 0.99), 'DISTORTION_STRENGTH': (1.0, 0.5),
    'MIN_QUEUE_EXAMPLES': (None, 300), 'MIXED_PRECISION': (False, True),
    'DATA_URL': ('https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz', 'file:///copy'),
}


@pytest.mark.parametrize('name', CONSTANTS)
def test_flag_sets_the_constant_and_afterwards_all_is_as_before(name, from_flags):
  before, given = CONSTANTS[name]
  assert getattr(cifar10, name) == before
  FLAGS(['pytest', '--%s=%s' % (name.lower(), given)])
  with from_flags():
    assert getattr(cifar10, name) == FLAGS[name.lower()].value == given
  assert getattr(cifar10, name) == before


@pytest.mark.parametrize('name', CONSTANTS)
def test_constant_that_is_set_counts_unless_the_flag_is_given(name, from_flags, monkeypatch):
  tutorials, edited = CONSTANTS[name]
  monkeypatch.setattr(cifar10, name, edited)
  with from_flags():
    assert getattr(cifar10, name) == FLAGS[name.lower()].value == edited
  assert getattr(cifar10, name) == edited
  assert FLAGS[name.lower()].value is None
  if tutorials is not None:
    FLAGS(['pytest', '--%s=%s' % (name.lower(), tutorials)])
    with from_flags():
      assert getattr(cifar10, name) == tutorials
    assert getattr(cifar10, name) == edited


def test_second_start_in_one_process_has_the_command_line_too(from_flags, monkeypatch):
  # As in a program that has not parsed it: whoever first reads a flag does.
  monkeypatch.setattr(sys, 'argv', ['x', '--initial_learning_rate=0.5', '--train_dir=mine'])
  flags.FLAGS.unparse_flags()
  for _ in range(2):
    with from_flags():
      assert cifar10.INITIAL_LEARNING_RATE == 0.5
      assert FLAGS.train_dir == 'mine'
    assert cifar10.INITIAL_LEARNING_RATE == 0.1


def test_all_is_as_before_after_an_error_too(from_flags):
  FLAGS(['pytest', '--initial_learning_rate=0.5', '--synthetic'])
  with contextlib.suppress(ZeroDivisionError), from_flags():
    raise ZeroDivisionError
  assert cifar10.INITIAL_LEARNING_RATE == 0.1
  assert FLAGS.data_dir == 'cifar10/data'
  assert cifar10.DATA_URL.startswith('https:')


def test_synthetic_data_and_their_runs_live_apart_unless_a_directory_is_named(from_flags):
  FLAGS(['pytest', '--synthetic', '--train_dir=mine'])
  with from_flags():
    assert cifar10.DATA_URL == synthetic.URL
    assert FLAGS.data_dir == 'cifar10/synthetic/data'
    assert FLAGS.train_dir == 'mine'
  assert (FLAGS.data_dir, FLAGS.train_dir) == ('cifar10/data', 'mine')
  assert cifar10.DATA_URL != synthetic.URL


@pytest.mark.parametrize('name', ['initial_learning_rate', 'momentum', 'weight_decay',
                                  'num_epochs_per_decay', 'moving_average_decay'])
@pytest.mark.parametrize('value', ['nan', '-1', 'inf'])
def test_number_that_makes_no_sense_is_refused(name, value):
  with pytest.raises(tf.app.flags.Error, match=name):
    FLAGS(['pytest', '--%s=%s' % (name, value)])
