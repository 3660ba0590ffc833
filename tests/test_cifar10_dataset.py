import errno
import hashlib
import http.server
import io
import os
import shutil
import socket
import tarfile
import threading
import time

import numpy as np
import pytest

import cifar10_dataset
from cifar10_console import UserError

BIN = 'cifar-10-batches-bin'


@pytest.fixture
def damaged(small_data_dir, tmp_path):
  """A copy of the small data set, to damage."""
  folder = tmp_path / BIN
  shutil.copytree(os.path.join(small_data_dir, BIN), folder)
  return folder


def test_synthetic_set_has_the_format_and_size_of_cifar10(data_dir):
  folder = os.path.join(data_dir, BIN)
  assert sorted(os.listdir(folder)) == ['batches.meta.txt'] + [
      'data_batch_%d.bin' % i for i in range(1, 6)] + ['test_batch.bin']
  for name in os.listdir(folder):
    if name.endswith('.bin'):
      records = np.fromfile(os.path.join(folder, name), np.uint8).reshape(10000, 3073)
      assert np.bincount(records[:, 0]).tolist() == [1000] * 10


def test_synthetic_set_is_the_same_everywhere(data_dir):
  contents = open(os.path.join(data_dir, BIN, 'test_batch.bin'), 'rb').read()
  assert hashlib.sha256(contents).hexdigest() == (
      '1e0a50d557d9ccf8b5356f4b2d5a9bbb2c116320d709da6e2025c848abff7d0a')


def test_synthetic_classes_cannot_be_told_apart_by_the_nearest_mean_image(data_dir):
  def load(name):
    records = np.fromfile(os.path.join(data_dir, BIN, name), np.uint8).reshape(-1, 3073)
    return records[:, 1:].astype(np.float32), records[:, 0]
  images, labels = load('data_batch_1.bin')
  means = np.stack([images[labels == c].mean(0) for c in range(10)])
  images, labels = load('test_batch.bin')
  nearest = np.argmin((means ** 2).sum(1) - 2 * images @ means.T, axis=1)
  assert np.mean(nearest == labels) < 0.4


def test_files_come_in_the_order_of_the_data_set(small_data_dir):
  folder = os.path.join(small_data_dir, BIN)
  assert cifar10_dataset.files(folder, 'test') == [os.path.join(folder, 'test_batch.bin')]
  assert cifar10_dataset.files(folder, 'train_eval') == [
      os.path.join(folder, 'data_batch_%d.bin' % i) for i in range(1, 6)]


def test_data_set_is_found_from_its_folder_or_the_one_above(small_data_dir, tmp_path):
  folder = os.path.join(small_data_dir, BIN)
  assert cifar10_dataset.locate(small_data_dir) == folder
  assert cifar10_dataset.locate(folder) == folder
  assert cifar10_dataset.locate(str(tmp_path)) is None


def _remove(path):
  os.remove(path)


def _make_directory(path):
  os.remove(path)
  os.mkdir(path)


def _truncate(size):
  return lambda path: os.truncate(path, size)


def _wrong_label(path):
  with open(path, 'r+b') as records:
    records.seek(3 * 3073)
    records.write(b'\x0b')


@pytest.mark.parametrize('damage, sentence', [
    (_remove, 'data_batch_2.bin is missing'),
    (_make_directory, 'data_batch_2.bin is not a file'),
    (_truncate(0), 'data_batch_2.bin is empty'),
    (_truncate(5 * 3073 + 1), 'data_batch_2.bin has 15366 bytes, which is no multiple of .* 3073'),
    (_wrong_label, 'data_batch_2.bin has label 11 in record 3, above 9'),
])
def test_damaged_file_is_named(damaged, damage, sentence):
  damage(damaged / 'data_batch_2.bin')
  with pytest.raises(UserError, match=sentence):
    cifar10_dataset.files(str(damaged), 'train_eval')
  assert cifar10_dataset.files(str(damaged), 'test')


@pytest.fixture
def archive(small_data_dir):
  """The bytes of an archive like the official one."""
  out = io.BytesIO()
  with tarfile.open(fileobj=out, mode='w:gz') as tar:
    tar.add(os.path.join(small_data_dir, BIN), arcname=BIN)
  return out.getvalue()


