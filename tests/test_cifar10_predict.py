import json
import os
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_input
import cifar10_predict
import numpy_network
import warm_process
from cifar10_console import UserError
from conftest import ROOT

FLAGS = cifar10_predict.FLAGS


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, small_data_dir, save):
  """A directory with a run, and with the first three test images as pictures."""
  monkeypatch.chdir(tmp_path)
  FLAGS(['cifar10_predict.py', '--data_dir=' + small_data_dir])
  save(3, max_steps=9)
  images, _ = numpy_network.read(
      os.path.join(small_data_dir, 'cifar-10-batches-bin', 'test_batch.bin'))
  with tf.Session() as session:
    for i in range(3):
      (tmp_path / ('%d.png' % i)).write_bytes(session.run(tf.image.encode_png(images[i])))
  return tmp_path


@pytest.fixture
def expected(small_data_dir):
  """For each of the pictures the probabilities of the classes, from numpy's network."""
  images, _ = numpy_network.read(
      os.path.join(small_data_dir, 'cifar-10-batches-bin', 'test_batch.bin'))
  return numpy_network.probabilities(numpy_network.center(images[:3]),
                                     numpy_network.averages('cifar10/train'))


def test_json_has_all_classes_the_most_probable_first(capsys, expected):
  FLAGS.json = True
  assert cifar10_predict.main(['0.png', '2.png']) == 0
  pictures = json.loads(capsys.readouterr().out)
  assert [picture['file'] for picture in pictures] == ['0.png', '2.png']
  for picture, probabilities in zip(pictures, expected[[0, 2]]):
    by_class = {prediction['class']: prediction['probability']
                for prediction in picture['predictions']}
    np.testing.assert_allclose([by_class[name] for name in cifar10.classes()], probabilities,
                               rtol=1e-3)
    assert list(by_class.values()) == sorted(by_class.values(), reverse=True)
    assert len(by_class) == 10


