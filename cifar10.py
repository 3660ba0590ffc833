"""The model: builders that add the network, its loss and its training to a graph.

In the order in which a script calls them:

  images, labels = distorted_inputs()        # or inputs(eval_data)
  logits = inference(images)
  total_loss = loss(logits, labels)
  train_op = train(total_loss, global_step)

The network is two convolutions, each with pooling and local response normalisation, two fully
connected layers and a linear one: 1,068,298 parameters, and 18.5 million multiply-adds per image
beside the 1.2 million of the normalisation. It descends from the one that Alex Krizhevsky trained
on this data set with cuda-convnet (https://code.google.com/archive/p/cuda-convnet/).
"""

from cifar10_support import tf_setup  # First: it imports TensorFlow without its chatter.

import re

import numpy as np
import tensorflow.compat.v1 as tf

import cifar10_input
from cifar10_support import console
from cifar10_support import dataset
from cifar10_support import freezing
from cifar10_support import summaries

FLAGS = tf.app.flags.FLAGS

tf.app.flags.DEFINE_integer('batch_size', 128, 'Images in a batch.', lower_bound=1,
                            upper_bound=50000)
console.DEFINE_path('data_dir', 'cifar10/data', 'Folder that holds, or receives, the data set.')
tf.app.flags.DEFINE_boolean('use_fp16', False, 'The old name of --mixed_precision.')

IMAGE_SIZE = cifar10_input.IMAGE_SIZE
NUM_CLASSES = cifar10_input.NUM_CLASSES
NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN = cifar10_input.NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN
NUM_EXAMPLES_PER_EPOCH_FOR_EVAL = cifar10_input.NUM_EXAMPLES_PER_EPOCH_FOR_EVAL

# The numbers of the original, TensorFlow's tutorial of 2015. Set one before you call the builders,
# and it takes effect. The scripts have flags of the same names, such as --weight_decay.
MOVING_AVERAGE_DECAY = 0.9999
NUM_EPOCHS_PER_DECAY = 350.0
LEARNING_RATE_DECAY_FACTOR = 0.1
INITIAL_LEARNING_RATE = 0.1
WEIGHT_DECAY = 0.004  # Of the two fully connected layers.

# What the original does not have; with these values it trains as that does.
LEARNING_RATE_SCHEDULE = 'staircase'  # Or 'linear'.
MOMENTUM = 0.0  # Nesterov's; 0 is plain gradient descent.
CONV_WEIGHT_DECAY = 0.0
DISTORTION_STRENGTH = 1.0  # See `cifar10_input.distort`.
MIN_QUEUE_EXAMPLES = None  # See `cifar10_input.training_batches`.
VALIDATION = False  # Whether training leaves out the images for validation, see `dataset.find`.
MIXED_PRECISION = False
FREEZE = []  # Scopes that training leaves as they are, such as ['conv1', 'conv2'].

_LOSS_DECAY = 0.9  # For the smoothed losses in the summaries.
TOWER_NAME = 'tower'  # With several GPUs, the ops of each are in a name scope tower_0, tower_1, ...
DATA_URL = dataset.DATA_URL


def maybe_download_and_extract(hold_out=False):
  """Locates and verifies the data set in --data_dir, and downloads it first if there is none.

  Returns a `dataset.DataSet` for the builders below; a `UserError` if there is none to be had.
  """
  return dataset.prepare(FLAGS.data_dir, DATA_URL, NUM_CLASSES, hold_out or VALIDATION)


def distorted_inputs(data_set=None):
  """Adds the input pipeline for training, see `cifar10_input.training_batches`.

  `data_set` is by default the one in --data_dir; a `ValueError` if that is damaged. NUM_CLASSES and
  the other constants above take its values, unless you have changed them.
  """
  data_set = _followed(data_set, 'train_eval')
  return cifar10_input.training_batches(data_set, FLAGS.batch_size, MIN_QUEUE_EXAMPLES,
                                        DISTORTION_STRENGTH)


def inputs(eval_data, data_set=None, one_pass=False, crop=cifar10_input.central_crop):
  """Adds the input pipeline for evaluation, see `cifar10_input.evaluation_batches`.

  `eval_data` is 'test' (or true) for the test images, 'train_eval' (or false) for those of
  training, 'validation' for those held out; `data_set` is as above.
  """
  part = cifar10_input.part_of(eval_data)
  return cifar10_input.evaluation_batches(_followed(data_set, part), part, FLAGS.batch_size,
                                          one_pass, crop)


