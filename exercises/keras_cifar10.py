"""The tutorial as you would write it today, with tf.data and Keras 3: `train`, then `evaluate`.

  python exercises/keras_cifar10.py train --max_steps=10000

Read it beside cifar10_input.py and cifar10.py, whose order it keeps; docs/migrating.md compares the
two, idiom by idiom. `convert FROM TO` turns a graph checkpoint into a .keras file, or such a file
into a checkpoint: `convert cifar10/trained a.keras`, `convert a.keras cifar10/from_keras`.
"""

from cifar10_support import checkpoints  # First: it imports TensorFlow without its chatter.

import argparse
import math
import os
import sys

import tensorflow as tf

from cifar10_support import console
from cifar10_support import dataset

os.environ['KERAS_BACKEND'] = 'tensorflow'
import keras  # noqa: E402
from keras import layers  # noqa: E402

IMAGE_SIZE = 24
NUM_CLASSES = 10
NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN = 50000
MIN_QUEUE_EXAMPLES = 20000

MOVING_AVERAGE_DECAY = 0.9999
NUM_EPOCHS_PER_DECAY = 350.0
LEARNING_RATE_DECAY_FACTOR = 0.1
INITIAL_LEARNING_RATE = 0.1
WEIGHT_DECAY = 0.004


def distorted_inputs(paths, batch_size):
  """Returns the training images: a `tf.data.Dataset` of shuffled, distorted, endless batches."""
  names = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).repeat()
  records = tf.data.FixedLengthRecordDataset(names, dataset.RECORD_BYTES)
  # Shuffled as records, of 3 KB: as distorted floats they would be 7.
  images = records.shuffle(MIN_QUEUE_EXAMPLES).map(decode).map(distort, tf.data.AUTOTUNE)
  return images.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def inputs(paths, batch_size):
  """Returns the images for evaluation: each exactly once, in the order of the files."""
  def central_crop(image, label):
    image = tf.image.resize_with_crop_or_pad(image, IMAGE_SIZE, IMAGE_SIZE)
    return tf.image.per_image_standardization(image), label

  records = tf.data.FixedLengthRecordDataset(paths, dataset.RECORD_BYTES)
  return records.map(decode).map(central_crop).batch(batch_size).prefetch(tf.data.AUTOTUNE)


def decode(record):
  """Returns the image, uint8 of shape [32, 32, 3], and the label in a record."""
  values = tf.io.decode_raw(record, tf.uint8)
  planes = tf.reshape(values[1:], [dataset.IMAGE_DEPTH, dataset.IMAGE_SIZE, dataset.IMAGE_SIZE])
  return tf.transpose(planes, [1, 2, 0]), tf.cast(values[0], tf.int32)


def distort(image, label):
  """Distorts an image as `cifar10_input.distort` does."""
  image = tf.image.random_crop(image, [IMAGE_SIZE, IMAGE_SIZE, dataset.IMAGE_DEPTH])
  image = tf.cast(tf.image.random_flip_left_right(image), tf.float32)  # Or brightness is clipped.
  image = tf.image.random_brightness(image, 63)
  image = tf.image.random_contrast(image, 0.2, 1.8)
  return tf.image.per_image_standardization(image), label


@keras.saving.register_keras_serializable('cifar10')
class LocalResponseNormalization(layers.Layer):
  """Divides each value by a power of the squares around it, four channels to either side."""

  def call(self, inputs):
    return tf.nn.local_response_normalization(inputs, 4, bias=1.0, alpha=0.001 / 9.0, beta=0.75)


