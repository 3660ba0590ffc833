"""The tutorial as you would write it in PyTorch: `train`, then `evaluate`.

  python exercises/torch_cifar10.py train --max_steps=10000
  torchrun --nproc_per_node=gpu exercises/torch_cifar10.py train    # On several GPUs.

Read it beside cifar10_input.py and cifar10.py, whose order it keeps. `convert FROM TO` turns a
graph checkpoint into a .pt file, or such a file into a checkpoint: `convert cifar10/trained a.pt`,
`convert a.pt cifar10/from_torch`.

The commands at the end use the rest of this project. All above them needs only PyTorch and numpy,
so you can copy this file into a project of your own, and a converted checkpoint with it:

  network = torch_cifar10.Network()
  network.load_state_dict(torch.load('a.pt', weights_only=True)['averages'])
  logits = network(torch_cifar10.central_crop(images))  # From uint8 of shape [n, 3, 32, 32].
"""

import argparse
import copy
import os
import sys
import time

import numpy as np
import torch
from torch import distributed
from torch import nn
from torch.nn import functional as F
from torch.optim import swa_utils

IMAGE_SIZE = 24
NUM_CLASSES = 10
NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN = 50000

MOVING_AVERAGE_DECAY = 0.9999
NUM_EPOCHS_PER_DECAY = 350.0
LEARNING_RATE_DECAY_FACTOR = 0.1
INITIAL_LEARNING_RATE = 0.1
WEIGHT_DECAY = 0.004

# The parts of a .pt file, and how their keys end in the graph's checkpoints. Momentum, if the graph
# was trained with it, is kept for the way back.
SLOTS = {'network': '', 'averages': '/ExponentialMovingAverage', 'momentum': '/Momentum'}


def read(paths):
  """Returns all images in files of the binary format, uint8 [n, 3, 32, 32], and their labels."""
  records = np.concatenate([np.fromfile(path, np.uint8) for path in paths])
  records = torch.from_numpy(records.reshape(-1, 1 + 3 * 32 * 32))
  return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long()


def distorted_inputs(images, labels, batch_size, compiled=False):
  """Yields batches for training: shuffled, distorted, endless; on the device of the images.

  The data set is small enough to lie there as a whole. So the pool to shuffle is all of it, and a
  batch is distorted at once: one image at a time, as in a `Dataset`, Python would be too slow.
  """
  distorted = torch.compile(distort) if compiled else distort
  order = torch.empty(0, dtype=torch.int64)
  while True:
    while len(order) < batch_size:
      order = torch.cat([order, torch.randperm(len(images))])
    batch, order = order[:batch_size].to(images.device), order[batch_size:]
    yield distorted(images[batch]), labels[batch]


def distort(images):
  """Distorts images, uint8 [n, 3, 32, 32], as `cifar10_input.distort` does; each in its own way."""
  n, _, height, width = images.shape
  device = images.device
  pixels = torch.arange(IMAGE_SIZE, device=device)
  rows = torch.randint(height - IMAGE_SIZE + 1, [n, 1], device=device) + pixels
  columns = torch.randint(width - IMAGE_SIZE + 1, [n, 1], device=device) + pixels
  flip = torch.rand([n, 1], device=device) < 0.5
  columns = torch.where(flip, columns.flip(1), columns)
  # Of shape [n, 24, 24, 3], with the colours of a pixel together: PyTorch's `channels_last`.
  crops = images[torch.arange(n, device=device)[:, None, None], :, rows[:, :, None],
                 columns[:, None, :]].permute(0, 3, 1, 2)
  brightness = torch.empty([n, 1, 1, 1], device=device).uniform_(-63, 63)
  contrast = torch.empty([n, 1, 1, 1], device=device).uniform_(0.2, 1.8)
  brighter = crops.float() + brightness
  means = brighter.mean(dim=(2, 3), keepdim=True)
  return standardize((brighter - means) * contrast + means)


