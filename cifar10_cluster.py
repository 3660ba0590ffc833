"""The cluster that the environment variable TF_CONFIG describes, and this process's place in it.

Kubernetes training operators set it for each process, or a person does by hand:

  {"cluster": {"ps": ["host:port", ...], "chief": ["host:port"], "worker": ["host:port", ...]},
   "task": {"type": "worker", "index": 0}}

The parameter servers (`ps`) hold the variables; the chief and the workers are replicas, each with
the whole network and a batch of its own, see `cifar10_replica.py`; an `evaluator`, which `cluster`
need not list, evaluates. Older operators call the chief `master`. Where there is none, worker 0 is
it. (https://www.tensorflow.org/guide/distributed_training#TF_CONFIG)
"""

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import sys
import time

import numpy as np
import tensorflow.compat.v1 as tf

import cifar10_console
from cifar10_console import STOP_SIGNALS
from cifar10_console import UserError

FLAGS = tf.app.flags.FLAGS

tf.app.flags.DEFINE_integer('peer_timeout_secs', 600, 'In a cluster: seconds without a sign of '
                            'life from another task after which this one gives up: more than a '
                            'checkpoint takes to save.', lower_bound=1)

_EXAMPLE = ('{"cluster": {"ps": ["host:port"], "chief": ["host:port"], "worker": ["host:port"]}, '
            '"task": {"type": "worker", "index": 0}}')

# A name or an IPv4 address, or an IPv6 address in brackets. A resolver wants labels of at most 63
# characters. The port in one spelling, so that each address has only one.
_ADDRESS = re.compile(r'([\w-]{1,63}(\.[\w-]{1,63})*\.?|\[[\da-f:.]+\]):([1-9]\d{0,4})',
                      re.ASCII | re.IGNORECASE)

_ROLES = ('ps', 'chief', 'worker', 'evaluator')

# What a replica has told the parameter servers of itself, see `Board`.
AT_WORK, ENDED, GAVE_UP, STOPPED = range(4)

# So long a parameter server stays for those who still need it: replicas that have not heard of the
# end, or a chief that was asked to stop at the same time and is saving.
_FAREWELL_SECS = 10


class Cluster:
  """The tasks of a job and their addresses, and which of them this process is."""

  def __init__(self, jobs, job, index):
    """Args:
      jobs: a dictionary from 'ps', 'chief' and 'worker' to lists of addresses, 'host:port'.
      job: this task's job, one of these or 'evaluator'.
      index: this task's number in its job.
    """
    self.jobs, self.job, self.index = jobs, job, index
    # Who trains, the chief first.
    self.replicas = [(job, i) for job in ('chief', 'worker') for i in range(len(jobs.get(job, [])))]

  @property
  def chief(self):
    """The chief's job and index."""
    return self.replicas[0]

  @property
  def servers(self):
    """The parameter servers' jobs and indices."""
    return [('ps', i) for i in range(len(self.jobs['ps']))]

  @property
  def spec(self):
    return tf.train.ClusterSpec(self.jobs)

  @property
  def fingerprint(self):
    """An int64 that differs between clusters with other tasks or addresses."""
    text = json.dumps(self.jobs, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], 'big', signed=True)

  def describe(self, task):
    """Returns what a person calls a task, with its address."""
    job, index = task
    return '%s %d (%s)' % (job, index, self.jobs[job][index])

  def is_reachable(self, task):
    """Returns whether a task answers at its address."""
    job, index = task
    host, port = self.jobs[job][index].rsplit(':', 1)
    try:
      with socket.create_connection((host.strip('[]'), int(port)), timeout=2) as connection:
        # The system connects in the name of a process that hangs; gRPC speaks first, the process.
        return bool(connection.recv(1))
    except OSError:
      return False

  def start_server(self, config):
    """Starts this task's server of TensorFlow's distributed runtime.

    Args:
      config: a `tf.ConfigProto` for the devices of this machine.

    Returns:
      A `tf.train.Server`. It serves until the process ends.

    Raises:
      UserError: the port is not to be had, or TensorFlow cannot serve there.
    """
    address = self.jobs[self.job][self.index]
    # TensorFlow would only say that it could not start.
    with socket.socket() as probe:
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      try:
        probe.bind(('', int(address.rsplit(':', 1)[1])))
      except OSError as error:
        raise UserError('%s %d cannot serve at %s (%s): end what has that port, or name another '
                        'in the TF_CONFIG of every task.'
                        % (self.job, self.index, address, error.strerror)) from error
    try:
      return tf.train.Server(self.spec, self.job, self.index, config=config)
    except tf.errors.OpError as error:
      raise UserError('%s %d cannot serve at %s (%s): see to the addresses in TF_CONFIG.'
                      % (self.job, self.index, address, error.message)) from error

  def lost(self, tasks):
    """Returns the error that says that tasks have not been heard of in --peer_timeout_secs."""
    return UserError('No sign of life from %s for %d seconds (--peer_timeout_secs): see that it '
                     'runs and can be reached; %s goes on from the last checkpoint.'
                     % (', '.join(map(self.describe, tasks)), FLAGS.peer_timeout_secs,
                        cifar10_console.same_command()))