def inference():
  """Returns the network, a `keras.Model` from images [n, 24, 24, 3] to logits [n, 10]."""
  def initial(stddev, bias):
    return {'kernel_initializer': keras.initializers.TruncatedNormal(stddev=stddev),
            'bias_initializer': keras.initializers.Constant(bias)}

  decay = keras.regularizers.L2(WEIGHT_DECAY / 2)  # Keras's L2 lacks the 1/2 of tf.nn.l2_loss.
  return keras.Sequential([
      keras.Input([IMAGE_SIZE, IMAGE_SIZE, dataset.IMAGE_DEPTH]),
      layers.Conv2D(64, 5, padding='same', activation='relu', name='conv1', **initial(5e-2, 0.0)),
      layers.MaxPooling2D(3, 2, padding='same', name='pool1'),
      LocalResponseNormalization(name='norm1'),
      layers.Conv2D(64, 5, padding='same', activation='relu', name='conv2', **initial(5e-2, 0.1)),
      LocalResponseNormalization(name='norm2'),
      layers.MaxPooling2D(3, 2, padding='same', name='pool2'),
      layers.Flatten(),
      layers.Dense(384, 'relu', kernel_regularizer=decay, name='local3', **initial(0.04, 0.1)),
      layers.Dense(192, 'relu', kernel_regularizer=decay, name='local4', **initial(0.04, 0.1)),
      layers.Dense(NUM_CLASSES, name='softmax_linear', **initial(1 / 192.0, 0.0))])


@keras.saving.register_keras_serializable('cifar10')
class AveragedSGD(keras.optimizers.SGD):
  """Gradient descent that keeps moving averages of the variables, saved with the model.

  In step n their decay is min(0.9999, (1 + n) / (10 + n)), what `num_updates` does in
  `tf.train.ExponentialMovingAverage`; the `use_ema` of Keras's optimizers has no such rule.
  """

  def build(self, variables):
    super().build(variables)
    self.averages = [self.add_variable_from_reference(v, 'average') for v in variables]
    for average, variable in zip(self.averages, variables):
      average.assign(variable)

  def update_step(self, gradient, variable, learning_rate):
    super().update_step(gradient, variable, learning_rate)  # First the update, then the average.
    n = tf.cast(self.iterations + 1, tf.float32)  # Keras counts a step after all its updates.
    decay = tf.minimum(MOVING_AVERAGE_DECAY, (1 + n) / (10 + n))
    average = self.averages[self._get_variable_index(variable)]
    self.assign_sub(average, (1 - decay) * (average - variable))


def compiled_model(batch_size):
  """Returns the network with its loss, schedule and optimizer: a run at step 0."""
  model = inference()
  steps_per_epoch = NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN / batch_size
  learning_rate = keras.optimizers.schedules.ExponentialDecay(
      INITIAL_LEARNING_RATE, int(steps_per_epoch * NUM_EPOCHS_PER_DECAY),
      LEARNING_RATE_DECAY_FACTOR, staircase=True)
  model.compile(AveragedSGD(learning_rate),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                metrics=[keras.metrics.SparseCategoricalAccuracy(name='precision')],
                # Keras would always choose XLA, which halves the speed of this network on a CPU.
                jit_compile=len(tf.config.list_physical_devices('GPU')) == 1)
  model.optimizer.build(model.trainable_variables)
  return model


class Checkpoint(keras.callbacks.Callback):
  """Saves the model after each epoch, and ends the last one, and training, at `max_steps`."""

  def __init__(self, path, max_steps):
    super().__init__()
    self._path, self._max_steps = path, max_steps

  def on_train_batch_end(self, batch, logs=None):
    self.model.stop_training = int(self.model.optimizer.iterations) >= self._max_steps

  def on_epoch_end(self, epoch, logs=None):
    # In two steps: a kill while the file is written leaves the one from before.
    self.model.save(f'{self._path}.unfinished.keras')
    os.replace(f'{self._path}.unfinished.keras', self._path)


def load(path):
  """Loads a model that this program saved, with its moving averages and its step."""
  try:
    return keras.models.load_model(path)
  except Exception as error:  # On a file that is damaged, or no model, Keras may raise anything.
    raise console.UserError(f'{path} cannot be loaded: {error}') from error


def variables_by_key(model):
  """Returns the variables by their keys in the graph's checkpoints."""
  variables = {'global_step': model.optimizer.iterations}
  for variable, average in zip(model.trainable_variables, model.optimizer.averages):
    layer, name = variable.path.split('/')[-2:]
    kind = {'kernel': 'weights', 'bias': 'biases'}[name]
    key = f'{layer}/{kind}'
    variables.update({key: variable, f'{key}/ExponentialMovingAverage': average})
  return variables


