"""Measures precision @ 1 of each new checkpoint during training, up to the last step.
With --run_once it evaluates the latest checkpoint and exits.

  python cifar10_eval.py
"""

from cifar10_support import checkpoints
from cifar10_support import console
from cifar10_support import restore
from cifar10_support import runs
from cifar10_support import settings
from cifar10_support import summaries
from cifar10_support import tf_setup
from cifar10_support.console import UserError

import os
import tempfile
import time

import numpy as np
import tensorflow.compat.v1 as tf

import cifar10

FLAGS = tf.app.flags.FLAGS

console.DEFINE_path('eval_dir', 'cifar10/eval', 'Directory for the event files.')
tf.app.flags.DEFINE_enum('eval_data', 'test', ['test', 'train_eval'],
                         'Images to evaluate: the test set or the training set.')
tf.app.flags.DEFINE_integer('eval_interval_secs', 300, 'Minimum seconds between the starts '
                            'of two evaluations.', lower_bound=0)
tf.app.flags.DEFINE_integer('num_examples', None, 'Maximum number of images to evaluate (default: '
                            'the size of the test set, 10000 for CIFAR-10).', lower_bound=1)
tf.app.flags.DEFINE_boolean('run_once', False, 'Evaluate the latest checkpoint and exit.')
for module in (restore, settings, cifar10):  # For --help.
  tf.app.flags.adopt_module_key_flags(module)

_POLL_SECS = 1  # Between two looks for a new checkpoint.

_EVENTS_BYTES = 1 << 20  # More than the events of one evaluation, and the graph, take.


def evaluate(data_set, directory, only=None, patience_secs=None):
  """Builds the graph and evaluates one checkpoint, or each new one until the last of the run.

  Args:
    data_set: a `dataset.DataSet`, see `cifar10.maybe_download_and_extract`.
    directory: path of the run's directory.
    only: the `checkpoints.Checkpoint` to evaluate, or None to wait for those that training writes.
    patience_secs: how long to wait for a new checkpoint, or None for ever.

  Raises:
    UserError: none came in that time, or something is wrong with it.
  """
  with tf.Graph().as_default() as graph:
    images, labels = cifar10.inputs(FLAGS.eval_data, data_set, one_pass=True,
                                    multiview=FLAGS.multiview)
    probabilities = cifar10.probabilities(images)
    summary_op = tf.summary.merge_all()
    restorer = restore.Restorer()

    _check_writable(FLAGS.eval_dir)
    # Two evaluations that start in one second would share an event file.
    with tf.summary.FileWriter(FLAGS.eval_dir, graph,
                               filename_suffix='.%d' % time.time_ns()) as writer:
      for checkpoint in [only] if only else _new_checkpoints(directory, patience_secs):
        runs.check_classes(directory, runs.read(directory), data_set.classes)
        with tf.Session(config=tf_setup.session_config()) as session, tf_setup.explained_errors(
            'evaluate again'):
          try:
            restorer.restore(session, checkpoint)
          except checkpoints.Damaged as error:  # Training has just deleted it.
            if only:
              raise
            print('%s Waiting for the next one.' % error)
            continue
          answers, truth, summary = _evaluate_once(
              session, probabilities, labels, summary_op,
              min(FLAGS.num_examples or data_set.num_test, data_set.num_examples(FLAGS.eval_data)))
        # tf.nn.in_top_k counts a tie as right: a network that gives all classes the same
        # probability would get a perfect score.
        precision = np.mean(answers.argmax(axis=1) == truth)
        _check_writable(FLAGS.eval_dir)
        if not os.listdir(FLAGS.eval_dir):  # Somebody has removed it, and the event file with it.
          writer.close()
          writer.reopen()
        kind = _kind()
        if not kind:  # The tags of these are the same for all kinds.
          writer.add_summary(summary, checkpoint.step)
        writer.add_summary(tf.Summary(value=[tf.Summary.Value(
            tag='precision @ 1' + kind, simple_value=precision)]), checkpoint.step)
        writer.add_summary(summaries.evaluation(
            truth, answers, data_set.classes,
            lambda indices: data_set.read_images(FLAGS.eval_data, indices), kind), checkpoint.step)
        writer.flush()
        console.log('precision @ 1 = %.3f' % precision)
        run = runs.read(directory)  # Again: it may have been resumed in the meantime.
        if run and checkpoint.step and checkpoint.step >= run['flags']['max_steps']:
          break


