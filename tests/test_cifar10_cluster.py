import json
import socket

import pytest
import tensorflow.compat.v1 as tf

import cifar10_cluster
import cifar10_train
import cluster_job
from cifar10_console import UserError

FLAGS = cifar10_train.FLAGS

JOBS = {'ps': ['a:1', 'b:2'], 'chief': ['c:3'], 'worker': ['d:4', 'e:5']}


def _parse(task, jobs=None, **more):
  return cifar10_cluster.parse(json.dumps({'cluster': jobs or JOBS, 'task': task, **more}))


@pytest.mark.parametrize('job, index', [('ps', 1), ('chief', 0), ('worker', 1)])
def test_task_has_its_job_and_index(job, index):
  cluster = _parse({'type': job, 'index': index})
  assert (cluster.jobs, cluster.job, cluster.index) == (JOBS, job, index)


def test_chief_is_the_first_replica():
  cluster = _parse({'type': 'worker', 'index': 0})
  assert cluster.replicas == [('chief', 0), ('worker', 0), ('worker', 1)]
  assert cluster.chief == ('chief', 0)
  assert cluster.servers == [('ps', 0), ('ps', 1)]


def test_chief_that_is_called_master_is_the_chief():
  cluster = _parse({'type': 'master', 'index': 0}, {'ps': ['a:1'], 'master': ['c:3']})
  assert (cluster.job, cluster.chief) == ('chief', ('chief', 0))
  assert cluster.jobs == {'ps': ['a:1'], 'chief': ['c:3']}


def test_without_a_chief_worker_0_is_it():
  cluster = _parse({'type': 'worker', 'index': 1}, {'ps': ['a:1'], 'worker': ['d:4', 'e:5']})
  assert cluster.chief == ('worker', 0)


@pytest.mark.parametrize('more', [{}, {'evaluator': ['f:6']}])
def test_cluster_need_not_list_the_evaluator(more):
  cluster = _parse({'type': 'evaluator', 'index': 0}, {**JOBS, **more})
  assert (cluster.jobs, cluster.job) == (JOBS, 'evaluator')


def test_what_an_operator_adds_is_of_no_concern():
  assert _parse({'type': 'ps', 'index': 0, 'trial': '1'}, environment='cloud').job == 'ps'


@pytest.mark.parametrize('value', [None, ''])
def test_without_tf_config_there_is_no_cluster(value, monkeypatch):
  monkeypatch.delenv('TF_CONFIG', raising=False)
  if value is not None:
    monkeypatch.setenv('TF_CONFIG', value)
  assert cifar10_cluster.from_environment() is None


@pytest.mark.parametrize('text, sentence', [
    ('{', 'is not JSON (Expecting property name'),
    ('[' * 100000, 'is not JSON (maximum recursion depth exceeded'),
    ('[]', 'is wrong: itself is no object in braces'),
    ('null', 'is wrong: itself is no object in braces'),
    ('{}', 'names no task'),
    ('{"task": 3}', 'is wrong: "task" is no object'),
    ('{"task": {"type": "ps"}}', 'names no cluster'),
    ('{"task": {"type": "ps"}, "cluster": ["a:1"]}', 'is wrong: "cluster" is no object')])
def test_what_is_no_description_is_refused(text, sentence):
  with pytest.raises(UserError) as error_info:
    cifar10_cluster.parse(text)
  assert str(error_info.value).startswith('TF_CONFIG ' + sentence)
  assert ': it must be like {"cluster": ' in str(error_info.value)


@pytest.mark.parametrize('task, sentence', [
    ({'index': 0}, 'names no type of task'),
    ({'type': 'gardener', 'index': 0}, 'a task of type "gardener", which is none of ps, chief, '),
    ({'type': ['ps'], 'index': 0}, 'a task of type ["ps"], which is none of'),
    ({'type': 'worker', 'index': 2}, 'is for worker 2, but names 2 of them'),
    ({'type': 'worker', 'index': -1}, 'is for worker -1, but names 2 of them'),
    ({'type': 'evaluator', 'index': 1}, 'is for evaluator 1, but names 1 of them'),
    ({'type': 'worker', 'index': '1'}, 'has a task whose index is no number: "1"'),
    ({'type': 'worker', 'index': True}, 'has a task whose index is no number: true')])
