import json
import socket

import pytest
import tensorflow.compat.v1 as tf

from cifar10_cluster import __main__ as task
from cifar10_cluster import tf_config
import cifar10_eval
from cifar10_support.console import UserError

FLAGS = tf.app.flags.FLAGS

JOBS = {'ps': ['a:1', 'b:2'], 'chief': ['c:3'], 'worker': ['d:4', 'e:5']}


def _parse(task, jobs=JOBS, **more):
  return tf_config.parse(json.dumps({'cluster': jobs, 'task': task, **more}))


@pytest.mark.parametrize('job, index', [('ps', 1), ('chief', 0), ('worker', 1)])
def test_task_has_its_job_and_index(job, index):
  cluster = _parse({'type': job, 'index': index})
  assert (cluster.jobs, cluster.job, cluster.index) == (JOBS, job, index)


def test_chief_is_the_first_replica():
  cluster = _parse({'type': 'worker', 'index': 0})
  assert cluster.replicas == [('chief', 0), ('worker', 0), ('worker', 1)]
  assert cluster.chief == ('chief', 0)
  assert cluster.servers == [('ps', 0), ('ps', 1)]


def test_master_is_an_old_name_of_the_chief():
  cluster = _parse({'type': 'master', 'index': 0}, {'ps': ['a:1'], 'master': ['c:3']})
  assert (cluster.job, cluster.chief) == ('chief', ('chief', 0))
  assert cluster.jobs == {'ps': ['a:1'], 'chief': ['c:3']}


def test_without_a_chief_worker_0_takes_its_place():
  cluster = _parse({'type': 'worker', 'index': 1}, {'ps': ['a:1'], 'worker': ['d:4', 'e:5']})
  assert cluster.chief == ('worker', 0)


@pytest.mark.parametrize('more', [{}, {'evaluator': ['f:6']}])
def test_cluster_need_not_list_the_evaluator(more):
  cluster = _parse({'type': 'evaluator', 'index': 0}, {**JOBS, **more})
  assert (cluster.jobs, cluster.job) == (JOBS, 'evaluator')


def test_what_operators_add_is_ignored():
  assert _parse({'type': 'ps', 'index': 0, 'trial': '1'}, environment='cloud').job == 'ps'


@pytest.mark.parametrize('value', [None, ''])
def test_without_tf_config_the_script_for_one_machine_is_named(value, monkeypatch):
  monkeypatch.delenv('TF_CONFIG', raising=False)
  if value is not None:
    monkeypatch.setenv('TF_CONFIG', value)
  with pytest.raises(UserError, match='cifar10_train.py'):
    tf_config.from_environment()


@pytest.mark.parametrize('text, named', [
    ('{', 'JSON'), ('[]', 'object'), ('null', 'object'), ('{}', 'task'), ('{"task": 3}', 'task'),
    ('{"task": {"type": "ps"}}', 'cluster'),
    ('{"task": {"type": "ps"}, "cluster": ["a:1"]}', 'cluster')])
def test_what_describes_no_task_of_a_cluster_is_refused(text, named, monkeypatch):
  monkeypatch.setenv('TF_CONFIG', text)
  with pytest.raises(UserError) as error_info:
    tf_config.from_environment()
  # The example that follows has all of these words.
  assert named in str(error_info.value).split('{"cluster"')[0]


@pytest.mark.parametrize('task, named', [
    ({'index': 0}, 'null'),
    ({'type': 'gardener', 'index': 0}, '"gardener"'),
    ({'type': ['ps'], 'index': 0}, '["ps"]'),
    ({'type': 'worker', 'index': 2}, 'worker 2'),
    ({'type': 'worker', 'index': -1}, 'worker -1'),
    ({'type': 'evaluator', 'index': 1}, 'evaluator 1'),
    ({'type': 'worker', 'index': '1'}, '"1"'),
    ({'type': 'worker', 'index': True}, 'true')])
def test_task_that_is_not_in_the_cluster_is_refused_by_name(task, named):
  with pytest.raises(UserError) as error_info:
    _parse(task)
  assert named in str(error_info.value)


@pytest.mark.parametrize('jobs, named', [
    ({'chief': ['c:3']}, ' ps'),
    ({'ps': [], 'chief': ['c:3']}, ' ps'),
    ({'ps': ['a:1']}, ' chief'),
    ({'ps': ['a:1'], 'chief': ['c:3', 'd:4']}, ' chief'),
    ({'ps': ['a:1'], 'chief': ['c:3'], 'master': ['d:4']}, '"master"'),
    ({'ps': ['a:1'], 'chief': ['c:3'], 'gardener': ['d:4']}, '"gardener"'),
    ({'ps': ['a:1'], 'chief': ['a:1']}, ' a:1 '),
    ({'ps': 'a:1', 'chief': ['c:3']}, '"ps"'),
    ({'ps': [None], 'chief': ['c:3']}, 'null')])
