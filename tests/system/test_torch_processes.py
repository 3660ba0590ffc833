"""exercises/torch_cifar10.py as it is used: on one device, in several processes, with the graph."""

import copy
import glob
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from cifar10_support import dataset
from conftest import DATA
from conftest import ROOT
from conftest import TRAINED
import warm_process

torch = pytest.importorskip('torch')

TORCH = 'exercises/torch_cifar10.py'


def _done(cwd, script, *arguments):
  process = warm_process.WarmProcess(cwd, script, arguments)
  assert (process.wait(600), process.err) == (0, '')
  return process.out


def _torchrun(cwd, processes, *arguments):
  process = subprocess.run(
      [sys.executable, '-m', 'torch.distributed.run', '--standalone',
       f'--nproc_per_node={processes}', *arguments],
      cwd=cwd, capture_output=True, text=True, timeout=600,
      env={**os.environ, 'PYTHONPATH': ROOT, 'OMP_NUM_THREADS': '1'})
  assert process.returncode == 0, process.stderr
  return process


def _steps(out):
  return [int(step) for step in re.findall(r': step (\d+), loss = [\d.]+ \([\d.]+ examples/sec; '
                                           r'[\d.]+ sec/batch\)\n', out)]


def test_run_resumes_and_each_side_evaluates_what_the_other_has_trained(small_data_dir, tmp_path):
  """Five steps of 100 images are an epoch."""
  data = ['--data_dir=' + small_data_dir, '--batch_size=100']
  model = '--model=torch/model.pt'
  assert _steps(_done(tmp_path, TORCH, 'train', *data, model, '--max_steps=3')) == [0]
  assert _steps(_done(tmp_path, TORCH, 'train', *data, model, '--max_steps=12')) == [10]
  assert torch.load(tmp_path / 'torch' / 'model.pt', weights_only=True)['step'] == 12
  assert {name.split('.')[0] for name in os.listdir(tmp_path / 'torch')} == {'model', 'events'}
  precision = r'precision @ 1 = 0\.\d{3}\n$'
  expected = re.search(precision, _done(tmp_path, TORCH, 'evaluate', data[0], model)).group()

  _done(tmp_path, TORCH, 'convert', 'torch/model.pt', 'converted')
  out = _done(tmp_path, 'cifar10_eval.py', data[0], '--checkpoint_dir=converted', '--run_once')
  assert expected.strip() in out
  out = _done(tmp_path, 'cifar10_train.py', *data, '--max_steps=13', '--min_queue_examples=100',
              '--train_dir=converted')
  assert 'from step 12' in out
  _done(tmp_path, TORCH, 'convert', 'converted', 'resumed.pt')
  out = _done(tmp_path, TORCH, 'train', *data, '--model=resumed.pt', '--max_steps=21')
  assert _steps(out) == [20]
  assert re.search(precision, _done(tmp_path, TORCH, 'evaluate', data[0], '--model=resumed.pt'))


def test_tensorboard_gets_curves_and_histograms(small_data_dir, tmp_path):
  data = ['--data_dir=' + small_data_dir, '--batch_size=100']
  for steps in (11, 31):
    _done(tmp_path, TORCH, 'train', *data, '--model=run/model.pt', f'--max_steps={steps}')
  found = {}
  for path in sorted(glob.glob(str(tmp_path / 'run' / 'events*'))):
    for event in tf.train.summary_iterator(path):
      for value in event.summary.value:
        found.setdefault(value.tag, []).append((event.step, value))
  losses = found['losses/total_loss']
  assert [step for step, _ in losses] == [0, 10, 20, 30]
  assert losses[0][1].simple_value == pytest.approx(4.68, abs=0.1)
  assert [value.simple_value for _, value in found['learning_rate']] == pytest.approx([0.1] * 4)
  steps = [step for step, _ in found['conv2/weight']]
  assert steps == [5, 10, 11, 15, 20, 25, 30, 31]
  assert found['conv2/weight'][0][1].histo.num == 5 * 5 * 64 * 64


@pytest.mark.parametrize('compiled', [
    False, pytest.param(True, marks=pytest.mark.skipif(not shutil.which('g++'), reason='No g++.'))])
def test_processes_share_a_batch(compiled, tmp_path):
  """Two with half of it each do what one does with all of it."""
  (tmp_path / 'share.py').write_text(f'''
import torch
from torch import distributed
from exercises import torch_cifar10
distributed.init_process_group('gloo')
rank = distributed.get_rank()
run = torch_cifar10.Run(batch_size=8, compiled={compiled})
run.load('start.pt')
images, labels = torch.load('batch.pt', weights_only=True)
for _ in range(3):
  run.train_on_batch(images[rank::2], labels[rank::2])
torch.save([run.network.state_dict(), run.averages.state_dict()], f'rank{{rank}}.pt')
distributed.destroy_process_group()
''')
  from exercises import torch_cifar10
  run = torch_cifar10.Run(batch_size=8)
  start = copy.deepcopy(run.network.state_dict())
  torch_cifar10.save(tmp_path / 'start.pt', step=0, network=start, averages=start)
  images, labels = torch.randn(8, 3, 24, 24), torch.arange(8)
  torch.save([images, labels], tmp_path / 'batch.pt')
  _torchrun(tmp_path, 2, 'share.py')
  for _ in range(3):
    run.train_on_batch(images, labels)
  expected = run.network.state_dict(), run.averages.state_dict()
  assert (expected[0]['conv1.weight'] - start['conv1.weight']).abs().max() > 1e-3
  for rank in range(2):
    found = torch.load(tmp_path / f'rank{rank}.pt', weights_only=True)
    for part, values in zip(found, expected):
      assert part.keys() == values.keys()
      for name, value in values.items():
        np.testing.assert_allclose(part[name], value, rtol=0, atol=1e-5)


def test_torchrun_resumes(small_data_dir, tmp_path):
  for steps, logged in ((2, [0]), (11, [10])):
    out = _torchrun(tmp_path, 2, os.path.join(ROOT, TORCH), 'train', '--batch_size=10',
                    '--data_dir=' + small_data_dir, '--model=model.pt',
                    f'--max_steps={steps}').stdout
    assert _steps(out) == logged  # Of one process.
    assert torch.load(tmp_path / 'model.pt', weights_only=True)['step'] == steps


@pytest.mark.skipif(not dataset.locate(DATA), reason='CIFAR-10 is not there: $CIFAR10_DATA_DIR')
@pytest.mark.parametrize('arguments, card', [
    ([], ''), (['--raw_weights'], ' --use_moving_averages=false'),
    (['--multiview'], ' --multiview')])
def test_precision_is_that_of_the_graph(arguments, card, tmp_path):
  with open(os.path.join(TRAINED, 'README.md')) as text:
    command = 'python cifar10_eval.py --checkpoint_dir=cifar10/trained --run_once' + card
    [precision] = re.findall(r'\| ([\d.]+) \| `%s` \|' % re.escape(command), text.read())
  _done(tmp_path, TORCH, 'convert', TRAINED, 'trained.pt')
  out = _done(tmp_path, TORCH, 'evaluate', '--data_dir=' + DATA, '--model=trained.pt', *arguments)
  assert out.endswith(f'precision @ 1 = {precision}\n')
