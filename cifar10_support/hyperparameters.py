"""The flags that set the numbers of training, such as --momentum.

None has a default of its own: a flag, if given, overrides the constant in
`cifar10.py`, see `settings.from_flags`. docs/results.md has values that reach a higher precision.
"""

import math

import tensorflow.compat.v1 as tf

FLAGS = tf.app.flags.FLAGS

tf.app.flags.DEFINE_integer('min_queue_examples', None,
                            'Images in the shuffle queue before the first step, and at least this '
                            'many from then on; fewer start sooner and are less well mixed '
                            '(default: 0.4 of an epoch).', lower_bound=1, upper_bound=50000)
tf.app.flags.DEFINE_float('distortion_strength', None,
                          'Range of the random crops, brightness and contrast, from 0 (none) to 1 '
                          '(default: cifar10.DISTORTION_STRENGTH).',
                          lower_bound=0.0, upper_bound=1.0)
tf.app.flags.DEFINE_float('initial_learning_rate', None, 'Learning rate of the first step '
                          '(default: cifar10.INITIAL_LEARNING_RATE).', lower_bound=0.0)
tf.app.flags.DEFINE_enum('learning_rate_schedule', None, ['staircase', 'linear'],
                         'How the learning rate falls: by --learning_rate_decay_factor every '
                         '--num_epochs_per_decay epochs, or in a straight line to zero over that '
                         'many (default: cifar10.LEARNING_RATE_SCHEDULE).')
tf.app.flags.DEFINE_float('num_epochs_per_decay', None, 'Epochs after which the learning rate '
                          'falls (default: cifar10.NUM_EPOCHS_PER_DECAY).',
                          lower_bound=0.01, upper_bound=1e9)
tf.app.flags.DEFINE_float('learning_rate_decay_factor', None, 'Factor by which the learning rate '
                          'falls (default: cifar10.LEARNING_RATE_DECAY_FACTOR).',
                          lower_bound=0.0)
tf.app.flags.DEFINE_float('momentum', None, 'Nesterov momentum; 0 is plain gradient descent '
                          '(default: cifar10.MOMENTUM).', lower_bound=0.0, upper_bound=1.0)
tf.app.flags.DEFINE_float('weight_decay', None, 'Weight decay of the two fully connected layers '
                          '(default: cifar10.WEIGHT_DECAY).', lower_bound=0.0)
tf.app.flags.DEFINE_float('conv_weight_decay', None, 'Weight decay of the two convolutions '
                          '(default: cifar10.CONV_WEIGHT_DECAY).', lower_bound=0.0)
tf.app.flags.DEFINE_float('moving_average_decay', None, 'Decay of the moving averages of the '
                          'variables (default: cifar10.MOVING_AVERAGE_DECAY).',
                          lower_bound=0.0, upper_bound=1.0)

for _flag in FLAGS.flags_by_module_dict()[__name__]:
  if _flag.flag_type() == 'float':
    # Bounds let nan pass, and infinity where there is no upper one.
    tf.app.flags.register_validator(
        _flag.name, lambda value: value is None or math.isfinite(value), 'must be a finite number')
