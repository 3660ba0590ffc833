"""Simulates steps of a cluster, packet by packet, and compares them with a formula.

  python benchmarks/simulate_scaling.py

The formula, in `predicted`, knows only the busiest link, and that a third of the computation is the
forward pass. The simulation, in `simulate`, knows neither: it sends each variable to each replica
and each gradient back in packets, which queue at each link that they cross, and computes the layers
in between, each as soon as it has its input. Both are about links: the processors that add up
gradients and pack messages are assumed to be fast enough. Nothing is random. docs/scaling.md quotes
the table.
"""

import argparse
import heapq
import itertools
import math

# The network of cifar10.py, from the images on: for each layer the elements of its variables, and
# the multiply-adds of its forward pass for one image.
LAYERS = {
    'conv1': ([5 * 5 * 3 * 64, 64], 24 * 24 * 64 * 5 * 5 * 3),
    'conv2': ([5 * 5 * 64 * 64, 64], 12 * 12 * 64 * 5 * 5 * 64),
    'local3': ([2304 * 384, 384], 2304 * 384),
    'local4': ([384 * 192, 192], 384 * 192),
    'softmax_linear': ([192 * 10, 10], 192 * 10)}
ELEMENT_BYTES = 4
PARAMETER_BYTES = ELEMENT_BYTES * sum(sum(sizes) for sizes, _ in LAYERS.values())

# The backward pass computes two gradients a layer, but none for the images.
FORWARD = {layer: multiply_adds for layer, (_, multiply_adds) in LAYERS.items()}
BACKWARD = {layer: (1 if layer == 'conv1' else 2) * FORWARD[layer] for layer in LAYERS}
_TOTAL = sum(FORWARD.values()) + sum(BACKWARD.values())

# How much of one message a link carries before it is another's turn.
_PACKET_BYTES = 64 * 1024


def assign(servers, partitioned=False):
  """Returns the messages that bring a replica its variables: a list of (layer, bytes, server).

  Args:
    servers: how many parameter servers there are.
    partitioned: whether each variable is cut into equal parts, one for each server. Otherwise each
      is whole, on the server with the fewest bytes so far, as in cifar10_cluster.
  """
  sizes = [(layer, ELEMENT_BYTES * size) for layer in LAYERS for size in LAYERS[layer][0]]
  if partitioned:
    return [(layer, size / servers, server) for layer, size in sizes for server in range(servers)]
  loads, messages = [0] * servers, []
  loads[0] = 8  # The global step comes first.
  for layer, size in sizes:
    server = loads.index(min(loads))
    loads[server] += size
    messages.append((layer, size, server))
  return messages


class _Link:
  """One direction of a machine's connection, which carries one packet after the other."""

  def __init__(self, bits_per_sec):
    self._bits_per_sec = bits_per_sec
    self._free_at = 0.0

  def carry(self, now, size):
    """Returns when a packet of `size` bytes that arrives at `now` has gone through."""
    self._free_at = max(now, self._free_at) + 8 * size / self._bits_per_sec
    return self._free_at


class _Events:
  """What will happen, in the order of time."""

  def __init__(self):
    self._queue, self._numbers = [], itertools.count()

  def at(self, time, action):
    """Has `action(time)` called at that time."""
    heapq.heappush(self._queue, (time, next(self._numbers), action))

  def run(self):
    """Returns the time of the last event."""
    time = 0.0
    while self._queue:
      time, _, action = heapq.heappop(self._queue)
      action(time)
    return time

  def send(self, now, size, first, second, arrived):
    """Sends a message over two links, a packet at a time; calls `arrived(time)` after the last."""
    packets = math.ceil(size / _PACKET_BYTES)

    def start(i, now):
      self.at(first.carry(now, size / packets), lambda now: forward(i, now))

    def forward(i, now):
      through = second.carry(now, size / packets)
      if i + 1 < packets:
        start(i + 1, now)
      else:
        self.at(through, arrived)

    start(0, now)


class _Replica:
  """Computes the layers forwards, each as soon as it has its variables, and then backwards."""

  def __init__(self, events, messages, compute_secs, hand_in):
    """Args:
      events: `_Events`.
      messages: see `assign`.
      compute_secs: of a step.
      hand_in: a function that gets the time and a message when its gradient has been computed.
    """
    self._events, self._messages, self._hand_in = events, messages, hand_in
    self._secs = compute_secs / _TOTAL
    self._awaited = {layer: sum(of == layer for of, _, _ in messages) for layer in LAYERS}
    self._to_come, self._is_busy = list(LAYERS), False

  def receive(self, layer, now):
    self._awaited[layer] -= 1
    self._start_layer(now)

  def _start_layer(self, now):
    if self._is_busy or not self._to_come or self._awaited[self._to_come[0]]:
      return
    self._is_busy = True
    self._events.at(now + self._secs * FORWARD[self._to_come.pop(0)], self._finish_layer)

  def _finish_layer(self, now):
    self._is_busy = False
    if self._to_come:
      self._start_layer(now)
      return
    for layer in reversed(LAYERS):
      now += self._secs * BACKWARD[layer]
      for message in self._messages:
        if message[0] == layer:
          self._events.at(now, lambda now, message=message: self._hand_in(now, message))


