"""exercises/in_the_browser.py as a command, and its page in a browser."""

import base64
import json
import os

from absl.testing import flagsaver
import numpy as np
from PIL import Image
import pytest
import tensorflow.compat.v1 as tf

import chromium
import cifar10
import cifar10_predict
from cifar10_support import dataset
from cifar10_support import pictures
from cifar10_support import runs
from conftest import DATA
from conftest import TRAINED
from exercises import in_the_browser
from exercises import look_inside
import numpy_network
from waiting import wait_until
import warm_process

PROBABILITIES = 'return [...seen.probabilities]'
PIXELS = 'return document.querySelector(arguments[0]).toDataURL()'
CAMERA = ('use-fake-device-for-media-stream', 'use-fake-ui-for-media-stream')


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  """Path of the page."""
  home = tmp_path_factory.mktemp('in_the_browser') / 'home'
  home.mkdir()
  process = warm_process.WarmProcess(home, 'exercises/in_the_browser.py',
                                     ['--out=page.html', f'--checkpoint_dir={TRAINED}'])
  assert (process.wait(300), process.err) == (0, '')
  assert [path.name for path in home.iterdir()] == ['page.html']
  return home / 'page.html'


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
  with chromium.opened(tmp_path_factory.mktemp('profile'), flags=CAMERA) as browser:
    yield browser


@pytest.fixture(autouse=True)
def open_page(page, browser):
  """Each test finds the page as it opens, and leaves no error and no request to elsewhere."""
  browser.get_log('browser'), browser.get_log('performance')
  browser.get(page.as_uri())
  # On a busy machine the driver returns before the last script has run.
  wait_until(lambda: browser.execute_script('return document.readyState') == 'complete',
             lambda: True)
  yield
  assert browser.get_log('browser') == []
  events = [json.loads(entry['message'])['message'] for entry in browser.get_log('performance')]
  addresses = [event['params']['request']['url'] for event in events
               if event['method'] == 'Network.requestWillBeSent'
               and event['params']['documentURL'] == page.as_uri()]
  assert addresses == [page.as_uri()]


def _note(browser):
  return browser.find_element('css selector', '#note').text


def _choose(browser, path):
  """Chooses a file; returns the page's probabilities of its classes."""
  browser.find_element('css selector', 'input').send_keys(str(path))
  wait_until(lambda: _note(browser).startswith(path.name), lambda: True)
  return browser.execute_script(PROBABILITIES)


def _drop(browser, path):
  """Drops a file on the page, as a browser reports it."""
  browser.execute_script('''
    const bytes = Uint8Array.from(atob(arguments[0]), letter => letter.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], arguments[1]));
    document.querySelector('h1').dispatchEvent(
      new DragEvent('drop', {dataTransfer, bubbles: true, cancelable: true}))''',
                         base64.b64encode(path.read_bytes()).decode(), path.name)
  wait_until(lambda: _note(browser).startswith(path.name), lambda: True)


def _check_layers(browser, session, path):
  """Compares all layers in the browser with the graph of `look_inside.build`, for a picture."""
  names = {**look_inside.MAPS, **look_inside.UNITS}
  for layer, [expected] in session.run(names, {'pictures:0': [pictures.load(path)]}).items():
    found = browser.execute_script(
        'const layer = seen[arguments[0]]; return [...(layer.shape ? layer.values : layer)]', layer)
    np.testing.assert_allclose(found, expected.ravel(), rtol=1e-4, atol=1e-5)


def _predicted(paths):
  """Returns what cifar10_predict.py says, float [n, 10]."""
  with flagsaver.flagsaver(checkpoint_dir=TRAINED):
    predictions = cifar10_predict.predict(list(map(str, paths)))
  return np.array([[probability for probability, _ in sorted(
      ranking, key=lambda pair: dataset.CLASSES.index(pair[1]))] for _, ranking in predictions])


