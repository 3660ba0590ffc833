"""What the HParams and the Projector tab of TensorBoard find, read by TensorBoard and numpy."""

import datetime
import os
import re
import shutil
from unittest import mock

from google.protobuf import text_format
import numpy as np
from PIL import Image
import pytest
from tensorboard import context as tensorboard_context
from tensorboard.backend.event_processing import data_provider
from tensorboard.backend.event_processing import plugin_event_multiplexer
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import backend_context
from tensorboard.plugins.hparams import list_session_groups
from tensorboard.plugins.projector import projector_config_pb2
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_eval
from cifar10_support import dataset
from cifar10_support import tabs
from cifar10_support import runs
from cifar10_support import settings
from cifar10_support import synthetic
from cifar10_support import training
from cifar10_support.console import UserError
from conftest import TRAINED
import numpy_network

FLAGS = tf.app.flags.FLAGS


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


# HParams.

def _train(*flags):
  """Trains a network of one variable for three steps, as a script would that has these flags."""
  FLAGS.unparse_flags()  # Of an earlier run.
  FLAGS(['cifar10_train.py', '--max_steps=3', '--log_frequency=1', *flags])
  with settings.from_flags(cifar10), tf.Graph().as_default():
    step = tf.train.get_or_create_global_step()
    loss = tf.get_variable('weight', [], initializer=tf.ones_initializer()).read_value()
    train_op = tf.assign_add(step, 1)
    with training.training_session(
        train_op, loss, 5, {'classes': list(synthetic.CLASSES)}) as session:
      while not session.should_stop():
        session.run(train_op)


def _rows(folder):
  """Returns the rows of TensorBoard's HParams tab on a folder: by name the flags, the results."""
  multiplexer = plugin_event_multiplexer.EventMultiplexer()
  multiplexer.AddRunsFromDirectory(str(folder)).Reload()
  context = backend_context.Context(base_plugin.TBContext(
      data_provider=data_provider.MultiplexerDataProvider(multiplexer, str(folder))))
  request = api_pb2.ListSessionGroupsRequest(
      slice_size=100, allowed_statuses=api_pb2.Status.values())
  groups = list_session_groups.Handler(
      tensorboard_context.RequestContext(), context, '', request).run().session_groups
  return {group.name: (
      {flag: getattr(value, value.WhichOneof('kind')) for flag, value in group.hparams.items()},
      {metric.name.tag: metric.value for metric in group.metric_values}) for group in groups}


def test_run_is_a_row_with_its_flags_and_named_after_those_that_were_given(home):
  _train('--momentum=0.5', '--freeze=conv1', '--train_dir=runs/a/train', '--mixed_precision')
  _train('--train_dir=runs/b/train')
  (name_b, (b, _)), (name_a, (a, results)) = sorted(
      _rows(home / 'runs').items(), key=lambda row: 'momentum' in row[0])
  assert {flag for flag in a if a[flag] != b[flag]} == {'momentum', 'freeze', 'mixed_precision'}
  assert (a['momentum'], b['momentum']) == (0.5, 0.0) and 'conv1' in a['freeze']
  assert (a['batch_size'], a['weight_decay'], a['learning_rate_schedule']) == (
      128, 0.004, 'staircase')
  assert results['examples/sec'] > 0
  assert 'momentum=0.5' in name_a and 'conv1' in name_a and 'batch_size' not in name_a
  assert '=' not in name_b


def test_two_runs_of_one_command_are_two_rows(home, monkeypatch):
  for second, name in enumerate('ab'):
    now = datetime.datetime(2026, 11, 30, 20, 0, second)
    monkeypatch.setattr(runs, 'datetime', mock.Mock(**{'datetime.now': lambda now=now: now}))
    _train('--train_dir=runs/%s/train' % name)
  assert len(_rows(home / 'runs')) == 2


def test_result_and_loss_of_a_run_are_in_one_row_also_after_it_was_resumed(
    home, save, small_data_dir, capsys):
  _train('--momentum=0.5')
  save(9, max_steps=9, classes=synthetic.CLASSES, flags={'momentum': 0.75})
  FLAGS(['cifar10_eval.py', '--run_once', '--data_dir=' + small_data_dir])
  cifar10_eval.main()
  printed = re.search(r'precision @ 1 = ([.0-9]+)', capsys.readouterr().out).group(1)
  [(flags, results)] = _rows(home / 'cifar10').values()
  assert flags['momentum'] == 0.5
  assert '%.3f' % results['precision @ 1'] == printed and results['examples/sec'] > 0


