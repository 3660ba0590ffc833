"""exercises/look_inside.py as a command, and its page in a browser."""

import json

import numpy as np
from PIL import Image
import pytest

import chromium
from conftest import TRAINED
import warm_process

# The pixels of a canvas, as text.
PIXELS = 'return document.querySelector(arguments[0]).toDataURL()'
COUNT = 'return document.querySelectorAll(arguments[0]).length'


@pytest.fixture(scope='module')
def page(labelled_data_dir, tmp_path_factory):
  """Path of a page with three pictures."""
  home = tmp_path_factory.mktemp('look_inside') / 'home'
  home.mkdir()
  random = np.random.RandomState(0)
  for name, size in (('wide.png', [60, 90, 3]), ('high.jpg', [300, 200, 3]),
                     ('small.png', [32, 32, 3])):
    Image.fromarray(random.randint(0, 256, size).astype(np.uint8)).save(home / name)
  process = warm_process.WarmProcess(home, 'exercises/look_inside.py', [
      'wide.png', 'high.jpg', 'small.png', '--out=page.html', f'--checkpoint_dir={TRAINED}',
      f'--data_dir={labelled_data_dir}'])
  assert (process.wait(), process.err) == (0, '')
  assert sorted(path.name for path in home.iterdir()) == [
      'high.jpg', 'page.html', 'small.png', 'wide.png']
  return home / 'page.html'


@pytest.fixture(scope='module')
def browser(page, tmp_path_factory):
  with chromium.opened(tmp_path_factory.mktemp('profile')) as browser:
    yield browser


@pytest.fixture(autouse=True)
def open_page(page, browser):
  """Each test finds the page as it opens, and leaves no error and no request to elsewhere."""
  browser.get_log('browser'), browser.get_log('performance')
  browser.get(page.as_uri())
  yield
  assert browser.get_log('browser') == []
  events = [json.loads(entry['message'])['message'] for entry in browser.get_log('performance')]
  addresses = [event['params']['request']['url'] for event in events
               if event['method'] == 'Network.requestWillBeSent'
               and event['params']['documentURL'] == page.as_uri()]
  assert [address for address in addresses if not address.startswith('data:')] == [page.as_uri()]


def test_two_pictures_are_side_by_side_with_all_layers(browser):
  for layer in ('conv1', 'norm1', 'conv2', 'pool2'):
    assert browser.execute_script(COUNT, f'#{layer} .cell') == 2
    assert browser.execute_script(COUNT, f'#{layer} .tile') == 2 * 12
  first, second = browser.execute_script(
      'return [...document.querySelectorAll("#conv1 .cell")].map(cell => cell.offsetTop)')
  assert first == second
  browser.find_element('css selector', '#norm1 .plain').click()
  assert browser.execute_script(COUNT, '#norm1 .tile') == 2 * 64


def test_another_class_has_other_maps(browser):
  before = {kind: browser.execute_script(PIXELS, f'#why .{kind} canvas')
            for kind in ('occlusion', 'gradient')}
  chosen, other = (browser.find_elements('css selector', '#why .bar')[i].text.split()[0]
                   for i in (0, 3))
  assert chosen in browser.find_element('css selector', '#why .occlusion').text
  browser.find_elements('css selector', '#why .bar')[3].click()
  for kind, pixels in before.items():
    assert browser.execute_script(PIXELS, f'#why .{kind} canvas') != pixels
    assert other in browser.find_element('css selector', f'#why .{kind}').text
  browser.find_elements('css selector', '#why .bar')[0].click()
  for kind, pixels in before.items():
    assert browser.execute_script(PIXELS, f'#why .{kind} canvas') == pixels


def test_map_is_the_one_in_the_data(browser):
  # Black to white is monotonous in the sum of the colours of the scale.
  order, brightness = browser.execute_script('''
    const [tile] = document.querySelectorAll('#conv1 .tile'), picture = data.pictures[0];
    const map = plane(picture.conv1, +tile.dataset.channel);
    const context = tile.querySelector('canvas').getContext('2d');
    const {data: colours} = context.getImageData(0, 0, 24, 24);
    return [[...map.values], [...map.values].map((_, i) => colours[4 * i] + colours[4 * i + 1])]''')
  ranks = np.argsort(order, kind='stable')
  assert np.all(np.diff(np.array(brightness)[ranks]) >= 0)
  assert len(set(brightness)) > 10


def test_map_is_enlarged(browser):
  tile = browser.find_element('css selector', '#conv1 .tile')
  channel = tile.get_attribute('data-channel')
  tile.click()
  dialog = browser.find_element('css selector', 'dialog')
  assert dialog.is_displayed() and f'channel {channel}' in dialog.text
  # Of each picture the map, the crop, the filter, and the part of the crop.
  assert browser.execute_script(COUNT, 'dialog canvas') == 2 * 4
  browser.find_element('css selector', 'dialog .next').click()
  assert f'channel {(int(channel) + 1) % 64}' in dialog.text
  browser.find_element('css selector', 'dialog .close').click()
  assert not dialog.is_displayed()


def test_third_picture_is_chosen(browser):
  names = 'return [...document.querySelectorAll("#picture .who")].map(name => name.textContent)'
  assert browser.execute_script(names) == ['wide.png', 'high.jpg']
  browser.find_elements('css selector', 'select')[1].send_keys('small')
  assert browser.execute_script(names) == ['wide.png', 'small.png']


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
