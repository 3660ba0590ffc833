"""What training scripts share around `session.run`: flags, log, checkpoints, resuming, stopping."""

import contextlib
import math
import os
import re
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

EVALUATOR = 'cifar10_eval.py'  # The program that evaluates what this one trains.

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
console.DEFINE_path('init_from', None, 'Run, or checkpoint, whose values a new run starts with '
                    'where name and shape fit; the same command resumes it.')
tf.app.flags.DEFINE_boolean('restart', False, 'Start over. The old run is kept: its directory is '
                            'renamed to DIR.old-DATE-TIME, and its evaluations beside it too.')

console.adopt_flags(hyperparameters, settings)


@contextlib.contextmanager
def training_session(train_op, loss, examples_per_step, classes, num_cpus=1, hooks=(),
                     session_creator=None, signals=None):
  """Opens the session for training on the graph built so far.

  It restores or initialises the variables, starts the queue runners, logs, saves, and asks to stop
  (`session.should_stop()`) after --max_steps.

  After Ctrl-C, for example, `StopSignals` notes the signal, the step finishes, `should_stop()` is
  true, `_SaveHook` writes the last checkpoint, and the process exits with the signal's status.

  Args:
    train_op: what runs a step, see `cifar10.train`: an op or a tensor.
    loss: a float32 scalar, to log and to watch.
    examples_per_step: how many images a step takes.
    classes: the names of the data set's classes.
    num_cpus: how many logical devices the processor is split into, see `tf_setup.tower_devices`.
    hooks: further hooks; they are called in every run, after the log and before what saves.
    session_creator: makes a `tf.train.SessionCreator` of a scaffold and a `tf.ConfigProto`.
    signals: a `StopSignals` context that is already entered, or None for one of our own.

  Yields:
    A `TrainingSession`. It raises a `UserError` if --train_dir cannot be used, the loss or the
    weights are not finite, or the disk or the input fails.
  """
  check_train_dir()
  train_dir = FLAGS.train_dir
  with contextlib.ExitStack() as stack:
    is_in_place = stack.enter_context(runs.locked(train_dir, FLAGS.restart))
    signals = signals or stack.enter_context(StopSignals())
    # Around the event files too: closing them writes to the disk, which may be full.
    stack.enter_context(tf_setup.explained_errors(f'run {console.same_command()} again to resume '
                                                  'from the last checkpoint'))
    # What is added from here on is one box in TensorBoard's picture of the graph.
    stack.enter_context(tf.name_scope('session'))

    saver = _Saver(is_in_place)
    checkpoint = _checkpoint_to_resume(train_dir, classes)
    if checkpoint:
      # Of these the saver deletes all but five; those of other programs are not among them.
      older = [path for path in reversed(checkpoints.paths(train_dir))
               if path != checkpoint.path and os.path.basename(path).startswith('model.ckpt-')]
      saver.recover_last_checkpoints(older + [checkpoint.path])
    scaffold = _scaffold(saver, None if checkpoint else _initial_values(classes))
    step = _Step(train_op, loss)
    log = _LogHook(step, train_dir, examples_per_step)
    # A loss that is not finite stops in the log, which comes first: the last checkpoint stays.
    all_hooks, is_compiled = [log, *hooks, step], False
    if not checkpoint or checkpoint.step < FLAGS.max_steps:
      runs.record_start(train_dir, _flags(), classes, [
          flag for flag in _flags() if not FLAGS[flag].using_default_value])
      print(f'Resuming {train_dir} from step {checkpoint.step}.' if checkpoint
            else f'Training in {train_dir}.')
      if FLAGS.seed is not None and (num_cpus > 1 or session_creator or tf_setup.num_gpus()):
        print('With several towers, in a cluster or on a GPU --seed promises no repeatable run.')
      elif FLAGS.seed is not None and checkpoint:
        print(f'--seed repeats this run only if it stops at step {checkpoint.step} again.')
      is_compiled = FLAGS.xla and tf_setup.can_compile()
      all_hooks += _recording_hooks(stack, train_dir, scaffold, step, log)
    config = tf_setup.session_config(FLAGS.log_device_placement, num_cpus, is_compiled)
    creator = (session_creator or tf.train.ChiefSessionCreator)(scaffold, config=config)
    with TrainingSession(creator, step, log, all_hooks, signals) as session:
      yield session
  signals.exit_if_received(f'after step {step.number}; {console.same_command()} resumes from '
                           f'there, in {train_dir}')
  if log.log_error:  # Reported now that the run is safe on disk.
    raise log.log_error
  _say_what_is_next(train_dir, step)


