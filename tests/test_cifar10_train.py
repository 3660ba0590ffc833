import contextlib
import types

import pytest
import tensorflow.compat.v1 as tf

import cifar10_session
import cifar10_train

FLAGS = cifar10_train.FLAGS


@pytest.fixture(autouse=True)
def flags(tmp_path, monkeypatch, small_data_dir):
  monkeypatch.chdir(tmp_path)
  FLAGS(['cifar10_train.py', '--data_dir=' + small_data_dir, '--batch_size=4', '--max_steps=2'])


def test_training_updates_the_weights_and_saves_them(tmp_path):
  cifar10_train.main()
  start, end = (tf.train.load_checkpoint(str(tmp_path / 'cifar10/train/model.ckpt-%d') % step)
                for step in (0, 2))
  assert end.get_tensor('global_step') == 2
  for key in ('conv1/weights', 'softmax_linear/biases', 'conv2/weights/ExponentialMovingAverage'):
    assert (start.get_tensor(key) != end.get_tensor(key)).any()


def test_input_is_on_the_cpu_and_the_network_where_tensorflow_puts_it(monkeypatch):
  graphs = []

  @contextlib.contextmanager
  def no_session(loss, examples_per_step, replica):
    graphs.append(loss.graph)
    assert (examples_per_step, replica) == (4, None)
    yield types.SimpleNamespace(should_stop=lambda: True)

  monkeypatch.setattr(cifar10_session, 'training_session', no_session)
  cifar10_train.train()
  [graph] = graphs
  devices = {op.name.split('/')[0]: set() for op in graph.get_operations()}
  for op in graph.get_operations():
    devices[op.name.split('/')[0]].add(op.device)
  assert devices['input'] == {'/device:CPU:0'}
  assert graph.get_operation_by_name('conv1/Conv2D').device == ''
