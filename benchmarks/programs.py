"""The programs that throughput.py compares; run as a process, one of them each.

  python benchmarks/programs.py NAME DATA_DIR BATCH_SIZE

The process reads a number of seconds a line from standard input, runs whole steps for about so
long, and answers with a line of JSON: the images a second, and its peak memory in MB. All train, or
feed, the network of cifar10.py with the same distortions, unless their name says otherwise. Runs go
into temporary folders, which throughput.py deletes.
"""

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)


# What is open until the process is killed.
_LASTING = contextlib.ExitStack()


def graph_mode():
  """Returns TensorFlow, set to what the scripts set it to."""
  import cifar10_tensorflow  # noqa: F401
  import tensorflow.compat.v1 as tf
  import cifar10_device
  cifar10_device.use_graph_mode()
  return tf


def _parse_flags(data_dir, batch_size, *flags):
  import cifar10
  import cifar10_session  # noqa: F401, defines flags
  cifar10.FLAGS(['throughput', '--data_dir=' + data_dir, '--batch_size=%d' % batch_size, *flags])


def _running(session, fetch):
  """Starts the queues of a session and returns the function that runs one step."""
  tf = sys.modules['tensorflow.compat.v1']
  session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
  tf.train.start_queue_runners(session)
  return lambda: session.run(fetch)


def constant_images(tf, batch_size):
  """Images and labels that cost nothing to provide, and that the graph optimiser cannot fold."""
  images = tf.get_local_variable('images', initializer=tf.random_normal([batch_size, 24, 24, 3]))
  labels = tf.get_local_variable('labels', initializer=tf.range(batch_size) % 10)
  return images, labels


def project(data_dir, batch_size, *flags, chief_of=None):
  """cifar10_train.py as it is: with its log, its summaries and its checkpoints.

  With `chief_of`, the jobs of a cluster, as its chief.
  """
  tf = graph_mode()
  import cifar10
  import cifar10_cluster
  import cifar10_replica
  import cifar10_session
  _parse_flags(data_dir, batch_size, '--train_dir=' + tempfile.mkdtemp(), '--max_steps=10000000',
               *flags)
  replica = None
  if chief_of:
    replica = cifar10_replica.Replica(cifar10_cluster.Cluster(chief_of, 'chief', 0))
    _LASTING.enter_context(replica.at_work())
    _LASTING.enter_context(replica.placement())
  global_step = tf.train.get_or_create_global_step()
  images, labels = cifar10.distorted_inputs()
  loss = cifar10.loss(cifar10.inference(images), labels)
  train_op = (replica.train if replica else cifar10.train)(loss, global_step)
  session = _LASTING.enter_context(
      cifar10_session.training_session(loss, batch_size, replica=replica))
  return lambda: session.run(train_op)


def project_mixed_precision(data_dir, batch_size):
  """The same with --mixed_precision."""
  return project(data_dir, batch_size, '--mixed_precision')


def project_without_onednn(data_dir, batch_size):
  """The same with the convolutions that TensorFlow has of its own."""
  os.environ['TF_ENABLE_ONEDNN_OPTS'] = '0'
  return project(data_dir, batch_size)


def one_tower(data_dir, batch_size, towers=1):
  """cifar10_multi_gpu_train.py with one tower."""
  graph_mode()
  import cifar10_multi_gpu_train
  import cifar10_session
  _parse_flags(data_dir, batch_size // towers, '--train_dir=' + tempfile.mkdtemp(),
               '--max_steps=10000000', '--num_gpus=%d' % towers)
  loss, train_op = cifar10_multi_gpu_train.build()
  session = _LASTING.enter_context(cifar10_session.training_session(loss, batch_size, towers))
  return lambda: session.run(train_op)


def two_towers(data_dir, batch_size):
  """The same with two, which share the images of a batch."""
  return one_tower(data_dir, batch_size, towers=2)


