"""The commands of docs/tutorial.md, one after the other as a reader runs them, but shorter."""

import os
import re

import numpy as np
import pytest

from conftest import ROOT
import warm_process

# In place of the reader's numbers; evaluation takes fewer images.
STEPS = {'1000': '2', '1200': '3', '100': '2', '10': '1'}


def _commands():
  with open(os.path.join(ROOT, 'docs', 'tutorial.md'), encoding='utf-8') as text:
    blocks = re.findall('^```sh\n(.*?)^```', text.read(), re.DOTALL | re.MULTILINE)
  return [line for block in blocks for line in block.splitlines()]


def _write_svhn(folder):
  """Writes small files as those of SVHN: pixels, channels, then images, and 10 for the digit 0."""
  scipy_io = pytest.importorskip('scipy.io', reason='scipy is not here: pip install -e .[svhn]')
  random = np.random.RandomState(0)
  for name, images in (('train', 50), ('test', 10)):
    scipy_io.savemat(str(folder / (name + '_32x32.mat')),
                     {'X': random.randint(0, 256, (32, 32, 3, images)).astype(np.uint8),
                      'y': random.randint(1, 11, (images, 1)).astype(np.uint8)})


def test_each_command_runs(data_dir, tmp_path):
  home = tmp_path / 'home'
  (home / 'cifar10' / 'synthetic').mkdir(parents=True)
  (home / 'cifar10' / 'synthetic' / 'data').symlink_to(data_dir)
  (home / 'docs').symlink_to(os.path.join(ROOT, 'docs'))
  _write_svhn(home)
  commands = [command for command in _commands() if command.startswith('python ')]
  assert len(commands) > 10
  for command in commands:
    _, script, *arguments = re.sub(r'(?<=--max_steps=)\d+', lambda steps: STEPS[steps.group()],
                                   command).split()
    if script == 'cifar10_eval.py':
      arguments.append('--num_examples=20')
    process = warm_process.WarmProcess(home, script, arguments)
    assert (command, process.wait(300), process.err) == (command, 0, '')


def test_commands_that_are_no_script_are_tensorboards():
  # Which test_tensorboard.py looks at.
  assert {command.split()[0] for command in _commands()} == {'python', 'tensorboard'}


def test_pictures_and_files_that_the_text_names_are_there():
  docs = os.path.join(ROOT, 'docs')
  with open(os.path.join(docs, 'tutorial.md'), encoding='utf-8') as text:
    paths = re.findall(r'\]\(([^):#]+)\)', text.read())
  assert len(paths) > 10
  assert [path for path in paths if not os.path.exists(os.path.join(docs, path))] == []
