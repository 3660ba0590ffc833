"""The model: builders that add the network, its loss and its training to a graph.

In the order in which a script calls them:

  images, labels = distorted_inputs()        # or inputs(eval_data)
  logits = inference(images)
  total_loss = loss(logits, labels)
  train_op = train(total_loss, global_step)

The network is two convolutions, each with pooling and local response normalisation, two fully
connected layers and a linear one: 1,068,298 parameters, 18.5 million multiply-adds an image. It
descends from the one that Alex Krizhevsky trained on this data set with cuda-convnet
(https://code.google.com/archive/p/cuda-convnet/), where the two layers at the top are locally
connected: --top_layers=local has them so, with 1,116,490 parameters.
"""

import math
import os
import re

import numpy as np
import tensorflow.compat.v1 as tf

import cifar10_dataset
import cifar10_device
import cifar10_input
from cifar10_console import UserError

FLAGS = tf.app.flags.FLAGS

tf.app.flags.DEFINE_integer('batch_size', 128, 'Images in a batch.', lower_bound=1,
                            upper_bound=50000)
tf.app.flags.DEFINE_integer('min_queue_examples', cifar10_input.MIN_QUEUE_EXAMPLES,
                            'Images in the shuffle queue before the first step, and at least as '
                            'many ever after: fewer start sooner and are less well mixed.',
                            lower_bound=1, upper_bound=50000)
tf.app.flags.DEFINE_string('data_dir', 'cifar10/data',
                           'Folder that holds, or receives, the data set.')
tf.app.flags.DEFINE_string('data_url', cifar10_dataset.DATA_URL,
                           'Where to fetch the data set: a mirror of the official archive, or '
                           'file:// and the path of a copy.')
tf.app.flags.DEFINE_boolean('synthetic', False,
                            'Use a generated stand-in for CIFAR-10, which needs no download; it '
                            'and what is trained on it live in cifar10/synthetic.')
tf.app.flags.DEFINE_boolean('mixed_precision', False,
                            'Compute what costs the time in bfloat16: quicker on processors that '
                            'have it.')
tf.app.flags.DEFINE_enum('top_layers', 'dense', ['dense', 'local'],
                         'The layers local3 and local4: fully connected, or locally connected as '
                         "in Krizhevsky's cuda-convnet. Evaluation and prediction take what the "
                         'run was trained with.')

IMAGE_SIZE = cifar10_input.IMAGE_SIZE
NUM_CLASSES = cifar10_input.NUM_CLASSES
NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN = cifar10_input.NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN
NUM_EXAMPLES_PER_EPOCH_FOR_EVAL = cifar10_input.NUM_EXAMPLES_PER_EPOCH_FOR_EVAL

MOVING_AVERAGE_DECAY = 0.9999
NUM_EPOCHS_PER_DECAY = 350.0
LEARNING_RATE_DECAY_FACTOR = 0.1
INITIAL_LEARNING_RATE = 0.1

# The tutorial's numbers are the defaults; docs/results.md has others that get further, or sooner.
tf.app.flags.DEFINE_float('initial_learning_rate', INITIAL_LEARNING_RATE,
                          'Learning rate of the first step.', lower_bound=0.0)
tf.app.flags.DEFINE_enum('learning_rate_schedule', 'staircase', ['staircase', 'linear'],
                         'How the learning rate falls: by --learning_rate_decay_factor every '
                         '--num_epochs_per_decay epochs, or in a straight line, to zero after so '
                         'many.')
tf.app.flags.DEFINE_float('num_epochs_per_decay', NUM_EPOCHS_PER_DECAY,
                          'Epochs after which the learning rate has fallen.', lower_bound=0.01,
                          upper_bound=1e9)
tf.app.flags.DEFINE_float('learning_rate_decay_factor', LEARNING_RATE_DECAY_FACTOR,
                          'What a fall multiplies the learning rate by.', lower_bound=0.0)
tf.app.flags.DEFINE_float('momentum', 0.0, 'Nesterov momentum; 0 is plain gradient descent.',
                          lower_bound=0.0, upper_bound=1.0)