def test_twenty_test_images_have_the_probabilities_of_the_script(browser, small_data_dir, tmp_path):
  data_dir = DATA if dataset.locate(DATA) else small_data_dir
  paths = [tmp_path / f'{i}.png' for i in range(20)]
  for image, path in zip(dataset.find(data_dir, 10).read_images('test', range(20)), paths):
    Image.fromarray(image).save(path)
  expected = _predicted(paths)
  assert np.ptp(expected, axis=0).max() > 0.5
  found = [_choose(browser, path) for path in paths]
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_pictures_of_other_sizes_and_kinds_have_them_too(browser, tmp_path):
  random = np.random.RandomState(0)
  colours = Image.fromarray(random.randint(0, 256, [6, 9, 4], np.uint8)).resize([201, 137])
  upright = colours.getexif()
  upright[0x0112] = 6  # To be turned a quarter.
  paths = []
  for name, picture in [('photo.jpg', colours.convert('RGB')), ('glass.png', colours),
                        ('grey.png', colours.convert('L')), ('palette.gif', colours.convert('P')),
                        ('tiny.png', colours.convert('RGB').resize([11, 17])),
                        ('halves.png', colours.convert('RGB').resize([64, 64]))]:
    paths.append(tmp_path / name)
    picture.save(paths[-1], **({'exif': upright} if name == 'photo.jpg' else {}))
  found = [_choose(browser, path) for path in paths]
  expected = _predicted(paths)
  # A canvas lays what is half transparent on white in whole grey levels, the graph in floats.
  glass = paths.index(tmp_path / 'glass.png')
  assert found[glass] == pytest.approx(expected[glass], abs=0.02)
  found[glass] = expected[glass]
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_page_opens_with_the_cat_and_says_that_the_graph_agrees(browser):
  assert 'the same' in _note(browser)
  assert browser.find_element('css selector', '#answer').text.startswith('cat')
  browser.execute_script('''
    variables['conv2/biases'].values.fill(1);
    document.querySelector('.example').click()''')
  assert 'Do not trust' in _note(browser)


def test_layers_are_those_of_the_graph(browser):
  look_inside.build()
  with tf.Session() as session:
    for variable in tf.trainable_variables():
      variable.load(numpy_network.averages(TRAINED)[variable.op.name], session)
    _check_layers(browser, session, in_the_browser.CAT)


def test_grey_images_of_another_size(browser, tmp_path):
  data = {'classes': ['one', 'two', 'three'], 'side': 28, 'image_shape': [21, 21, 1]}
  data_set = dataset.of_run(data, 10)
  dataset.follow(data_set.constants, vars(cifar10), vars(cifar10.cifar10_input))
  look_inside.build(data_set)
  tf.train.ExponentialMovingAverage(0.5).apply(tf.trainable_variables())  # They start as these.
  run, page = tmp_path / 'run', tmp_path / 'page.html'
  run.mkdir()
  runs.record_start(str(run), {'max_steps': 1}, data)
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    tf.train.Saver().save(session, str(run / 'model.ckpt'), global_step=1)
    with flagsaver.flagsaver(checkpoint_dir=str(run), out=str(page)):
      in_the_browser.main([])
    browser.get(page.as_uri())
    wait_until(lambda: 'the same' in _note(browser), lambda: True)
    _check_layers(browser, session, in_the_browser.CAT)
  assert len(browser.find_elements('css selector', '#bars li')) == 3


