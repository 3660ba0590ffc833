import json
import os
import shutil

import numpy as np
from PIL import Image
import pytest
import tensorflow.compat.v1 as tf

import cifar10_predict
from cifar10_support import dataset
from cifar10_support.console import UserError
from conftest import TRAINED
import numpy_network

FLAGS = tf.app.flags.FLAGS


@pytest.fixture
def images(small_data_set):
  return numpy_network.read(small_data_set.test_files[0])[0][:3]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, images):
  """A directory with the first three test images as pictures."""
  monkeypatch.chdir(tmp_path)
  FLAGS(['cifar10_predict.py', '--checkpoint_dir=' + TRAINED])
  for i, image in enumerate(images):
    Image.fromarray(image).save('%d.png' % i)
  return tmp_path


@pytest.fixture
def expected(images):
  """For each of the pictures the probabilities of the classes, from numpy's network."""
  return numpy_network.probabilities(numpy_network.central_crop(images),
                                     numpy_network.averages(TRAINED))


def _by_class(picture):
  return {item['class']: item['probability'] for item in picture['predictions']}


def test_json_has_all_classes_the_most_probable_first(capsys, expected):
  FLAGS.json = True
  assert cifar10_predict.main(['0.png', '2.png']) == 0
  pictures = json.loads(capsys.readouterr().out)
  assert [picture['file'] for picture in pictures] == ['0.png', '2.png']
  for picture, probabilities in zip(pictures, expected[[0, 2]]):
    by_class = _by_class(picture)
    assert by_class == pytest.approx(dict(zip(dataset.CLASSES, probabilities)), rel=1e-3, abs=1e-6)
    assert list(by_class.values()) == sorted(by_class.values(), reverse=True)


def test_json_is_all_that_is_on_standard_output(home, capsys):
  shutil.copytree(TRAINED, 'run')
  for name in ('index', 'data-00000-of-00001'):
    (home / 'run' / ('model.ckpt-160000.' + name)).write_text('Not a checkpoint.')
  (home / 'run' / 'checkpoint').unlink()
  FLAGS(['cifar10_predict.py', '--checkpoint_dir=run', '--json'])
  assert cifar10_predict.main(['0.png']) == 0
  out, err = capsys.readouterr()
  assert [picture['file'] for picture in json.loads(out)] == ['0.png']
  assert 'model.ckpt-160000' in err


def test_ten_crops_are_averaged(capsys, images):
  FLAGS(['cifar10_predict.py', '--multiview', '--json'])
  assert cifar10_predict.main(['1.png']) == 0
  [picture] = json.loads(capsys.readouterr().out)
  [expected] = numpy_network.multiview_probabilities(images[1:2], numpy_network.averages(TRAINED))
  assert _by_class(picture) == pytest.approx(dict(zip(dataset.CLASSES, expected)), rel=1e-3,
                                             abs=1e-6)


def test_one_picture_is_told_in_full(capsys, expected):
  assert cifar10_predict.main(['1.png']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 10
  best = np.argmax(expected[1])
  assert lines[0].split() == [dataset.CLASSES[best], '%.1f' % (100 * expected[1][best]), '%']


def test_several_pictures_get_a_line_each_and_unreadable_ones_are_named(home, capsys, expected):
  (home / 'letter.txt').write_text('mine')
  (home / 'half.png').write_bytes((home / '0.png').read_bytes()[:1000])
  paths = ['0.png', 'letter.txt', '1.png', 'none.png', 'half.png', '2.png', '0.png']
  assert cifar10_predict.main(paths) == 1
  out, err = capsys.readouterr()
  assert [line.split()[0] for line in out.splitlines()] == ['0.png', '1.png', '2.png', '0.png']
  for line, probabilities in zip(out.splitlines(), expected):
    best = np.argmax(probabilities)
    assert line.split()[1:3] == [dataset.CLASSES[best], '%.0f' % (100 * probabilities[best])]
  assert [name for line in err.splitlines() for name in paths if name in line] == [
      'letter.txt', 'none.png', 'half.png']


def test_without_a_picture_or_a_checkpoint_is_a_user_error():
  with pytest.raises(UserError, match='--export_dir'):
    cifar10_predict.main([])
  FLAGS.checkpoint_dir = 'nowhere'
  with pytest.raises(UserError, match='nowhere'):
    cifar10_predict.main(['0.png'])


@pytest.fixture
def exported(home):
  """A function that exports the network, and returns one that runs a signature of it."""
  def export(*flags):
    FLAGS(['cifar10_predict.py', '--checkpoint_dir=' + TRAINED, '--export_dir=models/mine/1',
           *flags])
    assert cifar10_predict.main([]) == 0
    assert os.listdir('models/mine') == ['1']

    def run(signature, inputs):
      with tf.Graph().as_default(), tf.Session() as session:
        found = tf.saved_model.load(session, ['serve'], 'models/mine/1').signature_def[signature]
        assert found.method_name == 'tensorflow/serving/predict'
        assert found.inputs.keys() == inputs.keys()
        return session.run({key: output.name for key, output in found.outputs.items()},
                           {found.inputs[key].name: value for key, value in inputs.items()})
    return run
  return export


def test_exported_network_does_the_same(home, exported, images, expected):
  run = exported()
  answers = run('serving_default', {'pictures': [(home / ('%d.png' % i)).read_bytes()
                                                 for i in range(3)]})
  assert answers.keys() == {'classes', 'probabilities'}
  np.testing.assert_allclose(answers['probabilities'], expected, rtol=1e-3, atol=1e-6)
  assert answers['classes'].astype(str).tolist() == [list(dataset.CLASSES)] * 3
  of_images = run('images', {'images': images})
  assert of_images.keys() == {'probabilities'}
  np.testing.assert_allclose(of_images['probabilities'], expected, rtol=1e-3, atol=1e-6)
  with pytest.raises(UserError, match='models/mine/1 .*--export_dir'):
    cifar10_predict.main(['0.png'])


def test_exported_network_has_the_names_as_a_file(home, exported):
  exported()
  names = (home / 'models/mine/1/assets/classes.txt').read_text(encoding='utf-8')
  assert names == ''.join(name + '\n' for name in dataset.CLASSES)


def test_exported_network_averages_ten_crops(exported, images):
  answers = exported('--multiview')('images', {'images': images})
  np.testing.assert_allclose(
      answers['probabilities'],
      numpy_network.multiview_probabilities(images, numpy_network.averages(TRAINED)),
      rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('flags', [[], ['--multiview'], ['--mixed_precision']])
def test_of_nothing_the_answer_is_empty(flags, exported):
  run = exported(*flags)
  answers = run('serving_default', {'pictures': []})
  assert (answers['classes'].shape, answers['probabilities'].shape) == ((0, 10), (0, 10))
  answers = run('images', {'images': np.zeros([0, 32, 32, 3], np.uint8)})
  assert answers['probabilities'].shape == (0, 10)


@pytest.mark.parametrize('export_dir', ['caf\udce9', 'gs://mine', '/dev/null/mine'])
def test_export_dir_that_cannot_be_one_is_a_user_error_that_names_the_flag(export_dir):
  FLAGS.export_dir = export_dir
  with pytest.raises(UserError, match='--export_dir'):
    cifar10_predict.main([])
