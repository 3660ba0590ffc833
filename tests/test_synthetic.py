import hashlib
import os

import numpy as np

from cifar10_support import synthetic

BIN = 'cifar-10-batches-bin'

# Frozen: published runs on the synthetic images stay comparable.
SHA256 = {
    'batches.meta.txt': 'b795b4a270e406065f7c7fd1e24f39cc894b97cbc693cd7ceac0bed58de31162',
    'data_batch_1.bin': '4c25a57afbb697300563961b860f5bf9ff76a4f4743e4a6bd8f5e856007d6127',
    'data_batch_2.bin': 'dfb8e9974b179be7ea871364e7a414afd77bfa753c63f0d87c34ba454331ff4e',
    'data_batch_3.bin': '08c977da194371c6bf88a5c198c176351b7cd7204bd5e22d6fe1f8800a3bb751',
    'data_batch_4.bin': 'eaf869c545576059c3554bf6ffe623cb0a47b350e72c8636944d3244c1d1aa55',
    'data_batch_5.bin': 'aa11aa802bd3d4096d41a8c8efd58cdd8dbcbade4466c05357144a22b2ebfed8',
    'test_batch.bin': '1e0a50d557d9ccf8b5356f4b2d5a9bbb2c116320d709da6e2025c848abff7d0a',
}


def _records(data_dir, name):
  return np.fromfile(os.path.join(data_dir, BIN, name), np.uint8).reshape(-1, 3073)


def test_images_are_the_same_everywhere(data_dir):
  actual = {}
  for name in os.listdir(os.path.join(data_dir, BIN)):
    with open(os.path.join(data_dir, BIN, name), 'rb') as contents:
      actual[name] = hashlib.sha256(contents.read()).hexdigest()
  assert actual == SHA256


def test_classes_are_equally_frequent(data_dir):
  for name in SHA256:
    if name.endswith('.bin'):
      assert np.bincount(_records(data_dir, name)[:, 0]).tolist() == [1000] * 10


def test_nearest_mean_image_does_not_tell_the_class(data_dir):
  records = _records(data_dir, 'data_batch_1.bin')
  images, labels = records[:, 1:].astype(np.float32), records[:, 0]
  means = np.stack([images[labels == i].mean(0) for i in range(10)])
  records = _records(data_dir, 'test_batch.bin')
  images, labels = records[:, 1:].astype(np.float32), records[:, 0]
  nearest = np.argmin((means ** 2).sum(1) - 2 * images @ means.T, axis=1)
  assert np.mean(nearest == labels) < 0.4


def test_warm_classes_are_redder_than_cool_ones(data_dir):
  assert [name.split()[0] for name in synthetic.CLASSES] == 5 * ['warm'] + 5 * ['cool']
  records = _records(data_dir, 'test_batch.bin')
  planes = records[:, 1:].reshape(-1, 3, 32, 32)[:, :, 12:20, 12:20].mean((2, 3))
  redness = planes[:, 0] - planes[:, 2]
  assert redness[records[:, 0] < 5].mean() > 10 > -10 > redness[records[:, 0] >= 5].mean()


def test_size_and_place_are_the_callers(tmp_path):
  synthetic.make_data_set(str(tmp_path / 'new' / 'data'), records_per_file=20)
  folder = tmp_path / 'new' / 'data' / BIN
  assert sorted(os.listdir(folder)) == sorted(SHA256)
  assert (folder / 'batches.meta.txt').read_text().split('\n')[:-1] == list(synthetic.CLASSES)
  for name in SHA256:
    if name.endswith('.bin'):
      assert (folder / name).stat().st_size == 20 * 3073
