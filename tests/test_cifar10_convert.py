import json
import os
import pathlib
import random
import re
import sys
import tarfile

import numpy as np
from PIL import Image
import pytest
import scipy.io
import tensorflow.compat.v1 as tf

import cifar10_convert
import cifar10_predict
from cifar10_support import dataset
from cifar10_support import pictures
from cifar10_support.console import UserError
from conftest import contents

BIN = 'cifar-10-batches-bin'
TRAIN = [f'data_batch_{i}.bin' for i in range(1, 6)]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def _noise(*shape, seed=0):
  return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def _save(path, pixels, **options):
  os.makedirs(os.path.dirname(path), exist_ok=True)
  picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
  picture.save(path, **options)


def _save_classes(folder, counts, size=32, channels=3, seed=0):
  """Writes pictures of noise, `counts` by class, into a folder; returns {class: [pixels]}."""
  stream, written = np.random.RandomState(seed), {}
  for name, count in counts.items():
    written[name] = stream.randint(0, 256, [count, size, size, channels]).astype(np.uint8)
    for i, pixels in enumerate(written[name]):
      _save(f'{folder}/{name}/{i:04}.png', pixels if channels == 3 else pixels[:, :, 0])
  return written


def _read(data_dir):
  """Returns the description of a data set, and {part: [(label, pixels), ...]} in files' order."""
  folder = pathlib.Path(data_dir, BIN)
  description = json.loads((folder / 'data_set.json').read_text('utf-8'))
  side, channels = description['side'], description['channels']

  def records(names):
    joined = b''.join((folder / name).read_bytes() for name in names if (folder / name).exists())
    rows = np.frombuffer(joined, np.uint8).reshape(-1, 1 + channels * side * side)
    return [(int(row[0]), row[1:].reshape(channels, side, side).transpose(1, 2, 0)) for row in rows]

  parts = {'train': records(TRAIN), 'validation': records(['validation_batch.bin']),
           'test': records(['test_batch.bin'])}
  assert description['images'] == {part: len(images) for part, images in parts.items()}
  return description, parts


def _set(images):
  return {(label, pixels.tobytes()) for label, pixels in images}


def _expected(written):
  """What `_save_classes` has written, as a set like `_set`."""
  return {(label, pixels.tobytes()) for label, name in enumerate(sorted(written))
          for pixels in written[name]}


# Pictures in folders.


def test_cifar_10_as_png_files_comes_back(small_data_dir):
  for part, names in (('train', TRAIN), ('test', ['test_batch.bin'])):
    for name in names:
      records = np.fromfile(os.path.join(small_data_dir, BIN, name), np.uint8).reshape(-1, 3073)
      for i, record in enumerate(records):
        _save(f'png/{part}/{dataset.CLASSES[record[0]]}/{name}-{i}.png',
              record[1:].reshape(3, 32, 32).transpose(1, 2, 0), compress_level=0)
  cifar10_convert.convert('png', 'made')
  description, parts = _read('made')
  assert description == {
      'side': 32, 'channels': 3, 'classes': list(dataset.CLASSES),
      'images': {'train': 500, 'validation': 0, 'test': 100}, 'source': 'png',
      'flags': {'image_size': 32, 'test_fraction': 0.2, 'validation_fraction': 0.0, 'seed': 0,
                'labels': 'fine'}}
  assert sorted(os.listdir(f'made/{BIN}')) == sorted([*TRAIN, 'data_set.json', 'test_batch.bin'])
  for names, images in ((TRAIN, parts['train']), (['test_batch.bin'], parts['test'])):
    originals = np.concatenate([np.fromfile(os.path.join(small_data_dir, BIN, name), np.uint8)
                                for name in names]).reshape(-1, 3073)
    assert len(images) == len(originals)
    assert _set(images) == {(row[0], row[1:].reshape(3, 32, 32).transpose(1, 2, 0).tobytes())
                            for row in originals}


