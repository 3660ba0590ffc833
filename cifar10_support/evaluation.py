"""What evaluation and prediction share: which checkpoint, and which values of its variables."""

from cifar10_support import checkpoints
from cifar10_support import console
from cifar10_support.console import UserError
from cifar10_support.quiet import tf

FLAGS = tf.app.flags.FLAGS

console.DEFINE_path('checkpoint_dir', 'cifar10/train',
                    'Directory of a run, for its latest checkpoint; or one checkpoint in it, such '
                    'as cifar10/train/model.ckpt-100.')
tf.app.flags.DEFINE_boolean('use_moving_averages', True, 'Use the moving averages of the '
                            'variables; false uses the variables themselves.')
tf.app.flags.DEFINE_boolean('multiview', False, '10-crop evaluation: average the probabilities '
                            'over the central crop, the four corners, and their horizontal flips. '
                            'Takes ten times as long.')


def restore(session, checkpoint):
  """Restores the network of the default graph from a `checkpoints.Checkpoint`.

  With --use_moving_averages a variable gets the value of its average, or its own if it has none:
  it was frozen then, or is not one that training learns.
  """
  # Only the names of the averages matter here, and they do not depend on the decay.
  averages = tf.train.ExponentialMovingAverage(decay=0.0)
  variables = {variable.op.name: variable for variable in tf.global_variables()}
  if FLAGS.use_moving_averages:
    if not any(key.endswith(f'/{averages.name}') for key in checkpoint.contents):
      raise UserError(f'{checkpoint.path} has no moving averages: --use_moving_averages=false '
                      'uses the variables themselves.')
    variables = {key if key in checkpoint.contents else variable.op.name: variable
                 for key, variable in averages.variables_to_restore().items()}
  checkpoints.check_fits(checkpoint, variables)
  checkpoints.restore(session, checkpoint, variables.items())