def test_task_that_is_none_of_the_cluster_is_refused(task, sentence):
  with pytest.raises(UserError) as error_info:
    _parse(task)
  assert sentence in str(error_info.value)


@pytest.mark.parametrize('jobs, sentence', [
    ({'chief': ['c:3']}, 'names no ps'),
    ({'ps': [], 'chief': ['c:3']}, 'names no ps'),
    ({'ps': ['a:1']}, 'names neither chief nor worker'),
    ({'ps': ['a:1'], 'chief': ['c:3', 'd:4']}, 'names more than one chief'),
    ({'ps': ['a:1'], 'chief': ['c:3'], 'master': ['d:4']}, 'names the chief twice'),
    ({'ps': ['a:1'], 'chief': ['c:3'], 'gardener': ['d:4']}, 'of type "gardener"'),
    ({'ps': ['a:1'], 'chief': ['a:1']}, 'gives a:1 to two tasks'),
    ({'ps': 'a:1', 'chief': ['c:3']}, 'has for "ps" no list of addresses'),
    ({'ps': ['a'], 'chief': ['c:3']}, 'has for "ps" an address that is not host:port: "a"'),
    ({'ps': [':1'], 'chief': ['c:3']}, 'an address that is not host:port: ":1"'),
    ({'ps': ['a:'], 'chief': ['c:3']}, 'an address that is not host:port: "a:"'),
    ({'ps': ['a:0'], 'chief': ['c:3']}, 'an address that is not host:port: "a:0"'),
    ({'ps': ['a:65536'], 'chief': ['c:3']}, 'an address that is not host:port: "a:65536"'),
    ({'ps': ['a:\u0661'], 'chief': ['c:3']}, 'an address that is not host:port: '),
    ({'ps': ['http://a:1'], 'chief': ['c:3']}, 'that is not host:port: "http://a:1"'),
    ({'ps': ['a..b:1'], 'chief': ['c:3']}, 'that is not host:port: "a..b:1"'),
    ({'ps': ['%s:1' % (64 * 'a')], 'chief': ['c:3']}, 'an address that is not host:port: "aaa'),
    ({'ps': ['a:' + 5000 * '1'], 'chief': ['c:3']}, 'an address that is not host:port: "a:111'),
    ({'ps': ['a:021907'], 'chief': ['a:21907']}, 'that is not host:port: "a:021907"'),
    ({'ps': ['a:1\n'], 'chief': ['c:3']}, 'an address that is not host:port: "a:1\\n"'),
    ({'ps': [None], 'chief': ['c:3']}, 'an address that is not host:port: null')])
def test_cluster_that_cannot_train_is_refused(jobs, sentence):
  with pytest.raises(UserError) as error_info:
    _parse({'type': 'ps', 'index': 0}, jobs)
  assert sentence in str(error_info.value)


@pytest.mark.parametrize('address', ['10.0.0.1:1', 'cifar10-ps-0.default.svc:2222', 'a_b:65535',
                                     '[::1]:80', '%s.c.:1' % (63 * 'a')])
def test_address_is_a_name_or_a_number_and_a_port(address):
  assert _parse({'type': 'ps'}, {'ps': [address], 'chief': ['c:3']}).jobs['ps'] == [address]


def test_clusters_have_the_same_fingerprint_if_all_tasks_and_addresses_are_the_same():
  clusters = [{'ps': ['a:1'], 'worker': ['b:2', 'c:3']}, {'worker': ['b:2', 'c:3'], 'ps': ['a:1']},
              {'ps': ['a:1'], 'worker': ['c:3', 'b:2']}, {'ps': ['a:1'], 'worker': ['b:2']}]
  same, again, *others = [cifar10_cluster.Cluster(jobs, 'ps', 0).fingerprint for jobs in clusters]
  assert same == again
  assert same not in others


