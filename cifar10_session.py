"""What the training scripts share around `session.run`.

Their flags, the log line, checkpoints and summaries, resuming, and stopping. What a step computes
is in the scripts and in `cifar10.py`.
"""

import contextlib
import math
import os
import signal
import sys
import threading
import time

import tensorflow.compat.v1 as tf

import cifar10
import cifar10_checkpoint
import cifar10_console
import cifar10_device
import cifar10_errors
import cifar10_run
import cifar10_watchdog
from cifar10_console import STOP_SIGNALS
from cifar10_console import UserError

FLAGS = tf.app.flags.FLAGS

tf.app.flags.DEFINE_string('train_dir', 'cifar10/train',
                           'Directory for checkpoints and event files. A run that is there is '
                           'resumed.')
tf.app.flags.DEFINE_integer('max_steps', 100000, 'Batches to train on, those before a resumption '
                            'included.', lower_bound=1)
tf.app.flags.DEFINE_integer('log_frequency', 10, 'Steps from one log line to the next.',
                            lower_bound=1)
tf.app.flags.DEFINE_integer('save_checkpoint_secs', 600, 'Seconds from one checkpoint to the next.',
                            lower_bound=1)
tf.app.flags.DEFINE_integer('save_summaries_steps', 100, 'Steps from one summary for TensorBoard '
                            'to the next; 0 writes none.', lower_bound=0)
tf.app.flags.DEFINE_integer('profile_steps', 0, 'Steps from one profile to the next; 0 writes '
                            'none. timeline-STEP.json in --train_dir shows when each op ran: '
                            'open it in chrome://tracing or https://ui.perfetto.dev.',
                            lower_bound=0)
tf.app.flags.DEFINE_boolean('log_device_placement', False, 'Tell on which device each op runs.')
tf.app.flags.DEFINE_boolean('restart', False, 'Delete the run in --train_dir and start over.')


@contextlib.contextmanager
def training_session(loss, examples_per_step, towers=1, replica=None):
  """Opens the session for training on the graph built so far.

  The session initialises or restores the variables, runs the input queues, logs, saves, and asks
  to stop (`session.should_stop()`) after --max_steps, or after SIGINT, SIGTERM or SIGHUP. On
  leaving it the last checkpoint is written; after a signal the process then exits.

  Args:
    loss: a float32 scalar, to log and to watch.
    examples_per_step: how many images one step takes, in a cluster those of one replica.
    towers: how many towers take them, see `cifar10_device.tower_devices`.
    replica: this task of a cluster, a `cifar10_replica.Replica`, or None. Workers leave the run's
      directory, the log and the end of the training to the chief.

  Yields:
    A `tf.train.MonitoredSession`.

  Raises:
    UserError: --train_dir cannot be used, the loss or the weights are not finite, the disk or the
      input fail, or another task of the cluster is lost.
  """
  if replica and not replica.is_chief:
    with _worker_session(replica) as session:
      yield session
    return
  train_dir, classes = checked_train_dir(), cifar10.classes()
  # What is added here is one box in TensorBoard's picture of the graph.
  with cifar10_run.locked(train_dir) as is_in_place, tf.name_scope('session'):
    _prepare(train_dir, classes)

    # What follows is `tf.train.MonitoredTrainingSession`, spelled out because a replica opens its
    # session in a way of its own. The log comes before what saves: a loss that is not finite leaves
    # the last checkpoint alone.
    watchdog = replica.watchdog if replica else cifar10_watchdog.Watchdog()
    stop = _StopHook(FLAGS.max_steps, watchdog)
    log = _LogHook(train_dir, loss, examples_per_step * (replica.count if replica else 1))
    scaffold = tf.train.Scaffold(saver=_Saver(is_in_place))
    hooks = [log]
    if replica:
      hooks.append(replica.hook(stop.is_signalled))
    if FLAGS.save_summaries_steps:
      hooks.append(tf.train.SummarySaverHook(FLAGS.save_summaries_steps, output_dir=train_dir,
                                             scaffold=scaffold))
    hooks += [tf.train.CheckpointSaverHook(train_dir, FLAGS.save_checkpoint_secs,
                                           scaffold=scaffold), stop]
    if FLAGS.profile_steps:
      hooks.append(tf.train.ProfilerHook(save_steps=FLAGS.profile_steps, output_dir=train_dir))

    config = cifar10_device.session_config(FLAGS.log_device_placement, towers)
    if replica:
      creator = replica.session_creator(config, stop.exit_if_signalled, scaffold, train_dir)
    else:
      creator = tf.train.ChiefSessionCreator(scaffold, config=config, checkpoint_dir=train_dir)
    # A replica's watches already, and longer than its session lasts.
    watching = contextlib.nullcontext() if replica else watchdog
    with watching, stop.handlers_restored(), cifar10_errors.reported(_what_then()):
      with tf.train.MonitoredSession(creator, hooks) as session:
        yield session
  stop.exit_if_signalled()
  log.raise_if_unread()


