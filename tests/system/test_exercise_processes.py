import os
import re
import subprocess
import sys

import tensorflow.compat.v1 as tf

from conftest import ROOT


def test_locally_connected_layers_are_trained_and_evaluated(small_data_dir, tmp_path):
  def run(*arguments):
    return subprocess.run(
        [sys.executable, os.path.join(ROOT, 'exercises', 'locally_connected.py'), *arguments,
         '--data_dir=' + small_data_dir, '--batch_size=8'],
        cwd=tmp_path, capture_output=True, text=True, timeout=300)

  trained = run('train', '--max_steps=2', '--log_frequency=1', '--min_queue_examples=100')
  assert (trained.returncode, trained.stderr) == (0, '')
  assert re.findall(': step ([0-9]+), loss', trained.stdout) == ['0', '1']
  reader = tf.train.load_checkpoint(str(tmp_path / 'cifar10' / 'locally_connected' / 'train'))
  shapes = reader.get_variable_to_shape_map()
  for name in ('local3/weights', 'local3/weights/ExponentialMovingAverage'):
    assert shapes[name] == [6, 6, 576, 32]

  evaluated = run('evaluate', '--run_once')
  assert (evaluated.returncode, evaluated.stderr) == (0, '')
  assert re.search(r'precision @ 1 = 0\.[0-9]{3}\n', evaluated.stdout)
  assert sorted(os.listdir(tmp_path / 'cifar10' / 'locally_connected')) == ['eval', 'train']
  assert os.listdir(tmp_path / 'cifar10') == ['locally_connected']
