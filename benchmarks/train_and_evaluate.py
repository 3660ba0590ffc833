"""Trains in stages and evaluates after each one, with and without the moving averages.

  python benchmarks/train_and_evaluate.py --run_dir=runs/1 --evaluate_every=5000 --synthetic

Every other flag, as --flag=value, goes to cifar10_train.py, and to cifar10_eval.py if it has that
flag. Besides `train` and `eval`, the run's directory gets

  evaluations.csv: a line for each stage: the step, both precisions, the seconds of training so far
  seconds.txt: a line for each training process: the seconds that it took

The same command resumes, and evaluates nothing twice. A stage that training has already passed, for
example with another --evaluate_every, can no longer be evaluated and is left out.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Scripts:
  """Runs scripts, one after the other, until a signal comes; the running script gets it too."""

  def __init__(self):
    self._process, self._signal = None, None
    for name in ('SIGINT', 'SIGTERM', 'SIGHUP'):
      number = getattr(signal, name, None)  # Windows has no SIGHUP.
      if number and signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, self._note)

  def run(self, script, arguments, **popen_arguments):
    """Runs a script to its end.

    Returns:
      What it printed, if `popen_arguments` direct that into a pipe.

    Raises:
      SystemExit: a signal has come, or the script has failed.
    """
    self._exit_if_signalled()
    self._process = subprocess.Popen([sys.executable, os.path.join(ROOT, script), *arguments],
                                     **popen_arguments)
    if self._signal:  # It came just now.
      self._process.send_signal(self._signal)
    out, _ = self._process.communicate()
    status, self._process = self._process.returncode, None
    if status:
      # It is negative after a signal, for which a shell returns 128 and the signal's number.
      sys.exit(status if status > 0 else 128 - status)
    self._exit_if_signalled()
    return out

  def _note(self, number, frame):
    self._signal = number
    # Then it saves before it ends. Ctrl-C reaches it from the terminal, as it does us.
    if self._process and number != signal.SIGINT:
      self._process.send_signal(number)

  def _exit_if_signalled(self):
    if self._signal:
      sys.exit(128 + self._signal)


def train(scripts, run_dir, flags, step, seconds_file):
  """Trains up to a step, and records how long that took, however it ended."""
  start = time.monotonic()
  try:
    scripts.run('cifar10_train.py',
                flags + [f'--train_dir={run_dir}/train', f'--max_steps={step}'])
  finally:
    with open(seconds_file, 'a') as seconds:
      seconds.write(f'{time.monotonic() - start:.1f}\n')


def evaluate(scripts, run_dir, flags, use_moving_averages):
  """Evaluates the latest checkpoint; returns the precision as it was printed."""
  # Flags that only training has are ignored.
  names = [re.match('--?([^=]+)', flag).group(1) for flag in flags]
  out = scripts.run('cifar10_eval.py', flags + [
      f"--undefok={','.join(names)}", '--run_once', f'--checkpoint_dir={run_dir}/train',
      f'--eval_dir={run_dir}/eval', f'--use_moving_averages={use_moving_averages}'],
      stdout=subprocess.PIPE, text=True)
  print(out, end='', flush=True)
  return re.search(r'precision @ 1 = ([\d.]+)', out).group(1)


def latest_step(run_dir):
  """Returns the step of the latest checkpoint; 0 if there is none."""
  state = '\n'.join(lines(os.path.join(run_dir, 'train', 'checkpoint')))
  match = re.search(r'^model_checkpoint_path: ".*-(\d+)"', state, re.MULTILINE)
  return int(match.group(1)) if match else 0


def lines(path):
  """Returns the lines of a file; none if there is no such file."""
  if not os.path.exists(path):
    return []
  with open(path) as file:
    return file.read().splitlines()


def main():
  parser = argparse.ArgumentParser(
      description=__doc__.split('\n')[0], allow_abbrev=False,
      epilog='Every other flag, as --flag=value, goes to cifar10_train.py and cifar10_eval.py.')
  parser.add_argument('--run_dir', required=True,
                      help='directory of the run, made if it does not exist')
  parser.add_argument('--max_steps', type=int, default=100000, help='steps to train (100000)')
  parser.add_argument('--evaluate_every', type=int, default=5000, help='steps of a stage (5000)')
  arguments, flags = parser.parse_known_args()
  if arguments.evaluate_every < 1:
    parser.error('--evaluate_every must be at least 1.')
  for flag in flags:
    if not re.match('--?[a-z]', flag):
      parser.error(f'{flag!r} is not a flag: write --flag=value.')
    if re.match('--?(no)?(restart|train_dir|eval_dir|checkpoint_dir)', flag):
      parser.error(f'{flag} cannot be used here: name another directory with --run_dir.')

  seconds_file = os.path.join(arguments.run_dir, 'seconds.txt')
  if (os.path.exists(os.path.join(arguments.run_dir, 'train'))
      and not os.path.exists(seconds_file)):
    # How long its training took is unknown.
    parser.error(f'{arguments.run_dir} holds a run that another script started: name another '
                 'directory with --run_dir.')
  os.makedirs(arguments.run_dir, exist_ok=True)
  open(seconds_file, 'a').close()
  table = os.path.join(arguments.run_dir, 'evaluations.csv')
  stages = [*range(arguments.evaluate_every, arguments.max_steps, arguments.evaluate_every),
            arguments.max_steps]
  done = {line.split(',')[0] for line in lines(table)}
  scripts = Scripts()
  for step in stages:
    if str(step) in done:
      continue
    if latest_step(arguments.run_dir) > step:
      print(f'Training has passed step {step}, which is not evaluated.', flush=True)
      continue
    train(scripts, arguments.run_dir, flags, step, seconds_file)
    precisions = [evaluate(scripts, arguments.run_dir, flags, averages)
                  for averages in ('true', 'false')]
    seconds = sum(map(float, lines(seconds_file)))
    with open(table, 'a') as out:
      if not done:
        out.write('step,precision,precision without moving averages,seconds of training\n')
      out.write(f"{step},{','.join(precisions)},{seconds:.0f}\n")
    done.add(str(step))


if __name__ == '__main__':
  main()
