"""The rows of docs/migrating.md, each as a function that runs both sides and compares them.

  python tests/migrating_rows.py DATA_DIR NAME...

runs some of them and prints a line of JSON: for each name what went wrong, or null. It is a process
of its own because Keras needs TensorFlow 2's mode, which conftest.py turns off. The graph does not:
in that mode too it can be built in a `tf.Graph`.
"""

import argparse
import contextlib
import functools
import io
import json
import os
import sys
import tempfile
import time
import traceback
import types
import typing
import warnings

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, 'tests')]
os.environ['CUDA_VISIBLE_DEVICES'] = '-1'  # The two sides agree to more digits than a GPU has.

from exercises import keras_cifar10  # noqa: E402, which imports TensorFlow quietly
import cifar10  # noqa: E402
from cifar10_cluster import tf_config  # noqa: E402
import cifar10_input  # noqa: E402
import cifar10_multi_gpu_train  # noqa: E402
from cifar10_support import console  # noqa: E402
from cifar10_support import dataset  # noqa: E402
import cifar10_train  # noqa: E402, F401: its flags
from migrating_page import IMAGES, KERNEL, LABELS, linear_graph, snippets  # noqa: E402
import numpy_network  # noqa: E402

from absl import flags  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

tf1 = tf.compat.v1
TRAINED = os.path.join(ROOT, 'cifar10', 'trained')
AVERAGE = '/ExponentialMovingAverage'


class Row:
  """What the functions get: the data set, and a directory to write to."""

  def __init__(self, data_dir):
    self.data_dir = data_dir
    self.data_set = dataset.find(data_dir, 10)
    self.tmp = tempfile.mkdtemp()


def graph_run(fetches, times=1):
  """Runs a fetch of the current graph, its variables initialised and its queues running."""
  with tf1.Session() as session:
    session.run([tf1.global_variables_initializer(), tf1.local_variables_initializer()])
    coordinator = tf1.train.Coordinator()
    threads = tf1.train.start_queue_runners(session, coordinator)
    results = [session.run(fetches) for _ in range(times)]
    coordinator.request_stop()
    coordinator.join(threads)
  return results


def reader(row):
  path = row.data_set.test_files[0]
  with tf.Graph().as_default():
    record = cifar10_input.read_cifar10(tf1.train.string_input_producer([path], shuffle=False))
    graph = graph_run([record.uint8image, record.label], times=5)
  records = tf.data.FixedLengthRecordDataset([path], dataset.RECORD_BYTES).map(keras_cifar10.decode)
  for (image, label), (keras_image, keras_label) in zip(graph, records.take(5)):
    np.testing.assert_array_equal(image, keras_image)
    assert label[0] == keras_label
  images, labels = numpy_network.read(path)
  np.testing.assert_array_equal(graph[4][0], images[4])
  assert graph[4][1] == labels[4]


def distortions(row):
  # Of a grey image standardisation cancels brightness and contrast: what is left is the crop, of
  # 9 * 9, and the flip.
  grey = np.random.RandomState(0).randint(60, 190, [32, 32, 1]).astype(np.uint8).repeat(3, axis=2)
  crops = np.stack([grey[y:y + 24, x:x + 24][:, ::step] for y in range(9) for x in range(9)
                    for step in (1, -1)]).astype(np.float64)
  crops -= crops.mean(axis=(1, 2, 3), keepdims=True)
  crops /= crops.std(axis=(1, 2, 3), keepdims=True)
  with tf.Graph().as_default():
    [graph] = graph_run(cifar10_input.distort(tf.constant(np.stack([grey] * 40))))
  images = tf.data.Dataset.from_tensors((grey, 0)).repeat(40).map(keras_cifar10.distort)
  for side in (graph, np.stack([image for image, _ in images.as_numpy_iterator()])):
    assert side.shape == (40, 24, 24, 3)
    errors = np.abs(side[:, np.newaxis] - crops).max(axis=(2, 3, 4))
    assert errors.min(axis=1).max() < 1e-3
    assert len(set(errors.argmin(axis=1))) > 15


