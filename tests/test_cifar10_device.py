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