tf.app.flags.DEFINE_float('weight_decay', 0.004, 'Weight decay of the two local layers.',
                          lower_bound=0.0)
tf.app.flags.DEFINE_float('conv_weight_decay', 0.0, 'Weight decay of the two convolutions.',
                          lower_bound=0.0)
tf.app.flags.DEFINE_float('moving_average_decay', MOVING_AVERAGE_DECAY,
                          'Decay of the moving averages of the variables.', lower_bound=0.0,
                          upper_bound=1.0)
tf.app.flags.DEFINE_float('distortion_strength', 1.0,
                          'How far crops, brightness and contrast of the training images range: '
                          'from 0, not at all, to 1, as in the tutorial.', lower_bound=0.0,
                          upper_bound=1.0)

for _name in ('initial_learning_rate', 'num_epochs_per_decay', 'learning_rate_decay_factor',
              'momentum', 'weight_decay', 'conv_weight_decay', 'moving_average_decay',
              'distortion_strength'):
  # Bounds let through what is not a number, and infinity where there is no upper one.
  tf.app.flags.register_validator(_name, math.isfinite, 'must be a finite number')

_LOSS_DECAY = 0.9  # For the smoothed losses in the summaries.

# About so many values are enough for a histogram. Fewer than six times as many are all taken.
_HISTOGRAM_VALUES = 10000

# Operations of one GPU carry the name scope tower_0, tower_1, ...
TOWER_NAME = 'tower'

DATA_URL = cifar10_dataset.DATA_URL


def directory(flag):
  """Returns the folder that the flag names; with --synthetic its default is another one.

  So the data, the checkpoints and the events of the two data sets stay apart.

  Args:
    flag: the flag's name, of this module or a script, such as 'data_dir'.

  Raises:
    UserError: TensorFlow cannot take the name.
  """
  path = getattr(FLAGS, flag)
  try:
    path.encode()
  except UnicodeEncodeError as error:
    raise UserError('The name %s is not UTF-8, which TensorFlow takes alone: name another folder '
                    'with --%s.' % (path, flag)) from error
  if FLAGS.synthetic and FLAGS[flag].using_default_value:
    return path.replace('cifar10/', 'cifar10/synthetic/', 1)
  return path


def maybe_download_and_extract():
  """Sees to it that the data set is there: downloads it, or with --synthetic generates it.

  One that is there already is proved whole.

  Raises:
    UserError: --data_dir is not a folder to put the data set in, the download fails, or a file is
      missing or damaged.
  """
  data_dir = directory('data_dir')
  if FLAGS.synthetic and not FLAGS['data_dir'].using_default_value:
    raise UserError('--synthetic and --data_dir=%s name two data sets: give one of them.'
                    % data_dir)
  folder = cifar10_dataset.locate(data_dir)
  if folder:
    cifar10_dataset.verify(folder)
    return
  if FLAGS.synthetic:
    cifar10_dataset.write_synthetic(data_dir)
    return
  # Only into a place that was meant: 170 MB into a mistyped one would help nobody.
  if not FLAGS['data_dir'].using_default_value:
    if not os.path.isdir(data_dir):
      raise UserError('There is no folder %s: name the one that holds %s with --data_dir, or make '
                      'an empty one to download the data set into.'
                      % (data_dir, cifar10_dataset.FOLDER))
    # Another process may just be making the data set there.
    names = set(os.listdir(data_dir)) - {cifar10_dataset.UNFINISHED, cifar10_dataset.FOLDER}
    if names.intersection(cifar10_dataset.CIFAR100_FILES):
      raise UserError('The data set in %s is CIFAR-100: name the folder that holds %s with '
                      '--data_dir, or an empty one to download it into.'
                      % (data_dir, cifar10_dataset.FOLDER))
    if names:
      raise UserError('There is no data set in %s, which is not empty either: name the folder '
                      'that holds %s with --data_dir, or an empty one to download it into.'
                      % (data_dir, cifar10_dataset.FOLDER))
  cifar10_dataset.download_and_extract(data_dir, FLAGS.data_url)


