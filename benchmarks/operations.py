"""Measures which operations the time of a training step goes to.

  python benchmarks/operations.py --mixed_precision

The images are constant, and one operation runs at a time, on all cores, so that their times add up.
Run it on a machine that does nothing else. What runs beside what in a real training is in the files
that `cifar10_train.py --profile_steps` writes.
"""

import argparse
import collections
import os
import re
import statistics
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import programs  # noqa: E402

tf = programs.graph_mode()

import cifar10  # noqa: E402

STEPS = 30

# What an operation is for, by its name; the first that fits.
PURPOSES = [
    ('convolutions, their gradients', r'conv\d/conv\d$|gradients/conv\d/Conv2D_grad'),
    ('normalisation', r'(gradients/)?norm\d'),
    ('dense layers', r'(gradients/)?(local\d|softmax_linear)'),
    ('pooling, rectification, biases', r'(gradients/)?(pool|conv)\d'),
    ('update and moving averages', r'GradientDescent|moving_averages'),
    ('everything else', ''),
]


def main():
  parser = argparse.ArgumentParser(
      description=__doc__.split('\n')[0], allow_abbrev=False,
      epilog='Flags of the model, as --mixed_precision, are those of cifar10_train.py --help.')
  _, flags = parser.parse_known_args()
  try:
    no_flags = cifar10.FLAGS([sys.argv[0], *flags])[1:]
  except tf.flags.Error as error:
    parser.error(str(error))
  if no_flags:
    parser.error('%r is no flag.' % no_flags[0])
  images, labels = programs.constant_images(tf, cifar10.FLAGS.batch_size)
  loss = cifar10.loss(cifar10.inference(images), labels)
  train_op = cifar10.train(loss, tf.train.get_or_create_global_step())

  steps = []
  with tf.Session(config=tf.ConfigProto(inter_op_parallelism_threads=1)) as session:
    session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
    for _ in range(10):
      session.run(train_op)
    for _ in range(STEPS):
      steps.append(_times(session, train_op))

  medians = {purpose: statistics.median(step[purpose] for step in steps)
             for purpose, _ in PURPOSES}
  for purpose, milliseconds in medians.items():
    print('%-32s %5.1f ms' % (purpose, milliseconds))
  print('%-32s %5.1f ms' % ('together', sum(medians.values())))


def _times(session, train_op):
  """Runs a step and returns the milliseconds of its operations, summed up by purpose."""
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
