"""A cluster as processes: how it trains, what it survives, and how it ends."""

import re
import signal
import time

import pytest

import cifar10_checkpoint
import cluster_job


@pytest.fixture(scope='module')
def lasting_job(small_data_dir, tmp_path_factory):
  """A job without an end, that one test after the other does something to."""
  job = cluster_job.Job(tmp_path_factory.mktemp('job'), [
      '--data_dir=' + small_data_dir, '--batch_size=4', '--log_frequency=1',
      '--save_checkpoint_secs=1', '--max_steps=1000000', '--save_summaries_steps=0'])
  yield job
  job.kill_all()


@pytest.fixture
def job(lasting_job):
  """The job at work, whatever the test before has left of it."""
  for task in ('ps', 'chief', 'worker'):
    if task not in lasting_job.tasks or not lasting_job.tasks[task].alive():
      lasting_job.start(task)
  _goes_on(lasting_job)
  return lasting_job


def _steps(job):
  return [int(step) for step in re.findall(r': step (\d+), loss', job.tasks['chief'].out)]


def _goes_on(job):
  """Waits until the chief tells of three further steps."""
  before = len(_steps(job))
  job.wait_until(lambda: len(_steps(job)) >= before + 3)


def _saved_step(job):
  path = cifar10_checkpoint.latest(str(job.home / 'chief' / 'cifar10' / 'train'))
  return int(path.rsplit('-', 1)[1])


def _resumed_steps(job):
  return [int(step) for step in re.findall(r'Resuming cifar10/train from step (\d+)\.',
                                           job.tasks['chief'].out)]


def _is_quiet(job):
  return all(task.err == '' for task in job.tasks.values())


def test_chief_alone_has_the_run(job):
  # Each task was started in a directory of its own.
  assert (job.home / 'chief' / 'cifar10' / 'train' / 'run.json').exists()
  assert list((job.home / 'ps').iterdir()) == list((job.home / 'worker').iterdir()) == []


def test_worker_that_is_killed_and_started_again_rejoins(job):
  resumed = _resumed_steps(job)
  job.tasks['worker'].kill()
  steps = _steps(job)
  job.start('worker')
  job.wait_until(lambda: 'Worker 0 trains along.' in job.tasks['worker'].out)
  _goes_on(job)
  # Nothing is lost, and the others have waited for it.
  assert _resumed_steps(job) == resumed
  assert _steps(job)[:len(steps) + 1] == list(range(_steps(job)[0], steps[-1] + 2))
  assert _is_quiet(job)


def test_parameter_server_that_is_killed_and_started_again_gets_the_last_checkpoint(job):
  resumed = _resumed_steps(job)
  job.tasks['ps'].kill()
  saved = _saved_step(job)
  job.start('ps')
  job.wait_until(lambda: len(_resumed_steps(job)) > len(resumed))
  _goes_on(job)
  assert _resumed_steps(job)[len(resumed)] == saved
  assert _is_quiet(job)


def test_chief_that_is_killed_and_started_again_goes_on_from_the_last_checkpoint(job):
  job.tasks['chief'].kill()
  saved = _saved_step(job)
  job.start('chief')
  _goes_on(job)
  assert _resumed_steps(job) == [saved]
  assert _is_quiet(job)


def test_all_killed_at_once_and_started_again_go_on_from_the_last_checkpoint(job):
  job.kill_all()
  saved = _saved_step(job)
  for task in ('worker', 'chief', 'ps'):
    job.start(task)
  _goes_on(job)
  assert _resumed_steps(job) == [saved]
  assert _is_quiet(job)


def test_worker_leaves_on_sigterm_and_the_rest_waits_for_it(job):
  job.tasks['worker'].signal(signal.SIGTERM)
  assert job.tasks['worker'].wait() == 143
  assert 'Stopped by SIGTERM after step ' in job.tasks['worker'].out
  job.start('worker')
  _goes_on(job)
  assert _is_quiet(job)


def test_chief_saves_on_sigint_also_while_it_waits_for_a_worker(job):
  job.tasks['worker'].kill()
  job.tasks['chief'].signal(signal.SIGINT)
  assert job.tasks['chief'].wait() == 130
  step = int(re.search(r'Stopped by SIGINT after step (\d+); ',
                       job.tasks['chief'].out).group(1))
  assert _saved_step(job) == step
  job.start('chief')
  job.start('worker')
  _goes_on(job)
  assert _resumed_steps(job) == [step]
  assert _is_quiet(job)


def test_signals_end_chief_and_worker_also_without_a_parameter_server(job):
  job.tasks.pop('ps').kill()
  time.sleep(3)  # By now they wait for it in TensorFlow.
  for task, number, status in [('chief', signal.SIGINT, 130), ('worker', signal.SIGTERM, 143)]:
    job.tasks[task].signal(number)
    assert job.tasks[task].wait(timeout=30) == status
    assert 'Stopped by %s ' % number.name in job.tasks[task].out
  assert _is_quiet(job)


