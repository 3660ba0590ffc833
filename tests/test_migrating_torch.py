"""docs/migrating.md in PyTorch: its snippets run beside the graph's, and its traps are real."""

import copy
import io
import math
import os
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest
import tensorflow.compat.v1 as tf

import cifar10
from conftest import TRAINED
from migrating_page import IMAGES, KERNEL, LABELS, linear_graph, snippets

torch = pytest.importorskip('torch')

from exercises import torch_cifar10  # noqa: E402
from torch import distributed  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.optim import swa_utils  # noqa: E402
from torch.utils import data  # noqa: E402
from torch.utils import tensorboard  # noqa: E402


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  torch.manual_seed(0)
  return tmp_path


def linear(**more):
  """What a PyTorch program has before the snippet: `linear_graph` without its weight decay."""
  model = nn.Linear(4, 3)
  with torch.no_grad():
    model.weight.copy_(torch.from_numpy(KERNEL.T.copy()))
    model.bias.zero_()
  return {'torch': torch, 'nn': nn, 'F': F, 'np': np, 'os': os, 'io': io, 'tf': tf, 'Image': Image,
          'tensorboard': tensorboard, 'model': model, 'images': torch.from_numpy(IMAGES.copy()),
          'labels': torch.from_numpy(LABELS), 'weights': torch.from_numpy(KERNEL),
          'optimizer': torch.optim.SGD(model.parameters(), 0.1), **more}


def decayed(names, **more):
  """Returns an optimizer whose weight decay is the loss of `linear_graph`."""
  weight, bias = names['model'].parameters()
  return torch.optim.SGD([{'params': [weight], 'weight_decay': 0.1}, {'params': [bias]}], 0.1,
                         **more)


def cross_entropy(names):
  return F.cross_entropy(names['model'](names['images']), names['labels'])


def assert_trained(names, expected, rtol=1e-4):
  """Compares the model with the graph's weights and biases."""
  weight, bias = (value.detach().numpy() for value in names['model'].parameters())
  np.testing.assert_allclose(weight.T, expected[0], rtol=rtol, atol=1e-6)
  np.testing.assert_allclose(bias, expected[1], rtol=rtol, atol=1e-6)


def nchw(images):
  return torch.from_numpy(np.ascontiguousarray(np.transpose(images, [0, 3, 1, 2])))


def nhwc(images):
  return images.detach().numpy().transpose(0, 2, 3, 1)


def evaluated(tensor):
  with tf.Session() as session:
    return session.run(tensor)


# The idioms of this program. That the three programs agree, tests/test_torch_cifar10.py tests.


def test_workers_read_everything_and_copy_generators(home):
  (home / 'loader.py').write_text('''
import numpy as np
import torch
from torch.utils import data


class Records(data.IterableDataset):

  def __iter__(self):
    return iter(range(4))


class Numbers(data.Dataset):

  def __init__(self):
    self.random = np.random.default_rng(0)

  def __len__(self):
    return 4

  def __getitem__(self, index):
    if data.get_worker_info() is None:
      asked.append(index)
    return self.random.random(), np.random.rand(), torch.rand([])


asked = []
loader = data.DataLoader(Numbers(), 2)
assert loader.num_workers == 0 and next(iter(loader)) and asked == [0, 1]  # Not ahead of time.
assert [int(x) for x in data.DataLoader(Records(), None, num_workers=0)] == [0, 1, 2, 3]
twice = [int(x) for x in data.DataLoader(Records(), None, num_workers=2)]
assert sorted(twice) == [0, 0, 1, 1, 2, 2, 3, 3]
loader = data.DataLoader(Numbers(), None, num_workers=2)
epochs = [[[float(x) for x in one] for one in loader] for _ in range(2)]
(a, b, c, d), again = epochs  # One worker takes a and c, the other b and d.
assert a[0] == b[0] and c[0] == d[0] and [x[0] for x in again] == [a[0], b[0], c[0], d[0]]
for kind in (1, 2):
  assert len({x[kind] for epoch in epochs for x in epoch}) == 8
''')
  process = subprocess.run([sys.executable, 'loader.py'], capture_output=True, text=True)
  assert process.returncode == 0, process.stderr


