"""Runs scripts and modules in processes forked from one that has imported TensorFlow already."""

import multiprocessing
import os
import resource
import runpy
import signal
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), '..', '..'))

_context = multiprocessing.get_context('forkserver')
_context.set_forkserver_preload(['cifar10_support.quiet', 'tensorflow.compat.v1'])


class WarmProcess:
  """A script that runs in a directory, with its output in files beside that."""

  def __init__(self, cwd, script, args, largest_file=None, env=None, out=None, before=None):
    """Args:
      cwd: path of the directory.
      script: path of the script in the project, or '-m' and the name of a module, such as
        '-m cifar10_cluster'.
      args: a list of its arguments.
      largest_file: in bytes; writing more to a file fails, as on a full disk.
      env: a dictionary of environment variables to set.
      out: path of the file for its output, if not the one beside the directory.
      before: a function that the process calls first; it must be possible to pickle it.
    """
    self._out, self._err = (os.path.join(str(cwd) + '.' + name) for name in ('out', 'err'))
    self._out = out or self._out
    self._process = _context.Process(target=_run, args=(
        str(cwd), script, args, self._out, self._err, largest_file, env or {}, before))
    self._process.start()

  def wait(self, timeout=120):
    """Waits until the script ends; returns its status, negative for a signal."""
    self._process.join(timeout)
    if self._process.exitcode is None:
      self.kill()
      raise TimeoutError('The script has not ended: %s' % self.out)
    return self._process.exitcode

  def alive(self):
    return self._process.is_alive()

  def signal(self, number):
    os.kill(self._process.pid, number)

  def kill(self):
    self._process.kill()
    self._process.join()

  @property
  def out(self):
    return _contents(self._out)

  @property
  def err(self):
    return _contents(self._err)


def _contents(path):
  try:
    with open(path) as lines:
      return lines.read()
  except FileNotFoundError:
    return ''


def _run(cwd, script, args, out, err, largest_file, env, before):
  for path, descriptor in ((out, 1), (err, 2)):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
  sys.stdout = os.fdopen(1, 'w')
  sys.stderr = os.fdopen(2, 'w', buffering=1)
  signal.signal(signal.SIGINT, signal.default_int_handler)
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  signal.signal(signal.SIGHUP, signal.SIG_DFL)
  os.chdir(cwd)
  os.environ.update(env)
  if largest_file:
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
  if before:
    before()
  if script.startswith('-m '):
    sys.path.insert(0, ROOT)
    module = script[len('-m '):]
    sys.argv = [module, *args]
    runpy.run_module(module, run_name='__main__', alter_sys=True)
  else:
    path = os.path.join(ROOT, script)
    sys.path.insert(0, os.path.dirname(path))
    sys.argv = [path, *args]
    runpy.run_path(path, run_name='__main__')