def _followed(data_set, part):
  data_set = data_set or dataset.find(FLAGS.data_dir, NUM_CLASSES, [part], VALIDATION)
  dataset.follow(data_set.constants, vars(cifar10_input), globals())
  return data_set


def inference(images, training=False):
  """Adds the network: a list of layers, each of which is one box in TensorBoard's picture.

  Args:
    images: float32 of shape [n, 24, 24, 3], standardised; n may be unknown. With float64, in a
      variable scope of that dtype, the whole network is of that precision.
    training: whether to learn from the images; for networks with dropout or batch normalisation.

  Returns:
    Logits, of shape [n, 10] and the dtype of the variables. The softmax is left to the loss, which
    computes both at once, which is numerically more stable.
  """
  images = tf.convert_to_tensor(images)  # Of a list of images too.
  conv1 = convolution(images, 64, 'conv1', bias=0.0)
  pool1 = max_pool(conv1, 'pool1')
  norm1 = local_response_normalization(pool1, 'norm1')

  conv2 = convolution(norm1, 64, 'conv2', bias=0.1)
  norm2 = local_response_normalization(conv2, 'norm2')
  pool2 = max_pool(norm2, 'pool2')

  local3 = fully_connected(pool2, 384, 'local3')
  local4 = fully_connected(local3, 192, 'local4')  # A further layer would go after this one.
  return linear(local4, NUM_CLASSES, 'softmax_linear')


def convolution(x, filters, name, bias):
  """Adds a 5x5 convolution with a ReLU; `bias` is the value with which the biases start."""
  dtype = compute_dtype(x.dtype)
  with tf.variable_scope(name) as scope:
    kernel = _variable_with_weight_decay('weights', [5, 5, x.shape[-1], filters], stddev=5e-2,
                                         wd=CONV_WEIGHT_DECAY)
    biases = _variable_on_cpu('biases', [filters], tf.constant_initializer(bias))
    products = tf.nn.conv2d(tf.cast(x, dtype), tf.cast(kernel, dtype), 1, 'SAME')
    activations = tf.nn.relu(tf.nn.bias_add(products, tf.cast(biases, dtype)), name=scope.name)
    _activation_summary(activations)
    summaries.filters(f'{scope.name}/filters', kernel)
  return activations


def compute_dtype(dtype):
  """Returns in what the layers before `linear` compute: with --mixed_precision in bfloat16.

  Without it, or on a machine without such arithmetic, that is `dtype`. bfloat16 has the range of
  float32, so gradients need no scaling, but 8 bits of precision. The variables, the normalisation
  (whose divisors are close to 1), the logits and the loss stay in float32.
  """
  return tf_setup.bfloat16_or_float32() if MIXED_PRECISION or FLAGS.use_fp16 else dtype


def max_pool(x, name):
  """Adds 3x3 max pooling with stride 2."""
  return tf.nn.max_pool2d(x, ksize=3, strides=2, padding='SAME', name=name)


def local_response_normalization(x, name):
  """Adds `tf.nn.lrn` with the parameters below, in a form that is faster.

  Each value is divided by (bias + alpha * s) ** beta, where s is the sum of the squares at the same
  place in the channels up to `radius` away. That sum is a product with a banded matrix of ones;
  on a CPU it takes a fraction of the time of `tf.nn.lrn`, and above all of its gradient.

  Source: Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks, 2012,
  section 3.3.
  """
  radius, bias, alpha, beta = 4, 1.0, 0.001 / 9.0, 0.75
  with tf.name_scope(name) as scope:
    *places, channels = x.shape.as_list()[1:]
    dtype = tf.float32 if x.dtype == tf.bfloat16 else x.dtype
    distances = np.abs(np.arange(channels)[:, np.newaxis] - np.arange(channels))
    band = tf.constant(alpha * (distances <= radius), dtype)
    rows = tf.reshape(tf.cast(x, dtype), [-1, channels])
    # A bias for each channel, because then the product and the sum become one op.
    biases = tf.constant(bias, dtype, [channels])
    divisors = tf.nn.bias_add(tf.matmul(tf.square(rows), band), biases)
    # divisors ** -beta; `tf.pow` is slower, and its gradient much slower.
    normalised = rows * tf.exp(-beta * tf.log(divisors))
    return tf.reshape(tf.cast(normalised, x.dtype), [-1, *places, channels], name=scope)