def test_loader_keeps_the_rest_of_an_epoch():
  loader = data.DataLoader(torch.arange(50000), 128, shuffle=True)
  sizes = [len(batch) for batch in loader]
  assert sizes == [128] * 390 + [80]
  assert len(data.DataLoader(torch.arange(50000), 128, drop_last=True)) == 390


def test_std_of_an_image_of_one_colour():
  constant = torch.full([3, 24, 24], 7.0)
  assert ((constant - constant.mean()) / constant.std()).isnan().all()
  assert torch.tensor([1.0, 3.0]).std() == pytest.approx(math.sqrt(2))  # By n it would be 1.
  expected = evaluated(tf.image.per_image_standardization(tf.fill([24, 24, 3], 7.0)))
  np.testing.assert_array_equal(expected, np.zeros([24, 24, 3]))


def test_truncated_normal():
  weights = torch.empty(200000)
  nn.init.trunc_normal_(weights, std=0.05)
  assert float(weights.std()) == pytest.approx(0.050, abs=5e-4) and float(weights.max()) > 0.15
  expected = evaluated(tf.truncated_normal([200000], stddev=0.05))
  assert expected.std() == pytest.approx(0.044, abs=5e-4)
  nn.init.trunc_normal_(weights, std=0.05, a=-0.1, b=0.1)
  assert float(weights.std()) == pytest.approx(expected.std(), rel=0.01)


def test_layers_in_a_plain_list():
  class Plain(nn.Module):

    def __init__(self, kind):
      super().__init__()
      self.layers = kind([nn.Linear(2, 2)])

  assert not list(Plain(list).parameters()) and not Plain(list).state_dict()
  assert len(list(Plain(nn.ModuleList).parameters())) == 2


@pytest.mark.parametrize('side, right, wrong', [
    (24, {'ceil_mode': True}, {'padding': 1}), (23, {'padding': 1}, {'ceil_mode': True})])
def test_same_padding_of_a_pool(side, right, wrong):
  images = np.random.RandomState(0).normal(size=[4, side, side, 64]).astype(np.float32)
  expected = evaluated(tf.nn.max_pool2d(images, 3, 2, 'SAME'))
  np.testing.assert_array_equal(nhwc(nn.MaxPool2d(3, 2, **right)(nchw(images))), expected)
  found = nhwc(nn.MaxPool2d(3, 2, **wrong)(nchw(images)))
  if side == 24:
    assert found.shape == expected.shape
    assert np.mean(found != expected) == pytest.approx(0.69, abs=0.01)
  else:
    assert found.shape == (4, 11, 11, 64)  # And not 12.


def test_same_padding_of_a_convolution():
  random = np.random.RandomState(0)
  images = random.normal(size=[4, 24, 24, 8]).astype(np.float32)
  kernel = random.normal(size=[3, 3, 8, 5]).astype(np.float32)
  expected = evaluated(tf.nn.conv2d(images, kernel, 2, 'SAME'))
  weight = torch.from_numpy(kernel).permute(3, 2, 0, 1)
  found = F.conv2d(F.pad(nchw(images), (0, 1, 0, 1)), weight, stride=2)
  np.testing.assert_allclose(nhwc(found), expected, rtol=0, atol=1e-4)
  wrong = nhwc(F.conv2d(nchw(images), weight, stride=2, padding=1))
  assert wrong.shape == expected.shape and np.abs(wrong - expected).mean() > 1
  with pytest.raises(ValueError, match='strided'):
    nn.Conv2d(8, 5, 3, stride=2, padding='same')


def test_local_response_normalization():
  values = np.random.RandomState(0).normal(0, 30, size=[4, 6, 6, 64]).astype(np.float32)
  expected = evaluated(tf.nn.lrn(values, 4, 1.0, 0.001 / 9, 0.75))

  def ratio(**arguments):
    found = nhwc(nn.LocalResponseNorm(beta=0.75, k=1.0, **arguments)(nchw(values)))
    return found / expected

  np.testing.assert_allclose(ratio(size=9, alpha=0.001), 1, rtol=1e-5)
  assert ratio(size=9, alpha=0.001 / 9).max() > 2
  assert ratio(size=4, alpha=0.001).min() < 0.8 and ratio(size=4, alpha=0.001).max() > 1.3


