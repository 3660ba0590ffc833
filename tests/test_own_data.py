"""A data set that says what it is: other sizes, other colours, another number of classes."""

import json
import os

import numpy as np
from PIL import Image
import pytest
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_eval
import cifar10_input
import cifar10_multi_gpu_train
import cifar10_predict
import cifar10_train
from cifar10_support import dataset
from cifar10_support import runs
from cifar10_support.console import UserError

FLAGS = tf.app.flags.FLAGS

# Side, channels, classes, and the side of the crop that the network sees.
KINDS = [(28, 1, 10, 21), (32, 3, 2, 24), (48, 3, 4, 36), (64, 1, 100, 48), (28, 3, 256, 21)]


@pytest.fixture
def home(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def _make(data_dir, side=40, channels=3, num_classes=4, train=60, test=20, validation=0, seed=0):
  """Writes a data set of random images; returns its images and labels for testing.

  The labels are 0, 1, 2 and so on, but those for testing are twice as often 0.
  """
  folder = data_dir / 'cifar-10-batches-bin'
  folder.mkdir(parents=True)
  random = np.random.RandomState(0)

  def write(names, count):
    records = random.randint(0, 256, [count, 1 + channels * side * side], np.uint8)
    records[:, 0] = np.arange(count) % num_classes
    records[count // 2:, 0] *= names != ['test_batch.bin']
    for name, part in zip(names, np.array_split(records, len(names))):
      part.tofile(folder / name)
    return records

  write(['data_batch_%d.bin' % i for i in range(1, min(5, train) + 1)], train)
  if validation:
    write(['validation_batch.bin'], validation)
  (folder / 'data_set.json').write_text(json.dumps({
      'side': side, 'channels': channels, 'classes': ['kind %d' % i for i in range(num_classes)],
      'images': {'train': train, 'validation': validation, 'test': test},
      'source': 'somewhere', 'flags': {'seed': seed, 'test_fraction': 0.25}}))
  if test:
    records = write(['test_batch.bin'], test)
    images = records[:, 1:].reshape(-1, channels, side, side).transpose(0, 2, 3, 1)
    return images, records[:, 0].astype(int)


def _flags(*flags):
  for name in ('multiview', 'run_once'):
    FLAGS[name].unparse()
  FLAGS(['pytest', '--data_dir=data', '--batch_size=6', '--max_steps=3', '--log_frequency=1',
         '--min_queue_examples=30', '--save_summaries_steps=2', *flags])


@pytest.mark.parametrize('side, channels, num_classes, crop', KINDS)
def test_scripts_follow_the_data_set(side, channels, num_classes, crop, home, capsys):
  images, labels = _make(home / 'data', side, channels, num_classes)
  _flags()
  cifar10_train.main()
  _flags('--train_dir=towers', '--num_gpus=2')
  cifar10_multi_gpu_train.main()
  capsys.readouterr()

  picture = home / 'picture.png'
  Image.fromarray(images[0].squeeze()).save(picture)
  for run in ('cifar10/train', 'towers'):
    shape = tf.train.load_checkpoint(run).get_variable_to_shape_map()
    assert shape['conv1/weights'] == [5, 5, channels, 64]
    assert shape['softmax_linear/weights'] == [192, num_classes]
    record = json.loads((home / run / 'run.json').read_text())
    assert (record['side'], record['image_shape']) == (side, [crop, crop, channels])

    with tf.Graph().as_default(), tf.Session() as session:
      expected = _probabilities_of_the_middle(session, images, crop, run)
    precision = np.mean(expected.argmax(axis=1) == labels)
    _flags(f'--checkpoint_dir={run}', '--run_once')
    cifar10_eval.main()
    assert f'precision @ 1 = {precision:.3f}\n' in capsys.readouterr().out
    _flags(f'--checkpoint_dir={run}', '--run_once', '--multiview')
    cifar10_eval.main()
    assert 'precision @ 1 = ' in capsys.readouterr().out

    _flags(f'--checkpoint_dir={run}', '--json', f'--export_dir={run}-model')
    assert cifar10_predict.main([str(picture)]) == 0
    [answer] = json.loads(capsys.readouterr().out)
    by_class = {row['class']: row['probability'] for row in answer['predictions']}
    np.testing.assert_allclose([by_class['kind %d' % i] for i in range(num_classes)], expected[0],
                               atol=1e-5)
    with tf.Graph().as_default(), tf.Session() as session:
      model = tf.saved_model.load(session, ['serve'], f'{run}-model')
      outputs = model.signature_def['serving_default'].outputs
      [served] = session.run(outputs['probabilities'].name, {
          model.signature_def['serving_default'].inputs['pictures'].name: [picture.read_bytes()]})
    np.testing.assert_allclose(served, expected[0], atol=1e-5)


def _probabilities_of_the_middle(session, images, crop, run):
  """The answers of a run's averages for the middles of images, cut out here."""
  start = (images.shape[1] - crop) // 2
  middles = images[:, start:start + crop, start:start + crop].astype(np.float32)
  middles -= middles.mean(axis=(1, 2, 3), keepdims=True)
  middles /= middles.std(axis=(1, 2, 3), keepdims=True)
  reader = tf.train.load_checkpoint(run)
  cifar10.NUM_CLASSES, before = reader.get_tensor('softmax_linear/biases').size, cifar10.NUM_CLASSES
  probabilities = tf.nn.softmax(cifar10.inference(tf.constant(middles)))
  cifar10.NUM_CLASSES = before
  for variable in tf.trainable_variables():
    variable.load(reader.get_tensor(f'{variable.op.name}/ExponentialMovingAverage'), session)
  return session.run(probabilities)


def test_constants_take_the_data_sets_values_and_then_cifar10s_again(
    home, small_data_set, monkeypatch, from_flags):
  _make(home / 'data', side=64, num_classes=7, train=60, test=20)
  found = dataset.find('data', cifar10.NUM_CLASSES)
  cifar10.inputs('test', found)
  for module in (cifar10, cifar10_input):
    assert (module.NUM_CLASSES, module.IMAGE_SIZE) == (7, 48)
    assert module.NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN == 60
    assert module.NUM_EXAMPLES_PER_EPOCH_FOR_EVAL == 20
  assert dataset.find('data', cifar10.NUM_CLASSES).classes == found.classes

  cifar10.inputs('test', small_data_set)
  assert (cifar10.NUM_CLASSES, cifar10_input.IMAGE_SIZE) == (10, 24)
  assert cifar10.NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN == 50000
  with from_flags():
    cifar10.distorted_inputs(found)
    assert cifar10.NUM_CLASSES == 7
  assert cifar10.NUM_CLASSES == 10


def test_constants_that_somebody_has_set_stay(home, monkeypatch, run_graph):
  _make(home / 'data', side=64, num_classes=7)
  monkeypatch.setattr(cifar10_input, 'IMAGE_SIZE', 40)
  monkeypatch.setattr(cifar10, 'NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN', 1000)
  images, _ = cifar10.inputs('test', dataset.find('data', 10))
  assert images.shape[1:] == [40, 40, 3]
  assert cifar10.NUM_EXAMPLES_PER_EPOCH_FOR_TRAIN == 1000
  monkeypatch.setattr(cifar10, 'NUM_CLASSES', 5)
  with pytest.raises(dataset.DataError, match='5.*7'):
    dataset.find('data', cifar10.NUM_CLASSES)


def test_epoch_of_the_schedule_is_the_data_sets(home, run_graph):
  _make(home / 'data', train=60)
  FLAGS(['pytest', '--batch_size=6'])
  cifar10.distorted_inputs(dataset.find('data', 10))
  step = tf.train.get_or_create_global_step()
  cifar10.gradient_descent(step, 6)  # Ten steps an epoch, 350 epochs to the first fall.
  [rate] = [op.outputs[0] for op in tf.get_default_graph().get_operations()
            if op.name == 'schedule/ExponentialDecay']
  rates = []
  with tf.Session() as session:
    for number in (3499, 3500):
      step.load(number, session)
      rates.append(session.run(rate))
  np.testing.assert_allclose(rates, [0.1, 0.01], rtol=1e-5)


def test_old_programs_interface_follows_too(home, run_graph):
  images, labels = _make(home / 'data', side=40, channels=1)
  [(batch, batch_labels)] = run_graph(cifar10_input.inputs('test', 'data', 20))
  middles = images[:, 5:35, 5:35].astype(np.float32)
  expected = ((middles - middles.mean(axis=(1, 2, 3), keepdims=True))
              / middles.std(axis=(1, 2, 3), keepdims=True))
  np.testing.assert_allclose(batch, expected, atol=1e-4)
  assert batch_labels.tolist() == labels.tolist()
  assert cifar10_input.distorted_inputs('data', 5)[0].shape == [5, 30, 30, 1]


def test_single_images_have_the_data_sets_shape(home):
  images, _ = _make(home / 'data', side=28, channels=1)
  actual = dataset.find('data', 10).read_images('test', [3, 19])
  np.testing.assert_array_equal(actual, images[[3, 19]])


# What does not fit together.

@pytest.mark.parametrize('side, channels, num_classes', [(28, 3, 10), (32, 1, 10), (32, 3, 9)])
def test_programs_in_other_languages_refuse_what_is_not_like_cifar10(
    side, channels, num_classes, home, small_data_set):
  small_data_set.check_is_like_cifar10()
  _make(home / 'data', side, channels, num_classes)
  with pytest.raises(UserError, match=f'{side}x{side}x{channels} in {num_classes}'):
    dataset.find('data', 10).check_is_like_cifar10()


@pytest.mark.parametrize('another, named', [
    (dict(side=48), ['side', '40', '48']), (dict(channels=1), ['image_shape', '3', '1']),
    (dict(num_classes=5), ['classes', 'kind 4']), (dict(seed=8), ["'seed': 0", "'seed': 8"])])
def test_run_of_other_images_is_neither_resumed_nor_evaluated(another, named, home, capsys):
  _make(home / 'data')
  _flags()
  cifar10_train.main()
  (home / 'data').rename('first')
  _make(home / 'data', **another)
  for script, flag in ((cifar10_train, '--max_steps=6'), (cifar10_eval, '--run_once')):
    _flags(flag)
    with pytest.raises(UserError, match='cifar10/train') as error:
      script.main()
    assert all(part in str(error.value) for part in named)


def test_crop_that_is_not_the_runs_is_refused(home, monkeypatch):
  _make(home / 'data')
  _flags()
  # A network that could take any size, so that nothing but the record tells them apart.
  monkeypatch.setattr(cifar10, 'inference', lambda images, training=False: cifar10.linear(
      tf.reduce_mean(images, [1, 2]), cifar10.NUM_CLASSES, 'last'))
  cifar10_train.main()
  monkeypatch.setattr(cifar10_input, 'IMAGE_SIZE', 32)
  Image.fromarray(np.zeros([40, 40, 3], np.uint8)).save('picture.png')
  for main in (cifar10_train.main, cifar10_eval.main,
               lambda: cifar10_predict.main(['picture.png'])):
    _flags('--max_steps=6', '--run_once')
    with pytest.raises(UserError, match='30.*32'):
      main()


def test_prediction_without_a_record_is_cifar10s(home, save):
  save(3, max_steps=3)
  os.remove('cifar10/train/run.json')
  Image.fromarray(np.zeros([40, 40, 3], np.uint8)).save('picture.png')
  FLAGS(['pytest', '--checkpoint_dir=cifar10/train'])
  [(_, ranking)] = cifar10_predict.predict(['picture.png'])
  assert {name for _, name in ranking} == set(dataset.CLASSES)


@pytest.mark.parametrize('part, key', [
    ('test_batch.bin', 'test'), ('data_batch_2.bin', 'train_eval'),
    ('validation_batch.bin', 'validation')])
def test_number_of_images_that_is_not_the_described_one_is_damage(part, key, home):
  _make(home / 'data', validation=8)
  path = home / 'data' / 'cifar-10-batches-bin' / part
  path.write_bytes(path.read_bytes()[:-(1 + 3 * 40 * 40)])
  with pytest.raises(dataset.DataError, match=f'{key}.*data_set.json'):
    dataset.find('data', 10)


@pytest.mark.parametrize('description', [
    '', '[]', '{"side": 32}', '{"side": "32", "channels": 3, "classes": [], "images": {}}',
    '{"side": 32, "channels": "3", "classes": [], "images": {}}',
    '{"side": 32, "channels": 3, "classes": "cat", "images": {"train": 1, "test": 1, '
    '"validation": 0}}'])
def test_damaged_description_is_a_one_line_error(description, home):
  _make(home / 'data')
  (home / 'data' / 'cifar-10-batches-bin' / 'data_set.json').write_text(description)
  with pytest.raises(dataset.DataError, match='data_set.json'):
    dataset.find('data', 10)


def test_small_parts_have_fewer_files_or_none(home, capsys):
  _make(home / 'data', train=3, test=0)
  found = dataset.find('data', 10)
  assert [os.path.basename(path) for path in found.train_files] == [
      'data_batch_1.bin', 'data_batch_2.bin', 'data_batch_3.bin']
  assert (found.num_train, found.num_test) == (3, 0)
  with pytest.raises(dataset.DataError, match='test'):
    cifar10.inputs('test', found)
  with pytest.raises(dataset.DataError, match='--validation_fraction'):
    dataset.find('data', 10, hold_out=True)


def test_images_for_validation_are_those_of_their_file(home):
  _make(home / 'data', train=60, validation=8)
  found = dataset.find('data', 10)
  assert (found.num_train, found.num_validation) == (60, 8)
  assert len(found.read_images('validation', range(8))) == 8


# Never the wrong data.

@pytest.mark.parametrize('names', [['cats', 'dogs'], ['train.bin', 'test.bin', 'meta'], ['a.npz']])
def test_folder_that_holds_something_else_is_not_downloaded_into(names, home):
  (home / 'mine').mkdir()
  for name in names:
    (home / 'mine' / name).mkdir()
  with pytest.raises(dataset.DataError, match='cifar10_convert.py mine') as error:
    dataset.prepare('mine', 'file:///nowhere', 10)
  assert names[0] in str(error.value)
  assert sorted(os.listdir('mine')) == sorted(names)


def test_folder_with_the_archive_or_nothing_visible_is_filled(home):
  for name in ('.DS_Store', 'cifar-10-binary.tar.gz'):
    (home / 'mine').mkdir(exist_ok=True)
    (home / 'mine' / name).write_bytes(b'')
    with pytest.raises(dataset.DataError, match='nowhere|archive'):
      dataset.prepare('mine', 'file:///nowhere', 10)


def test_folder_that_is_not_all_of_cifar10_says_how_many_images_it_has(small_data_dir, data_dir,
                                                                       capsys):
  dataset.prepare(small_data_dir, 'file:///nowhere', 10)
  [line] = capsys.readouterr().out.splitlines()
  assert ' 500 ' in line and ' 100 ' in line
  for hold_out in (False, True):
    dataset.prepare(data_dir, 'file:///nowhere', 10, hold_out)
  assert not capsys.readouterr().out


# Results that fit the data.

def test_balanced_accuracy_is_printed_where_it_differs(home, capsys, monkeypatch):
  _, labels = _make(home / 'data', num_classes=2)
  _flags()
  cifar10_train.main()
  capsys.readouterr()
  # All images are taken for class 0, which 15 of the 20 are.
  monkeypatch.setattr(cifar10, 'probabilities', lambda images: (
      cifar10.inference(images), tf.tile([[0.9, 0.1]], [tf.shape(images)[0], 1]))[1])
  _flags('--run_once', '--confusion')
  cifar10_eval.main()
  out = capsys.readouterr().out
  assert np.bincount(labels).tolist() == [15, 5]
  assert 'precision @ 1 = 0.750\n' in out and 'balanced accuracy = 0.500\n' in out
  rows = [line.split() for line in out.splitlines() if ' kind ' in line]
  assert rows == [['0', 'kind', '0', '15', '0', '1.000', '0.750'],
                  ['1', 'kind', '1', '5', '0', '0.000', '-']]


def test_record_of_a_run_has_what_check_data_compares(home):
  runs.check_data('somewhere', None, {'classes': ['a'], 'side': 32})
  runs.check_data('somewhere', {'classes': ['a'], 'flags': {}}, {'classes': ['a'], 'side': 32})
  with pytest.raises(UserError, match='32.*64'):
    runs.check_data('somewhere', {'classes': ['a'], 'side': 32}, {'classes': ['a'], 'side': 64})
