import base64
import json
import os
import re

import numpy as np
from PIL import Image
import pytest
import tensorflow.compat.v1 as tf

import cifar10
from cifar10_support import dataset
from cifar10_support import runs
from cifar10_support.console import UserError
from conftest import ROOT
from conftest import TRAINED
from exercises import in_the_browser
import numpy_network

FLAGS = tf.app.flags.FLAGS
CIFAR_10 = {'classes': list(dataset.CLASSES)}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  FLAGS(['in_the_browser.py', '--checkpoint_dir=' + TRAINED, '--out=page.html'])
  return tmp_path


def _page():
  with open('page.html', encoding='utf-8') as text:
    return text.read()


def _data():
  """Returns what the page is made of, from its JSON."""
  [data] = re.findall('<script type="application/json" id="data">(.*?)</script>', _page())
  return json.loads(data)


def _array(base64_text, dtype):
  return np.frombuffer(base64.b64decode(base64_text), dtype)


def _untrained(data, bias=0.0):
  """Makes a run, trained on `data`, of the default graph, in which the last average is `bias`.
  """
  averages = tf.train.ExponentialMovingAverage(0.5)
  averages.apply(tf.trainable_variables())
  os.mkdir('run')
  runs.record_start('run', {'max_steps': 1}, data)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    last = averages.average(tf.trainable_variables()[-1])
    last.load(np.full(last.shape, bias), session)
    tf.train.Saver().save(session, 'run/model.ckpt', global_step=1)
  FLAGS.checkpoint_dir = 'run'


@pytest.mark.parametrize('averages', [True, False])
def test_page_has_the_values_of_the_checkpoint(averages):
  FLAGS.use_moving_averages = averages
  in_the_browser.main([])
  reader = tf.train.load_checkpoint(TRAINED)
  data = _data()
  assert len(data['variables']) == 10
  for key, packed in data['variables'].items():
    expected = reader.get_tensor(key + '/ExponentialMovingAverage' * averages)
    assert packed['shape'] == list(expected.shape)
    np.testing.assert_array_equal(_array(packed['values'], '<f4'), expected.ravel())
  assert (data['classes'], data['side'], data['crop']) == (list(dataset.CLASSES), 32, 24)


def test_page_opens_with_the_cat_and_the_answer_of_the_graph():
  in_the_browser.main([])
  [cat] = _data()['examples']
  image = np.asarray(Image.open(os.path.join(ROOT, 'docs', 'images', 'cat.png')).convert('RGB'))
  np.testing.assert_array_equal(_array(cat['pixels'], np.uint8), image.ravel())
  [expected] = numpy_network.probabilities(numpy_network.central_crop(image[np.newaxis]),
                                           numpy_network.averages(TRAINED))
  assert cat['probabilities'] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_page_is_one_small_file_that_names_no_address():
  in_the_browser.main([])
  assert os.listdir() == ['page.html']
  assert os.path.getsize('page.html') < 6e6
  page = _page()
  frame = re.sub('(?<=id="data">).*?(?=</script>)', '', page)
  assert not re.search(r'://|\bsrc=|\bhref=|\bimport\b|url\(', frame)
  [policy] = re.findall('Content-Security-Policy" content="([^"]*)"', page)
  assert "default-src 'none'" in policy and 'connect-src' not in policy


def test_pictures_of_your_own_are_on_the_page(home):
  for name, colour in (('<!--<script>.png', 'red'), ('b.jpg', 'blue')):
    Image.new('RGB', (50, 40), colour).save(home / name)
  in_the_browser.main(['<!--<script>.png', 'b.jpg'])
  first, second = _data()['examples']
  assert (first['name'], second['name']) == ('<!--<script>.png', 'b.jpg')
  assert _array(first['pixels'], np.uint8).reshape(-1, 3).tolist() == [[255, 0, 0]] * 32 * 32
  assert '<!--<' not in _page()


def test_page_follows_the_run_and_its_data_set(home):
  dataset.follow({'NUM_CLASSES': 3, 'IMAGE_SIZE': 21}, vars(cifar10), vars(cifar10.cifar10_input))
  cifar10.inference(tf.zeros([1, 21, 21, 1]))
  _untrained({'classes': ['one', 'two', 'three'], 'side': 28, 'image_shape': [21, 21, 1]})
  in_the_browser.main([])
  data = _data()
  assert data['classes'] == ['one', 'two', 'three']
  assert (data['side'], data['crop'], data['channels']) == (28, 21, 1)
  assert data['variables']['conv1/weights']['shape'] == [5, 5, 1, 64]
  [cat] = data['examples']
  assert len(_array(cat['pixels'], np.uint8)) == 28 * 28 and len(cat['probabilities']) == 3


def test_another_network_is_a_user_error_that_names_its_variables(monkeypatch):
  inference = cifar10.inference

  def deeper(images, training=False):
    return cifar10.linear(inference(images), 10, 'more')

  monkeypatch.setattr(cifar10, 'inference', deeper)
  cifar10.inference(tf.zeros([1, 24, 24, 3]))
  _untrained(CIFAR_10)
  with pytest.raises(UserError, match=r'more/weights \[10, 10\]'):
    in_the_browser.main([])
  assert not os.path.exists('page.html')


def test_network_that_has_diverged_is_a_user_error():
  cifar10.inference(tf.zeros([1, 24, 24, 3]))
  _untrained(CIFAR_10, bias=np.nan)
  with pytest.raises(UserError, match='diverged'):
    in_the_browser.main([])


@pytest.mark.parametrize('out, message', [('cat.png', '--out'), ('no/page.html', 'no/page.html')])
def test_page_that_cannot_be_written_is_a_user_error(out, message):
  FLAGS.out = out
  with pytest.raises(UserError, match=message):
    in_the_browser.main([])
  assert os.listdir() == []


def test_picture_that_cannot_be_read_is_a_user_error(home):
  (home / 'letter.txt').write_text('mine')
  with pytest.raises(UserError, match='letter.txt'):
    in_the_browser.main(['letter.txt'])
  assert not (home / 'page.html').exists()
