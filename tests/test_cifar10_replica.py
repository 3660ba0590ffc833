"""Replicas in one process, each with its server; real faults are in test_cluster.py."""

import contextlib
import os
import queue
import signal
import threading
import types

from absl.testing import flagsaver
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_cluster
import cifar10_device
import cifar10_multi_gpu_train
import cifar10_replica
import cifar10_session
import cifar10_train
import cluster_job

FLAGS = cifar10_train.FLAGS


def _clusters(servers, chief='chief'):
  """Returns the `Cluster` of each task of a job: a list of the servers', and the two replicas'."""
  addresses = cluster_job.free_addresses(servers + 2)
  jobs = {'ps': addresses[2:]}
  for job, address in zip([chief, 'worker'], addresses):
    jobs.setdefault(job, []).append(address)
  return ([cifar10_cluster.Cluster(jobs, 'ps', i) for i in range(servers)],
          [cifar10_cluster.Cluster(jobs, chief, 0),
           cifar10_cluster.Cluster(jobs, 'worker', len(jobs['worker']) - 1)])


def _start_job(chief='chief'):
  """Starts a job with one parameter server in this process; returns the chief and the worker."""
  [ps], both = _clusters(1, chief)
  server = ps.start_server(tf.ConfigProto())
  with tf.Graph().as_default():
    set_up = cifar10_cluster.Board(ps, 0).set_up
    with tf.Session(server.target, config=cifar10_cluster.restricted(
        tf.ConfigProto(), '/job:ps')) as session:
      session.run(set_up)
  return [cifar10_replica.Replica(cluster) for cluster in both]


@pytest.fixture
def replicas():
  return _start_job()


@pytest.fixture(autouse=True)
def timeout():
  FLAGS.peer_timeout_secs = 60


def _session(replica):
  """A plain session with the job's variables."""
  return tf.Session(replica.target, config=cifar10_cluster.restricted(
      cifar10_device.session_config(), '/job:ps', replica.device))


def _in_threads(*functions):
  """Runs functions at the same time; returns what they return."""
  results, errors = [None] * len(functions), []

  def run(i):
    try:
      results[i] = functions[i]()
    except BaseException as error:
      errors.append(error)

  threads = [threading.Thread(target=run, args=[i]) for i in range(len(functions))]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  if errors:
    raise errors[0]
  return results


def _train_replica(replica, images, labels, steps):
  """Trains on fixed images; returns the variables' values at the start and after each step."""
  with tf.Graph().as_default(), replica.placement(), tf.variable_scope('', dtype=tf.float64):
    global_step = tf.train.get_or_create_global_step()
    loss = cifar10.loss(cifar10.inference(tf.constant(images)), tf.constant(labels))
    train_op = replica.train(loss, global_step)
    variables = {v.op.name: v for v in tf.global_variables()}
    creator = replica.session_creator(cifar10_device.session_config(), lambda: None)
    with _session(replica) as reader, tf.train.MonitoredSession(
        creator, [replica.hook(lambda: False)]) as session:
      # Nothing is updated until this replica takes part.
      values = [reader.run(variables)]
      for _ in range(steps):
        session.run(train_op)
        values.append(reader.run(variables))
  return values


@pytest.fixture(scope='module', params=['chief', 'worker'])
def trained(request):
  """Global variables at the start and after each of five steps, of one device and of two replicas.

  Of these the first is a task of type chief or worker. In float64, see the towers' test.
  """
  random = np.random.RandomState(0)
  images = random.normal(size=[128, 24, 24, 3])
  labels = random.randint(0, 10, 128).astype(np.int32)
  with flagsaver.flagsaver(batch_size=64, peer_timeout_secs=60):
    of_replicas, _ = _in_threads(*[
        lambda replica=replica, half=half: _train_replica(replica, images[half], labels[half], 5)
        for replica, half in zip(_start_job(request.param), [slice(0, 64), slice(64, 128)])])
  of_one = [of_replicas[0]]
  with tf.Graph().as_default(), tf.Session() as session, tf.variable_scope('', dtype=tf.float64):
    loss = cifar10.loss(cifar10.inference(tf.constant(images)), tf.constant(labels))
    train_op = cifar10.train(loss, tf.train.get_or_create_global_step())
    variables = {v.op.name: v for v in tf.global_variables()}
    for name, variable in variables.items():
      variable.load(of_replicas[0][name], session)
    for _ in range(5):
      session.run(train_op)
      of_one.append(session.run(variables))
  return of_one, of_replicas


