import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from cifar10_support import runs
from cifar10_support import training
from cifar10_support.console import UserError

FLAGS = tf.app.flags.FLAGS


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  """The current directory, with a checkpoint in `source` whose `biases` have no average."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'source').mkdir()
  with tf.Graph().as_default(), tf.Session() as session:
    for name, shape, value in [('weights', [3], 1), ('weights/ExponentialMovingAverage', [3], 2),
                               ('biases', [2], 3), ('other', [4], 4), ('global_step', [], 70)]:
      tf.get_variable(name, initializer=np.full(shape, value, np.float32))
    session.run(tf.global_variables_initializer())
    tf.train.Saver().save(session, 'source/model.ckpt', global_step=70)
  FLAGS(['pytest', '--train_dir=run', '--init_from=source'])
  return tmp_path


def _train(max_steps, shapes):
  """Trains variables that start as zeros and grow by one in each step; returns the first values."""
  FLAGS.max_steps = max_steps
  with tf.Graph().as_default():
    global_step = tf.train.get_or_create_global_step()
    variables = [tf.get_variable(name, shape, initializer=tf.zeros_initializer())
                 for name, shape in shapes.items()]
    tf.train.ExponentialMovingAverage(0.5).apply(variables)
    train_op = tf.group(tf.assign_add(global_step, 1), *[v.assign_add(tf.ones_like(v))
                                                         for v in variables])
    with training.training_session(train_op, tf.constant(1.0), 5,
                                   {'classes': ['hot', 'cold']}) as session:
      while not session.should_stop():
        session.run(train_op)
  reader = tf.train.load_checkpoint('run/model.ckpt-0')
  return {key: np.unique(reader.get_tensor(key)).tolist()
          for key in reader.get_variable_to_shape_map()}


SHAPES = {'weights': [3], 'biases': [2], 'other': [5], 'new': [2]}


@pytest.mark.parametrize('named', ['source', 'source/model.ckpt-70'])
def test_run_starts_with_what_fits_by_name_and_shape_averages_included(named, capsys):
  FLAGS.init_from = named
  assert _train(1, SHAPES) == {
      'weights': [1], 'weights/ExponentialMovingAverage': [2],
      'biases': [3], 'biases/ExponentialMovingAverage': [3],
      'other': [0], 'other/ExponentialMovingAverage': [0],
      'new': [0], 'new/ExponentialMovingAverage': [0], 'global_step': [0]}
  [line] = [line for line in capsys.readouterr().out.splitlines() if 'model.ckpt-70' in line]
  assert line.endswith(': other, new.')
  assert runs.read('run')['flags']['init_from'] == named


def test_same_command_resumes(capsys):
  _train(2, SHAPES)
  capsys.readouterr()
  _train(5, SHAPES)
  out = capsys.readouterr().out
  assert 'from step 2' in out and 'model.ckpt-70' not in out
  assert tf.train.load_variable('run', 'weights').tolist() == [6] * 3  # 1 and five steps.


@pytest.mark.parametrize('source, shapes, message', [
    ('source', {'new': [2], 'other': [5]}, 'model.ckpt-70.*--init_from'),
    ('nowhere', SHAPES, 'nowhere.*--init_from'), ('source/model.ckpt-9', SHAPES, 'model.ckpt-9')])
def test_source_of_nothing_is_one_line_and_starts_no_run(source, shapes, message, home):
  FLAGS.init_from = source
  with pytest.raises(UserError, match=message):
    _train(1, shapes)
  assert not list((home / 'run').iterdir())
