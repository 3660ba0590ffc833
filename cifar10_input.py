"""From the files of CIFAR-10 to batches of images: queues, records, distortions.

The pipeline for training, with its queues in brackets; each op works on many images at once:

  [file names] -> FixedLengthRecordReader -> decode -> [shuffle] -> distort -> [prefetch]

The shuffle queue holds images as they are in the files, a quarter of their size as floats. The
pipeline for evaluation has neither the shuffling nor the distortions. All of it runs on the CPU,
which leaves a GPU free for the network; `stage` copies each batch there ahead of its step.
"""

from cifar10_support import tf_setup  # First: it imports TensorFlow without its chatter.

import types

import tensorflow.compat.v1 as tf

from cifar10_support import dataset
from cifar10_support.console import UserError

# Pixels on a side of what the network sees: a crop of the 32x32 in the files.
IMAGE_SIZE = 24

# A data set that says what it is sets these and IMAGE_SIZE, see `dataset.follow`; but not one that
# you have changed yourself.
NUM_CLASSES = 10
NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN = 50000
NUM_EXAMPLES_PER_EPOCH_FOR_EVAL = 10000

# The shuffle queue hands out a random image from a pool of at least this part of an epoch. The
# reader walks each file from start to end, so with a small pool every batch would be made of
# neighbours.
MIN_FRACTION_OF_EXAMPLES_IN_QUEUE = 0.4

# Records for one run of the reader. An op costs microseconds whatever it works on: one record at a
# time, the overhead would exceed the arithmetic.
_RECORDS_PER_READ = 128

_MAX_BRIGHTNESS_DELTA = 63
_MIN_CONTRAST, _MAX_CONTRAST = 0.2, 1.8


# From files to batches.


def training_batches(data_set, batch_size, min_queue_examples=None, distortion_strength=1.0):
  """Adds the pipeline for training: shuffled, distorted, endless.

  In a graph with a seed, see `tf.set_random_seed`, the batches are the same each time.

  Args:
    data_set: a `dataset.DataSet`.
    batch_size: number of images in a batch.
    min_queue_examples: number of images in the shuffle queue before the first batch, and the least
      ever after. By default MIN_FRACTION_OF_EXAMPLES_IN_QUEUE of an epoch.
    distortion_strength: see `distort`.

  Returns:
    images: float32 of shape [batch_size, 24, 24, 3], see `distort`.
    labels: int32 of shape [batch_size], 0..9.
  """
  min_queue_examples = min_queue_examples or int(
      NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN * MIN_FRACTION_OF_EXAMPLES_IN_QUEUE)
  with tf.device('/cpu:0'), tf.name_scope('input'):
    filename_queue = tf.train.string_input_producer(data_set.files('train_eval'))
    images, labels = _read_many(filename_queue, data_set, 'train_eval')

    print(f'Filling queue with {min_queue_examples} CIFAR images before starting to train. '
          'This will take about a second.')
    # With a seed, one thread fills the queue, and it has room for a single image more than it must
    # keep. So each image is drawn from a full queue, and their order does not depend on timing.
    num_threads, room = (16, 3 * batch_size) if tf.get_default_graph().seed is None else (1, 1)
    images, labels = tf.train.shuffle_batch(
        [images, labels], batch_size, enqueue_many=True, num_threads=num_threads,
        capacity=min_queue_examples + room, min_after_dequeue=min_queue_examples)

    # Distorted ahead of time, so that a training step never waits for it.
    images = distort(images, distortion_strength)
    images, labels = prefetch_queue(images, labels, capacity=4).dequeue()
    tf.summary.image('images', images)
    return images, labels


def _read_many(filename_queue, data_set, part):
  """Adds a reader of up to `_RECORDS_PER_READ` records a run, in the order of the files."""
  with tf.name_scope('read'):
    reader = tf.FixedLengthRecordReader(data_set.record_bytes)
    keys, values = reader.read_up_to(filename_queue, _RECORDS_PER_READ)
    if part in data_set.left_out:
      values = tf.boolean_mask(
          values, ~tf.strings.regex_full_match(keys, data_set.left_out[part]))
    return _decode(values, data_set.side, data_set.channels)


def _decode(values, size, depth):
  """Decodes records, strings of shape [n].

  Returns:
    images: uint8 of shape [n, size, size, depth].
    labels: int32 of shape [n].
  """
  records = tf.reshape(tf.decode_raw(values, tf.uint8), [-1, 1 + depth * size * size])
  labels = tf.cast(records[:, 0], tf.int32)
  # The files have one colour plane after the other; convolutions want a pixel's colours together.
  planes = tf.reshape(records[:, 1:], [-1, depth, size, size])
  return tf.transpose(planes, [0, 2, 3, 1]), labels


