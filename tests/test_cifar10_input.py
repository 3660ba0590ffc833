import os
import shutil

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10_input
from cifar10_support import dataset
from cifar10_support import tf_setup
from cifar10_support.console import UserError
import numpy_network

FLAGS = tf.app.flags.FLAGS


@pytest.fixture
def folder(small_data_set):
  return os.path.dirname(small_data_set.test_files[0])


@pytest.fixture
def pictures(small_data_set):
  """The 100 test images, uint8."""
  return numpy_network.read(small_data_set.test_files[0])[0]


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
  count = 2000
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
  count = 2000
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


def test_distortions_are_those_of_tensorflow_on_each_image(pictures, run_graph, monkeypatch):
  images = pictures[:5]
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


@pytest.mark.parametrize('margin', [1, 3, 8])
def test_without_strength_images_are_central_crops_flipped_or_not(margin, pictures, run_graph):
  images = pictures[:20, :24 + margin, :24]
  [(with_strength, without)] = run_graph([cifar10_input.distort(tf.constant(images), strength)
                                          for strength in (1.0, 0.0)])
  crops = images[:, margin // 2:margin // 2 + 24].astype(np.float64)
  crops -= crops.mean(axis=(1, 2, 3), keepdims=True)
  crops /= crops.std(axis=(1, 2, 3), keepdims=True)
  same, flipped = ([np.allclose(a, b, atol=1e-4) for a, b in zip(without, expected)]
                   for expected in (crops, crops[:, :, ::-1]))
  assert all(np.logical_xor(same, flipped))
  assert any(same) and any(flipped)
  assert np.isfinite(with_strength).all()


@pytest.mark.parametrize('prepare', [cifar10_input.distort, cifar10_input.central_crop])
def test_images_are_standardised(prepare, pictures, run_graph):
  [(out, of_black)] = run_graph([prepare(tf.constant(pictures)),
                                 prepare(tf.zeros([2, 32, 32, 3], tf.uint8))])
  assert (out.dtype, out.shape) == (np.float32, (100, 24, 24, 3))
  np.testing.assert_allclose(out.mean(axis=(1, 2, 3)), 0, atol=1e-5)
  np.testing.assert_allclose(out.std(axis=(1, 2, 3)), 1, atol=1e-4)
  np.testing.assert_allclose(of_black, 0, atol=0.1)


def test_ten_crops_are_the_centre_the_corners_and_their_flips(pictures, run_graph):
  [(crops, central)] = run_graph([cifar10_input.ten_crops(tf.constant(pictures[:3])),
                                  cifar10_input.central_crop(tf.constant(pictures[:3]))])
  np.testing.assert_array_equal(crops[:, 0], central)
  expected = numpy_network.ten_crops(pictures[:3]).swapaxes(0, 1)
  for crop in crops.swapaxes(0, 1):
    assert sum(np.allclose(crop, other, atol=1e-4) for other in expected) == 1
  assert len({crop.tobytes() for crop in crops.swapaxes(0, 1)}) == 10


def test_training_batches_are_shuffled_and_have_all_classes(folder, run_graph, capsys):
  images, labels = cifar10_input.distorted_inputs(folder, 50)
  assert (images.dtype, images.shape) == (tf.float32, [50, 24, 24, 3])
  assert (labels.dtype, labels.shape) == (tf.int32, [50])
  # Scripts parse this line.
  assert capsys.readouterr().out == (
      'Filling queue with 20000 CIFAR images before starting to train. '
      'This will take about a second.\n')

  batches = run_graph(labels, times=40)
  seen = np.concatenate(batches)
  # 2,000 of the queue's 20,000 images, which are 500 different ones, 50 of each class.
  np.testing.assert_allclose(np.bincount(seen, minlength=10) / 2000, 0.1, atol=0.04)
  in_order = np.concatenate([numpy_network.read(os.path.join(folder, 'data_batch_%d.bin' % i))[1]
                             for i in range(1, 6)])
  # Neither in the files' order nor the same again and again.
  starts = [in_order[i:i + 50].tolist() for i in range(450)]
  assert not any(labels.tolist() in starts for labels in batches)
  assert len({labels.tobytes() for labels in batches}) == 40


def test_label_and_image_stay_together(tmp_path, run_graph):
  # The images of even classes are red, those of odd ones blue.
  records = np.zeros([200, 3073], np.uint8)
  records[:, 0] = np.arange(200) % 10
  records[:, 1 + 1024 * 2:] = 200 * (records[:, :1] % 2)
  records[:, 1:1025] = 200 * (1 - records[:, :1] % 2)
  path = str(tmp_path / 'batch.bin')
  records.tofile(path)
  batches = run_graph(cifar10_input.training_batches(
      dataset.DataSet([path], [], 200, 0, dataset.CLASSES), 128, min_queue_examples=300), times=5)
  for images, labels in batches:
    redder = images[..., 0].mean(axis=(1, 2)) > images[..., 2].mean(axis=(1, 2))
    np.testing.assert_array_equal(redder, labels % 2 == 0)


@pytest.mark.parametrize('min_queue_examples, images', [(None, 20000), (300, 300)])
def test_shuffle_queue_is_as_large_as_asked_and_filled_by_16_threads(
    min_queue_examples, images, small_data_set):
  cifar10_input.training_batches(small_data_set, 128, min_queue_examples)
  [queue] = [op for op in tf.get_default_graph().get_operations()
             if op.type == 'RandomShuffleQueueV2']
  assert queue.get_attr('min_after_dequeue') == images
  assert queue.get_attr('capacity') >= images + 128
  [runner] = [runner for runner in tf.get_collection(tf.GraphKeys.QUEUE_RUNNERS)
              if runner.queue.queue_ref.op is queue]
  assert len(runner.enqueue_ops) == 16


def test_size_of_an_epoch_that_is_set_sizes_the_shuffle_queue(small_data_set, monkeypatch, capsys):
  monkeypatch.setattr(cifar10_input, 'NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN', 1000)
  cifar10_input.training_batches(small_data_set, 128)
  assert ' 400 CIFAR images ' in capsys.readouterr().out


def test_evaluation_without_an_end_gives_full_batches(folder, run_graph):
  images, labels = cifar10_input.inputs('test', folder, 7)
  assert (images.dtype, images.shape) == (tf.float32, [7, 24, 24, 3])
  assert (labels.dtype, labels.shape) == (tf.int32, [7])
  expected, classes = numpy_network.read(os.path.join(folder, 'test_batch.bin'))
  batches = run_graph([images, labels], times=200)
  np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]),
                                np.resize(classes, 1400))
  np.testing.assert_allclose(batches[14][0], numpy_network.central_crop(
      np.concatenate([expected[98:], expected[:5]])), atol=1e-4)


