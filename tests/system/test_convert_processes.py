"""Conversions in processes of their own: killed at random moments, interrupted, two at once."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
from PIL import Image
import pytest

from conftest import contents, DATA, ROOT
from cifar10_support import dataset
import waiting

BIN = 'cifar-10-batches-bin'
WHOLE = [f'data_batch_{i}.bin' for i in range(1, 6)] + ['data_set.json', 'test_batch.bin']


def _start(home, *arguments, path=()):
  return subprocess.Popen(
      [sys.executable, os.path.join(ROOT, 'cifar10_convert.py'), *arguments], cwd=home, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      env={**os.environ, 'PYTHONPATH': os.pathsep.join([*map(str, path), ROOT])})


def _run(home, *arguments, **options):
  process = _start(home, *arguments, **options)
  out, err = process.communicate(timeout=300)
  return process.returncode, out, err


@pytest.fixture
def home(tmp_path):
  """A directory with 400 photos of one megapixel in two classes, which take a second or so."""
  (tmp_path / 'mine' / 'cat').mkdir(parents=True)
  (tmp_path / 'mine' / 'dog').mkdir()
  stream = np.random.RandomState(0)
  for i in range(10):
    small = Image.fromarray(stream.randint(0, 256, [30, 40, 3]).astype(np.uint8))
    first = tmp_path / 'mine' / ('cat', 'dog')[i % 2] / f'{i}.jpg'
    small.resize((1200, 900)).save(first)
    for j in range(40):
      os.link(first, first.with_name(f'{i}-{j}.jpg'))
  return tmp_path


def test_command_prints_a_table_and_needs_no_tensorflow(home, tmp_path):
  (tmp_path / 'stand-in' / 'tensorflow').mkdir(parents=True)
  (tmp_path / 'stand-in' / 'tensorflow' / '__init__.py').write_text('raise SystemExit("imported")')
  odd = tmp_path / 'mine' / 'cat' / 'odd.png'
  Image.new('RGB', (9, 9)).save(odd, exif=b'Exif\0\0Me*\0\x08\0\0')
  (tmp_path / 'mine' / 'cat' / 'letter.jpg').write_text('Dear cat')
  with open(os.fsencode(str(tmp_path / 'mine' / 'dog')) + b'/\xff.jpg', 'w') as out:
    out.write('Dear dog')
  status, out, err = _run(home, 'mine', '--data_dir=made', '--image_size=16', '--seed=1',
                          '--validation_fraction=0.2', path=[tmp_path / 'stand-in'])
  assert status == 0, err
  assert [line.split()[0] for line in err.splitlines()] == ['cifar10_convert.py:'] * 2
  assert 'letter.jpg' in err and '\\udcff.jpg' in err
  table = [line.split() for line in out.splitlines()[-4:]]
  assert table[0][1:] == ['train', 'validation', 'test']
  assert [int(row[1]) + int(row[2]) + int(row[3]) for row in table[1:]] == [206, 205, 411]
  description = json.loads((tmp_path / 'made' / BIN / 'data_set.json').read_text('utf-8'))
  assert description['flags'] == {'image_size': 16, 'test_fraction': 0.2, 'seed': 1,
                                  'validation_fraction': 0.2, 'labels': 'fine'}


@pytest.mark.parametrize('arguments, status, expected', [
    ([], 1, '--data_dir'), (['mine'], 1, '--data_dir'), (['mine', 'more', '--data_dir=x'], 1, ''),
    (['mine', '--data_dir=x', '--image_size=0'], 2, '--image_size'),
    (['mine', '--data_dir=x', '--test_fraction=1'], 2, '--test_fraction'),
    (['mine', '--data_dir=/dev/null/x'], 1, '/dev/null/x'), (['none', '--data_dir=x'], 1, 'none')])
def test_wrong_command_is_one_line(tmp_path, arguments, status, expected):
  for name in ('a', 'b'):
    (tmp_path / 'mine' / name).mkdir(parents=True)
    Image.new('L', (9, 9)).save(tmp_path / 'mine' / name / '1.png')
  returned, out, err = _run(tmp_path, *arguments)
  assert (returned, out) == (status, '')
  assert err.count('\n') == 1 and expected in err
  assert sorted(os.listdir(tmp_path)) == ['mine']


def test_help_is_there_in_a_moment(tmp_path):
  status, out, err = _run(tmp_path, '--help')
  assert (status, err) == (0, '')
  assert set(re.findall('^ +--([a-z_]+)', out, re.MULTILINE)) >= {
      'data_dir', 'image_size', 'test_fraction', 'validation_fraction', 'seed', 'labels'}


def _wait_until_at_work(process, made):
  pixels = made / '.unfinished' / 'pixels'
  waiting.wait_until(pixels.exists, lambda: process.poll() is None)


def test_conversion_killed_at_random_moments_leaves_nothing_to_believe(home):
  made, moments, left = home / 'made', random.Random(0), []
  for _ in range(4):
    process = _start(home, 'mine', '--data_dir=made')
    _wait_until_at_work(process, made)
    time.sleep(moments.uniform(0, 0.5))
    process.kill()
    process.communicate()
    left.append(os.listdir(made))
    assert left[-1] == ['.unfinished']
  assert _run(home, 'mine', '--data_dir=made')[0] == 0
  assert os.listdir(made) == [BIN]
  assert sorted(os.listdir(made / BIN)) == WHOLE


def test_control_c_ends_it_soon_and_leaves_nothing(home):
  process = _start(home, 'mine', '--data_dir=made')
  _wait_until_at_work(process, home / 'made')
  process.send_signal(signal.SIGINT)
  out, err = process.communicate(timeout=10)
  assert (process.returncode, out, err) == (130, '', '')
  assert os.listdir(home / 'made') == []


def test_two_conversions_at_once_make_one_data_set(home):
  processes = [_start(home, 'mine', '--data_dir=made') for _ in range(2)]
  ends = [(*process.communicate(timeout=300), process.returncode) for process in processes]
  assert sorted(status for _, _, status in ends) == [0, 1]
  [err] = [err for _, err, status in ends if status]
  assert err.count('\n') == 1 and '--data_dir' in err
  assert os.listdir(home / 'made') == [BIN]
  assert sorted(os.listdir(home / 'made' / BIN)) == WHOLE


def test_full_disk_is_one_line_and_leaves_nothing(home):
  before = contents(home / 'mine')
  process = subprocess.run(
      ['sh', '-c', f'ulimit -f 100; exec {sys.executable} {ROOT}/cifar10_convert.py mine '
                   '--data_dir=made'], cwd=home, capture_output=True, text=True, timeout=300,
      env={**os.environ, 'PYTHONPATH': ROOT})
  assert process.returncode == 1
  assert process.stderr.count('\n') == 1 and 'made' in process.stderr
  assert os.listdir(home / 'made') == []
  assert contents(home / 'mine') == before


@pytest.mark.skipif(not dataset.locate(DATA), reason='CIFAR10_DATA_DIR names no data set')
def test_all_of_cifar_10_as_png_files_comes_back(tmp_path):
  originals = {}
  for part, names in (('train', dataset.TRAIN_FILES), ('test', [dataset.TEST_FILE])):
    paths = [os.path.join(dataset.locate(DATA), name) for name in names]
    originals[part] = np.concatenate([np.fromfile(path, np.uint8) for path in paths]).reshape(
        -1, 3073)
    for label in dataset.CLASSES:
      (tmp_path / 'png' / part / label).mkdir(parents=True)
    for i, record in enumerate(originals[part]):
      Image.fromarray(record[1:].reshape(3, 32, 32).transpose(1, 2, 0)).save(
          tmp_path / 'png' / part / dataset.CLASSES[record[0]] / f'{i}.png', compress_level=0)
  status, out, err = _run(tmp_path, 'png', '--data_dir=made')
  assert (status, err) == (0, '')
  assert out.splitlines()[-1].split()[1:] == ['50000', '10000']
  for part, names in (('train', dataset.TRAIN_FILES), ('test', [dataset.TEST_FILE])):
    records = np.concatenate([np.fromfile(tmp_path / 'made' / BIN / name, np.uint8)
                              for name in names]).reshape(-1, 3073)
    assert len(records) == len(originals[part])
    assert {row.tobytes() for row in records} == {row.tobytes() for row in originals[part]}
    assert not (records == originals[part]).all()
  description = json.loads((tmp_path / 'made' / BIN / 'data_set.json').read_text('utf-8'))
  assert description['classes'] == list(dataset.CLASSES)
