"""From the files of CIFAR-10 to batches of images: queues, records, distortions.

The training pipeline, each arrow a queue or an op over many images at once:

  file names -> FixedLengthRecordReader -> decode -> shuffle queue -> distort -> prefetch queue

The shuffle queue holds the images as they are in the files, a quarter of their size as floats.
The evaluation pipeline has neither shuffling nor distortions, and ends after one pass.
"""

import tensorflow.compat.v1 as tf

import cifar10_dataset

# Pixels on a side of what the network sees: a part of the 32 in the files.
IMAGE_SIZE = 24

NUM_CLASSES = len(cifar10_dataset.CLASSES)
NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN = 50000
NUM_EXAMPLES_PER_EPOCH_FOR_EVAL = 10000

# A batch is drawn from at least 0.4 of an epoch, so that it is well mixed although the reader goes
# through the files from beginning to end.
MIN_QUEUE_EXAMPLES = int(NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN * 0.4)

# Records for one run of the reader. An op costs microseconds whatever it works on, so that one
# record a run would cost more than the arithmetic on it.
_RECORDS_PER_READ = 128

_MAX_BRIGHTNESS_DELTA = 63
_MIN_CONTRAST, _MAX_CONTRAST = 0.2, 1.8


def read_cifar10(filename_queue):
  """Adds a reader of one record a run.

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
  class CIFAR10Record(object):
    height = cifar10_dataset.IMAGE_SIZE
    width = cifar10_dataset.IMAGE_SIZE
    depth = cifar10_dataset.IMAGE_DEPTH

  record = CIFAR10Record()
  reader = tf.FixedLengthRecordReader(cifar10_dataset.RECORD_BYTES)
  record.key, value = reader.read(filename_queue)
  images, record.label = _decode(tf.expand_dims(value, 0))
  record.label.set_shape([1])
  record.uint8image = images[0]
  return record


def _read_many(filename_queue):
  """Adds a reader of up to `_RECORDS_PER_READ` records a run, in the order of the files.

  Returns:
    images: uint8 of shape [n, 32, 32, 3].
    labels: int32 of shape [n].
  """
  with tf.name_scope('read'):
    reader = tf.FixedLengthRecordReader(cifar10_dataset.RECORD_BYTES)
    _, values = reader.read_up_to(filename_queue, _RECORDS_PER_READ)
    return _decode(values)


def _decode(values):
  """Decodes records, strings of shape [n], into images [n, 32, 32, 3] and labels [n]."""
  size, depth = cifar10_dataset.IMAGE_SIZE, cifar10_dataset.IMAGE_DEPTH
  records = tf.reshape(tf.decode_raw(values, tf.uint8), [-1, cifar10_dataset.RECORD_BYTES])
  labels = tf.cast(records[:, 0], tf.int32)
  # The files have one colour plane after the other, the convolutions want the colours of a pixel
  # side by side.
  planes = tf.reshape(records[:, 1:], [-1, depth, size, size])
  return tf.transpose(planes, [0, 2, 3, 1]), labels


def distort(images, strength=1.0):
  """Adds the random distortions for training; each image gets its own.

  A 24x24 crop, a left-right flip of every second image, brightness within +-63, contrast times
  0.2 to 1.8 around the mean of each colour, and per-image standardisation. (The last undoes what
  brightness did: it stays for the sake of the original, which had it.)

  Args:
    images: uint8 of shape [n, height, width, 3], n may be unknown.
    strength: from 0 to 1, scales the ranges of crops, brightness and contrast. With 0 each image is
      its central crop, flipped or not.

  Returns:
    float32 of shape [n, 24, 24, 3]; each image has mean 0 and standard deviation 1.
  """
  with tf.name_scope('distort'):
    n = tf.shape(images)[0]
    _, height, width, depth = images.shape.as_list()

    # Which rows and columns of each image to take, of shape [n, 24]. A flip is columns backwards.
    top = _random_offsets(n, height - IMAGE_SIZE, strength)
    left = _random_offsets(n, width - IMAGE_SIZE, strength)
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
    # (floats - means) * contrast + means, with one broadcast over the three colours less.
    adjusted = floats * contrast + means * (1 - contrast)
    return tf.image.per_image_standardization(adjusted)


def _random_offsets(n, margin, strength):
  """Adds `n` random whole numbers around margin // 2, from 0 to `margin` at full strength."""
  centre = margin // 2
  least = centre - int(round(centre * strength))
  most = centre + int(round((margin - centre) * strength))
  return tf.random_uniform([n, 1], least, most + 1, tf.int32)


