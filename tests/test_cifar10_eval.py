import functools
import json
import os
import re
import shutil
import time

import numpy as np
from PIL import Image
import pytest
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_eval
import cifar10_predict
from cifar10_support import checkpoints
from cifar10_support import evaluation
from cifar10_support import report
from cifar10_support import runs
from cifar10_support import synthetic
from cifar10_support.console import UserError
from conftest import TRAINED

FLAGS = tf.app.flags.FLAGS


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, small_data_dir):
  monkeypatch.chdir(tmp_path)
  FLAGS(['cifar10_eval.py', '--data_dir=' + small_data_dir, '--eval_interval_secs=0'])
  return tmp_path


@pytest.fixture
def save(save):
  """Saves a network of this data set, see conftest.py."""
  return functools.partial(save, classes=synthetic.CLASSES)


@pytest.fixture
def whenever_it_waits(monkeypatch):
  """A list of functions; each time the script looks again for a checkpoint, the next is called."""
  functions, paths, looks = [], checkpoints.paths, []

  def paths_after_a_wait(directory):
    if looks:
      functions.pop(0)()
    looks.append(directory)
    return paths(directory)

  monkeypatch.setattr(cifar10_eval, '_POLL_SECS', 0)
  monkeypatch.setattr(checkpoints, 'paths', paths_after_a_wait)
  return functions


def _summaries(home):
  return {(value.tag, event.step): value for path in (home / 'cifar10' / 'eval').glob('events.*')
          for event in tf.train.summary_iterator(str(path)) for value in event.summary.value}


def _curves(home):
  return sorted(key for key in _summaries(home) if key[0].startswith('precision @ 1'))


@pytest.mark.parametrize('flag, default', [
    ('eval_dir', 'cifar10/eval'), ('eval_data', 'test'), ('checkpoint_dir', 'cifar10/train'),
    ('eval_interval_secs', 300), ('run_once', False), ('use_moving_averages', True)])
def test_default_is_the_tutorials(flag, default):
  assert FLAGS[flag].default == default


def test_each_whole_checkpoint_is_evaluated_once_until_the_run_has_ended(
    home, save, whenever_it_waits, capsys):
  train_dir = home / 'cifar10' / 'train'

  def damaged():
    save(3, max_steps=9)
    os.truncate(train_dir / 'model.ckpt-3.data-00000-of-00001', 100)

  def half_copied():
    save(9, max_steps=9)
    os.rename(train_dir / 'model.ckpt-9.index', 'index')

  whenever_it_waits += [
      damaged, lambda: save(6, max_steps=9), lambda: None, half_copied,
      lambda: os.rename('index', train_dir / 'model.ckpt-9.index')]
  cifar10_eval.main()
  assert not whenever_it_waits
  assert 'model.ckpt-3' in capsys.readouterr().out
  assert _curves(home) == [('precision @ 1', 6), ('precision @ 1', 9)]
  FLAGS(['cifar10_eval.py', '--checkpoint_dir=cifar10/train/model.ckpt-3'])
  with pytest.raises(UserError, match='model.ckpt-3'):
    cifar10_eval.main()


def test_checkpoint_whose_values_come_late_is_evaluated_once_it_is_whole(
    home, save, whenever_it_waits, capsys):
  save(9, max_steps=9)
  values = home / 'cifar10' / 'train' / 'model.ckpt-9.data-00000-of-00001'
  whole = values.read_bytes()
  os.truncate(values, 100)
  whenever_it_waits += [lambda: None, lambda: values.write_bytes(whole)]
  cifar10_eval.main()
  assert _curves(home) == [('precision @ 1', 9)]
  assert capsys.readouterr().out.count('model.ckpt-9') == 1  # That it is damaged is said once.


def test_run_that_is_resumed_during_the_evaluation_is_followed_to_its_new_end(
    home, save, whenever_it_waits, monkeypatch):
  save(6, max_steps=6)
  restore = evaluation.restore

  def resumed(*args):
    runs.record_start('cifar10/train', {'max_steps': 9},
                      {'classes': list(synthetic.CLASSES)})
    return restore(*args)

  monkeypatch.setattr(evaluation, 'restore', resumed)
  whenever_it_waits += [lambda: save(9, max_steps=9)]
  cifar10_eval.main()
  assert _curves(home) == [('precision @ 1', 6), ('precision @ 1', 9)]


def test_results_after_the_directory_was_removed_are_in_a_new_one(home, save, whenever_it_waits):
  save(6, max_steps=9)
  whenever_it_waits += [lambda: shutil.rmtree('cifar10/eval'), lambda: save(9, max_steps=9)]
  cifar10_eval.evaluate()  # As most callers write it.
  assert _curves(home) == [('precision @ 1', 9)]


def test_each_kind_of_evaluation_has_its_own_curves(home, save):
  save(3, max_steps=9)
  FLAGS(['cifar10_eval.py', '--run_once', '--eval_data=train_eval', '--use_moving_averages=false',
         '--multiview', '--num_examples=20', '--batch_size=10'])
  cifar10_eval.main()
  tags = {tag for tag, _ in _summaries(home)}
  kind = ' of training images without moving averages with ten crops'
  assert {'precision @ 1' + kind, 'confusion matrix%s/picture' % kind} <= tags
  # All kinds may share a directory, so that no tag is without its kind.
  assert not [tag for tag in tags if kind not in tag and not tag.startswith('_hparams_')]
  # A run that is put aside takes them along.
  runs.set_aside('cifar10/train')
  assert sorted(re.sub(r'-\d{8}-\d{6}$', '', name) for name in os.listdir('cifar10')) == [
      'eval.old', 'train.old']


