import os
import shutil
import threading
import time

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_eval
import numpy_network
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
                for value in event.summary.value if value.tag.startswith('precision @ 1'))


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
    (['--multiview'], 'precision @ 1 over ten views'),
])
def test_each_kind_of_evaluation_has_its_own_curve(home, save, args, curve):
  save(3, max_steps=9)
  FLAGS(['cifar10_eval.py', '--run_once', *args])
  cifar10_eval.main()
  assert _curves(home) == [(curve, 3)]
  # All kinds may share a directory, and the network's own tags do not say which it was.
  tags = {value.tag for path in (home / 'cifar10' / 'eval').iterdir()
          for event in tf.train.summary_iterator(str(path)) for value in event.summary.value}
  assert ('conv1/sparsity' in tags) == (not args)


@pytest.mark.parametrize('num_examples, count', [(70, 70), (100, 100), (1000, 100), (None, 100)])
def test_num_examples_are_evaluated_or_as_many_as_are_for_testing(num_examples, count):
  batches = iter(np.split(np.arange(160), 4))
  labels = tf.py_func(lambda: next(batches), [], tf.int64)
  if num_examples:
    FLAGS.num_examples = num_examples
  with tf.Session() as session:
    probabilities, truth, summary = cifar10_eval._evaluate_once(
        session, tf.one_hot(labels, 10), labels, tf.constant(b'its summary'))
  np.testing.assert_array_equal(truth, np.arange(count))
  assert probabilities.shape == (count, 10)
  assert summary == b'its summary'


def test_test_set_of_another_size_is_evaluated_whole_without_the_flag(monkeypatch):
  monkeypatch.setattr(cifar10_eval.cifar10, 'count', {'test': 26032, 'train_eval': 73257}.get)
  assert cifar10_eval._num_examples() == 26032
  FLAGS(['cifar10_eval.py', '--num_examples=10000'])
  assert cifar10_eval._num_examples() == 10000


def _summaries(home):
  return {value.tag: value for path in (home / 'cifar10' / 'eval').iterdir()
          for event in tf.train.summary_iterator(str(path)) for value in event.summary.value}


@pytest.mark.parametrize('batch_size', [1, 30, 100, 1000])
def test_event_files_tell_what_is_taken_for_what_at_every_batch_size(
    batch_size, home, save, small_data_dir):
  save(3, max_steps=9)
  FLAGS(['cifar10_eval.py', '--run_once', '--batch_size=%d' % batch_size])
  cifar10_eval.main()
  summaries = _summaries(home)
  # Each class has 10 of the 100 images.
  recalls = [summaries['recall/' + name].simple_value for name in cifar10.classes()]
  np.testing.assert_allclose(np.mean(recalls), summaries['precision @ 1'].simple_value, rtol=1e-6)
  assert all(10 * recall == pytest.approx(round(10 * recall), abs=1e-5) for recall in recalls)
  assert 'confusion matrix/picture' in summaries
  assert [tag for tag in summaries if tag.startswith('mistakes/taken for ')]


def test_mean_over_ten_views_is_that_of_numpy(home, save, small_data_dir):
  save(3, max_steps=9)
  FLAGS(['cifar10_eval.py', '--run_once', '--multiview', '--batch_size=7', '--num_examples=9'])
  evaluate_once, evaluated = cifar10_eval._evaluate_once, []
  with pytest.MonkeyPatch.context() as monkeypatch:
    monkeypatch.setattr(cifar10_eval, '_evaluate_once',
                        lambda *args: evaluated.append(evaluate_once(*args)) or evaluated[-1])
    cifar10_eval.main()
  images, labels = numpy_network.read(
      os.path.join(small_data_dir, 'cifar-10-batches-bin', 'test_batch.bin'))
  [(probabilities, truth, _)] = evaluated
  np.testing.assert_array_equal(truth, labels[:9])
  np.testing.assert_allclose(
      probabilities, numpy_network.multiview_probabilities(
          images[:9], numpy_network.averages('cifar10/train')), rtol=1e-3)