def distorted_inputs():
  """Adds the input pipeline for training, see `cifar10_input.distorted_inputs`.

  Returns:
    images: float32 of shape [batch_size, 24, 24, 3].
    labels: int32 of shape [batch_size], 0..9.

  Raises:
    UserError: the data set is missing or damaged.
  """
  return cifar10_input.distorted_inputs(_bin_dir(), FLAGS.batch_size, FLAGS.min_queue_examples,
                                        FLAGS.distortion_strength)


def inputs(eval_data, multiview=False):
  """Adds the input pipeline for evaluation, see `cifar10_input.inputs`.

  Args:
    eval_data: 'test' (or true) for the test images, 'train_eval' (or false) for those trained on.
    multiview: whether each image comes in ten views.

  Returns:
    images: float32 of shape [None, 24, 24, 3], or for several views [None, 10, 24, 24, 3].
    labels: int32 of shape [None], 0..9.

  Raises:
    UserError: the data set is missing or damaged.
  """
  return cifar10_input.inputs(eval_data, _bin_dir(), FLAGS.batch_size, multiview)


def classes():
  """Returns the names of the data set's ten classes, see `cifar10_dataset.classes`."""
  return cifar10_dataset.classes(_bin_dir())


def count(eval_data):
  """Returns the number of images in one part of the data set, or CIFAR-10's where there is none.

  Args:
    eval_data: 'test' for the test images, 'train_eval' for those trained on.
  """
  in_cifar10 = {'test': NUM_EXAMPLES_PER_EPOCH_FOR_EVAL,
                'train_eval': NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN}
  return cifar10_dataset.count(_bin_dir(), eval_data) or in_cifar10[eval_data]


def read_images(eval_data, indices):
  """Returns images as they are in the files, see `cifar10_dataset.read_images`."""
  return cifar10_dataset.read_images(_bin_dir(), eval_data, indices)


def _bin_dir():
  data_dir = directory('data_dir')
  return cifar10_dataset.locate(data_dir) or os.path.join(data_dir, cifar10_dataset.FOLDER)


def inference(images):
  """Adds the network.

  Each layer is one variable scope, and so one box in TensorBoard's picture of the graph. The
  variables come from `tf.get_variable`, so that towers, called with reuse, share them, and live on
  the CPU, where every GPU reaches them.

  With --mixed_precision the layers that cost the time compute in bfloat16: the convolutions, the
  first with its pooling, and the local layers. It has the range of float32, so that gradients need
  no scaling, but 8 bits of precision; the variables, the normalisation, whose divisors are close to
  1, the logits and the loss stay in float32. So the checkpoints are the same.

  Args:
    images: float32 of shape [n, 24, 24, 3], standardised; n may be unknown. With float64, in a
      variable scope of that dtype, the whole network is of that precision.

  Returns:
    Logits, of shape [n, 10] and the dtype of the images. The softmax is left to the loss, which
    computes both at once with more precision.
  """
  full = images.dtype
  dtype = cifar10_device.bfloat16_or_float32() if FLAGS.mixed_precision else full

  with tf.variable_scope('conv1') as scope:
    kernel = _weights([5, 5, 3, 64], stddev=5e-2, weight_decay=FLAGS.conv_weight_decay)
    biases = _biases([64], 0.0)
    convolution = tf.nn.conv2d(tf.cast(images, dtype), tf.cast(kernel, dtype), 1, 'SAME')
    conv1 = tf.nn.relu(tf.nn.bias_add(convolution, tf.cast(biases, dtype)), name=scope.name)
    _activation_summary(conv1)
    _filter_summary(kernel)

  pool1 = _pool(conv1, 'pool1')
  norm1 = _normalize(tf.cast(pool1, full), 'norm1')

  with tf.variable_scope('conv2') as scope:
    kernel = _weights([5, 5, 64, 64], stddev=5e-2, weight_decay=FLAGS.conv_weight_decay)
    biases = _biases([64], 0.1)
    convolution = tf.nn.conv2d(tf.cast(norm1, dtype), tf.cast(kernel, dtype), 1, 'SAME')
    conv2 = tf.nn.relu(tf.nn.bias_add(convolution, tf.cast(biases, dtype)), name=scope.name)
    _activation_summary(conv2)

  norm2 = _normalize(tf.cast(conv2, full), 'norm2')
  pool2 = _pool(norm2, 'pool2')

  if FLAGS.top_layers == 'local':
    local3 = _locally_connected(tf.cast(pool2, dtype), 32, 'local3')
    local4 = _locally_connected(local3, 32, 'local4')
  else:
    local3 = _fully_connected(tf.cast(pool2, dtype), 384, 'local3')
    local4 = _fully_connected(local3, 192, 'local4')

  with tf.variable_scope('softmax_linear') as scope:
    features = local4.shape[1:].num_elements()
    weights = _weights([features, NUM_CLASSES], stddev=1 / 192.0)
    biases = _biases([NUM_CLASSES], 0.0)
    product = tf.matmul(tf.reshape(tf.cast(local4, full), [-1, features]), weights)
    logits = tf.nn.bias_add(product, biases, name=scope.name)
    _activation_summary(logits)

  return logits


