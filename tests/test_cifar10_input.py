import base64
import os
import shutil
import struct

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10_input
import numpy_network

BIN = 'cifar-10-batches-bin'


@pytest.fixture
def folder(small_data_dir):
  return os.path.join(small_data_dir, BIN)


def test_constants_are_the_tutorials():
  assert cifar10_input.IMAGE_SIZE == 24
  assert cifar10_input.NUM_CLASSES == 10
  assert cifar10_input.NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN == 50000
  assert cifar10_input.NUM_EXAMPLES_PER_EPOCH_FOR_EVAL == 10000


def test_read_cifar10_gives_one_record_a_run(folder, run_graph):
  path = os.path.join(folder, 'test_batch.bin')
  record = cifar10_input.read_cifar10(tf.train.string_input_producer([path]))
  assert (record.height, record.width, record.depth) == (32, 32, 3)
  assert (record.label.dtype, record.label.shape) == (tf.int32, [1])
  assert (record.uint8image.dtype, record.uint8image.shape) == (tf.uint8, [32, 32, 3])

  images, labels = numpy_network.read(path)
  runs = run_graph([record.key, record.label, record.uint8image], times=3)
  for i, (key, label, image) in enumerate(runs):
    assert key.decode() == '%s:%d' % (path, i)
    assert label.tolist() == [labels[i]]
    np.testing.assert_array_equal(image, images[i])


@pytest.mark.parametrize('strength, least, most', [(1.0, 0, 8), (0.5, 2, 6)])
def test_crops_cover_all_offsets_and_half_are_flipped(strength, least, most, run_graph):
  # One pixel is bright red, its right neighbour bright green.
  image = np.full([32, 32, 3], 100, np.uint8)
  image[16, 12, 0] = image[16, 13, 1] = 200
  count = 4000
  [out] = run_graph(cifar10_input.distort(tf.constant(np.stack([image] * count)), strength))

  rows, reds = np.unravel_index(out[..., 0].reshape(count, -1).argmax(1), [24, 24])
  _, greens = np.unravel_index(out[..., 1].reshape(count, -1).argmax(1), [24, 24])
  flipped = greens < reds
  columns = np.where(flipped, 23 - reds, reds)
  assert set(abs(greens - reds)) == {1}

  # Each frequency within 5 standard deviations of what is expected.
  for offsets in (16 - rows, 12 - columns):
    assert (offsets.min(), offsets.max()) == (least, most)
    p = 1 / (most - least + 1)
    np.testing.assert_allclose(np.bincount(offsets)[least:] / count, p,
                               atol=5 * (p * (1 - p) / count) ** 0.5)
  assert abs(flipped.mean() - 0.5) < 5 * 0.5 / count ** 0.5
  # Flips and crops are independent.
  assert abs(np.corrcoef(16 - rows, 12 - columns)[0, 1]) < 5 / count ** 0.5
  assert abs(np.corrcoef(flipped, 12 - columns)[0, 1]) < 5 / count ** 0.5


@pytest.mark.parametrize('strength, delta, low, high', [(1.0, 63, 0.2, 1.8), (0.5, 31.5, 0.6, 1.4)])
def test_brightness_and_contrast_are_in_range_and_differ_between_images(
    strength, delta, low, high, monkeypatch, run_graph):
  # Standardisation hides brightness altogether.
  monkeypatch.setattr(tf.image, 'per_image_standardization', tf.identity)
  # Red alternates between 100 and 120 from row to row, green is 50, blue 200.
  image = np.zeros([32, 32, 3], np.uint8)
  image[:] = [100, 50, 200]
  image[::2, :, 0] = 120
  count = 4000
  [out] = run_graph(cifar10_input.distort(tf.constant(np.stack([image] * count)), strength))

  means = out.mean(axis=(1, 2))
  deltas = means[:, 0] - 110
  np.testing.assert_allclose(means[:, 1] - 50, deltas, atol=0.02)
  np.testing.assert_allclose(means[:, 2] - 200, deltas, atol=0.02)
  contrasts = np.ptp(out[..., 0], axis=(1, 2)) / 20
  for values, low, high in ((deltas, -delta, delta), (contrasts, low, high)):
    assert low - 0.02 <= values.min() < low + 0.01 * (high - low)
    assert high - 0.01 * (high - low) < values.max() <= high + 0.02
    assert abs(values.mean() - (low + high) / 2) < 5 * (high - low) / (12 * count) ** 0.5
    assert len(np.unique(values.round(4))) > count / 2
  assert abs(np.corrcoef(deltas, contrasts)[0, 1]) < 5 / count ** 0.5