def distort(images, strength=1.0):
  """Adds the random distortions for training; each image gets its own.

  A 24x24 crop, a horizontal flip with probability 1/2, brightness within +-63, contrast times
  0.2 to 1.8 around the mean of each colour, and per-image standardisation. (Standardisation cancels
  the brightness again. The original has it, so it is here.)

  Args:
    images: uint8 of shape [n, height, width, 3], n may be unknown.
    strength: from 0 to 1, scales the ranges of crops, brightness and contrast. With 0 each image is
      its central crop, flipped or not.

  Returns:
    float32 of shape [n, 24, 24, 3]; each image has mean 0 and standard deviation 1.
  """
  with tf.name_scope('distort'):
    n, depth = tf.shape(images)[0], images.shape[-1]
    bottom, right = _margins(images)

    # Which rows and columns to take of each image, of shape [n, 24]. A flip is columns backwards.
    top = _random_offsets(n, bottom, strength)
    left = _random_offsets(n, right, strength)
    flip = tf.random_uniform([n], 0, 2, tf.int32) > 0
    rows = top + tf.range(IMAGE_SIZE)
    columns = left + tf.range(IMAGE_SIZE)
    columns = tf.where(flip, columns[:, ::-1], columns)
    crops = tf.gather(images, rows, axis=1, batch_dims=1)
    crops = tf.gather(crops, columns, axis=2, batch_dims=1)
    crops.set_shape([images.shape[0], IMAGE_SIZE, IMAGE_SIZE, depth])

    delta = strength * _MAX_BRIGHTNESS_DELTA
    brightness = tf.random_uniform([n, 1, 1, 1], -delta, delta)
    contrast = tf.random_uniform([n, 1, 1, 1], 1 + strength * (_MIN_CONTRAST - 1),
                                 1 + strength * (_MAX_CONTRAST - 1))
    floats = tf.cast(crops, tf.float32) + brightness
    means = tf.reduce_mean(floats, axis=[1, 2], keepdims=True)
    # (floats - means) * contrast + means, with one fewer broadcast over the colours.
    adjusted = floats * contrast + means * (1 - contrast)
    return tf.image.per_image_standardization(adjusted)


def _margins(images):
  """Returns how many rows and columns the images have beyond a crop of IMAGE_SIZE."""
  _, height, width, _ = images.shape.as_list()
  if min(height, width) < IMAGE_SIZE:
    raise UserError(f'IMAGE_SIZE in cifar10_input.py is {IMAGE_SIZE}, but the images are '
                    f'{height}x{width}: a crop cannot be larger than they are.')
  return height - IMAGE_SIZE, width - IMAGE_SIZE


def _random_offsets(n, margin, strength):
  """Adds `n` random integers around margin // 2, from 0 to `margin` at full strength."""
  centre = margin // 2
  least = centre - int(round(centre * strength))
  most = centre + int(round((margin - centre) * strength))
  return tf.random_uniform([n, 1], least, most + 1, tf.int32)


def prefetch_queue(images, labels, capacity):
  """Adds a `tf.QueueBase` of up to `capacity` batches, which `images` and `labels` compute."""
  queue = tf.FIFOQueue(capacity, [images.dtype, labels.dtype], [images.shape, labels.shape],
                       name='prefetch')
  # Two threads, so that one can wait for its batch while the other works on the next. They may
  # overtake each other, so with a seed there is one.
  threads = [queue.enqueue([images, labels])] * (2 if tf.get_default_graph().seed is None else 1)
  tf.train.add_queue_runner(tf.train.QueueRunner(queue, threads))
  return queue


def stage(images, labels):
  """Adds a staging area: the next batch is copied to the GPU while that works on this one.

  Each step takes a batch out of the area and puts the next one in. The op that puts it there goes
  to the collection `tf_setup.STAGING`: `cifar10.train` adds it to each step, and `training_session`
  runs it once before the first. A session of your own has to do that too: taking a batch out of an
  empty area waits for ever. (`tf.contrib.staging.StagingArea` consisted of these two ops.)

  Args:
    images, labels: tensors that are the next batch each time they are run, without an end.

  Returns:
    Images and labels in the same order, on the device of the current scope; without a GPU the
    arguments.
  """
  if not tf_setup.num_gpus():
    return images, labels
  with tf.name_scope('staging') as area:  # The name by which the two ops share it.
    put = tf.raw_ops.Stage(values=[images, labels], shared_name=area)
    tf.add_to_collection(tf_setup.STAGING, put)
    staged = tf.raw_ops.Unstage(dtypes=[images.dtype, labels.dtype], shared_name=area)
    staged[0].set_shape(images.shape)
    staged[1].set_shape(labels.shape)
    return staged


def central_crop(images):
  """Adds what evaluation does in place of the distortions.

  Args:
    images: uint8 of shape [n, height, width, 3], n may be unknown.

  Returns:
    float32 of shape [n, 24, 24, 3]: the central crops, each with mean 0 and standard deviation 1.
  """
  with tf.name_scope('central_crop'):
    _margins(images)
    crops = tf.image.resize_with_crop_or_pad(images, IMAGE_SIZE, IMAGE_SIZE)
    return tf.image.per_image_standardization(tf.cast(crops, tf.float32))


