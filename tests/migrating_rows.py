"""The rows of docs/migrating.md, each as a function that runs both sides and compares them.

  python tests/migrating_rows.py DATA_DIR NAME...

runs some of them and prints a line of JSON: for each name what went wrong, or null. It is a process
of its own because Keras needs TensorFlow 2's mode, which conftest.py turns off. The graph does not:
in that mode too it can be built in a `tf.Graph`.
"""

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, 'tests')]
os.environ['CUDA_VISIBLE_DEVICES'] = '-1'  # The two sides agree to more digits than a GPU has.

from exercises import keras_cifar10  # noqa: E402, which imports TensorFlow quietly
import cifar10  # noqa: E402
from cifar10_cluster import tf_config  # noqa: E402
import cifar10_eval  # noqa: E402
import cifar10_input  # noqa: E402
import cifar10_multi_gpu_train  # noqa: E402
from cifar10_support import console  # noqa: E402
from cifar10_support import dataset  # noqa: E402
import cifar10_train  # noqa: E402, F401: its flags
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
  missing = [os.path.join(row.tmp, 'missing.bin')]
  with tf.Graph().as_default(), tf1.Session() as session:
    images, _ = cifar10_input.evaluation_batches(row.data_set.test_files, 8)
    try:  # Nobody has started them.
      session.run(images, options=tf1.RunOptions(timeout_in_ms=200))
      raise AssertionError('It had a batch.')
    except tf.errors.DeadlineExceededError:
      pass
  with tf.Graph().as_default(), tf1.Session() as session:
    images, _ = cifar10_input.evaluation_batches(missing, 8)
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
    next(iter(keras_cifar10.inputs(missing, 8)))
    raise AssertionError('It had a batch.')
  except tf.errors.NotFoundError as error:
    assert 'missing.bin' in str(error)


def one_pass(row):
  with tf.Graph().as_default():
    images, labels = cifar10_input.evaluation_batches(row.data_set.test_files, 32, one_pass=True)
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
    flags.FLAGS.use_moving_averages = kind
    with tf.Graph().as_default(), tf1.Session() as session:
      logits = cifar10.inference(tf.constant(images))
      cifar10_eval.restore.Restorer().restore(
          session, cifar10_eval.checkpoints.latest_whole(TRAINED))
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