@pytest.mark.parametrize('side', [28, 32, 48, 64])
@pytest.mark.parametrize('channels', [1, 3])
def test_every_side_grey_and_in_colour(side, channels):
  written = _save_classes('mine', {'cat': 3, 'dog': 3}, side, channels)
  cifar10_convert.convert('mine', 'made', image_size=side, test_fraction=0)
  description, parts = _read('made')
  assert (description['side'], description['channels']) == (side, channels)
  assert _set(parts['train']) == _expected(written)
  assert not os.path.exists(f'made/{BIN}/test_batch.bin')


@pytest.mark.parametrize('number', [2, 4, 100, 256])
def test_up_to_256_classes(number):
  written = _save_classes('mine', {f'{i:03}': 2 for i in range(number)}, size=8)
  cifar10_convert.convert('mine', 'made', image_size=8)
  description, parts = _read('made')
  assert description['classes'] == sorted(written)
  assert _set(parts['train'] + parts['test']) == _expected(written)
  assert [label for label, _ in parts['train']].count(number - 1) == 2


def test_grey_pictures_among_others_have_three_equal_channels():
  grey = _noise(32, 32)
  _save('mine/a/grey.png', grey)
  _save('mine/b/colour.png', _noise(32, 32, 3))
  cifar10_convert.convert('mine', 'made')
  description, parts = _read('made')
  assert description['channels'] == 3
  [pixels] = [pixels for label, pixels in parts['train'] if label == 0]
  np.testing.assert_array_equal(pixels, np.stack(3 * [grey], axis=2))


def test_parts_are_those_of_the_folders():
  written = {part: _save_classes(f'mine/{part}', {'cat': count, 'dog': 2}, seed=count)
             for part, count in (('train', 9), ('val', 4), ('test', 3))}
  names, counts = cifar10_convert.convert('mine', 'made', test_fraction=0.5)
  assert list(names) == ['cat', 'dog']
  assert counts == {'train': [9, 2], 'validation': [4, 2], 'test': [3, 2]}
  _, parts = _read('made')
  for part, folder in (('train', 'train'), ('validation', 'val'), ('test', 'test')):
    assert _set(parts[part]) == _expected(written[folder])


@pytest.mark.parametrize('folders, expected', [
    (['train'], {'train': [8, 8], 'validation': [0, 0], 'test': [2, 2]}),
    (['train', 'test'], {'train': [10, 10], 'validation': [0, 0], 'test': [10, 10]}),
    (['Train', 'Test', 'validation'],
     {'train': [10, 10], 'validation': [10, 10], 'test': [10, 10]}),
])
def test_part_that_is_missing_is_split_off(folders, expected):
  for i, folder in enumerate(folders):
    _save_classes(f'mine/{folder}', {'cat': 10, 'dog': 10}, size=8, seed=i)
  assert cifar10_convert.convert('mine', 'made', image_size=8)[1] == expected


def test_split_is_stratified():
  _save_classes('mine', {'a': 40, 'b': 10, 'c': 4, 'd': 1}, size=8)
  _, counts = cifar10_convert.convert('mine', 'made', 8, test_fraction=0.25,
                                      validation_fraction=0.1)
  # 0.1 of 4 is nearer to none, and the only one is for training.
  assert counts == {'test': [10, 3, 1, 0], 'validation': [4, 1, 0, 0], 'train': [26, 6, 3, 1]}
  # Whatever the fractions, one stays for training.
  _, counts = cifar10_convert.convert('mine', 'other', 8, test_fraction=0.9,
                                      validation_fraction=0.1)
  assert counts == {'test': [36, 9, 3, 0], 'validation': [3, 0, 0, 0], 'train': [1, 1, 1, 1]}


def test_split_and_order_are_those_of_the_seed_whatever_the_order_on_the_disk(monkeypatch):
  _save_classes('mine', {'a': 40, 'b': 40}, size=8)
  cifar10_convert.convert('mine', 'first', 8, seed=3)
  listdir = os.listdir
  monkeypatch.setattr(os, 'listdir', lambda path: random.Random(0).sample(
      listdir(path), len(listdir(path))))
  cifar10_convert.convert('mine', 'second', 8, seed=3)
  cifar10_convert.convert('mine', 'third', 8, seed=4)
  first, second, third = (contents(pathlib.Path(name)) for name in ('first', 'second', 'third'))
  assert first == second
  assert first[f'{BIN}/data_batch_1.bin'] != third[f'{BIN}/data_batch_1.bin']
  assert _set(_read('first')[1]['test']) != _set(_read('third')[1]['test'])


