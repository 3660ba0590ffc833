"""Stopping a training run from outside: Ctrl-C, `kill`, a terminal that closes, a job's end."""

import os
import signal
import socket
import sys
import threading
import time

from cifar10_support import console

# Windows has only the first two. Slurm can send SIGUSR1 some time before it ends a job.
STOP_SIGNALS = tuple(getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR1')
                     if hasattr(signal, name))

# `timeout` signals both the process and its group: two signals within this time count as one.
_ONE_REQUEST_SECS = 1


class StopSignals:
  """A context in which signals are noted, so that training can finish its step and save.

  A second SIGINT or SIGTERM, more than a second later, ends the process at once, even while an
  input or a device hangs. In that case the main thread never comes back from TensorFlow, and Python
  would not call a handler; so a thread watches the signals instead. (A closing terminal may send
  SIGHUP twice by itself.)

  Only the main thread may ask for signals; in any other this does nothing.
  """

  def __init__(self):
    self.received = None  # The first one, a `signal.Signals`.
    self._handlers = {}
    self._writer = None

  def __enter__(self):
    if threading.current_thread() is not threading.main_thread():
      return self
    # Python writes the number of a signal to one end as soon as it arrives.
    reader, self._writer = socket.socketpair()
    self._writer.setblocking(False)
    self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno())
    threading.Thread(target=self._watch, args=(reader,), daemon=True).start()
    for number in STOP_SIGNALS:
      handler = signal.getsignal(number)
      # A shell that starts us in the background (`&`) makes us ignore Ctrl-C: it stays that way.
      if handler not in (signal.SIG_IGN, None):
        self._handlers[number] = handler
        signal.signal(number, lambda number, frame: None)
    return self

  def __exit__(self, *error):
    if not self._writer:
      return
    for number, handler in self._handlers.items():
      signal.signal(number, handler)
    signal.set_wakeup_fd(self._wakeup_before)
    self._writer.close()  # Which ends the thread.

  def _watch(self, reader):
    with reader:
      while True:
        numbers = reader.recv(1)
        if not numbers:
          return
        number = numbers[0]
        if number not in self._handlers:
          continue
        if self.received is None:
          self.received, self._since = signal.Signals(number), time.monotonic()
        elif (number in (signal.SIGINT, signal.SIGTERM)
              and time.monotonic() - self._since > _ONE_REQUEST_SECS):
          end_now(number, 'without saving')

  def exit_if_received(self, where):
    """Ends the process with the conventional status, if a signal ended the loop.

    `where` says what was saved where, as the end of a sentence, such as 'after step 7'.
    """
    if self.received:
      try:
        print(f'Stopped by {self.received.name} {where}.')
      except (BrokenPipeError, console.UserError):  # The terminal may be gone.
        pass
      sys.exit(128 + self.received)


def end_now(number, why):
  """Ends the process as the signal would, from any thread."""
  try:
    print(f'Stopped by {signal.Signals(number).name} {why}; {console.same_command()} resumes from '
          'the last checkpoint.', flush=True)
  finally:  # Even if nobody reads any more.
    os._exit(128 + number)
