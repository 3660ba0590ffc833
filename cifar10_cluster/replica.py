"""A replica: one of the tasks that train the network together, each on a machine, all in step.

The variables live on the parameter servers. A step of training is a round:

  1. Every replica reads the variables, computes the gradients of its own batch, and adds them to
     accumulators beside the variables. Then it writes on the `Board` that it has arrived.
  2. When all have arrived, the chief has the parameter servers average the gradients, update the
     variables and their moving averages, and begin the next round.
  3. Every worker waits until the number of the round changes.

So N replicas with batches of n images compute what one device does with N * n.

What if a task is killed in the middle? The number of the round only ever grows, even when the
variables go back to a checkpoint. Gradients carry it, and the accumulators drop those of an earlier
round. So a task that is restarted just joins the current round: nothing it did before counts.

`tf.train.SyncReplicasOptimizer` makes the replicas wait on queues of tokens instead. A task that is
killed leaves tokens behind, or takes some along, and then the others run ahead or wait for ever.
"""

import contextlib
import os
import threading
import time

import numpy as np
import tensorflow.compat.v1 as tf

import cifar10
from cifar10_cluster import parameter_server
from cifar10_support import console
from cifar10_support import freezing
from cifar10_support import signals as stop_signals
from cifar10_support import tf_setup
from cifar10_support import training
from cifar10_support.console import UserError

FLAGS = tf.app.flags.FLAGS

# How long TensorFlow may take to return after a signal, if a parameter server is gone.
_STOP_SECS = 5


