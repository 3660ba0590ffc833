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

import hypothesis
from hypothesis import strategies
import numpy as np
import pytest

from cifar10_support import dataset
from cifar10_support import synthetic
from cifar10_support.console import UserError

BIN = 'cifar-10-batches-bin'
TRAIN = ['data_batch_%d.bin' % i for i in range(1, 6)]
NOWHERE = 'http://127.0.0.1:9/refused'


@pytest.fixture
def damaged(small_data_dir, tmp_path):
  """A copy of the small data set, to damage."""
  folder = tmp_path / BIN
  shutil.copytree(os.path.join(small_data_dir, BIN), folder)
  return folder


def _assert_names(error, *parts):
  """Asserts that an error is one that a script shows as a line, and that it names these."""
  assert isinstance(error.value, UserError)
  for part in parts:
    assert part in str(error.value)


def _write(folder, labels, names=None):
  """Writes a data set whose files have one black image of each label, and perhaps class names."""
  folder.mkdir(parents=True)
  for name in TRAIN + ['test_batch.bin']:
    (folder / name).write_bytes(b''.join(bytes([label]) + bytes(3072) for label in labels))
  if names:
    (folder / 'batches.meta.txt').write_bytes(names)


# What is there.

@pytest.mark.parametrize('function', [
    lambda data_dir: dataset.find(data_dir, 10),
    lambda data_dir: dataset.prepare(data_dir, NOWHERE, 10)])
def test_data_set_that_is_there_is_found_without_network(function, small_data_dir):
  found = function(small_data_dir)
  folder = os.path.join(small_data_dir, BIN)
  assert found.train_files == found.files('train_eval') == [
      os.path.join(folder, name) for name in TRAIN]
  assert found.test_files == found.files('test') == [os.path.join(folder, 'test_batch.bin')]
  assert found.num_train == found.num_examples('train_eval') == 500
  assert found.num_test == found.num_examples('test') == 100
  assert found.classes == synthetic.CLASSES


def test_data_dir_may_be_the_folder_with_the_files(small_data_dir, tmp_path):
  folder = os.path.join(small_data_dir, BIN)
  assert dataset.find(folder, 10) == dataset.find(small_data_dir, 10)
  assert dataset.locate(folder) == dataset.locate(small_data_dir) == folder
  assert dataset.locate(str(tmp_path)) is None


def test_only_the_parts_in_question_are_needed(damaged):
  for name in TRAIN:
    os.remove(damaged / name)
  found = dataset.find(str(damaged), 10, parts=['test'])
  assert (found.num_train, found.num_test, found.train_files) == (0, 100, [])
  with pytest.raises(dataset.DataError) as error:
    dataset.find(str(damaged), 10, parts=['train_eval'])
  _assert_names(error, 'data_batch_1.bin')


def test_images_are_read_by_their_place_in_the_data_set(small_data_dir):
  records = np.concatenate([np.fromfile(os.path.join(small_data_dir, BIN, name), np.uint8)
                            for name in TRAIN]).reshape(500, 3073)
  indices = [499, 0, 99, 100, 250]
  expected = records[indices, 1:].reshape(5, 3, 32, 32).transpose(0, 2, 3, 1)
  actual = dataset.find(small_data_dir, 10).read_images('train_eval', indices)
  assert actual.dtype == np.uint8
  np.testing.assert_array_equal(actual, expected)


def test_old_programs_catch_a_missing_file_as_value_error(damaged):
  os.remove(damaged / 'data_batch_3.bin')
  try:
    dataset.find(str(damaged), 10)
    raise AssertionError('found')
  except ValueError as error:
    assert 'data_batch_3.bin' in str(error)


def test_find_in_an_empty_directory_names_the_file_it_misses(tmp_path):
  with pytest.raises(ValueError) as error:
    dataset.find(str(tmp_path / 'data'), 10)
  _assert_names(error, str(tmp_path / 'data'), 'data_batch_1.bin', '--data_dir')
  assert os.listdir(tmp_path) == []


def _replace(contents):
  return lambda path: path.write_bytes(contents)


def _label(label, record):
  def damage(path):
    with open(path, 'r+b') as records:
      records.seek(record * 3073)
      records.write(bytes([label]))
  return damage


def _no_such_link(path):
  path.unlink()
  path.symlink_to('nowhere')