@pytest.mark.parametrize('batch_size, args, precision', [
    (7, ['--num_examples=1000'], 0.8), (1000, ['--num_examples=50'], 0.6)])
def test_every_image_counts_once(batch_size, args, precision, home, labelled_data_dir, capsys):
  FLAGS(['cifar10_eval.py', '--run_once', '--data_dir=' + labelled_data_dir,
         '--checkpoint_dir=' + TRAINED, '--batch_size=%d' % batch_size, *args])
  cifar10_eval.main()
  assert ': precision @ 1 = %.3f\n' % precision in capsys.readouterr().out
  by_tag = {tag: value for (tag, _), value in _summaries(home).items()}
  assert 'conv1/sparsity' in by_tag
  assert by_tag['precision @ 1'].simple_value == pytest.approx(precision)
  [counts] = tf.make_ndarray(by_tag['confusion matrix/counts'].tensor)
  rows = [[int(cell) for cell in line.split()[-12:-2]]
          for line in counts.decode().splitlines()[-11:-1]]
  assert np.sum(rows) == (50 if precision == 0.6 else 100)
  assert np.trace(rows) == pytest.approx(precision * np.sum(rows))


@pytest.mark.parametrize('num_classes', [2, 20])
def test_evaluation_and_prediction_follow_the_number_of_classes(
    num_classes, home, save, small_data_dir, monkeypatch, capsys):
  monkeypatch.setattr(cifar10, 'NUM_CLASSES', num_classes)
  shutil.copytree(small_data_dir, 'data')
  (home / 'data' / 'cifar-10-batches-bin' / 'batches.meta.txt').unlink()
  for path in (home / 'data' / 'cifar-10-batches-bin').iterdir():
    records = np.fromfile(path, np.uint8).reshape(100, -1)
    records[:, 0] = np.arange(100) % num_classes
    records.tofile(path)
  names = ['class %d' % i for i in range(num_classes)]
  save(3, max_steps=9, classes=names)
  (home / 'cifar10' / 'train' / 'run.json').unlink()  # As for a checkpoint of another program.
  FLAGS(['cifar10_eval.py', '--run_once', '--data_dir=data'])
  cifar10_eval.main()
  tags = [tag for tag, _ in _summaries(home)]
  assert sorted(tag for tag in tags if tag.startswith('recall/')) == sorted(
      'recall/' + name for name in names)
  assert 'confusion matrix/picture' in tags

  capsys.readouterr()
  Image.new('RGB', (32, 32)).save('picture.png')
  FLAGS.json = True
  assert cifar10_predict.main(['picture.png']) == 0
  [answer] = json.loads(capsys.readouterr().out)
  by_class = {item['class']: item['probability'] for item in answer['predictions']}
  assert sorted(by_class) == sorted(names)
  assert sum(by_class.values()) == pytest.approx(1)


def test_without_a_new_checkpoint_patience_ends(whenever_it_waits, capsys):
  whenever_it_waits += [lambda: time.sleep(0.15)]
  with pytest.raises(UserError, match='cifar10/train'):
    cifar10_eval.main(patience_secs=0.1)
  # That it waits is said once.
  assert capsys.readouterr().out.count('cifar10/train') == 1


def test_run_on_another_data_set_is_refused(save):
  save(3, max_steps=9, classes=['one', 'two'])
  FLAGS.run_once = True
  with pytest.raises(UserError, match='cifar10/train .*one.*two'):
    cifar10_eval.main()


def test_without_a_checkpoint_nothing_is_fetched(home):
  FLAGS(['cifar10_eval.py', '--run_once', '--data_dir=data'])
  with pytest.raises(UserError, match='cifar10/train'):
    cifar10_eval.main()
  assert os.listdir(home) == []


@pytest.mark.parametrize('flag', ['checkpoint_dir', 'eval_dir'])
def test_path_that_is_not_a_directory_is_refused_before_anything_is_fetched(
    flag, save, monkeypatch):
  save(3, max_steps=9)
  monkeypatch.setattr(cifar10, 'maybe_download_and_extract', None)
  FLAGS(['cifar10_eval.py', '--run_once', '--%s=/dev/null' % flag])
  with pytest.raises(UserError, match='/dev/null .*--' + flag):
    cifar10_eval.main()


def test_precision_is_told_also_where_the_results_cannot_be_written_or_drawn(
    save, monkeypatch, capsys):
  save(3, max_steps=9)
  FLAGS(['cifar10_eval.py', '--run_once', '--num_examples=10', '--eval_dir=/dev/null/eval'])
  with pytest.raises(UserError, match='/dev/null/eval .*--eval_dir'):
    cifar10_eval.main()
  monkeypatch.setattr(report, 'summary', lambda *args: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    cifar10_eval.main()
  lines = re.findall(r': precision @ 1 = [01]\.\d{3}\n', capsys.readouterr().out)
  assert len(lines) == 2


def test_results_are_kept_even_if_nobody_reads_beyond_the_first_line(home, save, monkeypatch):
  def gone(*args):
    raise BrokenPipeError

  save(3, max_steps=9)
  FLAGS.run_once = True
  monkeypatch.setattr(cifar10_eval, 'print', gone, raising=False)
  with pytest.raises(BrokenPipeError):
    cifar10_eval.main()
  assert _curves(home) == [('precision @ 1', 3)]