def cluster_of_two(data_dir, batch_size):
  """cifar10_train.py as the chief of a cluster on this machine, with a worker and a server.

  Each of the two replicas has `batch_size` images a step.
  """
  with contextlib.ExitStack() as probes:
    sockets = [probes.enter_context(socket.socket()) for _ in range(3)]
    for probe in sockets:
      probe.bind(('127.0.0.1', 0))
    ps, chief, worker = ['127.0.0.1:%d' % probe.getsockname()[1] for probe in sockets]
  jobs = {'ps': [ps], 'chief': [chief], 'worker': [worker]}
  for job in ('ps', 'worker'):
    config = json.dumps({'cluster': jobs, 'task': {'type': job, 'index': 0}})
    # Of this process's group, with which throughput.py ends them.
    subprocess.Popen([sys.executable, os.path.join(ROOT, 'cifar10_train.py'),
                      '--data_dir=' + data_dir, '--batch_size=%d' % batch_size],
                     env={**os.environ, 'TF_CONFIG': config}, stdout=subprocess.DEVNULL)
  return project(data_dir, batch_size, chief_of=jobs)


def project_computation(data_dir, batch_size):
  """The training step alone, on constant images."""
  tf = graph_mode()
  import cifar10
  _parse_flags(data_dir, batch_size)
  global_step = tf.train.get_or_create_global_step()
  images, labels = constant_images(tf, batch_size)
  loss = cifar10.loss(cifar10.inference(images), labels)
  return _running(tf.Session(), cifar10.train(loss, global_step))


def project_input(data_dir, batch_size):
  """The input pipeline alone."""
  tf = graph_mode()
  import cifar10
  _parse_flags(data_dir, batch_size)
  images, labels = cifar10.distorted_inputs()
  return _running(tf.Session(), [images.op, labels.op])


def project_evaluation(data_dir, batch_size):
  """Inference on constant images, as evaluation does it."""
  tf = graph_mode()
  import cifar10
  _parse_flags(data_dir, batch_size)
  images, _ = constant_images(tf, batch_size)
  return _running(tf.Session(), tf.argmax(cifar10.inference(images), 1))


def _naive_inputs(tf, data_dir, batch_size):
  """One image an op call, distorted before the shuffle queue, by 16 threads."""
  import cifar10_dataset
  import cifar10_input
  queue = tf.train.string_input_producer(
      cifar10_dataset.files(cifar10_dataset.locate(data_dir), 'train_eval'))
  record = cifar10_input.read_cifar10(queue)
  image = tf.random_crop(tf.cast(record.uint8image, tf.float32), [24, 24, 3])
  image = tf.image.random_flip_left_right(image)
  image = tf.image.random_brightness(image, max_delta=63)
  image = tf.image.random_contrast(image, lower=0.2, upper=1.8)
  image = tf.image.per_image_standardization(image)
  return tf.train.shuffle_batch([image, record.label[0]], batch_size, num_threads=16,
                                capacity=20000 + 3 * batch_size, min_after_dequeue=20000)


def naive(data_dir, batch_size):
  """The training step and the input as one writes them first, with tf.nn.lrn."""
  tf = graph_mode()
  import cifar10
  _parse_flags(data_dir, batch_size)
  cifar10._normalize = lambda x, name: tf.nn.lrn(x, 4, bias=1.0, alpha=0.001 / 9.0, beta=0.75)
  global_step = tf.train.get_or_create_global_step()
  images, labels = _naive_inputs(tf, data_dir, batch_size)
  loss = cifar10.loss(cifar10.inference(images), labels)
  return _running(tf.Session(), cifar10.train(loss, global_step))


def naive_input(data_dir, batch_size):
  """The input of `naive` alone."""
  tf = graph_mode()
  _parse_flags(data_dir, batch_size)
  images, labels = _naive_inputs(tf, data_dir, batch_size)
  return _running(tf.Session(), [images.op, labels.op])


