import glob
import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_dataset
import cifar10_device
import numpy_network
from cifar10_console import UserError

FLAGS = cifar10.FLAGS

SHAPES = {
    'conv1/weights': [5, 5, 3, 64], 'conv1/biases': [64],
    'conv2/weights': [5, 5, 64, 64], 'conv2/biases': [64],
    'local3/weights': [2304, 384], 'local3/biases': [384],
    'local4/weights': [384, 192], 'local4/biases': [192],
    'softmax_linear/weights': [192, 10], 'softmax_linear/biases': [10],
}

LOCAL_SHAPES = dict(SHAPES, **{
    'local3/weights': [6, 6, 3 * 3 * 64, 32], 'local3/biases': [6, 6, 32],
    'local4/weights': [6, 6, 3 * 3 * 32, 32], 'local4/biases': [6, 6, 32],
    'softmax_linear/weights': [6 * 6 * 32, 10]})


@pytest.fixture
def images():
  return np.random.RandomState(0).normal(size=[16, 24, 24, 3]).astype(np.float32)


@pytest.fixture
def labels():
  return np.arange(16, dtype=np.int32) % 10


def _build(images, labels):
  """The whole training graph on fixed images; returns the loss and the training op."""
  global_step = tf.train.get_or_create_global_step()
  loss = cifar10.loss(cifar10.inference(tf.constant(images)), tf.constant(labels))
  return loss, cifar10.train(loss, global_step)


@pytest.fixture
def session(images, labels):
  """A session with the training graph, initialised, with `loss` and `train_op`."""
  with tf.Session() as session:
    session.loss, session.train_op = _build(images, labels)
    session.run(tf.global_variables_initializer())
    yield session


def _values(session, suffix=''):
  variables = {v.op.name: v for v in tf.global_variables()}
  return session.run({name: variables[name + suffix] for name in SHAPES})


def test_constants_are_the_tutorials():
  assert FLAGS.batch_size == 128
  assert FLAGS.initial_learning_rate == 0.1
  assert FLAGS.learning_rate_schedule == 'staircase'
  assert FLAGS.num_epochs_per_decay == 350.0
  assert FLAGS.learning_rate_decay_factor == 0.1
  assert FLAGS.momentum == 0.0
  assert FLAGS.weight_decay == 0.004
  assert FLAGS.conv_weight_decay == 0.0
  assert FLAGS.moving_average_decay == 0.9999
  assert FLAGS.distortion_strength == 1.0
  assert cifar10.IMAGE_SIZE == 24
  assert cifar10.NUM_CLASSES == 10
  assert cifar10.NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN == 50000
  assert cifar10.NUM_EXAMPLES_PER_EPOCH_FOR_EVAL == 10000
  assert cifar10.MOVING_AVERAGE_DECAY == 0.9999
  assert cifar10.NUM_EPOCHS_PER_DECAY == 350.0
  assert cifar10.LEARNING_RATE_DECAY_FACTOR == 0.1
  assert cifar10.INITIAL_LEARNING_RATE == 0.1
  assert cifar10.TOWER_NAME == 'tower'
  assert cifar10.DATA_URL == 'https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz'


def test_network_has_the_variables_and_parameters_of_the_tutorial(session):
  assert {v.op.name: v.shape.as_list() for v in tf.trainable_variables()} == SHAPES
  assert sum(v.shape.num_elements() for v in tf.trainable_variables()) == 1068298
  assert {v.device for v in tf.trainable_variables()} == {'/device:CPU:0'}


def test_locally_connected_network_has_1116490_parameters(images, labels):
  FLAGS.top_layers = 'local'
  _build(images, labels)
  assert {v.op.name: v.shape.as_list() for v in tf.trainable_variables()} == LOCAL_SHAPES
  # conv1 4,864; conv2 102,464; local3 663,552 + 1,152; local4 331,776 + 1,152; softmax_linear
  # 11,520 + 10.
  assert sum(v.shape.num_elements() for v in tf.trainable_variables()) == 1116490


def test_checkpoint_has_the_keys_of_the_tutorial(session, tmp_path):
  path = tf.train.Saver().save(session, str(tmp_path / 'model.ckpt'))
  reader = tf.train.load_checkpoint(path)
  expected = dict(SHAPES, global_step=[])
  expected.update({k + '/ExponentialMovingAverage': shape for k, shape in SHAPES.items()})
  assert reader.get_variable_to_shape_map() == expected
  assert reader.get_variable_to_dtype_map()['global_step'] == tf.int64