class Replica:
  """This process as one of the replicas of a cluster."""

  def __init__(self, cluster, signals):
    """Starts the server of this task; raises a `UserError` if its port is taken.

    Args:
      cluster: a `tf_config.Cluster`.
      signals: a `StopSignals` that is already entered.
    """
    self.cluster, self.signals = cluster, signals
    self.number = cluster.replicas.index((cluster.job, cluster.index))
    self.count = len(cluster.replicas)
    self.is_chief = self.number == 0
    self.device = f'/job:{cluster.job}/task:{cluster.index}'
    self.target = cluster.start_server(tf_setup.session_config()).target
    self.watchdog = Watchdog(cluster, signals)
    self.round = None
    self.error = None  # A chief that misses others saves first, and then raises this.

  @contextlib.contextmanager
  def running(self):
    """A context in which the parameter servers know that this replica runs, and then how it ended.

    Raises:
      UserError: another task is missing.
    """
    status = parameter_server.FAILED
    with self.watchdog:
      try:
        self._report(parameter_server.RUNNING)
        yield
        if self.error:
          raise self.error
        status = parameter_server.FINISHED
      except (SystemExit, KeyboardInterrupt):
        status = parameter_server.STOPPED
        raise
      except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        # During training the session is reopened after these. Here it was closing.
        status = parameter_server.STOPPED
        raise UserError('A parameter server was lost while training ended: run '
                        f'{console.same_command()} again to resume from the last '
                        'checkpoint.') from error
      finally:
        self._report(status)

  def _report(self, status):
    parameter_server.report(self.cluster, self.target, self.number, status)

  def placement(self):
    """Returns a context that places variables on the parameter servers, all else on this task."""
    return tf.device(tf.train.replica_device_setter(
        cluster=self.cluster.spec, worker_device=self.device, ps_ops=['VarHandleOp'],
        ps_strategy=_GreedyLoadBalancing(len(self.cluster.servers))))

  def train(self, total_loss, global_step):
    """Adds one step of training, as `cifar10.train` does for one device.

    Args:
      total_loss: a float32 scalar, see `cifar10.loss`.
      global_step: an integer variable, incremented by each step.

    Returns:
      The op that computes the gradients and hands them in. What remains of the round is up to the
      hooks of `session`.
    """
    optimizer = cifar10.gradient_descent(global_step, self.count * FLAGS.batch_size)
    gradients = optimizer.compute_gradients(total_loss,
                                            freezing.variables_to_train(cifar10.FREEZE))
    cifar10.gradient_summaries(gradients)
    self.round = _Round(self, optimizer, gradients, global_step)
    if not self.is_chief:  # The chief's stand for all.
      tf.get_collection_ref(tf.GraphKeys.UPDATE_OPS).clear()
    with tf.device(self.device):  # It smooths the losses of this replica.
      return cifar10.whole_step(self.round.arrive, tf.get_collection('losses') + [total_loss])

  @contextlib.contextmanager
  def session(self, train_op, loss, data):
    """Opens the session for training on the graph built so far.

    On the chief it is a `training_session`. Workers leave to the chief the run's directory, the log
    and when to end.

    Args:
      train_op: what `train` returned.
      loss: a float32 scalar, to log and to watch.
      data: what to record of the data, see `dataset.DataSet.seen_as`.

    Yields:
      On the chief a `TrainingSession`, else a `tf.train.MonitoredSession`.

    Raises:
      UserError: as `training_session` does, or another task is missing.
    """
    if self.is_chief:
      with training.training_session(
          train_op, loss, self.count * FLAGS.batch_size, data, hooks=[self.hook()],
          session_creator=lambda scaffold, config: _SessionCreator(self, config, scaffold),
          signals=self.signals) as session:
        yield session
      return
    config = tf_setup.session_config(FLAGS.log_device_placement,
                                     xla=FLAGS.xla and tf_setup.can_compile())
    creator = _SessionCreator(self, config)
    with tf_setup.explained_errors(f'run {console.same_command()} again'):
      with tf.train.MonitoredSession(creator, [self.hook()]) as session:
        yield session
    self.signals.exit_if_received('during training; the others wait for this task to return')

  def hook(self):
    """Returns the `tf.train.SessionRunHook` that takes this replica through the rounds."""
    return (_ChiefHook if self.is_chief else _WorkerHook)(self)

  def poll_until(self, done, missing):
    """Asks again and again, with growing pauses, whether something has happened.

    No op ever waits on a server. So a task that is killed leaves nothing there that waits in its
    place, and one that waits notices signals.

    Args:
      done: a function that returns whether it has happened.
      missing: a function that returns the tasks that are being waited for.

    Returns:
      Whether it has happened; otherwise a signal came first.

    Raises:
      UserError: --peer_timeout_secs have passed.
    """
    start = time.monotonic()
    while not self.signals.received:
      is_done = done()
      self.watchdog.feed()
      if is_done:
        return True
      waited = time.monotonic() - start
      if waited > FLAGS.peer_timeout_secs:
        raise self.cluster.lost(missing())
      # Notices at most 5% of the time too late, or 2 ms.
      time.sleep(min(1.0, 0.002 + 0.05 * waited))
    return False


class Watchdog:
  """A context in which the process ends if a parameter server keeps TensorFlow from returning.

  Nothing can interrupt an op that waits for a server that hangs, nor close the session of one that
  is gone. So a thread watches for how long nothing has returned.
  """

  def __init__(self, cluster, signals):
    self._cluster, self._signals = cluster, signals
    self._is_over = threading.Event()

  def __enter__(self):
    self.feed()
    threading.Thread(target=self._watch, daemon=True).start()

  def __exit__(self, *error):
    self._is_over.set()

  def feed(self):
    """Notes that TensorFlow has returned."""
    self._silent_secs = 0

  def _watch(self):
    # It counts, because the clock runs on while the process is suspended.
    while not self._is_over.wait(1.0):
      self._silent_secs += 1
      if self._silent_secs > FLAGS.peer_timeout_secs:
        try:
          console.complain(self._error())
        finally:  # Even if nobody reads any more.
          os._exit(1)
      # With all servers there, TensorFlow may just be saving.
      if self._signals.received and self._silent_secs > _STOP_SECS and self._missing():
        stop_signals.end_now(self._signals.received, 'while a parameter server does not answer')

  def _error(self):
    missing = self._missing()
    if missing:
      return self._cluster.lost(missing)
    return UserError(f'TensorFlow has not returned for {FLAGS.peer_timeout_secs} seconds '
                     '(--peer_timeout_secs), although all parameter servers answer. If it was '
                     f'only slow, raise the limit; run {console.same_command()} again to resume '
                     'from the last checkpoint.')

  def _missing(self):
    """Returns the parameter servers that do not answer."""
    return [server for server in self._cluster.servers if not self._cluster.is_reachable(server)]


