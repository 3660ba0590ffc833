"""What --init_from gains: the trained network on four classes of images that it has never seen."""

import os
import re

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_eval
import cifar10_train
from cifar10_support import dataset
from conftest import ROOT

FLAGS = tf.app.flags.FLAGS
TRAINED = os.path.join(ROOT, 'cifar10', 'trained')
DATA = os.environ.get('CIFAR10_DATA_DIR', os.path.join(ROOT, 'cifar10', 'data'))


@pytest.fixture
def four_classes(tmp_path, monkeypatch):
  """The test images of the first four classes: 3,200 to train on, 800 to test with."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(cifar10, 'NUM_CLASSES', 4)
  records = np.fromfile(os.path.join(dataset.locate(DATA), dataset.TEST_FILE), np.uint8)
  records = records.reshape(-1, dataset.RECORD_BYTES)
  records = np.concatenate([records[records[:, 0] == label] for label in range(4)])
  parts = np.split(np.random.RandomState(0).permutation(records), [640, 1280, 1920, 2560, 3200])
  for name, part in zip(dataset.TRAIN_FILES + [dataset.TEST_FILE], parts):
    part.tofile(name)
  (tmp_path / dataset.CLASSES_FILE).write_text('\n'.join(dataset.CLASSES[:4]))


@pytest.mark.skipif(not dataset.locate(DATA), reason='CIFAR-10 is not there: $CIFAR10_DATA_DIR')
@pytest.mark.parametrize('flags, least, most', [
    ([f'--init_from={TRAINED}', '--initial_learning_rate=0.05'], 0.90, 1.0),
    ([f'--init_from={TRAINED}', '--initial_learning_rate=0.05', '--freeze=conv1,conv2'], 0.88, 1.0),
    ([], 0.6, 0.8)])
def test_hundred_steps_from_the_trained_network(flags, least, most, four_classes, capsys):
  FLAGS(['cifar10_train.py', '--data_dir=.', '--max_steps=100', '--min_queue_examples=3000',
         '--run_once', *flags])
  cifar10_train.main()
  if flags:
    assert re.search('model.ckpt-150000.*softmax_linear/weights', capsys.readouterr().out)
  cifar10_eval.main()
  [precision] = re.findall(r'precision @ 1 = ([\d.]+)', capsys.readouterr().out)
  assert least <= float(precision) <= most