def test_weight_decay():
  with linear_graph() as names:
    train_op = names['optimizer'].minimize(names['loss'])
    for _ in range(3):
      names['session'].run(train_op)
    expected = names['session'].run([names['weights'], names['biases']])
  torches = linear()
  optimizer = decayed(torches)
  everything = linear()
  wrong = torch.optim.SGD(everything['model'].parameters(), 0.1, weight_decay=0.1)
  for names, one in ((torches, optimizer), (everything, wrong)):
    for _ in range(3):
      one.zero_grad()
      cross_entropy(names).backward()
      one.step()
  assert_trained(torches, expected)
  assert np.abs(everything['model'].bias.detach().numpy() - expected[1]).max() > 3e-4


@pytest.mark.parametrize('optimizer, is_the_same', [
    (lambda p, **decay: torch.optim.SGD(p, 0.1, momentum=0.9, **decay), True),
    (lambda p, **decay: torch.optim.Adam(p, 0.1, **decay), True),
    (lambda p, **decay: torch.optim.AdamW(p, 0.1, **{'weight_decay': 0, **decay}), False)])
def test_weight_decay_of_other_optimizers(optimizer, is_the_same):
  ends = []
  for in_the_loss in (True, False):
    names = linear()
    weight = names['model'].weight
    one = optimizer([weight], **({} if in_the_loss else {'weight_decay': 0.1}))
    for _ in range(3):
      one.zero_grad()
      decay = 0.1 * weight.square().sum() / 2  # 0.1 * tf.nn.l2_loss(weight).
      (cross_entropy(names) + (decay if in_the_loss else 0)).backward()
      one.step()
    ends.append(weight.detach())
  assert torch.allclose(*ends, atol=1e-5) == is_the_same


def test_gradients_add_up():
  names = linear()
  gradients = []
  for _ in range(3):
    cross_entropy(names).backward()
    gradients.append(names['model'].weight.grad.clone())
  torch.testing.assert_close(gradients[2], 3 * gradients[0])
  names['optimizer'].zero_grad()
  cross_entropy(names).backward()
  torch.testing.assert_close(names['model'].weight.grad, gradients[0])


def test_average_without_num_updates():
  value = tf.Variable(1.0)
  step = tf.Variable(0)
  with tf.control_dependencies([value.assign(tf.cast(step.assign_add(1), tf.float32))]):
    averages = tf.train.ExponentialMovingAverage(0.9999, num_updates=step)
    update = averages.apply([value])
  model = nn.Linear(1, 1, bias=False)
  averaged = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9999))
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for i in range(1, 101):
      session.run(update)
      nn.init.constant_(model.weight, i)
      averaged.update_parameters(model)
    assert session.run(averages.average(value)) == pytest.approx(89.9, abs=0.01)
  assert averaged.module.weight.item() == pytest.approx(1.49, abs=0.01)


def test_state_refers_to_the_weights(home):
  model = nn.Linear(4, 3)
  best, copied = model.state_dict(), copy.deepcopy(model.state_dict())
  nn.init.ones_(model.weight)
  assert (best['weight'] == 1).all() and not (copied['weight'] == 1).any()
  # The names that wrappers give.
  assert set(torch.compile(model).state_dict()) == {'_orig_mod.weight', '_orig_mod.bias'}
  distributed.init_process_group('gloo', init_method=(home / 'store').as_uri(), rank=0,
                                 world_size=1)
  try:
    wrapped = nn.parallel.DistributedDataParallel(model)
    assert set(wrapped.state_dict()) == {'module.weight', 'module.bias'}
  finally:
    distributed.destroy_process_group()


class Code:
  """Whoever unpickles it makes a file."""

  def __reduce__(self):
    return os.mkdir, ('made',)


def test_files_that_are_code(home):
  torch.save(nn.Linear(4, 3), 'model.pt')
  torch.save({'a': Code()}, 'code.pt')
  for path in ('model.pt', 'code.pt'):
    with pytest.raises(Exception, match='[Ww]eights'):
      torch.load(path, weights_only=True)
  assert not (home / 'made').exists()
  torch.load('code.pt', weights_only=False)
  assert (home / 'made').exists()


