"""A cluster of processes: how it trains, what it survives, and how it ends."""

import re
import signal
import time

import pytest

from cifar10_support import checkpoints
import cluster_job
import warm_process


@pytest.fixture(scope='module')
def endless_job(small_data_dir, tmp_path_factory):
  """One job for many tests, each of which does something to it."""
  job = cluster_job.Job(tmp_path_factory.mktemp('job'), [
      '--data_dir=' + small_data_dir, '--batch_size=4', '--log_frequency=1',
      '--save_checkpoint_secs=1', '--max_steps=1000000', '--save_summaries_steps=0'])
  yield job
  job.kill_all()


@pytest.fixture
def job(endless_job):
  """That job at work, whatever the test before has left of it."""
  for task in ('ps', 'chief', 'worker'):
    if task not in endless_job.tasks or not endless_job.tasks[task].alive():
      endless_job.start(task)
  _keeps_training(endless_job)
  return endless_job


def _steps(job):
  """Returns the steps that the chief has logged since it was started."""
  return [int(step) for step in re.findall(r': step (\d+), loss', job.tasks['chief'].out)]


def _keeps_training(job):
  before = len(_steps(job))
  job.wait_until(lambda: len(_steps(job)) >= before + 3)


def _saved_step(job):
  return checkpoints.latest_intact(str(job.home / 'chief' / 'cifar10' / 'train')).step


def _resumed_steps(job):
  return [int(step) for step in re.findall(r'(?i)resuming .*from step (\d+)\.',
                                           job.tasks['chief'].out)]


def _is_quiet(job):
  return all(task.err == '' for task in job.tasks.values())


def _statuses(job):
  return {name: task.wait() for name, task in job.tasks.items()}


def test_chief_alone_has_the_run(job):
  assert (job.home / 'chief' / 'cifar10' / 'train' / 'run.json').exists()
  assert list((job.home / 'ps').iterdir()) == list((job.home / 'worker').iterdir()) == []


def test_killed_worker_rejoins_and_no_step_is_lost(job):
  resumed = _resumed_steps(job)
  job.tasks['worker'].kill()
  steps = _steps(job)
  job.start('worker')
  _keeps_training(job)
  assert _resumed_steps(job) == resumed
  assert _steps(job)[:len(steps) + 1] == list(range(_steps(job)[0], steps[-1] + 2))
  assert _is_quiet(job)


def test_killed_parameter_server_gets_the_last_checkpoint(job):
  resumed = _resumed_steps(job)
  job.tasks['ps'].kill()
  saved = _saved_step(job)
  job.start('ps')
  job.wait_until(lambda: len(_resumed_steps(job)) > len(resumed))
  _keeps_training(job)
  assert _resumed_steps(job)[len(resumed)] == saved
  assert _is_quiet(job)


@pytest.mark.parametrize('killed', [['chief'], ['worker', 'chief', 'ps']])
def test_killed_chief_resumes_from_the_last_checkpoint(killed, job):
  for task in killed:
    job.tasks[task].kill()
  saved = _saved_step(job)
  for task in killed:
    job.start(task)
  _keeps_training(job)
  assert _resumed_steps(job) == [saved]
  assert _is_quiet(job)


def test_stopped_worker_is_waited_for_and_chief_saves_while_it_waits(job):
  job.tasks['worker'].signal(signal.SIGTERM)
  assert job.tasks['worker'].wait() == 143
  assert 'Stopped by SIGTERM ' in job.tasks['worker'].out
  time.sleep(1)
  assert job.tasks['ps'].alive() and job.tasks['chief'].alive()

  job.tasks['chief'].signal(signal.SIGINT)
  assert job.tasks['chief'].wait() == 130
  step = int(re.search(r'Stopped by SIGINT after step (\d+); ', job.tasks['chief'].out).group(1))
  assert _saved_step(job) == step
  job.start('chief')
  job.start('worker')
  _keeps_training(job)
  assert _resumed_steps(job) == [step]
  assert _is_quiet(job)


