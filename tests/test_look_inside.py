import base64
import io
import json
import os
import re

import numpy as np
from PIL import Image
import pytest
import tensorflow.compat.v1 as tf

import cifar10
from cifar10_support import dataset
from cifar10_support.console import UserError
from conftest import ROOT
from conftest import TRAINED
import cifar10_train
from exercises import look_inside
import numpy_network

FLAGS = tf.app.flags.FLAGS
# Each with the name by which `session.run` fetches it.
LAYERS = {'conv1': 'conv1/conv1:0', 'norm1': 'norm1:0', 'conv2': 'conv2/conv2:0',
          'pool2': 'pool2:0', 'local3': 'local3/local3:0', 'local4': 'local4/local4:0'}


@pytest.fixture
def images(labelled_data_dir):
  """The first test images of `labelled_data_dir`, uint8 [3, 32, 32, 3]."""
  [path] = dataset.find(labelled_data_dir, 10).test_files
  return numpy_network.read(path)[0][:3]


@pytest.fixture
def crop(images):
  return numpy_network.central_crop(images)[0]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, images, labelled_data_dir):
  """A directory with three test images as pictures."""
  monkeypatch.chdir(tmp_path)
  FLAGS(['look_inside.py', '--checkpoint_dir=' + TRAINED, '--data_dir=' + labelled_data_dir])
  for i, image in enumerate(images):
    Image.fromarray(image).save(f'{i}.png')
  return tmp_path


@pytest.fixture
def session():
  """A session with the graph of `build` and the trained network."""
  look_inside.build()
  with _trained_session() as session:
    yield session


def _trained_session():
  session = tf.Session()
  values = numpy_network.averages(TRAINED)
  for variable in tf.trainable_variables():
    variable.load(values[variable.op.name], session)
  return session


def _data(page='look_inside.html'):
  """Returns what is on a page, from its JSON."""
  with open(page, encoding='utf-8') as text:
    [data] = re.findall('<script type="application/json" id="data">(.*?)</script>', text.read())
  return json.loads(data)


def _unpacked(packed):
  """Returns an array, and how far it may be from what was packed."""
  levels = np.frombuffer(base64.b64decode(packed['levels']), np.uint8).reshape(packed['shape'])
  step = (packed['high'] - packed['low']) / 255
  return packed['low'] + levels * step, 0.51 * step


def _pixels(url):
  return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition('base64,')[2]))))


def test_layers_on_the_page_are_those_that_session_run_fetches_by_name(images):
  assert look_inside.main(['0.png', '2.png']) == 0
  crops = numpy_network.central_crop(images)[[0, 2]]
  with tf.Graph().as_default():
    cifar10.inference(tf.constant(crops))
    with _trained_session() as session:
      expected = session.run(LAYERS)
  probabilities = numpy_network.probabilities(crops, numpy_network.averages(TRAINED))
  for i, picture in enumerate(_data()['pictures']):
    assert picture['probabilities'] == pytest.approx(probabilities[i], rel=1e-3, abs=1e-6)
    for key, values in [('crop', crops), *expected.items()]:
      actual, tolerance = _unpacked(picture[key])
      np.testing.assert_allclose(actual, values[i], rtol=0, atol=tolerance + 1e-4)
    for key, order in picture['order'].items():
      means = expected[key][i].mean(axis=(0, 1))[order]
      assert sorted(order) == list(range(64))
      assert np.all(np.diff(means) <= 1e-5)
    np.testing.assert_array_equal(_pixels(picture['picture']), images[[0, 2]][i])


def test_filters_are_those_of_the_checkpoint():
  look_inside.main(['0.png'])
  actual, tolerance = _unpacked(_data()['filters'])
  np.testing.assert_allclose(actual, numpy_network.averages(TRAINED)['conv1/weights'], rtol=0,
                             atol=tolerance)


def test_similar_images_are_the_nearest_by_the_cosine_in_local4(session, labelled_data_dir):
  look_inside.main(['1.png'])
  [picture] = _data()['pictures']
  [path] = dataset.find(labelled_data_dir, 10).test_files
  images, labels = numpy_network.read(path)
  local4 = session.run(LAYERS['local4'], {'crops:0': numpy_network.central_crop(images)})
  lengths = np.sqrt(np.sum(local4 ** 2, axis=1))
  cosines = np.sum(local4 * local4[1], axis=1) / lengths / lengths[1]
  expected = [i for i in np.argsort(-cosines) if i != 1][:8]
  assert picture['itself'] == 1
  assert [other['index'] for other in picture['similar']] == expected
  for other, i in zip(picture['similar'], expected):
    assert other['similarity'] == pytest.approx(cosines[i], abs=1e-5)
    assert other['label'] == dataset.CLASSES[labels[i]]
    np.testing.assert_array_equal(_pixels(other['image']), images[i])