@contextlib.contextmanager
def _worker_session(replica):
  """Opens the session of a worker, see `training_session`."""
  stop = _StopHook(sys.maxsize, replica.watchdog)
  config = cifar10_device.session_config(FLAGS.log_device_placement)
  creator = replica.session_creator(config, stop.exit_if_signalled)
  with stop.handlers_restored(), cifar10_errors.reported(_what_then()):
    with tf.train.MonitoredSession(creator, [replica.hook(stop.is_signalled), stop]) as session:
      yield session
  stop.exit_if_signalled()


def checked_train_dir():
  """Returns the run's directory; a `UserError` if --train_dir can be none."""
  train_dir = cifar10.directory('train_dir')
  cifar10_run.check_directory(train_dir, 'train_dir')
  return train_dir


def _prepare(train_dir, classes):
  """Sees to it that the directory is in order, fits this program, and tells of this start."""
  if FLAGS.restart:
    # The first layer and the last remain when a reader changes those between.
    variables = tf.trainable_variables()
    cifar10_checkpoint.check_restart(
        train_dir, [v.op.name for v in (variables[0], variables[-1], tf.train.get_global_step())])
    cifar10_run.clear(train_dir)
  cifar10_run.check_data_set(train_dir, classes)
  # What another program has left in the directory is not ours to put in order.
  is_ours = cifar10_run.read(train_dir) is not None
  checkpoint = (cifar10_checkpoint.recover(train_dir) if is_ours
                else cifar10_checkpoint.latest_as_it_is(train_dir))
  step = checkpoint and cifar10_checkpoint.check_fits(
      checkpoint, {v.op.name: v for v in tf.global_variables()})
  # A start that has nothing to do does not change where the run ends.
  if not checkpoint or step < FLAGS.max_steps:
    cifar10_run.record_start(train_dir, _flags(), classes)


def _what_then():
  return '%s goes on from the last checkpoint' % cifar10_console.same_command()


def _flags():
  """Returns our own flags and their values, without those of the libraries."""
  return {flag.name: flag.value for module, flags in FLAGS.flags_by_module_dict().items()
          if module.startswith('cifar10') or module == sys.argv[0] for flag in flags}


def _advice(train_dir):
  """Returns what to do when training has diverged."""
  return ('%s resumes from the checkpoint in %s; if it happens again, lower '
          '--initial_learning_rate.' % (cifar10_console.same_command(), train_dir))


class _Saver(tf.train.Saver):
  """Saves all variables, if they are finite."""

  def __init__(self, is_in_place):
    """Args:
      is_in_place: a function that returns whether the run's directory still is what it was.
    """
    self._is_in_place = is_in_place
    # With relative paths a run that is copied or moved stays one of its own.
    super().__init__(save_relative_paths=True)
    with tf.name_scope('finite'):
      self._finite = tf.reduce_all([tf.reduce_all(tf.is_finite(variable))
                                    for variable in tf.global_variables()
                                    if variable.dtype.base_dtype.is_floating])

  def save(self, session, save_path, *args, **kwargs):
    if not session.run(self._finite):
      raise UserError('The weights are not finite any more: %s'
                      % _advice(os.path.dirname(save_path)))
    vanished = UserError('%s has vanished, or is not the directory that it was: put it back, and '
                         '%s goes on from the last checkpoint in it.'
                         % (os.path.dirname(save_path), cifar10_console.same_command()))
    if not self._is_in_place():
      raise vanished
    try:
      return super().save(session, save_path, *args, **kwargs)
    except ValueError as error:  # So says TensorFlow if it vanishes meanwhile.
      raise vanished from error