@pytest.mark.parametrize('margin', [1, 3, 7])
def test_without_strength_crops_are_central_at_an_odd_margin_too(margin, run_graph):
  images = np.random.RandomState(0).randint(0, 256, [20, 24 + margin, 24, 3], np.uint8)
  [(with_strength, without)] = run_graph([cifar10_input.distort(tf.constant(images), strength)
                                          for strength in (1.0, 0.0)])
  crops = images[:, margin // 2:margin // 2 + 24].astype(np.float64)
  crops -= crops.mean(axis=(1, 2, 3), keepdims=True)
  crops /= crops.std(axis=(1, 2, 3), keepdims=True)
  for out, crop in zip(without, crops):
    assert np.allclose(out, crop, atol=1e-4) or np.allclose(out, crop[:, ::-1], atol=1e-4)
  assert np.isfinite(with_strength).all()


def test_without_strength_images_are_central_crops_flipped_or_not(folder, run_graph):
  images = numpy_network.read(os.path.join(folder, 'test_batch.bin'))[0]
  [out] = run_graph(cifar10_input.distort(tf.constant(images), strength=0.0))
  expected = numpy_network.center(images)
  same = [np.allclose(a, b, atol=1e-4) for a, b in zip(out, expected)]
  flipped = [np.allclose(a, b[:, ::-1], atol=1e-4) for a, b in zip(out, expected)]
  assert all(np.logical_xor(same, flipped))
  assert any(same) and any(flipped)


def test_distortions_are_those_of_tensorflow_on_each_image(folder, run_graph, monkeypatch):
  images = numpy_network.read(os.path.join(folder, 'test_batch.bin'))[0][:20]
  uniform, drawn = tf.random_uniform, []

  def noted(*args, **kwargs):
    drawn.append(uniform(*args, **kwargs))
    return drawn[-1]

  monkeypatch.setattr(tf, 'random_uniform', noted)
  [(actual, *values)] = run_graph([cifar10_input.distort(tf.constant(images)), *drawn])
  expected = []
  for image, top, left, flip, brightness, contrast in zip(images, *map(np.squeeze, values)):
    x = tf.cast(tf.image.crop_to_bounding_box(image, top, left, 24, 24), tf.float32)
    x = tf.image.flip_left_right(x) if flip else x
    x = tf.image.adjust_contrast(tf.image.adjust_brightness(x, brightness), contrast)
    expected.append(tf.image.per_image_standardization(x))
  # Where contrast is low, standardisation magnifies the rounding of values up to 255.
  np.testing.assert_allclose(actual, run_graph(expected)[0], atol=2e-4)


@pytest.mark.parametrize('prepare', [cifar10_input.distort, cifar10_input.center])
def test_images_are_standardised(prepare, folder, run_graph):
  images, _ = numpy_network.read(os.path.join(folder, 'test_batch.bin'))
  [out] = run_graph(prepare(tf.constant(images)))
  assert (out.dtype, out.shape) == (np.float32, (100, 24, 24, 3))
  np.testing.assert_allclose(out.mean(axis=(1, 2, 3)), 0, atol=1e-5)
  np.testing.assert_allclose(out.std(axis=(1, 2, 3)), 1, atol=1e-4)


def test_views_are_the_centre_the_corners_and_their_mirror_images(folder, run_graph):
  images = numpy_network.read(os.path.join(folder, 'test_batch.bin'))[0][:3]
  [(views, center)] = run_graph([cifar10_input.views(tf.constant(images)),
                                 cifar10_input.center(tf.constant(images))])
  np.testing.assert_array_equal(views[:, 0], center)
  expected = numpy_network.views(images)
  for view in views.swapaxes(0, 1):
    assert sum(np.allclose(view, other, atol=1e-4) for other in expected.swapaxes(0, 1)) == 1
  assert len({view.tobytes() for view in views.swapaxes(0, 1)}) == 10


@pytest.mark.parametrize('prepare', [cifar10_input.distort, cifar10_input.center])
@pytest.mark.parametrize('value', [0, 255])
def test_constant_image_becomes_zero(prepare, value, run_graph):
  [out] = run_graph(prepare(tf.fill([2, 32, 32, 3], tf.constant(value, tf.uint8))))
  np.testing.assert_allclose(out, 0, atol=0.1)


def test_training_batches_are_shuffled_and_have_all_classes(folder, run_graph, capsys):
  images, labels = cifar10_input.distorted_inputs(folder, 50)
  assert (images.dtype, images.shape) == (tf.float32, [50, 24, 24, 3])
  assert (labels.dtype, labels.shape) == (tf.int32, [50])
  assert capsys.readouterr().out.startswith(
      'Filling queue with 20000 CIFAR images before starting to train. This will take ')

  batches = run_graph([images, labels], times=40)
  seen = np.concatenate([labels for _, labels in batches])
  # 2,000 of the queue's 20,000 images, which are 500 different ones, 50 of each class.
  np.testing.assert_allclose(np.bincount(seen, minlength=10) / 2000, 0.1, atol=0.04)
  in_order = np.concatenate([numpy_network.read(os.path.join(folder, 'data_batch_%d.bin' % i))[1]
                             for i in range(1, 6)])
  # Neither in the files' order nor the same again and again.
  starts = [in_order[i:i + 50].tolist() for i in range(450)]
  assert not any(labels.tolist() in starts for _, labels in batches)
  assert len({labels.tobytes() for _, labels in batches}) == 40


def test_label_and_image_stay_together(tmp_path, run_graph):
  # The images of even classes are red, those of odd ones blue.
  for i in range(1, 6):
    records = np.zeros([200, 3073], np.uint8)
    records[:, 0] = np.arange(200) % 10
    records[:, 1 + 1024 * 2:] = 200 * (records[:, :1] % 2)
    records[:, 1:1025] = 200 * (1 - records[:, :1] % 2)
    records.tofile(tmp_path / ('data_batch_%d.bin' % i))
  for images, labels in run_graph(cifar10_input.distorted_inputs(str(tmp_path), 128), times=5):
    redder = images[..., 0].mean(axis=(1, 2)) > images[..., 2].mean(axis=(1, 2))
    np.testing.assert_array_equal(redder, labels % 2 == 0)


def test_training_reads_the_five_training_files_in_random_order(folder, run_graph):
  cifar10_input.distorted_inputs(folder, 128)
  names = tf.get_default_graph().get_tensor_by_name('input/input_producer/RandomShuffle:0')
  orders = run_graph(names, times=20)
  expected = [os.path.join(folder, 'data_batch_%d.bin' % i).encode() for i in range(1, 6)]
  assert all(sorted(order) == expected for order in orders)
  assert len({tuple(order) for order in orders}) > 5


@pytest.mark.parametrize('arguments, images', [([], 20000), ([300], 300)])
def test_shuffle_queue_holds_20000_images_or_as_many_as_asked(arguments, images, folder, capsys):
  cifar10_input.distorted_inputs(folder, 128, *arguments)
  assert 'Filling queue with %d CIFAR images before' % images in capsys.readouterr().out
  graph = tf.get_default_graph()
  [queue] = [op for op in graph.get_operations() if op.type == 'RandomShuffleQueueV2']
  assert queue.get_attr('min_after_dequeue') == images
  assert queue.get_attr('capacity') >= images + 128


def test_shuffle_queue_is_filled_by_16_threads(folder):
  cifar10_input.distorted_inputs(folder, 128)
  graph = tf.get_default_graph()
  [queue] = [op for op in graph.get_operations() if op.type == 'RandomShuffleQueueV2']
  [runner] = [runner for runner in tf.get_collection(tf.GraphKeys.QUEUE_RUNNERS)
              if runner.queue.queue_ref.op is queue]
  assert len(runner.enqueue_ops) == 16


@pytest.mark.parametrize('eval_data, files', [
    ('test', ['test_batch.bin']),
    (True, ['test_batch.bin']),
    ('train_eval', ['data_batch_%d.bin' % i for i in range(1, 6)]),
    (False, ['data_batch_%d.bin' % i for i in range(1, 6)]),
])
@pytest.mark.parametrize('batch_size', [1, 7, 128, 1000])
def test_evaluation_reads_every_image_once_in_order(eval_data, files, batch_size, folder):
  expected = [numpy_network.read(os.path.join(folder, name)) for name in files]
  images, labels = _one_pass(*cifar10_input.inputs(eval_data, folder, batch_size),
                             batch_size=batch_size)
  np.testing.assert_array_equal(labels, np.concatenate([labels for _, labels in expected]))
  np.testing.assert_allclose(
      images, np.concatenate([numpy_network.center(images) for images, _ in expected]), atol=1e-4)


@pytest.mark.parametrize('batch_size', [1, 7, 128, 10000])
def test_evaluation_of_10000_images_counts_10000(batch_size, data_dir):
  folder = os.path.join(data_dir, BIN)
  _, labels = _one_pass(*cifar10_input.inputs('test', folder, batch_size), batch_size=batch_size)
  np.testing.assert_array_equal(
      labels, numpy_network.read(os.path.join(folder, 'test_batch.bin'))[1])


def _one_pass(images, labels, batch_size):
  """Runs the input to its end, as a program that initialises no variables does."""
  batches = []
  with tf.Session() as session:
    coordinator = tf.train.Coordinator()
    threads = tf.train.start_queue_runners(session, coordinator)
    with pytest.raises(tf.errors.OutOfRangeError):
      while True:
        batches.append(session.run([images, labels]))
    coordinator.request_stop()
    coordinator.join(threads)
  assert all(len(labels) == batch_size for _, labels in batches[:-1])
  return [np.concatenate(parts) for parts in zip(*batches)]


def test_images_go_to_the_image_summary(folder, run_graph):
  cifar10_input.distorted_inputs(folder, 10)
  [serialized] = run_graph(tf.summary.merge_all())
  images = [value for value in tf.Summary.FromString(serialized).value
            if value.HasField('image')]
  assert [value.tag for value in images] == ['input/images/image/%d' % i for i in range(3)]
  assert {(value.image.height, value.image.width) for value in images} == {(24, 24)}


def test_unknown_eval_data_is_refused(folder):
  with pytest.raises(ValueError, match="eval_data must be 'test' or 'train_eval', not 'foo'"):
    cifar10_input.inputs('foo', folder, 1)


def test_queues_work_from_a_folder_with_spaces_and_umlauts(folder, tmp_path):
  odd = tmp_path / 'Bücher und Bilder'
  shutil.copytree(folder, odd)
  _, labels = _one_pass(*cifar10_input.inputs('test', str(odd), 30), batch_size=30)
  assert len(labels) == 100


@pytest.fixture
def pixels():
  return np.random.RandomState(0).randint(0, 256, [32, 32, 3]).astype(np.uint8)


def _bmp(pixels):
  """A BMP file of 24 bits a pixel: blue, green, red, from the bottom row to the top one."""
  height, width, _ = pixels.shape
  return (struct.pack('<2sIHHI', b'BM', 54 + pixels.size, 0, 0, 54)
          + struct.pack('<IiiHHIIiiII', 40, width, height, 1, 24, 0, pixels.size, 0, 0, 0, 0)
          + pixels[::-1, :, ::-1].tobytes())


# One red pixel.
_GIF = (b'GIF89a\x01\x00\x01\x00\x80\x00\x00\xff\x00\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01'
        b'\x00\x00\x02\x02D\x01\x00;')


def _decoded(run_graph, *contents):
  [images] = run_graph(cifar10_input.decode_pictures(tf.stack(contents)))
  assert (images.dtype, images.shape[1:]) == (np.uint8, (32, 32, 3))
  return images


def test_pictures_of_the_size_of_the_data_set_stay_as_they_are(pixels, run_graph):
  images = _decoded(run_graph, tf.image.encode_png(pixels), tf.constant(_bmp(pixels)),
                    tf.image.encode_png(pixels[:, :, :1]), tf.constant(_GIF))
  np.testing.assert_array_equal(images[0], pixels)
  np.testing.assert_array_equal(images[1], pixels)
  np.testing.assert_array_equal(images[2], np.repeat(pixels[:, :, :1], 3, axis=2))
  np.testing.assert_array_equal(images[3], np.broadcast_to(np.uint8([255, 0, 0]), [32, 32, 3]))


def test_jpeg_is_nearly_as_it_was(run_graph):
  smooth = np.broadcast_to(np.uint8(np.linspace(0, 250, 32))[:, np.newaxis, np.newaxis],
                           [32, 32, 3])
  [image] = _decoded(run_graph, tf.image.encode_jpeg(smooth, quality=100))
  np.testing.assert_allclose(image.astype(int), smooth, atol=4)


def test_transparent_pictures_lie_on_white(pixels, run_graph):
  opacity = np.zeros([32, 32, 1], np.uint8)
  opacity[:16], opacity[16:24] = 255, 51  # 51 / 255 is a fifth.
  images = _decoded(run_graph, tf.image.encode_png(np.concatenate([pixels, opacity], 2)),
                    tf.image.encode_png(np.concatenate([pixels[:, :, :1], opacity], 2)))
  grey = np.repeat(pixels[:, :, :1], 3, axis=2)
  for image, expected in zip(images, (pixels, grey)):
    np.testing.assert_array_equal(image[:16], expected[:16])
    np.testing.assert_allclose(image[16:24], expected[16:24] * 0.2 + 204, atol=0.51)
    np.testing.assert_array_equal(image[24:], 255)


def test_square_in_the_middle_is_scaled(pixels, run_graph):
  large = np.repeat(np.repeat(pixels, 4, axis=0), 4, axis=1)
  wide = np.pad(large, [(0, 0), (50, 50), (0, 0)])
  tall = np.pad(large, [(31, 31), (0, 0), (0, 0)])
  small = pixels[:8, :8]
  images = _decoded(run_graph, *map(tf.image.encode_png, (large, wide, tall, small)))
  for image in images[:3]:
    np.testing.assert_array_equal(image, pixels)
  np.testing.assert_array_equal(images[3], np.repeat(np.repeat(small, 4, axis=0), 4, axis=1))


# 8x8 pixels of blue, in cyan, magenta, yellow and black.
_CMYK_JPEG = base64.b64decode(
    '/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwAQCwwODAoQDg0OEhEQExgoGhgWFhgxIyUdKDozPTw5Mzg3QEhcTkBEV0U3OFBt'
    'UVdfYmdoZz5NcXlwZHhcZWdj/8AAFAgACAAIBEMRAE0RAFkRAEsRAP/EABQAAQAAAAAAAAAAAAAAAAAAAAf/xAAUEAEA'
    'AAAAAAAAAAAAAAAAAAAA/9oADgRDAE0AWQBLAAA/AD8fkAgP/9k=')

# Of the red pixel a second frame follows, of the other colour: black.
_ANIMATED_GIF = _GIF[:-1] + b',\0\0\0\0\1\0\1\0\0\2\2L\1\0;'


@pytest.mark.parametrize('contents, colour', [
    (_CMYK_JPEG, [0, 0, 255]), (_ANIMATED_GIF, [255, 0, 0])])
def test_unusual_picture_has_its_colour(contents, colour, run_graph):
  [image] = _decoded(run_graph, tf.constant(contents))
  np.testing.assert_allclose(image, np.broadcast_to(colour, [32, 32, 3]), atol=4)


def test_sixteen_bits_become_eight(pixels, run_graph):
  fine = pixels.astype(np.uint16) * 256 + 77
  [image] = _decoded(run_graph, tf.image.encode_png(fine))
  np.testing.assert_array_equal(image, pixels)


@pytest.mark.parametrize('height, width', [(1, 1), (1, 500), (500, 1), (31, 33), (1000, 700)])
def test_picture_of_one_colour_stays_so_at_any_size(height, width, run_graph):
  [image] = _decoded(run_graph, tf.image.encode_png(np.full([height, width, 3], 99, np.uint8)))
  np.testing.assert_array_equal(image, 99)
