"""What training scripts share around `session.run`: flags, log, checkpoints, resuming, stopping.

What a step computes is in the scripts and in `cifar10.py`.
"""

import contextlib
import math
import os
import sys
import time

import tensorflow.compat.v1 as tf

from cifar10_support import checkpoints
from cifar10_support import console
from cifar10_support import hyperparameters
from cifar10_support import runs
from cifar10_support import settings
from cifar10_support import tf_setup
from cifar10_support.console import UserError
from cifar10_support.signals import StopSignals

FLAGS = tf.app.flags.FLAGS

console.DEFINE_path('train_dir', 'cifar10/train',
                    'Directory for checkpoints and event files. A run already in it is resumed.')
tf.app.flags.DEFINE_integer('max_steps', 100000, 'Total number of steps, including those '
                            'before a resume.', lower_bound=1)
tf.app.flags.DEFINE_integer('log_frequency', 10, 'Steps between two log lines.', lower_bound=1)
tf.app.flags.DEFINE_integer('save_checkpoint_secs', 600, 'Seconds between two checkpoints.',
                            lower_bound=1)
tf.app.flags.DEFINE_integer('save_summaries_steps', 100, 'Steps between two summaries for '
                            'TensorBoard; 0 writes none.', lower_bound=0)
tf.app.flags.DEFINE_integer('profile_steps', 0, 'Steps between two profiles; 0 writes none. '
                            'timeline-STEP.json in --train_dir shows when each op ran: open it in '
                            'chrome://tracing or https://ui.perfetto.dev.', lower_bound=0)
tf.app.flags.DEFINE_boolean('log_device_placement', False, 'Show on which device each op runs.')
tf.app.flags.DEFINE_boolean('xla', True, 'Where there is a GPU, compile the network for it: a '
                            'slower start, then faster steps.')
tf.app.flags.DEFINE_boolean('restart', False, 'Start over. The old run is kept: its directory is '
                            'renamed to DIR.old-DATE-TIME.')

for module in (hyperparameters, settings):  # For --help of the scripts that adopt ours.
  tf.app.flags.adopt_module_key_flags(module)


class SessionCreator(tf.train.SessionCreator):
  """Opens a session and restores the last checkpoint of a saver, or else initialises all."""

  def __init__(self, scaffold, config, master=''):
    """Args:
      scaffold: a `tf.train.Scaffold`.
      config: a `tf.ConfigProto`.
      master: the server to open the session on; '' is this process.
    """
    self._scaffold, self._config, self._master = scaffold, config, master

  def create_session(self):
    last = (self._scaffold.saver.last_checkpoints or [None])[-1]
    return tf.train.ChiefSessionCreator(self._scaffold, self._master, self._config,
                                        checkpoint_filename_with_path=last).create_session()