def test_resumed_without_the_optimizer():
  def steps(names, optimizer, count):
    for _ in range(count):
      optimizer.zero_grad()
      cross_entropy(names).backward()
      optimizer.step()
    return names['model'].weight.detach()

  whole = linear()
  expected = steps(whole, decayed(whole, momentum=0.9), 6)
  first = linear()
  optimizer = decayed(first, momentum=0.9)
  steps(first, optimizer, 3)
  for has_optimizer in (True, False):
    resumed = linear()
    resumed['model'].load_state_dict(first['model'].state_dict())
    new = decayed(resumed, momentum=0.9)
    if has_optimizer:
      new.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert torch.allclose(steps(resumed, new, 3), expected) == has_optimizer


def test_sum_of_losses_keeps_graphs():
  names, total = linear(), 0
  for _ in range(3):
    total += cross_entropy(names)
  assert total.grad_fn is not None and total.detach().grad_fn is None


def events(folder):
  return [event for name in sorted(os.listdir(folder))
          for event in tf.train.summary_iterator(os.path.join(folder, name))]


def test_folder_of_a_summary_writer(home):
  for name in ('first', 'second'):
    writer = tensorboard.SummaryWriter(comment=name)
    writer.close()
  assert len(os.listdir(home / 'runs')) == 2
  # What is drawn again is hidden from the step that `purge_step` names.
  tensorboard.SummaryWriter('one', purge_step=7).close()
  starts = [event.step for event in events('one')
            if event.session_log.status == tf.SessionLog.START]
  assert starts == [7]


def test_sampler_shuffles_every_epoch_alike():
  sampler = data.DistributedSampler(range(100), num_replicas=2, rank=0)
  first = list(sampler)
  assert list(sampler) == first
  sampler.set_epoch(1)
  assert list(sampler) != first
  other = data.DistributedSampler(range(100), num_replicas=2, rank=1)
  assert sorted(first + list(other)) == list(range(100))


# The idioms of other programs, in the page's order.


def test_own_loop():
  graph, _, ours = snippets('A session.run loop of your own')
  printed = {graph: [], ours: []}
  with linear_graph(print=lambda *values: printed[graph].append(values)) as names:
    names['train_op'] = names['optimizer'].minimize(names['loss'])
    graph(names)
    expected = names['session'].run([names['weights'], names['biases']])
  names = linear(print=lambda *values: printed[ours].append(values))
  names.update(optimizer=decayed(names), batches=[(names['images'], names['labels'])] * 5)
  decay = 0.1 * np.sum(np.square(KERNEL)) / 2
  ours(names)
  assert_trained(names, expected)
  assert [step for step, _ in printed[ours]] == [0, 1, 2]
  assert printed[ours][0][1] + decay == pytest.approx(float(printed[graph][0][1]), rel=1e-5)
  # The trap: the gradients of a second softmax are flatter.
  logits = (10 * names['model'](names['images'])).detach().requires_grad_()
  sizes = [torch.autograd.grad(F.cross_entropy(output(logits), names['labels']), logits)[0].norm()
           for output in (nn.Identity(), nn.Softmax(1))]
  assert sizes[1] < sizes[0] / 2
  both = [F.cross_entropy(logits, names['labels'], reduction=kind) for kind in ('sum', 'mean')]
  torch.testing.assert_close(both[0], 8 * both[1])


def test_summaries_by_hand():
  graph, _, ours = snippets('Summaries written by hand')
  with linear_graph(logs='graph', step=3, precision=0.5) as names:
    names['summary_op'] = tf.summary.scalar('loss', names['loss'])
    loss = names['session'].run(names['loss'])
    graph(names)
  ours(linear(logs='ours', step=3, precision=0.5, loss=loss))
  found = [{value.tag: (event.step, value.simple_value) for event in events(folder)
            for value in event.summary.value} for folder in ('graph', 'ours')]
  assert found[0] == found[1] == {'loss': (3, pytest.approx(loss)), 'precision': (3, 0.5)}
  writer = tensorboard.SummaryWriter('stepless')
  for _ in range(3):
    writer.add_scalar('loss', 1.0)
  writer.close()
  assert [event.step for event in events('stepless') if event.summary.value] == [0, 0, 0]