def test_initial_weights_are_truncated_normal(session):
  values = _values(session)
  stddevs = {'conv1': 5e-2, 'conv2': 5e-2, 'local3': 0.04, 'local4': 0.04,
             'softmax_linear': 1 / 192}
  # Cutting a normal distribution at two standard deviations leaves 0.8796 of the deviation.
  for layer, stddev in stddevs.items():
    weights = values[layer + '/weights']
    error = 5 * stddev / weights.size ** 0.5
    assert abs(weights.mean()) < error
    assert abs(weights.std() - 0.8796 * stddev) < error
    assert 1.9 * stddev < abs(weights).max() <= 2 * stddev * 1.00001


def test_initial_biases(session):
  values = _values(session)
  biases = {'conv1': 0.0, 'conv2': 0.1, 'local3': 0.1, 'local4': 0.1, 'softmax_linear': 0.0}
  for layer, value in biases.items():
    np.testing.assert_array_equal(values[layer + '/biases'], np.float32(value))


@pytest.mark.parametrize('top_layers', ['dense', 'local'])
def test_logits_are_those_of_a_numpy_network(top_layers, images):
  FLAGS.top_layers = top_layers
  logits = cifar10.inference(tf.constant(images))
  # Other values than the initial ones, so that each bias and each channel counts.
  random = np.random.RandomState(1)
  with tf.Session() as session:
    for variable in tf.trainable_variables():
      shape = variable.shape.as_list()
      places = 36 if top_layers == 'local' and variable.name.startswith('local') else 1
      scale = 0.1 if 'biases' in variable.name else (2 * places / np.prod(shape[:-1])) ** 0.5
      variable.load(random.normal(scale=scale, size=shape), session)
    actual = session.run(logits)
    expected = numpy_network.logits(images, _values(session))
  assert expected.std() > 0.3
  np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)


def test_locally_connected_layer_has_the_gradients_of_numpy():
  random = np.random.RandomState(0)
  x = tf.placeholder(tf.float64, [None, 4, 3, 2])
  with tf.variable_scope('', dtype=tf.float64):
    y = cifar10._locally_connected(x, 5, 'local')
  weights, biases = tf.trainable_variables()
  values = {x: random.normal(size=[3, 4, 3, 2]), weights: random.normal(size=[4, 3, 18, 5]),
            biases: random.normal(size=[4, 3, 5])}
  dy = random.normal(size=[3, 4, 3, 5])

  def total(values):
    return np.sum(dy * np.maximum(
        numpy_network.local(values[x], values[weights]) + values[biases], 0))

  with tf.Session() as session:
    weights.load(values[weights], session)
    biases.load(values[biases], session)
    gradients = session.run(tf.gradients(y, list(values), dy), {x: values[x]})
  for key, gradient in zip(values, gradients):
    expected = np.empty_like(gradient)
    for i in np.ndindex(*gradient.shape):
      step = np.zeros_like(gradient)
      step[i] = 1e-6
      expected[i] = (total({**values, key: values[key] + step})
                     - total({**values, key: values[key] - step})) / 2e-6
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('shape', [[2, 6, 6, 64], [5, 1, 1, 7]])
def test_normalisation_is_that_of_numpy_and_tensorflow(shape):
  # With values as large as these, leaving it out, or a wrong alpha or beta, shows.
  random = np.random.RandomState(0)
  x = random.normal(scale=30, size=shape).astype(np.float32)
  dy = tf.constant(random.normal(size=shape).astype(np.float32))
  expected = numpy_network._lrn(x)
  assert np.max(abs(expected - x)) > 5
  images = tf.constant(x)
  with tf.name_scope('another'), tf.variable_scope('scope'):
    ours = cifar10._normalize(images, 'norm')
  theirs = tf.nn.lrn(images, depth_radius=4, bias=1.0, alpha=0.001 / 9.0, beta=0.75)
  with tf.Session() as session:
    np.testing.assert_allclose(session.run(ours), expected, rtol=1e-5)
    np.testing.assert_allclose(session.run(ours), session.run(theirs), rtol=1e-5)
    actual, gradient = session.run([tf.gradients(y, images, dy)[0] for y in (ours, theirs)])
  np.testing.assert_allclose(actual, gradient, rtol=1e-5, atol=1e-5 * abs(gradient).max())