def shuffling(row):
  n, pool = 300, 50
  with tf.Graph().as_default():
    numbers = tf1.train.input_producer(tf.range(n), num_epochs=1, shuffle=False).dequeue()
    batch = tf1.train.shuffle_batch([numbers], 10, capacity=pool + 10, min_after_dequeue=pool,
                                    allow_smaller_final_batch=True)
    graph = np.concatenate(graph_run(batch, times=n // 10))
  pipeline = tf.data.Dataset.range(n).shuffle(pool).batch(10)
  for order, room in ((graph, pool + 30), (np.concatenate(list(pipeline)), pool)):
    assert sorted(order) == list(range(n))  # Each once.
    assert max(order - np.arange(n)) <= room  # None comes before it has been read.
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.2
  # The trap: batches of neighbours in a random order.
  trap = np.concatenate(list(tf.data.Dataset.range(n).batch(10).shuffle(pool)))
  assert np.mean(np.diff(trap) == 1) > 0.8


def queue_runners(row):
  missing = row.data_set._replace(test_files=[os.path.join(row.tmp, 'missing.bin')])
  with tf.Graph().as_default(), tf1.Session() as session:
    images, _ = cifar10_input.evaluation_batches(row.data_set, 'test', 8)
    try:  # Nobody has started them.
      session.run(images, options=tf1.RunOptions(timeout_in_ms=200))
      raise AssertionError('It had a batch.')
    except tf.errors.DeadlineExceededError:
      pass
  with tf.Graph().as_default(), tf1.Session() as session:
    images, _ = cifar10_input.evaluation_batches(missing, 'test', 8)
    coordinator = tf1.train.Coordinator()
    threads = tf1.train.start_queue_runners(session, coordinator)
    try:
      session.run(images)
      raise AssertionError('It had a batch.')
    except tf.errors.OutOfRangeError:  # The symptom; the cause is in another thread.
      pass
    try:
      coordinator.join(threads)
      raise AssertionError('It had no error.')
    except tf.errors.NotFoundError as error:
      assert 'missing.bin' in str(error)
  assert len(next(iter(keras_cifar10.inputs(row.data_set.test_files, 8)))[0]) == 8
  try:
    next(iter(keras_cifar10.inputs(missing.test_files, 8)))
    raise AssertionError('It had a batch.')
  except tf.errors.NotFoundError as error:
    assert 'missing.bin' in str(error)


def one_pass(row):
  with tf.Graph().as_default():
    images, labels = cifar10_input.evaluation_batches(row.data_set, 'test', 32, one_pass=True)
    graph = graph_run([images, labels], times=4)
  batches = list(keras_cifar10.inputs(row.data_set.test_files, 32).as_numpy_iterator())
  assert [len(labels) for _, labels in batches] == [32, 32, 32, 4]
  for (images, labels), (keras_images, keras_labels) in zip(graph, batches):
    np.testing.assert_allclose(images, keras_images, atol=1e-5)
    np.testing.assert_array_equal(labels, keras_labels)
  assert len(graph) == len(batches)


def sharing_variables(row):
  with tf.Graph().as_default():
    cifar10.inference(tf.zeros([1, 24, 24, 3]))
    with tf1.variable_scope('', reuse=True):
      cifar10.inference(tf.zeros([1, 24, 24, 3]))
    graph = {variable.op.name: variable.shape.as_list() for variable in tf1.trainable_variables()}
  model = keras_cifar10.compiled_model(128)
  images = tf.random.normal([2, 24, 24, 3])
  np.testing.assert_array_equal(model(images), model(images))
  shapes = {key: variable.shape for key, variable in keras_cifar10.variables_by_key(model).items()
            if key in graph}
  assert {key: list(shape) for key, shape in shapes.items()} == graph and len(graph) == 10
  assert model.count_params() == 1068298
  # The traps: what is called twice is the model, not its builder; and an initializer is a function
  # of its seed, so that two layers with the same one start alike.
  assert not set(map(id, keras_cifar10.inference().variables)) & set(map(id, model.variables))
  initializer = keras.initializers.TruncatedNormal(stddev=0.04)
  np.testing.assert_array_equal(initializer([3, 4]), initializer([3, 4]))
  with tf.Graph().as_default():
    initializer = tf1.truncated_normal_initializer(stddev=0.04)
    seeded = tf1.truncated_normal_initializer(stddev=0.04, seed=1)
    a, b, c = graph_run([initializer([3, 4]), initializer([3, 4]), seeded([3, 4])])[0]
  assert not np.array_equal(a, b)
  seeded = keras.initializers.TruncatedNormal(stddev=0.04, seed=1)
  assert not np.array_equal(seeded([3, 4]), c)  # Seeds do not carry over.
  # Without `training=` a layer is in inference, as a graph without dropout is.
  dropout = keras.layers.Dropout(0.5)
  np.testing.assert_array_equal(dropout(tf.ones([50])), np.ones([50]))
  assert np.mean(dropout(tf.ones([50]), training=True) == 0) > 0.1


def initial_values(row):
  with tf.Graph().as_default():
    cifar10.inference(tf.zeros([1, 24, 24, 3]))
    [graph] = graph_run({variable.op.name: variable for variable in tf1.trainable_variables()})
  variables = keras_cifar10.variables_by_key(keras_cifar10.compiled_model(128))
  for key, value in graph.items():
    for ours in (variables[key].numpy(), variables[key + AVERAGE].numpy()):
      if key.endswith('biases'):
        np.testing.assert_array_equal(ours, value)
      else:
        n = value.size
        np.testing.assert_allclose(np.std(ours), np.std(value), rtol=6 / np.sqrt(n))
        np.testing.assert_allclose(np.abs(ours).max(), np.abs(value).max(), rtol=0.05)


def collections(row):
  model = keras_cifar10.inference()
  images = np.random.RandomState(0).normal(size=[4, 24, 24, 3]).astype(np.float32)
  labels = np.array([3, 1, 4, 1])
  weights = model.get_weights()  # Here, because inside a graph a Keras variable has no value.
  with tf.Graph().as_default(), tf1.Session() as session:
    total = cifar10.loss(cifar10.inference(tf.constant(images)), labels)
    for variable, value in zip(tf1.trainable_variables(), weights):
      variable.load(value, session)
    decays, total = session.run([tf1.get_collection('losses')[:2], total])
  np.testing.assert_allclose(sorted(model.losses), sorted(decays), rtol=1e-5)
  model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
  loss = model.compute_loss(images, labels, model(images))
  np.testing.assert_allclose(loss, total, rtol=1e-5)
  # The trap: the same number as in the graph is twice the weight decay.
  kernel = model.get_layer('local3').kernel
  np.testing.assert_allclose(keras.regularizers.L2(0.004)(kernel), 2 * decays[0], rtol=1e-5)


def update_then_average(row):
  gradients = [3.0, -1.0, 2.0, 5.0, 1.0]
  with tf.Graph().as_default(), tf1.Session() as session:
    global_step = tf1.train.get_or_create_global_step()
    variable = tf1.get_variable('v', [], initializer=tf1.constant_initializer(7.0))
    gradient = tf1.placeholder(tf.float32, [])
    step = cifar10.apply_gradients(tf1.train.GradientDescentOptimizer(0.5), [(gradient, variable)],
                                   global_step)
    average = [v for v in tf1.global_variables() if v.op.name == 'v' + AVERAGE][0]
    session.run(tf1.global_variables_initializer())
    graph = []
    for value in gradients:
      session.run(step, {gradient: value})
      graph.append(session.run([variable, average]))
  variable = keras.Variable(7.0)
  optimizer = keras_cifar10.AveragedSGD(0.5)
  optimizer.build([variable])
  ours = []
  for value in gradients:
    optimizer.apply([tf.constant(value)], [variable])
    ours.append([float(variable), float(optimizer.averages[0])])
  np.testing.assert_allclose(ours, graph, rtol=1e-6)
  # By hand: 7 - 0.5 * 3, and of that 1 - 2 / 11.
  np.testing.assert_allclose(ours[0], [5.5, 7 * 2 / 11 + 5.5 * 9 / 11], rtol=1e-6)
  # The traps: the average of what was there before the update; and Keras's own averages.
  assert abs(ours[0][1] - 7.0) > 1
  keras_own = keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.9999)
  variable = keras.Variable(7.0)
  for value in gradients:
    keras_own.apply([tf.constant(value)], [variable])
  averages = [v for v in keras_own.variables if v.path.endswith('average')]
  assert abs(float(averages[0]) - ours[-1][1]) > 0.5


def learning_rate(row):
  steps = [0, 136717, 136718, 300000]
  with tf.Graph().as_default(), tf1.Session() as session:
    step = tf1.train.get_or_create_global_step()
    cifar10.gradient_descent(step, 128)
    [summary] = tf1.get_collection(tf1.GraphKeys.SUMMARIES)
    graph = []
    for value in steps:
      step.load(value, session)
      graph.append(tf1.Summary.FromString(session.run(summary)).value[0].simple_value)
  model = keras_cifar10.compiled_model(128)
  ours = []
  for value in steps:
    model.optimizer.iterations.assign(value)
    ours.append(float(model.optimizer.learning_rate))
  np.testing.assert_allclose(ours, graph, rtol=1e-6)
  np.testing.assert_allclose(ours, [0.1, 0.1, 0.01, 0.001], rtol=1e-5)


def convert(source, destination):
  assert keras_cifar10.main(['convert', source, destination]) is None


def saver(row):
  model_path, back = os.path.join(row.tmp, 'a.keras'), os.path.join(row.tmp, 'back')
  convert(TRAINED, model_path)
  convert(model_path, back)
  before, after = tf.train.load_checkpoint(TRAINED), tf.train.load_checkpoint(back)
  shapes = before.get_variable_to_shape_map()
  assert after.get_variable_to_shape_map() == shapes and len(shapes) == 21
  assert after.get_variable_to_dtype_map() == before.get_variable_to_dtype_map()
  for key in shapes:
    assert after.get_tensor(key).tobytes() == before.get_tensor(key).tobytes(), key
  with tf.Graph().as_default(), tf1.Session() as session:
    cifar10.inference(tf.zeros([1, 24, 24, 3]))
    averages = tf1.train.ExponentialMovingAverage(cifar10.MOVING_AVERAGE_DECAY)
    tf1.train.Saver(averages.variables_to_restore()).restore(
        session, tf.train.latest_checkpoint(back))
    kernel = session.run(tf1.trainable_variables()[0])
  np.testing.assert_array_equal(kernel, before.get_tensor('conv1/weights' + AVERAGE))
  os.remove(os.path.join(back, 'checkpoint'))  # A run is found without it.
  convert(back, os.path.join(row.tmp, 'again.keras'))
  # The trap: TensorFlow 2's checkpoints have keys that no `Saver` asks for.
  path = tf.train.Checkpoint(model=keras_cifar10.inference()).save(os.path.join(row.tmp, 'tf2'))
  assert not set(shapes) & {name for name, _ in tf.train.list_variables(path)}


def old_run(row):
  """One of 2015: its step is a variable without a name, here a float."""
  run, model_path, new = (os.path.join(row.tmp, name) for name in ('run', 'c.keras', 'new'))
  os.mkdir(run)
  with tf.Graph().as_default(), tf1.Session() as session:
    step = tf1.Variable(7.0, trainable=False)
    cifar10.inference(tf.zeros([1, 24, 24, 3]))
    tf1.train.ExponentialMovingAverage(0.9999, step).apply(tf1.trainable_variables())
    session.run(tf1.global_variables_initializer())
    tf1.train.Saver().save(session, run + '/model.ckpt', global_step=7)
  convert(run, model_path)
  convert(model_path, new)
  before, after = tf.train.load_checkpoint(run), tf.train.load_checkpoint(new)
  assert before.get_variable_to_dtype_map()['Variable'] == tf.float32
  assert after.get_variable_to_dtype_map()['global_step'] == tf.int64
  assert after.get_tensor('global_step') == 7
  keys = after.get_variable_to_shape_map().keys() - {'global_step'}
  assert keys == before.get_variable_to_shape_map().keys() - {'Variable'} and len(keys) == 20
  for key in keys:
    np.testing.assert_array_equal(after.get_tensor(key), before.get_tensor(key))


def averages_restored(row):
  _compare_logits(row, next(iter(keras_cifar10.inputs(row.data_set.test_files, 16)))[0].numpy())


def _compare_logits(row, images):
  path = os.path.join(row.tmp, 'b.keras')
  convert(TRAINED, path)
  answers = {}
  for kind in (True, False):
    model = keras_cifar10.load(path)
    if kind:
      for variable, average in zip(model.trainable_variables, model.optimizer.averages):
        variable.assign(average)
    answers[kind] = model.predict_on_batch(images)
    with tf.Graph().as_default(), tf1.Session() as session:
      logits = cifar10.inference(tf.constant(images))
      averages = tf1.train.ExponentialMovingAverage(cifar10.MOVING_AVERAGE_DECAY)
      saver = tf1.train.Saver(averages.variables_to_restore() if kind else None)
      saver.restore(session, tf.train.latest_checkpoint(TRAINED))
      np.testing.assert_allclose(answers[kind], session.run(logits), atol=1e-4)
  assert np.abs(answers[True] - answers[False]).max() > 0.1


def five_steps(row):
  model = keras_cifar10.compiled_model(128)
  paths = [os.path.join(row.tmp, name) for name in ('first.keras', 'first')]
  model.save(paths[0])
  convert(*paths)
  batches = list(keras_cifar10.distorted_inputs(row.data_set.train_files, 128)
                 .take(5).as_numpy_iterator())
  with tf.Graph().as_default(), tf1.Session() as session:
    images = tf1.placeholder(tf.float32, [None, 24, 24, 3])
    labels = tf1.placeholder(tf.int32, [None])
    loss = cifar10.loss(cifar10.inference(images), labels)
    step = cifar10.train(loss, tf1.train.get_or_create_global_step())
    tf1.train.Saver().restore(session, tf.train.latest_checkpoint(paths[1]))
    losses = [session.run([loss, step], {images: x, labels: y})[0] for x, y in batches]
    graph = session.run({variable.op.name: variable for variable in tf1.global_variables()})
  assert len(graph) == 21 and graph['global_step'] == 5
  ours = []
  for batch in batches:
    model.reset_metrics()  # In Keras 3.0 the loss would be the mean so far.
    ours.append(model.train_on_batch(*batch)[0])
  np.testing.assert_allclose(ours, losses, rtol=1e-5)
  first = keras_cifar10.variables_by_key(keras_cifar10.load(paths[0]))
  for key, variable in keras_cifar10.variables_by_key(model).items():
    # Usually 1e-7, but rounding may decide which of two values of a pool gets the gradient. An
    # average that counts from the wrong step is off by 5e-4.
    np.testing.assert_allclose(variable.numpy(), graph[key], atol=1e-4, err_msg=key)
    assert not np.array_equal(variable.numpy(), first[key].numpy()), key


def towers(row):
  tf.config.set_logical_device_configuration(
      tf.config.list_physical_devices('CPU')[0], [tf.config.LogicalDeviceConfiguration()] * 2)
  images = np.random.RandomState(0).normal(size=[16, 24, 24, 3]).astype(np.float32)
  labels = np.arange(16) % 10
  strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
  with strategy.scope():
    model = keras_cifar10.compiled_model(16)
  weights = model.get_weights()
  data = tf.data.Dataset.from_tensors((images, labels)).repeat()  # A batch of both replicas.
  model.fit(data, steps_per_epoch=1, verbose=0)
  ours = {key: variable.numpy()
          for key, variable in keras_cifar10.variables_by_key(model).items()}
  with tf.Graph().as_default(), tf1.Session() as session:
    halves = [(tf.constant(images[i:i + 8]), labels[i:i + 8]) for i in (0, 8)]
    _, step = cifar10_multi_gpu_train.train_towers(
        halves, tf1.train.get_or_create_global_step())
    session.run(tf1.global_variables_initializer())
    variables = {variable.op.name: variable for variable in tf1.global_variables()}
    for variable, value in zip(tf1.trainable_variables(), weights):
      variable.load(value, session)
      variables[variable.op.name + AVERAGE].load(value, session)
    session.run(step)
    graph = session.run(variables)
  for key, value in ours.items():
    np.testing.assert_allclose(value, graph[key], atol=1e-4, err_msg=key)
  assert np.abs(graph['softmax_linear/biases']).max() > 1e-3  # They were zero.


def logits(row):
  images = np.concatenate([images for images, _ in keras_cifar10.inputs(
      row.data_set.test_files + row.data_set.train_files, 100).take(10)])
  assert len(images) > 500
  _compare_logits(row, images)


def command_line(row):
  arguments = ['--batch_size=64', '--max_steps=7']
  values = flags.FLAGS(['program'] + arguments) and flags.FLAGS.batch_size
  assert values == 64
  try:
    flags.DEFINE_integer('batch_size', 1, 'Of another module.')
    raise AssertionError('It was defined twice.')
  except flags.DuplicateFlagError:
    pass
  parser = argparse.ArgumentParser()
  parser.add_argument('--flag', type=bool)
  assert parser.parse_args(['--flag=false']).flag is True  # The trap.
  called = []
  original, keras_cifar10.train = keras_cifar10.train, called.append
  try:
    assert keras_cifar10.main(['train'] + arguments) is None
  finally:
    keras_cifar10.train = original
  assert (called[0].batch_size, called[0].max_steps) == (64, 7)


def clusters(row):
  jobs = {'worker': ['a:1', 'b:2']}
  os.environ['TF_CONFIG'] = json.dumps({
      'cluster': {**jobs, 'ps': ['c:3']}, 'task': {'type': 'worker', 'index': 1}})
  cluster = tf_config.from_environment()
  assert (cluster.job, cluster.index) == ('worker', 1)
  assert cluster.jobs == {**jobs, 'ps': ['c:3']}
  # For Keras without `ps`: each worker has all variables.
  os.environ['TF_CONFIG'] = json.dumps({'cluster': jobs, 'task': {'type': 'worker', 'index': 1}})
  resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
  assert (resolver.task_type, resolver.task_id) == ('worker', 1)
  assert resolver.cluster_spec().as_dict() == jobs
  try:
    tf_config.from_environment()
    raise AssertionError('The graph had no parameter server.')
  except console.UserError as error:
    assert 'ps' in str(error)


def ported_program(row):
  """`_transfer_program` of test_old_programs.py: takes conv1 and learns a head for two classes."""
  batch, truth = next(iter(keras_cifar10.inputs(row.data_set.test_files, 20).as_numpy_iterator()))
  truth = truth % 2
  with tf.Graph().as_default(), tf1.Session() as session:
    images = tf1.placeholder(tf.float32, [None, 24, 24, 3])
    labels = tf1.placeholder(tf.int32, [None])
    cifar10.inference(images)
    norm1 = tf1.get_default_graph().get_tensor_by_name('norm1:0')
    saver = tf1.train.Saver([v for v in tf1.global_variables() if v.op.name.startswith('conv1')])
    tf1.get_default_graph().clear_collection('losses')
    with tf1.variable_scope('head'):
      weights = cifar10._variable_with_weight_decay('weights', [12 * 12 * 64, 2], 0.01, wd=0.5)
      biases = cifar10._variable_on_cpu('biases', [2], tf1.constant_initializer(0.1))
    logits = tf.matmul(tf.reshape(norm1, [-1, 12 * 12 * 64]), weights) + biases
    loss = cifar10.loss(logits, labels)
    step = tf1.train.GradientDescentOptimizer(1e-4).minimize(loss, var_list=[weights, biases])
    session.run(tf1.global_variables_initializer())
    saver.restore(session, tf.train.latest_checkpoint(TRAINED))
    feed = {images: batch, labels: truth}
    first, *head = session.run([[logits, loss], weights, biases], feed)
    for _ in range(5):
      session.run(step, feed)
    last = session.run([loss, weights, biases], feed)

  path = os.path.join(row.tmp, 'trained.keras')
  convert(TRAINED, path)
  trained = keras_cifar10.load(path)
  features = keras.Model(trained.inputs, trained.get_layer('norm1').output)
  features.trainable = False
  model = keras.Sequential([
      features, keras.layers.Flatten(),
      keras.layers.Dense(2, kernel_regularizer=keras.regularizers.L2(0.5 / 2))])
  model.compile(keras.optimizers.SGD(1e-4),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
  model.layers[-1].set_weights(head)
  kernel = trained.get_layer('conv1').kernel.numpy()
  np.testing.assert_allclose(model(batch), first[0], atol=1e-5)
  np.testing.assert_allclose(model.compute_loss(batch, truth, model(batch)), first[1], rtol=1e-5)
  for _ in range(5):
    model.train_on_batch(batch, truth)
  np.testing.assert_allclose(
      model.compute_loss(batch, truth, model(batch)), last[0], rtol=1e-5)
  for ours, value in zip(model.layers[-1].get_weights(), last[1:]):
    np.testing.assert_allclose(ours, value, atol=1e-7)
  np.testing.assert_array_equal(trained.get_layer('conv1').kernel.numpy(), kernel)
  assert len(model.trainable_variables) == 2


def linear_model(**more):
  """What a Keras program has before the snippet: the same as `linear_graph`."""
  model = keras.Sequential([keras.Input([4]), keras.layers.Dense(
      3, name='logits', kernel_regularizer=keras.regularizers.L2(0.05))])
  model.layers[0].set_weights([KERNEL, np.zeros(3)])
  model.compile(keras.optimizers.SGD(0.1),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
  return dict(more, tf=tf, np=np, os=os, keras=keras, layers=keras.layers, model=model,
              images=tf.constant(IMAGES), labels=tf.constant(LABELS),
              weights=tf.constant(KERNEL), logits=model(IMAGES))


@contextlib.contextmanager
def raises(kind, text=''):
  try:
    yield
  except kind as error:
    assert text in str(error), error
  else:
    raise AssertionError(f'No {kind.__name__}.')


def own_loop(row):
  graph, ours, *_ = snippets('A session.run loop of your own')
  printed = {graph: [], ours: []}
  with linear_graph(print=lambda *values: printed[graph].append(values)) as names:
    names['train_op'] = names['optimizer'].minimize(names['loss'])
    graph(names)
  names = linear_model(print=lambda *values: printed[ours].append(values))
  names['dataset'] = tf.data.Dataset.from_tensors((IMAGES, LABELS)).repeat()
  first, decay = names['model'].loss(LABELS, names['logits']), float(sum(names['model'].losses))
  ours(names)
  np.testing.assert_allclose(printed[ours], printed[graph], rtol=1e-5)
  assert [step for step, _ in printed[ours]] == [0, 1, 2]
  np.testing.assert_allclose(printed[ours][0][1], first + decay, rtol=1e-5)
  assert decay > 0.1  # What is lost without `model.losses`.


def summaries_by_hand(row):
  graph, ours, *_ = snippets('Summaries written by hand')
  folders = [os.path.join(row.tmp, name) for name in ('graph', 'ours')]
  assert not tf.summary.scalar('loss', 1.0, step=3)  # The trap: nobody writes it.
  with linear_graph(logs=folders[0], step=3, precision=0.5) as names:
    names['summary_op'] = tf1.summary.scalar('loss', names['loss'])
    loss = names['session'].run(names['loss'])
    graph(names)
  ours(linear_model(logs=folders[1], step=3, precision=0.5, loss=loss))
  found = []
  for folder in folders:
    [name] = os.listdir(folder)
    found.append({value.tag: (event.step, value)
                  for event in tf1.train.summary_iterator(os.path.join(folder, name))
                  for value in event.summary.value})
  for tag, number in (('loss', loss), ('precision', 0.5)):
    (step, old), (new_step, new) = (values[tag] for values in found)
    assert step == new_step == 3
    np.testing.assert_allclose([old.simple_value, tf.make_ndarray(new.tensor)], number)
    assert new.simple_value == 0


def placeholders(row):
  graph, ours, *_ = snippets('Placeholders and feed_dict')
  with linear_graph(batch=IMAGES) as names:
    graph(names)
    expected = names['result']
    np.testing.assert_array_equal(  # float64 is converted.
        names['session'].run(names['y'], {names['x']: IMAGES.astype(float), names['rate']: 0.01}),
        expected)
  np.testing.assert_allclose(expected, 0.01 * IMAGES @ KERNEL, rtol=1e-4, atol=1e-6)
  names = linear_model(batch=IMAGES)
  ours(names)
  np.testing.assert_allclose(names['result'], expected, rtol=1e-5)
  y = names['y']
  y(IMAGES, tf.constant(0.02))
  assert y.experimental_get_tracing_count() == 1
  y(IMAGES, 0.01), y(IMAGES, 0.02)
  assert y.experimental_get_tracing_count() == 3
  with raises((TypeError, ValueError)):
    y(IMAGES.astype(float), tf.constant(0.01))
  names['model'](IMAGES.astype(float))


def checkpoint_state(row):
  graph, ours, *_ = snippets('get_checkpoint_state')
  train_dir, moved = os.path.join(row.tmp, 'run'), os.path.join(row.tmp, 'moved')
  os.mkdir(train_dir)
  with linear_graph(train_dir=train_dir) as names:
    names['saver'] = tf1.train.Saver()
    graph(names)
    assert 'step' not in names  # Nothing there yet.
    names['saver'].save(names['session'], train_dir + '/model.ckpt', global_step=7)
    names['weights'].load(np.zeros([4, 3]), names['session'])
    graph(names)
    assert names['step'] == 7
    np.testing.assert_array_equal(names['session'].run(names['weights']), KERNEL)
    os.rename(train_dir, moved)
    names['train_dir'] = moved
    with raises(ValueError, train_dir):  # The old place.
      graph(names)
    path = tf1.train.get_checkpoint_state(moved).model_checkpoint_path
    names['saver'].restore(names['session'], os.path.join(moved, os.path.basename(path)))
  names = linear_model(path=os.path.join(row.tmp, 'a.keras'))
  model = names.pop('model')
  ours(names)
  assert 'step' not in names
  model.optimizer.iterations.assign(7)
  model.save(names['path'])
  ours(names)
  assert names['step'] == 7
  np.testing.assert_array_equal(names['model'].layers[0].kernel, KERNEL)


def top_k(row):
  graph, ours, *_ = snippets('in_top_k')
  with linear_graph() as names:
    graph(names)
    expected = names['true_count']
    ties = names['session'].run(tf1.nn.in_top_k(tf.zeros([8, 3]), LABELS, 1))
  names = linear_model()
  ours(names)
  assert names['true_count'] == expected == np.sum((IMAGES @ KERNEL).argmax(1) == LABELS)
  assert 0 < expected < 8
  assert ties.all() and np.all(keras.ops.in_top_k(LABELS, np.zeros([8, 3], np.float32), 1))
  np.testing.assert_allclose(
      keras.metrics.SparseCategoricalAccuracy()(np.arange(10), np.zeros([10, 10])), 0.1)


def partial_restore(row):
  graph, ours, *_ = snippets('A Saver of some of the variables')
  path = tf.train.latest_checkpoint(TRAINED)
  before = tf.train.load_checkpoint(path)
  with tf.Graph().as_default(), tf1.Session() as session:
    cifar10.inference(tf.zeros([1, 24, 24, 3]))
    variables = {variable.op.name: variable for variable in tf1.trainable_variables()}
    session.run(tf1.global_variables_initializer())
    head = session.run(variables['softmax_linear/weights'])
    graph({'tf': tf1, 'session': session, 'path': path})
    restored = session.run(variables)
  np.testing.assert_array_equal(restored['softmax_linear/weights'], head)
  model = keras_cifar10.compiled_model(128)
  ours_by_key = {key: variable for key, variable in keras_cifar10.variables_by_key(model).items()
                 if key in restored}
  head = ours_by_key['softmax_linear/weights'].numpy()
  ours({'tf': tf, 'path': path, 'variables': ours_by_key})
  np.testing.assert_array_equal(ours_by_key['softmax_linear/weights'], head)
  for key in restored.keys() - {'softmax_linear/weights', 'softmax_linear/biases'}:
    np.testing.assert_array_equal(restored[key], before.get_tensor(key + AVERAGE))
    np.testing.assert_array_equal(ours_by_key[key], before.get_tensor(key + AVERAGE))
  # The trap: of a layer that does not fit, only a warning tells.
  names, path = linear_model(), os.path.join(row.tmp, 'a.weights.h5')
  names['model'].save_weights(path)
  other = keras.Sequential([keras.Input([4]), keras.layers.Dense(5)])
  kernel = other.layers[0].kernel.numpy()
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    other.load_weights(path, skip_mismatch=True)
  assert caught
  np.testing.assert_array_equal(other.layers[0].kernel, kernel)


class _Layers:
  """The part of `tf.layers` that the page shows; TensorFlow has it where tf_keras is, see there."""

  @staticmethod
  def batch_normalization(x, training, name):
    with tf1.variable_scope(name):
      gamma, beta, mean, variance = (
          tf1.get_variable(key, [x.shape[-1]], initializer=tf1.constant_initializer(value))
          for key, value in (('gamma', 1), ('beta', 0), ('moving_mean', 0), ('moving_variance', 1)))
    y, *new = tf1.nn.fused_batch_norm(x, gamma, beta, epsilon=0.001)
    for moving, value in zip((mean, variance), new):
      rate = tf.where(training, 0.01, 0.0)
      tf1.add_to_collection(tf1.GraphKeys.UPDATE_OPS, moving.assign_sub(rate * (moving - value)))
    old = tf1.nn.batch_normalization(x, mean, variance, beta, gamma, 0.001)
    return tf.where(training, y, old)


class _Slim:
  """The part of slim that the page shows, with slim's defaults."""

  @staticmethod
  def conv2d(x, units, size, scope):
    with tf1.variable_scope(scope):
      weights = tf1.get_variable('weights', [*size, x.shape[-1], units])  # Xavier's, by default.
      biases = tf1.get_variable('biases', [units], initializer=tf1.zeros_initializer())
    return tf.nn.relu(tf.nn.conv2d(x, weights, 1, 'SAME') + biases)

  @staticmethod
  def max_pool2d(x, size, scope):
    return tf.nn.max_pool2d(x, size, 2, 'VALID', name=scope)

  @staticmethod
  def flatten(x):
    return tf.reshape(x, [-1, x.shape[1:].num_elements()])

  @staticmethod
  def fully_connected(x, units, activation_fn, scope):
    assert activation_fn is None
    with tf1.variable_scope(scope):
      weights = tf1.get_variable('weights', [x.shape[-1], units])
      biases = tf1.get_variable('biases', [units], initializer=tf1.zeros_initializer())
    return tf.matmul(x, weights) + biases


class _OldTensorFlow:
  """`tensorflow.compat.v1` with `tf.layers` and `tf.estimator`."""
  layers = tf1.layers if hasattr(tf1.layers, 'batch_normalization') else _Layers

  @property
  def estimator(self):
    return _Estimator

  def __getattr__(self, name):
    return getattr(tf1, name)


def is_training(row):
  graph, ours, *_ = snippets('is_training')
  images = np.random.RandomState(0).normal(3, 2, size=[2, 4, 4, 3]).astype(np.float32)
  with tf.Graph().as_default(), tf1.Session() as session:
    tf1.set_random_seed(0)
    training, weight = tf1.placeholder(tf.bool, []), tf1.get_variable('w', [])
    names = {'tf': _OldTensorFlow(), 'is_training': training, 'images': tf.constant(images),
             'loss': weight ** 2, 'optimizer': tf1.train.GradientDescentOptimizer(0.1)}
    graph(names)
    session.run(tf1.global_variables_initializer())
    trained = session.run(names['x'], {training: True})
    session.run(names['train_op'], {training: True})
    evaluated = session.run(names['x'], {training: False})
    mean, variance = (session.run(v) for v in tf1.global_variables() if 'moving' in v.op.name)
  names = {'keras': keras, 'layers': keras.layers, 'images': images}
  ours(names)
  norm = names['model'].get_layer('norm')
  np.testing.assert_allclose(norm.moving_mean, mean, rtol=1e-5)
  np.testing.assert_allclose(norm.moving_mean, 0.01 * images.mean(axis=(0, 1, 2)), rtol=1e-4)
  # The trap: 32 / 31.
  for value, ddof in ((norm.moving_variance, 0), (variance, 1)):
    np.testing.assert_allclose(value, 0.99 + 0.01 * images.var(axis=(0, 1, 2), ddof=ddof),
                               rtol=1e-5)
  np.testing.assert_allclose(norm(images), evaluated, rtol=1e-2)
  kept = trained != 0
  assert 0.7 < np.mean(kept) < 1  # What `keep_prob` keeps is what `Dropout` does not drop.
  dropped = names['model'].layers[1](np.ones([2000]), training=True) == 0
  assert 0.05 < np.mean(dropped) < 0.15
  np.testing.assert_allclose((norm(images, training=True) / 0.9)[kept], trained[kept], rtol=1e-3)
  before = norm.moving_mean.numpy()
  norm.trainable = False
  norm(images + 5, training=True)
  np.testing.assert_array_equal(norm.moving_mean, before)


def contrib(row):
  graph, ours, *_ = snippets('tf.contrib, slim and tf.layers')
  try:
    import tf_slim as slim
  except ImportError:
    slim = _Slim
  images = np.random.RandomState(0).normal(size=[2, 24, 24, 3]).astype(np.float32)
  with tf.Graph().as_default(), tf1.Session() as session:
    names = {'slim': slim, 'images': tf.constant(images)}
    graph(names)
    session.run(tf1.global_variables_initializer())
    variables = tf1.trainable_variables()
    assert [variable.op.name for variable in variables] == [
        'conv1/weights', 'conv1/biases', 'logits/weights', 'logits/biases']
    values, logits = session.run([variables, names['logits']])
  names = {'keras': keras, 'layers': keras.layers}
  ours(names)
  model = names['model']
  for value, initial in zip(values, model.get_weights()):  # Xavier's initializer is the default.
    assert value.shape == initial.shape
    np.testing.assert_allclose(np.abs(value).max(), np.abs(initial).max(), rtol=0.1)
  model.set_weights(values)
  np.testing.assert_allclose(model(images), logits, atol=1e-5)
  assert keras.layers.MaxPooling2D(3).strides == (3, 3)  # The trap.


def resizing(row):
  graph, ours, *_ = snippets('Resizing and decoding')
  noise = np.random.RandomState(0).randint(0, 256, [48, 48, 3]).astype(np.uint8)
  data = tf.io.encode_png(noise).numpy()
  with tf.Graph().as_default(), tf1.Session() as session:
    names = {'tf': tf1, 'data': data}
    graph(names)
    expected = session.run(names['small'])
  names = {'tf': tf, 'data': data}
  ours(names)
  np.testing.assert_array_equal(names['small'], expected)
  np.testing.assert_array_equal(expected, noise[::2, ::2])
  successor = tf.image.resize(noise, [24, 24])
  np.testing.assert_allclose(
      successor, noise.reshape([24, 2, 24, 2, 3]).mean(axis=(1, 3)), atol=1e-3)
  np.testing.assert_allclose(np.abs(successor - expected).mean(), 53, atol=0.5)
  np.testing.assert_array_equal(
      keras.layers.Resizing(24, 24)(noise.astype(np.float32)), successor)


def own_schedule(row):
  graph, ours, *_ = snippets('A schedule of your own')
  with linear_graph() as names:
    names['global_step'] = tf1.train.get_or_create_global_step()
    names['session'].run(names['global_step'].initializer)
    graph(names)
    expected = names['session'].run(names['weights'])
  names = linear_model()
  ours(names)
  kernels, kernel = [], names['model'].layers[0].kernel
  data = tf.data.Dataset.from_tensors((IMAGES, LABELS)).repeat()
  record = keras.callbacks.LambdaCallback(
      on_train_batch_end=lambda batch, logs: kernels.append(kernel.numpy()))
  names['model'].fit(data, steps_per_epoch=2, epochs=3, verbose=0, shuffle=False,
                     callbacks=[names['Schedule'](), record])
  np.testing.assert_allclose(kernels[4], expected, rtol=1e-5)
  optimizer = keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.1))
  with raises(TypeError):
    optimizer.learning_rate = 0.1


def momentum_and_adam(row):
  def in_graph(optimizer, rates, gradient=1.0, snippet=None):
    with tf.Graph().as_default(), tf1.Session() as session:
      weight = tf1.get_variable('w', [], initializer=tf1.constant_initializer(1.0))
      rate = tf1.placeholder(tf.float32, [])
      names = {'tf': tf1, 'rate': rate, 'gradient': tf.constant(gradient), 'weight': weight}
      if snippet:
        snippet(names)
      else:
        names['train_op'] = optimizer(rate).apply_gradients([(names['gradient'], weight)])
      session.run(tf1.global_variables_initializer())
      for value in rates:
        session.run(names['train_op'], {rate: value})
      return session.run(weight)

  def in_keras(optimizer, rates, gradient=1.0):
    weight = keras.Variable(1.0)
    for rate in rates:
      optimizer.learning_rate = rate
      optimizer.apply([tf.constant(gradient)], [weight])
    return float(weight)

  graph, ours, *_ = snippets('Momentum, Adam, RMSProp')
  rates, names = [0.1, 0.1, 0.1, 0.01], {'keras': keras}
  ours(names)
  sgd = functools.partial(keras.optimizers.SGD, 0.1, momentum=0.9)
  for value, expected in (
      (in_graph(None, rates, snippet=graph), 0.405), (in_keras(names['optimizer'], rates), 0.405),
      (in_keras(sgd(), rates), 0.185),
      (in_graph(lambda rate: tf1.train.MomentumOptimizer(rate, 0.9, use_nesterov=True), rates),
       0.154), (in_keras(sgd(nesterov=True), rates), -0.043)):
    np.testing.assert_allclose(value, expected, atol=5e-4)
  np.testing.assert_allclose(in_graph(None, rates[:3], snippet=graph), in_keras(sgd(), rates[:3]))
  adam, rms = keras.optimizers.Adam, keras.optimizers.RMSprop
  for value, expected in (
      (in_graph(tf1.train.AdamOptimizer, [1e-3], 1e-7), 2.4e-4), (in_keras(adam(), [1e-3], 1e-7),
                                                                  3.1e-5),
      (in_keras(adam(epsilon=1e-8), [1e-3], 1e-7), 2.4e-4),
      (in_graph(tf1.train.RMSPropOptimizer, [1e-3]), 1e-3), (in_keras(rms(), [1e-3]), 3.2e-3)):
    np.testing.assert_allclose(1 - value, expected, rtol=0.02)


def assign(row):
  graph, ours, *_ = snippets('tf.assign to weights')
  new = np.ones([4, 3], np.float32)
  with linear_graph(new=new) as names:
    graph(names)
    count = len(names['session'].graph.get_operations())
    names['session'].run(names['assign'], {names['value']: new})
    assert len(names['session'].graph.get_operations()) == count
    np.testing.assert_array_equal(names['session'].run(names['weights']), new)
    names['session'].run(tf1.assign(names['weights'], new))  # The trap.
    assert len(names['session'].graph.get_operations()) > count
  names = linear_model(new=new)
  ours(names)
  np.testing.assert_array_equal(names['model'].layers[0].kernel, new)


def several_optimizers(row):
  graph, ours, *_ = snippets('Several optimizers')
  with linear_graph() as names:
    step = tf1.train.get_or_create_global_step()
    names.update(body=[names['weights']], head=[names['biases']], global_step=step,
                 slow=tf1.train.GradientDescentOptimizer(0.1),
                 fast=tf1.train.GradientDescentOptimizer(1.0))
    graph(names)
    names['session'].run(step.initializer)
    for _ in range(3):
      names['session'].run(names['train_op'])
    expected = names['session'].run([names['weights'], names['biases']])
    assert names['session'].run(step) == 3
  names = linear_model(slow=keras.optimizers.SGD(0.1), fast=keras.optimizers.SGD(1.0))
  kernel, bias = names['model'].trainable_variables
  names.update(body=[kernel], head=[bias])
  for _ in range(3):
    ours(names)
  np.testing.assert_allclose(kernel, expected[0], rtol=1e-5)
  np.testing.assert_allclose(bias, expected[1], rtol=1e-5)


def gradient_by_the_input(row):
  graph, ours, *_ = snippets('Gradients by the input')
  with linear_graph() as names:
    graph(names)
    expected = names['session'].run(names['gradient'])
  names = linear_model()
  ours(names)
  np.testing.assert_allclose(names['gradient'], expected, rtol=1e-4, atol=1e-7)
  with tf.GradientTape() as tape:  # The trap.
    loss = names['model'].loss(names['labels'], names['model'](names['images']))
  assert tape.gradient(loss, names['images']) is None
  with tf.GradientTape() as tape, raises(ValueError):
    tape.watch(IMAGES)


def clipping(row):
  graph, ours, *_ = snippets('Clipped gradients')
  with linear_graph() as names:
    plain = names['session'].run(tf1.gradients(names['loss'], [names['weights'], names['biases']]))
    graph(names)
    names['session'].run(names['train_op'])
    expected = names['session'].run([names['weights'], names['biases']])
  norm = np.sqrt(sum(np.sum(gradient ** 2) for gradient in plain))
  assert norm > 0.5
  np.testing.assert_allclose(expected[1], -0.1 * plain[1] * 0.5 / norm, rtol=1e-4)
  names = linear_model()
  ours(names)
  for optimizer, is_equal in ((names['optimizer'], True), (keras.optimizers.SGD(
      0.1, clipnorm=0.5), False)):
    variables = [keras.Variable(KERNEL), keras.Variable(np.zeros(3, np.float32))]
    optimizer.apply([tf.constant(gradient) for gradient in plain], variables)
    assert np.allclose(variables[1], expected[1], rtol=1e-4) == is_equal


def records(row):
  graph, ours, *_ = snippets('TFRecord files')
  path, compressed = os.path.join(row.tmp, 'a.tfrecord'), os.path.join(row.tmp, 'b.tfrecord')
  examples = [tf.train.Example(features=tf.train.Features(feature={
      'image': tf.train.Feature(bytes_list=tf.train.BytesList(value=[bytes([i, i + 1])])),
      'label': tf.train.Feature(int64_list=tf.train.Int64List(value=[i]))})) for i in range(3)]
  for name, options in ((path, None), (compressed, 'GZIP')):
    with tf.io.TFRecordWriter(name, options) as writer:
      for example in examples:
        writer.write(example.SerializeToString())
  with tf.Graph().as_default():
    names = {'tf': tf1, 'path': path}
    graph(names)
    expected = graph_run([names['image'], names['example']['label']], times=3)
  names = {'tf': tf, 'path': path}
  ours(names)
  found = list(names['examples'].as_numpy_iterator())
  for i in range(3):
    for image, label in (expected[i], found[i]):
      np.testing.assert_array_equal(image, [i, i + 1])
      assert label == i
  names = {'tf': tf, 'path': compressed}
  ours(names)
  with raises(tf.errors.DataLossError, 'corrupted record'):
    list(names['examples'])
  assert len(list(tf.data.TFRecordDataset([compressed], compression_type='GZIP'))) == 3


class _Estimator:
  """The part of `tf.estimator` that the page shows; TensorFlow 2.16 was the first without it."""

  class EstimatorSpec(typing.NamedTuple):
    mode: str
    loss: tf.Tensor
    train_op: tf.Operation

  @staticmethod
  def Estimator(model_fn, model_dir):
    def train(input_fn, steps):
      with tf.Graph().as_default(), tf1.Session() as session:
        step = tf1.train.get_or_create_global_step()
        spec = model_fn(*input_fn(), 'train')
        [weights] = tf1.trainable_variables()
        session.run(tf1.global_variables_initializer())
        weights.load(KERNEL, session)
        for _ in range(steps):
          session.run(spec.train_op)
        tf1.train.Saver().save(session, model_dir + '/model.ckpt', session.run(step))

    return types.SimpleNamespace(train=train)


def estimators(row):
  graph, ours, *_ = snippets('Estimators')
  names = {'tf': _OldTensorFlow(), 'model_dir': row.tmp,
           'input_fn': lambda: (tf.constant(IMAGES), tf.constant(LABELS))}
  graph(names)
  expected = tf.train.load_checkpoint(row.tmp)
  assert expected.get_tensor('global_step') == 3

  class FirstKernel:
    """Keras, but each model starts with KERNEL."""

    def __getattr__(self, name):
      return getattr(keras, name)

    @staticmethod
    def Sequential(parts):
      model = keras.Sequential(parts)
      model.set_weights([KERNEL])
      return model

  names = {'keras': FirstKernel(), 'layers': keras.layers, 'input_fn': lambda: (
      tf.data.Dataset.from_tensors((IMAGES, LABELS)).repeat())}
  with contextlib.redirect_stdout(io.StringIO()):
    ours(names)
    model = names['model']
    np.testing.assert_allclose(model.get_weights()[0], expected.get_tensor('weights'), rtol=1e-4)
    model.fit(names['input_fn'](), steps_per_epoch=3, epochs=1)
  assert int(model.optimizer.iterations) == 6  # The trap: it does not know of the first epoch.


def supervisor(row):
  graph, ours, *_ = snippets('Supervisor')
  logs, backup = os.path.join(row.tmp, 'graph'), os.path.join(row.tmp, 'backup')
  steps = []
  for max_steps in (4, 6):
    with linear_graph(logs=logs, max_steps=max_steps) as names:
      step = tf1.train.get_or_create_global_step()
      names.update(global_step=step, saver=tf1.train.Saver(),
                   train_op=names['optimizer'].minimize(names['loss'], step))
      graph(names)
      steps.append(names['step'])
    assert tf.train.load_checkpoint(logs).get_tensor('global_step') == max_steps
  assert steps == [4, 6]

  def fit(max_steps, interrupted_at=None):
    def interrupt(batch, logs):
      if len(taken) == interrupted_at:
        raise KeyboardInterrupt

    names = linear_model(logs=backup, max_steps=max_steps)
    names['dataset'] = tf.data.Dataset.from_tensors((IMAGES, LABELS)).repeat()
    original = keras.callbacks.BackupAndRestore
    taken = []
    names['keras'] = types.SimpleNamespace(callbacks=types.SimpleNamespace(
        BackupAndRestore=lambda path: [original(path), keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs: taken.append(batch),
            on_train_batch_end=interrupt)]))
    model_fit = names['model'].fit
    names['model'] = types.SimpleNamespace(fit=lambda data, callbacks, **more: model_fit(
        data, callbacks=callbacks[0], verbose=0, **more))
    try:
      ours(names)
    except KeyboardInterrupt:
      pass
    return len(taken)

  assert fit(6, interrupted_at=5) == 5 and os.listdir(backup)
  assert fit(6) == 2  # Of three epochs the first two were there.
  assert fit(6) == 6  # The trap.