def test_signals_end_chief_and_worker_while_a_parameter_server_is_gone(job):
  job.tasks.pop('ps').kill()
  time.sleep(3)  # By now they wait for it in TensorFlow.
  for task, number, status in [('chief', signal.SIGINT, 130), ('worker', signal.SIGTERM, 143)]:
    job.tasks[task].signal(number)
    assert job.tasks[task].wait(timeout=30) == status
    assert 'Stopped by %s ' % number.name in job.tasks[task].out
  assert _is_quiet(job)


def test_all_tasks_end_with_status_0_after_the_last_step(job):
  job.tasks['chief'].signal(signal.SIGTERM)
  assert job.tasks['chief'].wait() == 143
  last_step = _saved_step(job) + 3
  # The evaluator, on a machine that shares the chief's directory.
  job.start('evaluator', '--train_dir=%s/chief/cifar10/train' % job.home,
            '--eval_interval_secs=0')
  job.start('chief', '--max_steps=%d' % last_step)
  assert _statuses(job) == {'ps': 0, 'chief': 0, 'worker': 0, 'evaluator': 0}
  assert _is_quiet(job)
  assert _saved_step(job) == last_step
  assert 'precision @ 1 = ' in job.tasks.pop('evaluator').out

  # Now nothing is left to train. A worker that starts a little late hears of that too.
  for task in ('ps', 'chief', 'worker'):
    job.start(task, '--max_steps=%d' % last_step)
    if task == 'chief':
      assert job.tasks['chief'].wait() == 0
  assert _statuses(job) == {'ps': 0, 'chief': 0, 'worker': 0}
  assert _is_quiet(job)


def test_all_stop_when_all_get_sigterm_and_the_chief_has_saved(job):
  for name in ('ps', 'worker', 'chief'):
    job.tasks[name].signal(signal.SIGTERM)
  assert _statuses(job) == {'ps': 143, 'chief': 143, 'worker': 143}
  assert _is_quiet(job)
  assert 'after step %d; ' % _saved_step(job) in job.tasks['chief'].out


@pytest.mark.parametrize('hanging, missing', [
    ('ps', {'chief': 'ps', 'worker': 'ps'}),
    ('chief', {'worker': 'chief', 'ps': 'chief'}),
    ('worker', {'chief': 'worker', 'ps': 'chief'})])  # For the chief has failed by then.
def test_task_that_hangs_ends_the_job_and_is_named(hanging, missing, small_data_dir, tmp_path):
  job = cluster_job.Job(tmp_path, [
      '--data_dir=' + small_data_dir, '--batch_size=4', '--log_frequency=1',
      '--save_summaries_steps=0', '--peer_timeout_secs=10'])
  try:
    for task in ('ps', 'chief', 'worker'):
      job.start(task)
    job.wait_until(lambda: 3 in _steps(job))
    job.tasks[hanging].signal(signal.SIGSTOP)
    for task, named in missing.items():
      assert job.tasks[task].wait() == 1
      [line] = job.tasks[task].err.splitlines()
      assert '%s 0 (%s)' % (named, job.addresses[named]) in line
    if hanging == 'worker':
      assert _saved_step(job) in (_steps(job)[-1], _steps(job)[-1] + 1)
  finally:
    job.kill_all()


def test_one_device_towers_and_cluster_resume_each_others_runs(small_data_dir, tmp_path):
  flags = ['--data_dir=' + small_data_dir, '--batch_size=4', '--save_summaries_steps=0']
  job = cluster_job.Job(tmp_path, flags)
  cwd = tmp_path / 'chief'
  cwd.mkdir()
  towers = warm_process.WarmProcess(cwd, 'cifar10_multi_gpu_train.py',
                                    [*flags, '--num_gpus=2', '--max_steps=2'])
  assert towers.wait() == 0
  for task in ('ps', 'chief', 'worker'):
    job.start(task, '--max_steps=4')
  assert _statuses(job) == {'ps': 0, 'chief': 0, 'worker': 0}
  assert _resumed_steps(job) == [2]
  one_device = warm_process.WarmProcess(cwd, 'cifar10_train.py', [*flags, '--max_steps=6'])
  assert one_device.wait() == 0
  assert 'from step 4.' in one_device.out
  assert _saved_step(job) == 6
