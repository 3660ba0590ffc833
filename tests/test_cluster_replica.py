"""Replicas in one process, each with its server; tests/system/test_cluster.py has real faults."""

import contextlib
import importlib
import socket
import threading
import types

from absl.testing import flagsaver
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10
from cifar10_cluster import parameter_server
from cifar10_cluster import replica as replicas_module
from cifar10_cluster import tf_config
from cifar10_support import tf_setup
from cifar10_support.console import UserError
from cifar10_support.signals import StopSignals

cluster_main = importlib.import_module('cifar10_cluster.__main__')

FLAGS = tf.app.flags.FLAGS

NUMBER_OF_PARAMETERS = 1068298


def _free_addresses(count):
  with contextlib.ExitStack() as stack:
    probes = [stack.enter_context(socket.socket()) for _ in range(count)]
    for probe in probes:
      probe.bind(('127.0.0.1', 0))
    return ['127.0.0.1:%d' % probe.getsockname()[1] for probe in probes]


def _jobs(servers, chief='chief'):
  """Returns the addresses of a cluster of two replicas, the first of them of the job `chief`."""
  addresses = _free_addresses(servers + 2)
  jobs = {'ps': addresses[2:], chief: [addresses[0]]}
  jobs.setdefault('worker', []).append(addresses[1])
  return jobs


def _replica(jobs, number):
  job, index = tf_config.Cluster(jobs, 'ps', 0).replicas[number]
  return replicas_module.Replica(tf_config.Cluster(jobs, job, index), StopSignals())


def _start_job(chief='chief'):
  """Starts a parameter server in this process; returns the chief and the worker."""
  jobs = _jobs(1, chief)
  cluster = tf_config.Cluster(jobs, 'ps', 0)
  server = cluster.start_server(tf.ConfigProto())
  with tf.Graph().as_default():
    set_up = parameter_server.Board(cluster, 0).set_up
    with tf.Session(server.target, config=parameter_server.restricted(
        tf.ConfigProto(), '/job:ps')) as session:
      session.run(set_up)
  return [_replica(jobs, number) for number in range(2)]


@pytest.fixture
def replicas():
  return _start_job()


@pytest.fixture(autouse=True)
def timeout():
  FLAGS.peer_timeout_secs = 60


def _session(replica):
  """A plain session on the task of a replica and the parameter servers."""
  return tf.Session(replica.target, config=parameter_server.restricted(
      tf_setup.session_config(), '/job:ps', replica.device))


def _in_threads(*functions):
  """Runs functions at the same time; raises what one of them raises."""
  errors = []

  def run(function):
    try:
      function()
    except BaseException as error:
      errors.append(error)

  threads = [threading.Thread(target=run, args=[function]) for function in functions]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  if errors:
    raise errors[0]


class _Line:
  """A replica that trains something small, and whose turns the test takes one by one."""

  def __init__(self, replica, build=None):
    """Args:
      replica: a `replica.Replica`.
      build: a function that adds the network and returns its loss. By default it is one variable
        whose gradient the test feeds.
    """
    self.replica = replica
    self._graph = tf.Graph()
    with self._graph.as_default(), replica.placement():
      global_step = tf.train.get_or_create_global_step()
      self._gradient = tf.placeholder_with_default(0.0, [])
      loss = build() if build else self._gradient * tf.get_variable(
          'variable', [], initializer=tf.zeros_initializer())
      self._train_op = replica.train(loss, global_step)
      self.variables = {variable.op.name: variable for variable in tf.global_variables()}
      self._initialize = tf.global_variables_initializer()
    self._session = tf.Session(replica.target, graph=self._graph, config=(
        parameter_server.restricted(tf_setup.session_config(), '/job:ps', replica.device)))
    self._hook = replica.hook()
    self.has_stopped = False

  def request_stop(self):
    self.has_stopped = True

  def start(self, initialize=False):
    """As after the start of the process, or when the session is reopened."""
    if initialize:
      self._session.run(self._initialize)
    self._hook.after_create_session(self._session, self)

  def hand_in(self, gradient=0.0):
    feed = self._hook.before_run(None).feed_dict
    self._session.run(self._train_op, {self._gradient: gradient, **feed})

  def finish(self):
    """Waits for the others; returns the variable after the round."""
    self._hook.after_run(types.SimpleNamespace(session=self._session,
                                               request_stop=self.request_stop), None)
    return self.values().get('variable')

  def values(self):
    return self._session.run(self.variables)


