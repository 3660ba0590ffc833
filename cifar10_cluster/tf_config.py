"""The cluster that the environment variable TF_CONFIG describes, and this process's place in it.

Kubernetes operators set it for each process; you can also set it by hand:

  {"cluster": {"ps": ["host:port", ...], "chief": ["host:port"], "worker": ["host:port", ...]},
   "task": {"type": "worker", "index": 0}}

The parameter servers (`ps`) hold the variables. The chief and the workers are the replicas: each
has the whole network and batches of its own. The `evaluator`, which `cluster` need not list,
evaluates. Older operators call the chief `master`. Without a chief, worker 0 takes its place.

Source: https://www.tensorflow.org/guide/distributed_training#TF_CONFIG
"""

import hashlib
import json
import os
import re
import socket

import tensorflow.compat.v1 as tf

from cifar10_support import console
from cifar10_support.console import UserError

FLAGS = tf.app.flags.FLAGS

tf.app.flags.DEFINE_integer('peer_timeout_secs', 600, 'Seconds without a sign of life from another '
                            'task of the cluster after which this one gives up. Saving a '
                            'checkpoint must take less.', lower_bound=1)

_EXAMPLE = ('{"cluster": {"ps": ["host:port"], "chief": ["host:port"], "worker": ["host:port"]}, '
            '"task": {"type": "worker", "index": 0}}')

# A name or an IPv4 address, or an IPv6 address in brackets. Name servers accept labels of up to 63
# characters. A port without leading zeros, so that each address has only one spelling.
_ADDRESS = re.compile(r'([\w-]{1,63}(\.[\w-]{1,63})*\.?|\[[\da-f:.]+\]):([1-9]\d{0,4})',
                      re.ASCII | re.IGNORECASE)

_JOBS = ('ps', 'chief', 'worker', 'evaluator')


class Cluster:
  """The tasks of the cluster and their addresses, and which of them this process is.

  A task is a pair of its job and its index in it, such as ('worker', 0).
  """

  def __init__(self, jobs, job, index):
    """Args:
      jobs: a dictionary from 'ps', 'chief' and 'worker' to lists of addresses, 'host:port'.
      job: the job of this task: one of these, or 'evaluator'.
      index: the number of this task in its job.
    """
    self.jobs, self.job, self.index = jobs, job, index
    self.servers = [('ps', i) for i in range(len(jobs['ps']))]
    self.replicas = [(name, i) for name in ('chief', 'worker')
                     for i in range(len(jobs.get(name, [])))]
    self.chief = self.replicas[0]

  @property
  def spec(self):
    return tf.train.ClusterSpec(self.jobs)

  @property
  def fingerprint(self):
    """An int64 that differs between clusters with different tasks or addresses."""
    text = json.dumps(self.jobs, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], 'big', signed=True)

  def describe(self, task):
    """Returns a task and its address as a person would write them."""
    job, index = task
    return f'{job} {index} ({self.jobs[job][index]})'

  def is_reachable(self, task):
    """Returns whether a task answers at its address."""
    job, index = task
    host, port = self.jobs[job][index].rsplit(':', 1)
    try:
      with socket.create_connection((host.strip('[]'), int(port)), timeout=2) as connection:
        # The kernel accepts connections even for a process that hangs. But in gRPC the server
        # speaks first, and that takes the process.
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
      UserError: the port is taken, or TensorFlow cannot serve at the address.
    """
    address = self.jobs[self.job][self.index]
    # TensorFlow would say only that it could not start.
    with socket.socket() as probe:
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      try:
        probe.bind(('', int(address.rsplit(':', 1)[1])))
      except OSError as error:
        raise UserError(f'{self.job} {self.index} cannot serve at {address} ({error.strerror}): '
                        'end whatever uses that port, or name another in the TF_CONFIG of every '
                        'task.') from error
    try:
      return tf.train.Server(self.spec, self.job, self.index, config=config)
    except tf.errors.OpError as error:
      raise UserError(f'{self.job} {self.index} cannot serve at {address} ({error.message}): '
                      'check the addresses in TF_CONFIG.') from error

  def lost(self, tasks):
    """Returns the error for tasks that have been silent for --peer_timeout_secs."""
    return UserError(f"No sign of life from {', '.join(map(self.describe, tasks))} for "
                     f'{FLAGS.peer_timeout_secs} seconds (--peer_timeout_secs): check that it is '
                     f'running and can be reached, then run {console.same_command()} again to '
                     'resume from the last checkpoint.')


def from_environment():
  """Returns the `Cluster` that TF_CONFIG describes.

  Raises:
    UserError: it is not set, or describes no cluster in which training can run.
  """
  text = os.environ.get('TF_CONFIG')
  if not text:
    raise UserError(f'TF_CONFIG is not set: set it to something like {_EXAMPLE}, or run '
                    'cifar10_train.py to train on this machine alone.')
  return parse(text)


def parse(text):
  """Returns the `Cluster` that a value of TF_CONFIG describes, see `from_environment`."""
  try:
    config = json.loads(text)
  except ValueError as error:
    raise _wrong(f'is not JSON ({error})') from error
  if not isinstance(config, dict):
    raise _wrong('is not an object in braces')
  task, cluster = config.get('task'), config.get('cluster')
  if not task or not isinstance(task, dict):
    raise _wrong('has no object "task"')
  if not cluster or not isinstance(cluster, dict):
    raise _wrong('has no object "cluster"')

  jobs = _jobs(cluster)
  # The others have no business with it, and the cluster need not list it.
  evaluators = jobs.pop('evaluator', [None])
  if 'ps' not in jobs:
    raise _wrong('names no ps, where the variables would live')
  if not jobs.keys() & {'chief', 'worker'}:
    raise _wrong('names neither a chief nor a worker')
  if len(jobs.get('chief', [])) > 1:
    raise _wrong('names more than one chief')
  addresses = sum(jobs.values(), [])
  shared = [address for address in addresses if addresses.count(address) > 1]
  if shared:
    raise _wrong(f'gives {shared[0]} to two tasks')

  job, index = _job(task.get('type')), task.get('index', 0)
  if type(index) is not int:
    raise _wrong(f'has a task whose index is not an integer: {json.dumps(index)}')
  count = len(evaluators if job == 'evaluator' else jobs.get(job, []))
  if not 0 <= index < count:
    raise _wrong(f"is for {task['type']} {index}, but the cluster has {count} of them")
  return Cluster(jobs, job, index)


def _jobs(cluster):
  """Returns a dictionary from jobs to lists of addresses, checked."""
  jobs = {}
  for name, addresses in cluster.items():
    job = _job(name)
    if job in jobs:
      raise _wrong('names the chief twice, as "chief" and as "master"')
    if not isinstance(addresses, list):
      raise _wrong(f'has no list of addresses for "{name}"')
    for address in addresses:
      match = isinstance(address, str) and _ADDRESS.fullmatch(address)
      if not match or int(match.group(3)) > 65535:
        raise _wrong(f'has an address for "{name}" that is not host:port: '
                     f'{json.dumps(address):.80}')
    if addresses:
      jobs[job] = addresses
  return jobs


def _job(name):
  job = 'chief' if name == 'master' else name
  if job not in _JOBS:
    raise _wrong(f"has a task of type {json.dumps(name)}, which is none of {', '.join(_JOBS)}")
  return job


def _wrong(what):
  return UserError(f'TF_CONFIG {what}: it must look like {_EXAMPLE}.')
