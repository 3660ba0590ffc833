"""Signals while TensorFlow does not come back.

The main thread then stays in TensorFlow, and Python calls no handler of a signal: without this
module only SIGKILL would end a process whose input, network or device hangs.
"""

import contextlib
import os
import signal
import socket
import threading

import cifar10_console
from cifar10_console import STOP_SIGNALS


class Watchdog:
  """A context in which a second SIGINT or SIGTERM ends the process if TensorFlow is silent."""

  def __init__(self):
    self.silent_secs = 0
    self._is_over = threading.Event()

  def __enter__(self):
    self.feed()
    self._is_over.clear()
    # Python writes the number of a signal to the one end as soon as it comes.
    signals, self._wakeup = socket.socketpair()
    signals.setblocking(False)
    self._wakeup.setblocking(False)
    self._wakeup_before = self._set_wakeup(self._wakeup.fileno())
    threading.Thread(target=self._watch, args=(signals, self._wakeup), daemon=True).start()
    return self

  def __exit__(self, *error):
    self._set_wakeup(self._wakeup_before)
    self._is_over.set()

  def feed(self):
    """Is called whenever TensorFlow has come back."""
    self.silent_secs = 0

  def look(self, asked):
    """Ends the process if it is to end; called every second.

    Args:
      asked: the numbers of the signals that have come, a list.
    """
    # Who asks again does not want to wait. Only a terminal that closes sends what it sends twice.
    for number in (signal.SIGINT, signal.SIGTERM):
      if self.silent_secs > 1 and asked.count(number) > 1:
        self.end(number, 'while TensorFlow did not come back')

  def end(self, number, why):
    """Ends the process as a signal would."""
    try:
      print('Stopped by %s %s; %s goes on from the last checkpoint.'
            % (signal.Signals(number).name, why, cifar10_console.same_command()), flush=True)
    finally:  # Also if nobody reads any more.
      os._exit(128 + number)

  def _set_wakeup(self, descriptor):
    # Python lets only the main thread do this, as in `cifar10_session`.
    if threading.current_thread() is threading.main_thread():
      return signal.set_wakeup_fd(descriptor)
    return None

  def _watch(self, signals, wakeup):
    asked = []
    with signals, wakeup:
      # Not the time, which goes on while the process is suspended.
      while not self._is_over.wait(1.0):
        self.silent_secs += 1
        with contextlib.suppress(BlockingIOError):
          # One of a kind: `timeout` sends its own twice in a moment, to the process and its group.
          asked += set(signals.recv(100)).intersection(STOP_SIGNALS)
        self.look(asked)
