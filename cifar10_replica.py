"""One of the replicas that train a network together: each on a machine, all in step.

The variables live on the parameter servers. A step of the job is a round:

  1. Every replica reads the variables, computes the gradients of its own batch and adds them to
     accumulators beside the variables; then it notes on the `Board` that it has arrived.
  2. When all have arrived, the chief has the parameter servers average the gradients, update the
     variables and their moving averages, and begin the next round.
  3. Every replica waits until the number of the round has changed.

So N replicas with batches of n images compute what one device does with N * n. The number only
grows, also when the variables go back to a checkpoint. Gradients carry it, and the accumulators
drop those of an earlier round: whoever was killed, at any point, begins anew with the round that is
on, and nothing is left of what it was doing.

`tf.train.SyncReplicasOptimizer` has the chief and the workers wait on queues of tokens. A task that
is killed leaves tokens behind, or takes some along: then replicas wait for ever, or run ahead.
"""

import contextlib
import os

import numpy as np
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_cluster
import cifar10_console
import cifar10_device
import cifar10_watchdog
from cifar10_console import UserError

FLAGS = tf.app.flags.FLAGS

# So long TensorFlow may take, after a signal and without a parameter server, to come back.
_STOP_SECS = 5


class Replica:
  """This process as one of the replicas of a cluster."""

  def __init__(self, cluster):
    """Starts the server of this task; a `UserError` if its port is not to be had."""
    self.cluster = cluster
    self.number = cluster.replicas.index((cluster.job, cluster.index))
    self.count = len(cluster.replicas)
    self.is_chief = self.number == 0
    self.device = '/job:%s/task:%d' % (cluster.job, cluster.index)
    self.target = cluster.start_server(cifar10_device.session_config()).target
    self.watchdog = _Watchdog(cluster)
    self.round = None
    # The error of a chief that stopped because others are lost, when all is saved.
    self.lost = None

  @contextlib.contextmanager
  def at_work(self):
    """Tells the parameter servers that this replica trains, and how the training ends."""
    notice = cifar10_cluster.GAVE_UP
    with self.watchdog:
      try:
        self._tell(cifar10_cluster.AT_WORK)
        yield
        if self.lost:
          raise self.lost
        notice = cifar10_cluster.ENDED
      except (SystemExit, KeyboardInterrupt):
        notice = cifar10_cluster.STOPPED
        raise
      except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        # While training goes on these open the session anew; here it was about to end.
        notice = cifar10_cluster.STOPPED
        raise UserError('A parameter server was lost while the training ended: %s goes on from the '
                        'last checkpoint.' % cifar10_console.same_command()) from error
      finally:
        self._tell(notice)

  def _tell(self, notice):
    cifar10_cluster.tell(self.cluster, self.target, self.number, notice)

  def placement(self):
    """Returns the context that places variables on the parameter servers, all else on this task."""
    return tf.device(tf.train.replica_device_setter(
        cluster=self.cluster.spec, worker_device=self.device, ps_ops=['VarHandleOp'],
        ps_strategy=_FewestBytes(len(self.cluster.servers))))

  def train(self, total_loss, global_step):
    """Adds one step of training, as `cifar10.train` does for one device.

    Args:
      total_loss: a float32 scalar, see `cifar10.loss`.
      global_step: an integer variable, counted up by one each step.

    Returns:
      The op that computes the gradients and hands them in. The rest of the step is the work of
      `hook`, which the session must have.
    """
    optimizer = cifar10.gradient_descent(global_step, self.count * FLAGS.batch_size)
    gradients = optimizer.compute_gradients(total_loss)
    cifar10.gradient_summaries(gradients)
    self.round = _Round(self, optimizer, gradients, global_step)
    with tf.device(self.device):  # For it smooths the losses of this replica.
      smooth = cifar10.loss_summaries(tf.get_collection('losses') + [total_loss])
    return tf.group(self.round.arrive, smooth, name='train')

  def hook(self, is_stopped):
    """Returns the `tf.train.SessionRunHook` that a session which trains must have.

    Args:
      is_stopped: a function that returns whether to stop waiting for others, and then training.
    """
    return (_ChiefHook if self.is_chief else _WorkerHook)(self, is_stopped)

  def session_creator(self, config, check_stopped, scaffold=None, checkpoint_dir=None):
    """Returns the `tf.train.SessionCreator` for it; it waits for those who are needed.

    Args:
      config: a `tf.ConfigProto`.
      check_stopped: a function that raises an exception if it is to stop waiting.
      scaffold: for the chief, which initialises or restores the variables, a `tf.train.Scaffold`.
      checkpoint_dir: for the chief, path of the directory with the checkpoints.
    """
    config = cifar10_cluster.restricted(config, '/job:ps', self.device)
    chief_creator = None
    if self.is_chief:
      chief_creator = tf.train.ChiefSessionCreator(scaffold, self.target, config, checkpoint_dir)
    return _SessionCreator(self, config, chief_creator, check_stopped)


