import contextlib
import types

from absl.testing import flagsaver
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_device
import cifar10_multi_gpu_train
import cifar10_session
import cifar10_train

FLAGS = cifar10_multi_gpu_train.FLAGS


@pytest.fixture
def two_gpus(monkeypatch):
  """Has graphs built as if there were two GPUs."""
  monkeypatch.setattr(tf.config, 'list_physical_devices', {'GPU': ['one', 'two']}.get)


def _build(towers, images, labels):
  """Adds the training of one device (0 towers) or of towers, which share the images equally."""
  global_step = tf.train.get_or_create_global_step()
  images, labels = tf.constant(images), tf.constant(labels)
  if not towers:
    loss = cifar10.loss(cifar10.inference(images), labels)
    return loss, cifar10.train(loss, global_step)
  FLAGS.batch_size = int(images.shape[0]) // towers
  with tf.device('/cpu:0'):
    return cifar10_multi_gpu_train.train_towers(
        list(zip(tf.split(images, towers), tf.split(labels, towers))), global_step)


def _train(numbers_of_towers, image_count, steps):
  """Losses and global variables at the start and after each step, by number of towers.

  In float64: in float32 the order of a sum may decide whether a value is just above zero, or which
  of a pool is the largest, and so make a difference of 1e-5 in some starts.
  """
  random = np.random.RandomState(0)
  images = random.normal(size=[image_count, 24, 24, 3])
  labels = random.randint(0, 10, image_count).astype(np.int32)
  results, start = {}, None
  for towers in numbers_of_towers:
    with flagsaver.flagsaver(), tf.Graph().as_default(), tf.Session(
        config=cifar10_device.session_config(towers=max(1, towers))) as session:
      with tf.variable_scope('', dtype=tf.float64):
        loss, train_op = _build(towers, images, labels)
      variables = {v.op.name: v for v in tf.global_variables()}
      session.run(tf.global_variables_initializer())
      start = start or session.run(variables)
      for name, variable in variables.items():
        variable.load(start[name], session)
      results[towers] = [session.run([loss, variables])]
      for _ in range(steps):
        session.run(train_op)
        results[towers].append(session.run([loss, variables]))
  return results


@pytest.fixture(scope='module')
def trained():
  return _train([0, 1, 2, 4], image_count=128, steps=5)


@pytest.mark.parametrize('towers', [1, 2, 4])
@pytest.mark.parametrize('step', [1, 5])
def test_towers_compute_what_one_device_does(towers, step, trained):
  _assert_same(towers, step, trained)


def test_towers_with_locally_connected_layers_compute_what_one_device_does():
  FLAGS.top_layers = 'local'
  _assert_same(2, 1, _train([0, 2], image_count=16, steps=1))


def _assert_same(towers, step, trained):
  expected_loss, expected = trained[0][step]
  loss, actual = trained[towers][step]
  np.testing.assert_allclose(loss, expected_loss, rtol=1e-9)
  assert actual.keys() == expected.keys()
  assert actual['global_step'] == step
  for name, value in expected.items():
    np.testing.assert_allclose(actual[name], value, rtol=1e-9, atol=1e-9, err_msg=name)
  # And that is more than nothing.
  weights = 'conv1/weights/ExponentialMovingAverage'
  assert np.max(abs(expected[weights] - trained[0][0][1][weights])) > 1e-5


def test_gradients_are_averaged_for_each_variable():
  a, b = tf.get_variable('a', [2]), tf.get_variable('b', [])
  towers = [[(tf.constant([1.0, 2.0]), a), (tf.constant(3.0), b)],
            [(tf.constant([5.0, -2.0]), a), (tf.constant(4.0), b)],
            [(tf.constant([0.0, 3.0]), a), (tf.constant(8.0), b)]]
  averages = cifar10_multi_gpu_train.average_gradients(towers)
  assert [variable for _, variable in averages] == [a, b]
  with tf.Session() as session:
    values = session.run([gradient for gradient, _ in averages])
  np.testing.assert_allclose(values[0], [2.0, 1.0])
  np.testing.assert_allclose(values[1], 5.0)


@pytest.fixture
def graph_of(small_data_dir, monkeypatch):
  """Returns the whole graph of the script for a number of towers, and what its session is given."""
  def build(towers):
    sessions = []

    @contextlib.contextmanager
    def no_session(*args):
      sessions.append(args)
      yield types.SimpleNamespace(should_stop=lambda: True)

    monkeypatch.setattr(cifar10_session, 'training_session', no_session)
    FLAGS(['cifar10_multi_gpu_train.py', '--data_dir=' + small_data_dir, '--batch_size=4',
           '--num_gpus=%d' % towers])
    cifar10_multi_gpu_train.train()
    [(loss, examples_per_step, devices)] = sessions
    return loss.graph, examples_per_step, devices

  return build


@pytest.mark.parametrize('towers, devices', [
    (1, ['GPU:0']), (2, ['GPU:0', 'GPU:1']), (3, ['GPU:0', 'GPU:1', 'GPU:0'])])