class _Cell:
  """`tf.nn.rnn_cell.BasicLSTMCell`, which TensorFlow has where tf_keras is."""

  def __init__(self, units):
    self.output_size, self.state_size = units, (units, units)

  def zero_state(self, batch_size, dtype):
    return tuple(tf.zeros([batch_size, units], dtype) for units in self.state_size)

  def __call__(self, inputs, state, scope=None):
    c, h = state
    both = tf.concat([inputs, h], 1)
    with tf1.variable_scope('basic_lstm_cell'):
      kernel = tf1.get_variable('kernel', [both.shape[1], 4 * self.output_size])
      bias = tf1.get_variable('bias', [4 * self.output_size])
    i, j, f, o = tf.split(tf.matmul(both, kernel) + bias, 4, axis=1)
    c = c * tf.sigmoid(f + 1.0) + tf.sigmoid(i) * tf.tanh(j)
    h = tf.tanh(c) * tf.sigmoid(o)
    return h, (c, h)


def recurrent(row):
  graph, ours, *_ = snippets('Recurrent cells')
  sequences = np.random.RandomState(0).normal(size=[2, 3, 4]).astype(np.float32)
  old = types.SimpleNamespace(float32=tf.float32, nn=types.SimpleNamespace(
      dynamic_rnn=tf1.nn.dynamic_rnn,
      rnn_cell=types.SimpleNamespace(BasicLSTMCell=getattr(tf1.nn.rnn_cell, 'BasicLSTMCell', _Cell)
                                     if os.environ.get('TF_USE_LEGACY_KERAS') else _Cell)))
  with tf.Graph().as_default(), tf1.Session() as session:
    names = {'tf': old, 'sequences': tf.constant(sequences)}
    graph(names)
    session.run(tf1.global_variables_initializer())
    variables = {variable.op.name: variable for variable in tf1.trainable_variables()}
    values, expected = session.run([variables, names['outputs']])
  assert list(values) == ['rnn/basic_lstm_cell/kernel', 'rnn/basic_lstm_cell/bias']
  kernel, bias = values.values()
  assert np.abs(bias).max() > 0.1
  names = {'np': np, 'layers': keras.layers, 'kernel': kernel, 'bias': bias,
           'sequences': sequences}
  ours(names)
  np.testing.assert_allclose(names['outputs'], expected, atol=1e-5)
  for weights in ([kernel[:4], kernel[4:], bias + names['forget']],
                  [names['ordered'](part) for part in (kernel[:4], kernel[4:], bias)]):
    names['layer'].set_weights(weights)  # The traps.
    assert np.abs(names['layer'](sequences) - expected).max() > 0.01


