"""The exported network, converted, in the runtimes of phones and browsers: docs/deploying.md."""

import base64
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

from absl.testing import flagsaver
import numpy as np
from PIL import Image
import pytest
import tensorflow.compat.v1 as tf

from cifar10_support import dataset
from conftest import ROOT
from conftest import TRAINED
import deployed

FLAGS = tf.app.flags.FLAGS

PATH = os.pathsep.join([os.environ['PATH'], os.path.join(ROOT, '.venv-tfjs', 'bin')])


def _needs_package(name):
  return pytest.mark.skipif(not importlib.util.find_spec(name),
                            reason=f"{name} is not installed: pip install -e '.[deploy]'.")


def _has_tfjs():
  if not (shutil.which('node') and shutil.which('tensorflowjs_converter', path=PATH)):
    return False
  script = "require('@tensorflow/tfjs-converter'); require('@tensorflow/tfjs-backend-wasm')"
  return not subprocess.run(['node', '-e', script], capture_output=True, cwd=ROOT).returncode


NEEDS_TFJS = pytest.mark.skipif(not _has_tfjs(), reason='TensorFlow.js, or its converter, is not '
                                'installed: see docs/deploying.md.')
# What docs/deploying.md calls the converted network.
NAMES = {'TensorFlow Lite': 'cifar10.tflite', 'ONNX': 'cifar10.onnx',
         'TensorFlow.js': 'cifar10_tfjs'}
FORMS = [pytest.param('TensorFlow Lite', marks=_needs_package('ai_edge_litert')),
         pytest.param('ONNX', marks=[_needs_package('tf2onnx'), _needs_package('onnxruntime')]),
         pytest.param('TensorFlow.js', marks=NEEDS_TFJS)]


@pytest.fixture(scope='module', params=[False, True], ids=['centre', 'ten crops'])
def exported(request, tmp_path_factory):
  """A SavedModel, images, and what cifar10_predict.py says about those as pictures."""
  folder = tmp_path_factory.mktemp('exported')
  random = np.random.RandomState(0)
  images = np.zeros([8, 32, 32, 3], np.uint8)  # The first is black.
  images[1] = 255
  images[2] = 254
  images[2, 16, 16] = 255
  images[3, ::2, ::2] = 255
  images[4:7] = random.randint(0, 256, [3, 32, 32, 3])
  images[7] = np.array(Image.open(os.path.join(ROOT, 'docs', 'images', 'cat.png')).convert('RGB'))
  paths = [str(folder / f'{i}.png') for i in range(len(images))]
  for image, path in zip(images, paths):
    Image.fromarray(image).save(path)
  model = str(folder / 'models' / '1')
  with flagsaver.flagsaver(checkpoint_dir=TRAINED, multiview=request.param):
    return model, images, deployed.classify(paths, model)


@pytest.fixture
def page():
  with open(os.path.join(ROOT, 'docs', 'deploying.md'), encoding='utf-8') as file:
    return file.read()


def _code(page, word):
  """Returns the page's only block of Python in which a word occurs."""
  [block] = [block for block in re.findall(r'```python\n(.*?)```', page, re.S) if word in block]
  return block


@pytest.mark.parametrize('form', FORMS)
def test_converted_network_answers_as_the_script(form, exported, tmp_path, monkeypatch, page):
  model, images, expected = exported
  assert dataset.CLASSES[expected[7].argmax()] == 'cat' and np.ptp(expected, axis=0).max() > 0.5
  monkeypatch.chdir(tmp_path)
  converted = NAMES[form]
  assert deployed.CONVERTERS[form].format(model='models/cifar10/1', converted=converted) in page
  deployed.convert(form, model, converted)
  for few, answers in [(images, expected), (images[-1:], expected[-1:])]:
    found = deployed.RUNTIMES[form](converted, few)
    assert found.shape == answers.shape
    np.testing.assert_allclose(found, answers, rtol=0, atol=1e-5)
  if form != 'TensorFlow.js':
    names = {'images': images}
    exec(_code(page, converted), names)
    np.testing.assert_allclose(names['probabilities'], expected, rtol=0, atol=1e-5)


def test_page_loads_the_exported_network(exported, tmp_path, page):
  model, images, expected = exported
  shutil.copytree(model, tmp_path / 'models' / 'cifar10' / '1')
  np.save(tmp_path / 'images.npy', images)
  code = '\n'.join(['import numpy as np', 'import tensorflow as tf',
                    "images = np.load('images.npy')", _code(page, 'signatures'),
                    "np.save('answer.npy', probabilities)"])
  subprocess.run([sys.executable, '-c', code], check=True, cwd=tmp_path, capture_output=True)
  np.testing.assert_allclose(np.load(tmp_path / 'answer.npy'), expected, rtol=0, atol=1e-5)


def test_request_of_the_page(exported, tmp_path, page):
  """As TensorFlow Serving reads it: the value of b64, decoded, is one of the strings."""
  model, _, expected = exported
  [command] = re.findall('^echo .*> request.json$', page, re.M)
  command = command.replace('docs/images', os.path.join(ROOT, 'docs', 'images'))
  subprocess.run(['bash', '-c', command], check=True, cwd=tmp_path)
  request = json.loads((tmp_path / 'request.json').read_text())
  contents = [base64.b64decode(instance['b64']) for instance in request['instances']]
  found = deployed.run_saved_model(model, 'serving_default', contents)
  np.testing.assert_allclose(found, expected[-1:], rtol=0, atol=1e-5)


def test_pictures_of_other_sizes_and_kinds(tmp_path):
  """The exported network takes the files themselves; the script's come through Pillow."""
  random = np.random.RandomState(0)
  colours = Image.fromarray(random.randint(0, 256, [6, 9, 4], np.uint8)).resize([180, 120])
  paths = [str(tmp_path / name) for name in ('a.jpg', 'b.png', 'c.png', 'd.gif', 'e.bmp')]
  for path, mode in zip(paths, ['RGB', 'RGBA', 'L', 'P', 'RGB']):
    colours.convert(mode).save(path)
  FLAGS(['pytest', '--checkpoint_dir=' + TRAINED])
  expected = deployed.classify(paths, str(tmp_path / 'model'))
  contents = [(tmp_path / os.path.basename(path)).read_bytes() for path in paths]
  found = deployed.run_saved_model(str(tmp_path / 'model'), 'serving_default', contents)
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_benchmark_leaves_out_what_does_not_convert(small_data_dir, monkeypatch, capsys):
  FLAGS(['pytest', '--checkpoint_dir=' + TRAINED, '--data_dir=' + small_data_dir,
         '--num_images=3'])
  monkeypatch.setattr(deployed, 'CONVERTERS', {
      'TensorFlow Lite': 'no-such-converter {model} {converted}',
      'ONNX': 'python -m no_such_module {model} {converted}',
      'TensorFlow.js': 'no-such-converter {model} {converted}'})
  deployed.main()
  out, err = capsys.readouterr()
  differences = [float(line.split()[-1]) for line in out.splitlines() if '`' in line]
  assert len(differences) == 2 and max(differences) < 1e-5
  missing, failed, _ = err.splitlines()
  assert 'no-such-converter' in missing and 'no_such_module' in failed
