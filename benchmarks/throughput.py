"""Measures how fast training is, with its parts and other ways to train the same network.

  python benchmarks/throughput.py --data_dir=cifar10/data
  python benchmarks/throughput.py --checkouts old=/path/to/another new=. --programs project naive

Each program (see programs.py) is a process of its own. They take turns of a few seconds, for
several rounds, so that a machine whose speed drifts slows all of them alike; what counts is the
ratio of the medians. Run it on an otherwise idle machine. A program whose package is not
installed is left out.

With --checkouts each program runs once for every checkout, as that checkout's own
benchmarks/programs.py defines it, and the last table compares them round by round.

All programs are in memory at once, most of them with nearly a gigabyte: where that is too much,
name some with --programs. Ctrl-C ends the run and shows what has been measured so far.
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

from cifar10_support import dataset
from cifar10_support.quiet import tf
import programs

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# What it says, numerator, denominator, and the aims for a CPU and for a GPU, if there is one.
RATIOS = [
    ('float32 to the naive formulation', 'project', 'naive', 1.5, None),
    ('float32 to Keras with tf.data', 'project', 'keras', 1.4, 2.8),
    ('mixed precision to Keras with tf.data', 'project_mixed_precision', 'keras', None, 3.5),
    ('float32 to PyTorch, eager', 'project', 'pytorch', 1.8, None),
    ('float32 to compiled PyTorch', 'project', 'pytorch_compiled', None, 1.1),
    ('with log and checkpoints to a bare loop', 'project', 'project_bare_loop', 0.9, 0.9),
    ('with a seed to without', 'project_with_seed', 'project', None, None),
    ('with the input to the computation alone', 'project', 'project_computation', 0.95, None),
    ('float32 to the matrix-product roofline', 'project', 'matrix_product', 0.75, None),
    ('mixed precision to the naive formulation', 'project_mixed_precision', 'naive', 2.2, None),
    ("oneDNN's convolutions to TensorFlow's own", 'project', 'project_without_onednn', 1.0, None),
    ('two towers to one with as many images', 'two_towers', 'one_tower', 0.95, 0.7),
    ('a cluster of two replicas to one process', 'cluster_of_two', 'project', 0.8, None),
    ('evaluation to training', 'project_evaluation', 'project', 3.0, None),
    ('input alone to the naive input', 'project_input', 'naive_input', 5.0, None),
]


class Program:
  """One program of one checkout as a process, and what it has measured."""

  def __init__(self, name, checkout, arguments, folder):
    """Starts the process.

    Args:
      name: of the program.
      checkout: the checkout's name and path.
      arguments: those of the command line.
      folder: path of a directory for all that the process writes.
    """
    self.name, (self.checkout, path) = name, checkout
    self.title = f'{name} of {self.checkout}' if self.checkout else name
    self.rates, self.peak_mb = [], None
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as errors:
      self._errors = errors.name
      self._process = subprocess.Popen(
          [sys.executable, os.path.join(path, 'benchmarks', 'programs.py'), name,
           arguments.data_dir, str(arguments.batch_size)],
          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
          # On a GPU all of them must find room.
          env={**os.environ, 'TMPDIR': folder, 'TF_FORCE_GPU_ALLOW_GROWTH': 'true'},
          start_new_session=True)

  def gets_ready(self):
    """Waits until it is ready; returns False if it ended instead."""
    return self._process.stdout.readline() == 'ready\n'

  def measure(self, seconds):
    """Lets it run; returns False if it has ended."""
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write(f'{seconds:f}\n')
      self._process.stdin.flush()
    answer = self._process.stdout.readline()
    if not answer:
      return False
    answer = json.loads(answer)
    self.rates.append(answer['images_per_second'])
    self.peak_mb = answer['peak_mb']
    return True

  def last_words(self):
    """Returns the last line that it wrote to standard error."""
    with open(self._errors, errors='replace') as lines:
      return ([line.strip() for line in lines if line.strip()] or ['without a message'])[-1]

  def end(self):
    # With the processes that it may have started.
    os.killpg(self._process.pid, signal.SIGKILL)
    self._process.wait()
    with contextlib.suppress(BrokenPipeError):  # What it has not read.
      self._process.stdin.close()


def checkout(argument):
  """Returns the name and the path of a checkout, from `NAME=PATH`."""
  name, separator, path = argument.partition('=')
  if not name or not separator:
    raise argparse.ArgumentTypeError(f'{argument!r} is not NAME=PATH.')
  if not os.path.isfile(os.path.join(path, 'benchmarks', 'programs.py')):
    raise argparse.ArgumentTypeError(f'{path} has no benchmarks/programs.py.')
  return name, path


def parse_arguments():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--data_dir', default='cifar10/data', help='directory of the data set')
  parser.add_argument('--batch_size', type=int, default=128, help='images in a batch')
  parser.add_argument('--rounds', type=int, default=9, help='turns of each program')
  parser.add_argument('--seconds', type=float, default=4, help='length of a turn')
  names = [program.__name__ for program in programs.PROGRAMS]
  parser.add_argument('--programs', nargs='+', default=names, choices=names, metavar='PROGRAM',
                      help=f"which programs to run (all): {', '.join(names)}")
  parser.add_argument('--checkouts', nargs='+', type=checkout, default=[('', ROOT)],
                      metavar='NAME=PATH', help='checkouts to compare with the first one (only '
                      'this one)')
  parser.add_argument('--json', help='file to write the measurements to')
  arguments = parser.parse_args()
  for name in ('batch_size', 'rounds', 'seconds'):
    if getattr(arguments, name) <= 0:
      parser.error(f'--{name} must be above 0.')
  if len({name for name, _ in arguments.checkouts}) < len(arguments.checkouts):
    parser.error('--checkouts has two of the same name.')
  if not dataset.locate(arguments.data_dir):
    parser.error(f'There is no data set in {arguments.data_dir}: name its directory with '
                 '--data_dir, or download it with python cifar10_train.py --max_steps=1.')
  if arguments.json:
    try:
      open(arguments.json, 'a').close()  # Better now than after the measurements.
    except OSError as error:
      parser.error(f'--json cannot be written: {error}')
  return arguments


def main():
  arguments = parse_arguments()
  started, measured, status = [], [], 0
  with tempfile.TemporaryDirectory() as folder:
    try:
      for name in arguments.programs:
        for which in arguments.checkouts:
          # In the list first: Ctrl-C may come while it gets ready.
          started.append(Program(name, which, arguments, folder))
          if started[-1].gets_ready():
            measured.append(started[-1])
          else:
            print(f'{started[-1].title} does not run here ({started[-1].last_words()}) and is '
                  'left out.', file=sys.stderr)
      for i in range(arguments.rounds):
        # There and back, so that no program always comes after the same one.
        for program in list(measured)[::-1 if i % 2 else 1]:
          if not program.measure(arguments.seconds):
            print(f'{program.title} has ended ({program.last_words()}) and is left out.',
                  file=sys.stderr)
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
  checkouts = [name for name, _ in arguments.checkouts]
  rates = {(program.checkout, program.name): program.rates for program in measured}
  medians = {key: statistics.median(values) for key, values in rates.items()}

  gpus = [tf.config.experimental.get_device_details(gpu).get('device_name', 'a GPU')
          for gpu in tf.config.list_physical_devices('GPU')]
  print(f"Measured on {', '.join(gpus) or 'the CPU'}.\n")
  print(f"{'program':<32} {'images/s':>10} {'from .. to':>23} {'peak MB':>9}")
  for program in measured:
    print(f'{program.title:<32} {medians[program.checkout, program.name]:10.0f} '
          f'{min(program.rates):11.0f} .. {max(program.rates):8.0f} {program.peak_mb:9.0f}')

  print(f"\n{'ratio':<42} {'at least':>9}"
        + ''.join(f" {name or 'is':>10}" for name in checkouts))
  ratios = {name: {} for name in checkouts}
  for what, numerator, denominator, on_cpu, on_gpu in RATIOS:
    least = on_gpu if gpus else on_cpu
    cells = []
    for name in checkouts:
      if (name, numerator) in medians and (name, denominator) in medians:
        ratios[name][what] = medians[name, numerator] / medians[name, denominator]
      cells.append(f'{ratios[name][what]:.2f}' if what in ratios[name] else '')
    if any(cells):
      aim = f'{least:.2f}' if least else ''
      print(f'{what:<42} {aim:>9}' + ''.join(f' {cell:>10}' for cell in cells))

  if len(checkouts) > 1:
    print(f"\n{'images/s compared':<42} {'median':>10} {'from .. to':>23}")
  base = checkouts[0]
  for name in checkouts[1:]:
    for program in measured:
      if program.checkout == name and (base, program.name) in rates:
        # Those of the same round; Ctrl-C may leave the last one incomplete.
        by_round = [new / old for new, old in zip(program.rates, rates[base, program.name])]
        pair = f'{program.name}, {name} to {base}'
        print(f'{pair:<42} {statistics.median(by_round):10.3f} {min(by_round):11.3f} .. '
              f'{max(by_round):8.3f}')

  if arguments.json:
    with open(arguments.json, 'w') as out:
      json.dump({'batch_size': arguments.batch_size, 'seconds': arguments.seconds,
                 'programs': [{'program': program.name, 'checkout': program.checkout,
                               'rates': program.rates, 'peak_mb': program.peak_mb}
                              for program in measured],
                 'ratios': ratios}, out, indent=2)


if __name__ == '__main__':
  main()