def test_normalisation_can_be_differentiated_twice():
  # tf.nn.lrn cannot: numpy's derivative of our first gradient, in float64, is the reference.
  x = tf.placeholder(tf.float64, [2, 9])
  y = tf.reduce_sum(tf.sin(cifar10._normalize(x, 'norm')))
  [first] = tf.gradients(y, x)
  [second] = tf.gradients(tf.reduce_sum(tf.square(first)), x)
  point = np.random.RandomState(0).normal(scale=60, size=[2, 9])
  with tf.Session() as session:
    def value(at):
      return np.sum(session.run(first, {x: at}) ** 2)

    expected = np.empty_like(point)
    for i in np.ndindex(*point.shape):
      step = np.zeros_like(point)
      step[i] = 1e-5
      expected[i] = (value(point + step) - value(point - step)) / 2e-5
    np.testing.assert_allclose(session.run(second, {x: point}), expected, rtol=1e-4, atol=1e-7)


# bfloat16 has 8 bits: a relative error of 1/256 each time a value is rounded. That of a gradient is
# larger, because rounding also changes which value of a pool is the largest. The locally connected
# layers deviate more, on a processor without bfloat16 by up to 0.043 and 0.32 in ten trials.
@pytest.mark.parametrize('top_layers, shapes, error, gradient_error', [
    ('dense', SHAPES, 0.03, 0.25), ('local', LOCAL_SHAPES, 0.08, 0.45)])
def test_mixed_precision_gives_nearly_the_same_from_the_same_variables(
    top_layers, shapes, error, gradient_error, images, labels, monkeypatch):
  FLAGS.top_layers = top_layers
  monkeypatch.setattr(cifar10_device, 'bfloat16_or_float32', lambda: tf.bfloat16)
  with tf.variable_scope(''):
    exact = cifar10.inference(tf.constant(images))
  FLAGS.mixed_precision = True
  with tf.variable_scope('', reuse=True):
    mixed = cifar10.inference(tf.constant(images))
  variables = tf.trainable_variables()
  assert {v.op.name: v.shape.as_list() for v in variables} == shapes
  assert {v.dtype.base_dtype for v in variables} == {tf.float32}
  losses = [tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits=logits))
            for logits in (exact, mixed)]
  assert [loss.dtype for loss in losses] == [tf.float32] * 2
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    expected, actual = session.run([exact, mixed])
    np.testing.assert_allclose(actual, expected, atol=error * abs(expected).max())
    assert np.any(actual != expected)
    for a, b in zip(*session.run([tf.gradients(loss, variables) for loss in losses])):
      assert np.linalg.norm(b - a) < gradient_error * np.linalg.norm(a)


@pytest.mark.parametrize('flag, dtype', [(True, tf.bfloat16), (True, tf.float32),
                                         (False, tf.float32)])
def test_convolutions_and_their_gradients_have_the_precision_asked_for(
    flag, dtype, images, labels, monkeypatch):
  monkeypatch.setattr(cifar10_device, 'bfloat16_or_float32', lambda: dtype)
  FLAGS.mixed_precision = flag
  _build(images, labels)
  operations = tf.get_default_graph().get_operations()
  convolutions = [op for op in operations if op.type.startswith('Conv2D')]
  assert len(convolutions) == 2 * 3  # Each with the gradients for its images and its kernel.
  assert {op.outputs[0].dtype for op in convolutions} == {dtype}
  if dtype == tf.float32:
    assert not [op for op in operations if tf.bfloat16 in [t.dtype for t in op.outputs]]


def test_loss_can_be_differentiated_with_respect_to_the_images(labels):
  images = tf.placeholder(tf.float32, [None, 24, 24, 3])
  loss = cifar10.loss(cifar10.inference(images), tf.constant(labels))
  [gradient] = tf.gradients(loss, images)
  batch = np.random.RandomState(2).normal(size=[16, 24, 24, 3]).astype(np.float32)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    direction = session.run(gradient, {images: batch})
    # Along its gradient the loss rises as the gradient says.
    step = 1e-2 / np.linalg.norm(direction)
    rise = (session.run(loss, {images: batch + step * direction})
            - session.run(loss, {images: batch - step * direction}))
  np.testing.assert_allclose(rise, 2 * step * np.sum(direction ** 2), rtol=0.05)