class _GreedyLoadBalancing:
  """Gives each variable to the parameter server that has the fewest bytes so far.

  Dealt out in turns, all weights would go to one of two servers and all biases to the other.
  """

  def __init__(self, servers):
    self._bytes = [0] * servers

  def __call__(self, op):
    server = int(np.argmin(self._bytes))
    elements = tf.TensorShape(op.get_attr('shape')).num_elements()
    self._bytes[server] += elements * op.get_attr('dtype').size
    return server


class _Round:
  """The ops of a round."""

  def __init__(self, replica, optimizer, gradients, global_step):
    """Args:
      replica: a `Replica`.
      optimizer: a `tf.train.Optimizer`.
      gradients: this replica's, a list of (gradient, variable).
      global_step: an integer variable, incremented by each round.
    """
    boards = [parameter_server.Board(replica.cluster, i) for _, i in replica.cluster.servers]
    self.state = boards[0].round, boards[0].arrived, boards[0].statuses
    self.clusters = [board.cluster for board in boards]
    self.global_step = global_step
    self.number = tf.placeholder(tf.int64, [], name='round')

    accumulators, averages, hand_in = [], [], []
    for gradient, variable in gradients:
      if gradient is None:
        averages.append((None, variable))
        continue
      with tf.device(variable.device):
        accumulator = tf.ConditionalAccumulator(gradient.dtype, variable.shape,
                                                shared_name=f'{variable.op.name}/gradient')
        hand_in.append(accumulator.apply_grad(gradient, local_step=self.number))
        averages.append((accumulator.take_grad(replica.count), variable))
        accumulators.append(accumulator)
    with tf.control_dependencies(hand_in):
      self.arrive = tf.scatter_update(boards[0].arrived, [replica.number], [self.number]).op

    # The chief runs what follows.
    update = cifar10.apply_gradients(optimizer, averages, global_step)
    with tf.control_dependencies([update]):
      self.finish = tf.assign_add(boards[0].round, 1)
    self.drop_earlier = tf.group(*[a.set_global_step(self.number) for a in accumulators])
    self.sizes = [a.num_accumulated() for a in accumulators]
    self.empty = [a.take_grad(1).op for a in accumulators]
    self.begin = tf.assign(boards[0].round, self.number).op

    # Until these are true, no session can train.
    self.is_set_up = _are_initialized([board.statuses for board in boards])
    self.is_ready = self.is_set_up & _are_initialized(tf.global_variables())


def _are_initialized(variables):
  return tf.reduce_all([tf.is_variable_initialized(variable) for variable in variables])


class _SessionCreator(tf.train.SessionCreator):
  """Opens the session when the tasks that it needs are there; again after a server was lost."""

  def __init__(self, replica, config, scaffold=None):
    """Args:
      replica: a `Replica`.
      config: a `tf.ConfigProto`.
      scaffold: a `tf.train.Scaffold` for the chief, which restores or initialises the variables.
    """
    self._replica = replica
    self._config = parameter_server.restricted(config, '/job:ps', replica.device)
    self._chief_creator = scaffold and tf.train.ChiefSessionCreator(scaffold, replica.target,
                                                                    self._config)
    # A session that ends closes the queues of the input, and they may outlive it in the server.
    self._remove_queues = [
        tf.raw_ops.DestroyResourceOp(resource=runner.queue.queue_ref)
        for runner in tf.get_collection(tf.GraphKeys.QUEUE_RUNNERS)]

  def create_session(self):
    cluster, this_round = self._replica.cluster, self._replica.round
    for server in cluster.servers:
      self._wait(lambda server=server: cluster.is_reachable(server), [server])
    with self._new_session() as session:
      self._wait(lambda: session.run(this_round.is_set_up), cluster.servers)
      self._check_same_cluster(session.run(this_round.clusters))
      session.run(self._remove_queues)
    session = self._chief_creator.create_session() if self._chief_creator else self._new_session()
    self._wait(lambda: session.run(this_round.is_ready), [cluster.chief])
    return session

  def _new_session(self):
    return tf.Session(self._replica.target, config=self._config)

  def _wait(self, done, tasks):
    if not self._replica.poll_until(done, lambda: tasks):
      self._replica.signals.exit_if_received('while it waited for other tasks')

  def _check_same_cluster(self, fingerprints):
    cluster = self._replica.cluster
    others = [cluster.describe(server) for server, fingerprint in zip(cluster.servers, fingerprints)
              if fingerprint != cluster.fingerprint]
    if others:
      raise UserError(f"The TF_CONFIG of this task and that of {', '.join(others)} describe "
                      'different clusters: start all tasks again with the same one.')


