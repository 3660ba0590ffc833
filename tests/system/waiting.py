"""Waiting for processes, with an end to the patience."""

import threading
import time


def wait_until(is_so, is_alive, secs=120):
  """Waits until something is so; fails if what is to bring it about ends, or takes too long.

  Args:
    is_so, is_alive: functions that return whether it is so, and whether it may still come.
    secs: how long that may take.
  """
  deadline = time.monotonic() + secs
  while not is_so():
    assert is_alive() and time.monotonic() < deadline
    time.sleep(0.05)


def read_until(process, text, secs=120):
  """Reads a process's output up to the line with `text`, and returns that; fails as `wait_until`.

  Args:
    process: a `subprocess.Popen` whose standard output is a pipe of text.
    text: a part of a line.
    secs: how long that may take.
  """
  # Nothing else ends the reading of a pipe.
  late = threading.Timer(secs, process.kill)
  late.start()
  try:
    line = next((line for line in process.stdout if text in line), None)
  finally:
    late.cancel()
  assert line is not None
  return line