@pytest.mark.parametrize('part, batch_size', [('test', 1), ('train_eval', 30), ('test', 1000)])
def test_one_pass_gives_every_image_once_in_order(part, batch_size, small_data_set):
  files = small_data_set.files(part)
  expected = [numpy_network.read(path) for path in files]
  images, labels = _one_pass(small_data_set, part, batch_size)
  np.testing.assert_array_equal(labels, np.concatenate([labels for _, labels in expected]))
  np.testing.assert_allclose(images, np.concatenate(
      [numpy_network.central_crop(images) for images, _ in expected]), atol=1e-4)


def _one_pass(data_set, part, batch_size):
  """Runs the input to its end, as a program that initialises no variables does."""
  tensors = cifar10_input.evaluation_batches(data_set, part, batch_size, one_pass=True)
  batches = []
  with tf.Session() as session:
    coordinator = tf.train.Coordinator()
    threads = tf.train.start_queue_runners(session, coordinator)
    with pytest.raises(tf.errors.OutOfRangeError):
      while True:
        batches.append(session.run(tensors))
    coordinator.request_stop()
    coordinator.join(threads)
  assert all(len(labels) == batch_size for _, labels in batches[:-1])
  return [np.concatenate(parts) for parts in zip(*batches)]


@pytest.mark.parametrize('crop', [
    cifar10_input.distort, cifar10_input.central_crop, cifar10_input.ten_crops])
def test_crop_larger_than_the_images_is_a_one_line_error(crop, monkeypatch):
  for size in (32, 33):
    monkeypatch.setattr(cifar10_input, 'IMAGE_SIZE', size)
    images = tf.zeros([1, 40, 32, 3], tf.uint8)
    if size == 32:
      assert crop(images).shape[-3:] == [32, 32, 3]
    else:
      with pytest.raises(UserError, match='IMAGE_SIZE.* 33.* 40x32'):
        crop(images)