def test_replicas_compute_what_one_device_does(replicas):
  # In float64, because rounding errors grow as training multiplies them.
  random = np.random.RandomState(0)
  images = random.normal(size=[8, 24, 24, 3])
  labels = random.randint(0, 10, 8).astype(np.int32)

  def build(part):
    with tf.variable_scope('', dtype=tf.float64, custom_getter=tf_setup.read_once()):
      return cifar10.loss(cifar10.inference(tf.constant(images[part])), tf.constant(labels[part]))

  FLAGS.batch_size = 4
  lines = [_Line(replica, lambda part=part: build(part))
           for replica, part in zip(replicas, [slice(0, 4), slice(4, 8)])]
  for i, line in enumerate(lines):
    line.start(initialize=i == 0)
  start = lines[0].values()
  for _ in range(2):
    for line in lines:
      line.hand_in()
    for line in lines:
      line.finish()

  FLAGS.batch_size = 8
  with tf.variable_scope('', dtype=tf.float64):
    loss = cifar10.loss(cifar10.inference(tf.constant(images)), tf.constant(labels))
    train_op = cifar10.train(loss, tf.train.get_or_create_global_step())
  with tf.Session() as session:
    variables = {variable.op.name: variable for variable in tf.global_variables()}
    for name, variable in variables.items():
      variable.load(start[name], session)
    for _ in range(2):
      session.run(train_op)
    expected = session.run(variables)

  actual = lines[1].values()
  assert actual.keys() == expected.keys()
  assert actual['global_step'] == 2
  for name, value in expected.items():
    np.testing.assert_allclose(actual[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
  weights = 'conv1/weights/ExponentialMovingAverage'
  assert np.max(abs(expected[weights] - start[weights])) > 1e-4


@pytest.fixture
def lines(replicas):
  chief, worker = map(_Line, replicas)
  chief.start(initialize=True)
  worker.start()
  return chief, worker


def test_update_takes_the_mean_of_the_gradients(lines):
  chief, worker = lines
  chief.hand_in(1.0)
  worker.hand_in(5.0)
  assert chief.finish() == pytest.approx(-0.1 * 3)
  assert worker.finish() == pytest.approx(-0.1 * 3)


def test_without_a_chief_worker_0_takes_its_place():
  chief, worker = map(_Line, _start_job('worker'))
  chief.start(initialize=True)
  worker.start()
  chief.hand_in(1.0)
  worker.hand_in(5.0)
  assert chief.finish() == pytest.approx(-0.1 * 3)


def test_nothing_counts_of_a_round_in_which_the_chief_was_killed(lines):
  chief, worker = lines
  worker.hand_in(500.0)
  chief.start()
  worker.finish()
  chief.hand_in(1.0)
  worker.hand_in(5.0)
  assert chief.finish() == pytest.approx(-0.1 * 3)


def test_gradient_of_an_earlier_round_is_dropped(lines):
  chief, worker = lines
  chief.start()
  worker.hand_in(500.0)  # It has not seen that the round has changed.
  worker.finish()
  chief.hand_in(1.0)
  worker.hand_in(5.0)
  assert chief.finish() == pytest.approx(-0.1 * 3)


def test_worker_that_was_killed_before_it_handed_in_joins_the_round(lines):
  chief, worker = lines
  chief.hand_in(1.0)
  again = _Line(worker.replica)
  again.start()
  again.hand_in(5.0)
  assert chief.finish() == pytest.approx(-0.1 * 3)


def test_worker_that_was_killed_after_it_handed_in_joins_the_next_round(lines):
  chief, worker = lines
  worker.hand_in(5.0)
  again = _Line(worker.replica)
  waiting = threading.Thread(target=again.start)
  waiting.start()
  waiting.join(0.1)
  assert waiting.is_alive()
  chief.hand_in(1.0)
  assert chief.finish() == pytest.approx(-0.1 * 3)
  waiting.join()
  chief.hand_in(1.0)
  again.hand_in(5.0)
  assert chief.finish() == pytest.approx(-0.1 * 6)


def test_worker_stops_when_the_chief_has_finished_even_before_it_trains(lines):
  _, worker = lines
  chief = worker.replica.cluster.chief
  parameter_server.report(tf_config.Cluster(worker.replica.cluster.jobs, *chief),
                          worker.replica.target, 0, parameter_server.FINISHED)
  again = _Line(worker.replica)
  worker.hand_in(5.0)
  again.start()
  assert again.has_stopped


def test_status_of_a_task_of_another_cluster_is_not_taken(replicas):
  cluster = replicas[1].cluster
  stranger = tf_config.Cluster({**cluster.jobs, 'chief': ['elsewhere:1']}, 'worker', 0)
  statuses = []
  for reporter in (stranger, cluster):
    parameter_server.report(reporter, replicas[1].target, 1, parameter_server.FAILED)
    with tf.Graph().as_default():
      board = parameter_server.Board(cluster, 0)
      with _session(replicas[1]) as session:
        statuses.append(session.run(board.statuses).tolist())
  running, failed = parameter_server.RUNNING, parameter_server.FAILED
  assert statuses == [[running, running], [running, failed]]


def test_task_of_another_cluster_does_not_train(replicas):
  jobs = {**replicas[1].cluster.jobs, 'worker': _free_addresses(1)}
  stranger = _replica(jobs, 1)
  with stranger.placement():
    loss = tf.get_variable('variable', []) * 1.0
    train_op = stranger.train(loss, tf.train.get_or_create_global_step())
    with pytest.raises(UserError, match='TF_CONFIG .*' + jobs['ps'][0]):
      with stranger.session(train_op, loss, []):
        pass


def test_learning_rate_falls_after_the_same_number_of_images(replicas):
  # 350 epochs of 50000 images, at 2 * 64 a step.
  FLAGS.batch_size = 64
  with replicas[0].placement():
    global_step = tf.train.get_or_create_global_step()
    replicas[0].train(tf.get_variable('variable', []) * 1.0, global_step)
  with _session(replicas[0]) as session:
    for step, rate in [(136717, 0.1), (136718, 0.01)]:
      global_step.load(step, session)
      summary = tf.Summary.FromString(session.run('learning_rate:0'))
      np.testing.assert_allclose(summary.value[0].simple_value, rate, rtol=1e-6)


@pytest.fixture
def offline(monkeypatch):
  """Replicas start no server."""
  monkeypatch.setattr(tf_config.Cluster, 'start_server',
                      lambda self, config: types.SimpleNamespace(target=''))


class _Clock:
  """Time that passes only in pauses."""

  def __init__(self, monkeypatch):
    self.now, self.pauses = 1000.0, []
    monkeypatch.setattr(replicas_module.time, 'monotonic', lambda: self.now)
    monkeypatch.setattr(replicas_module.time, 'sleep', self._sleep)

  def _sleep(self, seconds):
    self.now += seconds
    self.pauses.append(seconds)


@pytest.fixture
def waiting(offline, monkeypatch):
  """A replica and the clock that it waits by."""
  return _replica(_jobs(1), 0), _Clock(monkeypatch)


def test_what_is_polled_for_is_noticed_soon(waiting):
  replica, clock = waiting
  assert replica.poll_until(lambda: clock.now >= 1010.0, None)
  assert clock.now <= 1010.6
  assert max(clock.pauses) <= 1.0


def test_polling_ends_after_the_time_that_the_flag_gives(waiting):
  replica, clock = waiting
  FLAGS.peer_timeout_secs = 30
  with pytest.raises(UserError, match=replica.cluster.jobs['worker'][0]):
    replica.poll_until(lambda: False, lambda: [('worker', 0)])
  assert 1030.0 < clock.now <= 1032.0


def test_polling_ends_when_a_signal_comes(waiting):
  replica, clock = waiting

  def done():
    replica.signals.received = 15
    return False

  assert not replica.poll_until(done, None)
  assert clock.now < 1001.0


@pytest.fixture(scope='module')
def graphs(small_data_set):
  """The graphs of the two replicas of a cluster with two parameter servers."""
  @contextlib.contextmanager
  def no_session(*args, **kwargs):
    built.append(tf.get_default_graph())
    yield types.SimpleNamespace(should_stop=lambda: True)

  built = []
  with pytest.MonkeyPatch.context() as patch, flagsaver.flagsaver(batch_size=4):
    patch.setattr(tf_config.Cluster, 'start_server',
                  lambda self, config: types.SimpleNamespace(target=''))
    patch.setattr(replicas_module.Replica, 'session', no_session)
    jobs = _jobs(servers=2)
    for number in range(2):
      cluster_main.train(_replica(jobs, number), small_data_set)
  return built


def _task(op):
  """Returns where an op runs: beside the variable that it handles, or where it was placed."""
  handles = [tensor for tensor in op.inputs if tensor.dtype == tf.resource]
  return _task(handles[0].op) if handles else op.device.split('/device:')[0]


def _needed(op):
  """Returns an op and all that must run for it."""
  needed, todo = set(), [op]
  while todo:
    op = todo.pop()
    if op not in needed:
      needed.add(op)
      todo += [tensor.op for tensor in op.inputs] + op.control_inputs
  return needed


@pytest.mark.parametrize('number, task', [(0, '/job:chief/task:0'), (1, '/job:worker/task:0')])
def test_variables_are_on_the_servers_and_the_network_on_the_replica(number, task, graphs):
  ops = graphs[number].get_operations()
  servers = {'/job:ps/task:0', '/job:ps/task:1'}
  for kind in ('VarHandleOp', 'ResourceApplyGradientDescent', 'AssignSubVariableOp'):
    # The last are the updates of the averages. The smoothed losses are the replica's own.
    assert {_task(op) for op in ops if op.type == kind and op.name != 'losses/averages'} == servers
  assert {_task(op) for op in ops if op.type.startswith('Conv2D')} == {task}
  assert {op.device for op in ops if op.name.startswith('input/')} == {task + '/device:CPU:0'}


def test_each_parameter_goes_down_and_its_gradient_up_once_a_step(graphs):
  sent = {'ps': set(), 'worker': set()}
  for op in _needed(graphs[1].get_operation_by_name('train')):
    for tensor in op.inputs:
      if tensor.dtype != tf.resource and _task(tensor.op) != _task(op):
        sent['ps' if _task(tensor.op).startswith('/job:ps') else 'worker'].add(tensor)
  for tensors in sent.values():
    sizes = [tensor.shape.num_elements() for tensor in tensors if tensor.dtype == tf.float32]
    assert sum(sizes) == NUMBER_OF_PARAMETERS
    # Beside them only numbers: those of the round.
    assert all(tensor.shape.num_elements() == 1 for tensor in tensors
               if tensor.dtype != tf.float32)


def test_two_servers_share_the_parameters_as_evenly_as_whole_variables_allow(graphs):
  sizes = {}
  for op in graphs[0].get_operations():
    if op.type == 'VarHandleOp' and op.name.endswith(('weights', 'biases')):
      elements = tf.TensorShape(op.get_attr('shape')).num_elements()
      sizes[op.device] = sizes.get(op.device, 0) + elements
  # local3/weights, 884,736 of them, are one variable.
  assert sorted(sizes.values()) == [178698, 889600]


def test_each_replica_shuffles_for_itself(graphs):
  [shuffle] = [op for op in graphs[0].get_operations() if op.type == 'RandomShuffleQueueV2']
  # Which TensorFlow takes to mean a seed drawn at random.
  assert (shuffle.get_attr('seed'), shuffle.get_attr('seed2')) == (0, 0)


def test_checkpoint_of_the_cluster_is_that_of_one_device(replicas, small_data_set, tmp_path,
                                                         from_flags):
  FLAGS.batch_size, FLAGS.min_queue_examples, FLAGS.save_summaries_steps = 4, 20, 0
  FLAGS.train_dir, FLAGS.max_steps = str(tmp_path), 2

  def train(replica):
    with replica.running():
      cluster_main.train(replica, small_data_set)

  with from_flags():
    _in_threads(*[lambda replica=replica: train(replica) for replica in replicas])
  shapes = tf.train.load_checkpoint(
      str(tmp_path / 'model.ckpt-2')).get_variable_to_shape_map()

  loss = cifar10.loss(cifar10.inference(tf.zeros([4, 24, 24, 3])), tf.zeros([4]))
  cifar10.train(loss, tf.train.get_or_create_global_step())
  assert shapes == {variable.op.name: variable.shape.as_list()
                    for variable in tf.global_variables()}
