"""What training scripts share around `session.run`: flags, log, checkpoints, resuming, stopping."""

import contextlib
import math
import os
import re
import sys
import time

from cifar10_support import checkpoints
from cifar10_support import console
from cifar10_support import hyperparameters
from cifar10_support import runs
from cifar10_support import settings
from cifar10_support import tabs
from cifar10_support import tf_setup
from cifar10_support.console import UserError
from cifar10_support.quiet import tf
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
def training_session(train_op, loss, examples_per_step, data, num_cpus=1, hooks=(),
                     session_creator=None, signals=None):
  """Opens the session for training on the graph built so far.

  It restores or initialises the variables, starts the queue runners, logs, saves, and asks to stop
  (`session.should_stop()`) after --max_steps.

  After Ctrl-C, for example, `StopSignals` notes the signal, the step finishes, `should_stop()` is
  true, `_Steps` writes the last checkpoint, and the process exits with the signal's status.

  Args:
    train_op: what runs a step, see `cifar10.train`: an op or a tensor.
    loss: a float32 scalar, to log and to watch.
    examples_per_step: how many images a step takes.
    data: what to record of the data, see `dataset.DataSet.seen_as`.
    num_cpus: how many logical devices the processor is split into, see `tf_setup.tower_devices`.
    hooks: further hooks; they are called in every run, before the log and what saves.
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

    saver = tf.train.Saver(save_relative_paths=True)  # So that a run can be copied or moved.
    checkpoint = _checkpoint_to_resume(train_dir, data)
    if checkpoint:
      # Of these the saver deletes all but five; those of other programs are not among them.
      older = [path for path in reversed(checkpoints.paths(train_dir))
               if path != checkpoint.path and os.path.basename(path).startswith('model.ckpt-')]
      saver.recover_last_checkpoints(older + [checkpoint.path])
    scaffold = _scaffold(saver, None if checkpoint else _initial_values(data))
    steps = _Steps(train_op, loss, examples_per_step, train_dir, scaffold, is_in_place)
    all_hooks, is_compiled = [*hooks, steps], False
    if not checkpoint or checkpoint.step < FLAGS.max_steps:
      runs.record_start(train_dir, _flags(), data, [
          flag for flag in _flags() if not FLAGS[flag].using_default_value])
      print(f'Resuming {train_dir} from step {checkpoint.step}.' if checkpoint
            else f'Training in {train_dir}.')
      if FLAGS.seed is not None and (num_cpus > 1 or session_creator or tf_setup.num_gpus()):
        print('With several towers, in a cluster or on a GPU --seed promises no repeatable run.')
      elif FLAGS.seed is not None and checkpoint:
        print(f'--seed repeats this run only if it stops at step {checkpoint.step} again.')
      is_compiled = FLAGS.xla and tf_setup.can_compile()
      # An event file of its own for each start: two in a second would share a name.
      steps.writer = stack.enter_context(tf.summary.FileWriter(
          train_dir, tf.get_default_graph(), filename_suffix=f'.{time.time_ns()}'))
      steps.writer.add_summary(tabs.hyperparameters(train_dir))
      if FLAGS.profile_steps:
        # This hook's event file comes from a cache, and nobody else closes it.
        stack.callback(tf.summary.FileWriterCache.clear)
        all_hooks.append(tf.train.ProfilerHook(save_steps=FLAGS.profile_steps,
                                               output_dir=train_dir))
    config = tf_setup.session_config(FLAGS.log_device_placement, num_cpus, is_compiled)
    creator = (session_creator or tf.train.ChiefSessionCreator)(scaffold, config=config)
    with TrainingSession(creator, steps, all_hooks, signals) as session:
      yield session
  signals.exit_if_received(f'after step {steps.number}; {console.same_command()} resumes from '
                           f'there, in {train_dir}')
  if steps.log_error:  # Reported now that the run is safe on disk.
    raise steps.log_error
  _say_what_is_next(train_dir, steps)


def _scaffold(saver, initial):
  """Returns a `tf.train.Scaffold` that restores the saver's last checkpoint, or initial values."""
  def restore(scaffold, session):  # After the initialisers; again if a cluster has lost its values.
    if saver.last_checkpoints:
      last = checkpoints.read(saver.last_checkpoints[-1])
      checkpoints.restore(session, last, _variables().items())
    elif initial:
      checkpoints.restore(session, *initial)

  return tf.train.Scaffold(saver=saver, init_fn=restore)