@pytest.mark.parametrize('step', [1, 5])
def test_replicas_compute_what_one_device_does(step, trained):
  expected, actual = trained[0][step], trained[1][step]
  assert actual.keys() == expected.keys()
  assert actual['global_step'] == step
  for name, value in expected.items():
    np.testing.assert_allclose(actual[name], value, rtol=1e-9, atol=1e-9, err_msg=name)
  # And that is more than nothing.
  weights = 'conv1/weights/ExponentialMovingAverage'
  assert np.max(abs(expected[weights] - trained[0][0][weights])) > 1e-4


class _Line:
  """A replica that trains a number, whose gradient is told."""

  def __init__(self, replica, is_stopped=lambda: False):
    with tf.Graph().as_default(), replica.placement():
      global_step = tf.train.get_or_create_global_step()
      number = tf.get_variable('number', [], initializer=tf.zeros_initializer())
      self._gradient = tf.placeholder(tf.float32, [])
      self._train_op = replica.train(number * self._gradient, global_step)
      self.number = number
      self._initialize = tf.global_variables_initializer()
      self._session = _session(replica)
    self._hook = replica.hook(is_stopped)
    self.has_stopped = False

  def request_stop(self):
    self.has_stopped = True

  def start(self, initialize=False):
    """As after the start of the process, or when a session is opened anew."""
    if initialize:
      self._session.run(self._initialize)
    self._hook.after_create_session(self._session, self)

  def hand_in(self, gradient):
    feed = self._hook.before_run(None).feed_dict
    self._session.run(self._train_op, {self._gradient: gradient, **feed})

  def finish(self):
    """Waits for the others, and returns the number after the round."""
    self._hook.after_run(types.SimpleNamespace(session=self._session,
                                               request_stop=self.request_stop), None)
    return self._session.run(self.number)


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


def test_nothing_is_left_of_a_round_that_the_chief_was_killed_in(lines):
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


def test_worker_that_was_killed_before_it_handed_in_takes_part_in_the_round(lines, replicas):
  chief, _ = lines
  chief.hand_in(1.0)
  again = _Line(replicas[1])
  again.start()
  again.hand_in(5.0)
  assert chief.finish() == pytest.approx(-0.1 * 3)


def test_worker_that_was_killed_after_it_handed_in_waits_for_the_next_round(lines, replicas):
  chief, worker = lines
  worker.hand_in(5.0)
  looks = iter([False, False, False, True])
  again = _Line(replicas[1], is_stopped=lambda: next(looks))
  again.start()
  assert again.has_stopped  # It was waiting.
  chief.hand_in(1.0)
  assert chief.finish() == pytest.approx(-0.1 * 3)
  again = _Line(replicas[1])
  again.start()
  chief.hand_in(1.0)
  again.hand_in(5.0)
  assert chief.finish() == pytest.approx(-0.1 * 6)


@pytest.mark.parametrize('step, rate', [(136717, 0.1), (136718, 0.01)])
def test_learning_rate_falls_after_the_same_number_of_images(step, rate, replicas):
  # 2 * 64 images a step, as one device with 128.
  FLAGS.batch_size = 64
  with replicas[0].placement():
    global_step = tf.train.get_or_create_global_step()
    replicas[0].train(tf.get_variable('number', []), global_step)
  with _session(replicas[0]) as session:
    global_step.load(step, session)
    summary = tf.Summary.FromString(session.run('learning_rate:0'))
  np.testing.assert_allclose(summary.value[0].simple_value, rate, rtol=1e-6)


def test_note_of_a_task_of_another_cluster_is_not_taken(replicas):
  cluster = replicas[1].cluster
  stranger = cifar10_cluster.Cluster({**cluster.jobs, 'chief': ['elsewhere:1']}, 'worker', 0)
  notices = []
  for teller in (stranger, cluster):
    cifar10_cluster.tell(teller, replicas[1].target, 1, cifar10_cluster.GAVE_UP)
    with tf.Graph().as_default():
      board = cifar10_cluster.Board(cluster, 0)
      with _session(replicas[1]) as session:
        notices.append(session.run(board.notices).tolist())
  assert notices == [[cifar10_cluster.AT_WORK, cifar10_cluster.AT_WORK],
                     [cifar10_cluster.AT_WORK, cifar10_cluster.GAVE_UP]]