def conditions(row):
  graph, ours, *_ = snippets('tf.cond')
  for value in (0.5, 5.0):
    with tf.Graph().as_default():
      names = {'tf': tf1, 'loss': tf.constant(value)}
      graph(names)
      [expected] = graph_run(names['smaller'])
    names = {'tf': tf, 'loss': tf.constant(value)}
    ours(names)
    np.testing.assert_allclose(names['smaller'], expected)
    np.testing.assert_allclose(expected, 0.5)
  with tf.Graph().as_default(), tf1.Session() as session:  # The trap.
    count = tf1.get_variable('count', [], initializer=tf1.zeros_initializer())
    outside = count.assign_add(1.0)
    results = [tf.cond(tf1.placeholder_with_default(False, []), function, lambda: tf.constant(0.0))
               for function in (lambda: tf.identity(outside), lambda: count.assign_add(1.0))]
    session.run(count.initializer)
    counts = [(session.run(result), session.run(count))[1] for result in results]
  assert counts == [1, 1]
  names['shrink'](0.5), names['shrink'](5.0)  # A graph for each Python number.
  assert names['shrink'].experimental_get_tracing_count() == 3


def frozen_graph(row):
  graph, ours, *_ = snippets('A frozen graph')
  with linear_graph() as names:
    graph(names)
    graph_def = names['graph_def']
  names = linear_model(graph_def=graph_def)
  names['model'].layers[0].set_weights([np.ones([4, 3]), np.ones(3)])
  ours(names)
  np.testing.assert_array_equal(names['model'].layers[0].kernel, KERNEL)
  run = tf1.wrap_function(lambda: tf1.import_graph_def(graph_def, name=''), []).prune(
      [], 'logits:0')
  np.testing.assert_allclose(run(), names['model'](IMAGES), rtol=1e-5)