def fully_connected(x, units, name):
  """Adds a fully connected layer with a ReLU: each unit sees all of `x`, of shape [n, ...]."""
  with tf.variable_scope(name) as scope:
    features = x.shape[1:].num_elements()
    weights = _variable_with_weight_decay('weights', [features, units], stddev=0.04,
                                          wd=WEIGHT_DECAY)
    biases = _variable_on_cpu('biases', [units], tf.constant_initializer(0.1))
    product = tf.matmul(tf.reshape(x, [-1, features]), tf.cast(weights, x.dtype))
    activations = tf.nn.relu(tf.nn.bias_add(product, tf.cast(biases, x.dtype)), name=scope.name)
    _activation_summary(activations)
  return activations


def linear(x, units, name):
  """Adds the last layer: like `fully_connected`, without ReLU and decay, in full precision."""
  with tf.variable_scope(name) as scope:
    features = x.shape[1:].num_elements()
    weights = _variable_with_weight_decay('weights', [features, units], stddev=1 / 192.0, wd=None)
    biases = _variable_on_cpu('biases', [units], tf.constant_initializer(0.0))
    product = tf.matmul(tf.reshape(tf.cast(x, weights.dtype), [-1, features]), weights)
    logits = tf.nn.bias_add(product, biases, name=scope.name)
    _activation_summary(logits)
  return logits


def _variable_on_cpu(name, shape, initializer):
  """Adds a variable on the CPU, where every tower reaches it, or returns another tower's.

  In `tf_setup.on_gpu`, where a single network trains, it is on the GPU instead.
  """
  with tf.device('/cpu:0'):
    return tf.get_variable(name, shape, initializer=initializer)


def _variable_with_weight_decay(name, shape, stddev, wd):
  """Adds a variable that starts as a truncated normal, and `wd * l2_loss` of it to 'losses'."""
  variable = _variable_on_cpu(name, shape, tf.truncated_normal_initializer(stddev=stddev))
  if wd:
    tf.add_to_collection('losses', tf.multiply(tf.nn.l2_loss(variable), wd, name='weight_loss'))
  return variable


def _activation_summary(x):
  """Adds a histogram of a layer's activations, and the fraction of them that is zero."""
  # A curve has the same name with one network and with towers.
  layer = tf.get_variable_scope().name or _without_tower(x.op.name)
  summaries.histogram(f'{layer}/activations', x)
  summaries.scalar(f'{layer}/sparsity', tf.reduce_mean(tf.cast(tf.equal(x, 0), tf.float32)))


def _without_tower(name):
  return re.sub(f'^{TOWER_NAME}_[0-9]+/', '', name)


def probabilities(images):
  """Adds the network and its softmax, for evaluation and prediction.

  Args:
    images: float32 of shape [n, 24, 24, 3], or of several crops of each image
      [n, crops, 24, 24, 3], see `cifar10_input.ten_crops`.

  Returns:
    float32 of shape [n, 10]: the probability of each class; of several crops their mean.
  """
  *crops, height, width, depth = images.shape.as_list()[1:]
  if not crops:
    return tf.nn.softmax(inference(images), name='probabilities')
  of_crops = tf.nn.softmax(inference(tf.reshape(images, [-1, height, width, depth])))
  return tf.reduce_mean(tf.reshape(of_crops, [-1] + crops + [NUM_CLASSES]), axis=1,
                        name='probabilities')


def loss(logits, labels, scope=None):
  """Adds the total loss: the cross entropy, averaged over the batch, plus all weight decay.

  Both are in the collection 'losses', and so is the decay from the `regularizer` of a variable.

  Args:
    logits: float32 of shape [n, 10], see `inference`.
    labels: numbers of any dtype, of shape [n] or [n, 1], 0..9.
    scope: the name scope of a tower, such as 'tower_0/', to sum only the losses in it.

  Returns:
    A float32 scalar.
  """
  labels = tf.cast(labels, tf.int32)
  if labels.shape.ndims == 2:
    labels = tf.squeeze(labels, 1)
  cross_entropies = tf.nn.sparse_softmax_cross_entropy_with_logits(
      labels=labels, logits=logits, name='cross_entropy_per_example')
  tf.add_to_collection('losses', tf.reduce_mean(cross_entropies, axis=0, name='cross_entropy'))
  decay = tf.get_collection(tf.GraphKeys.REGULARIZATION_LOSSES)  # Of variables: in every tower.
  if decay:
    tf.add_to_collection('losses', tf.add_n(decay, name='regularization'))
  return tf.add_n(tf.get_collection('losses', scope), name='total_loss')


def train(total_loss, global_step):
  """Adds one step of training: gradient descent, then the moving averages of the variables.

  Args:
    total_loss: a float32 scalar, see `loss`.
    global_step: an integer variable, incremented by each step.

  Returns:
    The op that does all of it.
  """
  optimizer = gradient_descent(global_step, FLAGS.batch_size)
  gradients = optimizer.compute_gradients(total_loss, freezing.variables_to_train(FREEZE))
  gradient_summaries(gradients)
  update = apply_gradients(optimizer, gradients, global_step)  # And the moving averages.
  return whole_step(update, tf.get_collection('losses') + [total_loss])


