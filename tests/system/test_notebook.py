"""docs/tutorial.ipynb: executed as a learner does it, and compared with the outputs it stores."""

import base64
import io
import os
import re
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from conftest import ROOT
from conftest import TRAINED
import notebook_run
import numpy_network


@pytest.fixture(scope='module')
def executed(tmp_path_factory):
  """The notebook after all its cells have run, without an error."""
  return notebook_run.executed(tmp_path_factory.mktemp('notebook'))


def _text(cell):
  return ''.join(output.text for output in cell.outputs if output.output_type == 'stream')


def _pictures(cell):
  return [Image.open(io.BytesIO(base64.b64decode(output.data['image/png'])))
          for output in cell.outputs if 'image/png' in output.get('data', {})]


def _cell(notebook, code):
  """Returns the one cell that has this in its code."""
  [cell] = [cell for cell in notebook_run.code_cells(notebook) if code in cell.source]
  return cell


def _look_for_the_project(folder):
  """Runs the first cell in a folder; then it prints where it is."""
  cell, *_ = notebook_run.code_cells(notebook_run.stored())
  return subprocess.run([sys.executable, '-c', f'{cell.source}\nprint(os.getcwd())'], cwd=folder,
                        capture_output=True, text=True)


def test_first_cell_says_what_to_do_where_the_project_is_not(tmp_path):
  process = _look_for_the_project(tmp_path)
  assert process.returncode == 1
  [line] = process.stderr.splitlines()
  assert all(word in line for word in ('cifar10.py', str(tmp_path), 'unzip', 'git clone'))


def test_first_cell_finds_the_project_in_an_unpacked_folder(tmp_path):
  (tmp_path / 'unpacked').mkdir()
  (tmp_path / 'unpacked' / 'cifar10.py').touch()
  assert _look_for_the_project(tmp_path).stdout == f'{tmp_path / "unpacked"}\n'


def test_graph_of_two_ops_is_run_and_fed(executed):
  text = _text(_cell(executed, "'square:0'"))
  assert re.search(r'^Tensor\(.*shape=\(\)', text, re.MULTILINE)
  assert text.count('tf.Operation') == 2
  assert text.splitlines()[-2:] == ['9.0', '25.0']


def test_norm1_runs_where_local3_cannot(executed):
  norm1, local3 = _text(_cell(executed, "'norm1:0'")).splitlines()
  assert '(1, 12, 12, 64)' in norm1 and 'no values' in local3


def test_changed_weights_change_the_answer(executed):
  cat = np.array(Image.open(os.path.join(ROOT, 'docs', 'images', 'cat.png')))
  variables = numpy_network.averages(TRAINED)
  for line in _text(_cell(executed, 'changed = ')).splitlines():
    [answer] = numpy_network.probabilities(numpy_network.central_crop(cat[np.newaxis]), variables)
    said = dict(re.findall(r'(\w+) ([\d.]+)', line))
    assert float(said['cat']) == pytest.approx(answer[3], abs=0.002)
    assert float(said['dog']) == pytest.approx(answer[5], abs=0.002)
    variables['conv1/weights'][..., 30] = 0
  assert answer.argmax() == 5


def test_graph_has_the_networks_parameters_and_no_value_yet(executed):
  text = _text(_cell(executed, 'print(loss)'))
  assert '1068298' in text
  assert re.search(r'^Tensor\(.*shape=\(\)', text, re.MULTILINE)


def test_first_loss_by_hand_is_that_of_the_graph_and_of_the_training_run(executed):
  *_, by_hand, of_the_graph = re.findall(r'\d+\.\d+', _text(_cell(executed, 'by hand')))
  logged = re.search(r'step 0, loss = (\S+)', _text(_cell(executed, 'def train')))
  assert [float(by_hand), float(of_the_graph), float(logged.group(1))] == pytest.approx(
      [4.68] * 3, abs=0.02)


def test_training_resumes_and_the_loss_falls(executed):
  first, second = ([(int(step), float(loss)) for step, loss in re.findall(
      r'step (\d+), loss = (\S+)', _text(_cell(executed, code)))]
                   for code in ('def train', 'FLAGS.restart = False'))
  assert [step for step, _ in first + second] == list(range(0, 600, 50))
  assert second[-1][1] < first[-1][1] < first[0][1]


def test_network_has_learned_and_two_ways_to_count_agree(executed):
  precision = re.search(r'precision @ 1 = (\S+)', _text(_cell(executed, 'cifar10_eval.main()')))
  right, of_all = re.search(r'(\d+) of (\d+) right', _text(_cell(executed, 'wrong ='))).groups()
  assert float(precision.group(1)) > 0.5
  assert of_all == '10000'
  assert float(precision.group(1)) == pytest.approx(int(right) / 10000, abs=0.0006)


@pytest.mark.parametrize('code, number, columns, size', [
    ('look_inside.MAPS', 24, 6, 96), ('start_queue_runners', 12, 6, 96), ('worst =', 12, 6, 96),
    ('conv1/filters', 8, 4, 144)])
def test_images_are_displayed(executed, code, number, columns, size):
  [picture] = _pictures(_cell(executed, code))
  pixels = np.asarray(picture.convert('RGB'), float)
  rows = -(-number // columns)
  # A caption is mostly white, and a picture is not.
  tiles = [tile[:size] for row in np.split(pixels, rows) for tile in np.split(row, columns, axis=1)]
  assert len(tiles) == number
  assert max(np.mean(tile == 255) for tile in tiles) < 0.5
  assert len({tile.tobytes() for tile in tiles}) == number


def test_folder_of_pictures_becomes_a_data_set_that_fine_tuning_learns(executed):
  *_, total = _text(_cell(executed, 'cifar10_convert.convert')).splitlines()
  assert total.split() == ['all', '640', '160']
  text = _text(_cell(executed, 'FLAGS.init_from'))
  assert 'model.ckpt-150000' in text and 'conv1' not in text
  assert float(re.search(r'precision @ 1 = (\S+)', text).group(1)) > 0.4
  rows = [line.split() for line in text.splitlines() if re.match(r'\d ', line)]
  assert sum(int(count) for row in rows for count in row[-6:-2]) == 160


def test_tensorboard_starts(executed):
  [output] = _cell(executed, '%tensorboard').outputs
  assert '<iframe' in output.data['text/html']


def _shown(cell):
  """Returns what a cell prints, but for the numbers, and which kinds of results it shows."""
  kinds = [(output.output_type, 'image/png' in output.get('data', {})) for output in cell.outputs]
  return re.sub(r' *[\d.]+', ' 0', _text(cell)), kinds


def test_stored_outputs_are_those_of_the_stored_code(executed):
  stored = notebook_run.code_cells(notebook_run.stored())
  assert [cell.execution_count for cell in stored] == list(range(1, len(stored) + 1))
  for cell, now in zip(stored, notebook_run.code_cells(executed)):
    if notebook_run.starts_tensorboard(cell):
      assert cell.outputs == []
    else:
      assert (cell.source, *_shown(cell)) == (now.source, *_shown(now))


def test_stored_notebook_is_small_and_names_no_machine():
  stored = notebook_run.stored()
  assert len(str(stored)) < 600_000
  texts = [_text(cell) + str([output.get('data', {}).get('text/plain')
                              for output in cell.outputs])
           for cell in notebook_run.code_cells(stored)]
  assert not re.search(r'/(tmp|home|root|usr)/', ''.join(texts))
  assert stored.metadata.kernelspec.name == 'python3'
