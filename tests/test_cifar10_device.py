import pytest
import tensorflow.compat.v1 as tf

import cifar10_device


def test_sessions_take_gpu_memory_as_needed_and_tell_placement_if_asked():
  config = cifar10_device.session_config()
  assert config.gpu_options.allow_growth
  assert config.allow_soft_placement
  assert not config.log_device_placement
  assert cifar10_device.session_config(log_device_placement=True).log_device_placement


@pytest.fixture(autouse=True)
def asked_for_the_first_time():
  cifar10_device.bfloat16_or_float32.cache_clear()
  yield
  cifar10_device.bfloat16_or_float32.cache_clear()


@pytest.mark.parametrize('cpuinfo, capabilities, expected', [
    ('model name: x\nflags\t\t: fpu avx512f avx512_bf16\n', [], tf.bfloat16),
    ('flags: amx_bf16\n', [], tf.bfloat16),
    ('Features\t: fp asimd bf16\n', [], tf.bfloat16),
    ('flags: fpu avx512f\nbugs: bf16\n', [], tf.float32),
    (None, [], tf.float32),
    ('flags: avx512_bf16\n', [(7, 5)], tf.float32),
    ('flags: fpu\n', [(8, 0), (9, 0)], tf.bfloat16),
    ('flags: fpu\n', [(8, 6), (7, 5)], tf.float32),
    ('flags: fpu\n', [None], tf.float32),
])
def test_bfloat16_is_used_where_the_gpus_or_else_the_processor_have_it(
    cpuinfo, capabilities, expected, tmp_path, monkeypatch, capsys):
  path = tmp_path / 'cpuinfo'
  if cpuinfo is not None:
    path.write_text(cpuinfo)
  monkeypatch.setattr(cifar10_device, '_CPUINFO', str(path))
  monkeypatch.setattr(tf.config, 'list_physical_devices',
                      {'GPU': list(enumerate(capabilities))}.get)
  monkeypatch.setattr(tf.config.experimental, 'get_device_details',
                      lambda gpu: {'compute_capability': gpu[1]} if gpu[1] else {})
  for _ in range(2):
    assert cifar10_device.bfloat16_or_float32() == expected
  assert capsys.readouterr().out.count('This machine has no bfloat16') == (expected == tf.float32)


@pytest.mark.parametrize('gpus, towers, devices, line', [
    (0, 1, ['/cpu:0'], 'No GPU here: the towers run on the processor.\n'),
    (0, 3, ['/cpu:0', '/cpu:1', '/cpu:2'], 'No GPU here: the towers run on the processor.\n'),
    (2, 1, ['/gpu:0'], ''),
    (2, 2, ['/gpu:0', '/gpu:1'], ''),
    (2, 3, ['/gpu:0', '/gpu:1', '/gpu:0'], '3 towers on 2 GPUs: some share one.\n'),
])
def test_each_tower_has_a_gpu_or_what_there_is(gpus, towers, devices, line, monkeypatch, capsys):
  monkeypatch.setattr(tf.config, 'list_physical_devices', {'GPU': ['any'] * gpus}.get)
  assert cifar10_device.tower_devices(towers) == devices
  assert capsys.readouterr().out == line


def test_session_has_a_logical_processor_for_each_tower():
  with tf.Session(config=cifar10_device.session_config(towers=3)) as session:
    names = [device.name for device in session.list_devices() if device.device_type == 'CPU']
  assert [name.split('/')[-1] for name in names] == ['device:CPU:0', 'device:CPU:1', 'device:CPU:2']