class _WatchedProcess:
  """What `_Watchdog` sees of the world, and the status with which it ends the process."""

  def __init__(self, monkeypatch):
    self.answering = set()
    self._status = queue.Queue()
    monkeypatch.setattr(cifar10_cluster.Cluster, 'is_reachable',
                        lambda _, task: task in self.answering)
    monkeypatch.setattr(cifar10_replica, '_STOP_SECS', 1)
    monkeypatch.setattr(os, '_exit', self._exit)
    # As in TensorFlow, where Python's handlers have to wait.
    monkeypatch.setattr(signal, 'set_wakeup_fd', lambda descriptor: None)
    jobs = {'ps': ['a:1', 'b:2'], 'chief': ['c:3']}
    self._watchdog = cifar10_replica._Watchdog(cifar10_cluster.Cluster(jobs, 'chief', 0))
    self._watchdog.__enter__()

  def _exit(self, status):
    self._status.put(status)
    self.stop()

  def signal(self, number):
    self._watchdog._wakeup.send(bytes([number]))

  def ends(self, within):
    """Returns the status, or None if the process is still there after so many seconds."""
    with contextlib.suppress(queue.Empty):
      return self._status.get(timeout=within)

  def stop(self):
    self._watchdog.__exit__()


@pytest.fixture
def watched(monkeypatch):
  process = _WatchedProcess(monkeypatch)
  yield process
  process.stop()


def test_signal_ends_a_silent_process_only_if_a_parameter_server_is_missing(watched, capsys):
  watched.answering = {('ps', 0), ('ps', 1)}
  watched.signal(signal.SIGTERM)
  assert watched.ends(within=4) is None  # It may be saving.
  watched.answering = {('ps', 0)}
  assert watched.ends(within=30) == 143
  assert capsys.readouterr().out.startswith('Stopped by SIGTERM while a parameter server does not ')


def test_second_signal_ends_a_silent_process(watched):
  watched.answering = {('ps', 0), ('ps', 1)}
  watched.signal(signal.SIGINT)
  assert watched.ends(within=2) is None
  watched.signal(signal.SIGINT)
  assert watched.ends(within=30) == 130


@pytest.mark.parametrize('answering, named', [
    ([('ps', 0)], 'ps 1 (b:2)'), ([], 'ps 0 (a:1), ps 1 (b:2)')])
def test_of_the_parameter_servers_those_are_named_that_do_not_answer(
    answering, named, watched, capsys):
  watched.answering = set(answering)
  FLAGS.peer_timeout_secs = 1
  assert watched.ends(within=30) == 1
  assert 'No sign of life from %s for 1 seconds' % named in capsys.readouterr().err


def test_parameter_servers_that_answer_are_not_blamed(watched, capsys):
  watched.answering = {('ps', 0), ('ps', 1)}
  FLAGS.peer_timeout_secs = 1
  assert watched.ends(within=30) == 1
  assert ('TensorFlow has not come back for 1 seconds (--peer_timeout_secs) although all parameter '
          'servers answer: ') in capsys.readouterr().err


@pytest.fixture
def graph_of(small_data_dir, monkeypatch):
  """Returns a replica, 0 or 1, of a job with so many parameter servers, and its whole graph."""
  def build(number, servers):
    graphs = []

    @contextlib.contextmanager
    def no_session(loss, examples_per_step, replica):
      graphs.append(loss.graph)
      yield types.SimpleNamespace(should_stop=lambda: True)

    monkeypatch.setattr(cifar10_session, 'training_session', no_session)
    monkeypatch.setattr(cifar10_cluster.Cluster, 'start_server',
                        lambda self, config: types.SimpleNamespace(target=''))
    FLAGS(['cifar10_train.py', '--data_dir=' + small_data_dir, '--batch_size=4'])
    replica = cifar10_replica.Replica(_clusters(servers)[1][number])
    cifar10_train.train(replica)
    return replica, graphs[0]

  return build


def _task(op):
  """Where an operation runs: whatever was asked for, beside the variable that it handles."""
  handles = [tensor for tensor in op.inputs if tensor.dtype == tf.resource]
  return _task(handles[0].op) if handles else op.device.split('/device:')[0]


def _needed(op):
  """Returns an operation and all that must run for it."""
  needed, todo = set(), [op]
  while todo:
    op = todo.pop()
    if op not in needed:
      needed.add(op)
      todo += [tensor.op for tensor in op.inputs] + op.control_inputs
  return needed


NUMBER_OF_PARAMETERS = 1068298


