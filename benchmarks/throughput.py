"""Measures how fast the training, its parts and other ways to train the same network are.

  python benchmarks/throughput.py --data_dir=cifar10/data

Each program (see programs.py) is a process of its own. They take turns, a few seconds each, for
several rounds, so that a machine whose speed drifts slows all of them alike. What counts are the
ratios of the medians. Run it on a machine that does nothing else; a program whose package is not
installed is left out. All are in memory at once, most of them with nearly a gigabyte: where that is
too much name some with --programs. Ctrl-C ends it with what has been measured so far.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import cifar10_dataset  # noqa: E402
import programs  # noqa: E402

RATIOS = [
    # What it says, numerator, denominator, at least.
    ('float32 to the naive formulation', 'project', 'naive', 1.5),
    ('float32 to Keras with tf.data', 'project', 'keras', 1.4),
    ('float32 to PyTorch on constant images', 'project', 'pytorch', 1.8),
    ('with the input to the computation alone', 'project', 'project_computation', 0.95),
    ('float32 to the matrix-product roofline', 'project', 'matrix_product', 0.75),
    ('mixed precision to the naive formulation', 'project_mixed_precision', 'naive', 2.2),
    ("oneDNN's convolutions to TensorFlow's own", 'project', 'project_without_onednn', 1.0),
    ('two towers to one with as many images', 'two_towers', 'one_tower', 0.95),
    ('a cluster of two replicas to one process', 'cluster_of_two', 'project', 0.8),
    ('evaluation to training', 'project_evaluation', 'project', 3.0),
    ('input alone to the naive input', 'project_input', 'naive_input', 5.0),
]


class Program:
  """One program of programs.py as a process, and what it has measured."""

  def __init__(self, name, arguments, folder):
    """Starts the process; what it writes goes into a folder."""
    self.name = name
    self.rates, self.peak_mb = [], None
    self._process = subprocess.Popen(
        [sys.executable, os.path.join(HERE, 'programs.py'), name, arguments.data_dir,
         str(arguments.batch_size)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, 'TMPDIR': folder}, start_new_session=True)

  def gets_ready(self):
    """Waits until it is ready; returns False if it ended instead."""
    return self._process.stdout.readline() == 'ready\n'

  def measure(self, seconds):
    """Lets it run; returns False if it has ended."""
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write('%f\n' % seconds)
      self._process.stdin.flush()
    answer = self._process.stdout.readline()
    if not answer:
      return False
    answer = json.loads(answer)
    self.rates.append(answer['images_per_second'])
    self.peak_mb = answer['peak_mb']
    return True

  def end(self):
    # With the processes that it may have started.
    os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()
    with contextlib.suppress(BrokenPipeError):  # What it did not read any more.
      self._process.stdin.close()


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--data_dir', default='cifar10/data', help='folder with the data set')
  parser.add_argument('--batch_size', type=int, default=128, help='images in a batch')
  parser.add_argument('--rounds', type=int, default=9, help='turns of each program')
  parser.add_argument('--seconds', type=float, default=4, help='length of a turn')
  names = [program.__name__ for program in programs.PROGRAMS]
  parser.add_argument('--programs', nargs='+', default=names, choices=names, metavar='PROGRAM',
                      help='which of them take part (all): ' + ', '.join(names))
  parser.add_argument('--json', help='file to write the measurements to')
  arguments = parser.parse_args()
  for name in ('batch_size', 'rounds', 'seconds'):
    if getattr(arguments, name) <= 0:
      parser.error('--%s must be above 0.' % name)
  if not cifar10_dataset.locate(arguments.data_dir):
    parser.error('There is no data set in %s: name its folder with --data_dir, or fetch it with '
                 '`python cifar10_train.py --max_steps=1`.' % arguments.data_dir)
  if arguments.json:
    try:
      open(arguments.json, 'a').close()  # Not to find out after the measurements.
    except OSError as error:
      parser.error('--json cannot be written: %s' % error)

  started, measured, status = [], [], 0
  with tempfile.TemporaryDirectory() as folder:
    try:
      for name in arguments.programs:
        # To be ended also if Ctrl-C comes while it gets ready.
        started.append(Program(name, arguments, folder))
        if started[-1].gets_ready():
          measured.append(started[-1])
        else:
          print('%s does not run here and is left out.' % name, file=sys.stderr)
      for _ in range(arguments.rounds):
        for program in list(measured):
          if not program.measure(arguments.seconds):
            print('%s has ended and is left out.' % program.name, file=sys.stderr)
            measured.remove(program)
    except KeyboardInterrupt:
      status = 128 + signal.SIGINT
    finally:
      for program in started:
        program.end()

  measured = [program for program in measured if program.rates]
  if not measured:
    sys.exit(status or 'No program ran.')
  report(measured, arguments)
  sys.exit(status)


def report(measured, arguments):
  """Prints the tables and writes the JSON file."""
  medians = {program.name: statistics.median(program.rates) for program in measured}
  print('%-24s %10s %23s %9s' % ('program', 'images/s', 'from .. to', 'peak MB'))
  for program in measured:
    print('%-24s %10.0f %11.0f .. %8.0f %9.0f' % (
        program.name, medians[program.name], min(program.rates), max(program.rates),
        program.peak_mb))
  print('\n%-42s %6s %9s' % ('ratio', 'is', 'at least'))
  ratios = {}
  for what, numerator, denominator, least in RATIOS:
    if numerator in medians and denominator in medians:
      ratios[what] = medians[numerator] / medians[denominator]
      print('%-42s %6.2f %9.2f' % (what, ratios[what], least))
  if arguments.json:
    with open(arguments.json, 'w') as out:
      json.dump({'batch_size': arguments.batch_size, 'seconds': arguments.seconds,
                 'rates': {program.name: program.rates for program in measured},
                 'peak_mb': {program.name: program.peak_mb for program in measured},
                 'ratios': ratios}, out, indent=2)


if __name__ == '__main__':
  main()