def test_placeholders():
  graph, _, ours = snippets('Placeholders and feed_dict')
  with linear_graph(batch=IMAGES) as names:
    graph(names)
    expected = names['result']
  names = linear(batch=IMAGES)
  ours(names)
  np.testing.assert_allclose(names['result'], expected, rtol=1e-4, atol=1e-6)
  with pytest.raises(RuntimeError, match='dtype'):
    names['y'](torch.from_numpy(IMAGES.astype(float)), 0.01)
  array = np.zeros(3, np.float32)
  shared, copied = torch.from_numpy(array), torch.tensor(array)
  array[0] = 5
  assert shared[0] == 5 and copied[0] == 0


def test_checkpoint_state():
  graph, _, ours = snippets('get_checkpoint_state')
  with linear_graph(train_dir='run') as names:
    names['saver'] = tf.train.Saver()
    graph(names)
    assert 'step' not in names
    names['saver'].save(names['session'], 'run/model.ckpt', global_step=7)
    graph(names)
    assert names['step'] == 7
  names = linear(path='a.pt')
  ours(names)
  assert 'step' not in names
  torch.save({'model': names['model'].state_dict(), 'step': 7,
              'optimizer': names['optimizer'].state_dict()}, 'a.pt')
  model = nn.Linear(4, 3)
  names = linear(path='a.pt', model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.5))
  ours(names)
  assert names['step'] == 7
  np.testing.assert_array_equal(names['model'].weight.detach().numpy().T, KERNEL)
  assert names['optimizer'].param_groups[0]['lr'] == 0.1  # The trap: 0.5 is forgotten.


def test_top_k():
  graph, _, ours = snippets('in_top_k')
  with linear_graph() as names:
    graph(names)
    expected = names['true_count']
  names = linear(logits=torch.from_numpy(IMAGES @ KERNEL))
  ours(names)
  assert names['true_count'] == expected
  assert (torch.zeros([5, 10]).argmax(1) == 0).all()  # Of those tied the first.
  with pytest.raises(RuntimeError, match='dtype'):
    names['right'].mean()
  assert names['right'].float().mean() == expected / 8


def test_partial_restore():
  graph, _, ours = snippets('A Saver of some of the variables')
  cifar10.inference(tf.zeros([1, 24, 24, 3]))
  variables = {variable.op.name: variable for variable in tf.trainable_variables()}
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    graph({'tf': tf, 'session': session, 'path': tf.train.latest_checkpoint(TRAINED)})
    expected = session.run(variables)
  assert not torch_cifar10.main(['convert', TRAINED, 'a.pt'])
  names = {'torch': torch, 'path': 'a.pt', 'model': torch_cifar10.Network()}
  head = names['model'].softmax_linear.weight.detach().clone()
  ours(names)
  assert set(names['missing']) == {'softmax_linear.weight', 'softmax_linear.bias'}
  assert torch.equal(names['model'].softmax_linear.weight, head)
  for layer in ('local3', 'local4'):
    np.testing.assert_array_equal(getattr(names['model'], layer).weight.detach().t(),
                                  expected[layer + '/weights'])
  model = nn.Linear(4, 3)
  before = model.weight.detach().clone()
  result = model.load_state_dict({'module.weight': torch.zeros(3, 4)}, strict=False)
  assert torch.equal(model.weight, before) and result.unexpected_keys == ['module.weight']
  with pytest.raises(RuntimeError, match='size mismatch'):
    model.load_state_dict({'weight': torch.zeros(5, 4)}, strict=False)