@pytest.mark.parametrize('damage, parts', [
    (lambda path: path.unlink(), ['missing']),
    (lambda path: path.unlink() or path.mkdir(), ['not a file']),
    (lambda path: path.unlink() or os.mkfifo(path), ['not a file']),
    (_no_such_link, ['missing']),
    (_replace(b''), ['empty']),
    (lambda path: os.truncate(path, 5 * 3073 + 1), ['15366', '3073']),
    (_replace(10 * (b'\x13\x07' + bytes(3072))), ['30740', 'CIFAR-100']),
    (_replace(b'<!DOCTYPE html>\r\n\t<title>Not Found</title>'), ['42', '3073']),
    (_label(11, record=3), ['label 11', 'record 3', '9']),
    (_label(10, record=0), ['label 10', 'record 0']),
    (_label(255, record=99), ['label 255', 'record 99']),
])
@pytest.mark.parametrize('name', ['data_batch_2.bin', 'test_batch.bin'])
def test_damaged_file_is_named(damaged, name, damage, parts):
  damage(damaged / name)
  with pytest.raises(dataset.DataError) as error:
    dataset.prepare(str(damaged), NOWHERE, 10)
  _assert_names(error, str(damaged / name), '--data_dir', *parts)


def _denied(name):
  """Returns an `open` that forbids files of that name: root could read whatever is there."""
  def denied(path, *args, **kwargs):
    if path.endswith(name):
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return open(path, *args, **kwargs)

  return denied


def test_unreadable_file_is_named(damaged, monkeypatch):
  monkeypatch.setattr(dataset, 'open', _denied('data_batch_2.bin'), raising=False)
  with pytest.raises(dataset.DataError) as error:
    dataset.find(str(damaged), 10)
  _assert_names(error, 'data_batch_2.bin', 'Permission denied')


_records = strategies.lists(strategies.tuples(strategies.integers(0, 11),
                                              strategies.integers(0, 255)), max_size=5).map(
    lambda records: b''.join(bytes([label] + 3072 * [value]) for label, value in records))


@hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
@hypothesis.given(contents=strategies.one_of(
    strategies.binary(), _records,
    strategies.tuples(_records, strategies.binary(max_size=3)).map(b''.join)))
def test_any_file_has_whole_records_or_is_refused(contents, tmp_path_factory):
  folder = tmp_path_factory.mktemp('fuzz')
  (folder / 'test_batch.bin').write_bytes(contents)
  if contents and len(contents) % 3073 == 0 and max(contents[::3073]) < 10:
    found = dataset.find(str(folder), 10, parts=['test'])
    assert found.num_test == len(contents) / 3073
  else:
    with pytest.raises(dataset.DataError) as error:
      dataset.find(str(folder), 10, parts=['test'])
    _assert_names(error, 'test_batch.bin')


# Its classes.

@pytest.mark.parametrize('num_classes', [2, 20])
def test_number_of_classes_is_the_callers(num_classes, tmp_path):
  names = ['kind %d' % i for i in range(num_classes)]
  _write(tmp_path / 'data', range(num_classes), '\n'.join(names).encode())
  assert dataset.find(str(tmp_path / 'data'), num_classes).classes == tuple(names)
  with pytest.raises(dataset.DataError) as error:
    dataset.find(str(tmp_path / 'data'), num_classes - 1)
  _assert_names(error, 'batches.meta.txt', str(num_classes), str(num_classes - 1))
  (tmp_path / 'data' / 'batches.meta.txt').unlink()
  with pytest.raises(dataset.DataError) as error:
    dataset.find(str(tmp_path / 'data'), num_classes - 1)
  _assert_names(error, 'label %d' % (num_classes - 1), 'record %d' % (num_classes - 1))


@pytest.mark.parametrize('count', [2, 9, 11])
def test_other_number_of_names_than_of_classes_is_refused(count, tmp_path):
  _write(tmp_path / 'data', [0, 1], b'name\n' * count)
  with pytest.raises(dataset.DataError) as error:
    dataset.find(str(tmp_path / 'data'), 10)
  _assert_names(error, 'batches.meta.txt', str(count), '10')


def test_without_a_file_of_names_classes_are_cifar10s_or_numbered(tmp_path):
  _write(tmp_path / 'data', [0, 1])
  assert dataset.find(str(tmp_path / 'data'), 10).classes == (
      'airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')
  assert dataset.find(str(tmp_path / 'data'), 2).classes == ('class 0', 'class 1')


@pytest.mark.parametrize('contents', [
    b'\xef\xbb\xbfh\xc3\xa9ron\r\nowl\r\n', b'h\xc3\xa9ron\n\n  owl\n\n'])
def test_byte_order_mark_and_blanks_are_not_part_of_a_name(contents, tmp_path):
  _write(tmp_path / 'data', [0, 1], contents)
  assert dataset.find(str(tmp_path / 'data'), 2).classes == ('h\u00e9ron', 'owl')


