"""Clusters on this machine, for the tests."""

import json
import random
import socket
import time

import warm_process

_TIMEOUT_SECS = 120


def free_addresses(count):
  """Returns addresses on this machine at which nothing serves.

  Their ports are below those that Linux gives to outgoing connections: none of these can take one
  while a task is being restarted.
  """
  addresses = []
  while len(addresses) < count:
    port = random.SystemRandom().randrange(10000, 32000)
    with socket.socket() as probe:
      try:
        probe.bind(('', port))
      except OSError:
        continue
    addresses.append('127.0.0.1:%d' % port)
  return addresses


class Job:
  """A parameter server, a chief and a worker, each a process in a directory of its own.

  Fields:
    home: the directory that holds theirs.
    addresses: a dictionary from 'ps', 'chief' and 'worker' to their addresses.
    tasks: a dictionary from the same names, and 'evaluator', to the processes that were started.
  """

  def __init__(self, home, args):
    """Args:
      home: path of a directory.
      args: a list of arguments for all tasks.
    """
    self.home, self._args = home, args
    self.addresses = dict(zip(['ps', 'chief', 'worker'], free_addresses(3)))
    self.tasks = {}

  def start(self, task, *args):
    """Starts a task, or restarts it; further arguments are for it alone."""
    cwd = self.home / task
    cwd.mkdir(exist_ok=True)
    config = {'cluster': {job: [address] for job, address in self.addresses.items()},
              'task': {'type': task, 'index': 0}}
    self.tasks[task] = warm_process.WarmProcess(
        cwd, '-m cifar10_cluster', [*self._args, *args], env={'TF_CONFIG': json.dumps(config)})

  def wait_until(self, condition):
    """Waits until `condition()` is true; fails if a task ends first."""
    deadline = time.monotonic() + _TIMEOUT_SECS
    while not condition():
      for name, task in self.tasks.items():
        assert task.alive(), (name, task.out, task.err)
      assert time.monotonic() < deadline, {name: task.out for name, task in self.tasks.items()}
      time.sleep(0.05)

  def kill_all(self):
    for task in self.tasks.values():
      task.kill()
