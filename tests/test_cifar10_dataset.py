import errno
import fcntl
import functools
import gzip
import hashlib
import http.server
import io
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time

import hypothesis
from hypothesis import strategies
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10_dataset
from cifar10_console import UserError
import cifar10_input
from conftest import ROOT
from conftest import wait_until
import numpy_network
import warm_process

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


def test_images_are_read_by_their_place_in_the_data_set(small_data_dir):
  folder = os.path.join(small_data_dir, BIN)
  indices = [499, 0, 99, 100, 250]
  expected = np.concatenate([numpy_network.read(path)[0]
                             for path in cifar10_dataset.files(folder, 'train_eval')])[indices]
  np.testing.assert_array_equal(
      cifar10_dataset.read_images(folder, 'train_eval', indices), expected)


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


def _cifar100(path):
  with open(path, 'wb') as records:
    records.write(10 * (b'\x13\x07' + bytes(3072)))


def _text(size):
  def write(path):
    with open(path, 'w') as text:
      text.write((size * 'All work and no play\n')[:size])
  return write


def _pipe(path):
  os.remove(path)
  os.mkfifo(path)


def _no_such_link(path):
  os.remove(path)
  os.symlink('nowhere', path)


@pytest.mark.parametrize('damage, sentence', [
    (_remove, 'data_batch_2.bin is missing'),
    (_make_directory, 'data_batch_2.bin is not a file'),
    (_truncate(0), 'data_batch_2.bin is empty'),
    (_truncate(5 * 3073 + 1), 'data_batch_2.bin has 15366 bytes, which is no multiple of .* 3073'),
    (_wrong_label, 'data_batch_2.bin has label 11 in record 3, above 9'),
    (_cifar100, 'data_batch_2.bin has records of 3074 bytes, which are CIFAR-100'),
    (_text(1000), 'data_batch_2.bin is a text file'),
    (_text(3073), 'data_batch_2.bin is a text file'),
    (_pipe, 'data_batch_2.bin is not a file'),
    (_no_such_link, 'data_batch_2.bin is missing'),
])
def test_damaged_file_is_named(damaged, damage, sentence):
  damage(damaged / 'data_batch_2.bin')
  with pytest.raises(UserError, match=sentence):
    cifar10_dataset.files(str(damaged), 'train_eval')
  assert cifar10_dataset.files(str(damaged), 'test')


def test_wrong_label_is_found_in_the_last_of_10000_records(data_dir, tmp_path):
  with open(os.path.join(data_dir, BIN, 'test_batch.bin'), 'rb') as records:
    contents = bytearray(records.read())
  contents[9999 * 3073] = 255
  (tmp_path / 'test_batch.bin').write_bytes(contents)
  with pytest.raises(UserError, match='test_batch.bin has label 255 in record 9999, above 9'):
    cifar10_dataset.files(str(tmp_path), 'test')


@pytest.mark.parametrize('name, function', [
    ('data_batch_2.bin', lambda folder: cifar10_dataset.files(folder, 'train_eval')),
    ('batches.meta.txt', cifar10_dataset.classes)])
def test_unreadable_file_is_named(name, function, damaged, monkeypatch):
  def denied(path, *args, **kwargs):
    if path.endswith(name):
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return open(path, *args, **kwargs)

  # Taking the permission away would not do: root reads all the same.
  monkeypatch.setattr(cifar10_dataset, 'open', denied, raising=False)
  with pytest.raises(UserError, match=name + ' cannot be read .Permission denied.: make it'):
    function(str(damaged))


def _sparse(folder, counts):
  """Makes the six files with so many records each, all zero."""
  folder.mkdir()
  for name, count in zip(cifar10_dataset.TRAIN_FILES + [cifar10_dataset.TEST_FILE], counts):
    with open(folder / name, 'wb') as records:
      records.truncate(count * 3073)


@pytest.mark.parametrize('names', [
    cifar10_dataset.CLASSES, cifar10_dataset.SYNTHETIC_CLASSES, None])
def test_half_a_file_of_whole_records_is_noticed(names, tmp_path):
  _sparse(tmp_path / BIN, [10000, 10000, 10000, 5000, 10000, 9999])
  if names:
    (tmp_path / BIN / 'batches.meta.txt').write_text('\n'.join(names))
  for part, sentence in [('train_eval', 'data_batch_4.bin has 5000 records, not 10000'),
                         ('test', 'test_batch.bin has 9999 records, not 10000')]:
    with pytest.raises(UserError, match=sentence):
      cifar10_dataset.files(str(tmp_path / BIN), part)


