"""Programs in the style of 2016, written against the original's modules, run on ours unchanged.

Each is a function, but for one with flags of its own: in this process the scripts have defined some
of the same names.
"""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_input
from conftest import ROOT
from conftest import TRAINED
import numpy_network

FLAGS = tf.app.flags.FLAGS


@pytest.fixture(autouse=True)
def data(small_data_dir, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  FLAGS.data_dir = small_data_dir


@pytest.fixture
def test_images(small_data_set):
  """The images of the test file, standardised, and their labels."""
  images, labels = numpy_network.read(small_data_set.test_files[0])
  return numpy_network.central_crop(images), labels


def _evaluator(num_examples, batch_size):
  """Counts right answers; whatever is raised only ends the loop, and the count is printed."""
  FLAGS.batch_size = batch_size
  images, labels = cifar10.inputs(eval_data='test')
  logits = cifar10.inference(images)
  top_k_op = tf.nn.in_top_k(logits, labels, 1)
  averages = tf.train.ExponentialMovingAverage(cifar10.MOVING_AVERAGE_DECAY)
  saver = tf.train.Saver(averages.variables_to_restore())
  with tf.Session() as sess:
    ckpt = tf.train.get_checkpoint_state(TRAINED)
    saver.restore(sess, os.path.join(TRAINED, os.path.basename(ckpt.model_checkpoint_path)))
    coord = tf.train.Coordinator()
    threads = []
    steps = true_count = 0
    try:
      for qr in tf.get_collection(tf.GraphKeys.QUEUE_RUNNERS):
        threads.extend(qr.create_threads(sess, coord=coord, daemon=True, start=True))
      num_iter = int(math.ceil(num_examples / batch_size))
      total = num_iter * batch_size
      while steps < num_iter and not coord.should_stop():
        true_count += np.sum(sess.run([top_k_op]))
        steps += 1
    except Exception as e:
      coord.request_stop(e)
    coord.request_stop()
    coord.join(threads, stop_grace_period_secs=10, ignore_live_threads=True)
  return steps, true_count, total


def test_evaluator_that_divides_by_whole_batches(test_images):
  steps, true_count, total = _evaluator(num_examples=100, batch_size=16)
  images, labels = test_images
  right = numpy_network.logits(images, numpy_network.averages(TRAINED)).argmax(1) == labels
  # As 10,000 images in batches of 128 are 79 batches and 10,112 images: the first ones come again.
  assert (steps, total) == (7, 112)
  assert true_count == np.resize(right, 112).sum() > 0


def test_evaluation_of_10000_images_takes_79_full_batches(run_graph, test_images):
  _, labels = cifar10.inputs(True)
  batches = run_graph(labels, times=79)
  np.testing.assert_array_equal(np.concatenate(batches), np.resize(test_images[1], 10112))


def _placeholder_program(steps):
  """Feeds batches of the static shape of the placeholder, which it takes from the pipeline."""
  images, labels = cifar10.inputs(eval_data=False)
  x = tf.placeholder(tf.float32, [128, 24, 24, 3])
  y = tf.placeholder(tf.int64, [128])
  global_step = tf.Variable(0, trainable=False)
  loss = cifar10.loss(cifar10.inference(x), y)
  train_op = cifar10.train(loss, global_step)
  losses = []
  with tf.Session() as sess:
    sess.run(tf.global_variables_initializer())
    coord = tf.train.Coordinator()
    threads = tf.train.start_queue_runners(sess=sess, coord=coord)
    for _ in range(steps):
      batch, truth = sess.run([images, labels])
      before, _ = sess.run([loss, train_op], {x: batch, y: truth})
      losses.append((before, sess.run(loss, {x: batch, y: truth})))
    coord.request_stop()
    coord.join(threads)
    return losses, sess.run(global_step)


def test_placeholder_of_a_fixed_batch_size_is_fed():
  losses, global_step = _placeholder_program(steps=2)
  assert global_step == 2
  assert losses[0][0] == pytest.approx(4.68, abs=0.1)
  assert all(after < before for before, after in losses)


def _trains_and_tests(steps, test_every):
  """Measures the accuracy on test images inside the training loop; the two networks share all."""
  FLAGS.batch_size = 20
  with tf.Graph().as_default(), tf.Session() as sess:
    global_step = tf.Variable(0, name='global_step', trainable=False)
    images, labels = cifar10.distorted_inputs()
    test_images, test_labels = cifar10.inputs(eval_data=True)
    loss = cifar10.loss(cifar10.inference(images), labels)
    with tf.variable_scope(tf.get_variable_scope(), reuse=True):
      test_logits = cifar10.inference(test_images)
    accuracy = tf.reduce_mean(tf.cast(tf.nn.in_top_k(test_logits, test_labels, 1), tf.float32))
    train_op = cifar10.train(loss, global_step)
    summary_op = tf.summary.merge_all()
    sess.run(tf.global_variables_initializer())
    coord = tf.train.Coordinator()
    threads = tf.train.start_queue_runners(sess=sess, coord=coord)
    losses, measured = [], []
    for step in range(steps):
      losses.append(sess.run([train_op, loss])[1])
      if step % test_every == 0:
        measured.append(sess.run([accuracy, {v.op.name: v for v in tf.trainable_variables()}]))
    summary = tf.Summary.FromString(sess.run(summary_op))
    coord.request_stop()
    coord.join(threads)
  return losses, measured, summary


def test_accuracy_is_measured_while_training(test_images, monkeypatch):
  monkeypatch.setattr(cifar10, 'MIN_QUEUE_EXAMPLES', 50)
  losses, measured, summary = _trains_and_tests(steps=3, test_every=2)
  images, labels = test_images
  assert losses[0] == pytest.approx(4.68, abs=0.2)
  for i, (accuracy, variables) in enumerate(measured):
    part = slice(20 * i, 20 * i + 20)
    assert len(variables) == 10
    answers = numpy_network.logits(images[part], variables).argmax(axis=1)
    assert accuracy == pytest.approx(np.mean(answers == labels[part]))
  assert len(measured) == 2
  tags = [value.tag for value in summary.value]
  assert len(set(tags)) == len(tags)
  assert {'learning_rate', 'conv1/activations', 'losses/total_loss/raw'} <= set(tags)


# Towers of its own, and flags that our scripts define too.
_TOWERS = '''
import tensorflow.compat.v1 as tf
tf.disable_v2_behavior()
before = set(tf.app.flags.FLAGS)
import cifar10, cifar10_input
flags = sorted(set(tf.app.flags.FLAGS) - before)

import json
FLAGS = tf.app.flags.FLAGS
tf.app.flags.DEFINE_float('momentum', 0.9, 'Momentum.')
tf.app.flags.DEFINE_integer('num_gpus', 1, 'How many GPUs to use.')
tf.app.flags.DEFINE_integer('max_steps', 1000000, 'Number of batches to run.')
tf.app.flags.DEFINE_string('train_dir', '/tmp/cifar10_train', 'Directory for event logs.')
tf.app.flags.DEFINE_float('weight_decay', 0.004, 'Weight decay.')


def tower_loss(scope):
  images, labels = cifar10.distorted_inputs()
  cifar10.loss(cifar10.inference(images), labels)
  losses = tf.get_collection('losses', scope)
  return tf.add_n(losses, name='total_loss'), losses


def average_gradients(tower_grads):
  averages = []
  for grad_and_vars in zip(*tower_grads):
    grads = [tf.expand_dims(g, 0) for g, _ in grad_and_vars]
    averages.append((tf.reduce_mean(tf.concat(axis=0, values=grads), 0), grad_and_vars[0][1]))
  return averages


def main(argv=None):
  with tf.Graph().as_default(), tf.device('/cpu:0'):
    global_step = tf.get_variable('global_step', [], initializer=tf.constant_initializer(0),
                                  trainable=False)
    opt = tf.train.MomentumOptimizer(cifar10.INITIAL_LEARNING_RATE, FLAGS.momentum)
    grads, losses = [], []
    with tf.variable_scope(tf.get_variable_scope()):
      for i in range(FLAGS.num_gpus):
        with tf.device('/gpu:%d' % i):
          with tf.name_scope('%s_%d' % (cifar10.TOWER_NAME, i)) as scope:
            loss, parts = tower_loss(scope)
            losses.append([loss] + parts)
            tf.get_variable_scope().reuse_variables()
            summaries = tf.get_collection(tf.GraphKeys.SUMMARIES, scope)
            grads.append(opt.compute_gradients(loss))
    update = opt.apply_gradients(average_gradients(grads), global_step=global_step)
    averages = tf.train.ExponentialMovingAverage(cifar10.MOVING_AVERAGE_DECAY, global_step)
    train_op = tf.group(update, averages.apply(tf.trainable_variables()))
    saver = tf.train.Saver(tf.global_variables())
    summary_op = tf.summary.merge(summaries)
    sess = tf.Session(config=tf.ConfigProto(allow_soft_placement=True))
    sess.run(tf.global_variables_initializer())
    saver.save(sess, FLAGS.train_dir + '/model.ckpt', global_step=0)
    tf.train.start_queue_runners(sess=sess)
    values = sess.run(losses)
    for step in range(FLAGS.max_steps):
      sess.run(train_op)
    summary = tf.Summary.FromString(sess.run(summary_op))
    saver.save(sess, FLAGS.train_dir + '/model.ckpt', global_step=FLAGS.max_steps)
    print(json.dumps({'flags': flags, 'losses': [[float(v) for v in tower] for tower in values],
                      'tags': [value.tag for value in summary.value]}))


if __name__ == '__main__':
  tf.app.run()
'''


@pytest.fixture(scope='module')
def towers(tmp_path_factory, small_data_dir):
  """What that program printed, and its directory."""
  home = tmp_path_factory.mktemp('towers')
  (home / 'towers.py').write_text(_TOWERS)
  process = subprocess.run(
      [sys.executable, 'towers.py', '--data_dir=' + small_data_dir, '--num_gpus=2',
       '--batch_size=8', '--momentum=0.5', '--max_steps=2', '--train_dir=run'],
      cwd=home, env={**os.environ, 'PYTHONPATH': ROOT}, capture_output=True, text=True, timeout=120)
  assert process.returncode == 0, process.stderr
  return json.loads(process.stdout.splitlines()[-1]), home / 'run'


def test_importing_the_modules_defines_the_originals_flags_alone(towers):
  assert towers[0]['flags'] == ['batch_size', 'data_dir', 'use_fp16']


def test_towers_and_flags_of_the_programs_own(towers):
  output, train_dir = towers
  start, end = (tf.train.load_checkpoint(str(train_dir / ('model.ckpt-%d' % step)))
                for step in (0, 2))
  decays = [0.004 / 2 * np.sum(start.get_tensor(layer + '/weights') ** 2)
            for layer in ('local3', 'local4')]
  for total, *parts in output['losses']:
    assert parts == pytest.approx(decays + [np.log(10)], abs=0.2)
    assert parts[:2] == pytest.approx(decays, rel=1e-4)
    assert total == pytest.approx(sum(parts), rel=1e-5)
  assert end.get_tensor('global_step') == 2
  assert end.has_tensor('conv1/weights/Momentum')
  assert end.has_tensor('conv1/weights/ExponentialMovingAverage')
  assert not np.array_equal(start.get_tensor('conv1/weights'), end.get_tensor('conv1/weights'))
  # The last tower's: a histogram and a scalar of each layer.
  tags = output['tags']
  assert len([tag for tag in tags if 'activations' in tag]) == 5
  assert len([tag for tag in tags if 'sparsity' in tag]) == 5
  assert not [tag for tag in tags if 'tower' in tag and '/input/' not in tag]


def _transfer_program(batch, truth, steps):
  """Takes conv1 from a checkpoint and learns a head of its own for two classes."""
  images = tf.placeholder(tf.float32, [None, 24, 24, 3])
  labels = tf.placeholder(tf.int32, [None])
  cifar10.inference(images)
  norm1 = tf.get_default_graph().get_tensor_by_name('norm1:0')
  saver = tf.train.Saver([v for v in tf.global_variables() if v.op.name.startswith('conv1')])
  tf.get_default_graph().clear_collection('losses')  # Those of the layers it leaves out.
  with tf.variable_scope('head') as scope:
    features = tf.reshape(norm1, [-1, 12 * 12 * 64])
    weights = cifar10._variable_with_weight_decay('weights', shape=[12 * 12 * 64, 2], stddev=0.01,
                                                  wd=0.5)
    biases = cifar10._variable_on_cpu('biases', [2], tf.constant_initializer(0.1))
    logits = tf.add(tf.matmul(features, weights), biases, name=scope.name)
    cifar10._activation_summary(logits)
  total_loss = cifar10.loss(logits, labels)
  optimizer = tf.train.GradientDescentOptimizer(1e-5)
  train_op = optimizer.minimize(total_loss, var_list=[weights, biases])
  feed = {images: batch, labels: truth}
  with tf.Session() as sess:
    sess.run(tf.global_variables_initializer())
    saver.restore(sess, tf.train.latest_checkpoint(TRAINED))
    first = sess.run([total_loss, logits, weights], feed)
    for _ in range(steps):
      sess.run(train_op, feed)
    kernel = sess.run(tf.trainable_variables()[0])
    return first, sess.run(total_loss, feed), kernel


def test_first_layer_is_taken_from_a_checkpoint(test_images):
  images, labels = test_images
  truth = labels[:20] % 2
  (first, logits, weights), last, kernel = _transfer_program(images[:20], truth, steps=5)
  np.testing.assert_array_equal(
      kernel, tf.train.load_checkpoint(TRAINED).get_tensor('conv1/weights'))
  log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
  cross_entropy = -log_softmax[np.arange(20), truth].mean()
  assert first == pytest.approx(cross_entropy + 0.5 * np.sum(weights ** 2) / 2, rel=1e-4)
  assert last < first


def _program_that_edits_constants(path, batch_size):
  """Reads with `read_cifar10` and queues of its own, and trains with numbers of its own."""
  cifar10.INITIAL_LEARNING_RATE = 0.05
  cifar10.NUM_EPOCHS_PER_DECAY = 2.0
  cifar10.LEARNING_RATE_DECAY_FACTOR = 0.5
  cifar10.NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN = 16
  cifar10.MOVING_AVERAGE_DECAY = 0.25
  FLAGS.batch_size = batch_size
  queue = tf.train.string_input_producer([path], shuffle=False)
  read_input = cifar10_input.read_cifar10(queue)
  image = tf.cast(read_input.uint8image, tf.float32)
  image = tf.image.resize_image_with_crop_or_pad(image, cifar10_input.IMAGE_SIZE,
                                                 cifar10_input.IMAGE_SIZE)
  image = tf.image.per_image_standardization(image)
  images, labels = tf.train.batch([image, read_input.label], batch_size=batch_size, num_threads=1,
                                  capacity=3 * batch_size)
  labels = tf.reshape(labels, [batch_size])
  global_step = tf.train.get_or_create_global_step()
  loss = cifar10.loss(cifar10.inference(images), labels)
  biases = [v for v in tf.trainable_variables() if v.op.name == 'softmax_linear/biases'][0]
  [gradient] = tf.gradients(loss, [biases])
  average = tf.train.ExponentialMovingAverage(0.0)
  train_op = cifar10.train(loss, global_step)
  records = []
  with tf.train.MonitoredSession() as sess:
    variables = {v.op.name: v for v in tf.global_variables()}
    key = average.average_name(biases)
    for _ in range(5):
      before = sess.run([variables[biases.op.name], variables[key]])
      fetched = sess.run([images, labels, gradient, train_op])[:3]
      records.append((*fetched, before, sess.run([variables[biases.op.name], variables[key]])))
  return records


def test_constants_and_pipeline_of_the_programs_own(small_data_set, test_images, monkeypatch):
  for name in ('INITIAL_LEARNING_RATE', 'NUM_EPOCHS_PER_DECAY', 'LEARNING_RATE_DECAY_FACTOR',
               'NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN', 'MOVING_AVERAGE_DECAY'):
    monkeypatch.setattr(cifar10, name, getattr(cifar10, name))  # Is put back afterwards.
  records = _program_that_edits_constants(small_data_set.test_files[0], batch_size=8)
  # Two epochs of 16 images are four steps: the rate falls once.
  for step, (images, labels, gradient, before, after) in enumerate(records):
    part = slice(8 * step, 8 * step + 8)
    np.testing.assert_allclose(images, test_images[0][part], atol=1e-4)
    np.testing.assert_array_equal(labels, test_images[1][part])
    rate = 0.05 if step < 4 else 0.025
    np.testing.assert_allclose(after[0], before[0] - rate * gradient, atol=1e-6)
    decay = min(0.25, (2.0 + step) / (11.0 + step))
    np.testing.assert_allclose(after[1], decay * before[1] + (1 - decay) * after[0], atol=1e-6)
