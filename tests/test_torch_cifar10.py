"""exercises/torch_cifar10.py computes what the graph computes, and converts its checkpoints."""

import os
import re
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_input
from cifar10_support import dataset
from cifar10_support import synthetic
from conftest import TRAINED
import numpy_network

torch = pytest.importorskip('torch')

from exercises import torch_cifar10  # noqa: E402

AVERAGE = '/ExponentialMovingAverage'


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  torch.manual_seed(0)
  return tmp_path


@pytest.fixture
def trained_pt(home):
  _convert(TRAINED, 'trained.pt')
  return 'trained.pt'


def _convert(source, destination):
  assert not torch_cifar10.main(['convert', source, destination])


def _save(run, path):
  torch_cifar10.save(path, step=run.step, network=run.network.state_dict(),
                     averages=run.averages.state_dict())


def _values(checkpoint):
  """Returns all that a checkpoint of the graph holds, by its keys."""
  reader = tf.train.load_checkpoint(checkpoint)
  return {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}


def _assert_same_bytes(found, expected):
  assert found.keys() == expected.keys()
  for key, value in expected.items():
    assert (found[key].dtype, found[key].shape, found[key].tobytes()) == (
        value.dtype, value.shape, value.tobytes()), key


def _nchw(images):
  return torch.from_numpy(np.ascontiguousarray(np.transpose(images, [0, 3, 1, 2])))


def test_logits_of_the_trained_network(home, trained_pt):
  synthetic.make_data_set('data', records_per_file=1000)
  path = 'data/cifar-10-batches-bin/test_batch.bin'
  images, labels = torch_cifar10.read([path])
  pixels, expected_labels = numpy_network.read(path)
  np.testing.assert_array_equal(images, pixels.transpose(0, 3, 1, 2))
  np.testing.assert_array_equal(labels, expected_labels)

  variables = numpy_network.averages(TRAINED)
  logits = cifar10.inference(cifar10_input.central_crop(tf.constant(pixels)))
  with tf.Session() as session:
    for variable in tf.trainable_variables():
      variable.load(variables[variable.op.name], session)
    expected = session.run(logits)
  assert expected.shape == (1000, 10) and np.abs(expected).max() > 5
  run = torch_cifar10.Run()
  run.load(trained_pt)
  assert run.step == 150000
  with torch.no_grad():
    found = run.averages(torch_cifar10.central_crop(images)).numpy()
    raw = run.network(torch_cifar10.central_crop(images)).numpy()
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
  assert np.abs(raw - found).max() > 0.1


def test_five_steps_are_those_of_the_graph(home, monkeypatch):
  """The learning rate falls after the third."""
  for module in (cifar10, torch_cifar10):
    monkeypatch.setattr(module, 'NUM_EPOCHS_PER_DECAY', 3 * 32 / 50000)
  cifar10.FLAGS.batch_size = 32
  random = np.random.RandomState(0)
  batches = [(random.normal(size=[32, 24, 24, 3]).astype(np.float32), random.randint(10, size=32))
             for _ in range(5)]
  run = torch_cifar10.Run(batch_size=32)
  _save(run, 'start.pt')
  _convert('start.pt', 'start')
  losses = [float(run.train_on_batch(_nchw(images), torch.from_numpy(labels)))
            for images, labels in batches]

  global_step = tf.train.get_or_create_global_step()
  images = tf.placeholder(tf.float32, [32, 24, 24, 3])
  labels = tf.placeholder(tf.int64, [32])
  total_loss = cifar10.loss(cifar10.inference(images), labels)
  train_op = cifar10.train(total_loss, global_step)
  saver = tf.train.Saver()
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    saver.restore(session, 'start/model.ckpt-0')
    expected = [session.run([total_loss, train_op], {images: batch[0], labels: batch[1]})[0]
                for batch in batches]
    saver.save(session, 'end/model.ckpt', 5)
  np.testing.assert_allclose(losses, expected, rtol=1e-4)
  _save(run, 'end.pt')
  _convert('end.pt', 'found')
  start, found, expected = _values('start'), _values('found'), _values('end')
  assert found.keys() == expected.keys() and found['global_step'] == 5
  for key, value in expected.items():
    if key != 'global_step':
      np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-4, err_msg=key)
      # As a part of what the steps have changed.
      assert np.abs(found[key] - value).max() < 0.02 * np.abs(value - start[key]).max(), key