def central_crop(images):
  """Returns what evaluation sees of images, uint8 [n, 3, 32, 32]: their centres."""
  return _crop(images, (images.shape[2] - IMAGE_SIZE) // 2, (images.shape[3] - IMAGE_SIZE) // 2)


def ten_crops(images):
  """Returns the centres, the four corners, and the flips of these: a list of ten batches."""
  bottom, right = images.shape[2] - IMAGE_SIZE, images.shape[3] - IMAGE_SIZE
  crops = [central_crop(images)]
  crops += [_crop(images, top, left) for top in (0, bottom) for left in (0, right)]
  return crops + [crop.flip(3) for crop in crops]


def _crop(images, top, left):
  return standardize(images[:, :, top:top + IMAGE_SIZE, left:left + IMAGE_SIZE].float())


def standardize(images):
  """Scales each image to mean 0 and standard deviation 1, as `per_image_standardization` does."""
  # `std()` would divide by n - 1, and a constant image would become NaN; it becomes 0.
  variance, mean = torch.var_mean(images, dim=(1, 2, 3), correction=0, keepdim=True)
  return (images - mean) / variance.sqrt().clamp(min=images[0].numel() ** -0.5)


class Network(nn.Module):
  """The network, from images [n, 3, 24, 24] to logits [n, 10]."""

  def __init__(self):
    super().__init__()
    self.conv1 = nn.Conv2d(3, 64, 5, padding='same')
    self.conv2 = nn.Conv2d(64, 64, 5, padding='same')
    self.local3 = nn.Linear(64 * (IMAGE_SIZE // 4) ** 2, 384)
    self.local4 = nn.Linear(384, 192)
    self.softmax_linear = nn.Linear(192, NUM_CLASSES)
    # SAME pads an even side at its end alone. So does `ceil_mode`; `padding=1` moves each window.
    self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
    # Four channels to either side. PyTorch divides alpha by the size; TensorFlow's is 0.001 / 9.
    self.norm = nn.LocalResponseNorm(size=9, alpha=0.001, beta=0.75, k=1.0)

    for layer, stddev, bias in ((self.conv1, 5e-2, 0.0), (self.conv2, 5e-2, 0.1),
                                (self.local3, 0.04, 0.1), (self.local4, 0.04, 0.1),
                                (self.softmax_linear, 1 / 192.0, 0.0)):
      # Cut at two standard deviations; PyTorch would cut at -2 and 2.
      nn.init.trunc_normal_(layer.weight, std=stddev, a=-2 * stddev, b=2 * stddev)
      nn.init.constant_(layer.bias, bias)

  def forward(self, images):
    conv1 = F.relu(self.conv1(images))
    pool1 = self.pool(conv1)
    norm1 = self.norm(pool1)
    conv2 = F.relu(self.conv2(norm1))
    norm2 = self.norm(conv2)
    pool2 = self.pool(norm2)
    # In the graph's order: row by row, the channels of a pixel together.
    local3 = F.relu(self.local3(pool2.permute(0, 2, 3, 1).flatten(1)))
    local4 = F.relu(self.local4(local3))
    return self.softmax_linear(local4)


def gradient_descent(network):
  """Returns the optimizer, with weight decay for the weights of the two local layers alone."""
  others = dict(network.named_parameters())
  decayed = [others.pop('local3.weight'), others.pop('local4.weight')]
  # The gradient of WEIGHT_DECAY * tf.nn.l2_loss: of half the sum of the squares.
  return torch.optim.SGD([{'params': decayed, 'weight_decay': WEIGHT_DECAY},
                          {'params': list(others.values())}], lr=INITIAL_LEARNING_RATE)


def decay_loss(network):
  """Returns what weight decay adds to the loss, for the log: the optimizer has its gradient."""
  with torch.no_grad():
    return WEIGHT_DECAY * (network.local3.weight.square().sum()
                           + network.local4.weight.square().sum()) / 2


def learning_rate(step, examples_per_step):
  """Returns the learning rate of a step: a staircase, counted in epochs."""
  steps_per_epoch = NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN / examples_per_step
  decay_steps = max(1, int(steps_per_epoch * NUM_EPOCHS_PER_DECAY))
  return INITIAL_LEARNING_RATE * LEARNING_RATE_DECAY_FACTOR ** (step // decay_steps)


def update_averages(averages, network, num_updates):
  """Moves the moving averages, a network too, towards the variables of the network.

  The fewer the updates, the faster: what `num_updates` does in `tf.train.ExponentialMovingAverage`.
  `swa_utils.AveragedModel` starts as a copy of the network after its first step instead.
  """
  decay = min(MOVING_AVERAGE_DECAY, (1 + num_updates) / (10 + num_updates))
  swa_utils.get_ema_multi_avg_fn(decay)(list(averages.parameters()), list(network.parameters()), 0)


class Run:
  """A run: the network, its moving averages, and the number of steps that they have taken."""

  def __init__(self, batch_size=128, device='cpu', compiled=False):
    """Starts at step 0. The processes of torchrun share each batch, each on a device of its own."""
    self.step, self._batch_size = 0, batch_size
    self.network = Network().to(device, memory_format=torch.channels_last)
    model, compiler_mode = self.network, 'reduce-overhead'  # With CUDA graphs.
    if distributed.is_initialized():  # Gradients are averaged, and the first process's values sent.
      model, compiler_mode = nn.parallel.DistributedDataParallel(model), 'default'
    self.averages = copy.deepcopy(self.network).requires_grad_(False)
    self._optimizer = gradient_descent(self.network)
    self._loss = lambda images, labels: F.cross_entropy(model(images), labels)
    if compiled:
      self._loss = torch.compile(self._loss, mode=compiler_mode)

  def train_on_batch(self, images, labels):
    """Takes a step: gradient descent, then the moving averages. Returns the cross entropy."""
    for group in self._optimizer.param_groups:
      group['lr'] = learning_rate(self.step, self._batch_size)
    self._optimizer.zero_grad()
    loss = self._loss(images, labels)
    loss.backward()
    self._optimizer.step()
    self.step += 1
    update_averages(self.averages, self.network, self.step)
    return loss.detach()

  def state(self):
    """Returns what a .pt file holds."""
    def values(network):  # On the CPU, so that a machine without a GPU reads them.
      return {name: value.cpu() for name, value in network.state_dict().items()}

    return {'step': self.step, 'network': values(self.network), 'averages': values(self.averages)}

  def load(self, path):
    """Resumes from a .pt file; returns this run."""
    try:
      state = torch.load(path, map_location='cpu', weights_only=True)
      self.network.load_state_dict(state['network'])
      # Layers that the graph has frozen have no averages.
      self.averages.load_state_dict({**state['network'], **state['averages']})
      self.step = int(state['step'])
    except Exception as error:  # On a file that is damaged, or another one, it may be anything.
      raise OSError(f'{path} cannot be loaded: {error or type(error).__name__}') from error
    return self


def save(state, path):
  """Writes a .pt file. In two steps: a kill while it is written leaves the one from before."""
  os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
  torch.save(state, f'{path}.unfinished')
  os.replace(f'{path}.unfinished', path)


@torch.inference_mode()
def precision(network, images, labels, multiview=False, batch_size=500):
  """Returns precision @ 1 of a network on images, uint8 [n, 3, 32, 32], and their labels."""
  right = 0
  for batch, truth in zip(images.split(batch_size), labels.split(batch_size)):
    crops = ten_crops(batch) if multiview else [central_crop(batch)]
    probabilities = sum(network(crop).softmax(1) for crop in crops)
    right += int((probabilities.argmax(1) == truth).sum())
  return right / len(labels)


def device_of_this_process():
  """Returns the GPU to compute on, under torchrun one of its own; without a GPU the CPU."""
  if not torch.cuda.is_available():
    return torch.device('cpu')
  torch.set_float32_matmul_precision('high')  # TF32, as in TensorFlow.
  device = torch.device('cuda', int(os.environ.get('LOCAL_RANK', 0)))
  torch.cuda.set_device(device)
  return device


def train(flags):
  """Trains up to --max_steps; a saved run is resumed."""
  from cifar10_support import console
  from cifar10_support import dataset
  from torch.utils import tensorboard

  device, rank, processes = device_of_this_process(), 0, 1
  if 'RANK' in os.environ:  # Torchrun has started this process, and others.
    distributed.init_process_group('nccl' if device.type == 'cuda' else 'gloo')
    rank, processes = distributed.get_rank(), distributed.get_world_size()
  if flags.batch_size % processes:
    raise console.UserError(f'{processes} processes cannot share a batch of {flags.batch_size}.')

  data_set = dataset.prepare(flags.data_dir, dataset.DATA_URL, NUM_CLASSES)
  run = Run(flags.batch_size, device, flags.compile)
  if os.path.exists(flags.model):
    run.load(flags.model)
  if run.step >= flags.max_steps:
    raise console.UserError(f'{flags.model} has reached step {run.step}: raise --max_steps.')
  # Each process has its share of the images.
  images, labels = (part[rank::processes].to(device) for part in read(data_set.train_files))
  batches = distorted_inputs(images, labels, flags.batch_size // processes, flags.compile)
  epoch = max(1, data_set.num_train // flags.batch_size)  # In steps.
  folder = os.path.dirname(flags.model) or '.'
  writer = tensorboard.SummaryWriter(folder, purge_step=run.step) if rank == 0 else None
  logged, since = run.step - 1, time.perf_counter()
  for step in range(run.step, flags.max_steps):
    is_logged = rank == 0 and step % 10 == 0
    decay = decay_loss(run.network) if is_logged else None
    cross_entropy = run.train_on_batch(*next(batches))
    if is_logged:
      loss, now = float(cross_entropy + decay), time.perf_counter()
      secs, logged, since = (now - since) / (step - logged), step, now
      console.log(f'step {step}, loss = {loss:.2f} ({flags.batch_size / secs:.1f} examples/sec; '
                  f'{secs:.3f} sec/batch)')
      writer.add_scalar('losses/total_loss', loss, step)
      writer.add_scalar('losses/cross_entropy', cross_entropy, step)
      writer.add_scalar('learning_rate', learning_rate(step, flags.batch_size), step)
    if rank == 0 and (run.step % epoch == 0 or run.step == flags.max_steps):
      save(run.state(), flags.model)
      for name, value in run.network.named_parameters():
        writer.add_histogram(name.replace('.', '/'), value, run.step)
      writer.flush()


def evaluate(flags):
  """Prints precision @ 1 on the test images."""
  from cifar10_support import console
  from cifar10_support import dataset

  data_set = dataset.prepare(flags.data_dir, dataset.DATA_URL, NUM_CLASSES)
  run = Run().load(flags.model)
  device = device_of_this_process()
  network = (run.network if flags.raw_weights else run.averages).to(device)
  images, labels = (part.to(device) for part in read(data_set.test_files))
  console.log(f'precision @ 1 = {precision(network, images, labels, flags.multiview):.3f}')


def convert(flags):
  """Converts a checkpoint of the graph to a new `.pt` file, or such a file to a new run."""
  from cifar10_support import console

  source, destination = flags.paths
  if os.path.exists(destination):
    raise console.UserError(f'{destination} exists: name another place for the result.')
  (graph_to_torch if destination.endswith('.pt') else torch_to_graph)(source, destination)
  print(f'{source} is in {destination} now.')


def graph_to_torch(source, destination):
  from cifar10_support import checkpoints
  from cifar10_support import console
  import tensorflow.compat.v1 as tf

  found = checkpoints.latest_intact(source) or checkpoints.read(source)
  network = Network().state_dict()
  checkpoints.check_fits(found, {
      graph_key(name, 'network'): tf.TensorSpec(graph_layout(value).shape, tf.float32)
      for name, value in network.items()})
  state, reader = {'step': found.step or 0}, tf.train.load_checkpoint(found.path)
  for part in SLOTS:
    for name in network:
      if graph_key(name, part) in found.contents:
        value = torch.from_numpy(reader.get_tensor(graph_key(name, part))).float()
        value = value.permute(3, 2, 0, 1) if value.ndim == 4 else value.t()
        state.setdefault(part, {})[name] = value.contiguous()
  if 'averages' not in state:
    raise console.UserError(f'{found.path} has no moving averages.')
  save(state, destination)


def torch_to_graph(source, destination):
  import tensorflow.compat.v1 as tf

  Run().load(source)  # Does it fit?
  state = torch.load(source, weights_only=True)
  values = {graph_key(name, part): graph_layout(value).numpy()
            for part in SLOTS for name, value in state.get(part, {}).items()}
  values['global_step'] = np.int64(state['step'])
  os.makedirs(destination)
  name = f"model.ckpt-{state['step']}"
  with tf.Graph().as_default(), tf.Session() as session:  # What a Saver does, to the byte.
    session.run(tf.raw_ops.SaveV2(
        prefix=os.path.join(destination, name), tensor_names=sorted(values),
        shape_and_slices=[''] * len(values), tensors=[values[key] for key in sorted(values)]))
  tf.train.update_checkpoint_state(os.path.abspath(destination), name)


def graph_key(name, part):
  """Returns the key that a value, such as conv1.weight in a part of a file, has in the graph."""
  return name.replace('.weight', '/weights').replace('.bias', '/biases') + SLOTS[part]


def graph_layout(value):
  """Returns a view: HWIO instead of OIHW, [inputs, outputs] instead of [outputs, inputs]."""
  return value.permute(2, 3, 1, 0) if value.ndim == 4 else value.t()


def main(argv=None):
  """Runs a command; returns the exit status."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0], allow_abbrev=False)
  parser.add_argument('command', choices=['train', 'evaluate', 'convert'])
  parser.add_argument('paths', nargs='*', help='for convert: what to convert, and to what')
  parser.add_argument('--data_dir', default='cifar10/data', help='folder of the data set')
  parser.add_argument('--model', default='cifar10/torch/model.pt',
                      help='file to train or evaluate')
  parser.add_argument('--batch_size', type=int, default=128, help='images in a batch')
  parser.add_argument('--max_steps', type=int, default=100000, help='steps to train in all')
  # On a CPU it takes half a minute, and wins hardly anything.
  parser.add_argument('--compile', action=argparse.BooleanOptionalAction,
                      default=torch.cuda.is_available(), help='compile the network')
  parser.add_argument('--raw_weights', action='store_true', help='do not evaluate the averages')
  parser.add_argument('--multiview', action='store_true', help='evaluate ten crops of each image')
  flags = parser.parse_args(argv)
  if len(flags.paths) != (2 if flags.command == 'convert' else 0):
    parser.error('convert takes two paths, and the other commands none')
  if min(flags.batch_size, flags.max_steps) < 1:
    parser.error('--batch_size and --max_steps must be at least 1')
  from cifar10_support import console
  try:
    {'train': train, 'evaluate': evaluate, 'convert': convert}[flags.command](flags)
  except (console.UserError, OSError) as error:
    console.complain(error)
    return 1
  except KeyboardInterrupt:  # The last epoch is saved.
    return 130
  finally:
    if distributed.is_initialized():
      distributed.destroy_process_group()


if __name__ == '__main__':
  sys.exit(main())