def test_batch_size_may_be_unknown_when_the_graph_is_built(images):
  placeholder = tf.placeholder(tf.float32, [None, 24, 24, 3])
  logits = cifar10.inference(placeholder)
  assert logits.shape.as_list() == [None, 10]
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    whole = session.run(logits, {placeholder: images})
    part = session.run(logits, {placeholder: images[:3]})
  np.testing.assert_allclose(part, whole[:3], atol=1e-5)


def test_one_image_takes_the_multiply_adds_of_the_tutorial(session):
  graph = tf.get_default_graph()
  total = 0
  for op in graph.get_operations():
    # The normalisation and the gradients are matrix products too, but not counted.
    if op.name.split('/')[0] not in ('conv1', 'conv2', 'local3', 'local4', 'softmax_linear'):
      continue
    if op.type == 'Conv2D':
      total += op.inputs[1].shape.num_elements() * op.outputs[0].shape[1:3].num_elements()
    elif op.type == 'MatMul':
      total += op.inputs[1].shape.num_elements()
  # conv1 2,764,800; conv2 14,745,600; local3 884,736; local4 73,728; softmax_linear 1,920.
  assert total == 18470784


def test_loss_is_cross_entropy_plus_weight_decay(session, images, labels):
  values = _values(session)
  logits = numpy_network.logits(images, values).astype(np.float64)
  log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  cross_entropy = -log_softmax[np.arange(16), labels].mean()
  # l2_loss is half the sum of squares.
  decays = [0.004 * (values[layer + '/weights'].astype(np.float64) ** 2).sum() / 2
            for layer in ('local3', 'local4')]
  actual = session.run(session.loss)
  np.testing.assert_allclose(actual, cross_entropy + sum(decays), rtol=1e-5)
  # As the tutorial reports for step 0.
  assert 4.5 < actual < 4.8
  collected = session.run(tf.get_collection('losses'))
  np.testing.assert_allclose(sorted(collected), sorted(decays + [cross_entropy]), rtol=1e-5)


@pytest.mark.parametrize('step, rate', [(0, 0.1), (136718, 0.01)])
def test_step_is_gradient_descent_with_the_scheduled_rate(session, step, rate):
  variables = tf.trainable_variables()
  tf.train.get_global_step().load(step, session)
  before, gradients = session.run([variables, tf.gradients(session.loss, variables)])
  session.run(session.train_op)
  for old, gradient, new in zip(before, gradients, session.run(variables)):
    assert np.any(gradient)
    np.testing.assert_allclose(new, old - np.float32(rate) * gradient, rtol=1e-5, atol=1e-7)
  assert session.run(tf.train.get_global_step()) == step + 1


def test_moving_averages_follow_the_updated_variables(session):
  expected = _values(session)
  # Each average starts as its variable does.
  for name, value in _values(session, '/ExponentialMovingAverage').items():
    np.testing.assert_array_equal(value, expected[name])
  for step in range(1, 4):
    session.run(session.train_op)
    # Early on the average is quicker to follow: the decay is at most (1 + step) / (10 + step).
    decay = min(0.9999, (1.0 + step) / (10.0 + step))
    for name, value in _values(session).items():
      expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in _values(session, '/ExponentialMovingAverage').items():
      np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-6)


def test_moving_average_decay_ends_at_its_limit(session):
  tf.train.get_global_step().load(10 ** 6, session)
  before = _values(session, '/ExponentialMovingAverage')
  tf.trainable_variables()[0].load(before['conv1/weights'] + 1000.0, session)
  session.run(session.train_op)
  after = _values(session, '/ExponentialMovingAverage')
  difference = after['conv1/weights'] - before['conv1/weights']
  np.testing.assert_allclose(difference, 1000.0 * 1e-4, rtol=0.01)


def _learning_rate_at(step):
  with tf.Session() as session:
    tf.train.get_global_step().load(step, session)
    summary = tf.Summary.FromString(session.run('learning_rate:0'))
  return summary.value[0].simple_value


