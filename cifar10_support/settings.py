"""The flags that several scripts share, and how they meet the constants of `cifar10`.

The tutorial's numbers are constants in `cifar10.py`: edit a line there, or set
`cifar10.INITIAL_LEARNING_RATE` in a program of your own, and it counts. A flag of the same name,
such as --initial_learning_rate, sets the constant for one run of a script.
"""

import contextlib

import tensorflow.compat.v1 as tf

from cifar10_support import synthetic

FLAGS = tf.app.flags.FLAGS

tf.app.flags.DEFINE_string('data_url', None,
                           'Where to download the data set from: a mirror of the official archive, '
                           'or file:// and the path of a copy (default: cifar10.DATA_URL).')
tf.app.flags.DEFINE_boolean('synthetic', False,
                            'Use generated images, which need no download. They, and what you '
                            'train on them, live in cifar10/synthetic.')
tf.app.flags.DEFINE_boolean('mixed_precision', None,
                            'Compute the convolutions and the local layers in bfloat16: faster '
                            'where the hardware has it. The checkpoints are the same.')

# These flags set the constant of the same name in capitals. Each script defines those it needs.
_CONSTANTS = ('data_url', 'mixed_precision', 'min_queue_examples', 'distortion_strength',
              'initial_learning_rate', 'learning_rate_schedule', 'num_epochs_per_decay',
              'learning_rate_decay_factor', 'momentum', 'weight_decay', 'conv_weight_decay',
              'moving_average_decay')

_DIRECTORIES = ('data_dir', 'train_dir', 'eval_dir', 'checkpoint_dir')


@contextlib.contextmanager
def from_flags(model):
  """Lets flags and constants agree: a given flag sets its constant, any other takes its value.

  With --synthetic the directories that were not named are those in cifar10/synthetic. Afterwards
  all is as before, so that `main()` can be called again with other flags.

  Args:
    model: the module `cifar10`.
  """
  names = [name for name in _CONSTANTS if name in FLAGS]
  flags = {name: FLAGS[name].value for name in names + [n for n in _DIRECTORIES if n in FLAGS]}
  constants = {name.upper(): getattr(model, name.upper()) for name in names}
  try:
    if FLAGS.synthetic:
      FLAGS['data_url'].value = synthetic.URL
      for name in _DIRECTORIES:
        if name in FLAGS and FLAGS[name].value == FLAGS[name].default:
          FLAGS[name].value = FLAGS[name].value.replace('cifar10/', 'cifar10/synthetic/', 1)
    for name in names:
      if FLAGS[name].value is None:
        FLAGS[name].value = getattr(model, name.upper())
      else:
        setattr(model, name.upper(), FLAGS[name].value)
    yield
  finally:
    for name, value in flags.items():
      FLAGS[name].value = value
    for name, value in constants.items():
      setattr(model, name, value)