def _say_what_is_next(train_dir, steps):
  if steps.why_to_end:
    print(f'{train_dir} has ended at step {steps.number}: {steps.why_to_end}.')
  elif steps.number >= FLAGS.max_steps:
    data = ''.join(f' --{name}={FLAGS[name].value}' for name in ('synthetic', 'data_dir')
                   if name in FLAGS and not FLAGS[name].using_default_value)
    print(f'{train_dir} has reached step {steps.number}. Raise --max_steps to train further, or '
          f'evaluate it:\n  python {EVALUATOR} --run_once --checkpoint_dir={train_dir}{data}')


def check_train_dir():
  """Raises a `UserError` if --train_dir cannot be a run's directory."""
  runs.check_directory(FLAGS.train_dir, 'train_dir')


def graph_seed():
  """Returns --seed for a new run; to resume one, another, or it would get the same images again."""
  latest = [] if FLAGS.restart else checkpoints.paths(FLAGS.train_dir)[:1]
  return FLAGS.seed and FLAGS.seed + sum(checkpoints.step_in(path) or 0 for path in latest)


def _checkpoint_to_resume(train_dir, data):
  """Returns the checkpoint to resume from, or None; checks that resuming it loses nothing."""
  record = runs.read(train_dir)
  runs.check_data(train_dir, record, data)
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


def _initial_values(data):
  """Returns the checkpoint that --init_from names and (key, variable) of all variables that fit."""
  if not FLAGS.init_from:
    return None
  source = runs.find_checkpoint(FLAGS.init_from, 'init_from')
  if FLAGS.validation:
    runs.check_held_out(os.path.dirname(source.path), data)
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


class TrainingSession(tf.train.MonitoredSession):
  """A `tf.train.MonitoredSession` in which most steps take a shortcut.

  Calling hooks takes a good part of a millisecond (benchmarks/loop.py), and a GPU may need no more
  for the whole step. So a run of nothing but the step calls them only if there are others than
  `_Steps`, which may want to be called in every run, or if the step's summaries are to be written.
  """

  def __init__(self, session_creator, steps, hooks, signals):
    self._steps, self._signals = steps, signals
    self._last_step = FLAGS.max_steps
    self._is_alone = hooks == [steps]
    super().__init__(session_creator, hooks)

  def should_stop(self):
    """Returns whether that was the last step, or a signal or --patience ends training."""
    return bool(self._steps.number >= self._last_step or self._signals.received
                or self._steps.log_error or self._steps.why_to_end or super().should_stop())

  def run(self, fetches, feed_dict=None, options=None, run_metadata=None):
    """Runs `fetches`, like `tf.Session.run`; a step counts if the step's op is among them."""
    if (self._is_alone and fetches is self._steps.train_op
        and (feed_dict, options, run_metadata) == (None,) * 3 and not self._steps.want_summaries()):
      return self._steps.run_next()
    return super().run(fetches, feed_dict, options, run_metadata)


