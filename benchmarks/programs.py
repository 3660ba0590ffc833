"""The programs that throughput.py compares. Each runs as a process of its own:

  python benchmarks/programs.py NAME DATA_DIR BATCH_SIZE

The process prints `ready`. Then it reads a number of seconds from each line of standard input,
runs whole steps for about that long, and answers with a line of JSON: images per second, and its
peak memory in MB. All train, or feed, the network of cifar10.py with the same distortions, unless
their name says otherwise. Runs go into temporary directories, which throughput.py deletes.
"""

import contextlib
import functools
import importlib
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
import types

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)


def steps_to_run(images_per_step, answers):
  """Speaks with throughput.py; the caller runs a step for each value of this generator.

  Args:
    images_per_step: a number.
    answers: a text stream.
  """
  for _ in range(10):
    yield True
  print('ready', file=answers, flush=True)
  for line in sys.stdin:
    # While the others had their turns, queues have filled, and the tasks of a cluster slept.
    for _ in range(5):
      yield True
    seconds, steps, start = float(line), 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
      yield True
      steps += 1
    rate = steps * images_per_step / (time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({'images_per_second': rate, 'peak_mb': peak}), file=answers, flush=True)


def repeat(step, steps):
  """Calls a function for each of the steps."""
  for _ in steps:
    step()


def graph_mode():
  """Returns TensorFlow in the mode that the scripts set it to."""
  from cifar10_support import tf_setup
  import tensorflow.compat.v1 as tf
  tf_setup.use_graph_mode()
  return tf


def _parse_flags(data_dir, batch_size, *flags):
  import cifar10
  cifar10.FLAGS(['programs.py', f'--data_dir={data_dir}', f'--batch_size={batch_size}', *flags])


def _run(steps, fetch, xla=False):
  """Runs a fetch of the current graph, with its queues, for each of the steps."""
  repeat(_bare_session(xla).make_callable(fetch), steps)


def _bare_session(xla):
  """Opens a session on the current graph, initialises the variables and starts the queues."""
  from cifar10_support import tf_setup
  import tensorflow.compat.v1 as tf
  session = tf.Session(config=tf_setup.session_config(xla=xla and tf_setup.can_compile()))
  session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
  tf.train.start_queue_runners(session)
  session.run(tf.get_collection(tf_setup.STAGING))
  return session


def constant_images(tf, batch_size):
  """Images and labels that cost nothing to provide, and that TensorFlow cannot fold away."""
  images = tf.get_local_variable('images', initializer=tf.random_normal([batch_size, 24, 24, 3]))
  labels = tf.get_local_variable('labels', initializer=tf.range(batch_size, dtype=tf.int64) % 10)
  return images, labels


def _run_script(script, steps, data_dir, batch_size, *flags, opened=None):
  """Runs a training script, whose loop stops when there are no more steps to run.

  Args:
    script: the name of its module.
    steps: see `steps_to_run`.
    data_dir, batch_size: what --data_dir and --batch_size get.
    *flags: further flags of the script.
    opened: what the script gets in place of `training_session`.
  """
  graph_mode()
  from cifar10_support import training
  opened = opened or training.training_session

  @contextlib.contextmanager
  def training_session(*args, **kwargs):
    with opened(*args, **kwargs) as session:
      session.should_stop = lambda: not next(steps, False)
      yield session

  training.training_session = training_session
  main = importlib.import_module(script).main  # Which defines the script's flags.
  _parse_flags(data_dir, batch_size, f'--train_dir={tempfile.mkdtemp()}', '--max_steps=10000000',
               *flags)
  main()


def project(steps, data_dir, batch_size, *flags):
  """cifar10_train.py as it is, with its log, its summaries and its checkpoints."""
  _run_script('cifar10_train', steps, data_dir, batch_size, *flags)


def project_with_seed(steps, data_dir, batch_size):
  """cifar10_train.py --seed=1."""
  project(steps, data_dir, batch_size, '--seed=1')


def project_mixed_precision(steps, data_dir, batch_size):
  """cifar10_train.py --mixed_precision."""
  project(steps, data_dir, batch_size, '--mixed_precision')


