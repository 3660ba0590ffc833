import os
import re

from PIL import Image
import tensorflow.compat.v1 as tf

import warm_process


def test_locally_connected_layers_are_trained_and_evaluated(small_data_dir, tmp_path):
  def run(*arguments):
    process = warm_process.WarmProcess(
        tmp_path, 'exercises/locally_connected.py',
        [*arguments, '--data_dir=' + small_data_dir, '--batch_size=8'])
    assert (process.wait(), process.err) == (0, '')
    return process.out

  trained = run('train', '--max_steps=2', '--log_frequency=1', '--min_queue_examples=100')
  assert re.findall(': step ([0-9]+), loss', trained) == ['0', '1']
  reader = tf.train.load_checkpoint(str(tmp_path / 'cifar10' / 'locally_connected' / 'train'))
  shapes = reader.get_variable_to_shape_map()
  for name in ('local3/weights', 'local3/weights/ExponentialMovingAverage'):
    assert shapes[name] == [6, 6, 576, 32]

  evaluated = run('evaluate', '--run_once')
  assert re.search(r'precision @ 1 = 0\.[0-9]{3}\n', evaluated)
  assert sorted(os.listdir(tmp_path / 'cifar10' / 'locally_connected')) == ['eval', 'train']
  assert os.listdir(tmp_path / 'cifar10') == ['locally_connected']


def test_residual_network_is_trained_with_towers_evaluated_and_predicts(small_data_dir, tmp_path):
  def run(*arguments):
    process = warm_process.WarmProcess(tmp_path, 'exercises/residual.py', arguments)
    assert (process.wait(), process.err) == (0, '')
    return process.out

  data = f'--data_dir={small_data_dir}'
  train = ('train', data, '--batch_size=4', '--min_queue_examples=100', '--log_frequency=1')
  run(*train, '--max_steps=2')
  assert 'from step 2' in run(*train, '--max_steps=3', '--num_gpus=2')
  assert re.search(r'precision @ 1 = 0\.[0-9]{3}\n', run('evaluate', data, '--run_once'))
  Image.new('RGB', (40, 30)).save(tmp_path / 'picture.png')
  assert run('predict', 'picture.png').count('%') == 10
  reader = tf.train.load_checkpoint(str(tmp_path / 'cifar10' / 'residual' / 'train'))
  assert reader.get_tensor('conv1/mean').any()  # The update ops have run.
