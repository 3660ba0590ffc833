"""A cluster as processes: how it trains, what it survives, and how it ends."""

import re
import signal

import pytest

import cifar10_checkpoint
import cluster_job


@pytest.fixture(scope='module')
def lasting_job(small_data_dir, tmp_path_factory):
  """A job that has no end, for one test after the other."""
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
  _progress(lasting_job)
  return lasting_job


def _steps(out):
  return [int(step) for step in re.findall(r': step (\d+), loss', out)]


def _progress(job):
  """Waits for three further steps."""
  before = _steps(job.tasks['chief'].out)
  job.wait_for('chief', ': step %d,' % ((before[-1] if before else 0) + 3))


def _saved_step(tmp):
  return int(cifar10_checkpoint.latest(str(tmp)).split('-')[-1])


def test_killed_worker_rejoins(job):
  job.tasks['worker'].kill()
  job.start('worker')
  job.wait_for('worker', 'Worker 0 joins.')
  _progress(job)


def test_killed_server(job):
  n = job.tasks['chief'].out.count('Resuming')
  job.tasks['ps'].kill()
  job.start('ps')
  import time
  t = time.time()
  while job.tasks['chief'].out.count('Resuming') == n:
    time.sleep(.1)
    assert time.time() - t < 60
  _progress(job)


def test_killed_chief(job):
  job.tasks['chief'].kill()
  job.start('chief')
  job.wait_for('chief', 'Resuming cifar10/train from step ')
  _progress(job)


def test_term_worker(job):
  job.tasks['worker'].signal(signal.SIGTERM)
  assert job.tasks['worker'].wait() == 143
  print(job.tasks['worker'].out)
  job.start('worker')
  _progress(job)


def test_term_chief(job):
  job.tasks['chief'].signal(signal.SIGTERM)
  assert job.tasks['chief'].wait() == 143
  print(job.tasks['chief'].out[-300:])
  job.start('chief')
  job.wait_for('chief', 'Resuming cifar10/train from step ')
  _progress(job)


def test_end(job):
  job.tasks['chief'].signal(signal.SIGTERM)
  assert job.tasks['chief'].wait() == 143
  step = int(re.search(r'after step (\d+);', job.tasks['chief'].out).group(1))
  job.start('chief', '--max_steps=%d' % (step + 3))
  assert job.tasks['chief'].wait() == 0
  assert job.tasks['worker'].wait() == 0
  assert job.tasks['ps'].wait() == 0
  for t in job.tasks:
    print(t, job.tasks[t].out[-500:], job.tasks[t].err)