@contextlib.contextmanager
def stderr_of_the_process():
  """What comes out of the C++ too: a list of its lines, filled at the end."""
  lines, saved = [], os.dup(2)
  with tempfile.TemporaryFile('w+') as out:
    os.dup2(out.fileno(), 2)
    try:
      yield lines
    finally:
      os.dup2(saved, 2)
      os.close(saved)
      out.seek(0)
      lines.extend(out.read().splitlines())


def printing(row):
  graph, ours, *_ = snippets('tf.Print')
  with linear_graph() as names:
    unused, loss = names['loss'], names['session'].run(names['loss'])
    graph(names)
    with stderr_of_the_process() as lines:
      names['session'].run(unused)
      names['session'].run(names['loss'])
  [line] = [line for line in lines if line.startswith('loss: ')]
  np.testing.assert_allclose(float(line[7:-1]), loss, rtol=1e-4)
  names = {'tf': tf}
  ours(names)
  with stderr_of_the_process() as lines:
    names['shown'](tf.constant(loss)), names['shown'](tf.constant(loss))
  numbers = [float(line[6:]) for line in lines if line.startswith('loss: ')]
  np.testing.assert_allclose(numbers, [loss] * 2, rtol=1e-4)
  printed = []  # The trap.
  function = tf.function(lambda x: printed.append(x) or x)
  function(tf.constant(1.0)), function(tf.constant(2.0))
  assert len(printed) == 1 and not hasattr(printed[0], 'numpy')