@pytest.fixture
def serve(monkeypatch):
  """Serves `body` on loopback as the official archive, promising `length` bytes."""
  servers = []

  def start(body, length=None, status=200):
    class Handler(http.server.BaseHTTPRequestHandler):
      def do_GET(self):
        self.send_response(status)
        self.send_header('Content-Length', str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

      def log_message(self, *args):
        pass

    servers.append(http.server.HTTPServer(('127.0.0.1', 0), Handler))
    threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
    monkeypatch.setattr(cifar10_dataset, 'DATA_URL',
                        'http://127.0.0.1:%d/cifar-10-binary.tar.gz' % servers[-1].server_port)

  yield start
  for server in servers:
    server.shutdown()
    server.server_close()


def test_download_brings_the_files_and_leaves_nothing_else(
    archive, serve, monkeypatch, small_data_dir, tmp_path):
  monkeypatch.setattr(cifar10_dataset, 'ARCHIVE_SHA256', hashlib.sha256(archive).hexdigest())
  serve(archive)
  cifar10_dataset.download_and_extract(str(tmp_path / 'new'))
  assert os.listdir(tmp_path / 'new') == [BIN]
  for name in os.listdir(os.path.join(small_data_dir, BIN)):
    original = open(os.path.join(small_data_dir, BIN, name), 'rb').read()
    assert (tmp_path / 'new' / BIN / name).read_bytes() == original


@pytest.mark.parametrize('answer, sentence', [
    (dict(body=b'<html>Welcome to our network</html>'), 'is not the official archive'),
    (dict(body=b'abc', length=1000), 'is not the official archive|IncompleteRead'),
    (dict(body=b'', status=404), 'HTTP Error 404: Not Found'),
    (dict(body=b'', status=503), 'HTTP Error 503: Service Unavailable'),
])
def test_failed_download_is_one_sentence_and_leaves_nothing(serve, tmp_path, answer, sentence):
  serve(**answer)
  with pytest.raises(UserError, match=sentence):
    cifar10_dataset.download_and_extract(str(tmp_path))
  assert os.listdir(tmp_path) == []


def test_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
  drawn = []

  def interrupt(labels, random):
    drawn.append(len(labels))
    if len(drawn) == 3:
      raise KeyboardInterrupt
    return np.zeros([len(labels), 3073], np.uint8)

  monkeypatch.setattr(cifar10_dataset, '_synthetic_records', interrupt)
  with pytest.raises(KeyboardInterrupt):
    cifar10_dataset.write_synthetic(str(tmp_path), records_per_file=10)
  assert len(drawn) == 3
  assert os.listdir(tmp_path) == []


def test_unfinished_work_of_a_killed_process_is_cleared_away(tmp_path):
  (tmp_path / '.unfinished').mkdir()
  (tmp_path / '.unfinished' / 'test_batch.bin').write_text('half')
  cifar10_dataset.write_synthetic(str(tmp_path), records_per_file=10)
  assert os.listdir(tmp_path) == [BIN]


def test_second_of_two_generations_at_once_waits_for_the_first(tmp_path, monkeypatch, capsys):
  records = cifar10_dataset._synthetic_records
  second = threading.Thread(target=cifar10_dataset.write_synthetic, args=[str(tmp_path), 20])
  drawn = []

  def and_another(labels, random):
    if not drawn:
      second.start()
      while 'waiting' not in capsys.readouterr().out:
        assert second.is_alive()
    drawn.append(len(labels))
    return records(labels, random)

  monkeypatch.setattr(cifar10_dataset, '_synthetic_records', and_another)
  cifar10_dataset.write_synthetic(str(tmp_path), records_per_file=10)
  second.join()
  assert drawn == [10] * 6
  assert os.listdir(tmp_path) == [BIN]
  assert len(cifar10_dataset.files(str(tmp_path / BIN), 'train_eval')) == 5


def test_folder_in_the_way_is_named_before_anything_is_made(tmp_path, monkeypatch):
  (tmp_path / BIN).mkdir()
  monkeypatch.setattr(cifar10_dataset, '_synthetic_records', None)
  with pytest.raises(UserError, match='%s is there, but without a data set: remove it' % BIN):
    cifar10_dataset.write_synthetic(str(tmp_path))


def test_file_system_without_locks_will_do(tmp_path, monkeypatch):
  def no_locks(descriptor, operation):
    raise OSError(errno.EBADF, os.strerror(errno.EBADF))

  monkeypatch.setattr(cifar10_dataset.fcntl, 'flock', no_locks)
  cifar10_dataset.write_synthetic(str(tmp_path), records_per_file=10)
  assert os.listdir(tmp_path) == [BIN]


@pytest.mark.parametrize('data_dir', ['/dev/null/data', '/proc/self'])
def test_unwritable_folder_is_one_sentence(data_dir):
  with pytest.raises(UserError, match='Cannot make the data set in %s ' % data_dir):
    cifar10_dataset.write_synthetic(data_dir)


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
  def full(labels, random):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(cifar10_dataset, '_synthetic_records', full)
  with pytest.raises(UserError, match='No space left on device.: it takes 350 MB'):
    cifar10_dataset.write_synthetic(str(tmp_path))
  assert os.listdir(tmp_path) == []


def test_connection_that_stalls_is_given_up(tmp_path, monkeypatch):
  with socket.create_server(('127.0.0.1', 0)) as silent:
    monkeypatch.setattr(cifar10_dataset, 'DATA_URL',
                        'http://127.0.0.1:%d/cifar-10-binary.tar.gz' % silent.getsockname()[1])
    monkeypatch.setattr(cifar10_dataset, '_STALLED_SECS', 0.2)
    start = time.monotonic()
    with pytest.raises(UserError, match='Fetching http.* failed .*timed out'):
      cifar10_dataset.download_and_extract(str(tmp_path))
    assert time.monotonic() - start < 10


def test_classes_are_named_by_the_data_set(damaged):
  (damaged / 'batches.meta.txt').write_text('0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n\n')
  assert cifar10_dataset.classes(str(damaged)) == tuple('0123456789')
  (damaged / 'batches.meta.txt').write_text('one\ntwo\n')
  with pytest.raises(UserError, match='batches.meta.txt names 2 classes, not 10'):
    cifar10_dataset.classes(str(damaged))
  os.remove(damaged / 'batches.meta.txt')
  assert cifar10_dataset.classes(str(damaged)) == (
      'airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')