def test_picture_that_is_no_test_image_is_not_itself_among_the_similar(images):
  Image.fromarray(255 - images[0]).save('negative.png')
  look_inside.main(['negative.png'])
  [picture] = _data()['pictures']
  assert picture['itself'] is None and len(picture['similar']) == 8


def test_cosine_similarities_by_hand():
  vectors = np.array([[2, 0], [0, 5], [-1, 0], [3, 3], [0, 0]], np.float32)
  np.testing.assert_allclose(look_inside.cosine_similarities(np.array([4, 0], np.float32), vectors),
                             [1, 0, -1, 0.5 ** 0.5, 0], atol=1e-6)


def test_occlusion_against_a_patch_put_there_by_hand(session, crop):
  drops = look_inside.occlusion(session, crop)
  assert drops.shape == (10, 24, 24)
  variables = numpy_network.averages(TRAINED)
  [before] = numpy_network.probabilities(crop[np.newaxis], variables)
  for row, column, rows, columns in [
      (12, 5, slice(9, 16), slice(2, 9)), (0, 0, slice(0, 4), slice(0, 4)),
      (23, 11, slice(20, 24), slice(8, 15))]:
    hidden = crop.copy()
    hidden[rows, columns] = 0
    [after] = numpy_network.probabilities(hidden[np.newaxis], variables)
    np.testing.assert_allclose(drops[:, row, column], before - after, rtol=1e-3, atol=1e-5)