def simulate(replicas, messages, bits_per_sec, compute_secs):
  """Returns the seconds of one step.

  Args:
    replicas: how many there are, each on a machine of its own, as the parameter servers are.
    messages: see `assign`.
    bits_per_sec: of each machine's link, in each direction.
    compute_secs: for the gradients of a replica's batch.
  """
  events = _Events()
  servers = sorted({server for _, _, server in messages})
  server_out, server_in = ({server: _Link(bits_per_sec) for server in servers} for _ in range(2))
  for _ in range(replicas):
    replica_out, replica_in = _Link(bits_per_sec), _Link(bits_per_sec)

    def hand_in(now, message, replica_out=replica_out):
      _, size, server = message
      events.send(now, size, replica_out, server_in[server], lambda now: None)

    replica = _Replica(events, messages, compute_secs, hand_in)
    for layer, size, server in messages:
      events.send(0.0, size, server_out[server], replica_in,
                  lambda now, replica=replica, layer=layer: replica.receive(layer, now))
  return events.run()


def link_secs(replicas, messages, bits_per_sec):
  """Returns how long the busiest link takes, in one direction, for what it carries in a step."""
  busiest = max(sum(size for _, size, server in messages if server == which)
                for _, _, which in messages)
  return 8 * max(replicas * busiest, PARAMETER_BYTES) / bits_per_sec


def predicted(replicas, messages, bits_per_sec, compute_secs):
  """Returns the seconds of one step by the formula of docs/scaling.md; arguments as `simulate`.

  Variables arrive during the forward pass, a third of the computation, and gradients leave during
  the backward pass. Most of their bytes are those of local3, late in the one, early in the other.
  """
  link = link_secs(replicas, messages, bits_per_sec)
  return max(compute_secs / 3, link) + max(2 * compute_secs / 3, link)


def ring(replicas, bits_per_sec, compute_secs):
  """Returns the seconds of one step with all-reduce in a ring, as `predicted`.

  Each replica sends and receives all gradients twice, except for its own part, however many
  replicas there are. The variables stay where they are.
  """
  link = 8 * 2 * PARAMETER_BYTES * (replicas - 1) / replicas / bits_per_sec
  return compute_secs / 3 + max(2 * compute_secs / 3, link)


def saturated_from(messages, bits_per_sec, compute_secs):
  """Returns the number of replicas from which, by the formula, the links slow the step down."""
  return next(n for n in itertools.count(1)
              if link_secs(n, messages, bits_per_sec) > compute_secs / 3)


def main():
  argparse.ArgumentParser(description=__doc__.split('\n')[0]).parse_args()
  print(f'{PARAMETER_BYTES} bytes of parameters; a step of a replica, in ms:')
  headings = ' |'.join(f"{f'N = {n}':>9}{'formula':>9}{'ring':>9}" for n in (4, 16, 64))
  print(f"{'Gbit/s':>6} {'compute':>8} {'servers':<8} {'from N':>6} |{headings} | {'deviation':>9}")
  for gigabits, compute_secs in itertools.product([10, 100], [0.04, 0.005]):
    for name, messages in [('1', assign(1)), ('2', assign(2)), ('4', assign(4)),
                           ('4, parts', assign(4, partitioned=True))]:
      bits = gigabits * 1e9
      cells, deviations = [], []
      for n in (4, 16, 64):
        simulated = simulate(n, messages, bits, compute_secs)
        formula = predicted(n, messages, bits, compute_secs)
        deviations.append(simulated / formula - 1)
        seconds = (simulated, formula, ring(n, bits, compute_secs))
        cells.append(''.join(f'{1e3 * value:9.1f}' for value in seconds))
      print(f'{gigabits:6} {1e3 * compute_secs:8.0f} {name:<8} '
            f"{saturated_from(messages, bits, compute_secs):6} |{' |'.join(cells)} | "
            f'{100 * max(deviations, key=abs):+8.0f}%')


if __name__ == '__main__':
  main()