def test_training_images_are_shuffled_over_files_of_equal_length():
  _save_classes('mine', {'a': 50, 'b': 51}, size=8)
  cifar10_convert.convert('mine', 'made', 8, test_fraction=0)
  labels = [np.fromfile(f'made/{BIN}/{name}', np.uint8).reshape(-1, 193)[:, 0] for name in TRAIN]
  assert [len(some) for some in labels] == [21, 20, 20, 20, 20]
  assert all(4 < some.sum() < 16 for some in labels)


def test_fewer_images_than_files_make_fewer_files():
  _save_classes('mine', {'a': 1, 'b': 2}, size=8)
  cifar10_convert.convert('mine', 'made', 8)
  assert sorted(os.listdir(f'made/{BIN}')) == TRAIN[:3] + ['data_set.json']


def test_scripts_find_what_is_made():
  written = _save_classes('mine', {'Bär': 10, 'cat': 10, 'dog': 10}, size=20)
  cifar10_convert.convert('mine', 'made', image_size=20, validation_fraction=0.1)
  found = dataset.find('made', 10)
  assert found.classes == ('Bär', 'cat', 'dog')
  assert (found.num_train, found.num_validation, found.num_test) == (21, 3, 6)
  assert (found.side, found.channels) == (20, 3)
  images = {pixels.tobytes() for pixels in found.read_images('test', range(6))}
  assert images < {pixels.tobytes() for some in written.values() for pixels in some}


# Copies.


def test_copies_stay_together_and_are_counted(capsys):
  _save_classes('mine', {'a': 30, 'b': 30}, size=8)
  for i in range(0, 30, 2):
    pixels = Image.open(f'mine/a/{i:04}.png')
    pixels.save(f'mine/a/copy {i}.png')
    pixels.save(f'mine/a/another file {i}.bmp')
  cifar10_convert.convert('mine', 'made', 8, test_fraction=0.5)
  assert re.findall('[0-9]+', capsys.readouterr().out) == ['30']
  _, parts = _read('made')
  assert not _set(parts['train']) & _set(parts['test'])
  assert (len(parts['train']), len(parts['test'])) == pytest.approx((45, 45), abs=2)


def test_copies_in_several_classes_are_for_training(capsys):
  written = _save_classes('mine', {'a': 10, 'b': 10}, size=8)
  for i in range(8):
    _save(f'mine/b/copy {i}.png', written['a'][i])
  cifar10_convert.convert('mine', 'made', 8, test_fraction=0.5)
  assert re.findall('[0-9]+', capsys.readouterr().out) == ['8', '8']
  _, parts = _read('made')
  ambiguous = {pixels.tobytes() for pixels in written['a'][:8]}
  assert sum(pixels.tobytes() in ambiguous for _, pixels in parts['train']) == 16
  assert not ambiguous & {pixels.tobytes() for _, pixels in parts['test']}


def test_training_images_that_are_in_the_test_folder_too_are_left_out(capsys):
  train = _save_classes('mine/train', {'a': 5, 'b': 5}, size=8)
  _save_classes('mine/test', {'a': 3, 'b': 3}, size=8, seed=1)
  _save('mine/test/a/leak.png', train['a'][0])
  _save('mine/test/a/other class.bmp', train['b'][0])
  _, counts = cifar10_convert.convert('mine', 'made', 8)
  assert counts == {'train': [4, 4], 'validation': [0, 0], 'test': [5, 3]}
  _, parts = _read('made')
  pixels = {part: {image.tobytes() for _, image in parts[part]} for part in parts}
  assert not pixels['train'] & pixels['test']
  assert re.findall('[0-9]+', capsys.readouterr().out) == ['2', '1', '2']


# What lies about in folders.


def _animation(path):
  _save(path, Image.new('L', (8, 8), 10), save_all=True,
        append_images=[Image.new('L', (8, 8), 200)])