class _Watchdog(cifar10_watchdog.Watchdog):
  """Ends the process also when a parameter server is silent for --peer_timeout_secs.

  Nothing can interrupt an operation that waits on one that hangs, nor close the session of one that
  is gone.
  """

  def __init__(self, cluster):
    super().__init__()
    self._cluster = cluster

  def look(self, asked):
    super().look(asked)
    if self.silent_secs > FLAGS.peer_timeout_secs:
      try:
        cifar10_console.complain(self._lost())
      finally:  # Also if nobody reads any more.
        os._exit(1)
    # It may be saving.
    if asked and self.silent_secs > _STOP_SECS and self._missing():
      self.end(asked[0], 'while a parameter server does not answer')

  def _lost(self):
    missing = self._missing()
    if missing:
      return self._cluster.lost(missing)
    return UserError('TensorFlow has not come back for %d seconds (--peer_timeout_secs) although '
                     'all parameter servers answer: give it longer, if it was only slow; %s goes '
                     'on from the last checkpoint.'
                     % (FLAGS.peer_timeout_secs, cifar10_console.same_command()))

  def _missing(self):
    """Returns the parameter servers that do not answer."""
    return [server for server in self._cluster.servers if not self._cluster.is_reachable(server)]


class _FewestBytes:
  """Gives each variable to the parameter server that has the fewest bytes so far.

  In turns, one of two servers would get all the weights, and the other the biases.
  """

  def __init__(self, servers):
    self._bytes = [0] * servers

  def __call__(self, op):
    server = int(np.argmin(self._bytes))
    elements = tf.TensorShape(op.get_attr('shape')).num_elements()
    self._bytes[server] += elements * op.get_attr('dtype').size
    return server


class _Round:
  """What a round adds to the graph."""

  def __init__(self, replica, optimizer, gradients, global_step):
    """Args:
      replica: a `Replica`.
      optimizer: a `tf.train.Optimizer`.
      gradients: this replica's, a list of (gradient, variable).
      global_step: an integer variable, counted up by one each round.
    """
    boards = [cifar10_cluster.Board(replica.cluster, i) for _, i in replica.cluster.servers]
    self.state = boards[0].round, boards[0].arrived, boards[0].notices
    self.clusters = [board.cluster for board in boards]
    self.number = tf.placeholder(tf.int64, [], name='round')

    accumulators, averages, hand_in = [], [], []
    for gradient, variable in gradients:
      with tf.device(variable.device):
        accumulator = tf.ConditionalAccumulator(gradient.dtype, variable.shape,
                                                shared_name=variable.op.name + '/gradient')
        hand_in.append(accumulator.apply_grad(gradient, local_step=self.number))
        averages.append((accumulator.take_grad(replica.count), variable))
        accumulators.append(accumulator)
    with tf.control_dependencies(hand_in):
      self.arrive = tf.scatter_update(boards[0].arrived, [replica.number], [self.number]).op

    # The rest is for the chief.
    update = cifar10.apply_gradients(optimizer, averages, global_step)
    with tf.control_dependencies([update]):
      self.finish = tf.assign_add(boards[0].round, 1)
    self.drop_earlier = tf.group(*[a.set_global_step(self.number) for a in accumulators])
    self.sizes = [a.num_accumulated() for a in accumulators]
    self.empty = [a.take_grad(1).op for a in accumulators]
    self.begin = tf.assign(boards[0].round, self.number).op

    # Before, there is nothing to train.
    self.is_set_up = _are_initialized([board.notices for board in boards])
    self.is_ready = self.is_set_up & _are_initialized(tf.global_variables())


def _are_initialized(variables):
  return tf.reduce_all([tf.is_variable_initialized(variable) for variable in variables])