def _scaffold(saver, initial):
  """Returns a `tf.train.Scaffold` that restores the saver's last checkpoint, or initial values."""
  def restore(scaffold, session):  # After the initialisers; again if a cluster has lost its values.
    if saver.last_checkpoints:
      last = checkpoints.read(saver.last_checkpoints[-1])
      checkpoints.restore(session, last, _variables().items())
    elif initial:
      checkpoints.restore(session, *initial)

  return tf.train.Scaffold(saver=saver, init_fn=restore)


def _recording_hooks(stack, train_dir, scaffold, step, log):
  """Returns the hooks for a start that trains; `stack` closes the files that they write."""
  # An event file of its own for each start: two in a second would share a name.
  writer = stack.enter_context(tf.summary.FileWriter(
      train_dir, tf.get_default_graph(), filename_suffix=f'.{time.time_ns()}'))
  writer.add_summary(runs.hyperparameters(train_dir))
  hooks = [_StagingHook(step)]
  if FLAGS.save_summaries_steps:
    log.writer = writer
    hooks.append(_SummaryHook(step, writer, scaffold))
  hooks.append(_SaveHook(step, train_dir, scaffold))
  if FLAGS.profile_steps:
    # This hook's event file comes from a cache, and nobody else closes it.
    stack.callback(tf.summary.FileWriterCache.clear)
    hooks.append(tf.train.ProfilerHook(save_steps=FLAGS.profile_steps, output_dir=train_dir))
  return hooks


def _say_what_is_next(train_dir, step):
  if step.why_to_end:
    print(f'{train_dir} has ended at step {step.number}: {step.why_to_end}.')
  elif step.number >= FLAGS.max_steps:
    data = ''.join(f' --{name}={FLAGS[name].value}' for name in ('synthetic', 'data_dir')
                   if name in FLAGS and not FLAGS[name].using_default_value)
    print(f'{train_dir} has reached step {step.number}. Raise --max_steps to train further, or '
          f'evaluate it:\n  python {EVALUATOR} --run_once --checkpoint_dir={train_dir}{data}')


def check_train_dir():
  """Raises a `UserError` if --train_dir cannot be a run's directory."""
  runs.check_directory(FLAGS.train_dir, 'train_dir')


def graph_seed():
  """Returns --seed for a new run; to resume one, another, or it would get the same images again."""
  latest = [] if FLAGS.restart else checkpoints.paths(FLAGS.train_dir)[:1]
  return FLAGS.seed and FLAGS.seed + sum(checkpoints.step_in(path) or 0 for path in latest)


def _checkpoint_to_resume(train_dir, classes):
  """Returns the checkpoint to resume from, or None; checks that resuming it loses nothing."""
  record = runs.read(train_dir)
  runs.check_classes(train_dir, record, classes)
  checkpoint = checkpoints.latest_intact(train_dir)
  if not checkpoint:
    return None
  now = {'num_gpus': 1, **_flags()}  # A script that has no such flag trains a single tower.
  before = {'num_gpus': 1, 'validation': False, **record['flags']} if record else {}
  changes = [f'--{name} is {now[name]}, was {before[name]}'
             for name in sorted(settings.LEARNING.intersection(before, now))
             # A program that sets no flags, such as a notebook, leaves None: its constants count.
             if now[name] != before[name] and None not in (now[name], before[name])]
  variables = _variables()
  checkpoints.check_fits(checkpoint, variables)
  # The original's checkpoints may have more than we need. In ours more is an optimizer's state.
  dropped = sorted(checkpoint.contents.keys() - variables.keys())
  if record and dropped:
    raise UserError(f'{checkpoint.path} has {dropped[0]}, which this start would drop '
                    f"({'; '.join(changes) or 'the flags are the same'}): give the flags of the "
                    f"last start again, see {os.path.join(train_dir, 'run.json')}.")
  if changes and checkpoint.step < FLAGS.max_steps:
    print(f"Changed since the last start: {'; '.join(changes)}.")
  return checkpoint