def test_is_training():
  *_, ours = snippets('is_training')
  images = np.random.RandomState(0).normal(3, 2, size=[2, 4, 4, 3]).astype(np.float32)
  ones, zeros = np.ones(3, np.float32), np.zeros(3, np.float32)
  normal, _, variance = evaluated(tf.nn.fused_batch_norm(images, ones, zeros, epsilon=0.001)[:3])
  names = linear(images=nchw(images))
  ours(names)
  norm, dropout = names['model'][:2]
  # The variance that the graph averages is unbiased, and so is this one.
  np.testing.assert_allclose(variance, images.var(axis=(0, 1, 2), ddof=1), rtol=1e-5)
  np.testing.assert_allclose(norm.running_var, 0.99 + 0.01 * variance, rtol=1e-5)
  np.testing.assert_allclose(norm.running_mean, 0.01 * images.mean(axis=(0, 1, 2)), rtol=1e-4)
  np.testing.assert_allclose(nhwc(norm(names['images'])), normal, rtol=1e-3, atol=1e-5)
  assert 0.05 < float((dropout(torch.ones(2000)) == 0).float().mean()) < 0.15
  default = nn.BatchNorm2d(3)
  assert (default.momentum, default.eps) == (0.1, 1e-5)

  def moves(model):
    before = norm.running_mean.clone()
    with torch.no_grad():
      model(names['images'])
    return not torch.equal(norm.running_mean, before)

  assert nn.Sequential(norm).training and moves(names['model'])
  for parameter in norm.parameters():
    parameter.requires_grad = False
  assert moves(names['model'])
  norm.eval()
  assert names['model'].training and not moves(names['model'])


def test_contrib():
  *_, ours = snippets('tf.contrib, slim and tf.layers')
  names = linear()
  ours(names)
  assert names['model'](torch.zeros(2, 3, 24, 24)).shape == (2, 10)
  dense, default = names['model'][4], nn.Linear(8 * 12 * 12, 10)
  initializer = tf.glorot_uniform_initializer()  # Slim's Xavier.
  expected = np.abs(evaluated(initializer([8 * 12 * 12, 10]))).max()
  assert dense.weight.abs().max().item() == pytest.approx(expected, rel=0.01)
  assert expected == pytest.approx(0.072, abs=5e-4)
  assert default.weight.abs().max().item() == pytest.approx(0.029, abs=5e-4)
  bound = math.sqrt(6 / (3 * 9 + 8 * 9))
  assert names['model'][0].weight.abs().max().item() == pytest.approx(bound, rel=0.03)
  assert not dense.bias.any() and default.bias.all()


def test_resizing():
  graph, _, ours = snippets('Resizing and decoding')
  noise = np.random.RandomState(0).randint(0, 256, [48, 48, 3]).astype(np.uint8)
  file = io.BytesIO()
  Image.fromarray(noise).save(file, 'PNG')
  names = {'tf': tf, 'data': file.getvalue()}
  graph(names)
  expected, at_32 = evaluated([names['small'], tf.image.resize_images(noise, [32, 32])])
  names = linear(data=file.getvalue())
  ours(names)
  np.testing.assert_array_equal(names['small'].permute(1, 2, 0), expected)
  floats = nchw(noise[None]).float()
  bilinear = nhwc(F.interpolate(floats, [24, 24], mode='bilinear'))[0]
  np.testing.assert_allclose(bilinear, noise.reshape([24, 2, 24, 2, 3]).mean(axis=(1, 3)), atol=0.1)
  for mode in ('nearest', 'nearest-exact', 'area', 'bilinear', 'bicubic'):
    assert np.abs(nhwc(F.interpolate(floats, [32, 32], mode=mode))[0] - at_32).mean() > 10


def test_own_schedule():
  graph, _, ours = snippets('A schedule of your own')
  with linear_graph() as names:
    names['global_step'] = tf.train.get_or_create_global_step()
    names['session'].run(names['global_step'].initializer)
    graph(names)
    expected = names['session'].run([names['weights'], names['biases']])
  names = linear()
  names['optimizer'] = decayed(names)

  def train_step():
    names['optimizer'].zero_grad()
    cross_entropy(names).backward()
    names['optimizer'].step()

  ours(dict(names, train_step=train_step))
  assert_trained(names, expected)
  optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)
  scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1 if step < 3 else 0.01)
  rates = []
  for _ in range(5):
    rates.append(optimizer.param_groups[0]['lr'])
    optimizer.step()
    scheduler.step()
  np.testing.assert_allclose(rates, [0.01] * 3 + [0.001] * 2)


