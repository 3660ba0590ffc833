"""A parameter server: holds variables for the replicas until the job ends.

It also holds the `Board`, on which the tasks say how they are.
"""

import contextlib
import sys
import time

import numpy as np
import tensorflow.compat.v1 as tf

from cifar10_support.console import UserError
from cifar10_support.signals import StopSignals

FLAGS = tf.app.flags.FLAGS

# What a replica has last said of itself on the board.
RUNNING, FINISHED, FAILED, STOPPED = range(4)

# How long a parameter server stays for those who still need it: replicas that have not heard of the
# end, or a chief that was asked to stop at the same time and is saving.
_GRACE_SECS = 10


class Board:
  """What the tasks tell each other: variables in a parameter server's memory, in no checkpoint.

  Each parameter server sets up its own when it starts.

  Fields, all int64:
    cluster: which cluster the server belongs to, see `Cluster.fingerprint`.
    statuses: of shape [replicas], what each last said: RUNNING, FINISHED, FAILED or STOPPED.
    round, arrived: see `replica`; only those of the first server are used.
  """

  def __init__(self, cluster, server):
    """Adds the variables of parameter server number `server` to the graph."""
    replicas = [len(cluster.replicas)]
    # A round takes more than a millisecond: so a restarted server begins with a higher number.
    start = int(1000 * time.time())
    with tf.device(f'/job:ps/task:{server}/cpu:0'), tf.container('board'):
      self.cluster = self._variable(f'cluster_{server}', [], cluster.fingerprint)
      self.round = self._variable(f'round_{server}', [], start)
      self.arrived = self._variable(f'arrived_{server}', replicas, start)
      self.statuses = self._variable(f'statuses_{server}', replicas, RUNNING)
      # The statuses last: whoever finds them set up finds the others too.
      with tf.control_dependencies([variable.initializer for variable in
                                    (self.cluster, self.round, self.arrived)]):
        self.set_up = tf.assign(self.statuses, tf.fill(replicas, np.int64(RUNNING))).op

  def _variable(self, name, shape, value):
    return tf.Variable(tf.fill(shape, np.int64(value)), trainable=False, collections=[], name=name,
                       use_resource=True)


def restricted(config, *devices):
  """Returns a copy of a `tf.ConfigProto` for a session that uses only these devices.

  Any other session waits for every task of the cluster, even one that is just being restarted.
  """
  filtered = tf.ConfigProto()
  filtered.CopyFrom(config)
  filtered.device_filters.extend(devices)
  return filtered


def report(cluster, target, replica, status):
  """Writes the status of a replica on the board of every parameter server that can be reached.

  Args:
    cluster: a `Cluster`.
    target: the target of this task's server.
    replica: the number of the replica.
    status: RUNNING, FINISHED, FAILED or STOPPED.
  """
  for server in cluster.servers:
    if not cluster.is_reachable(server):
      continue
    with tf.Graph().as_default():
      board = Board(cluster, server[1])
      write = tf.scatter_update(board.statuses, [replica], [status])
      config = restricted(tf.ConfigProto(), f'/job:ps/task:{server[1]}',
                          '/job:{}/task:{}'.format(*cluster.replicas[replica]))
      # A server that has just left, or has only just started, does not need to know.
      with contextlib.suppress(tf.errors.OpError), tf.Session(target, config=config) as session:
        # One of another cluster would take this replica for one of its own.
        if session.run(board.cluster) == cluster.fingerprint:
          session.run(write)


def check_chief(cluster, statuses):
  """Raises a `UserError` if the chief has failed."""
  if statuses[0] == FAILED:
    raise UserError(f'The chief, {cluster.describe(cluster.chief)}, failed: its own output says '
                    'why.')


def serve(cluster):
  """Serves as a parameter server until the job ends.

  Raises:
    UserError: the port is taken, or the chief has failed or vanished.
  """
  config = tf.ConfigProto(device_count={'GPU': 0})  # GPUs are for the replicas.
  server = cluster.start_server(config)
  with StopSignals() as signals, tf.Graph().as_default():
    board = Board(cluster, cluster.index)
    with tf.Session(server.target, config=restricted(
        config, f'/job:ps/task:{cluster.index}')) as session:
      session.run(board.set_up)
      print(f'Parameter server {cluster.index} serves until the job ends.')
      _wait_for_end(cluster, lambda: session.run(board.statuses), signals)


def _wait_for_end(cluster, read_statuses, signals):
  chief_seen = time.monotonic()  # Running, for the last time.
  asked_to_stop = None
  while True:
    now = time.monotonic()
    statuses = read_statuses().tolist()
    if statuses[0] in (FINISHED, FAILED):
      if RUNNING not in statuses or now - chief_seen > _GRACE_SECS:
        check_chief(cluster, statuses)
        print('The job has ended.')
        return
    elif cluster.is_reachable(cluster.chief):
      chief_seen = now
    # The workers miss the chief too. They should say so, and not that they miss us.
    elif now - chief_seen > FLAGS.peer_timeout_secs + _GRACE_SECS:
      raise cluster.lost([cluster.chief])
    if signals.received and not asked_to_stop:
      print(f'Asked to stop: the chief has up to {_GRACE_SECS} seconds to save.')
      asked_to_stop = now
    if asked_to_stop and (statuses[0] != RUNNING or now - asked_to_stop > _GRACE_SECS):
      sys.exit(128 + signals.received)
    time.sleep(0.2)