def test_at_the_last_step_all_tasks_end_with_status_0(job):
  job.tasks['chief'].signal(signal.SIGTERM)
  assert job.tasks['chief'].wait() == 143
  step = _saved_step(job)
  # The evaluation on a machine that shares the chief's directory.
  job.start('evaluator', '--train_dir=%s/chief/cifar10/train' % job.home,
            '--eval_interval_secs=0')
  job.start('chief', '--max_steps=%d' % (step + 3))
  assert {name: task.wait() for name, task in job.tasks.items()} == {
      'ps': 0, 'chief': 0, 'worker': 0, 'evaluator': 0}
  assert _is_quiet(job)
  assert _saved_step(job) == step + 3
  assert 'The job has ended.' in job.tasks['ps'].out
  assert 'The job has ended.' in job.tasks['worker'].out
  assert 'precision @ 1 = ' in job.tasks['evaluator'].out
  job.tasks.pop('evaluator')


def test_all_stop_when_all_get_sigterm_and_the_chief_has_saved(job):
  for name in ('ps', 'worker', 'chief'):
    job.tasks[name].signal(signal.SIGTERM)
  assert {name: task.wait() for name, task in job.tasks.items()} == {
      'ps': 143, 'chief': 143, 'worker': 143}
  assert _is_quiet(job)
  assert 'after step %d; ' % _saved_step(job) in job.tasks['chief'].out
  assert 'Asked to stop: the chief has up to 10 seconds to save.' in job.tasks['ps'].out


@pytest.fixture
def impatient_job(small_data_dir, tmp_path):
  """A job at work, whose tasks soon lose patience, but not with a machine that is busy."""
  job = cluster_job.Job(tmp_path, [
      '--data_dir=' + small_data_dir, '--batch_size=4', '--log_frequency=1',
      '--save_summaries_steps=0', '--peer_timeout_secs=10'])
  for task in ('ps', 'chief', 'worker'):
    job.start(task)
  job.wait_until(lambda: 3 in _steps(job))
  yield job
  job.kill_all()


def _gives_up(job, task, sentence):
  assert job.tasks[task].wait() == 1
  assert job.tasks[task].err.count('\n') == 1
  assert sentence in job.tasks[task].err


def _names(job, task, seconds=10):
  return 'No sign of life from %s 0 (%s) for %d seconds' % (task, job.addresses[task], seconds)


def test_tasks_that_are_alone_give_up_and_name_whom_they_miss(small_data_dir, tmp_path):
  jobs = {}
  for task in ('worker', 'chief', 'ps', 'evaluator'):
    jobs[task] = cluster_job.Job(tmp_path, [
        '--data_dir=' + small_data_dir, '--peer_timeout_secs=3', '--save_checkpoint_secs=1'])
    jobs[task].start(task)
  for task, missing in [('worker', 'ps'), ('chief', 'ps'), ('ps', 'chief')]:
    _gives_up(jobs[task], task, _names(jobs[task], missing, seconds=3))
  # It knows no peers, but the directory.
  _gives_up(jobs['evaluator'], 'evaluator', 'No new checkpoint in cifar10/train for 4 seconds: ')


def test_tasks_with_different_clusters_give_up_and_say_so(small_data_dir, tmp_path):
  job = cluster_job.Job(tmp_path, ['--data_dir=' + small_data_dir])
  worker = job.addresses.pop('worker')
  job.start('ps')
  job.addresses['worker'] = worker
  for task in ('chief', 'worker'):
    job.start(task)
    _gives_up(job, task, 'This task and ps 0 (%s) were started with different clusters in '
                         'TF_CONFIG: ' % job.addresses['ps'])
  job.kill_all()


def test_worker_that_is_not_there_ends_the_job_with_the_steps_saved(impatient_job):
  job = impatient_job
  job.tasks['worker'].kill()
  _gives_up(job, 'chief', _names(job, 'worker'))
  _gives_up(job, 'ps', 'The chief, chief 0 (%s), gave up: ' % job.addresses['chief'])
  assert _saved_step(job) in (_steps(job)[-1], _steps(job)[-1] + 1)


def test_chief_that_does_not_come_back_ends_the_job(impatient_job):
  job = impatient_job
  job.tasks['chief'].kill()
  _gives_up(job, 'worker', _names(job, 'chief'))
  _gives_up(job, 'ps', _names(job, 'chief'))


def test_parameter_server_that_hangs_ends_the_job(impatient_job):
  job = impatient_job
  job.tasks['ps'].signal(signal.SIGSTOP)
  _gives_up(job, 'chief', _names(job, 'ps'))
  _gives_up(job, 'worker', _names(job, 'ps'))


def test_chief_that_hangs_ends_the_job(impatient_job):
  job = impatient_job
  job.tasks['chief'].signal(signal.SIGSTOP)
  _gives_up(job, 'worker', _names(job, 'chief'))
  _gives_up(job, 'ps', _names(job, 'chief'))
