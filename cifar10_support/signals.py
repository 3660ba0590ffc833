"""Stopping a training run from outside: Ctrl-C, `kill`, a terminal that closes, a job's end."""

import contextlib
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


class StopSignals(contextlib.ExitStack):
  """A context in which signals are noted, so that training can finish its step and save.

  A second SIGINT or SIGTERM, more than a second later, ends the process at once, even while an
  input or a device hangs. In that case the main thread never comes back from TensorFlow, and Python
  would not call a handler; so a thread watches the signals instead. (A closing terminal may send
  SIGHUP twice by itself.)

  Only the main thread may ask for signals; in any other this does nothing.
  """

  received = None  # The first one, a `signal.Signals`.

  def __enter__(self):
    if threading.current_thread() is not threading.main_thread():
      return self
    # Python writes the number of a signal to one end as soon as it arrives.
    reader, writer = socket.socketpair()
    self.enter_context(writer)  # Closing it ends the thread.
    writer.setblocking(False)
    self.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(writer.fileno()))
    threading.Thread(target=self._watch, args=(reader,), daemon=True).start()
    for number in STOP_SIGNALS:
      handler = signal.getsignal(number)
      # A shell that starts us in the background (`&`) makes us ignore Ctrl-C: it stays that way.
      if handler not in (signal.SIG_IGN, None):
        signal.signal(number, lambda number, frame: None)
        self.callback(signal.signal, number, handler)
    return self

  def _watch(self, reader):
    with reader:
      while numbers := reader.recv(1):
        number = numbers[0]
        if number not in STOP_SIGNALS:  # The program has handlers of its own.
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
      with contextlib.suppress(BrokenPipeError, console.UserError):  # The terminal may be gone.
        print(f'Stopped by {self.received.name} {where}.')
      sys.exit(128 + self.received)


def end_now(number, why):
  """Ends the process as the signal would, from any thread."""
  try:
    print(f'Stopped by {signal.Signals(number).name} {why}; {console.same_command()} resumes from '
          'the last checkpoint.', flush=True)
  finally:  # Even if nobody reads any more.
    os._exit(128 + number)