def one_process(row):
  """What an old program may ask of a shape, beside a Keras that still works."""
  def width():
    with tf.Graph().as_default():
      return tf1.placeholder(tf.float32, [None, 4]).get_shape()[1].value

  with raises(AttributeError, 'value'):
    width()
  tf1.disable_v2_tensorshape()
  try:
    assert width() == 4
    names, path = linear_model(), os.path.join(row.tmp, 'a.keras')
    names['model'].train_on_batch(IMAGES, LABELS)
    names['model'].save(path)
    np.testing.assert_array_equal(keras.models.load_model(path)(IMAGES), names['model'](IMAGES))
  finally:
    tf1.enable_v2_tensorshape()


def batch_larger_than_the_data_set(row):
  model = os.path.join(row.tmp, 'model.keras')
  keras_cifar10.main(['train', '--batch_size=600', '--max_steps=2', '--model=' + model,
                      '--data_dir=' + row.data_dir])
  assert int(keras_cifar10.load(model).optimizer.iterations) == 2


def wrong_arguments(row):
  text = os.path.join(row.tmp, 'text.keras')
  with open(text, 'w') as out:
    out.write('Not a model.')
  data = '--data_dir=' + row.data_dir
  for arguments, status, named in [
      (['evaluate', '--model=missing.keras', data], 1, 'missing.keras'),
      (['evaluate', '--model=' + text, data], 1, text),
      (['train', '--data_dir=/dev/null/data'], 1, '/dev/null'),
      (['train', '--model=' + text, data], 1, text),
      (['convert', 'nowhere', 'new.keras'], 1, 'nowhere'),
      (['convert', text, 'new'], 1, text),
      (['convert', TRAINED, text], 1, text),
      (['convert', 'one'], 2, 'two paths'),
      (['train', 'one'], 2, 'two paths'),
      (['train', '--batch_size=0'], 2, '--batch_size'),
      (['fly'], 2, 'fly')]:
    with contextlib.redirect_stderr(io.StringIO()) as err:
      try:
        result = keras_cifar10.main(arguments)
      except SystemExit as end:
        result = end.code
    lines = err.getvalue().splitlines()
    assert result == status, arguments
    assert named in lines[-1], lines
    assert len(lines) == 1 or status == 2  # argparse adds the usage.
  assert not os.path.exists('new') and not os.path.exists('new.keras')


def main(data_dir, names):
  outcomes = {}
  for name in names:
    flags.FLAGS(['migrating_rows'])
    flags.FLAGS.data_dir = data_dir
    started = time.process_time()
    try:
      globals()[name](Row(data_dir))
      outcomes[name] = None
    except Exception:
      outcomes[name] = traceback.format_exc()
    print('%s: %.2f s' % (name, time.process_time() - started), file=sys.stderr)
  print(json.dumps(outcomes))


if __name__ == '__main__':
  main(sys.argv[1], sys.argv[2:])
