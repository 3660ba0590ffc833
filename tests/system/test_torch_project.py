"""The commands of docs/papers.md take the network into an empty PyTorch project."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from cifar10_support import dataset
from conftest import DATA
from conftest import ROOT
import warm_process

pytest.importorskip('torch')


def _blocks(language):
  with open(os.path.join(ROOT, 'docs', 'papers.md'), encoding='utf-8') as text:
    section = text.read().split('## Into an empty PyTorch project')[1].split('\n## ')[0]
  return re.findall(f'^```{language}\n(.*?)^```', section, re.DOTALL | re.MULTILINE)


def test_network_in_an_empty_project(small_data_dir, tmp_path):
  clone, project = tmp_path / 'clone', tmp_path / 'my_project'
  clone.mkdir()
  for name in ('exercises', 'cifar10'):
    (clone / name).symlink_to(os.path.join(ROOT, name))
  first, download = _blocks('sh')
  install, convert, *others = first.splitlines()
  assert install == "pip install -e '.[torch]'"
  process = warm_process.WarmProcess(clone, *shlex.split(convert)[1:2], shlex.split(convert)[2:])
  assert (process.wait(600), process.err) == (0, '')
  for command in others:
    subprocess.run(shlex.split(command), cwd=clone, check=True)
  assert sorted(os.listdir(project)) == ['torch_cifar10.py', 'trained.pt']

  # What the download unpacks.
  assert all('cifar-10-binary.tar.gz' in line for line in download.splitlines())
  is_real = bool(dataset.locate(DATA))
  files = dataset.find(DATA if is_real else small_data_dir, 10).test_files
  files += dataset.find(small_data_dir, 10).train_files  # A step of training needs no more.
  (project / dataset.FOLDER).mkdir()
  for path in files:
    shutil.copy(path, project / dataset.FOLDER)

  evaluate, train = _blocks('python')
  assert 'range(3000)' in train
  nothing_else = ''.join(f'import sys; sys.modules[{name!r}] = None\n' for name in (
      'tensorflow', 'tensorboard', 'cifar10', 'cifar10_support', 'exercises'))
  for script in (evaluate, train.replace('range(3000)', 'range(2)')):
    process = subprocess.run([sys.executable, '-c', nothing_else + script], cwd=project,
                             capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': ''})
    assert (process.returncode, process.stderr) == (0, '')
    assert re.search(r'precision @ 1 = 0\.\d{3}\n$', process.stdout)
    if script == evaluate and is_real:
      assert process.stdout == 'precision @ 1 = 0.869\n'
  assert 'step 0, loss = ' in process.stdout