def ten_crops(images):
  """Adds the crops of 10-crop evaluation: the centre, the four corners, and their horizontal flips.

  `images` is as for `central_crop`, whose result is the first of the ten: float32 of shape
  [n, 10, 24, 24, 3]. Source: the option --multiview-test of Krizhevsky's cuda-convnet.
  """
  with tf.name_scope('ten_crops'):
    bottom, right = _margins(images)
    corners = [(bottom // 2, right // 2), (0, 0), (0, right), (bottom, 0), (bottom, right)]
    crops = [images[:, top:top + IMAGE_SIZE, left:left + IMAGE_SIZE] for top, left in corners]
    flipped = [crop[:, :, ::-1] for crop in crops]
    return tf.image.per_image_standardization(tf.cast(tf.stack(crops + flipped, 1), tf.float32))


def evaluation_batches(data_set, part, batch_size, one_pass=False, crop=central_crop):
  """Adds the pipeline for evaluation: no distortions, in the order of the files.

  Args:
    data_set: a `dataset.DataSet`.
    part: 'test', 'train_eval' or 'validation'.
    batch_size: number of images in a batch.
    one_pass: false for full batches that go through the files again and again. True for every image
      exactly once: the last batch has what is left, and after it comes a
      `tf.errors.OutOfRangeError`.
    crop: `central_crop` or `ten_crops`.

  Returns:
    images: float32 of shape [batch_size, 24, 24, 3], or [batch_size, 10, 24, 24, 3].
    labels: int32 of shape [batch_size], 0..9.
    With `one_pass` the first dimension is unknown.
  """
  files = data_set.files(part)
  with tf.device('/cpu:0'), tf.name_scope('input'):
    if one_pass:
      filename_queue = _one_pass_queue(files)
    else:
      filename_queue = tf.train.string_input_producer(files, shuffle=False)
    images, labels = _read_many(filename_queue, data_set, part)
    images = crop(images)
    # A single thread, which keeps the order.
    images, labels = tf.train.batch([images, labels], batch_size, enqueue_many=True,
                                    capacity=batch_size + 4 * _RECORDS_PER_READ,
                                    allow_smaller_final_batch=one_pass)
    tf.summary.image('images', images if crop is central_crop else images[:, 0])
    return images, labels


def _one_pass_queue(strings):
  """Adds a queue of `strings` that closes after the last one.

  `string_input_producer(num_epochs=1)` would do the same, but it counts in a local variable, which
  programs that only restore a checkpoint do not initialise.
  """
  queue = tf.FIFOQueue(len(strings), [tf.string], [[]], name='filenames')
  with tf.control_dependencies([queue.enqueue_many([strings])]):
    fill_and_close = queue.close()
  # The queue runner runs it again and again; the second time the queue is closed.
  tf.train.add_queue_runner(tf.train.QueueRunner(
      queue, [fill_and_close], queue_closed_exception_types=(tf.errors.CancelledError,)))
  return queue


# For programs that were written for the original; ours call the functions above through cifar10.py.


def read_cifar10(filename_queue):
  """Adds a reader of one record per run.

  To read in parallel, call this several times: each reader works on a file of its own.

  Args:
    filename_queue: a queue of strings, the paths of files in CIFAR-10's binary format.

  Returns:
    An object with the fields
      height, width, depth: 32, 32 and 3.
      key: a string, `file:record`, the record counted from 0.
      label: int32 of shape [1], 0..9.
      uint8image: uint8 of shape [32, 32, 3].
  """
  reader = tf.FixedLengthRecordReader(dataset.RECORD_BYTES)
  key, value = reader.read(filename_queue)
  size, depth = dataset.IMAGE_SIZE, dataset.IMAGE_DEPTH
  images, label = _decode(tf.expand_dims(value, 0), size, depth)
  label.set_shape([1])
  return types.SimpleNamespace(height=size, width=size, depth=depth, key=key, label=label,
                               uint8image=images[0])


def distorted_inputs(data_dir, batch_size):
  """Adds `training_batches` of the `.bin` files in a folder; a `ValueError` if one is damaged."""
  return training_batches(_followed(data_dir, 'train_eval'), batch_size)


def inputs(eval_data, data_dir, batch_size):
  """Adds `evaluation_batches` of the `.bin` files in a folder: full batches, round and round.

  A `ValueError` if a file is missing or damaged. `eval_data` says of which part, see `part_of`.
  """
  part = part_of(eval_data)
  return evaluation_batches(_followed(data_dir, part), part, batch_size)


def _followed(data_dir, part):
  data_set = dataset.find(data_dir, NUM_CLASSES, [part])
  dataset.follow(data_set.constants, globals())
  return data_set


def part_of(eval_data):
  """Returns 'test', 'train_eval' or 'validation'; the original took true and false for two."""
  part = {True: 'test', False: 'train_eval'}.get(eval_data, eval_data)
  if part not in ('test', 'train_eval', 'validation'):
    raise ValueError(f"eval_data must be 'test', 'train_eval' or 'validation', not {eval_data!r}.")
  return part
