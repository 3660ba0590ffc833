"""Trains the network with locally connected layers, as Alex Krizhevsky had them, or evaluates it.
Flags are those of cifar10_train.py and cifar10_eval.py.

  python exercises/locally_connected.py train --max_steps=10000

`python exercises/locally_connected.py evaluate --run_once` measures precision @ 1. Runs live in
cifar10/locally_connected. This script shows how to replace a part of the network without touching
cifar10.py: it replaces `cifar10.fully_connected` with another function.
"""

from cifar10_support import tf_setup  # First: it imports TensorFlow without its chatter.

import tensorflow.compat.v1 as tf

import cifar10
import cifar10_eval
from cifar10_support import console
from cifar10_support import training
from cifar10_support.console import UserError
import cifar10_train

FLAGS = tf.app.flags.FLAGS

FILTERS = 32  # At each place.


def locally_connected(x, units, name):
  """Adds a layer that sees 3x3 pixels, like a convolution, but with its own weights at each place.

  A convolution shares its weights because an edge is an edge wherever it is. Far up in the network
  that is less certain: ears tend to be at the top of a photo, wheels at the bottom. With these
  layers the network has 1,116,490 parameters, about as many as with fully connected ones.

  Source: layers-conv-local-13pct.cfg and layer-params-conv-local-13pct.cfg in the example-layers of
  cuda-convnet, for the 32 filters, the initial weights and their decay.

  Args:
    x: floats of shape [n, height, width, channels]; n may be unknown.
    units: not used. A fully connected layer has this many; here there are 32 at each place.
    name: of the scope.

  Returns:
    Floats of shape [n, height, width, 32].
  """
  with tf.variable_scope(name) as scope:
    _, height, width, channels = x.shape.as_list()
    weights = cifar10._variable_with_weight_decay(
        'weights', [height, width, 3 * 3 * channels, FILTERS], stddev=0.04,
        wd=cifar10.WEIGHT_DECAY)
    biases = cifar10._variable_on_cpu('biases', [height, width, FILTERS],
                                      tf.constant_initializer(0.1))
    patches = tf.image.extract_patches(x, [1, 3, 3, 1], [1, 1, 1, 1], [1, 1, 1, 1], 'SAME')
    # A matrix product at each row and column: the patches there times the weights there.
    product = tf.einsum('nrci,rcio->nrco', patches, tf.cast(weights, x.dtype))
    activations = tf.nn.relu(product + tf.cast(biases, x.dtype), name=scope.name)
    cifar10._activation_summary(activations)
  return activations


def main(arguments):
  """Trains or evaluates, as the only argument says."""
  scripts = {'train': cifar10_train, 'evaluate': cifar10_eval}
  if len(arguments) != 1 or arguments[0] not in scripts:
    raise UserError('Give one argument beside the flags: train, or evaluate.')
  cifar10.fully_connected = locally_connected
  training.EVALUATOR = 'exercises/locally_connected.py evaluate'
  return scripts[arguments[0]].main()


if __name__ == '__main__':
  console.adopt_flags(cifar10_train, cifar10_eval)
  for flag, default in (('train_dir', 'train'), ('checkpoint_dir', 'train'), ('eval_dir', 'eval')):
    FLAGS.set_default(flag, f'cifar10/locally_connected/{default}')
  tf_setup.use_graph_mode()
  console.run(main, takes_arguments=True)