def _oriented(path):
  exif = Image.Exif()
  exif[0x112] = 6  # The first row of the file is the right side of the scene.
  _save(path, np.stack(3 * [np.repeat([[200, 0]], 2, axis=0).astype(np.uint8)], 2), exif=exif)


def _value(name, folder='made'):
  """Returns the only image of a class."""
  description, parts = _read(folder)
  label = description['classes'].index(name)
  [pixels] = [pixels for its_label, pixels in parts['train'] if its_label == label]
  return pixels


def test_folder_of_nastiness(home, capsys):
  """Each picture is a class of its own, so that the test can tell them apart."""
  save = {
      'Bär': lambda: _save('mine/Bär/Grüße an Bär.PNG', Image.new('RGB', (9, 9), (1, 2, 3))),
      'two words': lambda: _save('mine/two words/my cat.JPG', Image.new('RGB', (9, 9), 'white'),
                                 format='JPEG'),
      'cmyk': lambda: _save('mine/cmyk/a.jpg', Image.new('CMYK', (9, 9), (0, 255, 255, 0))),
      '16 bits': lambda: _save('mine/16 bits/a.png', np.full([9, 9], 30000, np.uint16)),
      'clear': lambda: _save('mine/clear/a.png', Image.new('RGBA', (9, 9), (0, 128, 0, 51))),
      'turned': lambda: _oriented('mine/turned/a.png'),
      'moving': lambda: _animation('mine/moving/a.gif'),
      'nested': lambda: _save('mine/nested/x/y/z/a', Image.new('RGB', (9, 9), (7, 8, 9)),
                              format='PNG'),
      'wide': lambda: _save('mine/wide/a.webp', Image.new('RGB', (300, 9), (70, 80, 90)),
                            lossless=True),
      'tiny': lambda: _save('mine/tiny/a.bmp', Image.new('RGB', (1, 1), (9, 9, 8))),
  }
  for write in save.values():
    write()
  mine = home / 'mine'
  _save('elsewhere/a.png', Image.new('RGB', (9, 9), (70, 60, 50)))
  (mine / 'linked').symlink_to(home / 'elsewhere')
  (mine / 'nested' / 'up').symlink_to(mine)
  (mine / 'nested' / 'again').symlink_to(mine / 'nested' / 'x', target_is_directory=True)
  (mine / 'nested' / 'x' / 'back').symlink_to(mine / 'nested')
  (mine / 'nested' / 'self').symlink_to(mine / 'nested' / 'self')
  odd = os.fsencode(str(mine)) + b'/caf\xe9'
  os.mkdir(odd)
  with open(odd + b'/\xff.png', 'wb') as out:
    Image.new('RGB', (9, 9), (40, 50, 60)).save(out, 'PNG')
  for name in ('.DS_Store', 'Thumbs.db', 'desktop.ini', '.hidden.png', 'DESKTOP.INI'):
    (mine / 'cmyk' / name).write_bytes(b'nothing')
  (mine / '__MACOSX').mkdir()
  (mine / '.git').mkdir()
  os.mkfifo(mine / 'cmyk' / 'pipe')
  (mine / 'notes.txt').write_text('not in a class')
  (mine / 'tiny' / 'empty.jpg').write_bytes(b'')
  (mine / 'tiny' / 'letter.png').write_text('Dear cat')
  (mine / 'tiny' / 'nowhere.png').symlink_to(mine / 'nowhere')
  (mine / 'tiny' / 'half.png').write_bytes((mine / 'Bär' / 'Grüße an Bär.PNG').read_bytes()[:50])

  names, counts = cifar10_convert.convert('mine', 'made', image_size=8)
  assert names == sorted([*save, 'linked', 'caf\\xe9'])
  assert counts['train'] == [2 if name == 'nested' else 1 for name in names]
  unreadable = [line for line in capsys.readouterr().err.splitlines() if line]
  assert sorted(name for line in unreadable for name in (
      'empty.jpg', 'letter.png', 'nowhere.png', 'half.png', 'self') if name in line) == [
          'empty.jpg', 'half.png', 'letter.png', 'nowhere.png', 'self']
  assert len(unreadable) == 5
  for name, colour in [
      ('Bär', (1, 2, 3)), ('two words', (255, 255, 255)), ('cmyk', (255, 0, 0)),
      ('16 bits', (117, 117, 117)), ('clear', (204, 230, 204)), ('moving', (10, 10, 10)),
      ('wide', (70, 80, 90)), ('tiny', (9, 9, 8)), ('linked', (70, 60, 50)),
      ('caf\\xe9', (40, 50, 60))]:
    np.testing.assert_allclose(_value(name), np.broadcast_to(colour, [8, 8, 3]), atol=1,
                               err_msg=name)
  turned = _value('turned')
  assert (turned[:4] == 200).all() and (turned[4:] == 0).all()


