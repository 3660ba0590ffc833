import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10
from cifar10_support import tf_setup
import numpy_network

FLAGS = tf.app.flags.FLAGS

SHAPES = {
    'conv1/weights': [5, 5, 3, 64], 'conv1/biases': [64],
    'conv2/weights': [5, 5, 64, 64], 'conv2/biases': [64],
    'local3/weights': [2304, 384], 'local3/biases': [384],
    'local4/weights': [384, 192], 'local4/biases': [192],
    'softmax_linear/weights': [192, 10], 'softmax_linear/biases': [10],
}

IMAGES = np.random.RandomState(0).normal(size=[16, 24, 24, 3]).astype(np.float32)
LABELS = np.arange(16, dtype=np.int32) % 10


def _build():
  """The whole training graph on fixed images; returns the loss and the training op."""
  global_step = tf.train.get_or_create_global_step()
  images = tf.constant(IMAGES, name='images')
  loss = cifar10.loss(cifar10.inference(images), tf.constant(LABELS))
  return loss, cifar10.train(loss, global_step)


@pytest.fixture(scope='module')
def graph():
  """The training graph, and what is run in it: the loss, the training op, and the summaries."""
  with tf.Graph().as_default() as graph:
    yield (graph, *_build(), tf.summary.merge_all(), tf.global_variables_initializer())


@pytest.fixture
def session(graph):
  """A session with that graph, initialised."""
  with graph[0].as_default(), tf.Session() as session:
    _, session.loss, session.train_op, session.merged, initialize = graph
    session.run(initialize)
    yield session


def _values(session, suffix=''):
  variables = {v.op.name: v for v in session.graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES)}
  return session.run({name: variables[name + suffix] for name in SHAPES})


def test_constants_are_the_tutorials():
  assert FLAGS.batch_size == 128
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
  # Programs take these by their names.
  for name, shape in [
      ('conv1/conv1', [24, 24, 64]), ('pool1', [12, 12, 64]), ('norm1', [12, 12, 64]),
      ('conv2/conv2', [12, 12, 64]), ('norm2', [12, 12, 64]), ('pool2', [6, 6, 64]),
      ('local3/local3', [384]), ('local4/local4', [192]), ('softmax_linear/softmax_linear', [10])]:
    assert session.graph.get_tensor_by_name(name + ':0').shape.as_list() == [16, *shape]


def test_checkpoint_has_the_keys_of_the_tutorial(session, tmp_path):
  path = tf.train.Saver().save(session, str(tmp_path / 'model.ckpt'))
  reader = tf.train.load_checkpoint(path)
  expected = dict(SHAPES, global_step=[])
  expected.update({k + '/ExponentialMovingAverage': shape for k, shape in SHAPES.items()})
  assert reader.get_variable_to_shape_map() == expected
  assert reader.get_variable_to_dtype_map()['global_step'] == tf.int64


def test_initial_values_are_the_tutorials(session):
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
  biases = {'conv1': 0.0, 'conv2': 0.1, 'local3': 0.1, 'local4': 0.1, 'softmax_linear': 0.0}
  for layer, value in biases.items():
    np.testing.assert_array_equal(values[layer + '/biases'], np.float32(value))


def _random_values():
  """Other values than the initial ones, so that each bias and each channel counts."""
  random = np.random.RandomState(1)
  return {name: random.normal(size=shape, scale=0.1 if 'biases' in name
                              else (2 / np.prod(shape[:-1])) ** 0.5).astype(np.float32)
          for name, shape in SHAPES.items()}


def test_logits_are_those_of_a_numpy_network():
  placeholder = tf.placeholder(tf.float32, [None, 24, 24, 3])
  logits = cifar10.inference(placeholder)
  assert logits.shape.as_list() == [None, 10]
  values = _random_values()
  with tf.Session() as session:
    for variable in tf.trainable_variables():
      variable.load(values[variable.op.name], session)
    actual = session.run(logits, {placeholder: IMAGES})
    part = session.run(logits, {placeholder: IMAGES[:3]})
  expected = numpy_network.logits(IMAGES, values)
  assert expected.std() > 0.3
  np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(part, actual[:3], rtol=1e-4, atol=1e-4)


