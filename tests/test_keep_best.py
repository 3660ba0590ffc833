import itertools
import json
import os
import shutil
import time
import types

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10_eval
import cifar10_train
from cifar10_support import best
from cifar10_support import checkpoints
from cifar10_support import files
from cifar10_support import runs
from cifar10_support import synthetic
from cifar10_support import training
from cifar10_support.console import UserError

FLAGS = tf.app.flags.FLAGS

TRAIN_DIR = 'cifar10/train'
WHOLE = ['data-00000-of-00001', 'index', 'meta']


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, small_data_dir):
  monkeypatch.chdir(tmp_path)
  FLAGS(['pytest', '--data_dir=' + small_data_dir, '--eval_interval_secs=0', '--keep_best=best'])
  return tmp_path


@pytest.fixture
def saved(home):
  """A function that saves a checkpoint of a single variable, and returns it."""
  os.makedirs(TRAIN_DIR)
  runs.record_start(TRAIN_DIR, {'max_steps': 9}, {'classes': ['cat', 'dog']})

  def save_at(step):
    with tf.Graph().as_default(), tf.Session() as session:
      variable = tf.Variable(float(step), name='value')
      session.run(variable.initializer)
      path = tf.train.Saver().save(session, f'{TRAIN_DIR}/model.ckpt', global_step=step)
    return checkpoints.read(path)

  return save_at


def _value(directory):
  """Returns what the latest checkpoint in a directory has, or None."""
  checkpoint = checkpoints.latest_intact(directory)
  return checkpoint and tf.train.load_checkpoint(checkpoint.path).get_tensor('value')


def _files(directory):
  # What a kill has left of a small file is overwritten by the next one.
  return sorted(set(os.listdir(directory)) - {'best.json.tmp', 'checkpoint.tmp', 'run.json.tmp'})


def _with(step):
  return sorted([f'model.ckpt-{step}.{ending}' for ending in WHOLE]
                + ['best.json', 'checkpoint', 'run.json'])


def test_best_checkpoint_is_kept_whole_and_alone(home, saved):
  of_run = best.Best(TRAIN_DIR)
  for step, precision in [(1, 0.5), (2, 0.7), (3, 0.6), (4, 0.7)]:
    _, is_over = of_run.consider(saved(step), precision, 'any')
    assert not is_over
  assert _files('best') == _with(2)
  for name in [f'model.ckpt-2.{ending}' for ending in WHOLE] + ['run.json']:
    assert (home / 'best' / name).read_bytes() == (home / TRAIN_DIR / name).read_bytes()
  told = json.loads((home / 'best' / 'best.json').read_text())
  assert list(told) == ['model.ckpt-2']
  told = told['model.ckpt-2']
  assert (told['precision'], told['step'], told['eval_data']) == (0.7, 2, 'test')
  shutil.move('best', 'elsewhere')
  assert _value('elsewhere') == 2


def test_nothing_is_kept_without_the_flag(home, saved):
  FLAGS.keep_best = None
  assert best.Best(TRAIN_DIR).consider(saved(1), 0.5, 'any') == ('', False)
  assert _files(home) == ['cifar10']


class _Killed(BaseException):
  pass