def test_cluster_that_cannot_train_is_refused(jobs, named):
  with pytest.raises(UserError) as error_info:
    _parse({'type': 'ps', 'index': 0}, jobs)
  assert named in str(error_info.value).split('{"cluster"')[0]


@pytest.mark.parametrize('address', [
    'a', ':1', 'a:', 'a:0', 'a:65536', 'a:\u0661', 'http://a:1', 'a..b:1', 64 * 'a' + ':1',
    'a:021907', 'a:1\n'])
def test_address_that_is_not_host_and_port_is_refused_by_name(address):
  with pytest.raises(UserError) as error_info:
    _parse({'type': 'ps'}, {'ps': [address], 'chief': ['c:3']})
  assert json.dumps(address) in str(error_info.value)


@pytest.mark.parametrize('address', ['10.0.0.1:1', 'cifar10-ps-0.default.svc:2222', 'a_b:65535',
                                     '[::1]:80', '%s.c.:1' % (63 * 'a')])
def test_address_is_a_name_or_a_number_and_a_port(address):
  assert _parse({'type': 'ps'}, {'ps': [address], 'chief': ['c:3']}).jobs['ps'] == [address]


def test_fingerprint_is_of_all_tasks_and_addresses():
  clusters = [{'ps': ['a:1'], 'worker': ['b:2', 'c:3']}, {'worker': ['b:2', 'c:3'], 'ps': ['a:1']},
              {'ps': ['a:1'], 'worker': ['c:3', 'b:2']}, {'ps': ['a:1'], 'worker': ['b:2']}]
  same, again, *others = [tf_config.Cluster(jobs, 'ps', 0).fingerprint for jobs in clusters]
  assert same == again
  assert same not in others


def test_lost_tasks_are_named_with_their_addresses_and_the_flag():
  FLAGS.peer_timeout_secs = 7
  error = str(tf_config.Cluster(JOBS, 'chief', 0).lost([('ps', 1), ('worker', 0)]))
  assert 'ps 1 (b:2), worker 0 (d:4) for 7 seconds (--peer_timeout_secs)' in error


@pytest.mark.parametrize('flags, directory', [
    ([], 'cifar10/train'), (['--synthetic'], 'cifar10/synthetic/train'),
    (['--synthetic', '--train_dir=cifar10/mine'], 'cifar10/mine')])
def test_evaluator_watches_the_directory_that_the_same_flags_train_in(
    flags, directory, monkeypatch):
  monkeypatch.setenv('TF_CONFIG', json.dumps(
      {'cluster': JOBS, 'task': {'type': 'evaluator', 'index': 0}}))
  watched = []
  monkeypatch.setattr(cifar10_eval, 'evaluate',
                      lambda *args, **kwargs: watched.append(FLAGS.checkpoint_dir))
  FLAGS(['cifar10_cluster', *flags])
  task.main()
  assert watched == [directory]


@pytest.fixture
def listening():
  """A cluster with a parameter server, at whose address a socket of ours listens."""
  with socket.socket() as listener:
    listener.bind(('127.0.0.1', 0))
    listener.listen()
    yield tf_config.Cluster(
        {'ps': ['127.0.0.1:%d' % listener.getsockname()[1]], 'chief': ['c:3']}, 'ps', 0)


def test_port_that_is_taken_is_named(listening):
  with pytest.raises(UserError, match='ps 0 .*' + listening.jobs['ps'][0]):
    listening.start_server(None)


def test_task_whose_process_hangs_is_not_reachable(listening):
  # The kernel connects whoever comes, and nobody answers.
  assert not listening.is_reachable(('ps', 0))


def test_task_is_reachable_once_it_serves():
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    address = '127.0.0.1:%d' % probe.getsockname()[1]
  cluster = tf_config.Cluster({'ps': [address], 'chief': ['c:3']}, 'ps', 0)
  assert not cluster.is_reachable(('ps', 0))
  cluster.start_server(None)
  assert cluster.is_reachable(('ps', 0))


def test_address_that_tensorflow_cannot_serve_at_is_named(monkeypatch):
  # TensorFlow 2.21 raises this for an address that it cannot read; 2.16 ends the process.
  def server(*args, **kwargs):
    raise tf.errors.UnknownError(None, None, 'Could not start gRPC server')

  monkeypatch.setattr(tf.train, 'Server', server)
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    address = '127.0.0.1:%d' % probe.getsockname()[1]
  with pytest.raises(UserError, match=address):
    tf_config.Cluster({'ps': [address], 'chief': ['c:3']}, 'ps', 0).start_server(None)
