import os
import re
import signal

from PIL import Image
import tensorflow.compat.v1 as tf

from waiting import wait_until
import warm_process


def test_locally_connected_layers_are_trained_and_evaluated(small_data_dir, tmp_path):
  def run(*arguments):
    process = warm_process.WarmProcess(
        tmp_path, 'exercises/locally_connected.py',
        [*arguments, '--data_dir=' + small_data_dir, '--batch_size=8'])
    assert (process.wait(), process.err) == (0, '')
    return process.out

  trained = run('train', '--max_steps=2', '--log_frequency=1', '--min_queue_examples=100')
  assert re.findall(': step ([0-9]+), loss', trained) == ['0', '1']
  reader = tf.train.load_checkpoint(str(tmp_path / 'cifar10' / 'locally_connected' / 'train'))
  shapes = reader.get_variable_to_shape_map()
  for name in ('local3/weights', 'local3/weights/ExponentialMovingAverage'):
    assert shapes[name] == [6, 6, 576, 32]

  evaluated = run('evaluate', '--run_once')
  assert re.search(r'precision @ 1 = 0\.[0-9]{3}\n', evaluated)
  assert sorted(os.listdir(tmp_path / 'cifar10' / 'locally_connected')) == ['eval', 'train']
  assert os.listdir(tmp_path / 'cifar10') == ['locally_connected']


def test_residual_network_is_trained_with_towers_evaluated_and_predicts(small_data_dir, tmp_path):
  def run(*arguments):
    process = warm_process.WarmProcess(tmp_path, 'exercises/residual.py', arguments)
    assert (process.wait(), process.err) == (0, '')
    return process.out

  data = f'--data_dir={small_data_dir}'
  train = ('train', data, '--batch_size=4', '--min_queue_examples=100', '--log_frequency=1')
  run(*train, '--max_steps=2')
  assert 'from step 2' in run(*train, '--max_steps=3', '--num_gpus=2')
  assert re.search(r'precision @ 1 = 0\.[0-9]{3}\n', run('evaluate', data, '--run_once'))
  Image.new('RGB', (40, 30)).save(tmp_path / 'picture.png')
  assert run('predict', 'picture.png').count('%') == 10
  reader = tf.train.load_checkpoint(str(tmp_path / 'cifar10' / 'residual' / 'train'))
  assert reader.get_tensor('conv1/mean').any()  # The update ops have run.


def test_federated_averaging_is_stopped_resumed_and_evaluated(small_data_dir, tmp_path):
  def start(script, *arguments):
    return warm_process.WarmProcess(tmp_path, script, [*arguments, f'--data_dir={small_data_dir}'])

  def run(script, *arguments):
    process = start(script, *arguments)
    assert (process.wait(), process.err) == (0, '')
    return process.out

  train = ('exercises/federated.py', '--clients=25', '--clients_per_round=2', '--eval_frequency=1')
  endless = start(*train)
  wait_until(lambda: 'round 2: ' in endless.out, endless.alive)
  endless.signal(signal.SIGTERM)
  assert endless.wait() == 128 + signal.SIGTERM
  step = int(re.search(r'after step (\d+)', endless.out).group(1))
  # Twice five epochs of the twenty images of a client.
  assert f'({200 * step} images)' in endless.out

  resumed = run(*train, f'--max_steps={step + 1}')
  [precision] = re.findall(rf'round {step + 1}: precision @ 1 = ([.0-9]+) ', resumed)
  evaluated = run('cifar10_eval.py', '--use_moving_averages=false', '--run_once',
                  '--checkpoint_dir=cifar10/federated/train')
  assert f'precision @ 1 = {float(precision):.3f}\n' in evaluated

  # Here a round is a step on a batch.
  sgd = run('exercises/federated.py', '--algorithm=sgd', '--train_dir=sgd', '--max_steps=3')
  assert 'round 3: precision' in sgd and '(300 images)' in sgd
