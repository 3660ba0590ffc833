import os
import subprocess
import sys

import tensorflow.compat.v1 as tf

from conftest import ROOT

SCRIPT = os.path.join(ROOT, 'benchmarks', 'keep_curves.py')
LOSS, PRECISION = 'losses/total_loss/raw', 'precision @ 1'


def _write(folder, steps, tag, value):
  """Writes an event file with a scalar and a picture for each step."""
  with tf.summary.FileWriter(str(folder), filename_suffix='.%d' % steps[0]) as out:
    for step in steps:
      picture = tf.Summary.Image(encoded_image_string=bytes(1000))
      out.add_summary(tf.Summary(value=[tf.Summary.Value(tag=tag, simple_value=value),
                                        tf.Summary.Value(tag='conv1/filters', image=picture),
                                        tf.Summary.Value(tag='speed', simple_value=9.0)]), step)


def _keep(run, copy):
  return subprocess.run([sys.executable, SCRIPT, str(run), str(copy)], capture_output=True,
                        text=True)


def _points(folder):
  [path] = folder.iterdir()
  return [(event.step, value.tag, value.simple_value)
          for event in tf.train.summary_iterator(str(path)) for value in event.summary.value]


def test_curves_are_kept_and_a_run_that_goes_on_elsewhere_is_added(tmp_path):
  _write(tmp_path / 'here' / 'train', [1, 2, 3], LOSS, 4.0)
  _write(tmp_path / 'here' / 'eval', [3], PRECISION, 0.25)
  _write(tmp_path / 'there' / 'train', [3, 4], LOSS, 2.0)
  copy = tmp_path / 'docs' / 'copy'
  for run in ('here', 'here', 'there'):
    process = _keep(tmp_path / run, copy)
    assert (process.returncode, process.stdout) == (0, '')
  assert _points(copy / 'train') == [(1, LOSS, 4.0), (2, LOSS, 4.0), (3, LOSS, 2.0), (4, LOSS, 2.0)]
  assert _points(copy / 'eval') == [(3, PRECISION, 0.25)]


def test_folder_without_a_run_is_one_sentence(tmp_path):
  process = _keep(tmp_path / 'nothing', tmp_path / 'copy')
  assert process.returncode == 1
  assert process.stderr.startswith('There are no event files of a training in ')
  assert not os.listdir(tmp_path)


def test_copy_that_cannot_be_written_is_one_sentence(tmp_path):
  _write(tmp_path / 'mine' / 'train', [1], LOSS, 4.0)
  (tmp_path / 'copy').write_text('a file')
  process = _keep(tmp_path / 'mine', tmp_path / 'copy')
  assert process.returncode == 1
  assert process.stderr.startswith('The copy cannot be written: ')
  assert (tmp_path / 'copy').read_text() == 'a file'


def test_full_disk_leaves_the_copy_as_it_was(tmp_path):
  _write(tmp_path / 'mine' / 'train', range(1000), LOSS, 4.0)
  (tmp_path / 'copy' / 'train').mkdir(parents=True)
  process = subprocess.run(
      ['bash', '-c', 'ulimit -f 8; exec "$@"', '', sys.executable, SCRIPT, str(tmp_path / 'mine'),
       str(tmp_path / 'copy')], capture_output=True, text=True)
  assert process.returncode == 1
  assert process.stderr.startswith('The copy cannot be written: ')
  assert os.listdir(tmp_path / 'copy' / 'train') == []
