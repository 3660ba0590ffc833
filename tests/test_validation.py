import json
import os
import shutil

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_eval
import cifar10_input
import cifar10_train
from cifar10_support import dataset
from cifar10_support import synthetic
from cifar10_support.console import UserError

FLAGS = tf.app.flags.FLAGS

FOLDER = 'cifar-10-batches-bin'
RECORD_BYTES = 3073


def _records(numbers, label):
  """Returns records whose first two pixels are the digits of a number in base 256."""
  records = np.zeros([len(numbers), RECORD_BYTES], np.uint8)
  records[:, 0] = label
  records[:, 1], records[:, 2] = np.array(numbers) // 256, np.array(numbers) % 256
  return records


@pytest.fixture(scope='session')
def made(tmp_path_factory, small_data_dir):
  """A data set whose last file for training has 10,000 records, as that of CIFAR-10 has.

  The last 5,000 of them are of class 9, the others of class 8, and no other image is.
  """
  path = tmp_path_factory.mktemp('made:5000\n')  # The end of a key is what counts.
  shutil.copytree(small_data_dir, path, dirs_exist_ok=True)
  for i in range(1, 5):
    _records(range(30), i).tofile(path / FOLDER / f'data_batch_{i}.bin')
  last = np.concatenate([_records(range(5000), 8), _records(range(5000, 10000), 9)])
  last.tofile(path / FOLDER / 'data_batch_5.bin')
  return str(path)


@pytest.fixture
def with_file(tmp_path, small_data_dir):
  """A data set that has images for validation: twelve of class 7."""
  shutil.copytree(small_data_dir, tmp_path / 'with_file')
  _records(range(12), 7).tofile(tmp_path / 'with_file' / FOLDER / 'validation_batch.bin')
  return str(tmp_path / 'with_file')


