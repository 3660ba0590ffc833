"""The trained model in the box: cifar10/trained."""

import json
import os
import re

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10_dataset
import cifar10_eval
import cifar10_predict
import numpy_network
from conftest import ROOT

TRAINED = os.path.join(ROOT, 'cifar10', 'trained')
DATA = os.environ.get('CIFAR10_DATA_DIR', os.path.join(ROOT, 'cifar10', 'data'))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_prediction_is_that_of_numpy_with_the_same_variables(home, capsys):
  # A red disc on grass, large enough not to need scaling.
  y, x = np.mgrid[:32, :32] - 15.5
  picture = np.full([32, 32, 3], [60, 160, 40], np.uint8)
  picture[x * x + y * y < 100] = [220, 30, 20]
  with tf.Session() as session:
    (home / 'disc.png').write_bytes(session.run(tf.image.encode_png(picture)))
  cifar10_predict.FLAGS(['cifar10_predict.py', '--checkpoint_dir=' + TRAINED, '--json'])
  assert cifar10_predict.main(['disc.png']) == 0
  [answer] = json.loads(capsys.readouterr().out)
  expected = numpy_network.probabilities(numpy_network.center(picture[np.newaxis]),
                                         numpy_network.averages(TRAINED))[0]
  actual = {prediction['class']: prediction['probability'] for prediction in answer['predictions']}
  np.testing.assert_allclose([actual[name] for name in cifar10_dataset.CLASSES], expected,
                             rtol=1e-3, atol=1e-6)


@pytest.mark.skipif(not cifar10_dataset.locate(DATA),
                    reason='CIFAR-10 is not there: $CIFAR10_DATA_DIR')
@pytest.mark.parametrize('args', [[], ['--use_moving_averages=false'], ['--multiview']])
def test_precision_is_that_of_the_model_card(args, capsys):
  with open(os.path.join(TRAINED, 'README.md')) as card:
    text = card.read()
  command = ' '.join(['python cifar10_eval.py --checkpoint_dir=cifar10/trained --run_once'] + args)
  [precision] = re.findall(r'\| ([\d.]+) \| `%s` \|' % re.escape(command), text)
  cifar10_eval.FLAGS(['cifar10_eval.py', '--data_dir=' + DATA, '--checkpoint_dir=' + TRAINED,
                      '--run_once', *args])
  cifar10_eval.main()
  assert capsys.readouterr().out.endswith('precision @ 1 = %s\n' % precision)
