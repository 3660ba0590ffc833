"""The tutorial as you would write it in PyTorch: `train`, then `evaluate`.

  python exercises/torch_cifar10.py train --max_steps=10000
  torchrun --nproc_per_node=gpu exercises/torch_cifar10.py train    # On several GPUs.

Read it beside cifar10_input.py and cifar10.py, whose order it keeps. `convert FROM TO` turns a
graph checkpoint into a .pt file, or such a file into a checkpoint: `convert cifar10/trained a.pt`,
`convert a.pt cifar10/from_torch`.

The rest of this project is used by these three commands alone. All above them needs only PyTorch
and numpy, so you can copy this file into a project of your own, with a converted checkpoint:

  import torch, torch_cifar10
  network = torch_cifar10.Network()
  network.load_state_dict(torch.load('a.pt', map_location='cpu', weights_only=True)['averages'])
  images, labels = torch_cifar10.read(['test_batch.bin'])  # uint8 [n, 3, 32, 32]
  logits = network(torch_cifar10.central_crop(images[:100]))
  print(torch_cifar10.precision(network, images, labels))
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
from torch.utils import data

IMAGE_SIZE = 24
NUM_CLASSES = 10
NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN = 50000

MOVING_AVERAGE_DECAY = 0.9999
NUM_EPOCHS_PER_DECAY = 350.0
LEARNING_RATE_DECAY_FACTOR = 0.1
INITIAL_LEARNING_RATE = 0.1
WEIGHT_DECAY = 0.004


def read(paths):
  """Returns all images in files of the binary format, uint8 [n, 3, 32, 32], and their labels."""
  records = np.concatenate([np.fromfile(path, np.uint8) for path in paths])
  records = torch.from_numpy(records.reshape(-1, 1 + 3 * 32 * 32))
  return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long()


def distorted_inputs(images, labels, batch_size, compiled=False):
  """Yields batches for training: shuffled, distorted, endless; on the device of the images.

  All images are there, and a batch is distorted at once: one by one, as in a `Dataset`, is slow.
  """
  distorted = torch.compile(distort) if compiled else distort
  order = data.RandomSampler(labels, num_samples=sys.maxsize)  # One permutation after another.
  for batch in data.BatchSampler(order, batch_size, drop_last=True):
    yield distorted(images[batch]), labels[batch]


def distort(images):
  """Distorts images, uint8 [n, 3, 32, 32], as `cifar10_input.distort` does; each in its own way."""
  n, _, height, width = images.shape
  index, pixels = (torch.arange(count, device=images.device) for count in (n, IMAGE_SIZE))
  top, left, flip, brightness, contrast = torch.rand([5, n, 1], device=images.device)
  rows = (top * (height - IMAGE_SIZE + 1)).long() + pixels
  columns = (left * (width - IMAGE_SIZE + 1)).long() + pixels
  columns = torch.where(flip < 0.5, columns.flip(1), columns)
  # Of shape [n, 24, 24, 3], with the colours of a pixel together: PyTorch's `channels_last`.
  crops = images[index[:, None, None], :, rows[:, :, None], columns[:, None, :]]
  brighter = crops.permute(0, 3, 1, 2) + (126 * brightness - 63)[..., None, None]
  means = brighter.mean(dim=(2, 3), keepdim=True)
  return standardize((brighter - means) * (0.2 + 1.6 * contrast)[..., None, None] + means)


def central_crop(images):
  """Returns what evaluation sees of images, uint8 [n, 3, 32, 32]: their centres."""
  top, left = [(side - IMAGE_SIZE) // 2 for side in images.shape[2:]]
  return standardize(images[..., top:top + IMAGE_SIZE, left:left + IMAGE_SIZE].float())


def ten_crops(images):
  """Returns the centres, the four corners, and the flips of these: a list of ten batches."""
  ends = slice(None, IMAGE_SIZE), slice(-IMAGE_SIZE, None)
  parts = [images] + [images[..., rows, columns] for rows in ends for columns in ends]
  crops = [central_crop(part) for part in parts]
  return crops + [crop.flip(3) for crop in crops]


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
    norm1 = self.norm(self.pool(F.relu(self.conv1(images))))
    pool2 = self.pool(self.norm(F.relu(self.conv2(norm1))))
    # In the graph's order: row by row, the channels of a pixel together.
    local3 = F.relu(self.local3(pool2.permute(0, 2, 3, 1).flatten(1)))
    local4 = F.relu(self.local4(local3))
    return self.softmax_linear(local4)


def learning_rate(step, batch_size):
  """Returns the learning rate of a step: a staircase, counted in epochs."""
  decay_steps = max(1, int(NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN / batch_size * NUM_EPOCHS_PER_DECAY))
  return INITIAL_LEARNING_RATE * LEARNING_RATE_DECAY_FACTOR ** (step // decay_steps)


class Run:
  """The network, its moving averages, and the number of steps that they have taken."""

  def __init__(self, batch_size=128, device='cpu', compiled=False):
    """Starts at step 0. The processes of torchrun share each batch, each on a device of its own."""
    self.step, self._batch_size = 0, batch_size
    self.network = Network().to(device, memory_format=torch.channels_last)
    model, mode = self.network, 'reduce-overhead'  # With CUDA graphs.
    if distributed.is_initialized():  # Gradients are averaged, and the first process's values sent.
      model, mode = nn.parallel.DistributedDataParallel(model), 'default'
    self.averages = copy.deepcopy(self.network).requires_grad_(False)
    decayed = [self.network.local3.weight, self.network.local4.weight]
    others = list(set(self.network.parameters()) - set(decayed))
    self._optimizer = torch.optim.SGD([{'params': decayed, 'weight_decay': WEIGHT_DECAY},
                                       {'params': others}], lr=INITIAL_LEARNING_RATE)

    def loss(images, labels):
      # Half the sum of the squares, whose gradient is the optimizer's `weight_decay`.
      decay = WEIGHT_DECAY * sum(weights.detach().square().sum() for weights in decayed) / 2
      return F.cross_entropy(model(images), labels) + decay

    self._loss = torch.compile(loss, mode=mode) if compiled else loss

  def train_on_batch(self, images, labels):
    """Takes a step: gradient descent, then the moving averages. Returns the loss before it."""
    for group in self._optimizer.param_groups:
      group['lr'] = learning_rate(self.step, self._batch_size)
    self._optimizer.zero_grad()
    loss = self._loss(images, labels)
    loss.backward()
    self._optimizer.step()
    self.step += 1
    # `num_updates` in `tf.train.ExponentialMovingAverage`: the fewer there were, the faster.
    # A `swa_utils.AveragedModel` would start as a copy of the network after its first step.
    decay = min(MOVING_AVERAGE_DECAY, (1 + self.step) / (10 + self.step))
    swa_utils.get_ema_multi_avg_fn(decay)(
        list(self.averages.parameters()), list(self.network.parameters()), self.step)
    return loss.detach()

  def load(self, path):
    """Resumes from a .pt file; returns all that is in it."""
    try:
      state = torch.load(path, map_location='cpu', weights_only=True)
      self.network.load_state_dict(state['network'])
      # Layers that the graph has frozen have no averages.
      self.averages.load_state_dict({**state['network'], **state['averages']})
      self.step = int(state['step'])
    except Exception as error:  # On a file that is damaged, or another one, it may be anything.
      raise OSError(f'{path} cannot be loaded: {error or type(error).__name__}') from error
    return state


def save(path, **state):
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
  torch.cuda.set_device(int(os.environ.get('LOCAL_RANK', 0)))
  return torch.device('cuda')


def train(flags):
  """Trains up to --max_steps; a saved run is resumed."""
  from cifar10_support import console
  from cifar10_support import dataset
  from torch.utils import tensorboard

  device, rank, processes = device_of_this_process(), 0, 1
  if 'RANK' in os.environ:  # Torchrun has started this process, and others.
    distributed.init_process_group()
    rank, processes = distributed.get_rank(), distributed.get_world_size()
  if flags.batch_size % processes:
    raise console.UserError(f'{processes} processes cannot share a batch of {flags.batch_size}.')
  data_set = dataset.prepare(flags.data_dir, dataset.DATA_URL, NUM_CLASSES)
  data_set.check_is_like_cifar10()
  compiled = device.type == 'cuda'  # It takes half a minute, and wins hardly anything on a CPU.
  run = Run(flags.batch_size, device, compiled)
  if os.path.exists(flags.model):
    run.load(flags.model)
  if run.step >= flags.max_steps:
    raise console.UserError(f'{flags.model} has reached step {run.step}: raise --max_steps.')
  # Each process has its share of the images.
  images, labels = (part[rank::processes].to(device) for part in read(data_set.train_files))
  batches = distorted_inputs(images, labels, flags.batch_size // processes, compiled)
  epoch = max(1, data_set.num_train // flags.batch_size)  # In steps.
  if rank == 0:
    writer = tensorboard.SummaryWriter(os.path.dirname(flags.model) or '.', purge_step=run.step)
  logged, since = run.step - 1, time.perf_counter()
  for step in range(run.step, flags.max_steps):
    loss = run.train_on_batch(*next(batches))
    if rank == 0 and step % 10 == 0:
      loss, now = float(loss), time.perf_counter()
      secs, logged, since = (now - since) / (step - logged), step, now
      console.log(f'step {step}, loss = {loss:.2f} ({flags.batch_size / secs:.1f} examples/sec; '
                  f'{secs:.3f} sec/batch)')
      writer.add_scalar('losses/total_loss', loss, step)
      writer.add_scalar('learning_rate', learning_rate(step, flags.batch_size), step)
    if rank == 0 and (run.step % epoch == 0 or run.step == flags.max_steps):
      save(flags.model, step=run.step, network=run.network.state_dict(),
           averages=run.averages.state_dict())
      for name, value in run.network.named_parameters():
        writer.add_histogram(name.replace('.', '/'), value, run.step)
      writer.flush()


def evaluate(flags):
  """Prints precision @ 1 on the test images."""
  from cifar10_support import console
  from cifar10_support import dataset

  run = Run(device=device_of_this_process())
  run.load(flags.model)
  network = run.network if flags.raw_weights else run.averages
  data_set = dataset.prepare(flags.data_dir, dataset.DATA_URL, NUM_CLASSES)
  data_set.check_is_like_cifar10()
  images, labels = (part.to(network.conv1.weight.device) for part in read(data_set.test_files))
  console.log(f'precision @ 1 = {precision(network, images, labels, flags.multiview):.3f}')


def convert(flags):
  """Converts a checkpoint of the graph to a new `.pt` file, or such a file to a new run."""
  from cifar10_support import checkpoints
  from cifar10_support import console
  import tensorflow.compat.v1 as tf

  source, destination = flags.paths
  if os.path.exists(destination):
    raise console.UserError(f'{destination} exists: name another place for the result.')
  # What the graph adds to a variable's name. Momentum is kept for the way back alone.
  suffixes = {'network': '', 'averages': '/ExponentialMovingAverage', 'momentum': '/Momentum'}
  network = Network().state_dict()
  keys = {(part, name): name.replace('.weight', '/weights').replace('.bias', '/biases') + suffix
          for part, suffix in suffixes.items() for name in network}
  hwio, oihw = (2, 3, 1, 0), (3, 2, 0, 1)  # The axes of a filter there and here.

  if destination.endswith('.pt'):
    found = checkpoints.latest_intact(source) or checkpoints.read(source)
    checkpoints.check_fits(found, {keys['network', name]: tf.TensorSpec(
        transposed(value, hwio).shape) for name, value in network.items()})
    state, reader = {'step': found.step or 0}, tf.train.load_checkpoint(found.path)
    for (part, name), key in keys.items():
      if key in found.contents:
        value = torch.from_numpy(reader.get_tensor(key)).float()
        state.setdefault(part, {})[name] = transposed(value, oihw).contiguous()
    if 'averages' not in state:
      raise console.UserError(f'{found.path} has no moving averages.')
    save(destination, **state)
  else:
    state = Run().load(source)
    values = {key: transposed(state[part][name], hwio).numpy()
              for (part, name), key in keys.items() if name in state.get(part, {})}
    values['global_step'] = np.int64(state['step'])
    name = f"model.ckpt-{state['step']}"
    os.makedirs(destination)
    values = dict(sorted(values.items()))  # As a Saver does it, to the byte.
    with tf.Graph().as_default(), tf.Session() as session:
      session.run(tf.raw_ops.SaveV2(
          prefix=os.path.join(destination, name), tensor_names=list(values),
          shape_and_slices=[''] * len(values), tensors=list(values.values())))
    tf.train.update_checkpoint_state(os.path.abspath(destination), name)
  print(f'{source} is in {destination} now.')


def transposed(value, axes):
  """Returns a view: a filter has these axes then, a matrix is transposed, biases are as before."""
  return value.permute(axes) if value.ndim == 4 else value.t()


def main(argv=None):
  """Runs a command; returns the exit status."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0], allow_abbrev=False)
  parser.add_argument('command', choices=['train', 'evaluate', 'convert'])
  parser.add_argument('paths', nargs='*', help='for convert: what to convert, and to what')
  parser.add_argument('--data_dir', default='cifar10/data', help='folder of the data set')
  parser.add_argument('--model', default='cifar10/torch/model.pt', help='file to train or evaluate')
  parser.add_argument('--batch_size', type=int, default=128, help='images in a batch')
  parser.add_argument('--max_steps', type=int, default=100000, help='steps to train in all')
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