def project_bare_loop(steps, data_dir, batch_size):
  """The graph of cifar10_train.py in a bare loop: no log, no summaries, no checkpoints."""
  @contextlib.contextmanager
  def bare(*args):
    make_callable = functools.lru_cache(_bare_session(xla=True).make_callable)
    yield types.SimpleNamespace(run=lambda fetches: make_callable(fetches)())

  _run_script('cifar10_train', steps, data_dir, batch_size, opened=bare)


def project_without_onednn(steps, data_dir, batch_size):
  """cifar10_train.py with TensorFlow's own convolutions."""
  os.environ['TF_ENABLE_ONEDNN_OPTS'] = '0'
  project(steps, data_dir, batch_size)


def one_tower(steps, data_dir, batch_size, towers=1):
  """cifar10_multi_gpu_train.py with one tower."""
  _run_script('cifar10_multi_gpu_train', steps, data_dir, batch_size // towers,
              f'--num_gpus={towers}')


def two_towers(steps, data_dir, batch_size):
  """cifar10_multi_gpu_train.py with two towers, which share the images of a batch."""
  one_tower(steps, data_dir, batch_size, towers=2)


def cluster_of_two(steps, data_dir, batch_size):
  """The chief of a cluster on this machine, with a worker and a parameter server.

  Each of the two replicas takes `batch_size` images a step.
  """
  with contextlib.ExitStack() as probes:
    sockets = [probes.enter_context(socket.socket()) for _ in range(3)]
    for probe in sockets:
      probe.bind(('127.0.0.1', 0))
    ps, chief, worker = [f'127.0.0.1:{probe.getsockname()[1]}' for probe in sockets]
  jobs = {'ps': [ps], 'chief': [chief], 'worker': [worker]}

  def config(job):
    return json.dumps({'cluster': jobs, 'task': {'type': job, 'index': 0}})

  for job in ('ps', 'worker'):
    # In this process's group, which throughput.py ends as a whole.
    subprocess.Popen(
        [sys.executable, '-m', 'cifar10_cluster', f'--data_dir={data_dir}',
         f'--batch_size={batch_size}', f'--train_dir={tempfile.mkdtemp()}'],
        env={**os.environ, 'TF_CONFIG': config(job), 'PYTHONPATH': ROOT},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
  os.environ['TF_CONFIG'] = config('chief')
  _run_script('cifar10_cluster.__main__', steps, data_dir, batch_size)


def project_computation(steps, data_dir, batch_size):
  """The training step alone, on constant images."""
  tf = graph_mode()
  from cifar10_support import tf_setup
  import cifar10
  _parse_flags(data_dir, batch_size)
  global_step = tf.train.get_or_create_global_step()
  with tf_setup.on_gpu():
    images, labels = constant_images(tf, batch_size)
    loss = cifar10.loss(cifar10.inference(images), labels)
    train_op = cifar10.train(loss, global_step)
  _run(steps, train_op, xla=True)


def project_input(steps, data_dir, batch_size):
  """The input pipeline alone."""
  graph_mode()
  import cifar10
  _parse_flags(data_dir, batch_size)
  images, labels = cifar10.distorted_inputs()
  _run(steps, [images.op, labels.op])


def project_evaluation(steps, data_dir, batch_size):
  """Inference on constant images, as in evaluation."""
  tf = graph_mode()
  import cifar10
  _parse_flags(data_dir, batch_size)
  images, _ = constant_images(tf, batch_size)
  _run(steps, cifar10.probabilities(images))


def _naive_inputs(tf, data_dir, batch_size):
  """One image at a time, distorted before the shuffle queue by 16 threads."""
  from cifar10_support import dataset
  import cifar10_input
  queue = tf.train.string_input_producer(dataset.find(data_dir, 10).train_files)
  record = cifar10_input.read_cifar10(queue)
  image = tf.random_crop(tf.cast(record.uint8image, tf.float32), [24, 24, 3])
  image = tf.image.random_flip_left_right(image)
  image = tf.image.random_brightness(image, max_delta=63)
  image = tf.image.random_contrast(image, lower=0.2, upper=1.8)
  image = tf.image.per_image_standardization(image)
  return tf.train.shuffle_batch([image, record.label[0]], batch_size, num_threads=16,
                                capacity=20000 + 3 * batch_size, min_after_dequeue=20000)


def naive(steps, data_dir, batch_size):
  """The training step and the input as you would first write them, with tf.nn.lrn."""
  tf = graph_mode()
  import cifar10
  _parse_flags(data_dir, batch_size)
  cifar10._local_response_normalization = lambda x, name: tf.nn.lrn(
      x, 4, bias=1.0, alpha=0.001 / 9.0, beta=0.75, name=name)
  global_step = tf.train.get_or_create_global_step()
  with tf.device('/cpu:0'):
    images, labels = _naive_inputs(tf, data_dir, batch_size)
  loss = cifar10.loss(cifar10.inference(images), labels)
  _run(steps, cifar10.train(loss, global_step))


def naive_input(steps, data_dir, batch_size):
  """The input of `naive` alone."""
  tf = graph_mode()
  with tf.device('/cpu:0'):
    images, labels = _naive_inputs(tf, data_dir, batch_size)
  _run(steps, [images.op, labels.op])


def keras(steps, data_dir, batch_size):
  """The Keras program of exercises/keras_cifar10.py, one train_on_batch a step."""
  from exercises import keras_cifar10
  from cifar10_support import dataset
  model = keras_cifar10.compiled_model(batch_size)
  files = dataset.find(data_dir, keras_cifar10.NUM_CLASSES).train_files
  batches = iter(keras_cifar10.distorted_inputs(files, batch_size))
  repeat(lambda: model.train_on_batch(*next(batches)), steps)


def pytorch(steps, data_dir, batch_size, compiled=False):
  """The PyTorch program of exercises/torch_cifar10.py, eager."""
  from cifar10_support import dataset
  from exercises import torch_cifar10
  device = torch_cifar10.device_of_this_process()
  files = dataset.find(data_dir, torch_cifar10.NUM_CLASSES).train_files
  images, labels = (part.to(device) for part in torch_cifar10.read(files))
  batches = torch_cifar10.distorted_inputs(images, labels, batch_size, compiled)
  run = torch_cifar10.Run(batch_size, device, compiled)
  for i, _ in enumerate(steps):
    loss = run.train_on_batch(*next(batches))
    if i % 10 == 0:
      loss.item()  # As its log does; and it keeps Python from running far ahead of a GPU.


def pytorch_compiled(steps, data_dir, batch_size):
  """The same, distortions, network and gradients compiled; on a GPU with CUDA graphs."""
  pytorch(steps, data_dir, batch_size, compiled=True)


def matrix_product(steps, data_dir, batch_size):
  """Products of two float32 matrices of 2048 x 2048, counted as images.

  Training on one image takes 0.105 GFLOP: 18.47 million multiply-adds forwards, and as many for
  each of the two gradients, except for the gradient with respect to the images.
  """
  tf = graph_mode()
  matrix = tf.get_local_variable('matrix', initializer=tf.random_normal([2048, 2048]))
  _run(steps, tf.matmul(matrix, matrix).op)


PROGRAMS = [project, project_with_seed, project_mixed_precision, project_bare_loop,
            project_without_onednn, project_computation, project_input, project_evaluation,
            one_tower, two_towers, cluster_of_two, naive, naive_input, keras, pytorch,
            pytorch_compiled, matrix_product]


def main():
  name, data_dir, batch_size = sys.argv[1], sys.argv[2], int(sys.argv[3])
  answers, sys.stdout = sys.stdout, sys.stderr  # The log lines are not answers.
  program = {program.__name__: program for program in PROGRAMS}[name]
  images_per_step = {'matrix_product': 2 * 2048 ** 3 / 0.105e9,
                     'cluster_of_two': 2 * batch_size}.get(name, batch_size)
  program(steps_to_run(images_per_step, answers), data_dir, batch_size)


if __name__ == '__main__':
  main()
