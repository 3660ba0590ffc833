"""Measures how long training takes from the command to its first step.

  python benchmarks/startup.py --data_dir=cifar10/data --min_queue_examples=1000

Every flag of cifar10_train.py may be given. It also times `import tensorflow` alone, which
no script can do without; the two take turns. The aim is a first step within 1.25 import times
plus 3 seconds. Run it on an otherwise idle machine.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def import_tensorflow():
  """Returns the seconds that a process takes for the import."""
  start = time.perf_counter()
  subprocess.run([sys.executable, '-c', 'import tensorflow'], stderr=subprocess.DEVNULL, check=True)
  return time.perf_counter() - start


def first_step(flags):
  """Returns the seconds from the start of cifar10_train.py to its first log line."""
  with tempfile.TemporaryDirectory() as train_dir:
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, os.path.join(ROOT, 'cifar10_train.py'), f'--train_dir={train_dir}']
        + flags, stdout=subprocess.PIPE, text=True)
    try:
      if not any('step 0,' in line for line in process.stdout):
        sys.exit('Training ended before its first step.')
      return time.perf_counter() - start
    finally:
      process.kill()
      process.wait()


def main():
  parser = argparse.ArgumentParser(
      description=__doc__.split('\n')[0], allow_abbrev=False,
      epilog='Every other flag, as --flag=value, goes to cifar10_train.py.')
  parser.add_argument('--rounds', type=int, default=7, help='turns of each (7)')
  arguments, flags = parser.parse_known_args()
  if arguments.rounds < 1:
    parser.error('--rounds must be at least 1.')

  imports, steps = [], []
  for _ in range(arguments.rounds):
    imports.append(import_tensorflow())
    steps.append(first_step(flags))
  for what, seconds in (('import tensorflow', imports), ('first training step', steps)):
    print(f'{what:<20} {statistics.median(seconds):5.2f} s ({min(seconds):.2f} .. '
          f'{max(seconds):.2f})')
  print(f"{'aim: at most':<20} {1.25 * statistics.median(imports) + 3:5.2f} s")


if __name__ == '__main__':
  main()