@pytest.mark.parametrize('counts, names', [
    ([10000, 10000, 10000, 10000, 10000, 26032], '0123456789'),
    ([14652, 14652, 14651, 14651, 14651, 26032], cifar10_dataset.CLASSES),
    ([100, 100, 100, 100, 70, 10], cifar10_dataset.CLASSES)])
def test_other_data_may_come_in_files_of_any_length(counts, names, tmp_path):
  _sparse(tmp_path / BIN, counts)
  (tmp_path / BIN / 'batches.meta.txt').write_text('\n'.join(names))
  assert len(cifar10_dataset.files(str(tmp_path / BIN), 'train_eval')) == 5
  assert len(cifar10_dataset.files(str(tmp_path / BIN), 'test')) == 1


@pytest.mark.parametrize('name', ['data_batch_1.bin', 'data_batch_5.bin', 'test_batch.bin'])
def test_proof_of_the_whole_set_is_one_of_every_file(damaged, name):
  cifar10_dataset.verify(str(damaged))
  _wrong_label(damaged / name)
  with pytest.raises(UserError, match=name + ' has label 11 in record 3, above 9'):
    cifar10_dataset.verify(str(damaged))


def test_proof_takes_well_under_a_second(data_dir):
  start = time.process_time()
  cifar10_dataset.verify(os.path.join(data_dir, BIN))
  assert time.process_time() - start < 0.5


@pytest.fixture
def believe(monkeypatch):
  """Lets an archive of 100 records a file pass for the official one."""
  sizes = {name: 100 * 3073 for name in cifar10_dataset.ARCHIVE_SIZES if name.endswith('.bin')}
  sizes.update({'batches.meta.txt': 114, 'readme.html': 4})
  monkeypatch.setattr(cifar10_dataset, 'ARCHIVE_SIZES', sizes)

  def start(archive):
    monkeypatch.setattr(cifar10_dataset, 'ARCHIVE_SHA256', hashlib.sha256(archive).hexdigest())

  return start


def _pack(members):
  """Returns the bytes of an archive of (TarInfo, contents)."""
  out = io.BytesIO()
  with tarfile.open(fileobj=out, mode='w:gz', compresslevel=1) as tar:
    for member, contents in members:
      member.size = len(contents)
      tar.addfile(member, io.BytesIO(contents))
  return out.getvalue()


@pytest.fixture
def members(small_data_dir):
  """What makes an archive like the official one, see `_pack`."""
  folder = tarfile.TarInfo(BIN)
  folder.type = tarfile.DIRTYPE
  result = [(folder, b'')]
  for name in sorted(os.listdir(os.path.join(small_data_dir, BIN))):
    with open(os.path.join(small_data_dir, BIN, name), 'rb') as contents:
      result.append((tarfile.TarInfo(BIN + '/' + name), contents.read()))
  return result + [(tarfile.TarInfo(BIN + '/readme.html'), b'read')]


@pytest.fixture
def archive(members, believe):
  """The bytes of an archive like the official one, and taken for it."""
  result = _pack(members)
  believe(result)
  return result


@pytest.fixture
def serve():
  """Starts servers on loopback that answer GET by a function of the handler; returns the URL."""
  servers = []

  def start(answer):
    class Handler(http.server.BaseHTTPRequestHandler):
      def do_GET(self):
        try:
          answer(self)
        except ConnectionError:
          pass  # The other side had enough.

      def log_message(self, *args):
        pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.daemon_threads = True
    servers.append(server)
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    return 'http://127.0.0.1:%d/cifar-10-binary.tar.gz' % server.server_port

  yield start
  for server in servers:
    server.shutdown()
    server.socket.close()


def _send(body, length=None, status=200):
  """Returns an answer that promises `length` bytes, or all of `body`."""
  def answer(handler):
    handler.send_response(status)
    handler.send_header('Content-Length', str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)
  return answer


def _redirect(url):
  def answer(handler):
    handler.send_response(302)
    handler.send_header('Location', url or handler.path)
    handler.end_headers()
  return answer