@pytest.mark.parametrize('constants, keys', [
    ({}, 21), ({'MOMENTUM': 0.9}, 31), ({'FREEZE': ['conv1']}, 19)])
def test_graph_checkpoint_survives_the_round_trip(constants, keys, home, monkeypatch):
  for name, value in constants.items():
    monkeypatch.setattr(cifar10, name, value)
  global_step = tf.train.get_or_create_global_step()
  images = tf.random_normal([4, 24, 24, 3])
  loss = cifar10.loss(cifar10.inference(images), tf.zeros([4], tf.int32))
  train_op = cifar10.train(loss, global_step)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for _ in range(2):
      session.run(train_op)
    tf.train.Saver().save(session, 'run/model.ckpt', 2)
  _convert('run', 'run.pt')
  _convert('run.pt', 'back')
  expected = _values('run')
  assert len(expected) == keys
  _assert_same_bytes(_values('back'), expected)
  # Evaluation of a frozen layer uses the variable.
  run = torch_cifar10.Run()
  run.load('run.pt')
  key = 'conv1/biases' + ('' if 'FREEZE' in constants else AVERAGE)
  np.testing.assert_array_equal(run.averages.conv1.bias, expected[key])


def test_network_without_averages_is_one_line(home, capsys):
  cifar10.inference(tf.zeros([1, 24, 24, 3]))
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    tf.train.Saver().save(session, 'raw/model.ckpt', 7)
  assert torch_cifar10.main(['convert', 'raw', 'raw.pt']) == 1
  assert capsys.readouterr().err.count('\n') == 1 and not (home / 'raw.pt').exists()


def test_files_of_the_trained_network_survive_the_round_trip(home, trained_pt):
  _convert(trained_pt, 'back')
  for suffix in ('data-00000-of-00001', 'index'):
    name = 'model.ckpt-150000.' + suffix
    with open(os.path.join(TRAINED, name), 'rb') as expected:
      assert (home / 'back' / name).read_bytes() == expected.read()
  assert tf.train.latest_checkpoint('back').endswith('model.ckpt-150000')
  # One checkpoint of a run can be named.
  _convert('back/model.ckpt-150000', 'again.pt')
  assert (home / 'again.pt').read_bytes()[:2] == b'PK'


def test_torch_run_survives_the_round_trip(home):
  run = torch_cifar10.Run()
  for parameter in run.averages.parameters():
    torch.nn.init.normal_(parameter)
  run.step = 2 ** 40
  _save(run, 'a.pt')
  _convert('a.pt', 'graph')
  _convert('graph', 'b.pt')
  a, b = (torch.load(path, weights_only=True) for path in ('a.pt', 'b.pt'))
  assert a.keys() == b.keys() and a['step'] == b['step'] == 2 ** 40
  for part in ('network', 'averages'):
    _assert_same_bytes({name: value.numpy() for name, value in b[part].items()},
                       {name: value.numpy() for name, value in a[part].items()})


def test_initial_values():
  run = torch_cifar10.Run()
  assert sum(value.numel() for value in run.network.parameters()) == 1068298
  # A normal that is cut at two standard deviations has 0.8796 of the deviation.
  for layer, stddev, bias in [('conv1', 0.05, 0.0), ('conv2', 0.05, 0.1), ('local3', 0.04, 0.1),
                              ('local4', 0.04, 0.1), ('softmax_linear', 1 / 192, 0.0)]:
    for network in (run.network, run.averages):
      weights = getattr(network, layer).weight.detach().numpy()
      np.testing.assert_allclose(weights.std(), 0.8796 * stddev, rtol=3 / np.sqrt(weights.size))
      assert 1.9 * stddev < np.abs(weights).max() <= 2 * stddev
      np.testing.assert_array_equal(getattr(network, layer).bias.detach(), np.float32(bias))
  images = torch.randn(128, 3, 24, 24)
  loss = run.train_on_batch(images, torch.arange(128) % 10)
  assert float(loss) == pytest.approx(4.68, abs=0.05)


