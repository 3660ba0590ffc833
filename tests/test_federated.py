import csv

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_input
from cifar10_support import checkpoints
from cifar10_support.console import UserError
from exercises import federated
import numpy_network

FLAGS = tf.app.flags.FLAGS

RATE = 0.05


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(cifar10, 'INITIAL_LEARNING_RATE', RATE)
  # Without distortions but the flip, of which images that are symmetric know nothing.
  monkeypatch.setattr(cifar10, 'DISTORTION_STRENGTH', 0.0)
  FLAGS(['pytest', '--train_dir=run', '--log_frequency=1', '--seed=3'])
  return tmp_path


@pytest.fixture(scope='module')
def symmetric():
  """Images that are their own horizontal flips, and labels."""
  random = np.random.RandomState(0)
  halves = random.randint(0, 256, [40, 32, 16, 3]).astype(np.uint8)
  return np.concatenate([halves, halves[:, :, ::-1]], axis=2), random.randint(0, 10, 40)


def _round(clients, images, labels):
  """Returns the variables before and after a round, the step after it, and the last loss."""
  federation = federated.Federation(images_per_round=40)
  variables = {variable.op.name: variable for variable in tf.trainable_variables()}
  with tf.Session() as session:
    session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
    before = session.run(variables)
    federation.run_round(session, clients, images, labels)
    return before, *session.run([variables, tf.train.get_global_step(), federation.loss])


def _trained(variables, batches, images, labels, momentum=0.0):
  """Returns what gradient descent makes of variables, batch after batch, with plain arithmetic."""
  with tf.Graph().as_default(), tf.Session() as session:
    pixels, truth = tf.placeholder(tf.uint8, [None, 32, 32, 3]), tf.placeholder(tf.int32, [None])
    crops = cifar10_input.central_crop(pixels)
    values = {name: tf.placeholder(tf.float32, value.shape) for name, value in variables.items()}
    with tf.variable_scope('', custom_getter=lambda getter, name, *args, **kwargs: values[name]):
      loss = cifar10.loss(cifar10.inference(crops), truth)
    gradients = dict(zip(values, tf.gradients(loss, list(values.values()))))
    variables, speed = dict(variables), dict.fromkeys(values, 0.0)
    for batch in batches:
      feed = {values[name]: value for name, value in variables.items()}
      feed.update({pixels: images[batch], truth: labels[batch]})
      for name, gradient in session.run(gradients, feed).items():
        speed[name] = momentum * speed[name] + gradient
        variables[name] = variables[name] - RATE * (gradient + momentum * speed[name])  # Nesterov.
  return variables


def _assert_same_change(before, actual, expected):
  """Rounding decides on which side of zero an activation lies; its gradient makes a tiny change."""
  assert before.keys() == actual.keys() == expected.keys()
  for name in actual:
    change = np.linalg.norm(actual[name] - before[name])
    assert np.linalg.norm(actual[name] - expected[name]) < 0.01 * change, name


@pytest.mark.parametrize('momentum', [0.0, 0.9])
def test_round_averages_what_each_client_makes_of_the_same_variables(
    momentum, symmetric, monkeypatch):
  monkeypatch.setattr(cifar10, 'MOMENTUM', momentum)
  monkeypatch.setattr(cifar10, 'WEIGHT_DECAY', 0.5)  # So that it matters.
  clients = [[np.arange(5), np.arange(5, 12), np.arange(12, 15)], [np.arange(15, 20)]]
  before, after, step, _ = _round(clients, *symmetric)
  first, second = (_trained(before, batches, *symmetric, momentum) for batches in clients)
  _assert_same_change(before, after, {name: 0.75 * first[name] + 0.25 * second[name]
                                      for name in before})
  assert step == 1
  # The clients do not end up in the same place, nor where a single one would.
  assert np.abs(first['conv1/weights'] - second['conv1/weights']).max() > 1e-3


def test_fedsgd_is_a_step_on_all_images_of_its_clients(symmetric):
  FLAGS(['pytest', '--algorithm=fedsgd', '--clients=7', '--clients_per_round=3'])
  clients = federated.clients_of_round(0, 40)
  assert {len(batches) for batches in clients} == {1}
  before, after, _, _ = _round(clients, *symmetric)
  all_images = np.concatenate(sum(clients, []))
  _assert_same_change(before, after, _trained(before, [all_images], *symmetric))


def test_one_client_with_all_images_is_gradient_descent(symmetric):
  FLAGS(['pytest', '--clients=1', '--clients_per_round=1', '--local_epochs=2', '--batch_size=15'])
  [batches] = clients = federated.clients_of_round(0, 40)
  assert [len(batch) for batch in batches] == 2 * [15, 15, 10]
  before, after, _, _ = _round(clients, *symmetric)
  _assert_same_change(before, after, _trained(before, batches, *symmetric))