@contextlib.contextmanager
def training_session(loss, examples_per_step, classes, num_cpus=1, hooks=(),
                     session_creator=SessionCreator, signals=None):
  """Opens the session for training on the graph built so far.

  It restores or initialises the variables, starts the queue runners, logs, saves, and asks to stop
  (`session.should_stop()`) after --max_steps.

  What happens on Ctrl-C, `kill` or when the terminal closes: `StopSignals` notes the signal, the
  step finishes, `should_stop()` is true, `_SaveHook` writes the last checkpoint, and the process
  exits with the status of the signal.

  Args:
    loss: a float32 scalar, to log and to watch.
    examples_per_step: how many images a step takes.
    classes: the names of the data set's classes.
    num_cpus: how many logical devices the processor is split into, see `tf_setup.tower_devices`.
    hooks: further `tf.train.SessionRunHook`s; they run in every step, after the log and before what
      saves.
    session_creator: a function that returns a `tf.train.SessionCreator`, called as
      `SessionCreator` is.
    signals: a `StopSignals` context that is already entered, or None for one of our own.

  Yields:
    A `TrainingSession`.

  Raises:
    UserError: --train_dir cannot be used, the loss or the weights are not finite, or the disk or
      the input fails.
  """
  train_dir = checked_train_dir()
  with contextlib.ExitStack() as stack:
    is_in_place = stack.enter_context(runs.locked(train_dir, FLAGS.restart))
    signals = signals or stack.enter_context(StopSignals())
    # Around the event files too: closing them writes to the disk, which may be full.
    stack.enter_context(tf_setup.explained_errors('run %s again to resume from the last checkpoint'
                                                  % console.same_command()))
    # What is added from here on is one box in TensorBoard's picture of the graph.
    stack.enter_context(tf.name_scope('session'))

    saver = _Saver(is_in_place)
    checkpoint = _checkpoint_to_resume(train_dir, classes)
    if checkpoint:
      older = [path for path in reversed(checkpoints.paths(train_dir)) if path != checkpoint.path]
      saver.recover_last_checkpoints(older + [checkpoint.path])
    scaffold = tf.train.Scaffold(saver=saver)

    counter = _StepCounter()
    log = _LogHook(train_dir, loss, examples_per_step, counter)
    # A loss that is not finite stops in the log, which comes first: the last checkpoint stays.
    all_hooks, is_compiled = [log, *hooks, counter], False
    if checkpoint and checkpoint.step >= FLAGS.max_steps:
      print('%s has reached step %d: raise --max_steps to train further.'
            % (train_dir, checkpoint.step))
    else:
      runs.record_start(train_dir, _flags(), classes)
      print('Resuming %s from step %d.' % (train_dir, checkpoint.step) if checkpoint
            else 'Training in %s.' % train_dir)
      is_compiled = FLAGS.xla and tf_setup.can_compile()
      writer = stack.enter_context(_writer(train_dir))
      all_hooks.append(_StagingHook())
      if FLAGS.save_summaries_steps:
        log.writer = writer
        all_hooks.append(_SummaryHook(writer, scaffold, counter))
      all_hooks.append(_SaveHook(train_dir, scaffold, counter))
      if FLAGS.profile_steps:
        # This hook's event file comes from a cache, and nobody else closes it.
        stack.callback(tf.summary.FileWriterCache.clear)
        all_hooks.append(tf.train.ProfilerHook(save_steps=FLAGS.profile_steps,
                                               output_dir=train_dir))
    config = tf_setup.session_config(FLAGS.log_device_placement, num_cpus, is_compiled)
    with tf.train.MonitoredSession(session_creator(scaffold, config), all_hooks) as session:
      yield TrainingSession(session, all_hooks, log, counter, signals)
  signals.exit_if_received('after step %d; %s resumes from there, in %s'
                           % (counter.step, console.same_command(), train_dir))
  log.raise_if_unread()


def checked_train_dir():
  """Returns --train_dir; a `UserError` if it cannot be a run's directory."""
  runs.check_directory(FLAGS.train_dir, 'train_dir')
  return FLAGS.train_dir


@contextlib.contextmanager
def _writer(train_dir):
  """Opens an event file of its own for each start: two in a second would share a name."""
  writer = tf.summary.FileWriter(train_dir, tf.get_default_graph(),
                                 filename_suffix='.%d' % time.time_ns())
  try:
    yield writer
  finally:
    writer.close()


def _checkpoint_to_resume(train_dir, classes):
  """Finds the checkpoint to resume from, and checks that resuming it loses nothing.

  Returns:
    A `checkpoints.Checkpoint`, or None for a new run.
  """
  record = runs.read(train_dir)
  runs.check_classes(train_dir, record, classes)
  checkpoint = checkpoints.latest_whole(train_dir)
  if not checkpoint:
    return None
  learning_flags = {'batch_size', 'num_gpus', 'use_fp16', *settings.constants()} - {'data_url'}
  now = {'num_gpus': 1, **_flags()}  # A script that has no such flag trains a single tower.
  before = {'num_gpus': 1, **record['flags']} if record else {}
  changes = ['--%s is %s, was %s' % (name, now[name], before[name])
             for name in sorted(learning_flags.intersection(before, now))
             # A program that sets no flags, such as a notebook, leaves None: its constants count.
             if now[name] != before[name] and None not in (now[name], before[name])]
  variables = {variable.op.name: variable for variable in tf.global_variables()}
  checkpoints.check_fits(checkpoint, variables)
  # The original's checkpoints may have more than we need. In ours more is an optimizer's state.
  dropped = sorted(checkpoint.contents.keys() - variables.keys())
  if record and dropped:
    raise UserError('%s has %s, which this start would drop (%s): give the flags of the last start '
                    'again, see %s.'
                    % (checkpoint.path, dropped[0], '; '.join(changes) or 'the flags are the same',
                       os.path.join(train_dir, 'run.json')))
  if changes and checkpoint.step < FLAGS.max_steps:
    print('Changed since the last start: %s.' % '; '.join(changes))
  return checkpoint


def _flags():
  """Returns our own flags and their values, without those of the libraries."""
  return {flag.name: flag.value for module, flags in FLAGS.flags_by_module_dict().items()
          if module.startswith('cifar10') or module == sys.argv[0] for flag in flags}


def _advice(train_dir):
  """Returns what to do when training has diverged."""
  return ('Run %s again to resume from the last checkpoint in %s; if it happens again, lower '
          '--initial_learning_rate.' % (console.same_command(), train_dir))