def test_gradients_against_differences(session, crop):
  actual = look_inside.gradients(session, crop)
  assert actual.shape == (10, 24, 24)
  variables = {key: value.astype(float) for key, value in numpy_network.averages(TRAINED).items()}
  step = 1e-5  # So small that hardly any ReLU or maximum changes sides.
  for row, column in [(0, 0), (11, 12), (23, 7)]:
    changed = np.repeat(crop[np.newaxis].astype(float), 6, axis=0)
    for colour in range(3):
      changed[colour, row, column, colour] += step
      changed[3 + colour, row, column, colour] -= step
    logits = numpy_network.logits(changed, variables)
    expected = np.abs(logits[:3] - logits[3:]).max(axis=0) / (2 * step)
    np.testing.assert_allclose(actual[:, row, column], expected, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize('side', [21, 24, 26])
def test_receptive_fields_are_the_pixels_with_a_gradient(side):
  random = np.random.RandomState(0)
  images = tf.constant(random.normal(size=[30, side, side, 3]).astype(np.float32))
  cifar10.inference(images)
  fields = look_inside.receptive_fields(side)
  assert set(fields) == {'conv1', 'norm1', 'conv2', 'pool2'}
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for layer, (stride, first, size) in fields.items():
      output = tf.get_default_graph().get_tensor_by_name(LAYERS[layer])
      for place in (0, 3, int(output.shape[1]) - 1):
        [gradient] = tf.gradients(output[:, place, place], images)
        pixels = np.flatnonzero(np.any(session.run(gradient), axis=(0, 2, 3)))
        start = stride * place + first
        assert pixels.tolist() == list(range(max(0, start), min(side, start + size)))


def test_maps_of_a_class_are_on_the_page(session, crop):
  look_inside.main(['0.png'])
  [picture] = _data()['pictures']
  for key, expected in [('occlusion', look_inside.occlusion(session, crop)),
                        ('gradient', look_inside.gradients(session, crop))]:
    assert len(picture[key]) == 10
    for packed, values in zip(picture[key], expected):
      actual, tolerance = _unpacked(packed)
      np.testing.assert_allclose(actual, values, rtol=0, atol=tolerance + 1e-5)


def test_unreadable_pictures_are_named_and_the_others_shown(home, capsys):
  (home / 'letter.txt').write_text('mine')
  assert look_inside.main(['0.png', 'letter.txt', 'none.png', '1.png']) == 1
  assert [picture['name'] for picture in _data()['pictures']] == ['0.png', '1.png']
  first, second = capsys.readouterr().err.splitlines()
  assert 'letter.txt' in first and 'none.png' in second
  assert look_inside.main(['none.png']) == 1


def test_without_a_picture_nothing_is_written(home):
  assert look_inside.main(['none.png']) == 1
  assert not list(home.glob('*.html*'))


def test_without_data_there_are_no_similar_images(home, capsys):
  FLAGS.data_dir = 'nowhere'
  assert look_inside.main(['0.png']) == 0
  data = _data()
  assert data['pictures'][0]['similar'] is None and data['testImages'] is None
  assert 'nowhere' in capsys.readouterr().out
  assert not (home / 'nowhere').exists()


def test_data_of_other_classes_is_a_user_error(small_data_dir):
  FLAGS.data_dir = small_data_dir
  with pytest.raises(UserError, match='another data set'):
    look_inside.main(['0.png'])


@pytest.mark.parametrize('out, message', [('0.png', '--out'), ('no/page.html', 'no/page.html')])
def test_page_that_cannot_be_written_is_a_user_error(home, out, message):
  before = (home / '0.png').read_bytes()
  FLAGS.out = out
  with pytest.raises(UserError, match=message):
    look_inside.main(['0.png'])
  assert (home / '0.png').read_bytes() == before


def test_no_picture_and_no_checkpoint_are_user_errors():
  with pytest.raises(UserError, match='picture'):
    look_inside.main([])
  FLAGS.checkpoint_dir = 'nowhere'
  with pytest.raises(UserError, match='nowhere'):
    look_inside.main(['0.png'])


def test_network_that_has_diverged_is_a_user_error(session):
  tf.trainable_variables()[-1].load(np.full(10, np.nan), session)
  with pytest.raises(UserError, match='diverged'):
    look_inside.look(session, '0.png')


def test_page_of_a_large_photo_is_small_and_shows_it_whole_and_upright(home):
  noise = np.random.RandomState(0).randint(0, 256, [1600, 1200, 3]).astype(np.uint8)
  photo = Image.fromarray(noise)
  exif = photo.getexif()
  exif[0x0112] = 6  # To be turned a quarter.
  photo.save('photo.jpg', exif=exif)
  look_inside.main(['photo.jpg'])
  [picture] = _data()['pictures']
  height, width, _ = _pixels(picture['picture']).shape
  assert (height, width) == (480, 640)
  assert (home / 'look_inside.html').stat().st_size < 3e6


def test_transparent_and_16_bit_pictures_are_shown(home):
  Image.new('RGBA', (40, 20), (0, 0, 255, 0)).save('glass.png')
  Image.fromarray(np.full([40, 40], 30000, np.uint16)).save('grey.png')
  look_inside.main(['glass.png', 'grey.png'])
  glass, grey = [_pixels(picture['picture']) for picture in _data()['pictures']]
  assert glass.shape == (20, 40, 3) and np.all(glass == 255)
  assert np.all(np.abs(grey.astype(int) - 117) <= 1)  # 30000 / 65535 * 255.


def test_names_cannot_end_the_data(home):
  (home / '0.png').rename(home / '<!--<script>.png')
  look_inside.main(['<!--<script>.png'])
  assert [picture['name'] for picture in _data()['pictures']] == ['<!--<script>.png']
  assert '<!--' not in (home / 'look_inside.html').read_text(encoding='utf-8')


def test_page_follows_the_run_and_its_data_set(home):
  # Grey images of 28x28 in three classes, of which the network sees 21x21.
  random = np.random.RandomState(0)
  folder = home / 'grey' / dataset.FOLDER
  folder.mkdir(parents=True)
  records = random.randint(0, 256, [12, 1 + 28 * 28]).astype(np.uint8)
  records[:, 0] %= 3
  for i, part in enumerate(np.array_split(records, 5)):
    part.tofile(folder / f'data_batch_{i + 1}.bin')
  records.tofile(folder / 'test_batch.bin')
  (folder / 'data_set.json').write_text(json.dumps({
      'side': 28, 'channels': 1, 'classes': ['one', 'two', 'three'],
      'images': {'train': 12, 'validation': 0, 'test': 12}}))
  FLAGS(['look_inside.py', '--data_dir=grey', '--train_dir=run', '--max_steps=1', '--batch_size=4',
         '--min_queue_examples=8'])
  cifar10_train.main()
  FLAGS(['look_inside.py', '--data_dir=grey', '--checkpoint_dir=run'])
  assert look_inside.main(['0.png']) == 0
  data = _data()
  [picture] = data['pictures']
  assert data['classes'] == ['one', 'two', 'three']
  assert data['filters']['shape'] == [5, 5, 1, 64]
  assert (picture['side'], picture['crop']['shape']) == (28, [21, 21, 1])
  assert [len(picture[key]) for key in ('probabilities', 'occlusion', 'gradient')] == [3, 3, 3]
  assert picture['occlusion'][0]['shape'] == picture['gradient'][0]['shape'] == [21, 21]
  for other in picture['similar']:
    i = other['index']
    np.testing.assert_array_equal(_pixels(other['image']).ravel(), records[i, 1:])
    assert other['label'] == data['classes'][records[i, 0]]


def test_page_in_the_documents_is_what_the_program_writes():
  path = os.path.join(ROOT, 'docs', 'look_inside', 'cat.html')
  with open(path, encoding='utf-8') as page, open(look_inside.TEMPLATE, encoding='utf-8') as text:
    frame = re.sub('(?<=id="data">).*(?=</script>)', '{{data}}', page.read())
    assert frame == text.read()
  [cat] = _data(path)['pictures']
  image = numpy_network.central_crop(_pixels(cat['picture'])[np.newaxis])
  [probabilities] = numpy_network.probabilities(image, numpy_network.averages(TRAINED))
  assert cat['probabilities'] == pytest.approx(probabilities, rel=1e-3, abs=1e-6)