def test_variables_are_on_the_cpu_and_each_tower_on_its_gpu(towers, devices, graph_of, two_gpus):
  graph, examples_per_step, _ = graph_of(towers)
  assert examples_per_step == 4 * towers
  operations = graph.get_operations()
  for op in operations:
    if op.type in ('VarHandleOp', 'ResourceApplyGradientDescent', 'AssignVariableOp',
                   'AssignSubVariableOp', 'AssignAddVariableOp', 'RandomShuffleQueueV2'):
      assert op.device == '/device:CPU:0', op.name
  for i, device in enumerate(devices):
    convolutions = [op for op in operations
                    if op.name.startswith('tower_%d/' % i) and op.type.startswith('Conv2D')]
    assert len(convolutions) == 2 * 3  # Each with its two gradients.
    assert {op.device for op in convolutions} == {'/device:' + device}
  assert 'tower_%d' % towers not in {op.name.split('/')[0] for op in operations}


def test_gradients_are_averaged_on_the_cpu(graph_of, two_gpus):
  updates = [op for op in graph_of(2)[0].get_operations()
             if op.type == 'ResourceApplyGradientDescent']
  assert len(updates) == 10
  for update in updates:
    average = update.inputs[2].op
    total = average.inputs[0].op
    assert [average.type, total.type] == ['RealDiv', 'AddN']
    assert len(total.inputs) == 2
    assert average.device == total.device == '/device:CPU:0', update.name


@pytest.mark.parametrize('towers', [1, 2, 5])
def test_one_shuffle_queue_feeds_all_towers(towers, graph_of):
  graph, _, devices = graph_of(towers)
  assert devices == towers
  assert [op.type for op in graph.get_operations()].count('RandomShuffleQueueV2') == 1
  # Each takes a batch of its own.
  assert len({op.inputs[0].op.name for op in graph.get_operations()
              if op.type == 'Conv2D' and op.name.endswith('conv1/Conv2D')}) == towers


def test_towers_run_on_the_devices_they_are_placed_on():
  images, labels = np.zeros([4, 24, 24, 3], np.float32), np.zeros([4], np.int32)
  _, train_op = _build(2, images, labels)
  metadata = tf.RunMetadata()
  with tf.Session(config=cifar10_device.session_config(towers=2)) as session:
    session.run(tf.global_variables_initializer())
    session.run(train_op, options=tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE),
                run_metadata=metadata)
  ran = {(device.device.split('/')[-1], node.node_name.split('/')[0])
         for device in metadata.step_stats.dev_stats for node in device.node_stats}
  assert {('device:CPU:0', 'tower_0'), ('device:CPU:1', 'tower_1')} <= ran
  assert not {('device:CPU:1', 'tower_0'), ('device:CPU:1', 'moving_averages'),
              ('device:CPU:1', 'GradientDescent')} & ran


def _summaries(towers):
  """The tags of all summaries."""
  images, labels = np.ones([4, 24, 24, 3], np.float32), np.zeros([4], np.int32)
  with tf.Graph().as_default(), tf.Session(
      config=cifar10_device.session_config(towers=max(1, towers))) as session:
    _, train_op = _build(towers, images, labels)
    session.run(tf.global_variables_initializer())
    merged, _ = session.run([tf.summary.merge_all(), train_op])
  return sorted(value.tag for value in tf.Summary.FromString(merged).value)


@pytest.mark.parametrize('towers', [1, 2])
def test_summaries_have_the_names_of_one_device(towers):
  assert _summaries(towers) == _summaries(0)


@pytest.mark.parametrize('step, rate', [(136717, 0.1), (136718, 0.01)])
def test_learning_rate_falls_after_the_same_number_of_images(step, rate):
  # 2 * 64 images a step, as one device with 128.
  images, labels = np.zeros([128, 24, 24, 3], np.float32), np.zeros([128], np.int32)
  _build(2, images, labels)
  assert FLAGS.batch_size == 64
  with tf.Session(config=cifar10_device.session_config(towers=2)) as session:
    tf.train.get_global_step().load(step, session)
    summary = tf.Summary.FromString(session.run('learning_rate:0'))
  np.testing.assert_allclose(summary.value[0].simple_value, rate, rtol=1e-6)


def test_each_script_goes_on_where_the_other_stopped(small_data_dir, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  for script, max_steps in ((cifar10_multi_gpu_train, 2), (cifar10_train, 3),
                            (cifar10_multi_gpu_train, 4)):
    FLAGS(['script', '--data_dir=' + small_data_dir, '--batch_size=4', '--num_gpus=2',
           '--max_steps=%d' % max_steps])
    script.main()
  out = capsys.readouterr().out
  assert 'Resuming cifar10/train from step 2.' in out
  assert 'Resuming cifar10/train from step 3.' in out
  assert tf.train.latest_checkpoint('cifar10/train').endswith('model.ckpt-4')
