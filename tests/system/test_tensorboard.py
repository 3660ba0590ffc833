"""TensorBoard on a run: what its server finds there, and what a browser draws."""

import io
import json
import urllib.parse

import numpy as np
from PIL import Image
import pytest

import chromium
from cifar10_support import tabs
import tensorboard_process
import warm_process

LAYERS = ['conv1', 'pool1', 'norm1', 'conv2', 'norm2', 'pool2', 'local3', 'local4',
          'softmax_linear']

# Visible elements that match a selector. TensorBoard nests them in shadow trees.
VISIBLE = '''
  function* all(root) {
    for (const element of root.querySelectorAll('*')) {
      yield element;
      if (element.shadowRoot) yield* all(element.shadowRoot);
    }
  }
  return [...all(document)].filter(element => {
    const box = element.getBoundingClientRect();
    // A horizontal line has no height.
    return element.matches(arguments[0]) && (box.width || box.height);
  })'''
HAS_TEXT = VISIBLE + '.some(element => element.textContent.trim() == arguments[1])'


@pytest.fixture(scope='module')
def logdir(small_data_dir, tmp_path_factory):
  """The folder of a short training run that was evaluated twice, and of a shorter one."""
  home = tmp_path_factory.mktemp('tensorboard') / 'home'
  home.mkdir()
  training = ('cifar10_train.py', '--save_summaries_steps=10', '--log_frequency=10')
  evaluation = ('cifar10_eval.py', '--run_once', '--projector')
  other = ('cifar10_train.py', '--max_steps=11', '--momentum=0.25', '--log_frequency=10',
           '--save_summaries_steps=10', '--train_dir=cifar10/other/train')
  for script, *args in [(*training, '--max_steps=21'), evaluation, (*training, '--max_steps=41'),
                        evaluation, other]:
    process = warm_process.WarmProcess(
        home, script, ['--data_dir=' + small_data_dir, '--batch_size=8', *args])
    assert process.wait() == 0, process.err
  return home / 'cifar10'


def test_training_and_evaluation_are_two_runs_with_all_that_they_wrote(logdir):
  with tensorboard_process.served(logdir) as address:
    tags = tensorboard_process.tags(address, {'train', 'eval'})
    assert {'learning_rate', 'losses/total_loss/raw', 'losses/total_loss/average',
            'conv1/sparsity', 'examples/sec'} <= tags['scalars']['train'].keys()
    assert {'precision @ 1', 'recall/warm disc'} <= tags['scalars']['eval'].keys()
    assert {'conv1/filters/image', 'input/images/image/0'} <= tags['images']['train'].keys()
    assert {'conv1/activations', 'conv1/weights/values', 'conv1/weights/gradients'} <= (
        tags['histograms']['train'].keys())
    assert 'confusion matrix/picture' in tags['images']['eval']
    assert {'confusion matrix/counts', 'mistakes/names'} <= set(
        json.loads(tensorboard_process.get(address, 'text/tags'))['eval'])
    query = urllib.parse.urlencode({'tag': 'losses/total_loss/raw', 'run': 'train'})
    points = json.loads(tensorboard_process.get(address, 'scalars/scalars?' + query))
    steps = [step for _, step, _ in points]
    assert steps == [1, 11, 21, 31, 41]  # Resumed after 21.
    for run in ('train', 'eval'):
      graph = tensorboard_process.get(address, 'graphs/graph?run=' + run)
      assert b'name: "softmax_linear/softmax_linear"' in graph


@pytest.fixture(scope='module')
def tab(logdir, tmp_path_factory):
  """A function that opens a tab of TensorBoard on a run, and returns the browser."""
  with tensorboard_process.served(logdir / 'train') as training, \
      tensorboard_process.served(logdir / 'eval') as evaluation, \
      tensorboard_process.served(logdir) as both:
    addresses = {'train': training, 'eval': evaluation, '.': both}
    for run, address in addresses.items():
      tensorboard_process.tags(address, {'train', 'eval'} if run == '.' else {'.'})
    with chromium.opened(tmp_path_factory.mktemp('profile')) as browser:
      def open_tab(run, name):
        browser.get('about:blank')  # Another fragment alone would not load the page again.
        browser.get('%s/#%s' % (addresses[run], name))
        return browser

      yield open_tab


def _wait(browser, question, *args):
  """Returns what a script answers in the page, once that is true."""
  from selenium.webdriver.support.ui import WebDriverWait
  return WebDriverWait(browser, 120).until(lambda _: browser.execute_script(question, *args))


