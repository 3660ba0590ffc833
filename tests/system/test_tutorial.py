"""The commands of docs/tutorial.md, one after the other as a reader runs them, but shorter."""

import json
import os
import re
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from conftest import ROOT
from conftest import TRAINED
import numpy_network
import tensorboard_process
import warm_process

TRAIN, TOWERS = 'cifar10_train.py', 'cifar10_multi_gpu_train.py'
EVAL, PREDICT = 'cifar10_eval.py', 'cifar10_predict.py'


def _blocks(pattern):
  with open(os.path.join(ROOT, 'docs', 'tutorial.md'), encoding='utf-8') as text:
    return re.findall(pattern, text.read(), re.DOTALL | re.MULTILINE)


def _commands():
  return [line for block in _blocks('^```sh\n(.*?)^```') for line in block.splitlines()]


def _shorter(command):
  """Lowers --max_steps, in a way that what was more is still more."""
  return re.sub(r'(?<=--max_steps=)\d+', lambda match: str(1 + int(match.group()) // 500), command)


def _write_svhn(folder):
  """Writes small files like SVHN's: pixels, channels, then images, and 10 for the digit 0."""
  scipy_io = pytest.importorskip('scipy.io', reason='there is no scipy: pip install -e .[svhn]')
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
  said = {}
  for command in _commands():
    command, _, grep = command.partition(' | ')  # What the reader picks from its output.
    program, *arguments = _shorter(command).split()
    if program == 'tensorboard':
      [_, logdir] = arguments
      with tensorboard_process.served(home / logdir) as address:
        assert 'learning_rate' in tensorboard_process.tags(address, {'train'})['scalars']['train']
      continue
    assert program == 'python'
    script, *arguments = arguments
    if script == EVAL or 'evaluate' in arguments:
      arguments.append('--num_examples=20')
    process = warm_process.WarmProcess(home, script, arguments)
    assert (command, process.wait(300), process.err) == (command, 0, '')
    said.setdefault(script, []).append(process.out)
    if grep:
      assert re.search(re.search("'(.*)'", grep).group(1), process.out, re.MULTILINE)

  assert 'step 0, loss = ' in said[TRAIN][0]
  assert 'step 0, loss = ' in said[TOWERS][0]
  assert all('precision @ 1 = ' in out for out in said[EVAL])
  [pictures] = [out for out in said[PREDICT] if out.startswith('[')]
  assert [picture['file'] for picture in json.loads(pictures)] == [
      'docs/images/filters.png', 'docs/images/graph.png']


def test_cat_becomes_a_dog_as_the_page_says(tmp_path):
  [(code, printed)] = [blocks for blocks in _blocks('^```python\n([^`]*)^```\n\n```\n([^`]*)^```')
                       if 'dog.png' in blocks[0]]
  (tmp_path / 'cifar10').mkdir()
  (tmp_path / 'cifar10' / 'trained').symlink_to(TRAINED)
  (tmp_path / 'docs').symlink_to(os.path.join(ROOT, 'docs'))
  # Typed in line by line, which needs its empty lines.
  process = subprocess.run([sys.executable, '-i', '-q'], cwd=tmp_path, input=code, text=True,
                           capture_output=True, env=dict(os.environ, PYTHONPATH=ROOT))
  assert 'Error' not in process.stderr

  def numbers(text):
    return [float(number) for number in re.findall(r'0\.\d{3}', text)]

  assert numbers(process.stdout) == pytest.approx(numbers(printed), abs=0.002)
  cat, dog = (np.array(Image.open(path), int)
              for path in (tmp_path / 'docs' / 'images' / 'cat.png', tmp_path / 'dog.png'))
  assert np.abs(dog - cat).max() == 1
  [answer] = numpy_network.probabilities(numpy_network.central_crop(dog[np.newaxis]),
                                         numpy_network.averages(TRAINED))
  assert answer[5] == pytest.approx(0.826, abs=0.002)
