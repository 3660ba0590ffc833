"""The rows of docs/migrating.md that take longer, and exercises/keras_cifar10.py as it is used."""

import json
import os
import re
import subprocess
import sys

import pytest
import tensorflow.compat.v1 as tf

from conftest import ROOT
import migrating_page
import warm_process

TRAINED = os.path.join(ROOT, 'cifar10', 'trained')
DATA = os.environ.get('CIFAR10_DATA_DIR', os.path.join(ROOT, 'cifar10', 'data'))
KERAS = 'exercises/keras_cifar10.py'


# Towers need a process whose CPU is two devices.
@pytest.mark.parametrize('rows', [
    ['five_steps', 'logits', 'averages_restored', 'saver', 'old_run', 'initial_values', 'one_pass',
     'ported_program', 'batch_larger_than_the_data_set', 'wrong_arguments'], ['towers']])
def test_both_sides_of_a_row(rows, small_data_dir):
  process = subprocess.run(
      [sys.executable, os.path.join(ROOT, 'tests', 'migrating_rows.py'), small_data_dir, *rows],
      capture_output=True, text=True, timeout=300)
  assert process.returncode == 0, process.stderr
  outcomes = json.loads(process.stdout.splitlines()[-1])
  assert outcomes == dict.fromkeys(rows), '\n'.join(filter(None, outcomes.values()))


def _done(cwd, script, *arguments):
  process = warm_process.WarmProcess(cwd, script, arguments)
  assert (process.wait(600), process.err) == (0, '')
  return process.out


def _events(directory):
  """Returns {tag: [(step, value)]} of the event files in a directory, and in it `train`."""
  found = {}
  for folder, _, names in os.walk(directory):
    for name in sorted(names):
      if 'tfevents' in name:
        for event in tf.train.summary_iterator(os.path.join(folder, name)):
          for value in event.summary.value:
            number = (float(tf.make_ndarray(value.tensor)) if value.tensor.dtype == 1
                      and not value.tensor.tensor_shape.dim else value.simple_value)
            found.setdefault(value.tag, []).append((event.step, number))
  return found


def test_hooks_and_callbacks_stop_save_resume_and_summarise(small_data_dir, tmp_path):
  """Five steps of 100 images are an epoch, for both."""
  data = ['--data_dir=' + small_data_dir, '--batch_size=100']
  for steps, before in ((3, 0), (9, 3)):
    graph = _done(tmp_path, 'cifar10_train.py', *data, '--max_steps=%d' % steps,
                  '--min_queue_examples=100', '--save_summaries_steps=1', '--train_dir=graph')
    _done(tmp_path, KERAS, 'train', *data, '--max_steps=%d' % steps, '--model=keras/model.keras')
    assert 'from step 3' in graph if before else 'Training in graph' in graph
  converted = str(tmp_path / 'converted')
  _done(tmp_path, KERAS, 'convert', 'keras/model.keras', converted)
  for directory in (str(tmp_path / 'graph'), converted):
    assert tf.train.load_checkpoint(directory).get_tensor('global_step') == 9
  graph, keras = _events(tmp_path / 'graph'), _events(tmp_path / 'keras')
  assert [step for step, _ in graph['losses/total_loss/raw']] == list(range(1, 10))
  # The trap: the horizontal axis is epochs. Three steps, then five, then one.
  assert [step for step, _ in keras['epoch_loss']] == [0, 0, 1]
  for _, loss in graph['losses/total_loss/raw'] + keras['epoch_loss']:
    assert 4 < loss < 5.5
  # And each side evaluates what the other has trained.
  out = _done(tmp_path, 'cifar10_eval.py', data[0], '--checkpoint_dir=' + converted, '--run_once')
  assert re.search(r'precision @ 1 = 0\.\d{3}\n', out)
  _done(tmp_path, KERAS, 'convert', 'graph', 'from_graph.keras')
  assert re.search(r'precision @ 1 = 0\.\d{3}\n$',
                   _done(tmp_path, KERAS, 'evaluate', data[0], '--model=from_graph.keras'))
  # And the graph resumes what Keras has trained.
  out = _done(tmp_path, 'cifar10_train.py', *data, '--max_steps=10', '--min_queue_examples=100',
              '--train_dir=converted')
  assert 'Resuming converted from step 9.' in out
  assert tf.train.load_checkpoint(converted).get_tensor('global_step') == 10


