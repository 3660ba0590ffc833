"""The flags that several scripts share, and how they meet the constants of `cifar10`.

The tutorial's numbers are constants in `cifar10.py`: edit a line there, or set
`cifar10.INITIAL_LEARNING_RATE` in a program of your own, and it takes effect. A flag of the same
name, such as --initial_learning_rate, sets the constant for one run of a script.
"""

import contextlib

from cifar10_support import dataset
from cifar10_support import synthetic
from cifar10_support.console import UserError
from cifar10_support.quiet import tf

FLAGS = tf.app.flags.FLAGS

tf.app.flags.DEFINE_string('data_url', None, 'A mirror of the official archive to download, or '
                           'file:// and the path of a copy (default: cifar10.DATA_URL).')
tf.app.flags.DEFINE_boolean('synthetic', False, 'Use generated images, which need no download. '
                            'They, and what you train on them, live in cifar10/synthetic.')
tf.app.flags.DEFINE_boolean('mixed_precision', None,
                            'Compute the convolutions and the fully connected layers in bfloat16: '
                            'faster where the hardware has it. The checkpoints are the same.')
tf.app.flags.DEFINE_boolean('validation', None,
                            'Train without the images for validation: of CIFAR-10 the last 5,000 '
                            'for training. cifar10_eval.py --eval_data=validation measures them.')

# The flags that set the constant of the same name in capitals. Those from `min_queue_examples` on
# are in `hyperparameters`, and only the scripts that train have them.
CONSTANTS = ('data_url', 'mixed_precision', 'validation', 'min_queue_examples',
             'distortion_strength', 'initial_learning_rate', 'learning_rate_schedule',
             'num_epochs_per_decay', 'learning_rate_decay_factor', 'momentum', 'weight_decay',
             'conv_weight_decay', 'moving_average_decay', 'freeze')
LEARNING = {'batch_size', 'num_gpus', 'use_fp16', *CONSTANTS} - {'data_url'}

_DIRECTORIES = ('data_dir', 'train_dir', 'eval_dir', 'checkpoint_dir')


@contextlib.contextmanager
def from_flags(model):
  """Synchronises flags and constants for as long as the context lasts.

  A flag on the command line sets its constant; a flag left out takes the constant's value. With
  --synthetic the directories that were not named are those in cifar10/synthetic. All of this is
  undone on exit, so that `main()` can be called again with other flags. `model` is the module
  `cifar10`.
  """
  is_synthetic = FLAGS.synthetic  # Reading a flag parses the command line, if nobody has yet.
  with contextlib.ExitStack() as stack:
    def set_for_now(owner, attribute, value):
      stack.callback(setattr, owner, attribute, getattr(owner, attribute))
      setattr(owner, attribute, value)

    if is_synthetic:
      for name in ('data_url', 'data_dir'):
        if not FLAGS[name].using_default_value:
          raise UserError(f'--synthetic and --{name}={FLAGS[name].value} name two data sets: give '
                          'one of them.')
      set_for_now(FLAGS['data_url'], 'value', synthetic.URL)
      for flag in [FLAGS[name] for name in _DIRECTORIES if name in FLAGS]:
        if flag.using_default_value:
          set_for_now(flag, 'value', flag.value.replace('cifar10/', 'cifar10/synthetic/', 1))
    for flag in [FLAGS[name] for name in CONSTANTS if name in FLAGS]:
      if flag.value is None:
        set_for_now(flag, 'value', getattr(model, flag.name.upper()))
      else:
        set_for_now(model, flag.name.upper(), flag.value)
    # What a data set will have set.
    stack.callback(dataset.follow, dataset.CONSTANTS, vars(model), vars(model.cifar10_input))
    yield