def center(images):
  """Adds what evaluation does in place of the distortions.

  Args:
    images: uint8 of shape [n, height, width, 3], n may be unknown.

  Returns:
    float32 of shape [n, 24, 24, 3]: the central crops, each with mean 0 and standard deviation 1.
  """
  with tf.name_scope('center'):
    crops = tf.image.resize_with_crop_or_pad(images, IMAGE_SIZE, IMAGE_SIZE)
    return tf.image.per_image_standardization(tf.cast(crops, tf.float32))


def views(images):
  """Adds the views that --multiview averages over: in place of one crop ten.

  They are the crops in the centre and at the four corners, and the mirror image of each, as
  Krizhevsky's cuda-convnet takes them with --multiview-test.

  Args:
    images: uint8 of shape [n, height, width, 3], n may be unknown.

  Returns:
    float32 of shape [n, 10, 24, 24, 3]: each view with mean 0 and standard deviation 1. The first
    is what `center` adds.
  """
  with tf.name_scope('views'):
    _, height, width, _ = images.shape.as_list()
    bottom, right = height - IMAGE_SIZE, width - IMAGE_SIZE
    corners = [(bottom // 2, right // 2), (0, 0), (0, right), (bottom, 0), (bottom, right)]
    crops = [images[:, top:top + IMAGE_SIZE, left:left + IMAGE_SIZE] for top, left in corners]
    mirrored = [crop[:, :, ::-1] for crop in crops]
    return tf.image.per_image_standardization(tf.cast(tf.stack(crops + mirrored, 1), tf.float32))


def decode_pictures(contents):
  """Adds the decoding of pictures of any size and shape into images like those of the data set.

  What is transparent of a PNG with an opacity channel or a palette is laid on white; TensorFlow
  decodes what is transparent of a GIF as black. The square in the middle is scaled to 32x32 pixels.

  Args:
    contents: strings of shape [n], each the contents of a PNG, JPEG, GIF or BMP file.

  Returns:
    uint8 of shape [n, 32, 32, 3].
  """
  size = cifar10_dataset.IMAGE_SIZE

  def decode(content):
    picture = tf.io.decode_image(content, expand_animations=False)
    picture.set_shape([None, None, None])
    side = tf.minimum(tf.shape(picture)[0], tf.shape(picture)[1])
    square = tf.image.resize_with_crop_or_pad(picture, side, side)

    # Scaled without a copy in floats, which of a large photograph would fill the memory.
    def scaled(pixels):
      return tf.image.resize_area(pixels[tf.newaxis], [size, size])[0]

    def scaled_on_white():
      opacity = tf.cast(square[:, :, -1:], tf.float32) / 255
      return scaled(tf.cast(square[:, :, :-1], tf.float32) * opacity + 255 * (1 - opacity))

    # Grey and three colours come with opacity or without.
    has_opacity = tf.equal(tf.shape(picture)[2] % 2, 0)
    small = tf.cond(has_opacity, scaled_on_white, lambda: scaled(square))
    return tf.broadcast_to(tf.cast(tf.round(small), tf.uint8), [size, size, 3])

  with tf.name_scope('decode'):
    return tf.map_fn(decode, contents, dtype=tf.uint8)


def distorted_inputs(data_dir, batch_size, min_queue_examples=MIN_QUEUE_EXAMPLES,
                     distortion_strength=1.0):
  """Adds the input pipeline for training: shuffled, distorted, without an end.

  Args:
    data_dir: path of the folder that holds the `.bin` files.
    batch_size: images in a batch.
    min_queue_examples: each batch is drawn from so many images, at least, and the first one waits
      until they are there.
    distortion_strength: see `distort`.

  Returns:
    images: float32 of shape [batch_size, 24, 24, 3], see `distort`.
    labels: int32 of shape [batch_size], 0..9.

  Raises:
    UserError: a file is missing or damaged.
  """
  with tf.name_scope('input'):
    filename_queue = tf.train.string_input_producer(
        cifar10_dataset.files(data_dir, 'train_eval'))

    print('Filling queue with %d CIFAR images before starting to train. '
          'This will take about a second.' % min_queue_examples)
    images, labels = tf.train.shuffle_batch(
        list(_read_many(filename_queue)), batch_size, enqueue_many=True, num_threads=16,
        capacity=min_queue_examples + 3 * batch_size, min_after_dequeue=min_queue_examples)

    # So that a training step never waits for the distortions.
    images, labels = prefetch_queue(distort(images, distortion_strength), labels,
                                    capacity=4).dequeue()
    tf.summary.image('images', images)
    return images, labels


def prefetch_queue(images, labels, capacity):
  """Adds a queue of whole batches.

  Args:
    images, labels: a batch, each time that they are run the next.
    capacity: how many batches the queue holds.

  Returns:
    A `tf.QueueBase`; what it dequeues is (images, labels).
  """
  queue = tf.FIFOQueue(capacity, [images.dtype, labels.dtype], [images.shape, labels.shape],
                       name='prefetch')
  # Two threads: one waits for its batch while the other works on it.
  tf.train.add_queue_runner(tf.train.QueueRunner(queue, [queue.enqueue([images, labels])] * 2))
  return queue


def inputs(eval_data, data_dir, batch_size, multiview=False):
  """Adds the input pipeline for evaluation: every image once, in the order of the files.

  After the last image the pipeline ends, with a `tf.errors.OutOfRangeError` for whoever asks for
  another batch.

  Args:
    eval_data: 'test' (or true) for the test images, 'train_eval' (or false) for those trained on.
    data_dir: path of the folder that holds the `.bin` files.
    batch_size: images in a batch; the last batch has what is left.
    multiview: whether each image comes in ten views.

  Returns:
    images: float32 of shape [None, 24, 24, 3], see `center`, or for several views
      [None, 10, 24, 24, 3], see `views`.
    labels: int32 of shape [None], 0..9.

  Raises:
    UserError: a file is missing or damaged.
    ValueError: `eval_data` is something else.
  """
  eval_data = {True: 'test', False: 'train_eval'}.get(eval_data, eval_data)
  if eval_data not in ('test', 'train_eval'):
    raise ValueError("eval_data must be 'test' or 'train_eval', not %r." % eval_data)
  with tf.name_scope('input'):
    filename_queue = _one_pass(cifar10_dataset.files(data_dir, eval_data))
    images, labels = _read_many(filename_queue)
    images = views(images) if multiview else center(images)
    # One thread only: several would disturb the order.
    images, labels = tf.train.batch([images, labels], batch_size, enqueue_many=True,
                                    capacity=batch_size + 4 * _RECORDS_PER_READ,
                                    allow_smaller_final_batch=True)
    tf.summary.image('images', images[:, 0] if multiview else images)
    return images, labels


def _one_pass(strings):
  """Adds a queue of `strings` that closes after the last.

  `string_input_producer(num_epochs=1)` would do, but it counts in a local variable, which programs
  that only restore a checkpoint do not initialise.
  """
  queue = tf.FIFOQueue(len(strings), [tf.string], [[]], name='filenames')
  with tf.control_dependencies([queue.enqueue_many([strings])]):
    fill = queue.close()
  # The thread runs `fill` until that fails, as it does when the queue is closed.
  tf.train.add_queue_runner(tf.train.QueueRunner(
      queue, [fill], queue_closed_exception_types=(tf.errors.CancelledError,)))
  return queue