def train(flags):
  """Trains up to --max_steps; a saved model is resumed. Several GPUs share each batch."""
  data_set = dataset.prepare(flags.data_dir, dataset.DATA_URL, NUM_CLASSES)
  data_set.check_is_like_cifar10()
  several = len(tf.config.list_logical_devices('GPU')) > 1
  strategy = tf.distribute.MirroredStrategy() if several else tf.distribute.get_strategy()
  with strategy.scope():
    model = load(flags.model) if os.path.exists(flags.model) else compiled_model(flags.batch_size)
  step = int(model.optimizer.iterations)
  epoch = max(1, data_set.num_train // flags.batch_size)  # In steps.
  if step >= flags.max_steps:
    raise console.UserError(f'{flags.model} has reached step {step}: raise --max_steps.')
  model.fit(distorted_inputs(data_set.train_files, flags.batch_size), shuffle=False,  # It is.
            steps_per_epoch=epoch, initial_epoch=step // epoch, verbose=2,
            epochs=math.ceil(flags.max_steps / epoch),
            callbacks=[Checkpoint(flags.model, flags.max_steps), keras.callbacks.TensorBoard(
                os.path.dirname(flags.model), histogram_freq=1)])


def evaluate(flags):
  """Prints precision @ 1 on the test images."""
  data_set = dataset.prepare(flags.data_dir, dataset.DATA_URL, NUM_CLASSES)
  data_set.check_is_like_cifar10()
  model = load(flags.model)
  if not flags.raw_weights:
    for variable, average in zip(model.trainable_variables, model.optimizer.averages):
      variable.assign(average)
  result = model.evaluate(inputs(data_set.test_files, flags.batch_size), verbose=0,
                          steps=math.ceil(data_set.num_test / flags.batch_size), return_dict=True)
  console.log(f"precision @ 1 = {result['precision']:.3f}")


def convert(flags):
  """Converts a checkpoint of the graph to a new `.keras` file, or such a file to a new run."""
  source, destination = flags.paths
  if os.path.exists(destination):
    raise console.UserError(f'{destination} exists: name another place for the result.')
  os.makedirs(os.path.dirname(os.path.abspath(destination)), exist_ok=True)
  if destination.endswith('.keras'):
    found = checkpoints.latest_intact(source) or checkpoints.read(source)
    model = compiled_model(flags.batch_size)
    variables = variables_by_key(model)
    variables.pop('global_step').assign(found.step or 0)  # Old ones have it in their name only.
    checkpoints.check_fits(found, {key: variables[key].value for key in variables})
    reader = tf.train.load_checkpoint(found.path)
    for key, variable in variables.items():
      variable.assign(reader.get_tensor(key))
    model.save(destination)
  else:
    variables = variables_by_key(load(source))
    os.mkdir(destination)
    name = f"model.ckpt-{variables['global_step'].numpy()}"
    # What a Saver does. A tf.train.Checkpoint would have keys of its own.
    tf.raw_ops.SaveV2(prefix=os.path.join(destination, name), tensor_names=list(variables),
                      shape_and_slices=[''] * len(variables), tensors=list(variables.values()))
    tf.compat.v1.train.update_checkpoint_state(os.path.abspath(destination), name)
  print(f'{source} is in {destination} now.')


def main(argv=None):
  """Runs a command; returns the exit status."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0], allow_abbrev=False)
  parser.add_argument('command', choices=['train', 'evaluate', 'convert'])
  parser.add_argument('paths', nargs='*', help='for convert: what to convert, and to what')
  parser.add_argument('--data_dir', default='cifar10/data', help='folder of the data set')
  parser.add_argument('--model', default='cifar10/keras/model.keras',
                      help='model file to train or evaluate')
  parser.add_argument('--batch_size', type=int, default=128, help='images in a batch')
  parser.add_argument('--max_steps', type=int, default=100000, help='steps to train in all')
  parser.add_argument('--raw_weights', action='store_true', help='do not evaluate the averages')
  flags = parser.parse_args(argv)
  if len(flags.paths) != (2 if flags.command == 'convert' else 0):
    parser.error('convert takes two paths, and the other commands none')
  if min(flags.batch_size, flags.max_steps) < 1:
    parser.error('--batch_size and --max_steps must be at least 1')
  try:
    {'train': train, 'evaluate': evaluate, 'convert': convert}[flags.command](flags)
  except (console.UserError, OSError) as error:
    console.complain(error)
    return 1


if __name__ == '__main__':
  sys.exit(main())