def test_momentum_and_adam():
  graph, _, ours = snippets('Momentum, Adam, RMSProp')

  def in_pytorch(optimizer, rates, gradient=1.0):
    weight = optimizer.param_groups[0]['params'][0]
    for rate in rates:
      optimizer.param_groups[0]['lr'] = rate
      weight.grad = torch.tensor(gradient)
      optimizer.step()
    return float(weight.detach())

  def new():
    return nn.Parameter(torch.tensor(1.0))

  rates = [0.1, 0.1, 0.1, 0.01]
  weight, rate = tf.Variable(1.0), tf.placeholder(tf.float32, [])
  names = {'tf': tf, 'rate': rate, 'gradient': tf.constant(1.0), 'weight': weight}
  graph(names)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for value in rates:
      session.run(names['train_op'], {rate: value})
    expected = session.run(weight)
  names = {'torch': torch, 'weight': new()}
  ours(names)
  assert in_pytorch(names['optimizer'], rates) == pytest.approx(expected, rel=1e-5)
  assert expected == pytest.approx(0.405, abs=5e-4)
  nesterov = torch.optim.SGD([new()], 0.1, momentum=0.9, nesterov=True)
  assert in_pytorch(nesterov, rates) == pytest.approx(0.154, abs=5e-4)
  for kind, gradient, step in ((torch.optim.Adam, 1e-7, 9.1e-4), (torch.optim.RMSprop, 1.0, 1e-2)):
    assert 1 - in_pytorch(kind([new()]), [1e-3], gradient) == pytest.approx(step, rel=0.01)


def test_assign():
  graph, _, ours = snippets('tf.assign to weights')
  new = np.ones([4, 3], np.float32)
  with linear_graph(new=new) as names:
    graph(names)
    expected = names['session'].run(names['weights'])
  names = linear(new=new.T.copy())
  ours(names)
  np.testing.assert_array_equal(names['model'].weight.detach().numpy().T, expected)
  names['model'].weight = nn.Parameter(torch.zeros(3, 4))  # The trap.
  cross_entropy(names).backward()
  names['optimizer'].step()
  assert not names['model'].weight.any() and names['model'].bias.any()


def test_several_optimizers():
  graph, _, ours = snippets('Several optimizers')
  with linear_graph() as names:
    step = tf.train.get_or_create_global_step()
    names.update(body=[names['weights']], head=[names['biases']], global_step=step,
                 slow=tf.train.GradientDescentOptimizer(0.1),
                 fast=tf.train.GradientDescentOptimizer(1.0))
    graph(names)
    names['session'].run(step.initializer)
    names['session'].run(names['train_op'])
    expected = names['session'].run([names['weights'], names['biases']])
  names = linear()
  weight, bias = names['model'].parameters()
  decay = 0.1 * weight.square().sum() / 2
  ours(dict(names, body=[weight], head=[bias], loss=cross_entropy(names) + decay))
  assert_trained(names, expected)
  # The traps.
  names = linear()
  weight, bias = names['model'].parameters()
  slow = torch.optim.SGD([weight], 0.1)
  cross_entropy(names).backward()
  slow.step()
  assert not bias.any()
  before = bias.grad.clone()
  slow.zero_grad()
  assert weight.grad is None and torch.equal(bias.grad, before) and before.any()


def test_gradient_by_the_input():
  graph, _, ours = snippets('Gradients by the input')
  with linear_graph() as names:
    graph(names)
    expected = names['session'].run(names['gradient'])
  names = linear()
  ours(names)
  np.testing.assert_allclose(names['gradient'], expected, rtol=1e-4, atol=1e-7)
  assert names['model'].weight.grad is None
  cross_entropy(names).backward()
  torch.testing.assert_close(names['images'].grad, names['gradient'])
  assert names['model'].weight.grad.any()


def test_clipping():
  graph, _, ours = snippets('Clipped gradients')
  with linear_graph() as names:
    graph(names)
    names['session'].run(names['train_op'])
    expected = names['session'].run([names['weights'], names['biases']])
  names = linear()
  decay = 0.1 * names['model'].weight.square().sum() / 2
  ours(dict(names, loss=cross_entropy(names) + decay))
  assert_trained(names, expected)
  names = linear()  # The trap: it is decayed after the clipping.
  ours(dict(names, loss=cross_entropy(names), optimizer=decayed(names)))
  assert np.abs(names['model'].bias.detach().numpy() - expected[1]).max() > 1e-3


