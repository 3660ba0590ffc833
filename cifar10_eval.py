"""Measures precision @ 1 of each new checkpoint, beside a training, until that has ended.
With --run_once evaluates the latest checkpoint and ends.

  python cifar10_eval.py
"""

import cifar10_tensorflow  # noqa: F401, before TensorFlow

import os
import tempfile
import time

import numpy as np
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_checkpoint
import cifar10_confusion
import cifar10_console
import cifar10_device
import cifar10_errors
import cifar10_restore
import cifar10_run
from cifar10_console import UserError

FLAGS = tf.app.flags.FLAGS

tf.app.flags.DEFINE_string('eval_dir', 'cifar10/eval', 'Directory for the event files.')
tf.app.flags.DEFINE_enum('eval_data', 'test', ['test', 'train_eval'],
                         'The images: those for testing, or those trained on.')
tf.app.flags.DEFINE_integer('eval_interval_secs', 300, 'Seconds from the start of one evaluation '
                            'to the next, at least.', lower_bound=0)
tf.app.flags.DEFINE_integer('num_examples', 10000, 'Images to evaluate, at most. Without this flag '
                            'as many as are for testing: 10000 of CIFAR-10.', lower_bound=1)
tf.app.flags.DEFINE_boolean('run_once', False, 'Evaluate the latest checkpoint and end.')
# For --help.
tf.app.flags.adopt_module_key_flags(cifar10_restore)
for name in ('data_dir', 'data_url', 'synthetic', 'batch_size', 'top_layers', 'mixed_precision'):
  tf.app.flags.declare_key_flag(name)

_POLL_SECS = 1  # From one look for a checkpoint to the next.

_EVENTS_BYTES = 1 << 20  # More than the events of one evaluation, and the graph, take.


def evaluate(patience_secs=None):
  """Builds the graph and evaluates checkpoints until the last.

  Args:
    patience_secs: how long to wait for the next, or None for ever.

  Raises:
    UserError: there has been none in that time, or there is something wrong with it.
  """
  checkpoint_dir = cifar10_restore.checked_checkpoint_dir()

  with tf.Graph().as_default() as graph:
    with tf.device('/cpu:0'):
      images, labels = cifar10.inputs(FLAGS.eval_data, FLAGS.multiview)
    eval_dir = _eval_dir()

    # The network is that of the run, so there must be one before it can be built.
    _wait_for_checkpoint(checkpoint_dir, patience_secs)
    cifar10_restore.take_top_layers(checkpoint_dir)
    probabilities = cifar10_restore.probabilities(images)
    summary_op = tf.summary.merge_all()

    restorer = cifar10_restore.Restorer()

    # With the process in the name: two that start in one second would share a file.
    with tf.summary.FileWriter(eval_dir, graph,
                               filename_suffix='.%d' % os.getpid()) as writer:
      for checkpoint in _checkpoints(checkpoint_dir, patience_secs):
        cifar10_run.check_data_set(checkpoint_dir, cifar10.classes())
        with tf.Session(config=cifar10_device.session_config()) as session, cifar10_errors.reported(
            'evaluate again'):
          try:
            step = restorer.restore(session, checkpoint)
          except cifar10_checkpoint.Damaged:
            # Training deletes old checkpoints, this one perhaps while it was read.
            if FLAGS.run_once and checkpoint == cifar10_checkpoint.latest(checkpoint_dir):
              raise
            print('%s cannot be read: waiting for the next.' % checkpoint)
            continue
          answers, truth, summary = _evaluate_once(session, probabilities, labels, summary_op)
        # Not tf.nn.in_top_k, which counts a tie as right: a network that says the same for all
        # classes would be perfect.
        precision = np.mean(answers.argmax(axis=1) == truth)
        _eval_dir()
        if not _kind():  # The tags of these are the same for all kinds.
          writer.add_summary(summary, step)
        writer.add_summary(_precision_summary(precision), step)
        writer.add_summary(cifar10_confusion.summary(
            truth, answers, cifar10.classes(),
            lambda indices: cifar10.read_images(FLAGS.eval_data, indices), _kind()), step)
        writer.flush()
        cifar10_console.log('precision @ 1 = %.3f' % precision)

        run = cifar10_run.read(checkpoint_dir)
        if FLAGS.run_once or run and step >= run['flags']['max_steps']:
          break


def _eval_dir():
  """Returns the directory for the event files, made and proved to have room for them."""
  eval_dir = cifar10.directory('eval_dir')
  try:
    os.makedirs(eval_dir, exist_ok=True)
    # The event writer would only log that it cannot write.
    with tempfile.TemporaryFile(dir=eval_dir) as probe:
      probe.write(bytes(_EVENTS_BYTES))
      probe.flush()
  except OSError as error:
    raise UserError('Cannot write to %s (%s): name another directory with --eval_dir.'
                    % (eval_dir, error.strerror)) from error
  return eval_dir


