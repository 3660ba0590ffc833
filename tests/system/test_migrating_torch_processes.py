"""docs/migrating.md in PyTorch, what takes longer: its commands, its script, its mistakes."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from cifar10_support import dataset
from conftest import DATA
from conftest import ROOT
from conftest import TRAINED
import migrating_page
import warm_process

torch = pytest.importorskip('torch')

from exercises import torch_cifar10  # noqa: E402
from torch import nn  # noqa: E402

TORCH = os.path.join('exercises', 'torch_cifar10.py')


@pytest.fixture
def home(small_data_dir, tmp_path):
  """A directory like a clone, with a small data set."""
  (tmp_path / 'cifar10').mkdir()
  (tmp_path / 'cifar10' / 'data').symlink_to(small_data_dir)
  (tmp_path / 'cifar10' / 'trained').symlink_to(TRAINED)
  return tmp_path


def test_commands_of_the_page_run(home):
  _, block = migrating_page.blocks(migrating_page.text(), 'sh')
  for line in block.splitlines():
    program, script, *arguments = line.replace('3000', '2').split()
    assert program == 'python'
    process = warm_process.WarmProcess(home, script, arguments)
    assert (process.wait(600), process.err) == (0, '')
  assert (home / 'cifar10' / 'from_torch' / 'model.ckpt-2.index').exists()


def test_script_of_the_recipe_passes_and_finds_what_is_wrong(home):
  blocks = migrating_page.blocks(migrating_page.text())
  start = next(i for i, block in enumerate(blocks) if 'golden = {}' in block)
  (home / 'freeze.py').write_text('\n'.join(blocks[start:start + 2]))
  [port] = [block for block in blocks if 'import torch\n' in block]
  (home / 'port_torch.py').write_text(port)

  def run(script):
    return subprocess.run([sys.executable, script], cwd=home, capture_output=True, text=True,
                          timeout=300, env={**os.environ, 'PYTHONPATH': ROOT})

  for script in ('freeze.py', 'port_torch.py'):
    process = run(script)
    assert process.returncode == 0, process.stderr
  with open(os.path.join(ROOT, TORCH)) as program:
    code = program.read()
  (home / 'exercises').mkdir()
  for found, was, is_now in (
      ("golden['logits']", 'ceil_mode=True', 'padding=1'),
      ("golden['late/'", 'MOVING_AVERAGE_DECAY = 0.9999', 'MOVING_AVERAGE_DECAY = 0.999')):
    assert was in code
    (home / TORCH).write_text(code.replace(was, is_now))
    process = run('port_torch.py')
    assert process.returncode == 1 and found in process.stderr, process.stderr
  shutil.rmtree(home / 'exercises')


def test_compiled_condition():
  def shrink(loss):
    return 0.1 * loss if loss > 1.0 else loss

  with pytest.raises(Exception, match='[Dd]ata-dependent'):
    torch.compile(shrink, backend='eager', fullgraph=True)(torch.tensor(5.0))
  parts = []

  def backend(graph, inputs):
    parts.append(graph)
    return graph

  torch._dynamo.reset()
  assert torch.compile(shrink, backend=backend)(torch.tensor(5.0)).item() == 0.5
  assert len(parts) == 2


def _padded_pool(network):
  network.pool = nn.MaxPool2d(3, 2, padding=1)


def _channels_first(network):
  """Each weight of local3 belongs to another place than it would with `flatten(1)` alone."""
  weight = network.local3.weight.data
  network.local3.weight.data = (weight.reshape(-1, 64, 6, 6).permute(0, 2, 3, 1)
                                .reshape(weight.shape))


def _exchanged_axes(network):
  for layer in (network.conv1, network.conv2):
    layer.weight.data = layer.weight.data.transpose(2, 3).contiguous()


def _mean_of_the_data_set(images):
  """By the usual constants of CIFAR-10."""
  mean = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
  deviation = torch.tensor([0.2470, 0.2435, 0.2616]).view(3, 1, 1)
  return (images[:, :, 4:28, 4:28] / 255 - mean) / deviation


def _small_size(network):
  network.norm = nn.LocalResponseNorm(size=4, alpha=0.001, beta=0.75, k=1.0)


def _old_alpha(network):
  network.norm = nn.LocalResponseNorm(size=9, alpha=0.001 / 9, beta=0.75, k=1.0)


@pytest.mark.skipif(not dataset.locate(DATA), reason='CIFAR-10 is not there: $CIFAR10_DATA_DIR')
def test_mistakes_cost_what_the_page_says(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert not torch_cifar10.main(['convert', TRAINED, 'a.pt'])
  state = torch.load('a.pt', weights_only=True)['averages']
  images, labels = torch_cifar10.read(dataset.find(DATA, 10).test_files)

  @torch.inference_mode()
  def precision(mistake, crop=torch_cifar10.central_crop):
    network = torch_cifar10.Network()
    network.load_state_dict(state)
    mistake(network)
    right = sum(int((network(crop(batch)).argmax(1) == truth).sum())
                for batch, truth in zip(images.split(500), labels.split(500)))
    return f'{right / len(labels):.3f}'

  section = migrating_page.sections('The idioms')['Layers']
  rows = re.findall(r'^\| .* \| (0\.\d{3}) \|$', section, re.MULTILINE)
  found = [precision(mistake) for mistake in (_padded_pool, _channels_first, _exchanged_axes)]
  found += [precision(lambda network: None, _mean_of_the_data_set), precision(_small_size),
            precision(_old_alpha)]
  assert found == rows
  assert precision(lambda network: None) == '0.869'
  with open(os.path.join(ROOT, 'docs', 'papers.md')) as page:
    [without_any] = re.findall(r'without any of it the trained\nnetwork is still at ([\d.]+)\.',
                               page.read())
  assert precision(lambda network: setattr(network, 'norm', nn.Identity())) == without_any
