"""Data sets made by processes of their own: killed at random moments, two at once."""

import hashlib
import http.server
import io
import multiprocessing
import os
import random
import shutil
import tarfile
import threading
import time

import pytest

from cifar10_support import dataset

BIN = 'cifar-10-batches-bin'

# A forked process inherits what the test lets pass for the official archive.
_context = multiprocessing.get_context('fork')


@pytest.fixture
def archive(small_data_dir, monkeypatch):
  """The bytes of an archive that is laid out like the official one, and passes for it."""
  out = io.BytesIO()
  with tarfile.open(fileobj=out, mode='w:gz', compresslevel=1) as tar:
    tar.add(os.path.join(small_data_dir, BIN), BIN)
  monkeypatch.setattr(dataset, 'ARCHIVE_SHA256', hashlib.sha256(out.getvalue()).hexdigest())
  return out.getvalue()


@pytest.fixture
def server(archive):
  """Sends the archive in half a second; lists the requests' paths in its attribute `requests`."""
  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      self.server.requests.append(self.path)
      self.send_response(200)
      self.end_headers()
      try:
        for start in range(0, len(archive), len(archive) // 20):
          self.wfile.write(archive[start:start + len(archive) // 20])
          time.sleep(0.025)
      except ConnectionError:
        pass  # The process was killed.

    def log_message(self, *args):
      pass

  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
    server.daemon_threads = True
    server.requests = []
    server.url = 'http://127.0.0.1:%d/archive' % server.server_port
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield server
    server.shutdown()


def _start(data_dir, url):
  process = _context.Process(target=dataset.prepare, args=[str(data_dir), url, 10])
  process.start()
  return process


def _assert_whole(folder, small_data_dir):
  original = os.path.join(small_data_dir, BIN)
  assert sorted(os.listdir(folder)) == sorted(os.listdir(original))
  for name in os.listdir(original):
    with open(os.path.join(original, name), 'rb') as contents:
      assert (folder / name).read_bytes() == contents.read()


def test_download_killed_at_random_moments_leaves_nothing_to_believe(
    server, small_data_dir, tmp_path):
  moments, left = random.Random(0), []
  for _ in range(5):
    requests = len(server.requests)
    process = _start(tmp_path, server.url)
    deadline = time.monotonic() + 60
    while len(server.requests) == requests:
      assert process.is_alive() and time.monotonic() < deadline
      time.sleep(0.005)
    time.sleep(moments.uniform(0, 0.7))
    process.kill()
    process.join()
    left.append(os.listdir(tmp_path))
    if dataset.locate(str(tmp_path)):
      assert left[-1] in ([BIN], ['.unfinished', BIN], [BIN, '.unfinished'])
      _assert_whole(tmp_path / BIN, small_data_dir)
      shutil.rmtree(tmp_path / BIN)
    else:
      assert left[-1] == ['.unfinished']
  assert ['.unfinished'] in left  # Some of the moments were in the middle.
  assert dataset.prepare(str(tmp_path), server.url, 10).num_train == 500
  assert os.listdir(tmp_path) == [BIN]
  _assert_whole(tmp_path / BIN, small_data_dir)


def test_two_downloads_at_once_make_one_good_copy(server, small_data_dir, tmp_path):
  processes = [_start(tmp_path, server.url) for _ in range(2)]
  for process in processes:
    process.join(60)
  assert [process.exitcode for process in processes] == [0, 0]
  assert len(server.requests) == 1
  assert os.listdir(tmp_path) == [BIN]
  _assert_whole(tmp_path / BIN, small_data_dir)
