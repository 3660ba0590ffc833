import contextlib
import os
import re
import types

import pytest
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_eval
import cifar10_input
import cifar10_multi_gpu_train
from cifar10_support import synthetic
from cifar10_support import tf_setup
from cifar10_support import training
from cifar10_support.console import UserError
import cifar10_train
from conftest import TRAINED

FLAGS = tf.app.flags.FLAGS

MODEL_VARIABLES = {'%s/%s' % (layer, kind) for kind in ('weights', 'biases')
                   for layer in ('conv1', 'conv2', 'local3', 'local4', 'softmax_linear')}


@pytest.fixture(autouse=True)
def flags(tmp_path, monkeypatch, small_data_dir):
  monkeypatch.chdir(tmp_path)
  FLAGS(['cifar10_train.py', '--data_dir=' + small_data_dir, '--batch_size=4', '--max_steps=2',
         '--min_queue_examples=50', '--log_frequency=1'])


def test_training_updates_the_weights_logs_and_saves(tmp_path, capsys):
  cifar10_train.main()
  start, end = (tf.train.load_checkpoint(str(tmp_path / 'cifar10/train/model.ckpt-%d') % step)
                for step in (0, 2))
  assert end.get_tensor('global_step') == 2
  for key in ('conv1/weights', 'softmax_linear/biases', 'conv2/weights/ExponentialMovingAverage'):
    assert (start.get_tensor(key) != end.get_tensor(key)).any()
  time = r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}'
  shape = time + r': step %d, loss = \d\.\d\d \(\d+\.\d examples/sec; \d+\.\d{3} sec/batch\)'
  lines = capsys.readouterr().out.splitlines()
  for step in (0, 1):
    assert [line for line in lines if re.fullmatch(shape % step, line)], lines


@pytest.fixture
def graph_on(monkeypatch, small_data_set, with_gpus):
  """Returns the script's graph as it is on a machine with that many GPUs."""
  def build(gpus):
    graphs = []

    @contextlib.contextmanager
    def no_session(*args, **kwargs):
      assert args[2:] == (4, {'classes': list(synthetic.CLASSES), 'side': 32,
                              'image_shape': [24, 24, 3], 'split': None})
      graphs.append(tf.get_default_graph())
      yield types.SimpleNamespace(should_stop=lambda: True)

    monkeypatch.setattr(training, 'training_session', no_session)
    with_gpus(gpus)
    cifar10_train.train(small_data_set)
    return graphs[0]

  return build


@pytest.mark.parametrize('mixed_precision', [False, True])
@pytest.mark.parametrize('gpus', [0, 1])
def test_boxes_of_tensorboards_picture_are_the_tutorials(
    gpus, mixed_precision, graph_on, monkeypatch):
  monkeypatch.setattr(tf_setup, 'bfloat16_or_float32', lambda: tf.bfloat16)
  monkeypatch.setattr(cifar10, 'MIXED_PRECISION', mixed_precision)
  operations = graph_on(gpus).get_operations()
  # `session` is what `training_session` adds.
  assert {op.name.split('/')[0] for op in operations} | {'session'} == {
      'input', 'conv1', 'pool1', 'norm1', 'conv2', 'norm2', 'pool2', 'local3', 'local4',
      'softmax_linear', 'cross_entropy_per_example', 'cross_entropy', 'total_loss', 'schedule',
      'learning_rate', 'gradients', 'GradientDescent', 'moving_averages', 'losses', 'global_step',
      'train', 'session'} | ({'staging'} if gpus else set())


def _devices(graph, is_meant):
  devices = {op.device for op in graph.get_operations() if is_meant(op)}
  assert devices
  return devices


def test_without_a_gpu_only_input_and_variables_ask_for_a_device(graph_on):
  graph = graph_on(gpus=0)
  assert _devices(graph, lambda op: op.name.startswith('input/')) == {'/device:CPU:0'}
  assert _devices(graph, lambda op: op.name in MODEL_VARIABLES) == {'/device:CPU:0'}
  assert _devices(graph, lambda op: op.type.startswith('Conv2D')) == {''}
  assert _devices(graph, lambda op: True) == {'', '/device:CPU:0'}


def test_with_a_gpu_all_but_the_input_is_on_it(graph_on):
  graph = graph_on(gpus=2)  # Of which it takes one.
  assert _devices(graph, lambda op: op.name.startswith('input/')) == {'/device:CPU:0'}
  averages = {name + '/ExponentialMovingAverage' for name in MODEL_VARIABLES}
  for names in (MODEL_VARIABLES, averages):
    assert names <= {op.name for op in graph.get_operations()}
    assert _devices(graph, lambda op: op.name in names) == {'/device:GPU:0'}
  for kind in ('Conv2D', 'Conv2DBackpropFilter', 'MatMul', 'ResourceApplyGradientDescent',
               'AssignSubVariableOp', 'SparseSoftmaxCrossEntropyWithLogits'):
    assert _devices(graph, lambda op: op.type == kind) == {'/device:GPU:0'}, kind
  assert _devices(graph, lambda op: not op.name.startswith('input/')) == {'', '/device:GPU:0'}


def test_with_a_gpu_the_next_batch_is_copied_in_each_step(graph_on):
  graph = graph_on(gpus=1)
  [put] = [op for op in graph.get_operations() if op.type == 'Stage']
  [staged] = [op for op in graph.get_operations() if op.type == 'Unstage']
  assert put.device == staged.device == '/device:GPU:0'
  assert {tensor.op.device for tensor in put.inputs} == {'/device:CPU:0'}
  [first] = [op for op in graph.get_operations()
             if op.type == 'Conv2D' and op.inputs[0].shape[-1] == 3]
  assert first.inputs[0] is staged.outputs[0]
  # TensorFlow groups by device: the step waits for a group that waits for it.
  groups = graph.get_operation_by_name('train').control_inputs
  assert put in [op for group in groups for op in [group, *group.control_inputs]]


def test_training_as_on_a_gpu_gives_the_same_kind_of_run(
    with_gpus, tmp_path, monkeypatch, capsys):
  with_gpus(1)
  monkeypatch.setattr(cifar10, 'MIN_QUEUE_EXAMPLES', 50)
  cifar10_train.train()  # As most callers write it.
  assert ': step 1, loss = ' in capsys.readouterr().out
  end = tf.train.load_checkpoint(str(tmp_path / 'cifar10/train/model.ckpt-2'))
  assert end.get_tensor('global_step') == 2
  assert len(end.get_variable_to_shape_map()) == 21


def test_network_that_wants_more_than_the_pictures_have_is_a_one_line_error(monkeypatch):
  monkeypatch.setattr(cifar10_input, 'IMAGE_SIZE', 33)
  FLAGS.checkpoint_dir = TRAINED
  for script in (cifar10_train, cifar10_multi_gpu_train, cifar10_eval):
    with pytest.raises(UserError, match='IMAGE_SIZE.* 33.* 32x32'):
      script.main()
  assert not os.path.exists('cifar10')