def test_standardization():
  constant = torch_cifar10.standardize(torch.full([1, 3, 24, 24], 77.0))
  np.testing.assert_array_equal(constant, np.zeros([1, 3, 24, 24]))
  images = np.random.RandomState(0).randint(0, 256, [8, 24, 24, 3]).astype(np.float32)
  images[0] = 100
  images[0, 0, 0, 0] = 101  # The deviation is below its least value.
  found = torch_cifar10.standardize(_nchw(images)).numpy().transpose(0, 2, 3, 1)
  with tf.Session() as session:
    expected = session.run(tf.image.per_image_standardization(images))
  np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
  assert found[0].max() == pytest.approx((1 - 1 / 1728) * np.sqrt(1728), rel=1e-5)
  np.testing.assert_allclose(found[1:].std(axis=(1, 2, 3)), 1, rtol=1e-5)  # Numpy's is biased.


def test_crops_and_flips_of_distorted_images():
  # Of a grey image standardisation cancels brightness and contrast.
  grey = np.random.RandomState(0).randint(60, 190, [32, 32, 1]).astype(np.uint8).repeat(3, axis=2)
  crops = np.stack([grey[y:y + 24, x:x + 24][:, ::step] for y in range(9) for x in range(9)
                    for step in (1, -1)]).astype(np.float64)
  crops -= crops.mean(axis=(1, 2, 3), keepdims=True)
  crops /= crops.std(axis=(1, 2, 3), keepdims=True)
  distorted = torch_cifar10.distort(_nchw(np.stack([grey] * 1500))).numpy().transpose(0, 2, 3, 1)
  assert distorted.shape == (1500, 24, 24, 3)
  # By two rows of pixels, which are different in each crop.
  errors = np.abs(distorted[:, np.newaxis, :2] - crops[:, :2]).max(axis=(2, 3, 4))
  assert errors.min(axis=1).max() < 1e-3
  counts = np.bincount(errors.argmin(axis=1), minlength=162)
  assert counts.min() > 0 and counts.max() < 30  # About 9 of each.
  np.testing.assert_allclose(counts[::2].sum(), 750, atol=100)


def test_contrast_of_distorted_images():
  # The pixels of each colour are two values apart by 20, its mean is 100 from the next one's.
  board = (np.indices([32, 32]).sum(axis=0) % 2 * 20)[..., np.newaxis]
  image = (board + [10, 110, 210]).astype(np.uint8)  # Clipped, they would not stay 20 apart.
  distorted = torch_cifar10.distort(_nchw(np.stack([image] * 2000))).numpy()
  deviations, means = distorted.std(axis=(2, 3)), distorted.mean(axis=(2, 3))
  contrasts = deviations / 10 / ((means[:, 2:] - means[:, :1]) / 200)
  np.testing.assert_allclose(contrasts, contrasts[:, :1].repeat(3, axis=1), rtol=1e-3)
  np.testing.assert_allclose(np.quantile(contrasts[:, 0], [0, 0.25, 0.5, 0.75, 1]),
                             [0.2, 0.6, 1.0, 1.4, 1.8], atol=0.08)


def test_batches_have_each_image_once_an_epoch():
  images = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1) + torch.zeros(
      [10, 3, 32, 32], dtype=torch.uint8)
  batches = torch_cifar10.distorted_inputs(images, torch.arange(10), 4)
  drawn = [next(batches) for _ in range(10)]
  assert {tuple(crops.shape) for crops, _ in drawn} == {(4, 3, 24, 24)}
  order = np.concatenate([labels for _, labels in drawn]).reshape(4, 10)
  np.testing.assert_array_equal(np.sort(order), np.stack([np.arange(10)] * 4))
  assert len({tuple(epoch) for epoch in order.tolist()}) == 4
  # A batch may be larger than the data set.
  assert len(next(torch_cifar10.distorted_inputs(images, torch.arange(10), 25))[1]) == 25


def test_ten_crops():
  pixels = np.random.RandomState(0).randint(0, 256, [3, 32, 32, 3]).astype(np.uint8)
  crops = torch.stack(torch_cifar10.ten_crops(_nchw(pixels)), 1).numpy().transpose(0, 1, 3, 4, 2)
  expected = numpy_network.ten_crops(pixels)
  for i in range(3):  # In whatever order, but the centre first.
    np.testing.assert_allclose(crops[i, 0], expected[i, 0], atol=1e-5)
    errors = np.abs(crops[i][:, np.newaxis] - expected[i]).max(axis=(2, 3, 4))
    assert sorted(errors.argmin(axis=1)) == list(range(10)) and errors.min(axis=1).max() < 1e-5


