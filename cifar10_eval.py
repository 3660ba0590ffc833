"""Measures precision @ 1 of each new checkpoint during training, up to the last step.
With --run_once it evaluates the latest checkpoint and exits.

  python cifar10_eval.py
"""

from cifar10_support import tf_setup  # First: it imports TensorFlow without its chatter.

import os
import time

import numpy as np
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_input
from cifar10_support import best
from cifar10_support import checkpoints
from cifar10_support import console
from cifar10_support import evaluation
from cifar10_support import report
from cifar10_support import runs
from cifar10_support import settings
from cifar10_support import tabs
from cifar10_support.console import UserError

FLAGS = tf.app.flags.FLAGS

console.DEFINE_path('eval_dir', 'cifar10/eval', 'Directory for the event files.')
tf.app.flags.DEFINE_enum('eval_data', 'test', ['test', 'train_eval', 'validation'],
                         'Images to evaluate: for testing, for training or for validation.')
tf.app.flags.DEFINE_integer('eval_interval_secs', 300, 'Minimum seconds between the starts '
                            'of two evaluations.', lower_bound=0)
tf.app.flags.DEFINE_integer('num_examples', None, 'Maximum number of images to evaluate (default: '
                            'the size of the test set, 10000 for CIFAR-10).', lower_bound=1)
tf.app.flags.DEFINE_boolean('run_once', False, 'Evaluate the latest checkpoint and exit.')
tf.app.flags.DEFINE_boolean('confusion', False, 'Print what was taken for what, with recall and '
                            'precision of each class.')
tf.app.flags.DEFINE_boolean('projector', False, "Write for TensorBoard's Projector tab what the "
                            'last layer sees of each image: 30 MB for 10,000 images.')
console.adopt_flags(evaluation, best, settings, cifar10)

_POLL_SECS = 1  # Between two looks for a new checkpoint.


def evaluate(data_set=None, patience_secs=None):
  """Builds the graph and evaluates one checkpoint, or each new one until the last of the run.

  Args:
    data_set: a `dataset.DataSet`, by default that of `cifar10.maybe_download_and_extract`.
    patience_secs: how long to wait for a new checkpoint, or None for ever.

  Raises:
    UserError: none came in that time, or something is wrong with it.
  """
  # Before anything is downloaded: is there something to evaluate, and a place for the results?
  named = FLAGS.checkpoint_dir, 'checkpoint_dir'
  directory, path = runs.directory_and_path(*named)
  is_only = FLAGS.run_once or path
  found = [runs.find_checkpoint(*named)] if is_only else _new_checkpoints(directory, patience_secs)
  runs.check_directory(FLAGS.eval_dir, 'eval_dir')
  best_so_far = best.Best(directory)
  data_set = data_set or cifar10.maybe_download_and_extract(FLAGS.eval_data == 'validation')

  with tf.Graph().as_default():
    crop = cifar10_input.ten_crops if FLAGS.multiview else cifar10_input.central_crop
    images, labels = cifar10.inputs(FLAGS.eval_data, data_set, one_pass=True, crop=crop)
    data = data_set.seen_as(images)
    fetches = [cifar10.probabilities(images), labels, *tabs.embedding(labels)]
    summary_op = tf.summary.merge_all()

    for checkpoint in found:
      runs.check_data(directory, runs.read(directory), data)
      if FLAGS.eval_data == 'validation' and data_set.left_out:
        runs.check_held_out(directory, data)
      try:
        (probabilities, truth, *points), summary = _evaluate_once(checkpoint, fetches, summary_op,
                                                                  data_set)
      except checkpoints.Damaged as error:  # Training has just deleted it.
        if is_only:
          raise
        print(f'{error} Waiting for the next one.')
        continue
      # tf.nn.in_top_k counts a tie as right: a network that gives all classes the same probability
      # would get a perfect score.
      precision = np.mean(probabilities.argmax(axis=1) == truth)
      console.log(f'precision @ 1 = {precision:.3f}')
      # Before another line: whoever reads them may be gone by then (`| head -1`).
      _write_events(checkpoint, data_set, precision, probabilities, truth, summary, points)
      matrix = report.confusion_matrix(truth, probabilities.argmax(axis=1), len(data_set.classes))
      balanced = report.balanced_accuracy(matrix)
      if f'{balanced:.3f}' != f'{precision:.3f}':  # Some classes have more images than others.
        console.log(f'balanced accuracy = {balanced:.3f}')
      if FLAGS.confusion:
        print(report.confusion_table(matrix, data_set.classes))
      run = runs.read(directory)  # Again: it may have been resumed in the meantime.
      verdict, is_over = best_so_far.consider(checkpoint, precision,
                                              f'precision @ 1{_kind()}, {len(truth)} images')
      is_last = is_only or is_over or (run and checkpoint.step
                                       and checkpoint.step >= run['flags']['max_steps'])
      step = 'An unknown step' if checkpoint.step is None else f'Step {checkpoint.step}'
      part = FLAGS.eval_data.replace('train_eval', 'training')
      print(f'{step} of {directory}, {len(truth)} {part} images.{verdict}'
            + ('' if is_last else ' Waiting for the next checkpoint.'))
      if is_last:
        print(f'{FLAGS.eval_dir} has the curves, the confusion matrix and the mistakes: '
              f'tensorboard --logdir {FLAGS.eval_dir}')
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
          print(f'{error} Waiting for the next one.')
        damaged = path
      else:
        last = path
        yield checkpoint
        time.sleep(max(0, started + FLAGS.eval_interval_secs - time.monotonic()))
        since = time.monotonic()
        continue
    if patience_secs is not None and time.monotonic() - since > patience_secs:
      raise UserError(f'No new checkpoint in {directory} for {patience_secs} seconds: check that '
                      'training is still running.')
    if not (last or damaged or is_told):
      print(f'No checkpoint in {directory} yet: waiting for one.')
      is_told = True
    time.sleep(_POLL_SECS)