class _LogHook(tf.train.SessionRunHook):
  """Prints where the run goes, then the log lines, and stops when the loss is not finite."""

  def __init__(self, train_dir, loss, examples_per_step):
    self._train_dir = train_dir
    self._loss = loss
    self._examples_per_step = examples_per_step
    self._unread = None

  def begin(self):
    self._global_step = tf.train.get_global_step()

  def after_create_session(self, session, coord):
    self._step = session.run(self._global_step)
    if self._step >= FLAGS.max_steps:
      print('%s has reached step %d: for more, raise --max_steps.' % (self._train_dir, self._step))
    elif self._step:
      print('Resuming %s from step %d.' % (self._train_dir, self._step))
    else:
      print('Training in %s.' % self._train_dir)
    self._logged_step, self._logged_time = self._step, time.perf_counter()
    self._writer = tf.summary.FileWriterCache.get(self._train_dir)

  def before_run(self, run_context):
    return tf.train.SessionRunArgs(self._loss)

  def after_run(self, run_context, run_values):
    loss = run_values.results
    if not math.isfinite(loss):
      raise UserError('The loss is %s at step %d: %s'
                      % (loss, self._step, _advice(self._train_dir)))
    if self._step % FLAGS.log_frequency == 0:
      try:
        self._log(loss)
      except (BrokenPipeError, UserError) as error:
        self._unread = error
        run_context.request_stop()
    self._step += 1

  def raise_if_unread(self):
    """Reports, when the run is safe on disk, that our lines cannot be written any more.

    The disk of a log file is full, or whoever read them has left (`| head`).
    """
    if self._unread:
      raise self._unread

  def _log(self, loss):
    now = time.perf_counter()
    # This step is done, whatever its number says: the first has number 0.
    steps = self._step + 1 - self._logged_step
    secs_per_step = (now - self._logged_time) / steps
    examples_per_sec = self._examples_per_step / secs_per_step
    cifar10_console.log('step %d, loss = %.2f (%.1f examples/sec; %.3f sec/batch)'
                        % (self._step, loss, examples_per_sec, secs_per_step))
    if FLAGS.save_summaries_steps:
      value = tf.Summary.Value(tag='examples/sec', simple_value=examples_per_sec)
      self._writer.add_summary(tf.Summary(value=[value]), self._step)
    self._logged_step, self._logged_time = self._step + 1, now


class _StopHook(tf.train.StopAtStepHook):
  """Asks to stop after the last step, or after the step during which a signal came."""

  def __init__(self, last_step, watchdog):
    super().__init__(last_step=last_step)
    self._watchdog = watchdog
    self._signal = None
    self._step = None
    self._handlers = {}

  def begin(self):
    super().begin()
    # Python lets only the main thread do this; in others the caller has its own way to stop.
    if threading.current_thread() is threading.main_thread():
      for number in STOP_SIGNALS:
        # Who started us in the background (`&` in a script) has Ctrl-C ignored: so do we.
        if signal.getsignal(number) != signal.SIG_IGN:
          self._handlers[number] = signal.signal(number, self._note)

  def _note(self, number, frame):
    self._signal = self._signal or signal.Signals(number)
    # Who asks again does not want to wait; but a terminal that closes, and its shell, send SIGHUP
    # each. Only for this signal: the other may have come as well, and Python would complain that
    # its handler is gone.
    if number != signal.SIGHUP:
      signal.signal(number, self._handlers.pop(number))

  def is_signalled(self):
    return self._signal is not None

  @contextlib.contextmanager
  def handlers_restored(self):
    """Gives the signals back, after the body, to whoever had them."""
    try:
      yield
    finally:
      # A signal may come meanwhile, see `_note`.
      for number, handler in list(self._handlers.items()):
        signal.signal(number, handler)
      self._handlers = {}

  def after_create_session(self, session, coord):
    super().after_create_session(session, coord)
    self._global_step = tf.train.get_global_step()
    if session.run(self._global_step) >= self._last_step:
      coord.request_stop()

  def before_run(self, run_context):
    self._watchdog.feed()
    return super().before_run(run_context)

  def after_run(self, run_context, run_values):
    self._watchdog.feed()
    super().after_run(run_context, run_values)
    if self._signal:
      run_context.request_stop()

  def end(self, session):
    self._step = session.run(self._global_step)

  def exit_if_signalled(self):
    """Ends the process with the conventional status, if it was a signal that ended the loop."""
    if self._signal:
      where = 'after step %d' % self._step if self._step is not None else 'waiting for other tasks'
      with contextlib.suppress(BrokenPipeError, UserError):  # The terminal may be gone.
        print('Stopped by %s %s; %s goes on from there, in %s.'
              % (self._signal.name, where, cifar10_console.same_command(),
                 cifar10.directory('train_dir')))
      sys.exit(128 + self._signal)