def _fully_connected(x, units, name):
  """Adds a layer whose units see all of the layer before; x is of shape [n, ...]."""
  with tf.variable_scope(name) as scope:
    features = x.shape[1:].num_elements()
    weights = _weights([features, units], stddev=0.04, weight_decay=FLAGS.weight_decay)
    biases = _biases([units], 0.1)
    product = tf.matmul(tf.reshape(x, [-1, features]), tf.cast(weights, x.dtype))
    activations = tf.nn.relu(tf.nn.bias_add(product, tf.cast(biases, x.dtype)), name=scope.name)
    _activation_summary(activations)
  return activations


def _locally_connected(x, filters, name):
  """Adds a layer that sees 3x3 pixels, as a convolution does, but with other weights at each place.

  In cuda-convnet too the initial weights have a standard deviation of 0.04, and their decay is
  0.004; the biases begin as those of the fully connected layers.

  Source: layers-conv-local-13pct.cfg and layer-params-conv-local-13pct.cfg in its example-layers.

  Args:
    x: floats of shape [n, height, width, channels]; n may be unknown.
    filters: the number of filters at each place.
    name: of the scope.

  Returns:
    Floats of shape [n, height, width, filters].
  """
  with tf.variable_scope(name) as scope:
    _, height, width, channels = x.shape.as_list()
    weights = _weights([height, width, 3 * 3 * channels, filters], stddev=0.04,
                       weight_decay=FLAGS.weight_decay)
    biases = _biases([height, width, filters], 0.1)
    patches = tf.image.extract_patches(x, [1, 3, 3, 1], [1, 1, 1, 1], [1, 1, 1, 1], 'SAME')
    # At each row and column a product of matrices: the patches there by the weights there.
    product = tf.einsum('nrci,rcio->nrco', patches, tf.cast(weights, x.dtype))
    activations = tf.nn.relu(product + tf.cast(biases, x.dtype), name=scope.name)
    _activation_summary(activations)
  return activations


def _weights(shape, stddev, weight_decay=0.0):
  """Adds the variable `weights`, and its weight decay to 'losses'; returns the value."""
  with tf.device('/cpu:0'):
    variable = tf.get_variable('weights', shape,
                               initializer=tf.truncated_normal_initializer(stddev=stddev))
  # Once for both uses: each reading is a transfer to the GPU, or from a parameter server.
  weights = variable.read_value()
  if weight_decay:
    decay = tf.multiply(tf.nn.l2_loss(weights), weight_decay, name='weight_loss')
    tf.add_to_collection('losses', decay)
  return weights


def _biases(shape, value):
  """Adds the variable `biases`, each element `value` to begin with."""
  with tf.device('/cpu:0'):
    return tf.get_variable('biases', shape, initializer=tf.constant_initializer(value))


def _pool(x, name):
  return tf.nn.max_pool2d(x, ksize=3, strides=2, padding='SAME', name=name)


