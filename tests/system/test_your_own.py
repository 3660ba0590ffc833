"""docs/your_own.md: its commands and programs, from top to bottom as a reader runs them."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile

import numpy as np
from PIL import Image
import pytest

from conftest import ROOT, TRAINED
import warm_process

CLASSES = ['cat', 'dog', 'horse', 'truck']


def _blocks():
  """Returns (language, text) of what there is to run, in the order of the page."""
  with open(os.path.join(ROOT, 'docs', 'your_own.md'), encoding='utf-8') as text:
    return re.findall('^```(sh|python)\n(.*?)^```', text.read(), re.DOTALL | re.MULTILINE)


def _shorter(command):
  """Lowers --max_steps: there is nothing to learn from these pictures anyway."""
  return re.sub(r'(?<=--max_steps=)\d+', '3', command)


def _write_cifar_100(home):
  folder = home / 'cifar-100-binary'
  folder.mkdir()
  random = np.random.RandomState(0)
  for part, count in (('train', 300), ('test', 100)):
    records = random.randint(0, 256, [count, 3074]).astype(np.uint8)
    records[:, 0], records[:, 1] = np.arange(count) % 20, np.arange(count) % 100
    records.tofile(folder / f'{part}.bin')
  for labels, count in (('fine', 100), ('coarse', 20)):
    (folder / f'{labels}_label_names.txt').write_text(
        ''.join(f'{labels}_{i}\n' for i in range(count)))
  with tarfile.open(home / 'cifar-100-binary.tar.gz', 'w:gz') as tar:
    tar.add(folder, folder.name)


def _write_arrays(home):
  random = np.random.RandomState(0)
  np.savez(home / 'fashion.npz', **{
      f'{name}_{part}': random.randint(0, high, [count, *shape]).astype(np.uint8)
      for part, count in (('train', 100), ('test', 20))
      for name, high, shape in (('x', 256, (28, 28)), ('y', 10, ()))})


@pytest.fixture(scope='module')
def outcome(data_dir, tmp_path_factory):
  """What each block printed: a list of (text, output); and the folder in which they ran."""
  home = tmp_path_factory.mktemp('your_own') / 'home'
  (home / 'cifar10').mkdir(parents=True)
  (home / 'cifar10' / 'data').symlink_to(data_dir)
  (home / 'cifar10' / 'trained').symlink_to(TRAINED)
  _write_cifar_100(home)
  _write_arrays(home)
  said = []
  for language, text in _blocks():
    if 'ai_edge_litert' in text and not importlib.util.find_spec('ai_edge_litert'):
      continue
    for command in [text] if language == 'python' else text.splitlines():
      said.append((command, _output(home, language, command)))
  return home, said


def _output(home, language, command):
  if language == 'python':
    (home / 'snippet.py').write_text(command)
    script, arguments = str(home / 'snippet.py'), []
  else:
    program, *arguments = _shorter(command).split()
    if program != 'python':
      return subprocess.run([os.path.join(os.path.dirname(sys.executable), program), *arguments],
                            cwd=home, check=True, capture_output=True, text=True).stdout
    script, *arguments = arguments
    if script == 'cifar10_train.py':
      arguments.append('--save_summaries_steps=0')
  process = warm_process.WarmProcess(home, script, arguments)
  assert (command, process.wait(600)) == (command, 0), process.err
  return process.out


def _printed(outcome, *words):
  [out] = [out for command, out in outcome[1] if all(word in command for word in words)]
  return out


def test_photos_are_900_in_four_classes_and_one_of_each_is_kept(outcome):
  home, _ = outcome
  assert sorted(path.name for path in (home / 'photos').iterdir()) == CLASSES
  for name in CLASSES:
    photos = [Image.open(path) for path in (home / 'photos' / name).iterdir()]
    assert len(photos) == 225 and {photo.size for photo in photos} == {(320, 240)}
    kept = np.asarray(Image.open(home / 'runs' / f'{name}.jpg'))
    assert not any(np.array_equal(kept, np.asarray(photo)) for photo in photos)


def test_conversion_prints_the_table_of_the_page(outcome):
  with open(os.path.join(ROOT, 'docs', 'your_own.md'), encoding='utf-8') as text:
    [table] = re.findall('^```\n(class .*?)^```', text.read(), re.DOTALL | re.MULTILINE)
  assert _printed(outcome, 'convert.py photos', 'validation').splitlines()[-6:] == (
      table.splitlines())


def test_contact_sheet_has_the_first_96_images_for_training(outcome):
  home, _ = outcome
  records = np.concatenate([np.fromfile(home / 'runs' / 'data' / 'cifar-10-batches-bin' / name,
                                        np.uint8).reshape(-1, 3073)
                            for name in ('data_batch_1.bin', 'data_batch_2.bin')])
  sheet = np.asarray(Image.open(home / 'runs' / 'sheet.png'))
  assert sheet.shape == (6 * 32, 16 * 32, 3)
  for i in (0, 17, 95):
    row, column = i // 16 * 32, i % 16 * 32
    np.testing.assert_array_equal(sheet[row:row + 32, column:column + 32],
                                  records[i, 1:].reshape(3, 32, 32).transpose(1, 2, 0))


def test_training_starts_from_what_fits_and_evaluation_prints_the_matrix(outcome):
  trained = _printed(outcome, '_train.py', '--max_steps=100', '0.05')
  assert 'model.ckpt-150000' in trained and 'softmax_linear/weights' in trained
  assert 'conv1' not in trained
  matrix = _printed(outcome, '--confusion', 'runs/tuned')
  rows = [line.split() for line in matrix.splitlines() if re.match(r'\d ', line)]
  assert [row[1] for row in rows] == CLASSES
  assert [sum(map(int, row[2:6])) for row in rows] == [45] * 4
  assert 'local3' in _printed(outcome, '_train.py', 'runs/tuned64')


def test_best_checkpoint_is_kept_and_measured(outcome):
  home, _ = outcome
  assert (home / 'runs' / 'best' / 'checkpoint').exists()
  assert 'precision @ 1 = ' in _printed(outcome, '--checkpoint_dir=runs/best')


def test_other_data_sets_are_followed(outcome):
  home, _ = outcome
  for run, classes, shape in [('cifar100_train', 100, [24, 24, 3]),
                              ('fashion_train', 10, [21, 21, 1]), ('tuned64', 4, [48, 48, 3])]:
    record = json.loads((home / 'runs' / run / 'run.json').read_text())
    assert (len(record['classes']), record['image_shape']) == (classes, shape)


def test_app_says_what_prediction_says(outcome):
  pytest.importorskip('ai_edge_litert', reason="there is no LiteRT: pip install -e '.[deploy]'")
  [line] = [line for line in _printed(outcome, 'cifar10_predict.py', 'runs/cat.jpg').splitlines()
            if line.startswith('runs/cat.jpg')]
  predicted = {name: int(percent) for name, percent in re.findall(r'(\w+) (\d+) %', line)}
  app = {name: float(percent) for name, percent in re.findall(
      r'^(\w+) +([\d.]+) %', _printed(outcome, 'ai_edge_litert'), re.MULTILINE)}
  assert list(app) == CLASSES
  for name, percent in predicted.items():
    assert app[name] == pytest.approx(percent, abs=3)