@pytest.mark.parametrize('names, expected', [
    (['a'], 'a'), ([], 'nothing'), (['a', 'b', 'empty'], 'empty'),
    ([f'{i:03}' for i in range(257)], '257'),
    (['train/a', 'train/b', 'other/a'], 'other'), (['test/a', 'val/a'], 'train'),
    (['train/a', 'train/b', 'test/a', 'test/c'], ' c'),
])
def test_classes_that_cannot_be_learnt_are_one_line_and_nothing_is_written(names, expected):
  os.mkdir('mine')
  for i, name in enumerate(names):
    os.makedirs(f'mine/{name}')
    if name != 'empty':
      _save(f'mine/{name}/1.png', np.full([8, 8], i % 256, np.uint8))
  with pytest.raises(UserError) as error:
    cifar10_convert.convert('mine', 'made')
  assert 'mine' in str(error.value) and expected in str(error.value)
  assert '\n' not in str(error.value)
  assert not os.path.exists('made') or os.listdir('made') == []


def test_nothing_readable_is_one_line(capsys):
  for name in ('a', 'b'):
    os.makedirs(f'mine/{name}')
    pathlib.Path(f'mine/{name}/1.png').write_text('no picture')
  with pytest.raises(UserError, match='mine .* a, b'):
    cifar10_convert.convert('mine', 'made')
  assert capsys.readouterr().err.count('\n') == 2
  assert os.listdir('made') == []


def test_data_set_that_is_there_is_not_touched():
  _save_classes('mine', {'a': 2, 'b': 2})
  cifar10_convert.convert('mine', 'made')
  before = contents(pathlib.Path('made'))
  _save_classes('mine', {'c': 2})
  with pytest.raises(UserError, match='made .*--data_dir'):
    cifar10_convert.convert('mine', 'made')
  assert contents(pathlib.Path('made')) == before


def test_killed_conversion_leaves_nothing_that_matters():
  _save_classes('mine', {'a': 2, 'b': 2})
  os.makedirs(f'made/.unfinished/{BIN}')
  pathlib.Path('made/.unfinished/pixels').write_text('half')
  cifar10_convert.convert('mine', 'made')
  assert os.listdir('made') == [BIN]


# The pixels.


def _photo(width, height):
  """Smooth colours; in blue a sharp edge."""
  y, x = np.mgrid[:height, :width] / min(width, height)
  planes = [127 + 120 * np.sin(9 * x + 5 * y), 127 + 120 * np.cos(7 * x * y),
            255 * ((x - 0.7)**2 + (y - 0.5)**2 < 0.1)]
  return np.stack(planes, 2).astype(np.uint8)


@pytest.mark.parametrize('kind', ['png', 'grey.png', 'alpha.png', 'jpg'])
def test_image_is_what_prediction_sees(kind):
  paths = []
  for width, height in [(32, 32), (28, 28), (47, 33), (100, 75), (5, 9), (1201, 802)]:
    pixels = _photo(width, height)
    photo = Image.fromarray(pixels)
    if kind == 'grey.png':
      photo = photo.convert('L')
    elif kind == 'alpha.png':
      photo.putalpha(photo.getchannel('R'))
    elif kind == 'jpg':  # Whose edges move by up to half a pixel of the smaller copy.
      photo = Image.fromarray(pixels[:, :, [0, 1, 0]])
    paths.append(f'mine/{width}x{height}/1.{kind}')
    _save(paths[-1], photo, quality=95)
  _save('mine/colour/1.png', _noise(32, 32, 3))
  cifar10_convert.convert('mine', 'made')
  with tf.Session() as session:
    seen = session.run(cifar10_predict.decode(
        tf.constant([pictures.load(path) for path in paths]), 32, 3))
  for path, image in zip(paths, seen):
    np.testing.assert_allclose(_value(path.split('/')[1]), image.astype(int), atol=2, err_msg=path)