def test_kill_at_any_moment_leaves_the_old_best_or_the_new_one(home, saved, monkeypatch):
  monkeypatch.setattr(os, 'fsync', lambda descriptor: None)  # Which takes most of the time.
  first, second, third = saved(1), saved(2), saved(3)
  kill_at = itertools.count()
  left = None

  def may_be_killed(function):
    def do_or_die(*args, **kwargs):
      nonlocal left
      left -= 1
      if left < 0:
        raise _Killed
      return function(*args, **kwargs)
    return do_or_die

  def copy_half(source, target):
    with open(source, 'rb') as contents, open(target, 'wb') as out:
      data = contents.read()
      out.write(data[:len(data) // 2])
      out.flush()
      may_be_killed(lambda: None)()
      out.write(data[len(data) // 2:])

  seen = set()
  for kill in kill_at:
    shutil.rmtree('best', ignore_errors=True)
    best.Best(TRAIN_DIR).consider(first, 0.5, 'any')
    left = kill
    with monkeypatch.context() as patched:
      for name in ('replace', 'remove'):
        patched.setattr(os, name, may_be_killed(getattr(os, name)))
      patched.setattr(files, '_flush', may_be_killed(files._flush))
      patched.setattr(shutil, 'copyfile', copy_half)
      try:
        best.Best(TRAIN_DIR).consider(second, 0.6, 'any')
        was_killed = False
      except _Killed:
        was_killed = True
    value = _value('best')
    # Not only that: what is on the disk is the latest one for everybody.
    assert tf.train.latest_checkpoint('best') == f'best/model.ckpt-{value:.0f}'
    seen.add(value)
    evaluation = best.Best(TRAIN_DIR)
    evaluation.consider(checkpoints.read(first.path), 0.5, 'any')
    assert _value('best') == value
    evaluation.consider(second, 0.6, 'any')
    assert _files('best') == _with(2)
    evaluation.consider(third, 0.6001, 'any')
    assert _files('best') == _with(3)
    if not was_killed:
      break
  assert seen == {1, 2} and kill > 20


def test_kill_at_the_first_best_leaves_nothing_that_disturbs_the_next(saved, monkeypatch):
  for kill in itertools.count():
    shutil.rmtree('best', ignore_errors=True)
    left = itertools.count(kill, -1)

    def replace(source, target, replace=os.replace):
      if next(left) == 0:
        raise _Killed
      replace(source, target)

    with monkeypatch.context() as patched:
      patched.setattr(os, 'replace', replace)
      try:
        best.Best(TRAIN_DIR).consider(saved(1), 0.1, 'any')
        break
      except _Killed:
        pass
    best.Best(TRAIN_DIR).consider(saved(2), 0.2, 'any')
    assert _value('best') == 2 and _files('best') == _with(2)
  assert kill > 4


@pytest.mark.parametrize('endings', [WHOLE, ['index'], ['data-00000-of-00001']])
@pytest.mark.parametrize('when', ['before', 'while'])
def test_checkpoint_that_training_deletes_meanwhile_changes_nothing(
    saved, monkeypatch, endings, when):
  of_run = best.Best(TRAIN_DIR)
  of_run.consider(saved(1), 0.5, 'any')
  checkpoint = saved(2)

  def delete():
    for ending in endings:
      if os.path.exists(f'{checkpoint.path}.{ending}'):
        os.remove(f'{checkpoint.path}.{ending}')

  def copyfile(source, target, copyfile=shutil.copyfile):
    delete()
    copyfile(source, target)

  if when == 'before':
    delete()
  else:
    monkeypatch.setattr(shutil, 'copyfile', copyfile)
  said, is_over = of_run.consider(checkpoint, 0.9, 'any')
  assert 'deleted' in said and not is_over
  assert _value('best') == 1
  monkeypatch.setattr(shutil, 'copyfile', copyfile.__defaults__[0])
  of_run.consider(saved(3), 0.6, 'any')
  assert _value('best') == 3 and _files('best') == _with(3)


def test_best_survives_a_restart_of_evaluation(saved):
  best.Best(TRAIN_DIR).consider(saved(1), 0.5, 'any')
  again = best.Best(TRAIN_DIR)
  again.consider(saved(2), 0.4, 'any')
  assert _value('best') == 1
  again.consider(saved(3), 0.6, 'any')
  assert _value('best') == 3


def test_checkpoint_of_the_same_name_is_not_copied_over_the_best(home, saved):
  best.Best(TRAIN_DIR).consider(saved(1), 0.5, 'any')
  before = (home / 'best' / 'best.json').read_bytes()
  best.Best(TRAIN_DIR).consider(saved(1), 0.9, 'any')
  assert (home / 'best' / 'best.json').read_bytes() == before


def test_checkpoint_without_record_or_meta_graph_is_kept_too(saved):
  checkpoint = saved(1)
  os.remove(f'{TRAIN_DIR}/run.json')
  os.remove(f'{checkpoint.path}.meta')
  best.Best(TRAIN_DIR).consider(checkpoint, 0.5, 'any')
  assert _value('best') == 1
  assert _files('best') == sorted(set(_with(1)) - {'run.json', 'model.ckpt-1.meta'})


def test_checkpoint_of_a_step_that_begins_with_the_same_digits_is_not_taken_along(saved):
  saved(10)
  best.Best(TRAIN_DIR).consider(saved(1), 0.5, 'any')
  assert _files('best') == _with(1)


def _another_measure(saved):
  best.Best(TRAIN_DIR).consider(saved(1), 0.5, 'test images')


def _another_run(saved):
  best.Best(TRAIN_DIR).consider(saved(1), 0.5, 'validation images')
  record = json.loads(open(f'{TRAIN_DIR}/run.json').read())
  with open(f'{TRAIN_DIR}/run.json', 'w') as out:
    json.dump({**record, 'started': '2015-11-09T00:00:00'}, out)


def _run_itself(saved):
  FLAGS.keep_best = f'./{TRAIN_DIR}/'


def _another_runs_directory(saved):
  saved(1)
  shutil.copytree(TRAIN_DIR, 'best')


def _training_in_it(saved):
  best.Best(TRAIN_DIR).consider(saved(1), 0.5, 'validation images')
  for path in os.listdir(TRAIN_DIR):
    if path.startswith('model.ckpt-1.'):
      shutil.copy(f'{TRAIN_DIR}/{path}', f'best/{path.replace("-1.", "-8.")}')


def _file(saved):
  with open('best', 'w'):
    pass


@pytest.mark.parametrize('prepare', [_another_measure, _another_run, _run_itself,
                                     _another_runs_directory, _training_in_it, _file])
def test_directory_with_anything_else_is_refused_and_left_alone(home, saved, prepare):
  prepare(saved)

  def contents():
    return {path: path.read_bytes() for place in (home / 'best', home / TRAIN_DIR)
            for path in place.rglob('*') if path.is_file()}

  before = contents()
  with pytest.raises(UserError, match='--keep_best'):
    best.Best(TRAIN_DIR).consider(checkpoints.read(f'{TRAIN_DIR}/model.ckpt-1'), 0.9,
                                  'validation images')
  assert contents() == before


@pytest.mark.parametrize('keep_best', ['best', None])
def test_patience_ends_evaluation_and_training(saved, keep_best):
  FLAGS.keep_best, FLAGS.patience = keep_best, 2
  folder = keep_best or 'cifar10/eval/best'
  of_run = best.Best(TRAIN_DIR)
  for step, precision, ends in [(1, 0.5, False), (2, 0.4, False), (3, 0.6, False),
                                (4, 0.6, False), (5, 0.5, True)]:
    assert runs.why_to_end(TRAIN_DIR) is None
    said, is_over = of_run.consider(saved(step), precision, 'any')
    assert is_over == ends
  why = runs.why_to_end(TRAIN_DIR)
  assert why in said
  assert '0.6' in why and 'step 3' in why and folder in why
  assert _value(folder) == 3


def test_patience_outlives_a_restart_and_counts_a_checkpoint_once(saved):
  FLAGS.patience = 2
  first, second, third = saved(1), saved(2), saved(3)
  for checkpoint, precision, ends in [(first, 0.5, False), (first, 0.5, False),
                                      (second, 0.4, False), (second, 0.4, False),
                                      (third, 0.3, True)]:
    assert best.Best(TRAIN_DIR).consider(checkpoint, precision, 'any')[1] == ends


def _train(while_training=lambda number: None):
  """Counts steps in a training session; returns after how many it ended."""
  with tf.Graph().as_default():
    global_step = tf.train.get_or_create_global_step()
    train_op = tf.assign_add(global_step, 1)
    with training.training_session(train_op, tf.constant(1.0), 1,
                                   {'classes': ['cat', 'dog']}) as session:
      while not session.should_stop():
        number = int(session.run(train_op))
        while_training(number)
  return number


@pytest.mark.parametrize('flag', ['log_frequency', 'save_checkpoint_secs'])
def test_training_ends_with_a_checkpoint_and_a_new_start_resumes_it(monkeypatch, capsys, flag):
  FLAGS(['pytest', '--max_steps=1000', '--log_frequency=1000'])
  if flag == 'log_frequency':
    FLAGS.log_frequency = 10
  else:
    FLAGS.save_checkpoint_secs = 1
    ticks = itertools.count(step=0.04)  # A save after some 25 looks at the clock.
    monkeypatch.setattr(training, 'time', types.SimpleNamespace(
        monotonic=lambda: next(ticks), perf_counter=time.perf_counter, time_ns=time.time_ns))

  def ask(number):
    if number == 3:
      with open(f'{TRAIN_DIR}/end.txt', 'w') as out:
        out.write('enough of it')

  ended_at = _train(ask)
  assert 3 < ended_at < 100
  assert checkpoints.latest_intact(TRAIN_DIR).step == ended_at
  [line] = [line for line in capsys.readouterr().out.splitlines() if 'enough of it' in line]
  assert str(ended_at) in line
  FLAGS.max_steps = ended_at + 50
  assert _train() == ended_at + 50
  assert 'enough of it' not in capsys.readouterr().out
  assert not os.path.exists(f'{TRAIN_DIR}/end.txt')


@pytest.fixture
def whenever_it_waits(monkeypatch):
  """A list of functions; in place of each sleep of the script the next one is called."""
  functions = []
  monkeypatch.setattr(cifar10_eval, 'time', types.SimpleNamespace(
      monotonic=time.monotonic, time_ns=time.time_ns, time=time.time,
      sleep=lambda secs: functions.pop(0)() if functions else time.sleep(secs)))
  return functions


def test_evaluation_keeps_the_best_and_what_is_kept_evaluates_and_trains(
    save, whenever_it_waits, capsys):
  FLAGS(['pytest', '--patience=1', '--num_examples=100'])
  save(1, max_steps=9, classes=synthetic.CLASSES)
  shutil.copytree(TRAIN_DIR, 'first')

  def not_better():
    for ending in WHOLE[:2]:
      shutil.copy(f'first/model.ckpt-1.{ending}', f'{TRAIN_DIR}/model.ckpt-2.{ending}')
    with open(f'{TRAIN_DIR}/checkpoint', 'w') as out:
      out.write('model_checkpoint_path: "model.ckpt-2"')

  whenever_it_waits += [not_better, lambda: None, not_better]
  cifar10_eval.main()  # Which would wait for step 9.
  assert runs.why_to_end(TRAIN_DIR)
  [precision] = {line.split()[-1] for line in capsys.readouterr().out.splitlines()
                 if ': precision @ 1 = ' in line}

  FLAGS(['pytest', '--checkpoint_dir=best', '--run_once', '--keep_best=', '--num_examples=100'])
  FLAGS.keep_best = FLAGS.patience = None
  cifar10_eval.main()
  assert f'precision @ 1 = {precision}' in capsys.readouterr().out

  FLAGS(['pytest', '--train_dir=best', '--max_steps=2', '--batch_size=4', '--min_queue_examples=9'])
  cifar10_train.main()
  assert 'Resuming best from step 1' in capsys.readouterr().out
  assert checkpoints.latest_intact('best').step == 2
  assert np.isfinite(tf.train.load_checkpoint('best').get_tensor('conv1/weights')).all()