def _new_checkpoints(directory, patience_secs):
  """Yields the latest checkpoint of a directory, then each newer one that is found there."""
  last, damaged, since = None, None, time.monotonic()
  is_told = False
  while True:
    # While a run is being copied, its files come one by one, and each grows.
    path = next(filter(tf.train.checkpoint_exists, checkpoints.paths(directory)), None)
    if path not in (None, last):
      started = time.monotonic()
      try:
        checkpoint = checkpoints.read(path)
      except checkpoints.Damaged as error:
        if path != damaged:
          print('%s Waiting for the next one.' % error)
        damaged = path
      else:
        last = path
        yield checkpoint
        time.sleep(max(0, started + FLAGS.eval_interval_secs - time.monotonic()))
        since = time.monotonic()
        continue
    if patience_secs is not None and time.monotonic() - since > patience_secs:
      raise UserError('No new checkpoint in %s for %d seconds: check that training is still '
                      'running.' % (directory, patience_secs))
    if not (last or damaged or is_told):
      print('No checkpoint in %s yet: waiting for one.' % directory)
      is_told = True
    time.sleep(_POLL_SECS)


def _evaluate_once(session, probabilities, labels, summary_op, num_examples):
  """Runs through the input once, or up to the number of images asked for.

  Args:
    session: a session with the variables restored.
    probabilities: floats of shape [None, 10], see `cifar10.probabilities`.
    labels: integers of shape [None].
    summary_op: the merged summaries; they are taken from the first batch.
    num_examples: how many images to evaluate.

  Returns:
    The probabilities and the labels of the images, in the order of the files, and the serialised
    summary.
  """
  coordinator = tf.train.Coordinator()
  threads = tf.train.start_queue_runners(session, coordinator)
  try:
    *batch, summary = session.run([probabilities, labels, summary_op])
    batches, done = [batch], len(batch[1])
    with console.Progress('Evaluating', num_examples, 'images') as progress:
      while done < num_examples:
        progress.update(done)
        batches.append(session.run([probabilities, labels]))
        done += len(batches[-1][1])
  finally:
    coordinator.request_stop()
    coordinator.join(threads)
  answers, truth = (np.concatenate(parts)[:num_examples] for parts in zip(*batches))
  return answers, truth, summary


def _check_writable(eval_dir):
  """Makes the directory and tries it out: the event writer would only log that it cannot write."""
  try:
    os.makedirs(eval_dir, exist_ok=True)
    with tempfile.TemporaryFile(dir=eval_dir) as probe:
      probe.write(bytes(_EVENTS_BYTES))
      probe.flush()
  except OSError as error:
    raise UserError('Cannot write to %s (%s): name another directory with --eval_dir.'
                    % (eval_dir, error.strerror)) from error


def _kind():
  """Returns the end of this kind's tags, so that one directory can hold all kinds of evaluation."""
  return ((' of training images' if FLAGS.eval_data == 'train_eval' else '')
          + ('' if FLAGS.use_moving_averages else ' without moving averages')
          + (' with ten crops' if FLAGS.multiview else ''))


def main(argv=None, patience_secs=None):
  """Evaluates, see `evaluate`; `argv` is what `tf.app.run` would pass, and is not used."""
  with settings.from_flags(cifar10):
    # Before anything is downloaded: is there something to evaluate, and a place for the results?
    directory, path = restore.directory_and_path()
    only = restore.checkpoint() if FLAGS.run_once or path else None
    runs.check_directory(FLAGS.eval_dir, 'eval_dir')
    evaluate(cifar10.maybe_download_and_extract(), directory, only, patience_secs)


if __name__ == '__main__':
  tf_setup.use_graph_mode()
  console.run(main)