def whole_step(update, losses):
  """Adds the op that runs a whole step: an update, and what has to happen besides.

  That is: smoothing the losses, a list of scalars; the ops in `tf.GraphKeys.UPDATE_OPS`, such as
  those of batch normalisation; and copying the next batch to a GPU, see `cifar10_input.stage`.
  """
  return tf.group(update, loss_summaries(losses), *freezing.update_ops(FREEZE, _without_tower),
                  *tf.get_collection(tf_setup.STAGING), name='train')


def gradient_descent(global_step, examples_per_step):
  """Adds the schedule of the learning rate; returns the `tf.train.Optimizer` that follows it.

  The schedule counts epochs, so it has to know how many images a step takes.
  """
  with tf.name_scope('schedule'):
    steps_per_epoch = NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN / examples_per_step
    decay_steps = max(1, int(steps_per_epoch * NUM_EPOCHS_PER_DECAY))
    if LEARNING_RATE_SCHEDULE == 'staircase':
      learning_rate = tf.train.exponential_decay(INITIAL_LEARNING_RATE, global_step, decay_steps,
                                                 LEARNING_RATE_DECAY_FACTOR, staircase=True)
    elif LEARNING_RATE_SCHEDULE == 'linear':
      learning_rate = tf.train.polynomial_decay(INITIAL_LEARNING_RATE, global_step, decay_steps,
                                                end_learning_rate=0.0)
    else:
      raise ValueError("LEARNING_RATE_SCHEDULE must be 'staircase' or 'linear', not "
                       f'{LEARNING_RATE_SCHEDULE!r}.')
  tf.summary.scalar('learning_rate', learning_rate)
  if MOMENTUM:
    return tf.train.MomentumOptimizer(learning_rate, MOMENTUM, use_nesterov=True)
  return tf.train.GradientDescentOptimizer(learning_rate)


def apply_gradients(optimizer, gradients, global_step):
  """Adds the update of the variables, then that of their moving averages; returns the op of both.

  `gradients` is a list of (gradient, variable), in which a gradient may be None.
  """
  update = optimizer.apply_gradients(gradients, global_step=global_step)

  # At a constant learning rate the weights never settle; they bounce around a good solution, and
  # their average lies closer to it. Until the rate falls, evaluation with the averages is three to
  # five percentage points more precise. Early on, `num_updates` makes them forget faster.
  with tf.control_dependencies([update]), tf.name_scope('moving_averages'):
    step = global_step.read_value()
    averages = tf.train.ExponentialMovingAverage(MOVING_AVERAGE_DECAY, num_updates=step)
    updates = []
    for _, variable in gradients:
      # Beside the variable: then the parameter servers of a cluster need not send anything for it.
      with tf.device(variable.device):
        updates.append(averages.apply([variable]))
    return tf.group(*updates)


def gradient_summaries(gradients):
  """Adds histograms of variables and their gradients, given as a list of (gradient, variable)."""
  for gradient, variable in gradients:
    with tf.name_scope(f'{variable.op.name}/'):
      summaries.histogram(f'{variable.op.name}/values', variable)
      if gradient is not None:
        summaries.histogram(f'{variable.op.name}/gradients', gradient)


def loss_summaries(losses):
  """Adds summaries of a list of scalars, raw and smoothed; returns the op that smooths them."""
  with tf.name_scope('losses'):
    values = tf.stack(losses, name='all')
    # In no collection: these averages belong to this process and not to the model, so no checkpoint
    # has them and no program needs to initialise them. They start as the first losses.
    averages = tf.Variable(tf.zeros([len(losses)], values.dtype), trainable=False, collections=[],
                           name='averages')
    before = tf.cond(tf.is_variable_initialized(averages), averages.read_value, lambda: values)
    update = averages.assign(_LOSS_DECAY * before + (1 - _LOSS_DECAY) * values)
    for value, average in zip(losses, tf.unstack(update)):
      name = _without_tower(value.op.name)
      tf.summary.scalar(f'{name}/raw', value)
      tf.summary.scalar(f'{name}/average', average)
  return update.op


if __name__ == '__main__':
  raise SystemExit('cifar10.py is the model. To train it, run cifar10_train.py or '
                   'cifar10_multi_gpu_train.py; then cifar10_eval.py and cifar10_predict.py.')