def test_precision_counts_the_right_ones():
  network = torch_cifar10.Network()
  images = torch.randint(256, [30, 3, 32, 32], dtype=torch.uint8)
  with torch.no_grad():
    truth = network(torch_cifar10.central_crop(images)).argmax(1)
  truth[:6] = (truth[:6] + 1) % 10
  assert torch_cifar10.precision(network, images, truth, batch_size=7) == 24 / 30


def test_interrupted_save_leaves_the_file_from_before(home, monkeypatch):
  torch_cifar10.save('new/a.pt', step=1)
  before = (home / 'new' / 'a.pt').read_bytes()

  def full_disk(state, path):
    with open(path, 'wb') as out:
      out.write(b'half')
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(torch, 'save', full_disk)
  with pytest.raises(OSError):
    torch_cifar10.save('new/a.pt', step=2)
  assert (home / 'new' / 'a.pt').read_bytes() == before


@pytest.mark.parametrize('arguments, named', [
    (['evaluate', '--model=missing.pt'], 'missing.pt'),
    (['evaluate', '--model=broken.pt'], 'broken.pt'),
    (['evaluate', '--model=other.pt'], 'other.pt'),
    (['convert', 'broken.pt', 'graph'], 'broken.pt'),
    (['convert', 'missing', 'new.pt'], 'missing'),
    (['convert', 'narrow', 'new.pt'], 'local3/'),
    (['convert', TRAINED, 'other.pt'], 'other.pt'),
    (['train', '--max_steps=7', '--model=done.pt'], 'done.pt')])
def test_what_does_not_fit_is_one_line(arguments, named, home, small_data_dir, capsys):
  (home / 'broken.pt').write_bytes(b'PK, and no more')
  torch.save(torch.nn.Linear(2, 3).state_dict(), 'other.pt')
  run = torch_cifar10.Run()
  run.step = 7
  _save(run, 'done.pt')
  (home / 'narrow').mkdir()
  with tf.Session() as session:
    cifar10.inference(tf.zeros([1, 20, 20, 3]))
    tf.train.ExponentialMovingAverage(0.9).apply(tf.trainable_variables())
    session.run(tf.global_variables_initializer())
    tf.train.Saver().save(session, 'narrow/model.ckpt', 0)
  before = sorted(os.listdir())
  if arguments[0] != 'convert':
    arguments = arguments + ['--data_dir=' + small_data_dir]
  assert torch_cifar10.main(arguments) == 1
  _, err = capsys.readouterr()
  assert err.count('\n') == 1 and named in err
  assert sorted(os.listdir()) == before


@pytest.mark.parametrize('arguments', [['convert', 'a'], ['train', 'a'], ['evaluate', '--model'],
                                       ['train', '--batch_size=0']])
def test_wrong_arguments(arguments, capsys):
  with pytest.raises(SystemExit) as ended:
    torch_cifar10.main(arguments)
  assert ended.value.code == 2


def test_copied_file_needs_only_pytorch(home, trained_pt, labelled_data_dir):
  """The snippet of its docstring, in a folder of its own and without TensorFlow."""
  shutil.copy(torch_cifar10.__file__, 'torch_cifar10.py')
  shutil.copy(os.path.join(labelled_data_dir, dataset.FOLDER, dataset.TEST_FILE), '.')
  os.rename(trained_pt, 'a.pt')
  snippet = re.search('  import torch, .*', torch_cifar10.__doc__, re.DOTALL).group()
  script = '\n'.join([
      'import sys', 'for name in ("tensorflow", "tensorboard", "cifar10_support", "cifar10"):',
      '  sys.modules[name] = None', textwrap.dedent(snippet), 'torch.save(logits, "logits.pt")'])
  process = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True,
                           env={**os.environ, 'PYTHONPATH': ''})
  assert (process.returncode, process.stderr, process.stdout) == (0, '', '0.8\n')
  images, _ = numpy_network.read('test_batch.bin')
  expected = numpy_network.logits(numpy_network.central_crop(images),
                                  numpy_network.averages(TRAINED))
  np.testing.assert_allclose(torch.load('logits.pt', weights_only=True).detach(), expected,
                             rtol=0, atol=1e-3)