def _initial_values(classes):
  """Returns the checkpoint that --init_from names and (key, variable) of all variables that fit."""
  if not FLAGS.init_from:
    return None
  source = runs.find_checkpoint(FLAGS.init_from, 'init_from')
  if FLAGS.validation:
    runs.check_held_out(os.path.dirname(source.path), classes)
  initial = {}
  for name, variable in _variables().items():
    # A moving average that it lacks starts as the variable.
    for key in (name, re.sub('/ExponentialMovingAverage$', '', name)):
      if name not in initial and name != 'global_step' and checkpoints.fits(source, key, variable):
        initial[name] = key, variable
  new = [variable.op.name for variable in tf.trainable_variables()
         if variable.op.name not in initial]
  if len(new) == len(tf.trainable_variables()):
    raise UserError(f'{source.path} has no variable that fits this network: name another run with '
                    '--init_from.')
  print(f"Starting from {source.path}. New: {', '.join(new) or 'nothing'}.")
  return source, initial.values()


def _variables():
  """Returns the variables that checkpoints hold, by their keys there."""
  return {variable.op.name: variable for variable in tf.global_variables()}


def _flags():
  """Returns our own flags and their values, without those of the libraries."""
  return {flag.name: flag.value for module, flags in FLAGS.flags_by_module_dict().items()
          if module.startswith('cifar10') or module == sys.argv[0] for flag in flags}


def _advice(train_dir):
  """Returns what to do when training has diverged."""
  return (f'Run {console.same_command()} again to resume from the last checkpoint in {train_dir}; '
          'if it happens again, lower --initial_learning_rate.')


class _Saver(tf.train.Saver):
  """Saves all variables, if they are finite and the run's directory is still what it was."""

  def __init__(self, is_in_place):
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
      raise UserError(f'The weights are no longer finite. {_advice(train_dir)}')
    vanished = UserError(f'{train_dir} has vanished, or another directory has taken its place. '
                         f'Put it back, then run {console.same_command()} again to resume from '
                         'the last checkpoint in it.')
    if not self._is_in_place():
      raise vanished
    try:
      return super().save(session, save_path, *args, **kwargs)
    except ValueError as error:  # TensorFlow's, if it vanishes just now.
      raise vanished from error


class TrainingSession(tf.train.MonitoredSession):
  """A `tf.train.MonitoredSession` in which most steps take a shortcut.

  Calling hooks takes a good part of a millisecond (benchmarks/loop.py), and a GPU may need no more
  for the whole step. So a run of nothing but the step calls them only if one of them wants to fetch
  something; otherwise their `after_step` is enough.
  """

  def __init__(self, session_creator, step, log, hooks, signals):
    self._step, self._log, self._signals = step, log, signals
    self._last_step = FLAGS.max_steps
    # Any other hook may want to be called in every run.
    self._followers = hooks if all(isinstance(hook, _Hook) for hook in hooks) else None
    super().__init__(session_creator, hooks)

  def should_stop(self):
    """Returns whether that was the last step, or a signal or --patience ends training."""
    return bool(self._step.number >= self._last_step or self._signals.received
                or self._log.log_error or self._step.why_to_end or super().should_stop())

  def run(self, fetches, feed_dict=None, options=None, run_metadata=None):
    """Runs `fetches`, like `tf.Session.run`; a step counts if the step's op is among them."""
    if (fetches is not self._step.train_op or (feed_dict, options, run_metadata) != (None,) * 3
        or self._followers is None
        or any(hook.is_called_at(self._step.number) for hook in self._followers)):
      return super().run(fetches, feed_dict, options, run_metadata)
    loss, number, value = self._step.shortcut()
    self._log.check(loss)
    self._step.number = int(number)
    for hook in self._followers:
      hook.after_step(self._step.session)
    return value


class _Hook(tf.train.SessionRunHook):
  """A hook that follows the steps, and of them needs to be called only in some."""

  def __init__(self, step):
    self._step = step

  def is_called_at(self, number):
    """Returns whether it must be called for the next step, after that many."""
    return False

  def after_step(self, session):
    """What it does after every step, called or not."""

  def after_run(self, run_context, run_values):
    if self._step.is_in(run_context):
      self.after_step(run_context.session)