def test_records():
  *_, ours = snippets('TFRecord files')
  pixels = np.random.RandomState(0).randint(0, 256, [5, 2, 4, 3]).astype(np.uint8)
  with tf.io.TFRecordWriter('a.tfrecord') as writer:
    for i, image in enumerate(pixels):
      writer.write(tf.train.Example(features=tf.train.Features(feature={
          'image': tf.train.Feature(bytes_list=tf.train.BytesList(value=[image.tobytes()])),
          'label': tf.train.Feature(int64_list=tf.train.Int64List(value=[i]))})
      ).SerializeToString())
  names = linear(path='a.tfrecord')
  ours(names)
  np.testing.assert_array_equal(names['labels'], range(5))
  images = names['images'].reshape(5, 2, 4, 3).permute(0, 3, 1, 2)
  np.testing.assert_array_equal(images, pixels.transpose(0, 3, 1, 2))
  assert images.shape == (5, 3, 2, 4)
  assert not torch.equal(names['images'].reshape(5, 3, 2, 4), images)


def test_recurrent_cells():
  *_, ours = snippets('Recurrent cells')
  random = np.random.RandomState(0)
  sequences = random.normal(size=[2, 3, 4]).astype(np.float32)
  kernel, bias = (random.normal(size=size).astype(np.float32) for size in ([9, 20], [20]))
  c = h = np.zeros([2, 5])

  def sigmoid(x):
    return 1 / (1 + np.exp(-x))

  outputs = []  # Of a BasicLSTMCell.
  for t in range(3):
    i, j, f, o = np.split(np.concatenate([sequences[:, t], h], 1) @ kernel + bias, 4, axis=1)
    c = c * sigmoid(f + 1) + sigmoid(i) * np.tanh(j)
    h = np.tanh(c) * sigmoid(o)
    outputs.append(h)

  def ordered(values):
    i, j, f, o = np.split(values, 4, axis=-1)
    return np.concatenate([i, f, j, o], axis=-1)

  names = linear(kernel=kernel, bias=bias, sequences=torch.from_numpy(sequences), ordered=ordered,
                 forget=np.repeat([0, 1, 0, 0], 5))
  ours(names)
  np.testing.assert_allclose(names['outputs'].detach(), np.stack(outputs, 1), rtol=1e-4, atol=1e-5)
  swapped = nn.LSTM(4, 5)  # The traps.
  assert swapped.bias_ih_l0.all() and swapped.bias_hh_l0.all()
  swapped.load_state_dict(names['lstm'].state_dict())
  found = swapped(names['sequences'])[0]
  assert found.shape == names['outputs'].shape
  assert not torch.allclose(found, names['outputs'], atol=0.01)


def test_conditions():
  *_, ours = snippets('tf.cond')
  for value in (0.5, 5.0):
    names = linear(loss=torch.tensor(value))
    ours(names)
    assert float(names['smaller']) == 0.5
  root = torch.zeros([], requires_grad=True)
  torch.where(root > 0, root.sqrt(), root).backward()
  assert root.grad.isnan()  # Of both sides, although one was not wanted.


def test_frozen_graph():
  graph, _, ours = snippets('A frozen graph')
  with linear_graph() as names:
    graph(names)
    graph_def, expected = names['graph_def'], names['session'].run(names['logits'])
  names = linear(graph_def=graph_def, model=nn.Linear(4, 3))
  ours(names)
  np.testing.assert_allclose(names['model'](names['images']).detach(), expected, rtol=1e-4,
                             atol=1e-6)
  with pytest.raises(RuntimeError, match='size mismatch'):
    nn.Linear(4, 3).load_state_dict({'weight': torch.zeros(4, 3), 'bias': torch.zeros(3)})
  nn.Linear(3, 3).load_state_dict({'weight': torch.zeros(3, 3).t(), 'bias': torch.zeros(3)})
