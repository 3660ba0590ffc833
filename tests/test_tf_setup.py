import pytest
import tensorflow.compat.v1 as tf

import cifar10_multi_gpu_train
from cifar10_support import tf_setup
from cifar10_support.console import UserError
import cifar10_train


def test_sessions_take_gpu_memory_as_needed_and_show_placement_if_asked():
  config = tf_setup.session_config()
  assert config.gpu_options.allow_growth
  assert config.allow_soft_placement
  assert not config.log_device_placement
  assert tf_setup.session_config(log_device_placement=True).log_device_placement


def test_xla_compiles_for_gpus_if_asked():
  default, on = (tf_setup.session_config(xla=xla) for xla in (False, True))
  assert default.graph_options.optimizer_options.global_jit_level == tf.OptimizerOptions.DEFAULT
  assert on.graph_options.optimizer_options.global_jit_level == tf.OptimizerOptions.ON_1


def test_xla_is_tried_out_where_there_is_a_gpu(with_gpus, monkeypatch, capsys):
  compiled = []
  compile_ = tf.xla.experimental.compile
  monkeypatch.setattr(tf.xla.experimental, 'compile',
                      lambda *args: compiled.append(args) or compile_(*args))
  with_gpus(0)
  assert not tf_setup.can_compile()
  assert (compiled, capsys.readouterr().out) == ([], '')
  with_gpus(1)
  assert tf_setup.can_compile()
  assert len(compiled) == 1
  out = capsys.readouterr().out
  assert '--noxla' in out and out.count('\n') == 1


def test_without_the_tools_of_xla_training_goes_without_it_and_says_so(
    with_gpus, monkeypatch, capsys):
  def fails(function, inputs):
    with tf.control_dependencies([tf.debugging.Assert(False, ['as if ptxas were missing'])]):
      return [tf.identity(inputs[0])]

  monkeypatch.setattr(tf.xla.experimental, 'compile', fails)
  with_gpus(1)
  assert not tf_setup.can_compile()
  out = capsys.readouterr().out
  assert 'XLA' in out and 'ptxas' in out and out.count('\n') == 1


def test_session_has_a_logical_processor_for_each_tower():
  with tf.Session(config=tf_setup.session_config(num_cpus=3)) as session:
    names = [device.name for device in session.list_devices() if device.device_type == 'CPU']
  assert [name.split('/')[-1] for name in names] == ['device:CPU:0', 'device:CPU:1', 'device:CPU:2']


@pytest.fixture
def asked_for_the_first_time():
  tf_setup.bfloat16_or_float32.cache_clear()
  yield
  tf_setup.bfloat16_or_float32.cache_clear()


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
    cpuinfo, capabilities, expected, tmp_path, monkeypatch, capsys, asked_for_the_first_time):
  path = tmp_path / 'cpuinfo'
  if cpuinfo is not None:
    path.write_text(cpuinfo)
  monkeypatch.setattr(tf_setup, '_CPUINFO', str(path))
  monkeypatch.setattr(tf.config, 'list_physical_devices',
                      {'GPU': list(enumerate(capabilities))}.get)
  monkeypatch.setattr(tf.config.experimental, 'get_device_details',
                      lambda gpu: {'compute_capability': gpu[1]} if gpu[1] else {})
  for _ in range(2):
    assert tf_setup.bfloat16_or_float32() == expected
  # It is said once, and only where the flag changes nothing.
  assert capsys.readouterr().out.count('--mixed_precision') == (expected == tf.float32)


@pytest.mark.parametrize('gpus, towers, devices, is_told', [
    (0, 1, ['/cpu:0'], True), (0, 3, ['/cpu:0', '/cpu:1', '/cpu:2'], True),
    (2, 1, ['/gpu:0'], False), (2, 2, ['/gpu:0', '/gpu:1'], False),
    (2, 3, ['/gpu:0', '/gpu:1', '/gpu:0'], True)])
def test_each_tower_has_a_gpu_or_what_there_is(gpus, towers, devices, is_told, with_gpus, capsys):
  with_gpus(gpus)
  assert tf_setup.tower_devices(towers) == devices
  assert bool(capsys.readouterr().out) == is_told


def test_read_once_gives_the_value_and_shares_the_variable():
  read_once = tf_setup.read_once()
  with tf.variable_scope('', custom_getter=read_once):
    value = tf.get_variable('v', initializer=3.0)
  with tf.variable_scope('', reuse=True, custom_getter=read_once), tf.name_scope('tower'):
    again = tf.get_variable('v')
  assert isinstance(value, tf.Tensor) and value is again
  [variable] = tf.trainable_variables()
  with tf.Session() as session:
    variable.load(4.0, session)
    assert session.run([value, again]) == [4.0, 4.0]
    assert session.run(tf.gradients(value * again, [variable])) == [8.0]


@pytest.mark.parametrize('config', [
    '', '{}', '{"task": {"type": "worker", "index": 0}}', '{"cluster": {}}',
    '{"cluster": {"chief": ["a:1"]}, "task": {"type": "chief", "index": 0}}'])
def test_lone_task_trains_here(config, monkeypatch):
  monkeypatch.setenv('TF_CONFIG', config)
  tf_setup.check_single_machine()


@pytest.mark.parametrize('config, named', [
    ('{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}', '-m cifar10_cluster'),
    ('{"cluster": {"worker": ["a:1", "b:2"]}}', '-m cifar10_cluster'),
    ('{"cluster": {"chief": ["a:1"], "worker": ["b:2"]}}', '-m cifar10_cluster'),
    ('not JSON', 'TF_CONFIG'), ('[1]', 'TF_CONFIG'), ('3', 'TF_CONFIG'),
    ('{"cluster": 3}', 'TF_CONFIG'), ('{"cluster": [1]}', 'TF_CONFIG'),
    ('{"cluster": {"ps": 3}}', 'TF_CONFIG')])
def test_task_of_a_cluster_is_sent_to_the_program_for_it_and_nonsense_is_refused(
    config, named, monkeypatch):
  monkeypatch.setenv('TF_CONFIG', config)
  for script in (cifar10_train, cifar10_multi_gpu_train):
    with pytest.raises(UserError, match=named):
      script.main()