def test_large_photos_are_decoded_at_a_fraction_of_their_size(monkeypatch):
  sizes = []
  reduce = Image.Image.reduce
  monkeypatch.setattr(Image.Image, 'reduce', lambda image, factor: sizes.append(
      image.size) or reduce(image, factor))
  _save('mine/a/1.jpg', Image.new('RGB', (4000, 3000)))
  _save('mine/b/1.png', _noise(32, 32, 3))
  cifar10_convert.convert('mine', 'made')
  assert sorted(sizes) == [(32, 32), (375, 375)]


# Other data sets.


def _save_cifar_100(folder):
  """Writes a folder like CIFAR-100's; returns {part: records} of its two files."""
  os.makedirs(folder)
  pathlib.Path(folder, 'fine_label_names.txt').write_text(
      ''.join(f'fine_{i}\n' for i in range(100)))
  pathlib.Path(folder, 'coarse_label_names.txt').write_text(
      ''.join(f'coarse_{i}\n' for i in range(20)))
  records = {}
  for part, count in (('train', 200), ('test', 100)):
    records[part] = _noise(count, 3074, seed=count)
    records[part][:, 0], records[part][:, 1] = np.arange(count) % 20, np.arange(count) % 100
    records[part].tofile(os.path.join(folder, f'{part}.bin'))
  return records


@pytest.mark.parametrize('labels, column, number', [('coarse', 0, 20), ('fine', 1, 100)])
@pytest.mark.parametrize('source', ['cifar-100-binary', '.', 'cifar-100-binary.tar.gz'])
def test_cifar_100(source, labels, column, number):
  records = _save_cifar_100('cifar-100-binary')
  with tarfile.open('cifar-100-binary.tar.gz', 'w:gz') as tar:
    tar.add('cifar-100-binary')
  cifar10_convert.convert(source, 'made', labels=labels)
  description, parts = _read('made')
  assert description['classes'] == [f'{labels}_{i}' for i in range(number)]
  assert description['flags']['labels'] == labels
  for part, rows in records.items():
    assert len(parts[part]) == len(rows)
    assert _set(parts[part]) == {(row[column], row[2:].reshape(3, 32, 32).transpose(
        1, 2, 0).tobytes()) for row in rows}


def test_images_of_a_published_data_set_stay_although_they_are_copies(capsys):
  records = _save_cifar_100('cifar-100-binary')
  records['train'][:5, 2:] = records['test'][:5, 2:]
  records['train'].tofile('cifar-100-binary/train.bin')
  cifar10_convert.convert('cifar-100-binary', 'made')
  assert _read('made')[0]['images'] == {'train': 200, 'validation': 0, 'test': 100}
  assert '5' in re.findall('[0-9]+', capsys.readouterr().out)


@pytest.mark.parametrize('shape, channels', [([28, 28], 1), ([28, 28, 1], 1), ([28, 28, 3], 3)])
@pytest.mark.parametrize('images, labels, as_column', [
    ('x_{}', 'y_{}', False), ('x_{}', 'y_{}', True), ('{}_images', '{}_labels', True)])
def test_arrays(shape, channels, images, labels, as_column):
  arrays, expected = {}, {}
  for i, (part, short, count) in enumerate([('train', 'train', 12), ('validation', 'val', 5),
                                            ('test', 'test', 7)]):
    x, y = _noise(count, *shape, seed=i), np.arange(count) % 4
    arrays[images.format(short)], arrays[labels.format(short)] = x, (
        y.reshape(-1, 1) if as_column else y)
    expected[part] = {(label, pixels.tobytes()) for label, pixels in zip(y.tolist(), x)}
  np.savez('mine.npz', **arrays)
  cifar10_convert.convert('mine.npz', 'made', image_size=28)
  description, parts = _read('made')
  assert description['channels'] == channels
  assert description['classes'] == ['class 0', 'class 1', 'class 2', 'class 3']
  assert {part: _set(parts[part]) for part in parts} == expected