def _evaluate_once(checkpoint, fetches, summary_op, data_set):
  """Restores a checkpoint and runs through the input once, or up to --num_examples.

  Returns:
    A list of the values of `fetches` for all images, in the order of the files, and the serialised
    summary of the first batch.
  """
  num_examples = min(FLAGS.num_examples or max(data_set.num_test, data_set.num_validation),
                     data_set.num_examples(FLAGS.eval_data))
  with tf.Session(config=tf_setup.session_config()) as session, tf_setup.explained_errors(
      'evaluate again'):
    evaluation.restore(session, checkpoint)
    coordinator = tf.train.Coordinator()
    threads = tf.train.start_queue_runners(session, coordinator)
    try:
      batch, summary = session.run([fetches, summary_op])
      batches, done = [batch], len(batch[1])
      with console.progress('Evaluating', num_examples, 'images', initial=done) as progress:
        while done < num_examples:
          batches.append(session.run(fetches))
          done += len(batches[-1][1])
          progress.update(len(batches[-1][1]))
    finally:
      coordinator.request_stop()
      coordinator.join(threads)
  return [np.concatenate(parts)[:num_examples] for parts in zip(*batches)], summary


def _write_events(checkpoint, data_set, precision, probabilities, labels, summary, points):
  """Writes all that TensorBoard shows of an evaluation: an event file of its own for each.

  If it cannot be written, `tf.io.TFRecordWriter` raises; a `FileWriter` would only log that.
  """
  kind = _kind()
  values = report.summary(labels, probabilities, data_set.classes,
                          lambda indices: data_set.read_images(FLAGS.eval_data, indices), kind)
  values.value.add(tag=f'precision @ 1{kind}', simple_value=precision)
  values.MergeFrom(tabs.hyperparameters(os.path.dirname(checkpoint.path)))
  if not kind:  # The tags of these are the same for all kinds.
    values.MergeFromString(summary)
  graph_def = tf.get_default_graph().as_graph_def(add_shapes=True).SerializeToString()
  path = os.path.join(FLAGS.eval_dir, f'events.out.tfevents.{time.time_ns()}')
  with tf_setup.writing_to(FLAGS.eval_dir, 'eval_dir'):
    os.makedirs(FLAGS.eval_dir, exist_ok=True)
    with tf.io.TFRecordWriter(path) as out:
      for event in (tf.Event(file_version='brain.Event:2'), tf.Event(graph_def=graph_def),
                    tf.Event(wall_time=time.time(), step=checkpoint.step, summary=values)):
        out.write(event.SerializeToString())
    runs.record_evaluation(FLAGS.eval_dir, os.path.dirname(checkpoint.path))
    if points:
      tabs.write_projector(FLAGS.eval_dir, labels, probabilities, data_set.classes,
                           data_set.read_images(FLAGS.eval_data, range(len(labels))), *points)


def _kind():
  """Returns the end of this kind's tags, so that one directory can hold all kinds of evaluation."""
  part = FLAGS.eval_data.replace('train_eval', 'training')
  return (('' if part == 'test' else f' of {part} images')
          + ('' if FLAGS.use_moving_averages else ' without moving averages')
          + (' with ten crops' if FLAGS.multiview else ''))


def main(argv=None, patience_secs=None):
  """Evaluates, see `evaluate`; `argv` is what `tf.app.run` would pass, and is not used."""
  with settings.from_flags(cifar10):
    evaluate(patience_secs=patience_secs)


if __name__ == '__main__':
  tf_setup.use_graph_mode()
  console.run(main)