def test_images_may_be_a_list():
  logits = cifar10.inference([tf.constant(image) for image in IMAGES[:3]])
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    actual, values = session.run([logits, {v.op.name: v for v in tf.trainable_variables()}])
  np.testing.assert_allclose(actual, numpy_network.logits(IMAGES[:3], values), rtol=1e-3, atol=1e-5)


def test_network_that_was_saved_takes_any_number_of_images_in_place_of_its_batch(
    graph, session, tmp_path):
  path = tf.train.Saver().save(session, str(tmp_path / 'model.ckpt'))
  values = _values(session)
  batch = graph[0].get_tensor_by_name('images:0').name
  with tf.Graph().as_default(), tf.Session() as another:
    images = tf.placeholder(tf.float32, [None, 24, 24, 3])
    tf.train.import_meta_graph(path + '.meta', input_map={batch: images}).restore(another, path)
    actual = another.run('softmax_linear/softmax_linear:0', {images: IMAGES[:1]})
  np.testing.assert_allclose(actual, numpy_network.logits(IMAGES[:1], values), rtol=1e-3, atol=1e-5)


def test_normalisation_has_the_gradient_of_tensorflows():
  x = tf.constant(30 * IMAGES[:2])
  ours = cifar10.local_response_normalization(x, 'norm')
  theirs = tf.nn.lrn(x, depth_radius=4, bias=1.0, alpha=0.001 / 9.0, beta=0.75)
  dy = tf.constant(IMAGES[2:4])
  with tf.Session() as session:
    pairs = session.run([(ours, theirs), (tf.gradients(ours, x, dy)[0],
                                          tf.gradients(theirs, x, dy)[0])])
  for actual, expected in pairs:
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())


def test_probabilities_of_crops_are_the_mean_of_their_softmax():
  images = np.random.RandomState(0).normal(size=[2, 5, 24, 24, 3]).astype(np.float32)
  values = _random_values()
  probabilities = cifar10.probabilities(tf.constant(images))
  with tf.Session() as session:
    for variable in tf.trainable_variables():
      variable.load(values[variable.op.name], session)
    actual = session.run(probabilities)
  expected = numpy_network.probabilities(images.reshape([-1, 24, 24, 3]), values)
  np.testing.assert_allclose(actual, expected.reshape([2, 5, 10]).mean(axis=1), rtol=1e-3,
                             atol=1e-6)


def test_one_image_takes_the_multiply_adds_of_the_tutorial():
  cifar10.inference(tf.zeros([1, 24, 24, 3]))
  total = 0
  for op in tf.get_default_graph().get_operations():
    if op.type == 'Conv2D':
      total += op.inputs[1].shape.num_elements() * op.outputs[0].shape[1:3].num_elements()
    elif op.type == 'MatMul':
      total += op.inputs[1].shape.num_elements() * op.inputs[0].shape[0]
  # conv1 2,764,800; conv2 14,745,600; local3 884,736; local4 73,728; softmax_linear 1,920; the
  # sums of squares of norm1 and norm2 589,824 each.
  assert total == 18470784 + 2 * 12 * 12 * 64 * 64