def keras(data_dir, batch_size):
  """A Keras model trained by train_on_batch from a tf.data pipeline."""
  import cifar10_tensorflow  # noqa: F401
  import keras
  import tensorflow as tf
  import cifar10_dataset

  def decode(record):
    values = tf.io.decode_raw(record, tf.uint8)
    image = tf.transpose(tf.reshape(values[1:], [3, 32, 32]), [1, 2, 0])
    image = tf.image.random_crop(image, [24, 24, 3])
    image = tf.image.random_flip_left_right(tf.cast(image, tf.float32))
    image = tf.image.random_brightness(image, 63)
    image = tf.image.random_contrast(image, 0.2, 1.8)
    return tf.image.per_image_standardization(image), tf.cast(values[0], tf.int32)

  files = cifar10_dataset.files(cifar10_dataset.locate(data_dir), 'train_eval')
  data = tf.data.FixedLengthRecordDataset(files, cifar10_dataset.RECORD_BYTES)
  data = data.repeat().shuffle(20000).map(decode, tf.data.AUTOTUNE).batch(batch_size)
  data = data.prefetch(tf.data.AUTOTUNE)

  layers, decay = keras.layers, keras.regularizers.L2(0.002)
  model = keras.Sequential([
      keras.Input([24, 24, 3]),
      layers.Conv2D(64, 5, padding='same', activation='relu'),
      layers.MaxPooling2D(3, 2, 'same'),
      layers.Lambda(lambda x: tf.nn.lrn(x, 4, 1.0, 0.001 / 9.0, 0.75)),
      layers.Conv2D(64, 5, padding='same', activation='relu'),
      layers.Lambda(lambda x: tf.nn.lrn(x, 4, 1.0, 0.001 / 9.0, 0.75)),
      layers.MaxPooling2D(3, 2, 'same'),
      layers.Flatten(),
      layers.Dense(384, activation='relu', kernel_regularizer=decay),
      layers.Dense(192, activation='relu', kernel_regularizer=decay),
      layers.Dense(10)])
  model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9999),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
  batches = iter(data)
  return lambda: model.train_on_batch(*next(batches))


def pytorch(data_dir, batch_size):
  """PyTorch, eager, on constant images."""
  import torch
  from torch import nn
  model = nn.Sequential(
      nn.Conv2d(3, 64, 5, padding=2), nn.ReLU(),
      nn.ZeroPad2d([0, 1, 0, 1]), nn.MaxPool2d(3, 2), nn.LocalResponseNorm(9, 0.001, 0.75, 1.0),
      nn.Conv2d(64, 64, 5, padding=2), nn.ReLU(),
      nn.LocalResponseNorm(9, 0.001, 0.75, 1.0), nn.ZeroPad2d([0, 1, 0, 1]), nn.MaxPool2d(3, 2),
      nn.Flatten(), nn.Linear(2304, 384), nn.ReLU(), nn.Linear(384, 192), nn.ReLU(),
      nn.Linear(192, 10)).to(memory_format=torch.channels_last)
  images = torch.randn(batch_size, 3, 24, 24).to(memory_format=torch.channels_last)
  labels = torch.arange(batch_size) % 10
  decayed = [model[11].weight, model[13].weight]
  others = [p for p in model.parameters() if not any(p is d for d in decayed)]
  optimizer = torch.optim.SGD([{'params': decayed, 'weight_decay': 0.004}, {'params': others}],
                              lr=0.1)
  parameters = list(model.parameters())
  shadows = [p.detach().clone() for p in parameters]

  def step():
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
    with torch.no_grad():
      torch._foreach_lerp_(shadows, parameters, 1e-4)

  return step


def matrix_product(data_dir, batch_size):
  """Products of two float32 matrices 2048 x 2048; counted as if each were images.

  The training of one image is 0.105 GFLOP: 18.47 million multiply-adds forward, as many for each
  of the two gradients, but for the one with respect to the images.
  """
  tf = graph_mode()
  matrix = tf.get_local_variable('matrix', initializer=tf.random_normal([2048, 2048]))
  return _running(tf.Session(), tf.matmul(matrix, matrix).op)


PROGRAMS = [project, project_mixed_precision, project_without_onednn, project_computation,
            project_input, project_evaluation, one_tower, two_towers, cluster_of_two, naive,
            naive_input, keras, pytorch, matrix_product]


def main():
  name, data_dir, batch_size = sys.argv[1], sys.argv[2], int(sys.argv[3])
  answers, sys.stdout = sys.stdout, sys.stderr  # The log lines are not the answer.
  step = {program.__name__: program for program in PROGRAMS}[name](data_dir, batch_size)
  images_per_step = {'matrix_product': 2 * 2048 ** 3 / 0.105e9,
                     'cluster_of_two': 2 * batch_size}.get(name, batch_size)
  for _ in range(10):
    step()
  print('ready', file=answers, flush=True)
  for line in sys.stdin:
    # After the turns of the others queues have filled, and the tasks of a cluster look seldom.
    for _ in range(5):
      step()
    seconds, steps, start = float(line), 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
      step()
      steps += 1
    rate = steps * images_per_step / (time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({'images_per_second': rate, 'peak_mb': peak}), file=answers, flush=True)


if __name__ == '__main__':
  main()
