import contextlib
import types

from absl.testing import flagsaver
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_multi_gpu_train
from cifar10_support import synthetic
from cifar10_support import tf_setup
from cifar10_support import training

FLAGS = tf.app.flags.FLAGS


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


@pytest.fixture(scope='module')
def trained():
  """For each number of towers the losses, all variables and the tags of the summaries.

  The losses are those of two steps, the variables are taken after both. In float64: in float32 the
  order of a sum may decide whether a value is just above zero, or which of a pool is the largest.
  """
  random = np.random.RandomState(0)
  images = random.normal(size=[4, 24, 24, 3])
  labels = random.randint(0, 10, 4).astype(np.int32)
  results, start = {}, None
  for towers in (0, 2):
    with flagsaver.flagsaver(), tf.Graph().as_default(), tf.Session(
        config=tf_setup.session_config(num_cpus=max(1, towers))) as session:
      with tf.variable_scope('', dtype=tf.float64):
        loss, train_op = _build(towers, images, labels)
      merged = tf.summary.merge_all()
      variables = {v.op.name: v for v in tf.global_variables()}
      session.run(tf.global_variables_initializer())
      start = start or session.run(variables)
      for name, variable in variables.items():
        variable.load(start[name], session)
      session.run(tf.get_collection(tf_setup.STAGING))
      before, summary, _ = session.run([loss, merged, train_op])
      after, _, _ = session.run([loss, merged, train_op])
      tags = sorted(value.tag for value in tf.Summary.FromString(summary).value)
      results[towers] = before, after, session.run(variables), tags
  results['start'] = start
  return results


def test_towers_compute_what_one_device_does(trained):
  expected_before, expected_after, expected, _ = trained[0]
  before, after, actual, _ = trained[2]
  np.testing.assert_allclose([before, after], [expected_before, expected_after], rtol=1e-9)
  assert after < before
  assert actual.keys() == expected.keys()
  assert actual['global_step'] == 2
  for name, value in expected.items():
    np.testing.assert_allclose(actual[name], value, rtol=1e-9, atol=1e-9, err_msg=name)
  # And that is more than nothing.
  weights = 'conv1/weights/ExponentialMovingAverage'
  assert np.max(abs(expected[weights] - trained['start'][weights])) > 1e-5


def test_summaries_are_those_of_one_device_each_once(trained):
  assert trained[2][3] == trained[0][3]
  assert len(set(trained[2][3])) == len(trained[2][3])


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
def graph_of(small_data_set, monkeypatch):
  """Returns the whole graph of the script for a number of towers."""
  def build(towers):
    sessions = []

    @contextlib.contextmanager
    def no_session(*args, **kwargs):
      assert (*args[2:], kwargs) == (
        4 * towers, {'classes': list(synthetic.CLASSES), 'side': 32, 'image_shape': [24, 24, 3],
                     'split': None},
        {'num_cpus': towers})
      sessions.append(tf.get_default_graph())
      yield types.SimpleNamespace(should_stop=lambda: True)

    monkeypatch.setattr(training, 'training_session', no_session)
    FLAGS(['cifar10_multi_gpu_train.py', '--batch_size=4', '--num_gpus=%d' % towers])
    cifar10_multi_gpu_train.train(small_data_set)
    return sessions[0]

  return build


def test_variables_are_on_the_cpu_and_each_tower_on_its_gpu(graph_of, with_gpus):
  with_gpus(2)
  operations = graph_of(towers=3).get_operations()
  for op in operations:
    if op.type in ('VarHandleOp', 'ResourceApplyGradientDescent', 'AssignVariableOp',
                   'AssignSubVariableOp', 'AssignAddVariableOp', 'RandomShuffleQueueV2'):
      assert op.device == '/device:CPU:0', op.name
  for i, device in enumerate(['GPU:0', 'GPU:1', 'GPU:0']):
    convolutions = [op for op in operations
                    if op.name.startswith('tower_%d/' % i) and op.type.startswith('Conv2D')]
    assert len(convolutions) == 2 * 3  # Each with its two gradients.
    assert {op.device for op in convolutions} == {'/device:' + device}
  # A GPU that two of them share receives the variables once.
  assert len({op.inputs[1].name for op in operations if op.type == 'Conv2D'}) == 2
  # One input feeds all of them, each with a batch of its own.
  assert [op.type for op in operations].count('RandomShuffleQueueV2') == 1
  assert len({op.inputs[0].op.name for op in operations
              if op.type == 'Conv2D' and op.inputs[0].shape[-1] == 3}) == 3
  # The averages are of all towers, on the CPU.
  for op in operations:
    if op.type == 'ResourceApplyGradientDescent':
      total = op.inputs[2].op.inputs[0].op
      assert (total.type, len(total.inputs), total.device) == ('AddN', 3, '/device:CPU:0')


def test_each_tower_stages_batches_on_its_gpu(graph_of, with_gpus):
  with_gpus(2)
  operations = graph_of(towers=3).get_operations()
  assert [op.device for op in operations if op.type == 'Stage'] == [
      '/device:GPU:0', '/device:GPU:1', '/device:GPU:0']
  # All in one step, and each tower learns from its own.
  [train] = [op for op in operations if op.name == 'train']
  in_step = {op for group in train.control_inputs for op in [group, *group.control_inputs]}
  assert {op for op in operations if op.type == 'Stage'} <= in_step
  assert [op.inputs[0].op.type for op in operations
          if op.type == 'Conv2D' and op.inputs[0].shape[-1] == 3] == ['Unstage'] * 3


def test_towers_run_on_the_devices_they_are_placed_on():
  images, labels = np.zeros([4, 24, 24, 3], np.float32), np.zeros([4], np.int32)
  _, train_op = _build(2, images, labels)
  metadata = tf.RunMetadata()
  with tf.Session(config=tf_setup.session_config(num_cpus=2)) as session:
    session.run(tf.global_variables_initializer())
    session.run(tf.get_collection(tf_setup.STAGING))
    session.run(train_op, options=tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE),
                run_metadata=metadata)
  ran = {(device.device.split('/')[-1], node.node_name.split('/')[0])
         for device in metadata.step_stats.dev_stats for node in device.node_stats}
  kind = 'GPU' if tf.config.list_physical_devices('GPU') else 'CPU'
  assert ('device:%s:0' % kind, 'tower_0') in ran
  if kind == 'CPU':
    assert ('device:CPU:1', 'tower_1') in ran
    assert not {('device:CPU:1', 'tower_0'), ('device:CPU:1', 'moving_averages'),
                ('device:CPU:1', 'GradientDescent')} & ran


def test_run_of_one_device_is_resumed(small_data_dir, save, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  save(2, max_steps=2, classes=synthetic.CLASSES)
  FLAGS(['cifar10_multi_gpu_train.py', '--data_dir=' + small_data_dir, '--batch_size=4',
         '--num_gpus=2', '--min_queue_examples=50', '--max_steps=3', '--log_frequency=1',
         '--save_summaries_steps=0'])
  cifar10_multi_gpu_train.main()
  assert ': step 2, loss = ' in capsys.readouterr().out
  before, after = (tf.train.load_checkpoint('cifar10/train/model.ckpt-%d' % step)
                   for step in (2, 3))
  assert after.get_tensor('global_step') == 3
  # So the other script resumes it, too.
  assert after.get_variable_to_shape_map() == before.get_variable_to_shape_map()
  assert np.any(after.get_tensor('conv1/weights') != before.get_tensor('conv1/weights'))