class Board:
  """What the tasks tell each other: variables in a parameter server's memory, in no checkpoint.

  Each parameter server has one and sets it up when it starts. In each stands which cluster its
  server belongs to, and a replica notes there when it leaves; `round` and `arrived`, see
  `cifar10_replica.py`, count on the first only.
  """

  def __init__(self, cluster, server):
    """Adds the variables of parameter server number `server` to the graph."""
    replicas = [len(cluster.replicas)]
    # The milliseconds: rounds take longer, so that the number grows also when a server is replaced.
    start = int(1000 * time.time())
    with tf.device('/job:ps/task:%d/cpu:0' % server), tf.container('board'):
      self.cluster = self._variable('cluster_%d' % server, [], cluster.fingerprint)
      self.round = self._variable('round_%d' % server, [], start)
      self.arrived = self._variable('arrived_%d' % server, replicas, start)
      self.notices = self._variable('notices_%d' % server, replicas, AT_WORK)
      # The notices last: who finds them finds the others.
      with tf.control_dependencies([variable.initializer for variable in
                                    (self.cluster, self.round, self.arrived)]):
        self.set_up = tf.assign(self.notices, tf.fill(replicas, np.int64(AT_WORK))).op

  def _variable(self, name, shape, value):
    return tf.Variable(tf.fill(shape, np.int64(value)), trainable=False, collections=[], name=name,
                       use_resource=True)


def from_environment():
  """Returns the `Cluster` that TF_CONFIG describes, or None where it is not set.

  Raises:
    UserError: it describes none, or none that these scripts can work in.
  """
  text = os.environ.get('TF_CONFIG')
  return parse(text) if text else None


def parse(text):
  """Returns the `Cluster` that a value of TF_CONFIG describes, see `from_environment`."""
  try:
    config = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise _bad('is not JSON (%s)' % error) from error
  config = _object(config, 'itself')
  if not config.get('task'):
    raise _bad('names no task')
  task = _object(config['task'], '"task"')
  if not config.get('cluster'):
    raise _bad('names no cluster')
  cluster = _object(config['cluster'], '"cluster"')

  jobs = {}
  for name, addresses in cluster.items():
    job = _role(name)
    if job in jobs:
      raise _bad('names the chief twice, as "chief" and as "master"')
    if not isinstance(addresses, list):
      raise _bad('has for "%s" no list of addresses' % name)
    for address in addresses:
      _check_address(address, name)
    if addresses:
      jobs[job] = addresses
  # It is no peer of the others: they need not know of it.
  evaluators = jobs.pop('evaluator', None)

  if 'ps' not in jobs:
    raise _bad('names no ps, which hold the variables')
  if not jobs.keys() & {'chief', 'worker'}:
    raise _bad('names neither chief nor worker')
  if len(jobs.get('chief', [])) > 1:
    raise _bad('names more than one chief')
  addresses = sum(jobs.values(), [])
  twice = [address for address in addresses if addresses.count(address) > 1]
  if twice:
    raise _bad('gives %s to two tasks' % twice[0])

  if 'type' not in task:
    raise _bad('names no type of task')
  job, index = _role(task['type']), task.get('index', 0)
  if not isinstance(index, int) or isinstance(index, bool):
    raise _bad('has a task whose index is no number: %s' % json.dumps(index))
  count = len(jobs.get(job, [])) if job != 'evaluator' else len(evaluators or [''])
  if not 0 <= index < count:
    raise _bad('is for %s %d, but names %d of them' % (task['type'], index, count))
  return Cluster(jobs, job, index)


def _bad(what):
  return UserError('TF_CONFIG %s: it must be like %s.' % (what, _EXAMPLE))


def _object(value, what):
  if not isinstance(value, dict):
    raise _bad('is wrong: %s is no object in braces' % what)
  return value


def _role(name):
  role = 'chief' if name == 'master' else name
  if role not in _ROLES:
    raise _bad('has a task of type %s, which is none of %s'
               % (json.dumps(name), ', '.join(_ROLES)))
  return role


def _check_address(address, job):
  match = isinstance(address, str) and _ADDRESS.fullmatch(address)
  if not match or int(match.group(3)) > 65535:
    raise _bad('has for "%s" an address that is not host:port: %.80s' % (job, json.dumps(address)))


