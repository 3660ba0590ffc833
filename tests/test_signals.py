import os
import runpy
import signal
import sys
import threading
import time

import pytest

from cifar10_support import console
from cifar10_support import signals


@pytest.fixture(autouse=True)
def ends(monkeypatch):
  """The list of statuses with which the process would have ended at once."""
  statuses = []
  monkeypatch.setattr(os, '_exit', statuses.append)
  return statuses


@pytest.fixture
def clock(monkeypatch):
  """A list whose only element is what the clock shows, in seconds."""
  now = [100.0]
  monkeypatch.setattr(signals.time, 'monotonic', lambda: now[0])
  return now


def _wait(is_so):
  """Waits for the thread that watches the signals."""
  for _ in range(1000):
    if is_so():
      return
    time.sleep(0.01)
  raise TimeoutError


def _receive(stop, number):
  signal.raise_signal(number)
  _wait(lambda: stop.received)


@pytest.mark.parametrize('number, status', [
    (signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)])
def test_signal_is_noted_and_then_ends_the_process(number, status, capsys):
  handlers = [signal.getsignal(number) for number in signals.STOP_SIGNALS]
  with signals.StopSignals() as stop:
    assert stop.received is None
    stop.exit_if_received('nowhere')  # Not yet.
    _receive(stop, number)
    assert stop.received == number
  assert [signal.getsignal(number) for number in signals.STOP_SIGNALS] == handlers
  with pytest.raises(SystemExit) as raised:
    stop.exit_if_received('after step 7')
  assert raised.value.code == status
  out = capsys.readouterr().out
  assert number.name in out and 'after step 7' in out


@pytest.mark.parametrize('number, status', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_second_signal_ends_the_process_at_once(number, status, clock, ends, capsys):
  with signals.StopSignals() as stop:
    _receive(stop, signal.SIGINT)
    clock[0] += 1.1
    signal.raise_signal(number)
    _wait(lambda: ends)
  assert ends == [status]
  assert number.name in capsys.readouterr().out


@pytest.mark.parametrize('secs, number', [(0.5, signal.SIGTERM), (5, signal.SIGHUP)])
def test_one_request_that_comes_twice_is_no_second_one(secs, number, clock, ends):
  threads = threading.active_count()
  with signals.StopSignals() as stop:
    _receive(stop, number)
    clock[0] += secs
    signal.raise_signal(number)
  _wait(lambda: threading.active_count() <= threads)  # All signals have been seen.
  assert ends == []
  assert stop.received == number


def test_signal_that_was_ignored_stays_ignored():
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with signals.StopSignals() as stop:
      signal.raise_signal(signal.SIGINT)
      _receive(stop, signal.SIGTERM)
    assert stop.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
  finally:
    signal.signal(signal.SIGINT, before)


def test_other_signals_keep_their_handlers():
  received = []
  before = signal.signal(signal.SIGUSR2, lambda number, frame: received.append(number))
  try:
    with signals.StopSignals() as stop:
      signal.raise_signal(signal.SIGUSR2)
      _receive(stop, signal.SIGTERM)
  finally:
    signal.signal(signal.SIGUSR2, before)
  assert received == [signal.SIGUSR2]
  assert stop.received == signal.SIGTERM


def test_thread_that_may_not_ask_for_signals_goes_without():
  handlers = [signal.getsignal(number) for number in signals.STOP_SIGNALS]

  def work():
    with signals.StopSignals() as stop:
      during = [signal.getsignal(number) for number in signals.STOP_SIGNALS]
      results.append((stop.received, during == handlers))

  results = []
  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert results == [(None, True)]


def test_nothing_is_left_behind():
  threads = threading.active_count()
  for _ in range(2):
    with signals.StopSignals():
      pass
  _wait(lambda: threading.active_count() == threads)
  assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize('error', [BrokenPipeError, console.UserError])
def test_process_ends_even_if_the_terminal_is_gone(error, monkeypatch, ends):
  class Gone:
    def write(self, text):
      raise error
    flush = write

  with signals.StopSignals() as stop:
    _receive(stop, signal.SIGHUP)
  monkeypatch.setattr(sys, 'stdout', Gone())
  with pytest.raises(SystemExit) as raised:
    stop.exit_if_received('after step 7')
  assert raised.value.code == 129
  with pytest.raises(error):
    signals.end_now(signal.SIGTERM, 'without saving')
  assert ends == [143]


def test_system_with_two_of_the_signals_has_these(monkeypatch):
  monkeypatch.delattr(signal, 'SIGHUP')
  monkeypatch.delattr(signal, 'SIGUSR1')
  module = runpy.run_path(signals.__file__)
  assert module['STOP_SIGNALS'] == (signal.SIGINT, signal.SIGTERM)
  with module['StopSignals']() as stop:
    _receive(stop, signal.SIGTERM)
  assert stop.received == signal.SIGTERM
