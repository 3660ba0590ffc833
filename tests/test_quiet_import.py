"""Importing TensorFlow, in processes of their own; most with a stand-in for it that chatters."""

import os
import subprocess
import sys

import pytest

from conftest import ROOT


def _run(code, *arguments, path=(), **environment):
  ours = {'TF_CPP_MIN_LOG_LEVEL', 'TF_ENABLE_ONEDNN_OPTS', 'TF_GPU_THREAD_MODE',
          'TF_GPU_THREAD_COUNT'}
  kept = {name: value for name, value in os.environ.items() if name not in ours}
  return subprocess.run(
      [sys.executable, '-c', code, *arguments], capture_output=True, text=True, timeout=60,
      env=dict(kept, PYTHONPATH=os.pathsep.join([*path, ROOT]), **environment))


@pytest.fixture
def run(tmp_path):
  """Runs `code` in a process where importing TensorFlow runs `tensorflow`; returns the process."""
  def start(code, tensorflow, **environment):
    (tmp_path / 'tensorflow' / 'compat').mkdir(parents=True)
    (tmp_path / 'tensorflow' / '__init__.py').write_text(tensorflow)
    (tmp_path / 'tensorflow' / 'compat' / 'v1.py').write_text(
        'class logging:\n'
        '  ERROR = 40\n'
        '  set_verbosity = staticmethod(lambda level: print("verbosity", level))\n')
    return _run(code, path=[str(tmp_path)], **environment)
  return start


CHATTER = '''
import os
os.write(2, b"chatter\\n")
print("level", os.environ["TF_CPP_MIN_LOG_LEVEL"])
'''
THEN_WARN = 'import os, cifar10_support.quiet; os.write(2, b"heard\\n")'


def test_chatter_of_the_import_is_held_back_and_what_follows_is_not(run):
  process = run(THEN_WARN, CHATTER)
  assert (process.returncode, process.stderr) == (0, 'heard\n')
  assert process.stdout == 'level 3\nverbosity 40\n'


def test_user_who_asks_for_the_chatter_gets_it(run):
  process = run(THEN_WARN, CHATTER, TF_CPP_MIN_LOG_LEVEL='1')
  assert (process.returncode, process.stderr) == (0, 'chatter\nheard\n')
  assert process.stdout == 'level 1\n'


def test_failing_import_shows_its_error(run):
  process = run(THEN_WARN, CHATTER + 'raise ImportError("no such library")')
  assert process.returncode == 1
  assert 'chatter' not in process.stderr
  assert process.stderr.endswith('ImportError: no such library\n')


ONEDNN = 'import os; print("oneDNN", os.environ.get("TF_ENABLE_ONEDNN_OPTS"))'


@pytest.mark.parametrize('machine, expected', [('x86_64', '1'), ('AMD64', '1'), ('arm64', 'None')])
def test_onednn_is_on_before_the_import_on_x86(run, machine, expected):
  process = run('import platform; platform.machine = lambda: %r\n'
                'import cifar10_support.quiet' % machine, ONEDNN)
  assert process.stdout.splitlines()[0] == 'oneDNN ' + expected


def test_user_who_turns_onednn_off_has_it_off(run):
  process = run('import cifar10_support.quiet', ONEDNN, TF_ENABLE_ONEDNN_OPTS='0')
  assert process.stdout.splitlines()[0] == 'oneDNN 0'


THREADS = """
import os
print(*(os.environ.get("TF_GPU_THREAD_" + name) for name in ("MODE", "COUNT")))
"""


@pytest.mark.parametrize('environment, expected', [
    ({}, 'gpu_private 2'), ({'TF_GPU_THREAD_COUNT': '4'}, 'gpu_private 4'),
    ({'TF_GPU_THREAD_MODE': 'global'}, 'global None')])
def test_each_gpu_has_threads_of_its_own_unless_the_user_decides(run, environment, expected):
  process = run('import cifar10_support.quiet', THREADS, **environment)
  assert process.stdout.splitlines()[0] == expected


def test_closed_standard_error_will_do(run):
  process = run('import os; os.close(2); import cifar10_support.quiet; print("imported")', '')
  assert (process.returncode, process.stdout) == (0, 'verbosity 40\nimported\n')


def test_package_can_be_imported_by_another_thread(run):
  process = run('import threading\n'
                'thread = threading.Thread(target=__import__, args=["cifar10_support.quiet"])\n'
                'thread.start(); thread.join()', CHATTER)
  assert (process.returncode, process.stderr) == (0, '')


@pytest.mark.parametrize('script', ['cifar10_train', 'cifar10_multi_gpu_train', 'cifar10_eval',
                                    'cifar10_predict'])
def test_python_without_tensorflow_is_one_line(script):
  process = _run('import sys\n'
                 'class Blocker:\n'
                 '  def find_spec(self, name, *args):\n'
                 '    if name.split(".")[0] == "tensorflow":\n'
                 '      raise ModuleNotFoundError("No module named %r" % name, name=name)\n'
                 'sys.meta_path.insert(0, Blocker())\n'
                 'import runpy\n'
                 'runpy.run_path(sys.argv[1], run_name="__main__")',
                 os.path.join(ROOT, script + '.py'))
  assert process.returncode == 1
  assert process.stderr.count('\n') == 1
  assert 'TensorFlow' in process.stderr and 'pip install' in process.stderr


def test_broken_tensorflow_is_not_said_to_be_missing(run):
  process = run('import cifar10_support.quiet', 'import a_module_that_it_needs')
  assert process.returncode == 1
  assert "ModuleNotFoundError: No module named 'a_module_that_it_needs'" in process.stderr


def test_flags_have_their_defaults_in_a_notebook():
  # The command line is that of the notebook's kernel.
  process = _run('import sys, types\n'
                 'sys.modules["ipykernel"] = types.ModuleType("ipykernel")\n'
                 'sys.argv = ["x", "-f", "k.json"]\n'
                 'import cifar10\n'
                 'print(cifar10.FLAGS.batch_size)\n'
                 'cifar10.FLAGS.batch_size = 64\n'
                 'import cifar10_train\n'
                 'print(cifar10.FLAGS.batch_size, cifar10.FLAGS.train_dir)\n')
  assert (process.returncode, process.stdout) == (0, '128\n64 cifar10/train\n'), process.stderr