def test_labels_of_8_bits_make_up_to_256_classes():
  np.savez('mine.npz', x_train=_noise(256, 8, 8), y_train=np.arange(256, dtype=np.uint8))
  names, counts = cifar10_convert.convert('mine.npz', 'made', image_size=8)
  assert names[-1] == 'class 255' and counts['train'] == [1] * 256


def test_arrays_without_a_test_part_are_split_and_scaled():
  np.savez('mine.npz', x_train=_noise(20, 10, 6).repeat(8, 1).repeat(8, 2),
           y_train=np.arange(20) % 2)
  _, counts = cifar10_convert.convert('mine.npz', 'made', image_size=6)
  assert counts == {'train': [8, 8], 'validation': [0, 0], 'test': [2, 2]}
  _, parts = _read('made')
  assert {pixels.tobytes() for _, pixels in parts['train'] + parts['test']} == {
      image[2:8].tobytes() for image in _noise(20, 10, 6)}


X = np.zeros([4, 8, 8, 3], np.uint8)
Y = np.arange(4) % 2


@pytest.mark.parametrize('arrays, expected', [
    ({'x_train': X, 'y_train': Y / 2}, 'y_train'),
    ({'x_train': X, 'y_train': Y - 1}, 'y_train'),
    ({'x_train': X, 'y_train': Y * 256}, 'y_train'),
    ({'x_train': X, 'y_train': np.eye(4, dtype=int)}, 'y_train'),
    ({'x_train': X, 'y_train': Y + 1}, 'class 0'),
    ({'x_train': X, 'y_train': np.array([None] * 4)}, 'pickle'),
    ({'x_train': X, 'y_train': Y[:3]}, '3'),
    ({'x_train': X / 255, 'y_train': Y}, 'float64'),
    ({'x_train': X.transpose(0, 3, 1, 2), 'y_train': Y}, '3, 8, 8'),
    ({'x_train': X[0, 0], 'y_train': np.arange(8)}, '8, 3'),
    ({'x_train': X}, 'y_train'),
    ({'x': X, 'y': Y}, 'x, y'),
])
def test_arrays_that_are_of_another_kind_are_one_line(arrays, expected):
  np.savez('mine.npz', **arrays)
  with pytest.raises(UserError) as error:
    cifar10_convert.convert('mine.npz', 'made')
  assert 'mine.npz' in str(error.value) and expected in str(error.value)
  assert not os.path.exists('made') or os.listdir('made') == []


@pytest.mark.parametrize('name, contents', [
    ('mine.npz', b''), ('mine.npz', b'PK\3\4 and so on'), ('mine.txt', b'a letter'),
    ('mine.tar.gz', b'no archive'), ('cifar-10-binary.tar.gz', b'any')])
def test_other_files_are_one_line(name, contents):
  pathlib.Path(name).write_bytes(contents)
  with pytest.raises(UserError, match=name):
    cifar10_convert.convert(name, 'made')
  assert not os.path.exists('made')


def test_what_is_a_data_set_needs_no_conversion(small_data_dir):
  with pytest.raises(UserError, match='--data_dir=' + small_data_dir):
    cifar10_convert.convert(small_data_dir, 'made')


def test_what_is_not_there_is_one_line():
  with pytest.raises(UserError, match='nowhere'):
    cifar10_convert.convert('nowhere', 'made')


def test_pictures_beside_each_other_are_named():
  _save('mine/cat.png', _noise(8, 8))
  with pytest.raises(UserError, match='mine .*cat.png'):
    cifar10_convert.convert('mine', 'made')


@pytest.mark.parametrize('damage', [
    lambda: os.remove('cifar-100-binary/test.bin'),
    lambda: os.truncate('cifar-100-binary/test.bin', 1000),
    lambda: os.remove('cifar-100-binary/fine_label_names.txt'),
    lambda: pathlib.Path('cifar-100-binary/fine_label_names.txt').write_text('cat dog'),
    lambda: os.truncate('cifar-100-binary/train.bin', 0),
])
def test_damaged_cifar_100_is_one_line(damage):
  _save_cifar_100('cifar-100-binary')
  damage()
  with pytest.raises(UserError, match='cifar-100-binary .*kriz/cifar.html'):
    cifar10_convert.convert('cifar-100-binary', 'made')
  assert not os.path.exists('made') or os.listdir('made') == []