@pytest.mark.parametrize('batch_size, step, rate', [
    (128, 0, 0.1),
    # 350 epochs of 50,000 images in batches of 128 are 136,718.75 steps.
    (128, 136717, 0.1),
    (128, 136718, 0.01),
    (128, 2 * 136718 - 1, 0.01),
    (128, 2 * 136718, 0.001),
    (64, 136718, 0.1),
    (64, 273437, 0.01),
])
def test_learning_rate_falls_tenfold_every_350_epochs(images, labels, batch_size, step, rate):
  FLAGS.batch_size = batch_size
  _build(images, labels)
  np.testing.assert_allclose(_learning_rate_at(step), rate, rtol=1e-6)


@pytest.mark.parametrize('flags, step, rate', [
    # 10 epochs of 50,000 images in batches of 128 are 3,906.25 steps.
    (['--learning_rate_schedule=linear'], 0, 0.05),
    (['--learning_rate_schedule=linear'], 1953, 0.025),
    (['--learning_rate_schedule=linear'], 3906, 0.0),
    (['--learning_rate_schedule=linear'], 5000, 0.0),
    (['--learning_rate_decay_factor=0.5'], 3905, 0.05),
    (['--learning_rate_decay_factor=0.5'], 3906, 0.025),
    (['--learning_rate_decay_factor=0.5'], 2 * 3906, 0.0125),
])
def test_learning_rate_falls_as_the_flags_say(flags, step, rate):
  FLAGS(['pytest', '--initial_learning_rate=0.05', '--num_epochs_per_decay=10'] + flags)
  cifar10.gradient_descent(tf.train.get_or_create_global_step(), 128)
  np.testing.assert_allclose(_learning_rate_at(step), rate, rtol=1e-6)


@pytest.mark.parametrize('step, rate', [(1249, 0.1), (1250, 0.01)])
def test_epochs_are_of_the_images_in_the_files(step, rate, small_data_dir):
  # 10 epochs of 500 images in batches of 4.
  FLAGS(['pytest', '--data_dir=' + small_data_dir, '--num_epochs_per_decay=10'])
  cifar10.gradient_descent(tf.train.get_or_create_global_step(), 4)
  np.testing.assert_allclose(_learning_rate_at(step), rate, rtol=1e-6)