class _RoundHook(tf.train.SessionRunHook):
  """Takes a replica through the rounds, as the module describes them."""

  def __init__(self, replica):
    self._replica, self._cluster, self._round = replica, replica.cluster, replica.round
    # As they were when this replica last looked.
    self._number, self._arrived, self._statuses = None, None, None

  def before_run(self, run_context):
    self._replica.watchdog.feed()
    return tf.train.SessionRunArgs(None, {self._round.number: self._number})

  def _look(self, session):
    self._number, self._arrived, self._statuses = session.run(self._round.state)

  def _missing(self):
    """Returns the tasks that keep the round from ending."""
    missing = [task for task, number in zip(self._cluster.replicas, self._arrived)
               if number != self._number]
    return missing or [self._cluster.chief]


class _ChiefHook(_RoundHook):
  """Begins a round with each session, and ends the round when all have arrived."""

  def after_create_session(self, session, coord):
    if self._number is not None:
      print('A parameter server was restarted: resuming from step '
            f'{session.run(self._round.global_step)}.')
    self._look(session)
    number = {self._round.number: self._number + 1}
    session.run(self._round.drop_earlier, number)
    sizes = session.run(self._round.sizes)
    session.run([empty for empty, size in zip(self._round.empty, sizes) if size])
    # Emptying has counted up from which round on an accumulator takes gradients.
    session.run(self._round.drop_earlier, number)
    session.run(self._round.begin, number)
    self._number += 1

  def after_run(self, run_context, run_values):
    session = run_context.session

    def all_have_arrived():
      self._look(session)
      return (self._arrived == self._number).all()

    try:
      if self._replica.poll_until(all_have_arrived, self._missing):
        self._number = session.run(self._round.finish)
        return
    except UserError as error:
      self._replica.error = error
    # The round stays unfinished, so the hooks after this one must not count it as a step. To a
    # MonitoredSession this is the end of the input: it saves what there is.
    raise StopIteration


class _WorkerHook(_RoundHook):
  """Waits until the chief has ended the round, or the job."""

  _has_trained = False

  def after_create_session(self, session, coord):
    self._look(session)
    # It may have arrived in this round before it was killed.
    if not self._next_round(self._arrived[self._replica.number], session):
      coord.request_stop()

  def after_run(self, run_context, run_values):
    if not self._next_round(self._number, run_context.session):
      run_context.request_stop()
    elif not self._has_trained:
      print(f'Worker {self._cluster.index} is training.')
      self._has_trained = True

  def _next_round(self, number, session):
    """Waits for a round after that number; returns whether one comes."""
    def has_news():
      self._look(session)
      return self._number != number or self._statuses[0] in (parameter_server.FINISHED,
                                                             parameter_server.FAILED)

    if not self._replica.poll_until(has_news, self._missing):
      return False
    parameter_server.check_chief(self._cluster, self._statuses)
    if self._statuses[0] == parameter_server.FINISHED:
      print('The job has ended.')
      return False
    return True