# SVHN.


def _save_mat(name, count, seed=0, **changes):
  """Writes a file like SVHN's, with changes (None leaves out); returns its variables."""
  variables = {'X': _noise(32, 32, 3, count, seed=seed),
               'y': np.arange(count).astype(np.uint8).reshape(-1, 1) % 10 + 1, **changes}
  variables = {key: value for key, value in variables.items() if value is not None}
  scipy.io.savemat(name, variables, do_compression=True)
  return variables


@pytest.fixture
def mats():
  return {'train': _save_mat('train_32x32.mat', 23, seed=1),
          'test': _save_mat('test_32x32.mat', 7, seed=2)}


def test_svhns_images_and_digits_are_those_of_the_files(mats):
  cifar10_convert.convert('.', 'svhn')
  description, parts = _read('svhn')
  assert description['classes'] == list('0123456789')
  for part, mat in mats.items():
    assert len(parts[part]) == len(mat['y'])
    assert _set(parts[part]) == {
        (0 if digit == 10 else digit, np.ascontiguousarray(mat['X'][..., i]).tobytes())
        for i, digit in enumerate(mat['y'][:, 0].tolist())}


def _write(written):
  def damage(path):
    with open(path, 'wb') as out:
      out.write(written)
  return damage


MAT_X = np.zeros([32, 32, 3, 6], np.uint8)


@pytest.mark.parametrize('damage', [
    os.remove,
    lambda path: os.remove(path) or os.mkdir(path),
    lambda path: os.truncate(path, os.path.getsize(path) // 2),
    lambda path: os.truncate(path, 0),
    _write(100 * b'<html>Not found</html>'),
    _write(b'MATLAB 7.3 MAT-file'.ljust(124) + b'\0\2IM' + 384 * b'\0' + b'\x89HDF\r\n\x1a\n'),
    lambda path: _save_mat(path, 6, X=None),
    lambda path: _save_mat(path, 6, X=MAT_X[:28]),
    lambda path: _save_mat(path, 6, X=MAT_X.transpose(3, 0, 1, 2)),
    lambda path: _save_mat(path, 6, X=MAT_X.astype(float)),
    lambda path: _save_mat(path, 6, y=None),
    lambda path: _save_mat(path, 6, y=np.ones([5, 1])),
    lambda path: _save_mat(path, 6, y=np.array([[1, 2, 3, 10, 11, 1]]).T),
    lambda path: _save_mat(path, 6, y=np.zeros([6, 1])),
    lambda path: _save_mat(path, 6, y=np.full([6, 1], 1.5)),
])
def test_file_that_is_not_svhns_is_one_line(damage, mats):
  damage('train_32x32.mat')
  with pytest.raises(UserError) as error:
    cifar10_convert.convert('.', 'svhn')
  assert 'train_32x32.mat' in str(error.value)
  assert 'http://ufldl.stanford.edu/housenumbers/' in str(error.value)
  assert os.listdir('svhn') == []


def test_missing_scipy_is_one_line(mats, monkeypatch):
  monkeypatch.setitem(sys.modules, 'scipy.io', None)
  with pytest.raises(UserError, match='scipy.*pip install'):
    cifar10_convert.convert('.', 'svhn')


# The table.


def test_table_fits_80_columns(capsys):
  names = ['cat', 'a very long name of a class, ' * 4, 'Bär']
  cifar10_convert.print_table(names, {'train': [10, 2000, 3], 'validation': [1, 2, 3],
                                      'test': [0, 400, 5]})
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 5 and {len(line) for line in lines} == {79}
  assert [line.split()[-3:] for line in lines] == [
      ['train', 'validation', 'test'], ['10', '1', '0'], ['2000', '2', '400'], ['3', '3', '5'],
      ['2013', '6', '405']]
  assert lines[1].startswith('cat ') and lines[2].startswith('a very long name')