# Getting it.

def test_synthetic_set_is_generated_into_a_directory_that_did_not_exist(tmp_path, monkeypatch):
  monkeypatch.setattr(synthetic.make_data_set, '__defaults__', (10,))
  made = dataset.prepare(str(tmp_path / 'new' / 'data'), synthetic.URL, 10)
  assert (made.num_train, made.num_test, made.classes) == (50, 10, synthetic.CLASSES)
  assert os.listdir(tmp_path / 'new' / 'data') == [BIN]


@pytest.fixture
def archive(small_data_dir, monkeypatch):
  """The bytes of an archive that is laid out like the official one, and passes for it."""
  out = io.BytesIO()
  with tarfile.open(fileobj=out, mode='w:gz', compresslevel=1) as tar:
    tar.add(os.path.join(small_data_dir, BIN), BIN)
  monkeypatch.setattr(dataset, 'ARCHIVE_SHA256', hashlib.sha256(out.getvalue()).hexdigest())
  return out.getvalue()


def _assert_whole(folder, small_data_dir):
  original = os.path.join(small_data_dir, BIN)
  assert sorted(os.listdir(folder)) == sorted(os.listdir(original))
  for name in os.listdir(original):
    with open(os.path.join(original, name), 'rb') as contents:
      assert (folder / name).read_bytes() == contents.read()


@pytest.fixture
def serve():
  """Starts servers on loopback that answer GET by a function of the handler; returns the URL."""
  servers = []

  def start(answer):
    class Handler(http.server.BaseHTTPRequestHandler):
      def do_GET(self):
        answer(self)

      def log_assert_names(self, *args):
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


@pytest.mark.parametrize('way', ['server', 'redirect', 'file'])
def test_download_brings_the_files_and_leaves_nothing_else(
    way, archive, serve, small_data_dir, tmp_path):
  (tmp_path / 'copy').write_bytes(archive)
  url = {'server': lambda: serve(_send(archive)),
         'redirect': lambda: serve(_redirect(serve(_send(archive)))),
         'file': (tmp_path / 'copy').as_uri}[way]()
  made = dataset.prepare(str(tmp_path / 'new' / 'data'), url, 10)
  assert (made.num_train, made.num_test) == (500, 100)
  assert os.listdir(tmp_path / 'new' / 'data') == [BIN]
  _assert_whole(tmp_path / 'new' / 'data' / BIN, small_data_dir)


@pytest.mark.parametrize('url', [
    NOWHERE, 'http://127.0.0.1:port/', 'http://[/', 'nonsense', '', 'file:///nowhere/copy.tar.gz'])
def test_without_network_the_message_names_the_ways_out(url, tmp_path):
  with pytest.raises(dataset.DataError) as error:
    dataset.prepare(str(tmp_path), url, 10)
  _assert_names(error, url, '--data_url=file://', '--data_dir', '--synthetic')
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('answer, parts', [
    (_send(b'', length='many'), ['many']),
    (_send(b'', status=404), ['404']),
    (_redirect(None), ['302']),
    (lambda handler: handler.wfile.write(b'SSH-2.0\r\n'), ['SSH-2.0']),
    (lambda handler: None, []),
])
def test_failed_download_is_one_line_and_leaves_nothing(answer, parts, serve, tmp_path):
  url = serve(answer)
  with pytest.raises(dataset.DataError) as error:
    dataset.prepare(str(tmp_path), url, 10)
  _assert_names(error, url, '--data_url=file://', '--data_dir', '--synthetic', *parts)
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('body, length', [
    (b'<html>Welcome to our network</html>', None), (b'', None), (b'abc', 1000)])
def test_anything_but_the_official_archive_is_refused(body, length, serve, tmp_path):
  url = serve(_send(body, length))
  with pytest.raises(dataset.DataError) as error:
    dataset.prepare(str(tmp_path), url, 10)
  _assert_names(error, url, '%d bytes' % len(body), hashlib.sha256(body).hexdigest(), '--data_url')
  assert os.listdir(tmp_path) == []


def test_archive_that_cannot_be_read_is_named(tmp_path, monkeypatch):
  (tmp_path / dataset.ARCHIVE).write_bytes(b'')
  monkeypatch.setattr(dataset, 'open', _denied(dataset.ARCHIVE), raising=False)
  with pytest.raises(dataset.DataError) as error:
    dataset.prepare(str(tmp_path), NOWHERE, 10)
  _assert_names(error, str(tmp_path / dataset.ARCHIVE), 'read', 'Permission denied')
  assert os.listdir(tmp_path) == [dataset.ARCHIVE]


