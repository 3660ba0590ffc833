"""Another network in the tutorial's frame: twenty layers with shortcuts and batch normalisation.
`train` trains it, with --num_gpus on several GPUs; then `evaluate`, and `predict` with pictures.

  python exercises/residual.py train --mixed_precision

It replaces `cifar10.inference`, and sets the constants of `cifar10` that suit it; flags override
them as ever. All the rest is the tutorial's: input, loss, training, averages, checkpoints. With
1,073,962 parameters the network is as large as the tutorial's; it spends them on depth.

Source: He et al., Deep Residual Learning for Image Recognition, 2016, sections 3.3 and 4.2.
"""

from cifar10_support import tf_setup  # First: it imports TensorFlow without its chatter.

import tensorflow.compat.v1 as tf

import cifar10
import cifar10_eval
import cifar10_multi_gpu_train
import cifar10_predict
from cifar10_support import console
from cifar10_support import training
from cifar10_support.console import UserError
import cifar10_train

FLAGS = tf.app.flags.FLAGS

STAGES = (32, 64, 128)  # Filters; each stage has half the rows and columns of the one before.
BLOCKS = 3  # In each stage, of two convolutions: with the first layer and the last, 20 layers.

# Of the mean and the variance that evaluation uses. They are of the weights, which hardly differ
# from their own averages once the learning rate has fallen, and so they may be of a few steps.
STATISTICS_DECAY = 0.99


def inference(images, training=False):
  """Adds the network.

  Args:
    images: float32 of shape [n, 24, 24, 3], standardised; n may be unknown.
    training: whether to normalise by the statistics of the batch and update their averages.

  Returns:
    Logits, float32 of shape [n, 10].
  """
  x = convolution(images, STAGES[0], 1, 'conv1', training)
  for i, filters in enumerate(STAGES):
    for j in range(BLOCKS):
      stride = 2 if i and not j else 1
      x = residual_block(x, filters, stride, f'stage{i + 1}_block{j + 1}', training)
  pooled = tf.reduce_mean(x, axis=[1, 2], name='pool')
  return cifar10.linear(pooled, cifar10.NUM_CLASSES, 'softmax_linear')


def residual_block(x, filters, stride, name, training):
  """Adds two convolutions, and a shortcut around them: they only learn what to change in `x`."""
  with tf.variable_scope(name):
    change = convolution(x, filters, stride, 'first', training)
    change = convolution(change, filters, 1, 'second', training, activation=tf.identity)
    if stride > 1:  # The shortcut skips pixels, and has zeros where there were no channels.
      padding = filters - int(x.shape[-1])
      x = tf.pad(x[:, ::stride, ::stride], [[0, 0], [0, 0], [0, 0], [0, padding]])
    output = tf.nn.relu(x + change)
    cifar10._activation_summary(output)
  return output


def convolution(x, filters, stride, name, training, activation=tf.nn.relu):
  """Adds a 3x3 convolution with batch normalisation, which makes biases needless."""
  with tf.variable_scope(name):
    channels = int(x.shape[-1])
    kernel = cifar10._variable_with_weight_decay(
        'weights', [3, 3, channels, filters], stddev=(2 / (9 * channels)) ** 0.5,
        wd=cifar10.CONV_WEIGHT_DECAY)
    dtype = cifar10.compute_dtype(x.dtype)
    products = tf.nn.conv2d(tf.cast(x, dtype), tf.cast(kernel, dtype), stride, 'SAME')
    return activation(batch_normalization(products, training))


def batch_normalization(x, training):
  """Adds batch normalisation: each channel gets a mean and a deviation that are learned.

  In training the statistics are those of the batch. Evaluation has no use for those, and takes
  averages: variables that no gradient updates. Nothing in the step depends on their updates, so
  these go to `tf.GraphKeys.UPDATE_OPS`, where `cifar10.whole_step` finds them.

  Source: Ioffe and Szegedy, Batch Normalization, 2015.
  """
  def variable(name, initial, trainable):
    return tf.get_variable(name, [x.shape[-1]], initializer=tf.constant_initializer(initial),
                           trainable=trainable)

  scale, offset = variable('scale', 1.0, True), variable('offset', 0.0, True)
  averages = variable('mean', 0.0, False), variable('variance', 1.0, False)
  if not training:
    return tf.nn.fused_batch_norm(x, scale, offset, *averages, is_training=False)[0]
  normalised, *of_batch = tf.nn.fused_batch_norm(x, scale, offset)
  for average, value in zip(averages, of_batch):
    update = average.assign_sub((1 - STATISTICS_DECAY) * (average - value))
    tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, update.op)
  return normalised


def main(arguments):
  """Trains, evaluates or predicts, as the first argument says."""
  command, *pictures = arguments or ['']
  cifar10.inference, training.EVALUATOR = inference, 'exercises/residual.py evaluate'
  if command == 'predict':
    return cifar10_predict.main(pictures)
  script = cifar10_train if FLAGS.num_gpus == 1 else cifar10_multi_gpu_train
  scripts = {'train': script, 'evaluate': cifar10_eval}
  if command not in scripts or pictures:
    raise UserError('Give one argument beside the flags: train, evaluate, or predict and pictures.')
  return scripts[command].main()


if __name__ == '__main__':
  console.adopt_flags(cifar10_train, cifar10_multi_gpu_train, cifar10_eval, cifar10_predict)
  for flag, default in (('train_dir', 'train'), ('checkpoint_dir', 'train'), ('eval_dir', 'eval')):
    FLAGS.set_default(flag, f'cifar10/residual/{default}')
  FLAGS.set_default('max_steps', 19531)  # 50 epochs.
  cifar10.NUM_EPOCHS_PER_DECAY = 50.0
  cifar10.LEARNING_RATE_SCHEDULE = 'linear'
  cifar10.MOMENTUM = 0.9
  cifar10.CONV_WEIGHT_DECAY = 5e-4
  cifar10.MOVING_AVERAGE_DECAY = 0.999
  tf_setup.use_graph_mode()
  console.run(main, takes_arguments=True)