def test_mixed_precision_gives_nearly_the_same_from_the_same_variables(monkeypatch):
  monkeypatch.setattr(tf_setup, 'bfloat16_or_float32', lambda: tf.bfloat16)
  with tf.variable_scope(''):
    exact = cifar10.inference(tf.constant(IMAGES))
  monkeypatch.setattr(cifar10, 'MIXED_PRECISION', True)
  with tf.variable_scope('', reuse=True):
    mixed = cifar10.inference(tf.constant(IMAGES))
  variables = tf.trainable_variables()
  assert {v.op.name: v.shape.as_list() for v in variables} == SHAPES
  assert {v.dtype.base_dtype for v in variables} == {tf.float32}
  losses = [tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, logits=logits))
            for logits in (exact, mixed)]
  assert [loss.dtype for loss in losses] == [tf.float32] * 2
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    expected, actual = session.run([exact, mixed])
    # bfloat16 has 8 bits: a relative error of 1/256 each time a value is rounded. Gradients err by
    # more, because rounding also changes which value of a pool is the largest: by up to 24% in 300
    # draws of the initial weights.
    np.testing.assert_allclose(actual, expected, atol=0.03 * abs(expected).max())
    assert np.any(actual != expected)
    for a, b in zip(*session.run([tf.gradients(loss, variables) for loss in losses])):
      assert np.linalg.norm(b - a) < 0.5 * np.linalg.norm(a)


@pytest.mark.parametrize('use_fp16, dtype', [(True, tf.bfloat16), (False, tf.float32)])
def test_use_fp16_is_mixed_precision(use_fp16, dtype, monkeypatch):
  monkeypatch.setattr(tf_setup, 'bfloat16_or_float32', lambda: tf.bfloat16)
  FLAGS.use_fp16 = use_fp16
  cifar10.inference(tf.zeros([1, 24, 24, 3]))
  assert {op.outputs[0].dtype for op in tf.get_default_graph().get_operations()
          if op.type == 'Conv2D'} == {dtype}


def test_loss_is_cross_entropy_plus_weight_decay(session):
  values = _values(session)
  logits = numpy_network.logits(IMAGES, values).astype(np.float64)
  log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  cross_entropy = -log_softmax[np.arange(16), LABELS].mean()
  # l2_loss is half the sum of squares.
  decays = [0.004 * (values[layer + '/weights'].astype(np.float64) ** 2).sum() / 2
            for layer in ('local3', 'local4')]
  np.testing.assert_allclose(session.run(session.loss), cross_entropy + sum(decays), rtol=1e-5)
  collected = session.run(tf.get_collection('losses'))
  np.testing.assert_allclose(sorted(collected), sorted(decays + [cross_entropy]), rtol=1e-5)


# Of the shape [n, 1] as `read_cifar10` gives them, batched.
@pytest.mark.parametrize('dtype, shape', [(tf.uint8, [16]), (tf.int16, [16, 1]), (tf.int64, [16]),
                                          (tf.int32, [16, 1]), (tf.float32, [16])])
def test_labels_may_be_of_any_numeric_dtype(dtype, shape):
  logits = tf.constant(IMAGES[:, 0, :10, 0])
  labels = tf.reshape(tf.cast(LABELS, dtype), shape)
  losses = [cifar10.loss(logits, tf.constant(LABELS)), cifar10.loss(logits, labels)]
  with tf.Session() as session:
    one, both = session.run(losses)
  # 'losses' has both by then.
  assert both == pytest.approx(2 * one)


def test_step_is_gradient_descent_with_the_scheduled_rate(session):
  step, rate = 136718, 0.01
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
  for step in (1, 2):
    session.run(session.train_op)
    # Early on the average is quicker to follow: the decay is at most (1 + step) / (10 + step).
    decay = min(0.9999, (1.0 + step) / (10.0 + step))
    for name, value in _values(session).items():
      expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in _values(session, '/ExponentialMovingAverage').items():
      np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('constant, decay', [(None, 0.9999), (0.5, 0.5)])
def test_moving_average_decay_ends_at_its_limit_which_counts_when_set(
    constant, decay, monkeypatch):
  if constant is not None:
    monkeypatch.setattr(cifar10, 'MOVING_AVERAGE_DECAY', constant)
  global_step = tf.train.get_or_create_global_step()
  variable = tf.get_variable('variable', initializer=0.0)
  update = cifar10.apply_gradients(tf.train.GradientDescentOptimizer(0.1),
                                   [(tf.constant(0.0), variable)], global_step)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    global_step.load(10 ** 6, session)
    variable.load(1000.0, session)
    session.run(update)
    [average] = [v for v in tf.global_variables() if v.op.name.startswith('variable/')]
    assert session.run(average) == pytest.approx(1000 * (1 - decay), rel=1e-3)