def test_connection_that_stalls_is_given_up(tmp_path, monkeypatch):
  assert dataset.STALLED_SECS == 30
  monkeypatch.setattr(dataset, 'STALLED_SECS', 0.2)
  with socket.create_server(('127.0.0.1', 0)) as silent:
    with pytest.raises(dataset.DataError) as error:
      dataset.prepare(str(tmp_path), 'http://127.0.0.1:%d/' % silent.getsockname()[1], 10)
  _assert_names(error, 'timed out')


def test_archive_that_was_downloaded_by_hand_is_unpacked(archive, small_data_dir, tmp_path):
  (tmp_path / 'cifar-10-binary.tar.gz').write_bytes(archive)
  assert dataset.prepare(str(tmp_path), NOWHERE, 10).num_train == 500
  _assert_whole(tmp_path / BIN, small_data_dir)
  assert (tmp_path / 'cifar-10-binary.tar.gz').read_bytes() == archive
  assert len(os.listdir(tmp_path)) == 2


def test_archive_of_the_user_that_is_not_the_official_one_is_named_and_kept(archive, tmp_path):
  path = tmp_path / 'cifar-10-binary.tar.gz'
  path.write_bytes(archive[:-1])
  with pytest.raises(dataset.DataError) as error:
    dataset.prepare(str(tmp_path), NOWHERE, 10)
  _assert_names(error, str(path), hashlib.sha256(archive[:-1]).hexdigest())
  assert os.listdir(tmp_path) == ['cifar-10-binary.tar.gz']


def test_archive_of_the_user_is_not_used_for_synthetic_images(tmp_path, monkeypatch):
  monkeypatch.setattr(synthetic.make_data_set, '__defaults__', (10,))
  (tmp_path / 'cifar-10-binary.tar.gz').write_bytes(b'no archive')
  assert dataset.prepare(str(tmp_path), synthetic.URL, 10).num_test == 10


# Making it.

def _fill(folder):
  synthetic.make_data_set(folder, records_per_file=10)


@pytest.mark.parametrize('interruption', [KeyboardInterrupt, OSError(errno.ENOSPC, 'No space')])
def test_interrupted_work_leaves_nothing(interruption, tmp_path):
  def interrupted(folder):
    _fill(folder)
    raise interruption

  with pytest.raises((KeyboardInterrupt, dataset.DataError)) as error:
    dataset.make(str(tmp_path), interrupted)
  assert os.listdir(tmp_path) == []
  if error.type is dataset.DataError:
    _assert_names(error, str(tmp_path), 'No space', '350 MB')


def test_unfinished_work_of_a_killed_process_is_cleared_away(tmp_path):
  def fill(folder):
    _fill(folder)
    # A kill at this moment would leave this.
    shutil.copytree(tmp_path / 'data', tmp_path / 'killed')

  dataset.make(str(tmp_path / 'data'), fill)
  killed = str(tmp_path / 'killed')
  assert len(os.listdir(killed)) == 1 and dataset.locate(killed) is None
  dataset.make(killed, _fill)
  assert os.listdir(killed) == [BIN]


def test_second_of_two_at_once_waits_for_the_first(tmp_path, capsys):
  second = threading.Thread(target=dataset.make, args=[str(tmp_path), None], daemon=True)

  def fill(folder):
    second.start()
    deadline = time.monotonic() + 60
    while str(tmp_path) not in capsys.readouterr().out:  # It says that it waits.
      assert second.is_alive() and time.monotonic() < deadline
      time.sleep(0.01)
    _fill(folder)

  dataset.make(str(tmp_path), fill)
  second.join(60)
  assert os.listdir(tmp_path) == [BIN]


def test_what_is_there_stays(small_data_dir, tmp_path):
  dataset.make(small_data_dir, fill=None)
  (tmp_path / BIN).mkdir()
  (tmp_path / BIN / 'notes').write_text('mine')
  with pytest.raises(dataset.DataError) as error:
    dataset.make(str(tmp_path), fill=None)
  _assert_names(error, str(tmp_path / BIN))
  assert (tmp_path / BIN / 'notes').read_text() == 'mine'


@pytest.mark.parametrize('data_dir', ['/dev/null/data', '/proc/self'])
def test_directory_that_cannot_be_written_is_one_line(data_dir):
  with pytest.raises(dataset.DataError) as error:
    dataset.prepare(data_dir, synthetic.URL, 10)
  _assert_names(error, data_dir)
