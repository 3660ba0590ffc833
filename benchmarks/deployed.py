"""Exports the network, converts it, and compares the answers with those of cifar10_predict.py.

  python benchmarks/deployed.py --checkpoint_dir=cifar10/trained

It needs `pip install -e '.[deploy]'`; for TensorFlow.js what docs/deploying.md names. A form for
which something is not installed is left out. Prints for each form the largest difference of a
probability, over all classes of the first test images.
"""

from cifar10_support import tf_setup  # First: it imports TensorFlow without its chatter.

import os
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_predict
from cifar10_support import console
from cifar10_support import settings
from cifar10_support.console import UserError

FLAGS = tf.app.flags.FLAGS

tf.app.flags.DEFINE_integer('num_images', 1000, 'Test images to classify.', lower_bound=1)
console.adopt_flags(cifar10_predict)
tf.app.flags.declare_key_flag('data_dir')

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)

# From {model}, a SavedModel, to {converted}, each with the `images` signature only.
CONVERTERS = {
    'TensorFlow Lite': 'tflite_convert --saved_model_dir={model} '
                       '--saved_model_signature_key=images --output_file={converted}',
    'ONNX': 'python -m tf2onnx.convert --saved-model={model} --signature_def=images '
            '--output={converted}',
    'TensorFlow.js': 'tensorflowjs_converter --input_format=tf_saved_model '
                     '--signature_name=images {model} {converted}'}


def convert(form, model, converted):
  """Runs the converter of TensorFlow Lite, ONNX or TensorFlow.js; a `UserError` if it fails."""
  command = [word.format(model=model, converted=converted) for word in CONVERTERS[form].split()]
  path = [os.path.dirname(sys.executable), os.environ['PATH'],
          os.path.join(ROOT, '.venv-tfjs', 'bin')]
  _run(command, env={**os.environ, 'PATH': os.pathsep.join(path)})


def _run(command, **arguments):
  try:
    subprocess.run(command, check=True, capture_output=True, text=True, **arguments)
  except FileNotFoundError as error:
    raise UserError(f'{command[0]} is not installed, see docs/deploying.md.') from error
  except subprocess.CalledProcessError as error:
    reason = error.stderr.strip().rsplit('\n', 1)[-1][:200]
    raise UserError(f"{' '.join(command)} failed ({reason}).") from error


def run_saved_model(model, signature, inputs):
  """Returns the probabilities that one signature of a SavedModel computes, [n, classes]."""
  with tf.Graph().as_default(), tf.Session() as session:
    found = tf.saved_model.load(session, ['serve'], model).signature_def[signature]
    [key] = found.inputs
    return session.run(found.outputs['probabilities'].name, {found.inputs[key].name: inputs})


def run_tflite(path, images):
  """Returns the probabilities that TensorFlow Lite computes for uint8 images."""
  from ai_edge_litert.interpreter import Interpreter
  return Interpreter(path).get_signature_runner('images')(images=images)['probabilities']


def run_onnx(path, images):
  """Returns the probabilities that ONNX Runtime computes for uint8 images."""
  import onnxruntime
  return onnxruntime.InferenceSession(path).run(['probabilities'], {'images': images})[0]


def run_tfjs(path, images):
  """Returns the probabilities that TensorFlow.js computes in Node for uint8 images."""
  with tempfile.TemporaryDirectory() as folder:
    pixels, found = os.path.join(folder, 'pixels'), os.path.join(folder, 'probabilities')
    np.ascontiguousarray(images).tofile(pixels)
    _run(['node', os.path.join(HERE, 'deployed.js'), path, pixels, found,
          *map(str, images.shape)])
    return np.fromfile(found, np.float32).reshape(len(images), -1)


RUNTIMES = {'TensorFlow Lite': run_tflite, 'ONNX': run_onnx, 'TensorFlow.js': run_tfjs}


def classify(paths, export_dir):
  """Runs cifar10_predict.py on pictures; exports its network too.

  Returns:
    The probabilities, [n, classes], in the order of assets/classes.txt.
  """
  FLAGS.export_dir = export_dir
  predictions = cifar10_predict.predict(paths)
  with open(os.path.join(export_dir, 'assets', 'classes.txt'), encoding='utf-8') as file:
    classes = file.read().splitlines()
  by_class = [{name: probability for probability, name in ranking} for _, ranking in predictions]
  return np.array([[answer[name] for name in classes] for answer in by_class])


def main():
  with settings.from_flags(cifar10), tempfile.TemporaryDirectory() as folder:
    data_set = cifar10.maybe_download_and_extract()
    images = data_set.read_images('test', range(min(FLAGS.num_images, data_set.num_test)))
    paths = [os.path.join(folder, f'{i}.png') for i in range(len(images))]
    for image, path in zip(images, paths):
      Image.fromarray(image.squeeze()).save(path)
    model = FLAGS.export_dir or os.path.join(folder, 'model')
    expected = classify(paths, model)

    def report(form, found):
      print(f'{form:22} {abs(found - expected).max():.1e}')

    print(f'{len(images)} images, largest difference of a probability:')
    contents = []
    for path in paths:
      with open(path, 'rb') as file:
        contents.append(file.read())
    report('SavedModel, `pictures`', run_saved_model(model, 'serving_default', contents))
    report('SavedModel, `images`', run_saved_model(model, 'images', images))
    for form, run in RUNTIMES.items():
      try:
        converted = os.path.join(folder, form)
        convert(form, model, converted)
        report(form, run(converted, images))
      except (UserError, ImportError) as error:
        console.complain(error)


if __name__ == '__main__':
  tf_setup.use_graph_mode()
  console.run(main)