@pytest.mark.parametrize('constants, batch_size, step, rate', [
    # 350 epochs of 50,000 images in batches of 128 are 136,718.75 steps.
    ({}, 128, 0, 0.1), ({}, 128, 136717, 0.1), ({}, 128, 136718, 0.01),
    ({}, 128, 2 * 136718 - 1, 0.01), ({}, 128, 2 * 136718, 0.001),
    ({}, 64, 136718, 0.1), ({}, 64, 273437, 0.01),
    # 30 epochs are 11,718.75 steps.
    ({'NUM_EPOCHS_PER_DECAY': 30}, 128, 11717, 0.1),
    ({'NUM_EPOCHS_PER_DECAY': 30}, 128, 11718, 0.01),
    ({'NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN': 5000}, 128, 13670, 0.1),
    ({'NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN': 5000}, 128, 13671, 0.01),
    ({'LEARNING_RATE_DECAY_FACTOR': 0.5}, 128, 136718, 0.05),
    ({'INITIAL_LEARNING_RATE': 0.2}, 128, 0, 0.2),
    ({'INITIAL_LEARNING_RATE': 0.2}, 128, 136718, 0.02),
    ({'LEARNING_RATE_SCHEDULE': 'linear'}, 128, 0, 0.1),
    ({'LEARNING_RATE_SCHEDULE': 'linear'}, 128, 136718 // 2, 0.05),
    ({'LEARNING_RATE_SCHEDULE': 'linear'}, 128, 150000, 0.0)])
def test_learning_rate_falls_as_the_constants_say(constants, batch_size, step, rate, monkeypatch):
  for name, value in constants.items():
    monkeypatch.setattr(cifar10, name, value)
  # The gradient of a variable is 1: it moves by the learning rate.
  global_step = tf.train.get_or_create_global_step()
  variable = tf.get_variable('variable', initializer=0.0)
  update = cifar10.gradient_descent(global_step, batch_size).apply_gradients(
      [(tf.constant(1.0), variable)])
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    global_step.load(step, session)
    session.run(update)
    assert session.run(variable) == pytest.approx(-rate, rel=1e-6, abs=1e-9)


def test_momentum_is_nesterovs(monkeypatch):
  monkeypatch.setattr(cifar10, 'MOMENTUM', 0.9)
  variable = tf.get_variable('variable', initializer=1.0)
  update = cifar10.gradient_descent(tf.train.get_or_create_global_step(), 128).minimize(
      tf.square(variable))
  value, velocity = 1.0, 0.0
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for _ in range(3):
      session.run(update)
      slope = 2 * value
      velocity = 0.9 * velocity + slope
      value -= 0.1 * (slope + 0.9 * velocity)
      assert session.run(variable) == pytest.approx(value, rel=1e-5)


def test_weight_decays_are_the_constants(monkeypatch):
  monkeypatch.setattr(cifar10, 'WEIGHT_DECAY', 0.01)
  monkeypatch.setattr(cifar10, 'CONV_WEIGHT_DECAY', 0.02)
  cifar10.inference(tf.zeros([1, 24, 24, 3]))
  decays = tf.get_collection('losses')
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    values, actual = session.run([{v.op.name: v for v in tf.trainable_variables()}, decays])
  factors = {'conv1': 0.02, 'conv2': 0.02, 'local3': 0.01, 'local4': 0.01}
  assert actual == pytest.approx([factor * (values[layer + '/weights'] ** 2).sum() / 2
                                  for layer, factor in factors.items()], rel=1e-5)


def test_summaries_have_readable_names(session):
  tags = {value.tag: value for value in tf.Summary.FromString(session.run(session.merged)).value}
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


def test_smoothed_losses_start_at_the_first_and_forget_a_tenth_each_step():
  loss = tf.placeholder(tf.float32, [], 'loss')
  update = cifar10.loss_summaries([loss])
  merged = tf.summary.merge_all()
  average = None
  with tf.Session() as session:
    for value in (5.0, 3.0, 8.0):
      average = value if average is None else 0.9 * average + 0.1 * value
      summary, _ = session.run([merged, update], {loss: value})
      assert {v.tag: v.simple_value for v in tf.Summary.FromString(summary).value} == {
          'losses/loss/raw': value, 'losses/loss/average': pytest.approx(average)}


def test_variable_on_cpu_is_shared_on_reuse():
  with tf.device('/gpu:0'):
    variable = cifar10._variable_on_cpu('v', [2, 3], tf.constant_initializer(7.0))
  assert tf.trainable_variables() == [variable]
  assert (variable.op.name, variable.shape.as_list(), variable.device) == (
      'v', [2, 3], '/device:CPU:0')
  with tf.variable_scope('', reuse=True):
    assert cifar10._variable_on_cpu('v', [2, 3], None) is variable


@pytest.mark.parametrize('wd', [None, 0.5])
def test_variable_with_weight_decay_adds_half_its_squares_times_wd(wd):
  variable = cifar10._variable_with_weight_decay('w', shape=[40, 50], stddev=0.2, wd=wd)
  assert tf.trainable_variables() == [variable]
  losses = tf.get_collection('losses')
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    value, actual = session.run([variable, losses])
  assert 0.35 < abs(value).max() <= 0.4
  assert actual == pytest.approx([wd * (value ** 2).sum() / 2] if wd else [], rel=1e-5)


def _summaries(session, summaries):
  merged = session.run(tf.summary.merge(summaries))
  return {value.tag: value for value in tf.Summary.FromString(merged).value}


def test_activation_summary_works_on_any_tensor():
  cifar10._activation_summary(tf.constant([0.0, 0.0, 0.0, 2.0], name='mine'))
  with tf.variable_scope('fire'):  # Two in one scope.
    cifar10._activation_summary(tf.constant([0.0, 1.0], name='squeeze'))
    cifar10._activation_summary(tf.constant([3.0], name='expand'))
  with tf.Session() as session:
    by_tag = _summaries(session, tf.get_collection(tf.GraphKeys.SUMMARIES))
  assert len(by_tag) == 6
  assert by_tag['mine/sparsity'].simple_value == 0.75
  assert by_tag['mine/activations'].histo.num == 4
  assert sorted(value.simple_value for tag, value in by_tag.items()
                if tag.startswith('fire/') and not value.HasField('histo')) == [0.0, 0.5]


def test_network_can_be_built_twice_to_train_and_to_test():
  cifar10.inference(tf.zeros([2, 24, 24, 3]))
  tf.get_variable_scope().reuse_variables()
  cifar10.inference(tf.ones([2, 24, 24, 3]))
  assert len(tf.trainable_variables()) == len(SHAPES)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    by_tag = _summaries(session, tf.get_collection(tf.GraphKeys.SUMMARIES))
  assert len(by_tag) == 2 * (2 * 5 + 1)


def test_summaries_of_a_tower_are_found_in_its_scope_and_named_without_it():
  for i in range(2):
    with tf.variable_scope('', reuse=i > 0), tf.name_scope('tower_%d' % i) as scope:
      cifar10.loss(cifar10.inference(tf.zeros([2, 24, 24, 3])), tf.zeros([2], tf.int32), scope)
  summaries = tf.get_collection(tf.GraphKeys.SUMMARIES, scope)
  assert scope == 'tower_1/'
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    by_tag = _summaries(session, summaries)
    # A program may also take those of all towers.
    all_tags = _summaries(session, tf.get_collection(tf.GraphKeys.SUMMARIES))
  assert len(by_tag) == 2 * 5 + 1
  assert {tag.split('/')[0] for tag in by_tag} == {
      'conv1', 'conv2', 'local3', 'local4', 'softmax_linear'}
  assert not [tag for tag in all_tags if 'tower' in tag]
  assert len(all_tags) == 2 * len(by_tag)


@pytest.mark.parametrize('builder', [cifar10.distorted_inputs, lambda: cifar10.inputs('test')])
def test_missing_data_is_a_value_error(builder, tmp_path):
  FLAGS.data_dir = str(tmp_path)
  with pytest.raises(ValueError, match=str(tmp_path)):
    builder()


@pytest.mark.parametrize('eval_data, part', [(True, 'test_files'), ('train_eval', 'train_files')])
def test_inputs_are_full_batches_round_and_round(
    eval_data, part, small_data_dir, small_data_set, run_graph):
  FLAGS(['pytest', '--data_dir=' + small_data_dir, '--batch_size=30'])
  images, labels = cifar10.inputs(eval_data)
  assert (images.dtype, images.shape.as_list()) == (tf.float32, [30, 24, 24, 3])
  assert (labels.dtype, labels.shape.as_list()) == (tf.int32, [30])
  batches = run_graph(labels, times=20)
  expected = np.concatenate([numpy_network.read(path)[1]
                             for path in getattr(small_data_set, part)])
  np.testing.assert_array_equal(np.concatenate(batches), np.resize(expected, 600))


def test_data_url_that_is_set_is_where_the_data_come_from(monkeypatch, tmp_path):
  monkeypatch.setattr(cifar10, 'DATA_URL', 'file:///nowhere/mirror.tar.gz')
  FLAGS.data_dir = str(tmp_path / 'data')
  with pytest.raises(ValueError, match='file:///nowhere/mirror.tar.gz'):
    cifar10.maybe_download_and_extract()


def test_constants_of_the_input_count(
    small_data_dir, small_data_set, run_graph, monkeypatch, capsys):
  monkeypatch.setattr(cifar10, 'DISTORTION_STRENGTH', 0.0)
  monkeypatch.setattr(cifar10, 'MIN_QUEUE_EXAMPLES', 50)
  FLAGS(['pytest', '--data_dir=' + small_data_dir, '--batch_size=8'])
  [(images, _)] = run_graph(cifar10.distorted_inputs())
  assert ' 50 CIFAR images ' in capsys.readouterr().out
  crops = np.concatenate([numpy_network.central_crop(numpy_network.read(path)[0])
                          for path in small_data_set.train_files])
  crops = np.concatenate([crops, crops[:, :, ::-1]])
  for image in images:
    assert np.min(np.max(abs(crops - image), axis=(1, 2, 3))) < 1e-4


@pytest.mark.parametrize('num_classes', [2, 20])
def test_number_of_classes_can_be_changed(num_classes, monkeypatch):
  monkeypatch.setattr(cifar10, 'NUM_CLASSES', num_classes)
  logits = cifar10.inference(tf.constant(IMAGES))
  loss = cifar10.loss(logits, tf.constant(LABELS % num_classes))
  train_op = cifar10.train(loss, tf.train.get_or_create_global_step())
  assert logits.shape.as_list() == [16, num_classes]
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    # The logarithm of the number of classes, and the weight decay.
    assert session.run(loss) == pytest.approx(np.log(num_classes) + 2.37, abs=0.1)
    biases = tf.trainable_variables()[-1]
    before = session.run(biases)
    session.run(train_op)
    assert before.shape == (num_classes,)
    assert np.any(session.run(biases) != before)


@pytest.mark.parametrize('switch', [tf.enable_v2_behavior, tf.disable_resource_variables])
def test_builders_work_whatever_behaviour_the_caller_chose(switch):
  switch()
  try:
    with tf.Graph().as_default(), tf.Session() as session:
      loss, train_op = _build()
      session.run(tf.global_variables_initializer())
      first = session.run(loss)
      session.run(train_op)
      assert session.run(loss) < first - 0.01
  finally:
    tf.disable_v2_behavior()
    tf.enable_resource_variables()