def _normalize(x, name):
  """Adds local response normalisation, `tf.nn.lrn` with the parameters below.

  Each value is divided by (bias + alpha * s) ** beta, where s is the sum of the squares at the same
  place in the channels up to `radius` away. That sum is a product with a matrix that is one along
  a band; on a CPU it takes a fraction of the time of `tf.nn.lrn` and above all of its gradient.

  Source: Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks, 2012,
  section 3.3.

  Args:
    x: floats of shape [..., channels]; the number of channels must be known.
    name: of the scope.

  Returns:
    Floats of the shape of `x`.
  """
  radius, bias, alpha, beta = 4, 1.0, 0.001 / 9.0, 0.75
  with tf.name_scope(name):
    channels = int(x.shape[-1])
    distances = np.abs(np.arange(channels)[:, np.newaxis] - np.arange(channels))
    band = tf.constant(alpha * (distances <= radius), x.dtype)
    rows = tf.reshape(x, [-1, channels])
    # A bias for each channel, because then the product and the sum become one operation.
    biases = tf.constant(bias, x.dtype, [channels])
    divisors = tf.nn.bias_add(tf.matmul(tf.square(rows), band), biases)
    # divisors ** -beta; the general power is slower, and its gradient by far.
    return tf.reshape(rows * tf.exp(-beta * tf.log(divisors)), tf.shape(x))


def _activation_summary(x):
  """Adds a histogram of a layer's activations, and the fraction that is zero."""
  if _is_further_tower():
    return
  with _summary_scope():
    _histogram('activations', x)
    tf.summary.scalar('sparsity', tf.reduce_mean(tf.cast(tf.equal(x, 0), tf.float32)))


def _histogram(name, values):
  """Adds the histogram of a tensor, or of a sample evenly spread over it.

  Of all eight million values, one after the other, it would take longer than three training steps.
  """
  elements = values.shape.num_elements()
  if elements is None or elements >= 6 * _HISTOGRAM_VALUES:
    with tf.name_scope(name + '_sample'):
      # One more than a multiple of six has no factor in common with the 64, 192 or 384 channels of
      # a layer: so each channel has its share.
      stride = (elements or tf.size(values)) // (6 * _HISTOGRAM_VALUES) * 6 + 1
      values = tf.reshape(values, [-1])[::stride]
  tf.summary.histogram(name, values)


def _filter_summary(kernel):
  """Adds a picture of a kernel [5, 5, 3, 64]: its 64 filters in a grid of 8 x 8, a pixel apart."""
  if _is_further_tower():
    return
  height, width, depth, count = kernel.shape.as_list()
  side = int(count ** 0.5)
  with _summary_scope():
    with tf.name_scope('filter_grid'):
      tiles = tf.pad(tf.transpose(kernel, [3, 0, 1, 2]), [[0, 0], [0, 1], [0, 1], [0, 0]])
      rows = tf.reshape(tiles, [side, side, height + 1, width + 1, depth])
      grid = tf.reshape(tf.transpose(rows, [0, 2, 1, 3, 4]),
                        [1, side * (height + 1), side * (width + 1), depth])
    tf.summary.image('filters', grid, max_outputs=1)


def _is_further_tower():
  """Returns whether the variables are another tower's too, whose summaries stand for all."""
  return tf.get_variable_scope().reuse is True


def _summary_scope():
  """Returns the layer's name scope without a tower's, for the names of its summaries."""
  return tf.name_scope(tf.get_variable_scope().name + '/')


def loss(logits, labels):
  """Adds the total loss: the cross entropy, averaged over the batch, plus all weight decay.

  Both also go to the collection 'losses'.

  Args:
    logits: float32 of shape [n, 10], see `inference`.
    labels: int32 or int64 of shape [n], 0..9.

  Returns:
    A float32 scalar.
  """
  add_cross_entropy(logits, labels)
  return total_loss()


def add_cross_entropy(logits, labels):
  """Adds the cross entropy, averaged over the batch, to the collection 'losses', see `loss`."""
  cross_entropies = tf.nn.sparse_softmax_cross_entropy_with_logits(
      labels=labels, logits=logits, name='cross_entropy_per_example')
  tf.add_to_collection('losses', tf.reduce_mean(cross_entropies, name='cross_entropy'))


def total_loss(scope=None):
  """Adds the sum of the collection 'losses'.

  Args:
    scope: the name scope of a tower, such as 'tower_0/', to sum only what is in it.

  Returns:
    A float32 scalar.
  """
  return tf.add_n(tf.get_collection('losses', scope), name='total_loss')