def test_one_picture_is_told_in_full(capsys, expected):
  assert cifar10_predict.main(['1.png']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 10
  best = np.argmax(expected[1])
  assert lines[0].split() == [*cifar10.classes()[best].split(), '%.1f' % (100 * expected[1][best]),
                              '%']


def test_several_pictures_get_a_line_each(capsys, expected):
  assert cifar10_predict.main(['0.png', '1.png', '2.png']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines] == ['0.png', '1.png', '2.png']
  for line, probabilities in zip(lines, expected):
    first, second, third = np.argsort(-probabilities)[:3]
    assert line.split('  ')[-1].strip().startswith(
        '%s %.0f %%' % (cifar10.classes()[first], 100 * probabilities[first]))
    assert line.count('%') == 3


def test_pictures_that_cannot_be_read_are_named_and_the_others_classified(home, capsys):
  whole = (home / '0.png').read_bytes()
  (home / 'half.png').write_bytes(whole[:len(whole) // 2])
  (home / 'letter.txt').write_text('mine')
  (home / 'empty.png').write_bytes(b'')
  paths = ['0.png', 'half.png', 'letter.txt', 'empty.png', 'cifar10', 'none.png', '1.png']
  assert cifar10_predict.main(paths) == 1
  out, err = capsys.readouterr()
  assert [line.split()[0] for line in out.splitlines()] == ['0.png', '1.png']
  for sentence in ('half.png is no whole PNG, JPEG, GIF or BMP picture, or is too large.',
                   'letter.txt is no whole PNG', 'empty.png is no whole PNG',
                   'cifar10 cannot be read: Is a directory.',
                   'none.png cannot be read: No such file or directory.'):
    assert sentence in err
  assert err.count('\n') == 5


def test_without_a_checkpoint_or_a_picture_it_is_one_sentence():
  with pytest.raises(UserError, match='Name one picture or more'):
    cifar10_predict.main([])
  FLAGS.checkpoint_dir = 'nowhere'
  with pytest.raises(UserError, match='There is no checkpoint in nowhere: train first'):
    cifar10_predict.main(['0.png'])


def test_picture_that_is_named_twice_is_told_twice(capsys):
  FLAGS.json = True
  assert cifar10_predict.main(['0.png', 'none.png', '0.png']) == 1
  first, second = json.loads(capsys.readouterr().out)
  assert first == second


def test_file_whose_name_is_no_text_is_classified(home, save):
  name = os.fsdecode(b'\xff.png')
  (home / '0.png').rename(home / name)
  process = subprocess.run(
      [sys.executable, os.path.join(ROOT, 'cifar10_predict.py'), name, '1.png'],
      capture_output=True, text=True, env={**os.environ, 'PYTHONIOENCODING': 'utf-8:strict'})
  assert (process.returncode, process.stderr) == (0, '')
  assert [line.split()[0] for line in process.stdout.splitlines()] == [r'\udcff.png', '1.png']


GREYS = np.arange(256, dtype=np.uint8)[:, np.newaxis] * np.uint8([1, 1, 1, 0])
MASKS = [0xff0000, 0xff00, 0xff]


def _bmp(bits, pixels, compression=0, masks=(), palette=b'', header=40, side=8):
  """A picture of `side` x `side` pixels of so many bits."""
  masks = struct.pack('<%dI' % len(masks), *masks)
  start = 54 + len(masks) + len(palette)
  return (struct.pack('<2sIHHI', b'BM', start + len(pixels), 0, 0, start)
          + struct.pack('<IiiHHIIiiII', header, side, side, 1, bits, compression, len(pixels), 0, 0,
                        0, 0)
          + masks + palette + pixels)


@pytest.mark.parametrize('picture', [
    _bmp(8, bytes(64), palette=GREYS[::-1].tobytes()),
    _bmp(8, b'\x08\x07\x00\x00' * 8 + b'\x00\x01', compression=1, palette=GREYS.tobytes()),
    _bmp(4, bytes(32), palette=GREYS[:16].tobytes()),
    _bmp(16, bytes(128)),
    _bmp(32, bytes(256), compression=3, masks=[0xff, 0xff00, 0xff0000]),
], ids=['colours', 'compressed', 'four bits', 'sixteen bits', 'red last'])
def test_bmp_that_tensorflow_misreads_is_refused(picture, home, capsys):
  (home / 'mine.bmp').write_bytes(picture)
  assert cifar10_predict.main(['mine.bmp']) == 1
  out, err = capsys.readouterr()
  assert out == ''
  assert ('mine.bmp is a BMP picture of a kind that TensorFlow does not decode: save it as PNG.'
          in err)


ORANGE = bytes([0, 90, 200])  # Blue, green, red.


@pytest.mark.parametrize('picture, expected', [
    (_bmp(8, bytes([90] * 64), palette=GREYS.tobytes()), [90, 90, 90]),
    (_bmp(24, ORANGE * 64), [200, 90, 0]),
    (_bmp(32, (ORANGE + b'\0') * 64), [200, 90, 0]),
    (_bmp(32, ORANGE + b'\0', side=1), [200, 90, 0]),
    (_bmp(32, (ORANGE + b'\0') * 64, compression=3, masks=MASKS), [200, 90, 0]),
    # Half transparent, on white.
    (_bmp(32, (ORANGE + b'\x80') * 64, compression=3, masks=MASKS + [0xff000000], header=56),
     [227, 172, 127]),
], ids=['greys', 'colours', 'four bytes', 'one pixel', 'masks', 'transparent'])
def test_bmp_shows_what_other_programs_see_in_it(picture, expected, home):
  (home / 'mine.bmp').write_bytes(picture)
  with tf.Session() as session:
    contents = tf.constant([cifar10_predict.read('mine.bmp')])
    image = session.run(cifar10_input.decode_pictures(contents))
  assert np.unique(image[0].reshape(-1, 3), axis=0).tolist() == [expected]


def test_several_views_are_averaged(home, small_data_dir, capsys):
  FLAGS(['cifar10_predict.py', '--multiview', '--json'])
  assert cifar10_predict.main(['1.png']) == 0
  [picture] = json.loads(capsys.readouterr().out)
  by_class = {prediction['class']: prediction['probability']
              for prediction in picture['predictions']}
  images, _ = numpy_network.read(
      os.path.join(small_data_dir, 'cifar-10-batches-bin', 'test_batch.bin'))
  [expected] = numpy_network.multiview_probabilities(
      images[1:2], numpy_network.averages('cifar10/train'))
  np.testing.assert_allclose([by_class[name] for name in cifar10.classes()], expected, rtol=1e-3)


def test_network_is_that_of_the_run(home, save, capsys):
  FLAGS.top_layers = 'local'
  save(3, max_steps=9, flags={'top_layers': 'local'})
  FLAGS['top_layers'].unparse()
  assert cifar10_predict.main(['0.png']) == 0
  assert capsys.readouterr().out.count('%') == 10


def test_exported_network_works_in_tensorflows_own_command(home, expected):
  FLAGS.export_dir = 'exported'
  assert cifar10_predict.main([]) == 0
  command = [sys.executable, '-m', 'tensorflow.python.tools.saved_model_cli']
  signature = ['--dir=exported', '--tag_set=serve', '--signature_def=serving_default']
  process = subprocess.run(command + ['show'] + signature, capture_output=True, text=True)
  tensors = re.findall(r"(in|out)puts\['(\w+)'\].*\n.*dtype: (\w+)\n *shape: (.*)", process.stdout)
  assert tensors == [('in', 'pictures', 'DT_STRING', '(-1)'),
                     ('out', 'classes', 'DT_STRING', '(-1, 10)'),
                     ('out', 'probabilities', 'DT_FLOAT', '(-1, 10)')]
  np.save('pictures.npy', [(home / '0.png').read_bytes()])
  process = subprocess.run(
      command + ['run'] + signature + ['--inputs=pictures=pictures.npy', '--outdir=.'],
      capture_output=True, text=True)
  assert process.returncode == 0, process.stderr
  np.testing.assert_allclose(np.load('probabilities.npy'), expected[:1], rtol=1e-3)
  assert np.load('classes.npy', allow_pickle=True).astype(str).tolist() == [list(cifar10.classes())]


def test_exported_network_works_in_tensorflow_2(home, expected):
  FLAGS.export_dir = 'exported'
  assert cifar10_predict.main([]) == 0
  code = """
import json, sys
import tensorflow as tf
predict = tf.saved_model.load('exported').signatures['serving_default']
pictures = tf.constant([open(path, 'rb').read() for path in ('0.png', '1.png')])
print(json.dumps({name: value.numpy().astype(str if name == 'classes' else float).tolist()
                  for name, value in predict(pictures=pictures).items()}))
"""
  process = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  answer = json.loads(process.stdout)
  np.testing.assert_allclose(answer['probabilities'], expected[:2], rtol=1e-3)
  assert answer['classes'] == [list(cifar10.classes())] * 2
  with pytest.raises(UserError, match='exported is there already: name a directory to make'):
    cifar10_predict.main(['0.png'])


def test_export_that_fails_leaves_nothing_and_can_be_done_again(home):
  before = sorted(os.listdir(home))
  args = ['--export_dir=models/mine']
  process = warm_process.WarmProcess(home, 'cifar10_predict.py', args, largest_file=1000000)
  assert process.wait() == 1
  assert process.err == ('cifar10_predict.py: Cannot write to models/mine (File too large): name '
                         'another directory with --export_dir.\n')
  assert sorted(os.listdir(home)) == sorted(before + ['models'])
  assert os.listdir(home / 'models') == []
  process = warm_process.WarmProcess(home, 'cifar10_predict.py', args)
  assert process.wait() == 0, process.err
  assert os.listdir(home / 'models') == ['mine']
  assert (home / 'models' / 'mine' / 'saved_model.pb').exists()


@pytest.mark.parametrize('export_dir, sentence', [
    ('caf\udce9', '--export_dir'), ('gs://mine', 'is an address: --export_dir must'),
    ('/dev/null/mine', r'Cannot write to /dev/null/mine \(.+\): name another '),
    ('/proc/mine', r'Cannot write to /proc/mine \(No such file or directory\): name another ')])
def test_export_dir_that_can_be_none_is_one_sentence(export_dir, sentence):
  FLAGS.export_dir = export_dir
  with pytest.raises(UserError, match=sentence):
    cifar10_predict.main([])


def test_full_memory_is_one_sentence(monkeypatch):
  def restore(*args):
    raise tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating tensor')

  monkeypatch.setattr(cifar10_predict.cifar10_restore.Restorer, 'restore', restore)
  with pytest.raises(UserError, match='full: take a smaller picture, or end what else takes it, '
                     'and start the same command again.'):
    cifar10_predict.main(['0.png'])