def test_run_without_a_record_is_evaluated_without_a_row(home, save, small_data_dir):
  save(9, max_steps=9, classes=synthetic.CLASSES)
  (home / 'cifar10' / 'train' / 'run.json').unlink()
  FLAGS(['cifar10_eval.py', '--run_once', '--data_dir=' + small_data_dir])
  cifar10_eval.main()
  assert _rows(home / 'cifar10') == {}


# Projector.

def _read(directory):
  """Returns what the tab reads there: points, rows of names, and the picture's tiles."""
  config = text_format.Parse((directory / 'projector_config.pbtxt').read_text(),
                             projector_config_pb2.ProjectorConfig())
  [embedding] = config.embeddings
  points = np.fromfile(directory / embedding.tensor_path, '<f4').reshape(embedding.tensor_shape)
  heading, *rows = (directory / embedding.metadata_path).read_text().splitlines()
  width, height = embedding.sprite.single_image_dim
  with Image.open(directory / embedding.sprite.image_path) as picture:
    sheet = np.asarray(picture)
  tiles = [sheet[y:y + height, x:x + width] for y in range(0, sheet.shape[0], height)
           for x in range(0, sheet.shape[1], width)]
  assert heading.count('\t') == rows[0].count('\t')
  return points, [row.split('\t') for row in rows], tiles


@pytest.mark.parametrize('channels', [1, 3])
def test_each_image_has_a_point_its_names_and_a_tile(channels, tmp_path):
  generator = np.random.RandomState(0)
  images = generator.randint(256, size=[7, 5, 5, channels]).astype(np.uint8)
  points = generator.rand(7, 4).astype(np.float32)
  probabilities = np.eye(3)[[0, 1, 2, 0, 1, 2, 0]]
  tabs.write_projector(tmp_path, [2, 1, 2, 0, 1, 2, 0], probabilities, ['cat', 'd\xf6g', 'emu'],
                       images, points)
  read_points, rows, tiles = _read(tmp_path)
  np.testing.assert_array_equal(read_points, points)
  assert [row[:2] for row in rows[:3]] == [['emu', 'cat'], ['d\xf6g', 'd\xf6g'], ['emu', 'emu']]
  assert [row[2] for row in rows] == list('0123456')
  np.testing.assert_array_equal(np.reshape(tiles[:7], images.shape), images)


@pytest.mark.parametrize('flags, crops_of', [
    (['--batch_size=7'], lambda images: numpy_network.central_crop(images)[:, np.newaxis]),
    (['--multiview', '--batch_size=6'], numpy_network.ten_crops)])
def test_points_are_what_the_last_layer_sees(flags, crops_of, home, labelled_data_dir):
  FLAGS(['cifar10_eval.py', '--run_once', '--projector', '--data_dir=' + labelled_data_dir,
         '--checkpoint_dir=' + TRAINED, '--num_examples=10', *flags])
  cifar10_eval.main()
  points, rows, tiles = _read(home / 'cifar10' / 'eval')
  images, labels = numpy_network.read(
      os.path.join(labelled_data_dir, dataset.FOLDER, dataset.TEST_FILE))
  variables = numpy_network.averages(TRAINED)
  # Then its logits are its input.
  variables.update({'softmax_linear/weights': np.eye(192), 'softmax_linear/biases': np.zeros(192)})
  expected = np.mean([numpy_network.logits(crops, variables)
                      for crops in crops_of(images[:10]).swapaxes(0, 1)], axis=0)
  np.testing.assert_allclose(points, expected, rtol=1e-3, atol=1e-3)
  assert [row[0] for row in rows] == [dataset.CLASSES[label] for label in labels[:10]]
  np.testing.assert_array_equal(tiles[:10], images[:10])


def test_without_the_flag_nothing_is_added_or_written(home, save, small_data_dir):
  def graph():
    [path] = (home / 'cifar10' / 'eval').glob('events.*')
    [graph] = [event.graph_def for event in tf.train.summary_iterator(str(path)) if event.graph_def]
    return {node.name for node in tf.GraphDef.FromString(graph).node}

  save(9, max_steps=9, classes=synthetic.CLASSES)
  nodes = []
  for flag in ('--noprojector', '--projector'):
    FLAGS(['cifar10_eval.py', '--run_once', '--data_dir=' + small_data_dir, flag])
    cifar10_eval.main()
    nodes.append(graph())
    assert (home / 'cifar10' / 'eval' / 'projector').exists() == (flag == '--projector')
    if flag == '--noprojector':
      shutil.rmtree(home / 'cifar10' / 'eval')
  assert nodes[0] < nodes[1]


def test_network_without_such_a_layer_is_one_line():
  FLAGS.projector = True
  with pytest.raises(UserError, match='softmax_linear'):
    tabs.embedding(tf.constant([1, 2]))