def test_tenth_of_the_clients_trains_each_on_its_own_images_for_five_epochs():
  FLAGS(['pytest', '--batch_size=50'])
  rounds = [federated.clients_of_round(number, 50000) for number in range(40)]
  owners = np.full(50000, -1)
  images_of = {}
  for clients in rounds:
    assert len(clients) == 10
    for batches in clients:
      assert [len(batch) for batch in batches] == 50 * [50]
      epochs = np.reshape(batches, [5, 500])
      assert len({tuple(np.sort(epoch)) for epoch in epochs}) == 1
      assert len({tuple(epoch) for epoch in epochs}) == 5  # In another order.
      own = tuple(np.sort(epochs[0]))
      images_of.setdefault(own, len(images_of))
      assert set(owners[list(own)]) <= {-1, images_of[own]}
      owners[list(own)] = images_of[own]
    assert len({min(batches[0]) for batches in clients}) == 10
  assert 90 < len(images_of) <= 100  # All but one in 68 have been chosen by now.


def test_plain_sgd_takes_a_batch_of_all_images_at_a_time():
  FLAGS(['pytest', '--algorithm=sgd', '--batch_size=100'])
  rounds = [federated.clients_of_round(number, 1050) for number in range(20)]
  assert all(len(clients) == len(clients[0]) == 1 for clients in rounds)
  epochs = np.reshape(rounds, [2, 1000])
  assert [len(set(epoch)) for epoch in epochs] == [1000, 1000]
  assert (epochs[0] != epochs[1]).any()


def test_clients_of_a_round_depend_on_the_seed_and_the_number():
  def chosen(number, *flags):
    FLAGS(['pytest', '--local_epochs=1', *flags])
    return [batch.tolist() for batches in federated.clients_of_round(number, 50000)
            for batch in batches]

  assert chosen(7) == chosen(7)
  assert chosen(7) != chosen(8)
  assert chosen(7) != chosen(7, '--seed=1')


def _train(data_set, *flags):
  FLAGS(['pytest', '--train_dir=run', '--log_frequency=1', '--clients=20', '--clients_per_round=2',
         '--batch_size=10', '--local_epochs=1', *flags])
  federated.train(data_set)


def test_run_is_evaluated_and_resumed(small_data_set, monkeypatch, capsys):
  clients, run_round = [], federated.Federation.run_round

  def record(federation, session, clients_, *args):
    clients.append(clients_)
    run_round(federation, session, clients_, *args)

  monkeypatch.setattr(federated.Federation, 'run_round', record)
  _train(small_data_set, '--max_steps=2', '--eval_frequency=1')
  _train(small_data_set, '--max_steps=3', '--eval_frequency=10')
  for number, actual in enumerate(clients):
    for batches, expected in zip(actual, federated.clients_of_round(number, 500), strict=True):
      np.testing.assert_array_equal(np.concatenate(batches), np.concatenate(expected))

  with open('run/precision.csv', newline='') as lines:
    rows = list(csv.reader(lines))
  assert [row[:2] for row in rows] == [['1', '50'], ['2', '100'], ['3', '150']]
  # The network of the checkpoint, in numpy.
  assert checkpoints.latest_intact('run').step == 3
  reader = tf.train.load_checkpoint('run')
  variables = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
  assert sorted(variables) == sorted(
      [f'{layer}/{kind}' for layer in ('conv1', 'conv2', 'local3', 'local4', 'softmax_linear')
       for kind in ('weights', 'biases')] + ['global_step'])
  images, labels = numpy_network.read(small_data_set.test_files[0])
  logits = numpy_network.logits(numpy_network.central_crop(images), variables)
  precision = np.mean(logits.argmax(axis=1) == labels)
  assert float(rows[-1][2]) == pytest.approx(precision, abs=1e-4)
  out = capsys.readouterr().out
  assert f'round 3: precision @ 1 = {precision:.4f} (150 images)' in out


def test_learning_rate_falls_by_the_round(symmetric, monkeypatch):
  monkeypatch.setattr(cifar10, 'NUM_EPOCHS_PER_DECAY', 40 / 50000)
  monkeypatch.setattr(cifar10, 'LEARNING_RATE_DECAY_FACTOR', 0.0)
  clients = [[np.arange(40)]]
  federation = federated.Federation(images_per_round=40)
  with tf.Session() as session:
    session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
    values = []
    for _ in range(3):
      values.append(session.run(tf.trainable_variables()[0]))
      federation.run_round(session, clients, *symmetric)
  assert (values[0] != values[1]).any()
  assert (values[1] == values[2]).all()


def test_images_held_out_for_validation_are_not_read(small_data_set):
  held_out = small_data_set._replace(num_train=450)
  images, labels = federated.read(held_out, 'train_eval')
  expected = small_data_set.read_images('train_eval', range(450))
  np.testing.assert_array_equal(images, expected)
  assert len(labels) == 450


@pytest.mark.parametrize('flag', ['--clients_per_round=21', '--clients=501', '--batch_size=501'])
def test_impossible_rounds_are_one_line(flag, small_data_set):
  with pytest.raises(UserError, match='clients_per_round'):
    _train(small_data_set, flag)