class _SessionCreator(tf.train.SessionCreator):
  """Opens the session, also anew when a parameter server was lost."""

  def __init__(self, replica, config, chief_creator, check_stopped):
    self._replica, self._config = replica, config
    self._chief_creator, self._check_stopped = chief_creator, check_stopped
    # The session before closes the queues of the input, and leaves them in the server.
    self._remove_queues = [
        tf.raw_ops.DestroyResourceOp(resource=runner.queue.queue_ref)
        for runner in tf.get_collection(tf.GraphKeys.QUEUE_RUNNERS)]

  def create_session(self):
    cluster = self._replica.cluster
    for server in cluster.servers:
      self._wait(lambda server=server: cluster.is_reachable(server), [server])
    with self._new_session() as session:
      self._wait(lambda: session.run(self._replica.round.is_set_up), cluster.servers)
      cifar10_cluster.check_same(cluster, session.run(self._replica.round.clusters))
      session.run(self._remove_queues)
    session = self._chief_creator.create_session() if self._chief_creator else self._new_session()
    self._wait(lambda: session.run(self._replica.round.is_ready), [cluster.chief])
    return session

  def _new_session(self):
    return tf.Session(self._replica.target, config=self._config)

  def _wait(self, is_over, tasks):
    def is_over_and_feeds():
      self._replica.watchdog.feed()
      return is_over()

    cifar10_cluster.wait(is_over_and_feeds, lambda: self._replica.cluster.lost(tasks),
                         self._check_stopped)


class _RoundHook(tf.train.SessionRunHook):
  """Sees a replica through the rounds, as the module describes them."""

  def __init__(self, replica, is_stopped):
    self._replica, self._is_stopped = replica, is_stopped
    self._cluster, self._round = replica.cluster, replica.round
    # As they were when this replica looked last.
    self._number, self._arrived, self._notices = None, None, None

  def before_run(self, run_context):
    self._replica.watchdog.feed()
    return tf.train.SessionRunArgs(None, {self._round.number: self._number})

  def _look(self, session):
    self._number, self._arrived, self._notices = session.run(self._round.state)
    self._replica.watchdog.feed()

  def _lost(self):
    """Returns the error that names those without whom the round does not end."""
    missing = [task for task, number in zip(self._cluster.replicas, self._arrived)
               if number != self._number]
    return self._cluster.lost(missing or [self._cluster.chief])


class _ChiefHook(_RoundHook):
  """Begins a round with each session, and ends the round when all have arrived."""

  def after_create_session(self, session, coord):
    self._look(session)
    number = {self._round.number: self._number + 1}
    session.run(self._round.drop_earlier, number)
    sizes = session.run(self._round.sizes)
    session.run([empty for empty, size in zip(self._round.empty, sizes) if size])
    # Emptying counts up what tells them from which round on gradients are good.
    session.run(self._round.drop_earlier, number)
    session.run(self._round.begin, number)
    self._number += 1

  def after_run(self, run_context, run_values):
    session = run_context.session

    def all_have_arrived():
      self._look(session)
      return (self._arrived == self._number).all()

    try:
      if cifar10_cluster.wait(all_have_arrived, self._lost, self._is_stopped):
        self._number = session.run(self._round.finish)
        return
    except UserError as error:
      self._replica.lost = error
    run_context.request_stop()


class _WorkerHook(_RoundHook):
  """Waits until the chief has ended the round, or the job."""

  def after_create_session(self, session, coord):
    self._has_told = False
    self._look(session)
    # It may have arrived in this round before it was killed.
    if not self._wait_for_round_after(self._arrived[self._replica.number], session):
      coord.request_stop()

  def after_run(self, run_context, run_values):
    if not self._wait_for_round_after(self._number, run_context.session):
      run_context.request_stop()
    elif not self._has_told:
      print('Worker %d trains along.' % self._cluster.index)
      self._has_told = True

  def _wait_for_round_after(self, number, session):
    """Returns whether there is one."""
    def has_news():
      self._look(session)
      return self._number != number or self._notices[0] in (cifar10_cluster.ENDED,
                                                            cifar10_cluster.GAVE_UP)

    if not cifar10_cluster.wait(has_news, self._lost, self._is_stopped):
      return False
    cifar10_cluster.check_chief(self._cluster, self._notices)
    if self._notices[0] == cifar10_cluster.ENDED:
      print('The job has ended.')
      return False
    return True