class _Step(_Hook):
  """What a step is, and how many have been trained: the other hooks look at its `number`."""

  def __init__(self, train_op, loss):
    self.train_op, self.loss = train_op, loss
    self.why_to_end = None  # What `runs.why_to_end` said.
    self._global_step = tf.train.get_global_step()
    with tf.control_dependencies([train_op]):
      self._updated = self._global_step.read_value()

  def is_in(self, run_context):
    """Returns whether a run includes the step."""
    op = getattr(self.train_op, 'op', self.train_op)
    return any(getattr(fetch, 'op', fetch) is op
               for fetch in tf.nest.flatten(run_context.original_args.fetches))

  def after_create_session(self, session, coord):
    self.session = session  # The one inside the `tf.train.MonitoredSession`.
    self._read = session.make_callable(self._global_step)
    # Unlike `Session.run`, a callable works out once and for all what to run.
    self.shortcut = session.make_callable([self.loss, self._updated, self.train_op])
    self.number = int(self._read())

  def after_run(self, run_context, run_values):
    self.number = int(self._read())


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

  def __init__(self, step, train_dir, examples_per_step):
    super().__init__(step)
    self._train_dir = train_dir
    self._examples_per_step = examples_per_step
    self.log_error = None  # Why the log cannot be written: a full disk, no reader (`| head`).
    self.writer = None  # A `tf.summary.FileWriter` for the speed.

  def after_create_session(self, session, coord):
    self._steps, self._logged_time = 0, time.perf_counter()

  def before_run(self, run_context):
    if self._step.is_in(run_context):
      return tf.train.SessionRunArgs(self._step.loss)

  def after_run(self, run_context, run_values):
    if run_values.results is not None:
      self.check(run_values.results)

  def check(self, loss):
    """Stops if the loss is not finite, and prints a log line if it is time for one."""
    number = self._step.number  # Of the step that has just run: the counter comes later.
    if not math.isfinite(loss):
      raise UserError(f'The loss is {loss} at step {number}. {_advice(self._train_dir)}')
    self._steps += 1
    if number % FLAGS.log_frequency == 0:
      try:
        self._print(number, loss)
      except (BrokenPipeError, UserError) as error:
        self.log_error = error

  def _print(self, number, loss):
    now = time.perf_counter()
    secs_per_step = (now - self._logged_time) / self._steps
    examples_per_sec = self._examples_per_step / secs_per_step
    console.log(f'step {number}, loss = {loss:.2f} ({examples_per_sec:.1f} examples/sec; '
                f'{secs_per_step:.3f} sec/batch)')
    if self.writer:
      value = tf.Summary.Value(tag='examples/sec', simple_value=examples_per_sec)
      self.writer.add_summary(tf.Summary(value=[value]), number)
    self._steps, self._logged_time = 0, now
    self._step.why_to_end = runs.why_to_end(self._train_dir)


class _SummaryHook(_Hook):
  """Writes the summaries of every --save_summaries_steps-th step.

  `tf.train.SummarySaverHook` wants to be called in every step.
  """

  def __init__(self, step, writer, scaffold):
    super().__init__(step)
    self._writer, self._scaffold = writer, scaffold

  def is_called_at(self, number):
    return number % FLAGS.save_summaries_steps == 0

  def after_create_session(self, session, coord):
    # From here on TensorBoard drops what a start that was killed had written after the checkpoint.
    self._writer.add_session_log(tf.SessionLog(status=tf.SessionLog.START), self._step.number + 1)

  def before_run(self, run_context):
    if self._step.is_in(run_context) and self.is_called_at(self._step.number):
      return tf.train.SessionRunArgs(self._scaffold.summary_op)

  def after_run(self, run_context, run_values):
    if run_values.results is not None:
      self._writer.add_summary(run_values.results, self._step.number)


class _SaveHook(_Hook):
  """Writes a checkpoint of a new run, every --save_checkpoint_secs, and at the end.

  `tf.train.CheckpointSaverHook` writes one at each start too, over the one that was just restored:
  a kill at that moment would cost it.
  """

  def __init__(self, step, train_dir, scaffold):
    super().__init__(step)
    self._train_dir, self._scaffold = train_dir, scaffold

  def after_create_session(self, session, coord):
    tf.train.write_graph(session.graph, self._train_dir, 'graph.pbtxt')
    if not self._scaffold.saver.last_checkpoints:  # A new run.
      self._save(session)
    self._saved_step, self._saved_time = self._step.number, time.monotonic()

  def after_step(self, session):
    if time.monotonic() - self._saved_time >= FLAGS.save_checkpoint_secs:
      self._save(session)

  def end(self, session):
    if self._step.number != self._saved_step:
      self._save(session)

  def _save(self, session):
    self._scaffold.saver.save(session, os.path.join(self._train_dir, 'model.ckpt'),
                              global_step=self._step.number)
    self._step.why_to_end = runs.why_to_end(self._train_dir)
    self._saved_step, self._saved_time = self._step.number, time.monotonic()
