"""The flags that set the numbers of training, such as --momentum.

None has a default of its own: a flag, if given, overrides the constant of its name in `cifar10.py`,
see `settings.from_flags`. docs/results.md has values that reach a higher precision.
"""

import math

from cifar10_support.quiet import tf

tf.app.flags.DEFINE_integer('min_queue_examples', None,
                            'Images in the shuffle queue before the first step, and at least this '
                            'many from then on; fewer start sooner and are less well mixed '
                            '(default: 0.4 of an epoch).', lower_bound=1, upper_bound=50000)
tf.app.flags.DEFINE_integer('seed', None, 'Makes a run repeatable, to the last bit, on the CPU of '
                            'one machine.', lower_bound=1)
tf.app.flags.DEFINE_enum('learning_rate_schedule', None, ['staircase', 'linear'],
                         'How the learning rate falls: by --learning_rate_decay_factor every '
                         '--num_epochs_per_decay epochs, or in a straight line to zero over that '
                         'many (default: cifar10.LEARNING_RATE_SCHEDULE).')
tf.app.flags.DEFINE_list('freeze', None, 'Scopes that training leaves as they are, such as '
                         'conv1,conv2 (default: cifar10.FREEZE).')


def DEFINE_number(name, help, lower_bound=0.0, upper_bound=None):
  tf.app.flags.DEFINE_float(name, None, f'{help} (default: cifar10.{name.upper()}).',
                            lower_bound=lower_bound, upper_bound=upper_bound)
  # Bounds let nan pass, and infinity where there is no upper one.
  tf.app.flags.register_validator(
      name, lambda value: value is None or math.isfinite(value), 'must be a finite number')


DEFINE_number('distortion_strength', 'Range of the random crops, brightness and contrast, from 0 '
              '(none) to 1', upper_bound=1.0)
DEFINE_number('initial_learning_rate', 'Learning rate of the first step')
DEFINE_number('num_epochs_per_decay', 'Epochs after which the learning rate falls',
              lower_bound=0.01, upper_bound=1e9)
DEFINE_number('learning_rate_decay_factor', 'Factor by which the learning rate falls')
DEFINE_number('momentum', 'Nesterov momentum; 0 is plain gradient descent', upper_bound=1.0)
DEFINE_number('weight_decay', 'Weight decay of the two fully connected layers')
DEFINE_number('conv_weight_decay', 'Weight decay of the two convolutions')
DEFINE_number('moving_average_decay', 'Decay of the moving averages of the variables',
              upper_bound=1.0)
