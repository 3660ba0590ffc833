import os
import threading
import time

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_eval
from cifar10_console import UserError

FLAGS = cifar10_eval.FLAGS


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, small_data_dir):
  monkeypatch.chdir(tmp_path)
  tf.summary.FileWriterCache.clear()
  FLAGS(['cifar10_eval.py', '--data_dir=' + small_data_dir, '--eval_interval_secs=0'])
  return tmp_path


def _curves(home):
  """The points of the curves in the event files: (tag, step) of all that begin with precision."""
  return sorted((value.tag, event.step) for path in (home / 'cifar10' / 'eval').iterdir()
                for event in tf.train.summary_iterator(str(path))
                for value in event.summary.value if value.tag.startswith('precision'))


@pytest.mark.parametrize('flag, default', [
    ('eval_dir', 'cifar10/eval'), ('eval_data', 'test'), ('checkpoint_dir', 'cifar10/train'),
    ('eval_interval_secs', 300), ('num_examples', 10000), ('run_once', False),
    ('use_moving_averages', True)])
def test_default_is_the_tutorials(flag, default):
  assert FLAGS[flag].default == default


def test_each_checkpoint_is_evaluated_once_until_the_run_has_ended(home, save, capsys):
  save(3, max_steps=9)
  evaluation = threading.Thread(target=cifar10_eval.main, daemon=True)
  evaluation.start()
  _wait_for('precision @ 1 = ', evaluation, capsys)
  save(6, max_steps=9)
  _wait_for('precision @ 1 = ', evaluation, capsys)
  save(9, max_steps=9)
  evaluation.join(timeout=60)
  assert not evaluation.is_alive()
  assert _curves(home) == [('precision @ 1', 3), ('precision @ 1', 6), ('precision @ 1', 9)]


def _wait_for(text, thread, capsys):
  deadline = time.monotonic() + 60
  while text not in capsys.readouterr().out:
    assert thread.is_alive() and time.monotonic() < deadline
    time.sleep(0.1)


@pytest.mark.parametrize('args, curve', [
    ([], 'precision @ 1'),
    (['--eval_data=train_eval'], 'precision @ 1 of training images'),
    (['--use_moving_averages=false'], 'precision @ 1 without moving averages'),
    (['--eval_data=train_eval', '--use_moving_averages=false'],
     'precision @ 1 of training images without moving averages'),
])
def test_each_kind_of_evaluation_has_its_own_curve(home, save, args, curve):
  save(3, max_steps=9)
  FLAGS(['cifar10_eval.py', '--run_once', *args])
  cifar10_eval.main()
  assert _curves(home) == [(curve, 3)]


def test_images_beyond_num_examples_do_not_count():
  batches = iter([[True] * 128, [True] * 72 + [False] * 56])
  correct = tf.py_func(lambda: np.array(next(batches)), [], tf.bool)
  FLAGS.num_examples = 200
  with tf.Session() as session:
    assert cifar10_eval._evaluate_once(session, correct, tf.constant(b'its summary')) == (
        1.0, b'its summary')


def test_checkpoint_that_cannot_be_read_is_passed_over(home, save, capsys):
  save(3, max_steps=9)
  data = home / 'cifar10' / 'train' / 'model.ckpt-3.data-00000-of-00001'
  os.truncate(data, 100)
  evaluation = threading.Thread(target=cifar10_eval.main, daemon=True)
  evaluation.start()
  _wait_for('model.ckpt-3 cannot be read: waiting for the next.', evaluation, capsys)
  save(9, max_steps=9)
  evaluation.join(timeout=60)
  assert not evaluation.is_alive()
  assert _curves(home) == [('precision @ 1', 9)]
  os.truncate(home / 'cifar10' / 'train' / 'model.ckpt-9.index', 0)
  FLAGS.run_once = True
  with pytest.raises(UserError, match='model.ckpt-9 is damaged .*: start the training again'):
    cifar10_eval.main()


def test_run_without_a_record_can_be_evaluated(home, save):
  save(3, max_steps=9)
  (home / 'cifar10' / 'train' / 'run.json').unlink()
  FLAGS.run_once = True
  cifar10_eval.main()
  assert _curves(home) == [('precision @ 1', 3)]


def test_run_on_another_data_set_is_refused_also_when_it_comes_later(save, capsys):
  errors = []

  def evaluate():
    try:
      cifar10_eval.main()
    except UserError as error:
      errors.append(str(error))

  evaluation = threading.Thread(target=evaluate, daemon=True)
  evaluation.start()
  _wait_for('waiting for one', evaluation, capsys)
  save(3, max_steps=9, classes=cifar10.cifar10_dataset.CLASSES)
  evaluation.join(timeout=60)
  assert 'The run in cifar10/train is on another data set (airplane, ' in errors[0]


def test_without_a_checkpoint_run_once_fetches_nothing(home):
  FLAGS(['cifar10_eval.py', '--run_once', '--synthetic'])
  FLAGS['data_dir'].using_default_value = True
  with pytest.raises(UserError, match='There is no checkpoint in cifar10/synthetic/train: '):
    cifar10_eval.main()
  assert os.listdir(home) == []


@pytest.mark.parametrize('path', ['/dev/null/eval', '/proc/self'])
def test_directory_that_cannot_be_written_is_one_sentence(save, path):
  save(3, max_steps=9)
  FLAGS(['cifar10_eval.py', '--run_once', '--eval_dir=' + path])
  with pytest.raises(UserError, match='Cannot write to %s .*: name another .* --eval_dir' % path):
    cifar10_eval.main()


@pytest.mark.parametrize('flag', ['checkpoint_dir', 'eval_dir'])
def test_path_that_is_no_directory_is_refused_before_anything_is_fetched(save, flag, monkeypatch):
  save(3, max_steps=9)
  monkeypatch.setattr(cifar10, 'maybe_download_and_extract', None)
  FLAGS(['cifar10_eval.py', '--%s=/dev/null' % flag])
  with pytest.raises(UserError, match='/dev/null is not a directory: .* --%s' % flag):
    cifar10_eval.main()