def test_dropped_file_changes_bars_and_maps(browser, tmp_path):
  def shown():
    bars = [bar.text for bar in browser.find_elements('css selector', '#bars li')]
    return bars, [browser.execute_script(PIXELS, f'#{layer} canvas:last-of-type')
                  for layer in ('conv1', 'norm1', 'conv2', 'pool2', 'local3', 'local4')]

  before = shown()
  assert [bar.split()[0] for bar in before[0]] == list(dataset.CLASSES)
  assert all(browser.execute_script(
      'return document.querySelectorAll(arguments[0]).length', f'#{layer} .tiles canvas') == 64
      for layer in ('conv1', 'norm1', 'conv2', 'pool2'))
  path = tmp_path / 'noise.png'
  Image.fromarray(np.random.RandomState(0).randint(0, 256, [90, 60, 3], np.uint8)).save(path)
  _drop(browser, path)
  after = shown()
  assert before[0] != after[0]
  assert all(old != new for old, new in zip(before[1], after[1]))
  assert browser.execute_script('return document.querySelector("#photo").width') == 60
  # Each bar is as wide as its probability.
  widths = browser.execute_script(
      'return [...document.querySelectorAll("#bars i")].map(bar => parseFloat(bar.style.width))')
  np.testing.assert_allclose(widths, np.multiply(browser.execute_script(PROBABILITIES), 100),
                             atol=1e-3)


def test_file_that_is_no_picture_is_named_and_changes_nothing(browser, tmp_path):
  before = browser.execute_script(PROBABILITIES)
  path = tmp_path / 'letter.txt'
  path.write_text('mine')
  _drop(browser, path)
  assert 'letter.txt' in _note(browser)
  assert browser.execute_script(PROBABILITIES) == before


def test_part_of_the_picture_is_hidden_and_shown_again(browser):
  webdriver = pytest.importorskip('selenium.webdriver')
  before = browser.execute_script(PROBABILITIES)
  image = browser.find_element('css selector', '#image')
  webdriver.ActionChains(browser).drag_and_drop_by_offset(image, 20, 10).perform()
  assert browser.execute_script(PROBABILITIES) != before
  browser.find_element('css selector', '#uncover').click()
  assert browser.execute_script(PROBABILITIES) == before


def test_channel_is_enlarged(browser):
  browser.find_elements('css selector', '#conv1 .tiles button')[5].click()
  dialog = browser.find_element('css selector', 'dialog')
  assert dialog.is_displayed() and 'conv1, channel 5' in dialog.text
  assert len(dialog.find_elements('css selector', 'canvas')) == 3  # The filter, too.
  browser.find_element('css selector', 'dialog .previous').click()
  assert 'conv1, channel 4' in dialog.text
  browser.find_element('css selector', 'dialog .close').click()
  assert not dialog.is_displayed()


def test_camera_is_classified_again_and_again_until_a_picture_is_kept(browser):
  button = browser.find_element('css selector', '#camera')
  before = browser.execute_script(PROBABILITIES)
  button.click()  # Chromium's stand-in is a clock: no two pictures of it are the same.
  for _ in range(2):
    wait_until(lambda: browser.execute_script(PROBABILITIES) != before, lambda: True)
    before = browser.execute_script(PROBABILITIES)
  button.click()
  kept = browser.execute_script(PROBABILITIES)
  assert browser.execute_script('return stream') is None
  assert browser.execute_script(PROBABILITIES) == kept
  assert browser.find_element('css selector', '#photo').is_displayed()


@pytest.mark.parametrize('name', ['NotAllowedError', 'NotFoundError', 'NotReadableError', 'Other'])
def test_refused_camera_is_one_clear_line(browser, name):
  browser.execute_script('''
    navigator.mediaDevices.getUserMedia =
      () => Promise.reject(new DOMException('', arguments[0]));
    document.querySelector('#camera').click()''', name)
  wait_until(lambda: 'camera' in _note(browser), lambda: True)
  assert browser.find_element('css selector', '#photo').is_displayed()


@pytest.mark.parametrize('width', [400, 900, 1400])
def test_page_fits_its_window(browser, width):
  browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', {
      'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': False})
  try:
    needed, there = browser.execute_script(
        'return [document.documentElement.scrollWidth, document.documentElement.clientWidth]')
    assert needed <= there <= width
  finally:
    browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})


def test_size(page):
  assert os.path.getsize(page) < 6e6