class _Steps(tf.train.SessionRunHook):
  """Counts the steps, logs them, and writes summaries and checkpoints when it is time for them.

  TensorFlow has a hook for each of these. They want to be called in every step; and
  `tf.train.CheckpointSaverHook` writes a checkpoint at each start too, over the one that was just
  restored: a kill at that moment would cost it.
  """

  def __init__(self, train_op, loss, examples_per_step, train_dir, scaffold, is_in_place):
    self.train_op, self._loss = train_op, loss
    self._examples_per_step, self._train_dir = examples_per_step, train_dir
    self._scaffold, self._is_in_place = scaffold, is_in_place
    self.writer = None  # A `tf.summary.FileWriter`, if this start may write to the run.
    self.log_error = None  # Why the log cannot be written: a full disk, no reader (`| head`).
    self.why_to_end = None  # What `runs.why_to_end` said.
    self._global_step = tf.train.get_global_step()
    with tf.control_dependencies([train_op]):
      self._updated = self._global_step.read_value()
    with tf.name_scope('finite'):
      self._finite = tf.reduce_all([tf.reduce_all(tf.is_finite(variable))
                                    for variable in tf.global_variables()
                                    if variable.dtype.base_dtype.is_floating])

  def after_create_session(self, session, coord):
    self._session = session  # The one inside the `tf.train.MonitoredSession`.
    self._read = session.make_callable(self._global_step)
    # Unlike `Session.run`, a callable works out once and for all what to run.
    self._shortcut = session.make_callable([self._updated, self.train_op, self._loss])
    self.number = int(self._read())  # Of steps that have been trained.
    self._unlogged, self._logged_time = 0, time.perf_counter()
    if not self.writer:
      return
    # The first batches, see `cifar10_input.stage`. If the input fails, the coordinator has the
    # cause, and raises it when the session closes.
    with coord.stop_on_exception():
      session.run(session.graph.get_collection(tf_setup.STAGING))
    if FLAGS.save_summaries_steps:
      # TensorBoard drops what a start that was killed had written from here on.
      self.writer.add_session_log(tf.SessionLog(status=tf.SessionLog.START), self.number + 1)
    tf.train.write_graph(session.graph, self._train_dir, 'graph.pbtxt')
    if not self._scaffold.saver.last_checkpoints:  # A new run.
      self._save()
    self._saved_step, self._saved_time = self.number, time.monotonic()

  def want_summaries(self):
    """Returns whether the summaries of the next step are to be written."""
    return bool(self.writer and FLAGS.save_summaries_steps
                and self.number % FLAGS.save_summaries_steps == 0
                and self._scaffold.summary_op is not None)

  def run_next(self):
    """Runs a step, past the hooks; returns the value of `train_op`."""
    number, value, loss = self._shortcut()
    self._follow(int(number), loss)
    return value

  def before_run(self, run_context):
    op = getattr(self.train_op, 'op', self.train_op)
    if any(getattr(fetch, 'op', fetch) is op
           for fetch in tf.nest.flatten(run_context.original_args.fetches)):
      summary = [self._scaffold.summary_op] if self.want_summaries() else []
      return tf.train.SessionRunArgs([self._loss] + summary)

  def after_run(self, run_context, run_values):
    number = int(self._read())
    if run_values.results:
      self._follow(number, *run_values.results)
    self.number = number  # It may have counted otherwise.

  def _follow(self, number, loss, summary=None):
    """Does what comes after a step, after which the global step is `number`."""
    if not math.isfinite(loss):  # Before anything is saved: the last checkpoint stays.
      raise UserError(f'The loss is {loss} at step {self.number}. {_advice(self._train_dir)}')
    self._unlogged += 1
    if self.number % FLAGS.log_frequency == 0:
      try:
        self._log(loss)
      except (BrokenPipeError, UserError) as error:
        self.log_error = error
    self.number = number
    if summary:
      self.writer.add_summary(summary, self.number)
    if self.writer and time.monotonic() - self._saved_time >= FLAGS.save_checkpoint_secs:
      self._save()

  def _log(self, loss):
    now = time.perf_counter()
    secs_per_step = (now - self._logged_time) / self._unlogged
    examples_per_sec = self._examples_per_step / secs_per_step
    console.log(f'step {self.number}, loss = {loss:.2f} ({examples_per_sec:.1f} examples/sec; '
                f'{secs_per_step:.3f} sec/batch)')
    if self.writer and FLAGS.save_summaries_steps:
      value = tf.Summary.Value(tag='examples/sec', simple_value=examples_per_sec)
      self.writer.add_summary(tf.Summary(value=[value]), self.number)
    self._unlogged, self._logged_time = 0, now
    self.why_to_end = runs.why_to_end(self._train_dir)

  def _save(self):
    if not self._session.run(self._finite):
      raise UserError(f'The weights are no longer finite. {_advice(self._train_dir)}')
    if not self._is_in_place():
      raise UserError(f'{self._train_dir} has vanished, or another directory has taken its place. '
                      f'Put it back, then run {console.same_command()} again to resume from the '
                      'last checkpoint in it.')
    self._scaffold.saver.save(self._session, os.path.join(self._train_dir, 'model.ckpt'),
                              global_step=self.number)
    self.why_to_end = runs.why_to_end(self._train_dir)
    self._saved_step, self._saved_time = self.number, time.monotonic()

  def end(self, session):
    if self.writer and self.number != self._saved_step:
      self._save()
