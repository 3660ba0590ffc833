"""TensorBoard as a process, and what it tells a program."""

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request


@contextlib.contextmanager
def served(logdir):
  """Serves a folder on a free port; yields the address."""
  server = subprocess.Popen(
      [sys.executable, '-m', 'tensorboard.main', '--logdir', str(logdir), '--host', '127.0.0.1',
       '--port', '0', '--load_fast', 'false'],
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
  # If it never says its address, its end ends the loop below.
  watchdog = threading.Timer(120, server.kill)
  watchdog.start()
  try:
    address = next(filter(None, (re.search(r'http://127\.0\.0\.1:\d+', line)
                                 for line in server.stdout)), None)
    watchdog.cancel()
    assert address
    yield address.group()
  finally:
    watchdog.cancel()
    server.terminate()
    server.wait(timeout=30)


def get(address, path):
  """Returns what is at a path of TensorBoard's data API."""
  with urllib.request.urlopen(address + '/data/plugin/' + path, timeout=60) as response:
    return response.read()


def tags(address, runs):
  """Returns {plugin: {run: tags}} once the server has read the runs named `runs`."""
  deadline = time.time() + 120
  while True:
    tags_now = {plugin: json.loads(get(address, plugin + '/tags'))
                for plugin in ('scalars', 'images', 'histograms')}
    if all(runs <= of_plugin.keys() for of_plugin in tags_now.values()):
      return tags_now
    assert time.time() < deadline, tags_now
    time.sleep(0.5)