def test_batches_may_be_of_ten_crops(small_data_set, pictures, run_graph):
  images, _ = cifar10_input.evaluation_batches(small_data_set, 'test', 3,
                                               crop=cifar10_input.ten_crops)
  assert images.shape == [3, 10, 24, 24, 3]
  [(batch, expected)] = run_graph([images, cifar10_input.ten_crops(tf.constant(pictures[:3]))])
  np.testing.assert_allclose(batch, expected, atol=1e-5)


def test_images_go_to_the_image_summary(small_data_set, run_graph):
  cifar10_input.training_batches(small_data_set, 10, min_queue_examples=10)
  [serialized] = run_graph(tf.summary.merge_all())
  images = [value for value in tf.Summary.FromString(serialized).value
            if value.HasField('image')]
  assert {(value.image.height, value.image.width) for value in images} == {(24, 24)}
  assert len(images) == 3


def _numbered_batches():
  """Returns a batch that has its number everywhere, from 1 on, and the variable that counts."""
  counter = tf.get_variable('counter', initializer=0)
  number = tf.assign_add(counter, 1)
  return tf.fill([2, 4], tf.cast(number, tf.float32)), tf.fill([2], number), counter


def test_without_a_gpu_nothing_is_staged(with_gpus):
  with_gpus(0)
  images, labels, _ = _numbered_batches()
  before = tf.get_default_graph().as_graph_def()
  assert cifar10_input.stage(images, labels) == (images, labels)
  assert tf.get_default_graph().as_graph_def() == before


def test_staging_is_one_batch_ahead_and_gives_each_once_in_order(with_gpus):
  with_gpus(1)
  images, labels, counter = _numbered_batches()
  with tf.device('/gpu:0'):
    staged_images, staged_labels = cifar10_input.stage(images, labels)
  assert (staged_images.shape, staged_images.dtype) == ([2, 4], tf.float32)
  assert (staged_labels.shape, staged_labels.dtype) == ([2], tf.int32)
  assert staged_images.op.device == staged_labels.op.device == '/device:GPU:0'
  put = tf.get_collection(tf_setup.STAGING)
  with tf.Session(config=tf_setup.session_config()) as session:
    session.run(tf.global_variables_initializer())
    session.run(put)
    for number in range(1, 20):
      batch, numbers, _ = session.run([staged_images, staged_labels, put])
      np.testing.assert_array_equal(batch, np.full([2, 4], number))
      np.testing.assert_array_equal(numbers, [number] * 2)
      assert session.run(counter) == number + 1


def test_each_tower_has_a_staging_area_of_its_own(with_gpus):
  with_gpus(2)
  batches = [cifar10_input.stage(tf.constant([[number]]), tf.constant([number]))
             for number in (1.0, 2.0)]
  with tf.Session(config=tf_setup.session_config()) as session:
    session.run(tf.get_collection(tf_setup.STAGING))
    first, second = session.run([labels for _, labels in batches])
  assert (first, second) == (1.0, 2.0)


@pytest.mark.parametrize('builder', [
    lambda folder: cifar10_input.distorted_inputs(folder, 4),
    lambda folder: cifar10_input.inputs('test', folder, 4)])
def test_input_is_on_the_cpu_wherever_it_is_built(builder, folder):
  with tf.device('/gpu:0'):
    builder(folder)
  assert {op.device for op in tf.get_default_graph().get_operations()} == {'/device:CPU:0'}


@pytest.mark.parametrize('builder', [
    lambda folder: cifar10_input.distorted_inputs(folder, 4),
    lambda folder: cifar10_input.inputs('train_eval', folder, 4)])
def test_missing_file_is_a_value_error_that_names_it(builder, folder, tmp_path):
  shutil.copytree(folder, tmp_path / 'data')
  (tmp_path / 'data' / 'data_batch_3.bin').unlink()
  with pytest.raises(ValueError, match='data_batch_3.bin'):
    builder(str(tmp_path / 'data'))
  cifar10_input.inputs('test', str(tmp_path / 'data'), 4)  # Needs only its own file.


def test_unknown_eval_data_is_a_value_error(folder):
  with pytest.raises(ValueError, match="'foo'"):
    cifar10_input.inputs('foo', folder, 1)


def test_queues_work_from_a_folder_with_spaces_and_umlauts(small_data_set, tmp_path):
  odd = tmp_path / 'Bücher und Bilder'
  odd.mkdir()
  shutil.copy(small_data_set.test_files[0], odd)
  data_set = dataset.find(str(odd), 10, ['test'])
  assert len(_one_pass(data_set, 'test', 30)[1]) == 100