def _check_directories():
  """Checks, before anything is fetched or built, that there is something to evaluate.

  Raises:
    UserError: a flag names no directory, or there is no checkpoint and --run_once asks not to wait
      for one.
  """
  checkpoint_dir = cifar10_restore.checked_checkpoint_dir()
  cifar10_run.check_directory(cifar10.directory('eval_dir'), 'eval_dir')
  if FLAGS.run_once:
    cifar10_restore.latest_checkpoint(checkpoint_dir)


def _wait_for_checkpoint(checkpoint_dir, patience_secs):
  if not FLAGS.run_once and not _latest_there(checkpoint_dir):
    print('No checkpoint in %s yet: waiting for one.' % checkpoint_dir)
  next(_checkpoints(checkpoint_dir, patience_secs))


def _checkpoints(checkpoint_dir, patience_secs):
  """Yields the path of the latest checkpoint, each time that of a new one.

  With --run_once there is no waiting for a new one: the caller stops when one could be read.
  `tf.train.checkpoints_iterator` would do for the rest, but where files are still being copied it
  complains once a second, or fails.
  """
  while FLAGS.run_once:
    yield cifar10_restore.latest_checkpoint(checkpoint_dir)
  checkpoint = None
  while True:
    checkpoint = _next_checkpoint(checkpoint_dir, checkpoint, patience_secs)
    begun = time.monotonic()
    yield checkpoint
    time.sleep(max(0, begun + FLAGS.eval_interval_secs - time.monotonic()))


def _next_checkpoint(checkpoint_dir, last, patience_secs):
  """Waits until the latest checkpoint is another than `last`, and returns its path."""
  begun = time.monotonic()
  while True:
    checkpoint = _latest_there(checkpoint_dir)
    if checkpoint not in (None, last):
      return checkpoint
    if patience_secs is not None and time.monotonic() - begun > patience_secs:
      raise UserError('No new checkpoint in %s for %d seconds: see whether the training is still '
                      'at work.' % (checkpoint_dir, patience_secs))
    time.sleep(_POLL_SECS)


def _latest_there(checkpoint_dir):
  """Returns the path of the latest checkpoint, or None until there is one, with its files."""
  try:
    checkpoint = cifar10_checkpoint.latest(checkpoint_dir)
  except cifar10_checkpoint.Damaged:
    return None
  return checkpoint if checkpoint and tf.train.checkpoint_exists(checkpoint) else None


def _evaluate_once(session, probabilities, labels, summary_op):
  """Runs the input once through, or up to the number of images asked for.

  Args:
    session: a session with the variables restored.
    probabilities: floats of shape [None, 10], for each image of a batch those of the classes.
    labels: integers of shape [None].
    summary_op: the merged summaries; they are taken on the first batch.

  Returns:
    The probabilities and the labels of all images, in the order of the files, and the serialised
    summary.
  """
  wanted = min(_num_examples(), cifar10.count(FLAGS.eval_data))
  coordinator = tf.train.Coordinator()
  threads = tf.train.start_queue_runners(session, coordinator)
  try:
    *batch, summary = session.run([probabilities, labels, summary_op])
    batches, done = [batch], len(batch[1])
    with cifar10_console.Progress('Evaluating', wanted, 'images') as progress:
      while done < wanted:
        progress.update(done)
        batches.append(session.run([probabilities, labels]))
        done += len(batches[-1][1])
  finally:
    coordinator.request_stop()
    coordinator.join(threads)
  answers, truth = (np.concatenate(parts)[:wanted] for parts in zip(*batches))
  return answers, truth, summary


def _num_examples():
  """Returns how many images to evaluate: without the flag as many as there are for testing."""
  if FLAGS['num_examples'].using_default_value:
    return cifar10.count('test')
  return FLAGS.num_examples


def _precision_summary(precision):
  return tf.Summary(value=[tf.Summary.Value(tag='precision @ 1' + _kind(),
                                            simple_value=precision)])


def _kind():
  """Returns what sets apart the tags of this kind of evaluation: one directory can hold all."""
  kind = ''
  if FLAGS.eval_data == 'train_eval':
    kind += ' of training images'
  if not FLAGS.use_moving_averages:
    kind += ' without moving averages'
  if FLAGS.multiview:
    kind += ' over ten views'
  return kind


def main(argv=None, patience_secs=None):
  """Evaluates, see `evaluate`; `argv` is what `tf.app.run` would pass, and is not looked at."""
  _check_directories()
  cifar10.maybe_download_and_extract()
  evaluate(patience_secs)


if __name__ == '__main__':
  cifar10_device.use_graph_mode()
  cifar10_console.run(main)