def wait(is_over, lost, is_stopped=lambda: False):
  """Asks again and again, with growing pauses, whether something has come about.

  No operation ever waits on a server. So a task that is killed leaves nothing behind there that
  waits in its place, and one that waits hears signals.

  Args:
    is_over: a function that returns whether it has.
    lost: a function that returns the error to raise after --peer_timeout_secs.
    is_stopped: a function that returns whether to give up without an error.

  Returns:
    Whether it has come about; otherwise it was stopped.
  """
  start = time.monotonic()
  while not is_stopped():
    if is_over():
      return True
    waited = time.monotonic() - start
    if waited > FLAGS.peer_timeout_secs:
      raise lost()
    # A wait is overshot by 5% or 2 ms, whichever is more.
    time.sleep(min(1.0, 0.002 + 0.05 * waited))
  return False


def restricted(config, *devices):
  """Returns a `tf.ConfigProto` like `config`, for a session that deals with these devices only.

  Otherwise it would wait for every task of the cluster, also one that is being started again.
  """
  filtered = tf.ConfigProto()
  filtered.CopyFrom(config)
  filtered.device_filters.extend(devices)
  return filtered


def tell(cluster, target, replica, notice):
  """Notes on every parameter server of this cluster that can be reached how a replica is.

  Args:
    cluster: a `Cluster`.
    target: of this task's server.
    replica: number of the replica.
    notice: AT_WORK, ENDED, GAVE_UP or STOPPED.
  """
  for server in cluster.servers:
    if not cluster.is_reachable(server):
      continue
    with tf.Graph().as_default():
      board = Board(cluster, server[1])
      note = tf.scatter_update(board.notices, [replica], [notice])
      config = restricted(tf.ConfigProto(), '/job:ps/task:%d' % server[1],
                          '/job:%s/task:%d' % cluster.replicas[replica])
      # One that is gone, or that has just been started, has nothing to be told.
      with contextlib.suppress(tf.errors.OpError), tf.Session(target, config=config) as session:
        # One of another cluster would take this replica for one of its own.
        if session.run(board.cluster) == cluster.fingerprint:
          session.run(note)


def check_same(cluster, fingerprints):
  """Raises a `UserError` if the fingerprints of the parameter servers' clusters are not ours."""
  others = [server for server, fingerprint in zip(cluster.servers, fingerprints)
            if fingerprint != cluster.fingerprint]
  if others:
    raise UserError('This task and %s were started with different clusters in TF_CONFIG: start '
                    'all tasks again with the same.' % ', '.join(map(cluster.describe, others)))


def serve(cluster):
  """Serves as a parameter server until the job ends.

  Raises:
    UserError: the port is not to be had, the chief gave up, or it is lost.
  """
  # A GPU is for those who compute.
  config = tf.ConfigProto(device_count={'GPU': 0})
  server = cluster.start_server(config)
  asked = _note_signals()
  with tf.Graph().as_default():
    board = Board(cluster, cluster.index)
    with tf.Session(server.target, config=restricted(
        config, '/job:ps/task:%d' % cluster.index)) as session:
      session.run(board.set_up)
      print('Parameter server %d serves until the job ends.' % cluster.index)
      _serve_until_the_end(cluster, lambda: session.run(board.notices), asked)


def check_chief(cluster, notices):
  """Raises a `UserError` if the notices of the replicas say that the chief gave up."""
  if notices[0] == GAVE_UP:
    raise UserError('The chief, %s, gave up: its own output says why.'
                    % cluster.describe(cluster.chief))


def _note_signals():
  """Has `STOP_SIGNALS` noted; returns the list that they go to."""
  asked = []

  def note(number, frame):
    asked.append(number)
    # Who asks again does not want to wait; a terminal that closes sends SIGHUP twice.
    if number != signal.SIGHUP:
      signal.signal(number, signal.SIG_DFL)

  for number in STOP_SIGNALS:
    if signal.getsignal(number) != signal.SIG_IGN:
      signal.signal(number, note)
  return asked


def _serve_until_the_end(cluster, read_notices, asked):
  # When the chief was last heard of, as long as it has not ended, and nobody asked us to stop.
  at_work = asked_at = time.monotonic()
  is_told = False
  while True:
    now = time.monotonic()
    notices = list(read_notices())
    if notices[0] in (ENDED, GAVE_UP):
      have_heard = all(notice != AT_WORK or not cluster.is_reachable(replica)
                       for replica, notice in zip(cluster.replicas, notices))
      if have_heard or now - at_work > _FAREWELL_SECS:
        check_chief(cluster, notices)
        print('The job has ended.')
        return
    elif cluster.is_reachable(cluster.chief):
      at_work = now
    # The replicas miss it too. They shall say so, and not that they miss us.
    elif now - at_work > FLAGS.peer_timeout_secs + _FAREWELL_SECS:
      raise cluster.lost([cluster.chief])
    if not asked:
      asked_at = now
    elif notices[0] != AT_WORK or now - asked_at > _FAREWELL_SECS:
      sys.exit(128 + asked[0])
    elif not is_told:
      print('Asked to stop: the chief has up to %d seconds to save.' % _FAREWELL_SECS)
      is_told = True
    time.sleep(0.2)