def _send_half_and_hang(body, hangs=None):
  def answer(handler):
    _send(body[:len(body) // 2], length=len(body))(handler)
    if hangs:
      hangs.set()
    time.sleep(60)
  return answer


def _send_for_ever(handler):
  handler.send_response(200)
  handler.end_headers()
  while True:
    handler.wfile.write(bytes(1 << 20))


def _assert_complete(folder, members):
  assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
      os.path.basename(member.name): contents for member, contents in members if contents}


def test_official_archive_has_six_files_of_records_and_two_of_text():
  assert cifar10_dataset.ARCHIVE_SIZES == {
      'data_batch_1.bin': 30730000, 'data_batch_2.bin': 30730000, 'data_batch_3.bin': 30730000,
      'data_batch_4.bin': 30730000, 'data_batch_5.bin': 30730000, 'test_batch.bin': 30730000,
      'batches.meta.txt': 61, 'readme.html': 88}


@pytest.mark.parametrize('way', ['server', 'redirect', 'file'])
def test_download_brings_the_files_and_leaves_nothing_else(way, archive, members, serve, tmp_path):
  (tmp_path / 'copy').write_bytes(archive)
  url = {'server': lambda: serve(_send(archive)),
         'redirect': lambda: serve(_redirect(serve(_send(archive)))),
         'file': (tmp_path / 'copy').as_uri}[way]()
  cifar10_dataset.download_and_extract(str(tmp_path / 'new'), url)
  assert os.listdir(tmp_path / 'new') == [BIN]
  _assert_complete(tmp_path / 'new' / BIN, members)


@pytest.mark.parametrize('answer, sentence', [
    (_send(b'<html>Welcome to our network</html>'), 'is not the official archive .35 bytes'),
    (_send(b''), 'is not the official archive .0 bytes'),
    (_send(b'abc', length=1000), 'failed .it ended after 3 of 1000 bytes'),
    (_send(b'', length='many'), 'failed .invalid literal'),
    (_send_for_ever, 'is not the official archive'),
    (_send_half_and_hang(b'abc'), 'failed .*timed out'),
    (_send(b'', status=404), 'HTTP Error 404: Not Found'),
    (_send(b'', status=503), 'HTTP Error 503: Service Unavailable'),
    (_redirect(None), 'infinite loop'),
    (lambda handler: handler.wfile.write(b'SSH-2.0\r\n'), 'failed .SSH-2.0'),
    (lambda handler: None, 'Remote end closed connection'),
])
def test_failed_download_is_one_sentence_and_leaves_nothing(
    answer, sentence, archive, serve, monkeypatch, tmp_path):
  monkeypatch.setattr(cifar10_dataset, '_STALLED_SECS', 0.3)
  with pytest.raises(UserError, match=sentence) as error:
    cifar10_dataset.download_and_extract(str(tmp_path), serve(answer))
  assert '--data_url' in str(error.value)
  assert '--data_dir' in str(error.value)
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('url', [
    'http://127.0.0.1:9/refused', 'http://127.0.0.1:port/', 'http://[/', 'nonsense', '',
    'file:///nowhere/copy.tar.gz', 'file:///proc/self'])
def test_without_network_the_sentence_names_the_ways_out(url, tmp_path):
  with pytest.raises(UserError, match='Fetching .* failed .*'
                     '--data_url .* --data_dir, or start with --synthetic, which needs no network'):
    cifar10_dataset.download_and_extract(str(tmp_path), url)
  assert os.listdir(tmp_path) == []


# Downloads in a process of its own what the test lets pass for the official archive.
_FETCH = '''
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import cifar10_dataset
cifar10_dataset.ARCHIVE_SIZES = %r
cifar10_dataset.ARCHIVE_SHA256 = %r
%s
cifar10_dataset.download_and_extract(sys.argv[1], sys.argv[2])
'''


def _start(data_dir, url, before=''):
  """Starts `_FETCH`, with some code before the download; returns the process."""
  code = _FETCH % (cifar10_dataset.ARCHIVE_SIZES, cifar10_dataset.ARCHIVE_SHA256, before)
  return subprocess.Popen([sys.executable, '-c', code, str(data_dir), url], cwd=ROOT,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize('number, left', [(signal.SIGINT, []), (signal.SIGKILL, ['.unfinished'])])
def test_interrupted_download_is_begun_again(number, left, archive, members, serve, tmp_path):
  hangs = threading.Event()
  process = _start(tmp_path, serve(_send_half_and_hang(archive, hangs)))
  try:
    assert hangs.wait(60)
    process.send_signal(number)
    assert process.wait(60) != 0
  finally:
    process.kill()
  assert os.listdir(tmp_path) == left
  cifar10_dataset.download_and_extract(str(tmp_path), serve(_send(archive)))
  assert os.listdir(tmp_path) == [BIN]
  _assert_complete(tmp_path / BIN, members)


def _believe_here(sizes, digest):
  cifar10_dataset.ARCHIVE_SIZES, cifar10_dataset.ARCHIVE_SHA256 = sizes, digest


def test_10_kills_at_random_moments_of_a_download_leave_nothing_to_believe(
    archive, members, serve, tmp_path):
  requested = threading.Event()

  def slowly(handler):
    requested.set()
    handler.send_response(200)
    handler.end_headers()
    for start in range(0, len(archive), len(archive) // 20):
      handler.wfile.write(archive[start:start + len(archive) // 20])
      time.sleep(0.03)

  home, data = tmp_path / 'home', tmp_path / 'data'
  home.mkdir()
  data.mkdir()
  url, moments = serve(slowly), random.Random(0)

  def start():
    # The script itself, but for what it takes for the official archive.
    return warm_process.WarmProcess(
        home, 'cifar10_train.py', ['--data_dir=%s' % data, '--data_url=' + url, '--max_steps=2',
                                   '--batch_size=4'],
        before=functools.partial(_believe_here, cifar10_dataset.ARCHIVE_SIZES,
                                 cifar10_dataset.ARCHIVE_SHA256))

  left = []
  for _ in range(10):
    requested.clear()
    process = start()
    wait_until(requested.is_set, process.alive)
    time.sleep(moments.uniform(0, 1.0))
    process.kill()
    assert process.err == ''
    left.append(os.listdir(data))
    assert left[-1] in (['.unfinished'], [BIN])
    if (data / BIN).exists():
      _assert_complete(data / BIN, members)
      shutil.rmtree(data / BIN)
  # Some of the moments were in the middle of it.
  assert ['.unfinished'] in left
  process = start()
  assert process.wait() == 0, process.err
  assert os.listdir(data) == [BIN]
  _assert_complete(data / BIN, members)


@pytest.mark.parametrize('function', ['shutil.copyfileobj', 'os.remove', 'os.replace'])
def test_killed_extraction_is_done_again(function, archive, members, serve, tmp_path):
  url = serve(_send(archive))
  process = _start(tmp_path, url, 'cifar10_dataset.%s = lambda *args: os.kill(os.getpid(), 9)'
                   % function)
  assert process.wait(60) == -signal.SIGKILL
  assert os.listdir(tmp_path) == ['.unfinished']
  assert cifar10_dataset.locate(str(tmp_path)) is None
  cifar10_dataset.download_and_extract(str(tmp_path), url)
  assert os.listdir(tmp_path) == [BIN]
  _assert_complete(tmp_path / BIN, members)


def test_two_downloads_at_once_make_one_good_copy(archive, members, serve, tmp_path):
  requests = []

  def slowly(handler):
    requests.append(handler.path)
    time.sleep(0.5)
    _send(archive)(handler)

  url = serve(slowly)
  processes = [_start(tmp_path, url) for _ in range(2)]
  assert [process.wait(60) for process in processes] == [0, 0]
  assert len(requests) == 1
  assert os.listdir(tmp_path) == [BIN]
  _assert_complete(tmp_path / BIN, members)


def _member(name, **attributes):
  member = tarfile.TarInfo(name)
  for key, value in attributes.items():
    setattr(member, key, value)
  return member


@pytest.mark.parametrize('name, attributes, contents', [
    ('/tmp/absolute', {}, b'x'),
    (BIN + '/../../above', {}, b'x'),
    ('../' + BIN + '/readme.html', {}, b'x'),
    ('readme.html', {}, b'read'),
    (BIN + '/readme.html', dict(type=tarfile.SYMTYPE, linkname='/etc/passwd'), b''),
    (BIN + '/readme.html', dict(type=tarfile.LNKTYPE, linkname='/etc/passwd'), b''),
    (BIN + '/readme.html', dict(type=tarfile.CHRTYPE), b''),
    (BIN + '/readme.html', dict(type=tarfile.BLKTYPE), b''),
    (BIN + '/readme.html', dict(type=tarfile.FIFOTYPE), b''),
    (BIN + '/readme.html', dict(type=tarfile.DIRTYPE), b''),
    (BIN, dict(type=tarfile.SYMTYPE, linkname='/tmp'), b''),
    (BIN + '/ninth', {}, b'x'),
    (BIN + '/' + 200 * 'long', {}, b'x'),
    (BIN + '/test_batch.bin', {}, bytes(307300)),
])
def test_archive_with_anything_else_is_refused(
    name, attributes, contents, members, believe, serve, tmp_path):
  refused = _pack(members[:-1] + [(_member(name, **attributes), contents)])
  believe(refused)
  with pytest.raises(UserError, match='The archive is not that of the data set .* none of its'):
    cifar10_dataset.download_and_extract(str(tmp_path / 'new'), serve(_send(refused)))
  assert os.listdir(tmp_path) == ['new']
  assert os.listdir(tmp_path / 'new') == []


def test_file_that_unpacks_to_gigabytes_is_refused_at_its_header(
    believe, serve, monkeypatch, tmp_path):
  member = _member(BIN + '/readme.html', size=2 << 30)
  bomb = gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))
  believe(bomb)
  monkeypatch.setattr(cifar10_dataset.shutil, 'copyfileobj', None)
  with pytest.raises(UserError, match='readme.html has 2147483648 bytes, not 4'):
    cifar10_dataset.download_and_extract(str(tmp_path), serve(_send(bomb)))
  assert os.listdir(tmp_path) == []


def test_archive_with_less_is_refused(members, believe, serve, tmp_path):
  for missing in range(1, len(members)):
    less = _pack(members[:missing] + members[missing + 1:])
    believe(less)
    with pytest.raises(UserError, match='%s is missing' % members[missing][0].name):
      cifar10_dataset.download_and_extract(str(tmp_path), serve(_send(less)))
    assert os.listdir(tmp_path) == []


def _cut_in_the_last_file(archive):
  tar = gzip.decompress(archive)
  return gzip.compress(tar[:tar.rindex(b'read') + 2])


@pytest.mark.parametrize('damage', [
    lambda archive: b'<html>',
    lambda archive: archive[:len(archive) // 2],
    lambda archive: gzip.compress(archive)[:10] + b'\xff',
    _cut_in_the_last_file,
    lambda archive: gzip.compress(b'x' + gzip.decompress(archive)),
])
def test_damaged_archive_is_refused(damage, archive, believe, tmp_path):
  damaged = damage(archive)
  believe(damaged)
  (tmp_path / 'archive').write_bytes(damaged)
  with pytest.raises(UserError, match='The archive is not that of the data set '):
    cifar10_dataset.download_and_extract(str(tmp_path / 'new'), (tmp_path / 'archive').as_uri())
  assert os.listdir(tmp_path / 'new') == []


def test_archive_with_dates_in_extensions_will_do(small_data_dir, believe, serve, tmp_path):
  # As tarfile writes it by itself.
  (tmp_path / 'readme.html').write_text('read')
  out = io.BytesIO()
  with tarfile.open(fileobj=out, mode='w:gz', compresslevel=1) as tar:
    tar.add(os.path.join(small_data_dir, BIN), BIN)
    tar.add(tmp_path / 'readme.html', BIN + '/readme.html')
  assert b'mtime=' in gzip.decompress(out.getvalue())
  believe(out.getvalue())
  cifar10_dataset.download_and_extract(str(tmp_path / 'new'), serve(_send(out.getvalue())))
  assert len(os.listdir(tmp_path / 'new' / BIN)) == 8


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
      wait_until(lambda: 'waiting' in capsys.readouterr().out, second.is_alive)
    drawn.append(len(labels))
    return records(labels, random)

  monkeypatch.setattr(cifar10_dataset, '_synthetic_records', and_another)
  cifar10_dataset.write_synthetic(str(tmp_path), records_per_file=10)
  second.join(60)
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

  monkeypatch.setattr(fcntl, 'flock', no_locks)
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
    monkeypatch.setattr(cifar10_dataset, '_STALLED_SECS', 0.2)
    start = time.monotonic()
    with pytest.raises(UserError, match='Fetching http.* failed .*timed out'):
      cifar10_dataset.download_and_extract(
          str(tmp_path), 'http://127.0.0.1:%d/cifar-10-binary.tar.gz' % silent.getsockname()[1])
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


def _fuzz(examples):
  return hypothesis.settings(max_examples=examples, deadline=None, derandomize=True)


_records = strategies.lists(strategies.tuples(strategies.integers(0, 11),
                                              strategies.integers(0, 255)), max_size=5).map(
    lambda records: b''.join(bytes([label] + 3072 * [value]) for label, value in records))
_good_records = strategies.binary(min_size=1, max_size=9).map(
    lambda values: b''.join(bytes([value % 10] + 3072 * [value]) for value in values))


@_fuzz(100)
@hypothesis.given(contents=strategies.one_of(
    strategies.binary(), _records, _good_records,
    strategies.tuples(_records, strategies.binary(max_size=3)).map(b''.join)))
def test_any_file_is_read_whole_or_refused(contents, run_graph, tmp_path_factory):
  folder = tmp_path_factory.mktemp('fuzz')
  (folder / 'test_batch.bin').write_bytes(contents)
  labels = list(contents[::3073])
  if contents and len(contents) % 3073 == 0 and max(labels) < 10:
    with tf.Graph().as_default():
      _, read = cifar10_input.inputs('test', str(folder), batch_size=16)
      assert run_graph(read)[0].tolist() == labels
  else:
    with pytest.raises(UserError, match='test_batch.bin '):
      cifar10_dataset.files(str(folder), 'test')


_edits = strategies.lists(strategies.tuples(
    strategies.integers(0, 1 << 14), strategies.integers(0, 12), strategies.binary(max_size=12)),
    max_size=3)


def _edited(contents, edits):
  """Replaces a few bytes by others, perhaps more or less of them."""
  for start, count, replacement in edits:
    start %= len(contents) + 1
    contents = contents[:start] + replacement + contents[start + count:]
  return contents


def _gzip(contents):
  return gzip.compress(contents, mtime=0)  # With the time, each run would edit other bytes.


_FUZZ_SIZES = {name: 2 * i for i, name in enumerate(cifar10_dataset.ARCHIVE_SIZES)}
_NAMES = [BIN + '/' + name for name in _FUZZ_SIZES]


@strategies.composite
def _tars(draw):
  """Draws the bytes of a tar file that is good but for some edits to its headers."""
  names = draw(strategies.one_of(strategies.just(_NAMES), strategies.permutations(_NAMES)))
  out = b''
  for name in [BIN] + names:
    size = _FUZZ_SIZES.get(os.path.basename(name), 0)
    header = _member(name, size=size, type=b'5' if name == BIN else b'0').tobuf()
    edits = draw(strategies.one_of(strategies.just([]), _header_edits))
    for start, replacement in edits:
      header = (header[:start] + replacement + header[start + len(replacement):])[:512]
    # The right checksum, or else no edit would be looked at.
    blank = header[:148] + 8 * b' ' + header[156:]
    out += header[:148] + b'%06o\0 ' % sum(blank) + header[156:]
    out += bytes(range(size)) + bytes(-size % 512)
  return out + bytes(1024)


# Name, size, type, name of a link, prefix.
_header_edits = strategies.lists(strategies.one_of(
    strategies.tuples(strategies.sampled_from([0, 20, 124, 130, 156, 157, 345]),
                      strategies.binary(max_size=12)),
    strategies.tuples(strategies.just(156), strategies.sampled_from(
        [bytes([byte]) for byte in b'\0001234567xgLKSXNVDM'])),
    strategies.tuples(strategies.just(124), strategies.sampled_from(
        [b'\xff' * 12, b'\x80' + bytes(7) + b'\xff' * 4, b'77777777777\0', b'-1\0']))),
    max_size=2)


@_fuzz(400)
@hypothesis.given(archive=strategies.one_of(
    strategies.binary(),
    strategies.binary().map(_gzip),
    _tars().map(_gzip),
    strategies.tuples(_tars(), _edits).map(lambda drawn: _gzip(_edited(*drawn))),
    strategies.tuples(_tars().map(_gzip), _edits).map(lambda drawn: _edited(*drawn))))
def test_any_archive_is_unpacked_whole_or_refused(archive, tmp_path_factory):
  folder = tmp_path_factory.mktemp('fuzz')
  (folder / 'archive').write_bytes(archive)
  with pytest.MonkeyPatch.context() as monkeypatch:
    monkeypatch.setattr(cifar10_dataset, 'ARCHIVE_SIZES', _FUZZ_SIZES)
    monkeypatch.setattr(cifar10_dataset, 'ARCHIVE_SHA256', hashlib.sha256(archive).hexdigest())
    try:
      cifar10_dataset.download_and_extract(str(folder / 'data'), (folder / 'archive').as_uri())
    except UserError:
      hypothesis.event('refused')
      assert os.listdir(folder / 'data') == []
    else:
      hypothesis.event('unpacked')
      extracted = (folder / 'data' / BIN).iterdir()
      assert {path.name: path.stat().st_size for path in extracted} == _FUZZ_SIZES
  assert sorted(os.listdir(folder)) == ['archive', 'data']