class _Saver(tf.train.Saver):
  """Saves all variables, if they are finite."""

  def __init__(self, is_in_place):
    """Args:
      is_in_place: a function that returns whether the run's directory is still what it was.
    """
    self._is_in_place = is_in_place
    # With relative paths a run can be copied or moved.
    super().__init__(save_relative_paths=True)
    with tf.name_scope('finite'):
      self._finite = tf.reduce_all([tf.reduce_all(tf.is_finite(variable))
                                    for variable in tf.global_variables()
                                    if variable.dtype.base_dtype.is_floating])

  def save(self, session, save_path, *args, **kwargs):
    train_dir = os.path.dirname(save_path)
    if not session.run(self._finite):
      raise UserError('The weights are no longer finite. %s' % _advice(train_dir))
    vanished = UserError('%s has vanished, or another directory has taken its place. Put it back, '
                         'then run %s again to resume from the last checkpoint in it.'
                         % (train_dir, console.same_command()))
    if not self._is_in_place():
      raise vanished
    try:
      return super().save(session, save_path, *args, **kwargs)
    except ValueError as error:  # TensorFlow's, if it vanishes just now.
      raise vanished from error


class TrainingSession:
  """A `tf.train.MonitoredSession` whose `run` takes a shortcut in most steps.

  Calling hooks takes a good part of a millisecond (benchmarks/loop.py), and a GPU may need no more
  for the whole step. So they are called only where one wants to fetch something; in all other steps
  their `after_step` is enough.
  """

  def __init__(self, session, hooks, log, counter, signals):
    """Args:
      session: the `tf.train.MonitoredSession`.
      hooks: all of its hooks; one that is not a `_Hook` rules the shortcut out.
      log, counter: the `_LogHook` and the `_StepCounter` among them.
      signals: a `StopSignals`.
    """
    self._session, self._hooks = session, hooks
    self._log, self._counter, self._signals = log, counter, signals
    self._last_step = FLAGS.max_steps
    self._updated = counter.updated if all(isinstance(hook, _Hook) for hook in hooks) else None
    self._shortcuts = {}

  def should_stop(self):
    """Returns whether that was the last step, or a signal came during it."""
    return bool(self._counter.step >= self._last_step or self._signals.received or self._log.unread
                or self._session.should_stop())

  def run(self, fetches):
    """Runs one step, such as what `cifar10.train` returns; returns the value of `fetches`."""
    shortcut = self._shortcut(fetches)
    if not shortcut or any(hook.is_called_at(self._counter.step) for hook in self._hooks):
      return self._session.run(fetches)
    loss, step, value = shortcut()
    self._log.check(loss)
    self._counter.step = int(step)
    for hook in self._hooks:
      hook.after_step(self._counter.session)
    return value

  def _shortcut(self, fetches):
    """Returns a function that fetches the loss, the step and `fetches`, or None."""
    if self._updated is None or not isinstance(fetches, (tf.Operation, tf.Tensor)):
      return None
    session = self._counter.session
    key = session, fetches.name
    if key not in self._shortcuts:
      # With anything but a step, fetching the updated global step would train. Unlike
      # `Session.run`, a callable works out once and for all what to run.
      self._shortcuts[key] = (_depends_on(fetches, self._updated.op)
                              and session.make_callable([self._log.loss, self._updated, fetches]))
    return self._shortcuts[key]


def _depends_on(fetch, op):
  """Returns whether a session that fetches `fetch`, an op or a tensor, runs `op`."""
  todo, seen = [getattr(fetch, 'op', fetch)], set()
  while todo:
    current = todo.pop()
    if current not in seen:
      seen.add(current)
      todo += [tensor.op for tensor in current.inputs] + current.control_inputs
  return op in seen


class _Hook(tf.train.SessionRunHook):
  """A hook that need not be called in every step."""

  def is_called_at(self, step):
    """Returns whether it must be called for the next step, after that many."""
    return False

  def after_step(self, session):
    """What it does after every step, called or not."""

  def after_run(self, run_context, run_values):
    self.after_step(run_context.session)


class _StepCounter(_Hook):
  """Reads the global step after each step; the others look at its `step`."""

  session = None  # The one inside the `tf.train.MonitoredSession`.
  step = None  # How many steps have been trained.
  updated = None  # A tensor: the global step after its update, for the shortcut.

  def begin(self):
    self._global_step = tf.train.get_global_step()
    updated = tf.get_collection(tf_setup.UPDATED % self._global_step.op.name)
    # Of several none is known to be the last, and one in a branch of `tf.cond` cannot be fetched.
    if len(updated) == 1 and updated[0].graph.is_fetchable(updated[0]):
      [self.updated] = updated

  def after_create_session(self, session, coord):
    self.session = session
    self._read = session.make_callable(self._global_step)
    self.step = int(self._read())

  def after_run(self, run_context, run_values):
    self.step = int(self._read())