@pytest.fixture
def home(small_data_dir, tmp_path):
  """A directory like a clone, with a small data set."""
  (tmp_path / 'cifar10').mkdir()
  (tmp_path / 'cifar10' / 'data').symlink_to(small_data_dir)
  (tmp_path / 'cifar10' / 'trained').symlink_to(TRAINED)
  return tmp_path


def test_commands_of_the_page_run(home):
  block = migrating_page.blocks(migrating_page.text(), 'sh')[0]
  for line in block.splitlines():
    program, script, *arguments = line.replace('3000', '2').split()
    assert program == 'python'
    _done(home, script, *arguments)
  assert (home / 'cifar10' / 'from_keras' / 'model.ckpt-2.index').exists()


def test_recipe_passes_and_can_be_run_again(home):
  blocks = migrating_page.blocks(migrating_page.text())
  start = next(i for i, block in enumerate(blocks) if 'golden = {}' in block)
  snippets = blocks[start:-1]  # The last is the script for PyTorch.
  assert len(snippets) == 8
  (home / 'freeze.py').write_text('\n'.join(snippets[:2]))
  (home / 'port.py').write_text('\n'.join(snippets[2:]))

  def run(script):
    return subprocess.run([sys.executable, script], cwd=home, capture_output=True, text=True,
                          timeout=300, env={**os.environ, 'PYTHONPATH': ROOT})

  for script in ('freeze.py', 'port.py', 'port.py'):
    process = run(script)
    assert process.returncode == 0, process.stderr
  numbers = (home / 'golden' / 'numbers.npz').read_bytes()
  process = run('freeze.py')  # What is frozen stays so.
  assert process.returncode == 1 and process.stderr.splitlines()[-1].startswith('golden/ ')
  assert (home / 'golden' / 'numbers.npz').read_bytes() == numbers
  # It does compare: each of these is found, and in its step.
  for found, was, is_now in (
      ("golden['losses']", 'WEIGHT_DECAY = 0.004', 'WEIGHT_DECAY = 0.008'),
      ("golden['after/'", 'self.iterations + 1', 'self.iterations'),
      ("golden['late/'", 'MOVING_AVERAGE_DECAY = 0.9999', 'MOVING_AVERAGE_DECAY = 0.999')):
    with open(os.path.join(ROOT, KERAS)) as program:
      code = program.read()
    assert was in code
    (home / 'exercises').mkdir(exist_ok=True)
    (home / 'exercises' / 'keras_cifar10.py').write_text(code.replace(was, is_now))
    process = run('port.py')
    assert process.returncode == 1 and found in process.stderr, process.stderr


@pytest.mark.skipif(not os.path.isdir(DATA), reason='CIFAR-10 is not there: $CIFAR10_DATA_DIR')
@pytest.mark.parametrize('arguments, card', [([], ''), (['--raw_weights'],
                                                        ' --use_moving_averages=false')])
def test_precision_is_that_of_the_graph(arguments, card, tmp_path):
  with open(os.path.join(TRAINED, 'README.md')) as text:
    command = 'python cifar10_eval.py --checkpoint_dir=cifar10/trained --run_once' + card
    [precision] = re.findall(r'\| ([\d.]+) \| `%s` \|' % re.escape(command), text.read())
  _done(tmp_path, KERAS, 'convert', TRAINED, 'trained.keras')
  out = _done(tmp_path, KERAS, 'evaluate', '--data_dir=' + DATA, '--model=trained.keras',
              *arguments)
  assert out.endswith('precision @ 1 = %s\n' % precision)