@pytest.mark.parametrize('number, name', [(0, 'chief'), (1, 'worker')])
def test_variables_and_updates_are_on_the_servers_and_the_network_on_the_replica(
    number, name, graph_of):
  replica, graph = graph_of(number, servers=2)
  operations = graph.get_operations()
  here = '/job:%s/task:0' % name
  servers = {'/job:ps/task:0', '/job:ps/task:1'}
  variables = [op for op in operations if op.type == 'VarHandleOp'
               and op.name != 'losses/averages']
  assert len(variables) == 2 * 10 + 1 + 2 * 4  # With the averages, the step and the boards.
  assert {_task(op) for op in variables} == servers
  # Of the update, whatever handles more than a number.
  update = [op for op in _needed(replica.round.finish.op) if op.type in (
      'ResourceApplyGradientDescent', 'AssignSubVariableOp', 'AssignAddVariableOp')
      or any(output.shape.rank != 0 for output in op.outputs)]
  assert len([op for op in update if op.name.startswith('moving_averages/')]) >= 10
  assert {_task(op) for op in update} == servers
  convolutions = [op for op in operations if op.type.startswith('Conv2D')]
  assert len(convolutions) == 2 * 3  # Each with its two gradients.
  assert {op.device for op in convolutions} == {here}
  assert {op.device for op in operations if op.name.startswith('input/')} == {
      here + '/device:CPU:0'}


def test_each_parameter_goes_down_and_its_gradient_up_once_a_step(graph_of):
  _, graph = graph_of(1, servers=2)
  sent = {'ps': set(), 'worker': set()}
  for op in _needed(graph.get_operation_by_name('train')):
    for tensor in op.inputs:
      if tensor.dtype != tf.resource and _task(tensor.op) != _task(op):
        sent['ps' if _task(tensor.op).startswith('/job:ps') else 'worker'].add(tensor)
  floats = {job: [tensor for tensor in tensors if tensor.dtype == tf.float32]
            for job, tensors in sent.items()}
  assert sum(tensor.shape.num_elements() for tensor in floats['ps']) == NUMBER_OF_PARAMETERS
  assert sum(tensor.shape.num_elements() for tensor in floats['worker']) == NUMBER_OF_PARAMETERS
  # Beside them nothing but numbers: the round's.
  assert all(tensor.shape.rank in (0, 1) and tensor.shape.num_elements() <= 1
             for job in sent for tensor in sent[job] if tensor.dtype != tf.float32)


def test_two_servers_share_the_parameters_as_evenly_as_whole_variables_allow(graph_of):
  sizes = {}
  for op in graph_of(0, servers=2)[1].get_operations():
    if op.type == 'VarHandleOp' and op.name.endswith(('weights', 'biases')):
      elements = tf.TensorShape(op.get_attr('shape')).num_elements()
      sizes[op.device] = sizes.get(op.device, 0) + elements
  # local3/weights, 884,736 of them, are one variable.
  assert sorted(sizes.values()) == [178698, 889600]


def test_each_replica_shuffles_for_itself(graph_of):
  [shuffle] = [op for op in graph_of(0, servers=1)[1].get_operations()
               if op.type == 'RandomShuffleQueueV2']
  # Which TensorFlow takes to mean a seed drawn at random.
  assert (shuffle.get_attr('seed'), shuffle.get_attr('seed2')) == (0, 0)


def test_each_mode_goes_on_where_another_stopped(replicas, small_data_dir, tmp_path, monkeypatch,
                                                 capsys):
  monkeypatch.chdir(tmp_path)

  def train_replica(replica):
    with replica.at_work():
      cifar10_train.train(replica)

  def train_cluster():
    _in_threads(*[lambda replica=replica: train_replica(replica) for replica in replicas])

  modes = [cifar10_train.train, train_cluster, cifar10_multi_gpu_train.train, train_cluster,
           cifar10_train.train]
  for i, mode in enumerate(modes):
    FLAGS(['script', '--data_dir=' + small_data_dir, '--batch_size=4', '--num_gpus=2',
           '--max_steps=%d' % (i + 1), '--peer_timeout_secs=60'])
    mode()
    out = capsys.readouterr().out
    assert ('Resuming cifar10/train from step %d.' % i if i else 'Training in') in out
  shapes = [tf.train.load_checkpoint('cifar10/train/model.ckpt-%d' % step)
            .get_variable_to_shape_map() for step in (1, 2)]
  assert shapes[0] == shapes[1]