def train(total_loss, global_step):
  """Adds one step of training: gradient descent, then the moving averages of the variables.

  Args:
    total_loss: a float32 scalar, see `loss`.
    global_step: an integer variable, counted up by one each step.

  Returns:
    The op that does all of it.
  """
  optimizer = gradient_descent(global_step, FLAGS.batch_size)
  gradients = optimizer.compute_gradients(total_loss)
  gradient_summaries(gradients)
  update = apply_gradients(optimizer, gradients, global_step)
  return tf.group(update, loss_summaries(tf.get_collection('losses') + [total_loss]), name='train')


def gradient_descent(global_step, examples_per_step):
  """Adds the schedule of the learning rate, and its summary.

  Args:
    global_step: an integer variable, the number of steps taken.
    examples_per_step: the number of images in one step: the schedule counts epochs.

  Returns:
    A `tf.train.Optimizer`.
  """
  with tf.name_scope('schedule'):
    steps_per_epoch = count('train_eval') / examples_per_step
    decay_steps = max(1, int(steps_per_epoch * FLAGS.num_epochs_per_decay))
    if FLAGS.learning_rate_schedule == 'linear':
      learning_rate = tf.train.polynomial_decay(
          FLAGS.initial_learning_rate, global_step, decay_steps, end_learning_rate=0.0)
    else:
      learning_rate = tf.train.exponential_decay(
          FLAGS.initial_learning_rate, global_step, decay_steps, FLAGS.learning_rate_decay_factor,
          staircase=True)
  tf.summary.scalar('learning_rate', learning_rate)
  if FLAGS.momentum:
    return tf.train.MomentumOptimizer(learning_rate, FLAGS.momentum, use_nesterov=True)
  return tf.train.GradientDescentOptimizer(learning_rate)


def apply_gradients(optimizer, gradients, global_step):
  """Adds the update of the variables, then that of their moving averages.

  Args:
    optimizer: a `tf.train.Optimizer`.
    gradients: a list of (gradient, variable).
    global_step: an integer variable, counted up by one.

  Returns:
    The op that does all of it.
  """
  update = optimizer.apply_gradients(gradients, global_step=global_step)

  # Evaluating the averages in place of the variables themselves is worth three points and more.
  with tf.control_dependencies([update]), tf.name_scope('moving_averages'):
    averages = tf.train.ExponentialMovingAverage(FLAGS.moving_average_decay,
                                                 num_updates=global_step.read_value())
    updates = []
    for variable in tf.trainable_variables():
      # Beside the variable: the parameter servers of a cluster need not send anything for it.
      with tf.device(variable.device):
        updates.append(averages.apply([variable]))
    return tf.group(*updates)


def gradient_summaries(gradients):
  """Adds histograms of the variables and of their gradients.

  Args:
    gradients: a list of (gradient, variable).
  """
  for gradient, variable in gradients:
    with tf.name_scope(variable.op.name + '/'):
      _histogram('values', variable)
      if gradient is not None:
        _histogram('gradients', gradient)


def loss_summaries(losses):
  """Adds each loss as a scalar, as it is and smoothed.

  Args:
    losses: a list of float32 scalars.

  Returns:
    The op that smooths them, to be run in each step.
  """
  with tf.name_scope('losses'):
    values = tf.stack(losses, name='all')
    # In no collection: the averages belong to this process and not to the model, so no checkpoint
    # has them and no program needs to initialise them. They start as the first losses.
    averages = tf.Variable(tf.zeros([len(losses)], values.dtype), trainable=False, collections=[],
                           name='averages')
    before = tf.cond(tf.is_variable_initialized(averages), averages.read_value, lambda: values)
    update = averages.assign(_LOSS_DECAY * before + (1 - _LOSS_DECAY) * values)
    for value, average in zip(losses, tf.unstack(update)):
      # A curve has the same name whether it is from the only network or from a tower.
      name = re.sub('^%s_[0-9]+/' % TOWER_NAME, '', value.op.name)
      tf.summary.scalar(name + '/raw', value)
      tf.summary.scalar(name + '/average', average)
  return update.op