@pytest.fixture
def home(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def _numbers(data_set, part, run_graph):
  """Returns the labels and the numbers of the images of a part, as its graph reads them."""
  images, labels = cifar10_input.evaluation_batches(
      data_set, part, data_set.num_examples(part), one_pass=True,
      crop=lambda images: tf.expand_dims(images, 1))
  [(images, labels)] = run_graph([images[:, 0, 0, :2, 0], labels])
  return labels.tolist(), (images.astype(int) @ [256, 1]).tolist()


def test_last_5000_images_for_training_are_held_out(made, run_graph):
  found = dataset.find(made, 10, hold_out=True)
  assert (found.num_train, found.num_validation, found.num_test) == (120 + 5000, 5000, 100)
  assert found.num_examples('validation') == 5000
  assert [os.path.basename(path) for path in found.files('validation')] == ['data_batch_5.bin']
  assert _numbers(found, 'validation', run_graph) == ([9] * 5000, list(range(5000, 10000)))
  assert _numbers(found, 'train_eval', run_graph) == (
      [label for label in (1, 2, 3, 4) for _ in range(30)] + [8] * 5000,
      4 * list(range(30)) + list(range(5000)))


def test_of_cifar10_45000_are_left_to_train_on(data_dir):
  assert dataset.find(data_dir, 10, hold_out=True).num_train == 45000


def test_nothing_is_held_out_unless_asked_for(made, run_graph):
  found = dataset.find(made, 10)
  assert (found.num_train, found.num_validation) == (10120, 0)
  assert set(_numbers(found, 'train_eval', run_graph)[0]) == {1, 2, 3, 4, 8, 9}


@pytest.mark.parametrize('validation', [False, True])
def test_training_leaves_them_out(made, run_graph, monkeypatch, validation):
  FLAGS(['pytest', f'--data_dir={made}', '--batch_size=500'])
  monkeypatch.setattr(cifar10, 'MIN_QUEUE_EXAMPLES', 100)
  monkeypatch.setattr(cifar10, 'VALIDATION', validation)
  _, labels = cifar10.distorted_inputs()
  seen = set(np.ravel(run_graph(labels, times=25)))  # More than an epoch.
  assert seen == {1, 2, 3, 4, 8} | (set() if validation else {9})


def test_graph_has_no_filter_unless_something_is_held_out(made):
  FLAGS(['pytest', f'--data_dir={made}'])
  cifar10.distorted_inputs()
  assert not [op.type for op in tf.get_default_graph().get_operations() if 'Regex' in op.type]


def test_original_interface_reads_them_too(made, run_graph):
  FLAGS(['pytest', f'--data_dir={made}', '--batch_size=4'])
  for images, labels in (cifar10.inputs('validation'),
                         cifar10_input.inputs('validation', made, 4)):
    assert run_graph(labels) == [pytest.approx(np.full(4, 9))]


def test_images_are_read_without_a_graph(made):
  images = dataset.find(made, 10, hold_out=True).read_images('validation', [0, 4999])
  assert (images[:, 0, :2, 0].astype(int) @ [256, 1]).tolist() == [5000, 9999]


def test_file_for_validation_is_a_part_and_training_stays_whole(with_file, run_graph):
  for hold_out in (False, True):
    found = dataset.find(with_file, 10, hold_out=hold_out)
    assert (found.num_train, found.num_validation) == (500, 12)
    assert _numbers(found, 'validation', run_graph) == ([7] * 12, list(range(12)))
  assert dataset.find(with_file, 10, ['test']).num_validation == 12


def test_damaged_file_for_validation_is_an_error(with_file):
  os.truncate(os.path.join(with_file, FOLDER, 'validation_batch.bin'), 100)
  with pytest.raises(ValueError, match='validation_batch.bin'):
    dataset.find(with_file, 10)


@pytest.mark.parametrize('call', [
    lambda path: dataset.find(path, 10, hold_out=True),
    lambda path: dataset.find(path, 10, ['validation']),
    lambda path: dataset.prepare(path, 'none', 10, hold_out=True)])
def test_other_data_sets_need_the_file(small_data_dir, call):
  with pytest.raises(UserError, match='--validation'):
    call(small_data_dir)


def _evaluate(data_dir, *flags):
  FLAGS(['cifar10_eval.py', f'--data_dir={data_dir}', '--eval_data=validation', '--run_once',
         '--num_examples=40', *flags])
  cifar10_eval.main()


def _summaries(home):
  return {value.tag: value for path in (home / 'cifar10' / 'eval').glob('events*')
          for event in tf.train.summary_iterator(str(path)) for value in event.summary.value}


def test_evaluation_measures_what_was_held_out(home, made, save, capsys):
  save(7, max_steps=7, classes=synthetic.CLASSES, flags={'validation': True})
  _evaluate(made)
  lines = capsys.readouterr().out.splitlines()
  [precision] = [line.split()[-1] for line in lines if 'precision @ 1' in line]
  assert [line for line in lines if '40 validation images' in line]
  summaries = _summaries(home)
  value = summaries['precision @ 1 of validation images'].simple_value
  assert f'{value:.3f}' == precision
  assert value in (0, 1)  # All are of one class and look alike.
  assert 'precision @ 1' not in summaries


def test_run_that_has_learned_the_images_is_not_measured(home, made, save, capsys):
  save(7, max_steps=7, classes=synthetic.CLASSES)
  with pytest.raises(UserError, match='--validation'):
    _evaluate(made)
  # Nor if only its last start left them out.
  save(7, max_steps=7, classes=synthetic.CLASSES, flags={'validation': True})
  with pytest.raises(UserError, match='--validation'):
    _evaluate(made)
  # Nor if nothing tells.
  os.remove('cifar10/train/run.json')
  with pytest.raises(UserError, match='run.json'):
    _evaluate(made)
  assert 'precision' not in capsys.readouterr().out
  assert not _summaries(home)


def test_images_in_a_file_of_their_own_are_always_measured(home, with_file, save, capsys):
  save(7, max_steps=7, classes=synthetic.CLASSES)
  _evaluate(with_file)
  assert '12 validation images' in capsys.readouterr().out


def test_all_images_for_validation_are_measured_by_default(home, tmp_path, with_file, save, capsys):
  _records(range(130), 7).tofile(tmp_path / 'with_file' / FOLDER / 'validation_batch.bin')
  save(7, max_steps=7, classes=synthetic.CLASSES)
  FLAGS(['cifar10_eval.py', f'--data_dir={with_file}', '--eval_data=validation', '--run_once'])
  cifar10_eval.main()
  assert '130 validation images' in capsys.readouterr().out


def test_evaluation_without_images_for_validation_is_an_error(home, small_data_dir, save):
  save(7, max_steps=7, classes=synthetic.CLASSES, flags={'validation': True})
  with pytest.raises(UserError, match='--validation'):
    _evaluate(small_data_dir)


def _train(data_dir, *flags):
  FLAGS(['cifar10_train.py', f'--data_dir={data_dir}', '--batch_size=4', '--max_steps=1',
         '--min_queue_examples=10', '--save_summaries_steps=0', *flags])
  cifar10_train.main()


@pytest.mark.parametrize('before', [{}, {'validation': False}])  # {}: from before the flag.
def test_run_records_the_flag_and_a_resume_names_its_change(home, made, save, capsys, before):
  save(7, max_steps=7, classes=synthetic.CLASSES, flags=before)
  _train(made, '--validation', '--max_steps=8')
  assert json.loads((home / 'cifar10/train/run.json').read_text())['flags']['validation'] is True
  assert '--validation is True, was False' in capsys.readouterr().out


def test_values_of_a_run_that_has_learned_the_images_are_refused(home, made, save):
  save(7, max_steps=7, classes=synthetic.CLASSES)
  with pytest.raises(UserError, match='--validation'):
    _train(made, '--validation', '--init_from=cifar10/train', '--train_dir=new')
  save(7, max_steps=7, classes=[f'other {i}' for i in range(10)])
  os.remove('cifar10/train/run.json')
  save(7, max_steps=7, classes=[f'other {i}' for i in range(10)])  # They are other images.
  _train(made, '--validation', '--init_from=cifar10/train', '--train_dir=new')