class _StagingHook(_Hook):
  """Has the first batches copied to the GPUs, see `cifar10_input.stage`."""

  def begin(self):
    self._ops = tf.get_collection(tf_setup.STAGING)

  def after_create_session(self, session, coord):
    # If the input fails, the coordinator has the cause, and raises it when the session closes.
    with coord.stop_on_exception():
      session.run(self._ops)


class _LogHook(_Hook):
  """Prints the log lines, and stops when the loss is not finite."""

  def __init__(self, train_dir, loss, examples_per_step, counter):
    self.loss = loss
    self._train_dir = train_dir
    self._examples_per_step = examples_per_step
    self._counter = counter
    self.unread = None  # Why the log cannot be written any more.
    self.writer = None  # A `tf.summary.FileWriter` for the speed.

  def after_create_session(self, session, coord):
    self._steps, self._logged_time = 0, time.perf_counter()

  def before_run(self, run_context):
    return tf.train.SessionRunArgs(self.loss)

  def after_run(self, run_context, run_values):
    self.check(run_values.results)

  def check(self, loss):
    """Stops if the loss is not finite, and prints a log line if it is time for one."""
    step = self._counter.step  # Of the step that has just run: the counter comes later.
    if not math.isfinite(loss):
      raise UserError('The loss is %s at step %d. %s' % (loss, step, _advice(self._train_dir)))
    self._steps += 1
    if step % FLAGS.log_frequency == 0:
      try:
        self._log(step, loss)
      except (BrokenPipeError, UserError) as error:
        self.unread = error

  def raise_if_unread(self):
    """Reports, now that the run is safe on disk, that the log cannot be written any more.

    The disk of a log file is full, or whoever read the lines has left (`| head`).
    """
    if self.unread:
      raise self.unread

  def _log(self, step, loss):
    now = time.perf_counter()
    secs_per_step = (now - self._logged_time) / self._steps
    examples_per_sec = self._examples_per_step / secs_per_step
    console.log('step %d, loss = %.2f (%.1f examples/sec; %.3f sec/batch)'
                % (step, loss, examples_per_sec, secs_per_step))
    if self.writer:
      value = tf.Summary.Value(tag='examples/sec', simple_value=examples_per_sec)
      self.writer.add_summary(tf.Summary(value=[value]), step)
    self._steps, self._logged_time = 0, now


class _SummaryHook(_Hook):
  """Writes the summaries of every --save_summaries_steps-th step.

  `tf.train.SummarySaverHook` wants to be called in every step.
  """

  def __init__(self, writer, scaffold, counter):
    self._writer, self._scaffold, self._counter = writer, scaffold, counter

  def is_called_at(self, step):
    return step % FLAGS.save_summaries_steps == 0

  def after_create_session(self, session, coord):
    # From here on TensorBoard drops what a start that was killed had written after the checkpoint.
    self._writer.add_session_log(tf.SessionLog(status=tf.SessionLog.START), self._counter.step + 1)

  def before_run(self, run_context):
    if self.is_called_at(self._counter.step):
      return tf.train.SessionRunArgs(self._scaffold.summary_op)

  def after_run(self, run_context, run_values):
    if run_values.results is not None:
      self._writer.add_summary(run_values.results, self._counter.step)


class _SaveHook(_Hook):
  """Writes a checkpoint of a new run, every --save_checkpoint_secs, and at the end.

  `tf.train.CheckpointSaverHook` writes one at each start too, over the one that was just restored:
  a kill at that moment would cost it.
  """

  def __init__(self, train_dir, scaffold, counter):
    self._train_dir, self._scaffold, self._counter = train_dir, scaffold, counter

  def after_create_session(self, session, coord):
    tf.train.write_graph(session.graph, self._train_dir, 'graph.pbtxt')
    if not self._scaffold.saver.last_checkpoints:  # A new run.
      self._save(session)
    self._saved_step, self._saved_time = self._counter.step, time.monotonic()

  def after_step(self, session):
    if time.monotonic() - self._saved_time >= FLAGS.save_checkpoint_secs:
      self._save(session)

  def end(self, session):
    if self._counter.step != self._saved_step:
      self._save(session)

  def _save(self, session):
    self._scaffold.saver.save(session, os.path.join(self._train_dir, 'model.ckpt'),
                              global_step=self._counter.step)
    self._saved_step, self._saved_time = self._counter.step, time.monotonic()
