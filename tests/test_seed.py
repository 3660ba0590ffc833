import itertools
import time

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10_input
import cifar10_multi_gpu_train
import cifar10_train
from cifar10_support import checkpoints
from cifar10_support import training

FLAGS = tf.app.flags.FLAGS


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, small_data_dir):
  monkeypatch.chdir(tmp_path)
  FLAGS(['pytest', f'--data_dir={small_data_dir}', '--batch_size=8', '--min_queue_examples=40',
         '--log_frequency=1', '--save_summaries_steps=2'])
  return tmp_path


def _batches(data_set, seed, pauses, count=40):
  """Returns what the pipeline for training gives to somebody who pauses before some batches."""
  with tf.Graph().as_default(), tf.Session() as session:
    tf.set_random_seed(seed)
    batch = cifar10_input.training_batches(data_set, 30, min_queue_examples=100)
    coordinator = tf.train.Coordinator()
    threads = tf.train.start_queue_runners(session, coordinator)
    batches = []
    for pause in itertools.islice(pauses, count):
      time.sleep(pause)
      batches.append(session.run(batch))
    coordinator.request_stop()
    coordinator.join(threads)
  return [np.stack(parts) for parts in zip(*batches)]


def test_batches_are_the_same_however_slowly_they_are_taken(small_data_set):
  images, labels = _batches(small_data_set, 1, itertools.repeat(0))
  for pauses in itertools.repeat(0), itertools.cycle([0.02, 0, 0, 0, 0, 0]):
    images_again, labels_again = _batches(small_data_set, 1, pauses)
    np.testing.assert_array_equal(labels_again, labels)
    np.testing.assert_array_equal(images_again, images)
  # Shuffled they are: the first batches have images from all over the 500.
  assert len({image.tobytes() for image in images.reshape(-1, 24 * 24 * 3)}) == 40 * 30


@pytest.mark.parametrize('one, other', [(1, 2), (None, None)])
def test_batches_differ_with_another_seed_or_none(small_data_set, one, other):
  first, second = (_batches(small_data_set, seed, itertools.repeat(0), 2)[0]
                   for seed in (one, other))
  assert not np.array_equal(first, second)


def _data(directory):
  """Returns the bytes of all variables in the last checkpoint."""
  path = checkpoints.latest_intact(str(directory)).path
  with open(f'{path}.data-00000-of-00001', 'rb') as contents:
    return contents.read()


def _losses(output):
  """Returns what the log lines say before the speed."""
  return [line.split(': ', 1)[1].split(' (')[0] for line in output.splitlines()
          if ', loss = ' in line]


def _run(directory, capsys, *flags, module=cifar10_train):
  FLAGS(['pytest', f'--train_dir={directory}', *flags])
  capsys.readouterr()
  module.main()
  output = capsys.readouterr().out
  return _losses(output), _data(directory), output


def test_two_runs_are_the_same_to_the_last_bit_and_so_are_their_continuations(home, capsys):
  a, b = (_run(name, capsys, '--seed=7', '--max_steps=3') for name in 'ab')
  assert len(a[0]) == 3 and a[:2] == b[:2]
  c, d = (_run(name, capsys, '--max_steps=5') for name in 'ab')
  assert c[:2] == d[:2]
  [line] = [line for line in c[2].splitlines() if '--seed' in line]
  assert 'step 3' in line and '--seed' not in a[2]


def test_resumed_run_does_not_see_the_first_images_again(home, save):
  FLAGS(['pytest', '--seed=7'])
  first = training.graph_seed()
  save(100, max_steps=200)
  assert training.graph_seed() not in (None, first)
  FLAGS.restart = True
  assert training.graph_seed() == first == 7


def test_without_the_flag_nothing_is_seeded(home, save):
  save(100, max_steps=200)
  assert training.graph_seed() is None


def test_several_towers_are_told_that_nothing_is_promised(home, capsys):
  output = _run('towers', capsys, '--seed=7', '--max_steps=1', '--num_gpus=2',
                module=cifar10_multi_gpu_train)[2]
  assert [line for line in output.splitlines() if '--seed' in line and 'towers' in line]


def test_a_single_tower_is_repeatable(home, capsys):
  a, b = (_run(name, capsys, '--seed=7', '--max_steps=2', module=cifar10_multi_gpu_train)
          for name in 'ab')
  assert a[:2] == b[:2] and '--seed' not in a[2]


def test_a_gpu_is_told_that_nothing_is_promised(home, capsys, monkeypatch):
  monkeypatch.setattr(training.tf_setup, 'num_gpus', lambda: 1)
  monkeypatch.setattr(training.tf_setup, 'can_compile', lambda: False)
  with tf.Graph().as_default():
    train_op = tf.assign_add(tf.train.get_or_create_global_step(), 1)
    FLAGS(['pytest', '--seed=7', '--max_steps=1'])
    with training.training_session(train_op, tf.constant(1.0), 1,
                                   {'classes': ['cat', 'dog']}) as session:
      session.run(train_op)
  assert 'GPU' in capsys.readouterr().out