def test_momentum_is_nesterovs(images, labels):
  FLAGS(['pytest', '--momentum=0.9', '--initial_learning_rate=0.02'])
  loss, train_op = _build(images, labels)
  variables = tf.trainable_variables()
  gradients = tf.gradients(loss, variables)
  velocities = [0.0] * len(variables)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for _ in range(3):
      before, slopes = session.run([variables, gradients])
      session.run(train_op)
      velocities = [0.9 * velocity + slope for velocity, slope in zip(velocities, slopes)]
      for old, slope, velocity, new in zip(before, slopes, velocities, session.run(variables)):
        np.testing.assert_allclose(new, old - 0.02 * (slope + 0.9 * velocity), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('local, conv', [(0.0, 0.0), (0.01, 0.0), (0.0, 0.02), (0.01, 0.02)])
def test_weight_decays_are_those_of_the_flags(local, conv, images, labels):
  FLAGS.weight_decay, FLAGS.conv_weight_decay = local, conv
  loss, _ = _build(images, labels)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    values, total, parts = session.run([{v.op.name: v for v in tf.trainable_variables()}, loss,
                                        {part.op.name: part for part in
                                         tf.get_collection('losses')}])
  np.testing.assert_allclose(sum(parts.values()), total, rtol=1e-6)
  # At the start it is about the logarithm of 10.
  np.testing.assert_allclose(parts.pop('cross_entropy'), np.log(10), atol=0.2)
  decays = {'conv1': conv, 'conv2': conv, 'local3': local, 'local4': local}
  expected = {layer + '/weight_loss': decay * (values[layer + '/weights'] ** 2).sum() / 2
              for layer, decay in decays.items() if decay}
  assert parts == pytest.approx(expected, rel=1e-5)


def test_moving_averages_have_the_decay_of_the_flag(images, labels):
  FLAGS.moving_average_decay = 0.5
  _, train_op = _build(images, labels)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    tf.train.get_global_step().load(10 ** 6, session)
    before = _values(session, '/ExponentialMovingAverage')
    tf.trainable_variables()[0].load(before['conv1/weights'] + 1000.0, session)
    session.run(train_op)
    after = _values(session, '/ExponentialMovingAverage')
  np.testing.assert_allclose(after['conv1/weights'], before['conv1/weights'] + 500.0, rtol=1e-3)


def test_training_images_are_distorted_as_the_flag_says(small_data_dir, run_graph):
  FLAGS(['pytest', '--data_dir=' + small_data_dir, '--distortion_strength=0'])
  [(images, _)] = run_graph(cifar10.distorted_inputs())
  crops = np.concatenate([
      numpy_network.center(numpy_network.read(path)[0])
      for path in glob.glob(os.path.join(small_data_dir, '*', 'data_batch_*.bin'))])
  for image in images:
    assert np.min(np.max(abs(np.concatenate([crops, crops[:, :, ::-1]]) - image),
                         axis=(1, 2, 3))) < 1e-4


def test_summaries_have_readable_names(session):
  tags = {value.tag: value
          for value in tf.Summary.FromString(session.run(tf.summary.merge_all())).value}
  histograms = {tag for tag, value in tags.items() if value.HasField('histo')}
  layers = ['conv1', 'conv2', 'local3', 'local4', 'softmax_linear']
  assert histograms == ({name + '/values' for name in SHAPES}
                        | {name + '/gradients' for name in SHAPES}
                        | {layer + '/activations' for layer in layers})
  losses = ['cross_entropy', 'local3/weight_loss', 'local4/weight_loss', 'total_loss']
  assert tags.keys() - histograms == (
      {'learning_rate', 'conv1/filters/image'}
      | {layer + '/sparsity' for layer in layers}
      | {'losses/%s/%s' % (loss, kind) for loss in losses for kind in ('raw', 'average')})


def _histograms():
  """Returns what the summaries hold: for each tag the `tf.HistogramProto`."""
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    summary = tf.Summary.FromString(session.run(tf.summary.merge_all()))
  return {value.tag: value.histo for value in summary.value if value.HasField('histo')}


def test_histograms_are_of_samples_evenly_spread():
  # The strides are worked out by hand: a multiple of six and one.
  cifar10.inference(tf.random_normal([20, 24, 24, 3]))
  strides = {'conv1': (20 * 24 * 24 * 64, 73), 'conv2': (20 * 12 * 12 * 64, 19),
             'local3': (20 * 384, 1), 'local4': (20 * 192, 1), 'softmax_linear': (20 * 10, 1)}
  assert ({tag: histogram.num for tag, histogram in _histograms().items()}
          == {layer + '/activations': -(-elements // stride)
              for layer, (elements, stride) in strides.items()})


def test_histogram_of_a_large_tensor_has_a_share_of_each_channel():
  channels = np.broadcast_to(np.arange(384.0, dtype=np.float32), [1000, 384])
  for name, values in (('known', channels),
                       ('unknown', tf.placeholder_with_default(channels, [None, 384]))):
    cifar10._histogram(name, tf.convert_to_tensor(values))
  histograms = _histograms()
  assert histograms.keys() == {'known', 'unknown'}
  for histogram in histograms.values():
    assert histogram.num == -(-384000 // 37)
    np.testing.assert_allclose(histogram.sum / histogram.num, 383 / 2, rtol=0.01)
    variance = histogram.sum_squares / histogram.num - (histogram.sum / histogram.num) ** 2
    np.testing.assert_allclose(variance, (384 ** 2 - 1) / 12, rtol=0.01)
    assert (histogram.min, histogram.max) == (0, 383)


def test_histogram_of_a_small_tensor_is_of_all_its_values():
  values = np.random.RandomState(1).normal(size=[100, 100])
  cifar10._histogram('small', tf.constant(values))
  [histogram] = _histograms().values()
  assert histogram.num == 10000
  np.testing.assert_allclose([histogram.sum, histogram.sum_squares],
                             [values.sum(), (values ** 2).sum()], rtol=1e-9)


def test_sparsity_is_the_fraction_of_zeros(session):
  activations = session.run('local3/local3:0')
  [serialized] = session.run(['local3/sparsity:0'])
  sparsity = tf.Summary.FromString(serialized).value[0].simple_value
  np.testing.assert_allclose(sparsity, np.mean(activations == 0), rtol=1e-6)
  assert 0 < sparsity < 1


def test_smoothed_losses_start_at_the_first_and_forget_a_tenth_each_step(session):
  expected = None
  for _ in range(4):
    merged, _ = session.run([tf.summary.merge_all(), session.train_op])
    scalars = {value.tag: value.simple_value for value in tf.Summary.FromString(merged).value}
    for loss in ('total_loss', 'cross_entropy', 'local3/weight_loss'):
      assert scalars['losses/%s/raw' % loss] > 0
    raw = scalars['losses/total_loss/raw']
    expected = raw if expected is None else 0.9 * expected + 0.1 * raw
    np.testing.assert_allclose(scalars['losses/total_loss/average'], expected, rtol=1e-5)


def test_program_written_against_the_original_trains(small_data_dir):
  # It knows of no local variables, and no monitored session.
  FLAGS.data_dir, FLAGS.batch_size = small_data_dir, 4
  global_step = tf.Variable(0, trainable=False)
  images, labels = cifar10.distorted_inputs()
  loss = cifar10.loss(cifar10.inference(images), labels)
  train_op = cifar10.train(loss, global_step)
  summary_op = tf.summary.merge_all()
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    coordinator = tf.train.Coordinator()
    threads = tf.train.start_queue_runners(sess=session, coord=coordinator)
    for _ in range(3):
      session.run([train_op, loss])
    assert session.run(summary_op)
    assert session.run(global_step) == 3
    coordinator.request_stop()
    coordinator.join(threads)


def test_imported_graph_can_be_differentiated(images, labels):
  loss, _ = _build(images, labels)
  meta_graph = tf.train.export_meta_graph()
  with tf.Graph().as_default(), tf.Session() as session:
    tf.train.import_meta_graph(meta_graph)
    loss = tf.get_default_graph().get_tensor_by_name(loss.name)
    gradients = tf.gradients(loss, tf.trainable_variables())
    session.run(tf.global_variables_initializer())
    assert all(np.any(gradient) for gradient in session.run(gradients))


def test_filters_are_drawn_in_one_grid(session):
  kernel = np.zeros([5, 5, 3, 64], np.float32)
  kernel[:, :, 0, 0] = kernel[:, :, 1, 7] = kernel[:, :, 2, 8] = 1.0
  tf.trainable_variables()[0].load(kernel, session)
  serialized = session.run('conv1/filters:0')
  image = tf.Summary.FromString(serialized).value[0].image
  assert (image.height, image.width) == (48, 48)
  expected = np.zeros([48, 48, 3])
  expected[0:5, 0:5, 0] = 255    # The first filter is at the top left,
  expected[0:5, 42:47, 1] = 255  # the eighth ends the first row,
  expected[6:11, 0:5, 2] = 255   # and the ninth begins the second.
  np.testing.assert_array_equal(session.run(tf.image.decode_png(image.encoded_image_string)),
                                expected)


def test_each_layer_is_one_box_in_the_graph():
  images, labels = tf.zeros([8, 24, 24, 3], name='images'), tf.zeros([8], tf.int32, name='labels')
  loss = cifar10.loss(cifar10.inference(images), labels)
  cifar10.train(loss, tf.train.get_or_create_global_step())
  boxes = {op.name.split('/')[0] for op in tf.get_default_graph().get_operations()}
  assert boxes == {
      'images', 'labels', 'conv1', 'pool1', 'norm1', 'conv2', 'norm2', 'pool2', 'local3', 'local4',
      'softmax_linear', 'cross_entropy_per_example', 'cross_entropy', 'total_loss', 'losses',
      'gradients', 'GradientDescent', 'global_step', 'learning_rate', 'moving_averages',
      'schedule', 'train', 'Const'}


@pytest.mark.parametrize('switch', [tf.enable_v2_behavior, tf.disable_resource_variables])
def test_builders_work_whatever_behaviour_the_caller_chose(switch, images, labels):
  switch()
  try:
    with tf.Graph().as_default(), tf.Session() as session:
      tf.set_random_seed(1)
      loss, train_op = _build(images, labels)
      session.run(tf.global_variables_initializer())
      first = session.run(loss)
      for _ in range(50):
        session.run(train_op)
      # Weight decay alone would take 0.1 off the loss.
      assert session.run(loss) < first - 0.2
  finally:
    tf.disable_v2_behavior()
    tf.enable_resource_variables()


def test_classes_are_those_of_the_data_set(small_data_dir):
  FLAGS.data_dir = small_data_dir
  assert cifar10.classes()[:2] == ('warm disc', 'warm square')
  FLAGS.data_dir = 'nowhere'
  assert cifar10.classes()[0] == 'airplane'


def test_shuffle_queue_is_as_small_as_asked(small_data_dir, capsys):
  FLAGS.data_dir, FLAGS.min_queue_examples = small_data_dir, 50
  cifar10.distorted_inputs()
  assert capsys.readouterr().out.startswith('Filling queue with 50 CIFAR images before starting')


def test_images_are_counted_in_the_files(small_data_dir):
  FLAGS.data_dir = small_data_dir
  assert (cifar10.count('train_eval'), cifar10.count('test')) == (500, 100)
  FLAGS.data_dir = 'nowhere'
  assert (cifar10.count('train_eval'), cifar10.count('test')) == (50000, 10000)


def test_directories_of_the_synthetic_set_are_apart():
  assert cifar10.directory('data_dir') == 'cifar10/data'
  FLAGS.synthetic = True
  assert cifar10.directory('data_dir') == 'cifar10/synthetic/data'
  FLAGS(['pytest', '--synthetic', '--data_dir=elsewhere'])
  assert cifar10.directory('data_dir') == 'elsewhere'


def test_directory_whose_name_is_not_utf_8_is_one_sentence():
  FLAGS.data_dir = os.fsdecode(b'caf\xe9')
  with pytest.raises(UserError, match='is not UTF-8.*: name another folder with --data_dir'):
    cifar10.directory('data_dir')


@pytest.mark.parametrize('flags, sentence', [
    (['--data_dir=nowhere'], 'There is no folder nowhere'),
    (['--data_dir=.'], 'There is no data set in ., which is not empty either'),
    (['--synthetic', '--data_dir=.'], '--synthetic and --data_dir=. name two data sets'),
])
def test_data_set_is_fetched_only_into_a_place_that_was_meant(
    flags, sentence, tmp_path, monkeypatch):
  (tmp_path / 'letter.txt').write_text('mine')
  monkeypatch.chdir(tmp_path)
  FLAGS(['pytest', '--data_url=http://127.0.0.1:9/refused'] + flags)
  with pytest.raises(UserError, match=sentence):
    cifar10.maybe_download_and_extract()
  assert [path.name for path in tmp_path.iterdir()] == ['letter.txt']


def test_cifar100_is_recognised(tmp_path):
  (tmp_path / 'train.bin').write_bytes(bytes(3074))
  FLAGS(['pytest', '--data_dir=%s' % tmp_path])
  with pytest.raises(UserError, match='The data set in .* is CIFAR-100: name the folder'):
    cifar10.maybe_download_and_extract()


def test_data_set_that_another_process_just_made_is_taken(small_data_dir, monkeypatch):
  locate = cifar10_dataset.locate
  monkeypatch.setattr(cifar10_dataset, 'locate', lambda path: calls.append(path) or
                      (locate(path) if len(calls) > 1 else None))
  calls = []
  FLAGS(['pytest', '--data_dir=%s' % small_data_dir, '--data_url=http://127.0.0.1:9/refused'])
  cifar10.maybe_download_and_extract()
  assert len(calls) == 2


def test_folder_with_an_interrupted_download_receives_the_data_set(tmp_path, monkeypatch):
  (tmp_path / '.unfinished').mkdir()
  monkeypatch.setattr(cifar10_dataset, 'download_and_extract', lambda *args: fetched.append(args))
  fetched = []
  FLAGS(['pytest', '--data_dir=%s' % tmp_path])
  cifar10.maybe_download_and_extract()
  FLAGS(['pytest', '--data_dir=%s' % tmp_path, '--data_url=file:///copy'])
  cifar10.maybe_download_and_extract()
  assert fetched == [(str(tmp_path), cifar10.DATA_URL), (str(tmp_path), 'file:///copy')]