def test_server_that_tensorflow_does_not_start_is_one_sentence(monkeypatch):
  # TensorFlow 2.21 raises this for an address that it cannot read; 2.16 ends the process.
  def server(*args, **kwargs):
    raise tf.errors.UnknownError(None, None, 'Could not start gRPC server')

  monkeypatch.setattr(tf.train, 'Server', server)
  [address] = cluster_job.free_addresses(1)
  with pytest.raises(UserError, match='ps 0 cannot serve at %s .Could not start gRPC server.: see '
                     'to the addresses in TF_CONFIG' % address):
    cifar10_cluster.Cluster({'ps': [address], 'chief': ['c:3']}, 'ps', 0).start_server(None)


def test_port_that_is_taken_is_one_sentence():
  with socket.socket() as taken:
    taken.bind(('', 0))
    taken.listen()
    address = '127.0.0.1:%d' % taken.getsockname()[1]
    cluster = cifar10_cluster.Cluster({'ps': [address], 'chief': ['c:3']}, 'ps', 0)
    with pytest.raises(UserError, match='ps 0 cannot serve at %s .Address already in use.: end '
                       'what has that port' % address):
      cluster.start_server(None)


def test_task_is_reachable_if_it_answers():
  [address] = cluster_job.free_addresses(1)
  cluster = cifar10_cluster.Cluster({'ps': [address], 'chief': ['c:3']}, 'ps', 0)
  assert not cluster.is_reachable(('ps', 0))
  cluster.start_server(None)
  assert cluster.is_reachable(('ps', 0))


def test_task_whose_process_hangs_is_not_reachable():
  with socket.socket() as listening:
    listening.bind(('127.0.0.1', 0))
    listening.listen()  # The system connects whoever comes, and nobody answers.
    address = '127.0.0.1:%d' % listening.getsockname()[1]
    cluster = cifar10_cluster.Cluster({'ps': [address], 'chief': ['c:3']}, 'chief', 0)
    assert not cluster.is_reachable(('ps', 0))


class _Clock:
  """Time that passes only in pauses."""

  def __init__(self, monkeypatch):
    self.now, self.pauses = 1000.0, []
    monkeypatch.setattr(cifar10_cluster.time, 'monotonic', lambda: self.now)
    monkeypatch.setattr(cifar10_cluster.time, 'sleep', self._sleep)

  def _sleep(self, seconds):
    self.now += seconds
    self.pauses.append(seconds)


def test_wait_ends_when_it_is_over(monkeypatch):
  clock = _Clock(monkeypatch)
  assert cifar10_cluster.wait(lambda: clock.now >= 1010.0, None)
  # At most 5% late.
  assert clock.now <= 1010.6
  assert max(clock.pauses) <= 1.0


def test_wait_raises_what_is_lost_after_the_time_that_the_flag_gives(monkeypatch):
  clock = _Clock(monkeypatch)
  FLAGS.peer_timeout_secs = 30
  with pytest.raises(UserError, match='ps 1'):
    cifar10_cluster.wait(lambda: False, lambda: UserError('ps 1'))
  assert 1030.0 < clock.now <= 1032.0


def test_wait_ends_when_it_is_stopped(monkeypatch):
  clock = _Clock(monkeypatch)
  assert not cifar10_cluster.wait(lambda: False, None, lambda: clock.now >= 1001.0)


def test_lost_tasks_are_named_with_their_addresses():
  FLAGS.peer_timeout_secs = 7
  error = cifar10_cluster.Cluster(JOBS, 'chief', 0).lost([('ps', 1), ('worker', 0)])
  assert str(error).startswith(
      'No sign of life from ps 1 (b:2), worker 0 (d:4) for 7 seconds (--peer_timeout_secs): ')
