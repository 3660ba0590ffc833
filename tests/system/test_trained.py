"""The trained network that comes with the project, on the real images and in other programs."""

import json
import os
import re
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest
import tensorflow.compat.v1 as tf

import cifar10_eval
import cifar10_predict
from cifar10_support import dataset
from conftest import DATA
from conftest import TRAINED
import numpy_network

FLAGS = tf.app.flags.FLAGS


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.mark.skipif(not dataset.locate(DATA), reason='CIFAR-10 is not there: $CIFAR10_DATA_DIR')
@pytest.mark.parametrize('args', [[], ['--use_moving_averages=false'], ['--multiview']])
def test_precision_is_that_of_the_model_card(args, capsys):
  with open(os.path.join(TRAINED, 'README.md')) as card:
    text = card.read()
  command = ' '.join(['python cifar10_eval.py --checkpoint_dir=cifar10/trained --run_once'] + args)
  [precision] = re.findall(r'\| ([\d.]+) \| `%s` \|' % re.escape(command), text)
  FLAGS(['cifar10_eval.py', '--data_dir=' + DATA, '--checkpoint_dir=' + TRAINED, '--run_once',
         *args])
  cifar10_eval.main()
  assert 'precision @ 1 = %s\n' % precision in capsys.readouterr().out


@pytest.fixture
def picture(home):
  """A picture of noise, written to picture.png."""
  pixels = np.random.RandomState(0).randint(0, 256, [32, 32, 3]).astype(np.uint8)
  Image.fromarray(pixels).save('picture.png')
  return pixels


@pytest.fixture
def expected(picture):
  """What numpy's network answers."""
  return numpy_network.probabilities(numpy_network.central_crop(picture[np.newaxis]),
                                     numpy_network.averages(TRAINED))


@pytest.fixture
def exported(home):
  FLAGS(['cifar10_predict.py', '--checkpoint_dir=' + TRAINED, '--export_dir=exported'])
  assert cifar10_predict.main([]) == 0


def test_exported_network_works_in_tensorflows_own_command(home, exported, expected):
  command = [sys.executable, '-m', 'tensorflow.python.tools.saved_model_cli']
  signature = ['--dir=exported', '--tag_set=serve', '--signature_def=serving_default']
  process = subprocess.run(command + ['show'] + signature, capture_output=True, text=True)
  tensors = re.findall(r"(in|out)puts\['(\w+)'\].*\n.*dtype: (\w+)\n *shape: (.*)", process.stdout)
  assert tensors == [('in', 'pictures', 'DT_STRING', '(-1)'),
                     ('out', 'classes', 'DT_STRING', '(-1, 10)'),
                     ('out', 'probabilities', 'DT_FLOAT', '(-1, 10)')]
  np.save('pictures.npy', [(home / 'picture.png').read_bytes()])
  process = subprocess.run(
      command + ['run'] + signature + ['--inputs=pictures=pictures.npy', '--outdir=.'],
      capture_output=True, text=True)
  assert process.returncode == 0, process.stderr
  np.testing.assert_allclose(np.load('probabilities.npy'), expected, rtol=1e-3, atol=1e-6)
  assert np.load('classes.npy', allow_pickle=True).astype(str).tolist() == [list(dataset.CLASSES)]


def test_exported_network_works_in_tensorflow_2(home, exported, expected):
  code = """
import json
import tensorflow as tf
predict = tf.saved_model.load('exported').signatures['serving_default']
pictures = tf.constant([open('picture.png', 'rb').read()])
print(json.dumps({name: value.numpy().astype(str if name == 'classes' else float).tolist()
                  for name, value in predict(pictures=pictures).items()}))
"""
  process = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  answer = json.loads(process.stdout)
  np.testing.assert_allclose(answer['probabilities'], expected, rtol=1e-3, atol=1e-6)
  assert answer['classes'] == [list(dataset.CLASSES)]