@pytest.fixture
def run_with_local_layers(save):
  """A run whose network is not that of the flags' defaults."""
  FLAGS.top_layers = 'local'
  save(9, max_steps=9, flags={'top_layers': 'local'})
  FLAGS['top_layers'].unparse()
  assert FLAGS.top_layers == 'dense'


def test_network_is_that_of_the_run_unless_the_flag_says_otherwise(home, run_with_local_layers):
  FLAGS(['cifar10_eval.py', '--run_once'])
  cifar10_eval.main()
  assert _curves(home) == [('precision @ 1', 9)]
  FLAGS(['cifar10_eval.py', '--run_once', '--top_layers=dense'])
  with pytest.raises(UserError, match='is a checkpoint of another network: local3/biases'):
    cifar10_eval.main()


def test_network_is_that_of_a_run_that_comes_later(home, run_with_local_layers, capsys):
  os.rename('cifar10/train', 'later')
  evaluation = threading.Thread(target=cifar10_eval.main, daemon=True)
  evaluation.start()
  _wait_for('waiting for one', evaluation, capsys)
  os.rename('later', 'cifar10/train')
  evaluation.join(timeout=60)
  assert not evaluation.is_alive()
  assert _curves(home) == [('precision @ 1', 9)]


def test_checkpoint_that_is_still_being_copied_is_waited_for(home, save, capfd):
  save(9, max_steps=9)
  train_dir = home / 'cifar10' / 'train'
  names = (train_dir / 'checkpoint').read_text()
  os.rename(train_dir / 'model.ckpt-9.index', 'index')
  evaluation = threading.Thread(target=cifar10_eval.main, daemon=True)
  evaluation.start()
  _wait_for('No checkpoint in cifar10/train yet: waiting for one.', evaluation, capfd)
  (train_dir / 'checkpoint').write_text(names[:10])
  time.sleep(2 * cifar10_eval._POLL_SECS)
  assert evaluation.is_alive()
  assert capfd.readouterr() == ('', '')
  (train_dir / 'checkpoint').write_text(names)
  os.rename('index', train_dir / 'model.ckpt-9.index')
  evaluation.join(timeout=60)
  assert not evaluation.is_alive()
  assert _curves(home) == [('precision @ 1', 9)]


def test_without_a_new_checkpoint_patience_ends(home, capsys):
  with pytest.raises(UserError, match='No new checkpoint in cifar10/train for 1 seconds: see'):
    cifar10_eval.main(patience_secs=1)
  assert capsys.readouterr().out == 'No checkpoint in cifar10/train yet: waiting for one.\n'


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


def test_run_once_takes_the_next_if_the_checkpoint_vanishes_while_it_is_read(
    home, save, monkeypatch):
  save(3, max_steps=9)
  restore = cifar10_eval.cifar10_restore.Restorer.restore

  def vanish_and_restore(self, session, checkpoint):
    if checkpoint.endswith('-3'):
      save(6, max_steps=9)
      for path in (home / 'cifar10' / 'train').glob('model.ckpt-3.*'):
        path.unlink()
    return restore(self, session, checkpoint)

  monkeypatch.setattr(cifar10_eval.cifar10_restore.Restorer, 'restore', vanish_and_restore)
  FLAGS.run_once = True
  cifar10_eval.main()
  assert _curves(home) == [('precision @ 1', 6)]


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


def test_input_that_fails_is_one_sentence(save, small_data_dir, tmp_path, monkeypatch):
  shutil.copytree(small_data_dir, tmp_path / 'data')
  probabilities = cifar10_eval.cifar10_restore.probabilities

  def while_the_data_vanish(images):
    next((tmp_path / 'data').rglob('test_batch.bin')).unlink()
    return probabilities(images)

  save(3, max_steps=9)
  FLAGS(['cifar10_eval.py', '--run_once', '--data_dir=data'])
  monkeypatch.setattr(cifar10_eval.cifar10_restore, 'probabilities', while_the_data_vanish)
  with pytest.raises(UserError, match=r'bin \(No such file .*\): put that right, and evaluate'):
    cifar10_eval.main()


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