@pytest.mark.parametrize('run, tag', [
    ('train', 'losses/total_loss/raw'), ('train', 'losses/total_loss/average'),
    ('train', 'learning_rate'), ('train', 'examples/sec'), ('train', 'conv1/sparsity'),
    ('eval', 'precision @ 1'), ('eval', 'recall/warm disc')])
def test_scalars_are_drawn_as_curves(tab, run, tag):
  browser = tab(run, 'scalars&tagFilter=%s' % urllib.parse.quote('^%s$' % tag))
  _wait(browser, HAS_TEXT, '*', tag)
  # The chart that the filter finds comes first. Its curve joins the points.
  _wait(browser, VISIBLE + '.slice(0, 1).some(line => /L/.test(line.getAttribute("d")))',
        'path.line')


def test_images_and_filters_are_shown(tab):
  browser = tab('train', 'images')
  # In pixels: three distorted images, and the grid of 8 x 8 filters.
  _wait(browser, VISIBLE + '.map(image => image.naturalWidth).sort() == "24,24,24,48"', 'img')


def test_confusion_matrix_and_mistakes_are_shown(tab):
  # The groups below the first two are closed, except for what the filter finds.
  browser = tab('eval', 'images&tagFilter=^mistakes')
  widths = VISIBLE + '.map(image => image.naturalWidth)'
  # In pixels: what a card has room for; up to four images of 96, each with a gap of 6.
  _wait(browser, widths + '.includes(350)', 'img')
  _wait(browser, widths + '.some(width => [102, 204, 306, 408].includes(width))', 'img')


def test_tables_name_the_classes_that_were_confused(tab):
  browser = tab('eval', 'text')
  for name in ('taken for', 'warm disc', 'cool ring'):
    _wait(browser, HAS_TEXT, 'th, td', name)


def test_graph_is_the_layers_and_a_few_boxes_for_the_rest(tab):
  browser = tab('train', 'graphs')
  names = VISIBLE + '.map(node => node.getAttribute("data-name"))'
  _wait(browser, names + '.includes("train")', 'g.node')
  nodes = browser.execute_script(names, 'g.node')
  assert {'input', *LAYERS, 'total_loss', 'gradients', 'moving_averages', 'session'} <= set(nodes)
  assert len(nodes) < 25


@pytest.mark.parametrize('name, path', [('histograms', 'path.outline'),
                                        ('distributions', 'path.area')])
def test_activations_weights_and_gradients_are_drawn(tab, name, path):
  browser = tab('train', name)
  for tag in ('conv1/activations', 'conv1/weights/gradients', 'conv1/weights/values'):
    _wait(browser, HAS_TEXT, '*', tag)
  _wait(browser, VISIBLE + '.length >= 5', path)


def test_runs_are_a_table_of_flags_and_results(tab):
  browser = tab('.', 'hparams')
  for text in ('batch_size', 'momentum', 'precision @ 1', '8.0000', '0.25000', '0.0000'):
    _wait(browser, HAS_TEXT, '*', text)
  # Which begin with what was given.
  trials = VISIBLE + '.map(cell => cell.textContent.trim())'
  names = [text for text in browser.execute_script(trials, 'vaadin-grid-cell-content')
           if text.startswith('batch_size=8')]
  assert len(names) == 2 and sum('momentum=0.25' in name for name in names) == 1


def test_images_are_points_with_faces_and_classes(logdir):
  with tensorboard_process.served(logdir / 'eval') as address:
    tensorboard_process.tags(address, {'.'})
    points, classes, faces = (
        tensorboard_process.get(address, 'projector/%s?run=.&name=images' % what)
        for what in ('tensor', 'metadata', 'sprite_image'))
  assert np.frombuffer(points, np.float32).size == 100 * 192
  assert len(classes.decode().splitlines()) == 1 + 100
  with Image.open(io.BytesIO(faces)) as picture:
    assert picture.size == (320, 320)


def test_picture_of_the_faces_is_never_larger_than_a_browser_takes(tmp_path):
  images = np.zeros([2, 4100, 4100, 1], np.uint8)
  images[0] = 255
  tabs.write_projector(tmp_path, [0, 0], np.ones([2, 1]), ['cat'], images,
                       np.ones([2, 1], np.float32))
  assert ': [4096, 4096]' in (tmp_path / 'projector_config.pbtxt').read_text()
  with Image.open(tmp_path / 'projector' / 'images.png') as picture:
    assert picture.size == (8192, 8192)
    assert [picture.getpixel(place) for place in ((0, 0), (4095, 4095), (4096, 0))] == [255, 255, 0]
