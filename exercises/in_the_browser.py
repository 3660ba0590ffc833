"""Puts a trained network into a web page: one HTML file that classifies photos, and what the camera
sees, in any browser, without a network or a server.

  python exercises/in_the_browser.py --out=page.html

Training needs TensorFlow; an answer needs 18.5 million multiply-adds, which plain JavaScript does
in a blink. `inference` in in_the_browser.html is that of cifar10.py, layer by layer. The page comes
with pictures, those that you name or else a cat, and with the graph's answers to them: it compares.
"""

from cifar10_support import tf_setup  # First: it imports TensorFlow without its chatter.

import base64
import json
import os

import numpy as np
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_input
from cifar10_support import console
from cifar10_support import dataset
from cifar10_support import evaluation
from cifar10_support import files
from cifar10_support import pictures
from cifar10_support import runs
from cifar10_support import settings
from cifar10_support.console import UserError
from exercises import look_inside

FLAGS = tf.app.flags.FLAGS

for name in ('out', 'checkpoint_dir', 'use_moving_averages'):
  tf.app.flags.declare_key_flag(name)

TEMPLATE = os.path.splitext(__file__)[0] + '.html'
CAT = os.path.join(os.path.dirname(__file__), '..', 'docs', 'images', 'cat.png')

# The variables of the network that the page computes, and their numbers of dimensions.
VARIABLES = {f'{layer}/{kind}': dimensions
             for layer, of_weights in (('conv1', 4), ('conv2', 4), ('local3', 2), ('local4', 2),
                                       ('softmax_linear', 2))
             for kind, dimensions in (('weights', of_weights), ('biases', 1))}


def page(paths):
  """Builds the graph, restores the checkpoint, and writes both into the page.

  Args:
    paths: of the pictures that are on the page when it opens.

  Returns:
    The page, a string.
  """
  checkpoint = runs.find_checkpoint(FLAGS.checkpoint_dir, 'checkpoint_dir')
  directory = os.path.dirname(checkpoint.path)
  run = runs.read(directory)
  data_set = dataset.of_run(run, cifar10.NUM_CLASSES)
  dataset.follow(data_set.constants, vars(cifar10), vars(cifar10_input))

  with tf.Graph().as_default(), tf_setup.explained_errors(
      'run the same command again', 'close other programs that use it'):
    crops = look_inside.build(data_set)
    runs.check_data(directory, run, data_set.seen_as(crops))
    variables = {variable.op.name: variable for variable in tf.global_variables()}
    shapes = {key: variable.shape.as_list() for key, variable in variables.items()}
    if {key: len(shape) for key, shape in shapes.items()} != VARIABLES:
      raise UserError('The page computes the network of the tutorial, whose variables are '
                      f"{', '.join(VARIABLES)}. This one has {_listed(shapes)}.")
    with tf.Session(config=tf_setup.session_config()) as session:
      evaluation.restore(session, checkpoint)
      values = session.run(variables)
      if not all(np.isfinite(value).all() for value in values.values()):
        raise UserError(f'{checkpoint.path} has diverged: name another one with --checkpoint_dir.')
      examples = [_example(session, path) for path in paths]
  data = json.dumps({
      'classes': data_set.classes, 'side': data_set.side, 'channels': data_set.channels,
      'crop': cifar10_input.IMAGE_SIZE, 'checkpoint': os.path.basename(checkpoint.path),
      'examples': examples,
      'variables': {key: {'shape': shapes[key], 'values': _base64(value.astype('<f4'))}
                    for key, value in values.items()}}).replace('<', r'\u003c')
  with open(TEMPLATE, encoding='utf-8') as template:
    return template.read().replace('{{data}}', data)


def _listed(shapes):
  return ', '.join(f'{key} {shape}' for key, shape in shapes.items())


def _example(session, path):
  """Returns what the page has of a picture: its pixels as the graph scales them, and the answer."""
  [image], [probabilities] = session.run(['images:0', 'probabilities:0'],
                                         {'pictures:0': [pictures.load(path)]})
  return {'name': os.path.basename(path), 'pixels': _base64(image),
          'probabilities': probabilities.tolist()}


def _base64(array):
  return base64.b64encode(array.tobytes()).decode()


def main(paths):
  """Writes the page."""
  if not FLAGS.out.endswith('.html'):  # It is replaced, so it should not be one of the pictures.
    raise UserError(f'{FLAGS.out} does not end in .html: name the page to write with --out.')
  with settings.from_flags(cifar10):
    text = page(paths or [CAT])
  with tf_setup.writing_to(FLAGS.out, 'out'):
    files.write(FLAGS.out, text)
  print(f'{FLAGS.out} ({len(text) / 1e6:.1f} MB) is the network: open it in a browser.')


if __name__ == '__main__':
  FLAGS.set_default('out', 'page.html')  # Not the name of the template.
  FLAGS.set_default('checkpoint_dir', 'cifar10/trained')
  tf_setup.use_graph_mode()
  console.run(main, takes_arguments=True)
