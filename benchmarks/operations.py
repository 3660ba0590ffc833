"""Measures which ops the time of a training step goes to.

  python benchmarks/operations.py --mixed_precision

The images are constant, and ops run one at a time, each on all cores of the CPU, so that their
times add up. Run it on an otherwise idle machine. What overlaps with what in real training
is in the files that `cifar10_train.py --profile_steps` writes.
"""

import argparse
import collections
import re
import statistics
import sys

import cifar10
from cifar10_support import settings
import programs

tf = programs.graph_mode()

# What an op is for, by its name; the first pattern that fits counts.
PURPOSES = [
    ('convolutions and their gradients', r'conv\d/conv\d$|gradients/conv\d/Conv2D_grad'),
    ('normalisation', r'(gradients/)?norm\d'),
    ('fully connected layers', r'(gradients/)?(local\d|softmax_linear)'),
    ('pooling, ReLU, biases', r'(gradients/)?(pool|conv)\d'),
    ('update and moving averages', r'GradientDescent|moving_averages'),
    ('everything else', ''),
]


def main():
  parser = argparse.ArgumentParser(
      description=__doc__.split('\n')[0], allow_abbrev=False,
      epilog='--batch_size and --mixed_precision are those of cifar10_train.py.')
  parser.add_argument('--steps', type=int, default=30, help='steps to measure (30)')
  arguments, flags = parser.parse_known_args()
  if arguments.steps < 1:
    parser.error('--steps must be at least 1.')
  try:
    not_flags = cifar10.FLAGS([sys.argv[0], *flags])[1:]
  except tf.flags.Error as error:
    parser.error(str(error))
  if not_flags:
    parser.error(f'{not_flags[0]!r} is not a flag.')

  with settings.from_flags(cifar10):
    images, labels = programs.constant_images(tf, cifar10.FLAGS.batch_size)
    loss = cifar10.loss(cifar10.inference(images), labels)
    train_op = cifar10.train(loss, tf.train.get_or_create_global_step())

  with tf.Session(config=tf.ConfigProto(inter_op_parallelism_threads=1,
                                        device_count={'GPU': 0})) as session:
    session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
    for _ in range(10):
      session.run(train_op)
    steps = [_times(session, train_op) for _ in range(arguments.steps)]

  medians = {purpose: statistics.median(step[purpose] for step in steps)
             for purpose, _ in PURPOSES}
  for purpose, milliseconds in medians.items():
    print(f'{purpose:32} {milliseconds:5.1f} ms')
  print(f"{'together':<32} {sum(medians.values()):5.1f} ms")


def _times(session, train_op):
  """Runs a step and returns the milliseconds of its ops, summed up by purpose."""
  metadata = tf.RunMetadata()
  session.run(train_op, options=tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE),
              run_metadata=metadata)
  times = collections.Counter()
  for device in metadata.step_stats.dev_stats:
    for node in device.node_stats:
      purpose = next(purpose for purpose, name in PURPOSES if re.match(name, node.node_name))
      times[purpose] += node.all_end_rel_micros / 1e3
  return times


if __name__ == '__main__':
  main()
