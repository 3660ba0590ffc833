import argparse
import collections
import io
import json
import os
import re
import sys

import numpy as np
from PIL import Image, ImageSequence
import pytest
import tensorflow.compat.v1 as tf

from conftest import ROOT

import animate_filters
import compare_runs
import curves
import keep_curves
import programs
import simulate_scaling
import throughput
import train_and_evaluate

LOSS, PRECISION = 'losses/total_loss/raw', 'precision @ 1'


def _main(monkeypatch, module, *arguments):
  monkeypatch.setattr(sys, 'argv', [module.__name__ + '.py', *map(str, arguments)])
  module.main()


def _status(monkeypatch, module, *arguments):
  """Runs a script that exits; returns its status, or its message."""
  with pytest.raises(SystemExit) as raised:
    _main(monkeypatch, module, *arguments)
  return raised.value.code


# Curves.

def _write(directory, tag, curve):
  """Writes an event file with a curve, and beside it what is not to be kept."""
  directory.mkdir(parents=True, exist_ok=True)
  suffix = '.%d' % len(list(directory.iterdir()))
  with tf.summary.FileWriter(str(directory), filename_suffix=suffix) as out:
    for step, value in curve:
      image = tf.Summary.Image(encoded_image_string=bytes(1000))
      out.add_summary(tf.Summary(value=[tf.Summary.Value(tag=tag, simple_value=value),
                                        tf.Summary.Value(tag='conv1/filters', image=image),
                                        tf.Summary.Value(tag='speed', simple_value=9.0)]), step)


@pytest.fixture
def run(tmp_path):
  """A run of 300 steps, whose loss is 4, but from step 201 on 1 and 3 by turns."""
  _write(tmp_path / 'mine' / 'train', LOSS,
         [(step, 4 if step <= 200 else 1 + 2 * (step % 2)) for step in range(1, 301)])
  _write(tmp_path / 'mine' / 'eval', PRECISION, [(100, 0.5), (250, 0.625)])
  _write(tmp_path / 'mine' / 'eval', PRECISION + ' without moving averages', [(250, 0.375)])
  return tmp_path / 'mine'


def test_table_has_a_row_for_each_evaluation(run, monkeypatch, capsys):
  _main(monkeypatch, compare_runs, 'name=%s' % run, '--csv')
  heading, first, second = [line.split(',') for line in capsys.readouterr().out.splitlines()]
  assert heading[:3] == ['run', 'step', 'training loss'] and len(heading) == 5
  assert first == ['name', '100', '4.000', '0.500', '']
  assert second[:2] + second[3:] == ['name', '250', '0.625', '0.375']
  # The mean over three steps: 3 + 1 + 3, or 1 + 3 + 1.
  assert 5 / 3 <= float(second[2]) <= 7 / 3


def _timed_run(directory, points, evaluations, **record):
  """Writes a run: points and evaluations are (step, seconds, value); `record` is for run.json."""
  for part, tag, curve in (('train', LOSS, points), ('eval', PRECISION, evaluations)):
    (directory / part).mkdir(parents=True)
    with tf.io.TFRecordWriter(str(directory / part / 'events.out.tfevents.1')) as out:
      for step, seconds, value in curve:
        summary = tf.Summary(value=[tf.Summary.Value(tag=tag, simple_value=value)])
        out.write(tf.Event(wall_time=1.8e9 + seconds, step=step,
                           summary=summary).SerializeToString())
  if record:
    (directory / 'train' / 'run.json').write_text(json.dumps({
        'earlier': [], 'classes': ['cat', 'dog'], 'tensorflow': '2.21.0', **record}))


def _rows(capsys):
  """Returns the lines of a comparison's table: what it is, and the values."""
  lines = capsys.readouterr().out.splitlines()
  assert max(map(len, lines)) <= 80
  return {row[0]: row[1:] for row in (re.split('  +', line.strip()) for line in lines) if row}


@pytest.fixture
def two_runs(tmp_path):
  """Two runs of 100 steps a minute; for an hour after its step 200 nobody trained the first one."""
  def times(steps, pause):
    return [(step, 0.6 * step + pause * (step > 200), 2.0) for step in steps]

  flags = {'momentum': 0.0, 'freeze': [], 'max_steps': 400, 'train_dir': 'a', 'batch_size': 128}
  _timed_run(tmp_path / 'a', times(range(0, 401, 50), 3600),
             [(100, 0, 0.5), (200, 0, 0.8125), (400, 0, 0.75)],
             flags={**flags, 'momentum': 0.5},
             earlier=[{'flags': {**flags, 'max_steps': 200}, 'classes': ['cat', 'dog']}])
  _timed_run(tmp_path / 'b', times(range(0, 301, 50), 0), [(100, 0, 0.75), (300, 0, 0.875)],
             flags={**flags, 'max_steps': 300, 'train_dir': 'b', 'freeze': ['conv1', 'conv2']})
  return tmp_path / 'a', tmp_path / 'b'


def test_comparison_has_what_differs_the_scores_and_when_they_were_reached(
    two_runs, monkeypatch, capsys):
  _main(monkeypatch, compare_runs, *two_runs)
  rows = _rows(capsys)
  assert {name: rows[name] for name in ('momentum', 'freeze', 'max_steps')} == {
      'momentum': ['0.0, then 0.5', '0.0'], 'freeze': ['conv1,conv2'], 'max_steps': ['400', '300']}
  assert not {'batch_size', 'train_dir', 'classes', 'tensorflow'} & rows.keys()
  assert rows['steps'] == ['400', '300']
  assert rows['training time'] == ['4.0 min', '3.0 min']  # Without the hour.
  assert rows[PRECISION] == ['0.750 at 400', '0.875 at 300']
  # It need not last: the first evaluation counts.
  assert rows['steps to 0.80'] == ['200', '300'] and rows['time to 0.80'] == ['2.0 min', '3.0 min']
  assert rows['steps to 0.86'] == ['-', '300'] and rows['time to 0.86'] == ['-', '3.0 min']


def test_runs_without_a_record_are_compared_too(two_runs, monkeypatch, capsys):
  (two_runs[1] / 'train' / 'run.json').unlink()
  _main(monkeypatch, compare_runs, *two_runs)
  rows = _rows(capsys)
  assert rows['steps'] == ['400', '300'] and 'momentum' not in rows


def test_many_runs_are_compared_in_the_width_of_a_terminal(two_runs, monkeypatch, capsys):
  _main(monkeypatch, compare_runs, *['run-number-%d=%s' % (i, two_runs[i % 2]) for i in range(9)])
  lines = capsys.readouterr().out.splitlines()
  assert max(map(len, lines)) <= 80
  assert sum(line.count('0.875 at 300') for line in lines) == 4


def test_curves_are_drawn_in_characters(two_runs, monkeypatch, capsys):
  _main(monkeypatch, compare_runs, *two_runs)
  lines = capsys.readouterr().out.splitlines()
  first = lines.index(PRECISION) + 1
  chart = [line[8:].ljust(72) for line in lines[first:first + 12]]
  assert float(lines[first].split()[0]) == 0.875 and float(lines[first + 11].split()[0]) == 0.5
  # Of 400 steps in 72 characters 100 are at 18, 300 at 53; 0.75 is a third below 0.875.
  assert chart[0].rfind('b') == 53 and chart[11].find('a') == 18
  assert chart[4][18] == 'b' and chart[4][71] == 'a'


def test_training_time_is_without_pauses_and_clocks_that_were_set_back():
  # Ten seconds for ten steps, but for a pause of a day and an hour backwards.
  times = {0: 0, 10: 10, 20: 20, 30: 86420, 40: 86430, 50: 82830, 60: 82840}
  steps, seconds = curves.training_seconds(times)
  assert list(steps) == list(times) and list(seconds) == [0, 10, 20, 30, 40, 50, 60]


def test_evaluations_are_found_beside_the_training(two_runs, monkeypatch, capsys):
  run, other = two_runs
  (run / 'eval').rename(run / 'tested')
  (other / 'eval').rename(run / 'eval')  # Whatever it is called.
  for name, evaluated in (('tested', run), ('eval', other)):
    (run / name / 'evaluated.json').write_text(json.dumps([str(evaluated / 'train')]))
  _main(monkeypatch, compare_runs, run / 'train')
  assert _rows(capsys)[PRECISION] == ['0.750 at 400']
  # As --restart does.
  for name in ('train', 'tested'):
    (run / name).rename(run / (name + '.old-20261130-200000'))
  _main(monkeypatch, compare_runs, run / 'train.old-20261130-200000')
  assert _rows(capsys)[PRECISION] == ['0.750 at 400']
  (run / 'train.old-20261130-200000').rename(run / 'train')
  _main(monkeypatch, compare_runs, 'moved=%s' % (run / 'train'))
  assert PRECISION not in _rows(capsys)


def test_picture_has_the_curves_and_the_table(two_runs, tmp_path, monkeypatch):
  pytest.importorskip('matplotlib', reason='matplotlib is not here: pip install -e .[plots]')
  out = tmp_path / 'curves.svg'
  _main(monkeypatch, compare_runs, *two_runs, '--out=%s' % out)
  for text in ('moving averages', 'momentum', '0.875 at 300', 'time to 0.86'):
    assert re.search('<!--.*%s' % text, out.read_text())
  _main(monkeypatch, compare_runs, *two_runs, '--out=%s' % out, '--curves_only')
  assert '<!-- moving averages -->' in out.read_text() and 'momentum' not in out.read_text()


def test_ten_crops_have_a_column_also_under_their_old_name(run, monkeypatch, capsys):
  _write(run / 'eval', PRECISION + ' over ten views', [(100, 0.75)])
  _write(run / 'eval', PRECISION + ' with ten crops', [(250, 0.875)])
  _main(monkeypatch, compare_runs, run, '--csv')
  rows = [line.split(',') for line in capsys.readouterr().out.splitlines()]
  assert [row[5] for row in rows[1:]] == ['0.750', '0.875']
  _main(monkeypatch, compare_runs, run, '--csv', '--single_crop')
  rows = [line.split(',') for line in capsys.readouterr().out.splitlines()]
  assert [len(row) for row in rows] == [5, 5, 5]


def test_repeated_steps_count_once_with_their_latest_value(run):
  _write(run / 'eval', PRECISION, [(250, 0.75)])
  assert curves.read_curves(str(run / 'eval'))[0][PRECISION] == {100: 0.5, 250: 0.75}


def test_last_record_may_be_unfinished(run):
  [events] = (run / 'train').iterdir()
  events.write_bytes(events.read_bytes()[:-5])
  assert sorted(curves.read_curves(str(run / 'train'))[0][LOSS]) == list(range(1, 300))


def test_smoothing_takes_means_of_as_many_groups():
  assert curves.smooth({1: 2.0, 2: 4.0, 3: 5.0, 4: 7.0}, points=2) == [[1.5, 3.5], [3.0, 6.0]]


def test_two_runs_of_one_name_are_refused(run, monkeypatch):
  assert 'LABEL=%s' % run in _status(monkeypatch, compare_runs, run, run)


def test_drawing_without_matplotlib_is_one_line(run, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'matplotlib', None)
  out = '--out=%s' % (tmp_path / 'curves.png')
  assert 'pip install' in _status(monkeypatch, compare_runs, run, out)


def test_curves_are_kept_and_merged(tmp_path, monkeypatch):
  _write(tmp_path / 'here' / 'train', LOSS, [(1, 4.0), (2, 4.0), (3, 4.0)])
  _write(tmp_path / 'here' / 'eval', PRECISION, [(3, 0.25)])
  _write(tmp_path / 'there' / 'train', LOSS, [(3, 2.0), (4, 2.0)])
  copy = tmp_path / 'docs' / 'copy'
  (tmp_path / 'there' / 'train' / 'run.json').write_text('{}')
  for run in ('here', 'here', 'there'):
    _main(monkeypatch, keep_curves, tmp_path / run, copy)
  assert (copy / 'train' / 'run.json').read_text() == '{}'  # Which has the flags.

  def points(directory):
    [path] = directory.glob('events.*')
    return [(event.step, value.tag, value.simple_value)
            for event in tf.train.summary_iterator(str(path)) for value in event.summary.value]
  assert points(copy / 'train') == [(1, LOSS, 4.0), (2, LOSS, 4.0), (3, LOSS, 2.0), (4, LOSS, 2.0)]
  assert points(copy / 'eval') == [(3, PRECISION, 0.25)]


def _png(red):
  """A picture of a red filter on grey, and its bytes."""
  picture = Image.new('RGB', [6, 6], (127, 127, 127))
  picture.paste((red, 0, 0), [0, 0, 5, 5])
  png = io.BytesIO()
  picture.save(png, 'PNG')
  return png.getvalue()


def test_filters_are_animated_step_by_step_and_enlarged_without_smoothing(tmp_path, monkeypatch):
  # The third picture is of a step that was repeated after a resumption.
  for steps in ([(1, 50), (101, 100), (201, 0)], [(201, 150), (301, 200)]):
    with tf.summary.FileWriter(str(tmp_path / 'run' / 'train'),
                               filename_suffix=str(steps[0][0])) as out:
      for step, red in steps:
        image = tf.Summary.Image(encoded_image_string=_png(red))
        out.add_summary(tf.Summary(value=[
            tf.Summary.Value(tag='input/images/image/0', image=image if step == 1 else None),
            tf.Summary.Value(tag='conv1/filters/image', image=image)]), step)
  _main(monkeypatch, animate_filters, tmp_path / 'run', '--out=%s' % (tmp_path / 'f.gif'))
  with Image.open(tmp_path / 'f.gif') as animation:
    frames = [np.asarray(frame.convert('RGB')) for frame in ImageSequence.Iterator(animation)]
    durations = [frame.info['duration'] for frame in ImageSequence.Iterator(animation)]
  assert [frame[0, 0].tolist() for frame in frames] == [[red, 0, 0] for red in (50, 100, 150, 200)]
  assert durations[-1] > durations[0]
  times = frames[0].shape[1] // 6
  for frame in frames:
    np.testing.assert_array_equal(frame[:6 * times], frame[:6 * times:times, ::times].repeat(
        times, axis=0).repeat(times, axis=1))
  # Below each stands its own step.
  strips = {frame[6 * times:].tobytes() for frame in frames}
  assert len(strips) == 4 and all(max(strip) > 200 for strip in strips)


def test_frames_of_an_animation_are_close_together_where_the_training_begins():
  assert animate_filters.choose([1, 101, 201], frames=9) == [1, 101, 201]
  # By hand: 1, 10, 100 and 1000; of 1, 101, 201, ... nearest to 10 is 1, to 100 is 101.
  assert animate_filters.choose(list(range(1, 1100, 100)), frames=4) == [1, 101, 1001]
  assert animate_filters.choose(list(range(1, 1001)), frames=4) == [1, 10, 100, 1000]


def test_copy_that_cannot_be_written_is_one_line(run, tmp_path, monkeypatch):
  (tmp_path / 'copy').write_text('a file')
  message = _status(monkeypatch, keep_curves, run, tmp_path / 'copy')
  assert str(tmp_path / 'copy') in message and '\n' not in message
  assert (tmp_path / 'copy').read_text() == 'a file'


@pytest.mark.parametrize('module, arguments', [(compare_runs, []), (keep_curves, ['copy']),
                                               (animate_filters, [])])
def test_directory_without_a_run_is_one_line(module, arguments, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert os.path.join('nothing', 'train') in _status(monkeypatch, module, 'nothing', *arguments)
  assert not os.listdir()


# Scaling. The network has 1,068,298 parameters, of which local3/weights are 884,736.

@pytest.mark.parametrize('replicas, compute_secs, expected', [
    # For each replica the link takes 32 * 1,068,298 bits at 1 Gbit/s, in each direction.
    (1, 40.0, 40.0),
    (1, 0.0, 2 * 0.034186),
    (4, 0.0, 2 * 4 * 0.034186),
    (4, 0.3, 0.136742 + 0.2)])  # The forward pass waits for the link, the backward pass hides it.
def test_formula_with_one_server(replicas, compute_secs, expected):
  assert simulate_scaling.PARAMETER_BYTES == 4 * 1068298
  messages = simulate_scaling.assign(1)
  assert simulate_scaling.predicted(replicas, messages, 1e9, compute_secs) == pytest.approx(
      expected, rel=1e-4)


@pytest.mark.parametrize('servers, busiest', [
    (1, 1068298), (2, 884736 + 4800), (4, 884736)])
def test_variables_go_to_the_server_with_the_fewest_bytes(servers, busiest):
  loads = collections.Counter()
  for _, size, server in simulate_scaling.assign(servers):
    loads[server] += size
  assert sum(loads.values()) == 4 * 1068298
  assert max(loads.values()) == pytest.approx(4 * busiest, rel=2e-3)


@pytest.mark.parametrize('servers', [1, 4])
def test_parts_are_equal(servers):
  loads = collections.Counter()
  for _, size, server in simulate_scaling.assign(servers, partitioned=True):
    loads[server] += size
  assert loads == {server: 4 * 1068298 / servers for server in range(servers)}


def test_simulation_of_one_message_after_the_other():
  # Without computation all variables arrive before the first gradient leaves: the links are
  # crossed twice, packet by packet, so that each message takes little longer than on one link.
  secs = simulate_scaling.simulate(1, simulate_scaling.assign(1), 1e9, 0.0)
  assert secs == pytest.approx(2 * 0.034186, rel=0.05)
  # Without traffic only the computation is left.
  secs = simulate_scaling.simulate(3, simulate_scaling.assign(2), 1e15, 2.5)
  assert secs == pytest.approx(2.5, rel=1e-4)


# Speed.

def test_program_counts_the_steps_of_its_turn(monkeypatch):
  now, steps = [0.0], []
  monkeypatch.setattr(programs.time, 'perf_counter', lambda: now[0])
  monkeypatch.setattr(sys, 'stdin', io.StringIO('1.0\n0.5\n'))
  answers = io.StringIO()

  def step():
    now[0] += 0.25 if len(steps) < 19 else 0.125  # Twice as fast in the second turn.
    steps.append(answers.getvalue())

  programs.repeat(step, programs.steps_to_run(128, answers))
  ready, *turns = answers.getvalue().splitlines()
  assert ready == 'ready' and steps[9] == '' and steps[10] == 'ready\n'
  assert [json.loads(turn)['images_per_second'] for turn in turns] == [4 * 128, 8 * 128]
  assert len(steps) == 10 + (5 + 4) + (5 + 4)
  assert json.loads(turns[0])['peak_mb'] > 10


Measured = collections.namedtuple('Measured', ['name', 'checkout', 'title', 'rates', 'peak_mb'])


def test_report_compares_programs_and_checkouts(tmp_path, capsys, with_gpus):
  with_gpus(0)
  rates = {('old', 'project'): [10.0, 30.0, 20.0], ('new', 'project'): [15.0, 33.0, 40.0],
           ('old', 'naive'): [5.0, 5.0, 5.0]}
  measured = [Measured(name, checkout, '%s-%s' % (name, checkout), values, 77.0)
              for (checkout, name), values in rates.items()]
  path = str(tmp_path / 'rates.json')
  throughput.report(measured, argparse.Namespace(
      checkouts=[('old', '/old'), ('new', '.')], json=path, batch_size=128, seconds=1.0))
  hardware, programs_table, ratios, comparison = capsys.readouterr().out.split('\n\n')
  assert 'CPU' in hardware
  # Median, least, greatest, megabytes.
  assert programs_table.splitlines()[1].split() == ['project-old', '20', '10', '..', '30', '77']
  assert ratios.splitlines()[0].split()[-2:] == ['old', 'new']
  assert ratios.splitlines()[1].split()[-2:] == ['1.50', '4.00']  # At least, and what it is.
  assert comparison.splitlines()[1].split()[-4:] == ['1.500', '1.100', '..', '2.000']
  with open(path) as file:
    written = json.load(file)
  assert written['programs'][1] == {
      'program': 'project', 'checkout': 'new', 'rates': [15.0, 33.0, 40.0], 'peak_mb': 77.0}


def test_report_names_the_gpu_and_has_aims_of_its_own_for_it(capsys, with_gpus, monkeypatch):
  with_gpus(1)
  monkeypatch.setattr(tf.config.experimental, 'get_device_details',
                      {'any': {'device_name': 'GPU of a test'}}.get)
  throughput.report(
      [Measured('project', '', 'ours', [30.0], 1.0), Measured('keras', '', 'theirs', [10.0], 1.0)],
      argparse.Namespace(checkouts=[('', '.')], json=None, batch_size=128, seconds=1.0))
  hardware, _, ratios = capsys.readouterr().out.split('\n\n')
  assert 'GPU of a test' in hardware
  assert ratios.splitlines()[1].split()[-2:] == ['2.80', '3.00']


# A program that measures 4, 6, 5 images a second; `naive` ends in its second turn, `keras` at once.
STAND_IN = """
import sys
name = sys.argv[1]
if name == 'keras':
  sys.exit('It has no layers.')
print('ready', flush=True)
for i, _ in enumerate(sys.stdin):
  if name == 'naive' and i == 1:
    sys.exit('It is tired.')
  print('{"images_per_second": %d, "peak_mb": 7}' % [4, 6, 5][i], flush=True)
"""


@pytest.fixture
def stand_in(tmp_path):
  (tmp_path / 'benchmarks').mkdir()
  (tmp_path / 'benchmarks' / 'programs.py').write_text(STAND_IN)
  return '--checkouts', 'a=%s' % tmp_path


def test_program_that_ends_early_leaves_the_others(stand_in, small_data_dir, monkeypatch, capsys):
  assert _status(monkeypatch, throughput, '--data_dir=' + small_data_dir, '--rounds=3',
                 '--programs', 'naive', 'project', 'keras', *stand_in) == 0
  out, err = capsys.readouterr()
  first, second = err.splitlines()
  assert 'keras of a' in first and 'It has no layers.' in first
  assert 'naive of a' in second and 'It is tired.' in second
  assert out.splitlines()[3].split() == ['project', 'of', 'a', '5', '4', '..', '6', '7']
  assert 'naive of' not in out


def test_ctrl_c_keeps_what_was_measured(stand_in, small_data_dir, monkeypatch, capsys):
  measure = throughput.Program.measure

  def interrupted(self, seconds):
    if len(self.rates) == 2:
      raise KeyboardInterrupt
    return measure(self, seconds)
  monkeypatch.setattr(throughput.Program, 'measure', interrupted)
  assert _status(monkeypatch, throughput, '--data_dir=' + small_data_dir, '--programs', 'project',
                 *stand_in) == 130
  assert capsys.readouterr().out.splitlines()[3].split()[3:] == ['5', '4', '..', '6', '7']


def test_no_program_at_all_is_a_failure(stand_in, small_data_dir, monkeypatch, capsys):
  assert _status(monkeypatch, throughput, '--data_dir=' + small_data_dir, '--programs', 'keras',
                 *stand_in) not in (0, None)


@pytest.mark.parametrize('arguments, named', [
    (['--programs', 'nosuch'], "'nosuch'"),
    (['--rounds=0'], '--rounds'),
    (['--batch_size=0'], '--batch_size'),
    (['--data_dir=nowhere'], 'nowhere'),
    (['--checkouts', 'nowhere'], 'NAME=PATH'),
    (['--checkouts', 'a=nowhere'], 'nowhere'),
    (['--checkouts', 'a=' + ROOT, 'a=' + ROOT], '--checkouts'),
    (['--json=/dev/null/mine'], '--json')])
def test_wrong_argument_is_one_line(arguments, named, small_data_dir, monkeypatch, capsys):
  assert _status(monkeypatch, throughput, '--data_dir=' + small_data_dir, '--programs', 'naive',
                 *arguments) == 2
  assert named in capsys.readouterr().err.splitlines()[-1]


# Training and evaluating in stages.

@pytest.mark.parametrize('flag, named', [
    ('--restart', '--restart'), ('5', "'5'"), ('--evaluate_every=0', '--evaluate_every')])
def test_flag_that_does_not_go_with_stages(flag, named, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert _status(monkeypatch, train_and_evaluate, '--run_dir=run', flag) == 2
  assert named in capsys.readouterr().err.splitlines()[-1]
  assert not os.listdir()


def test_run_that_another_script_started_is_refused(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  os.makedirs('run/train')
  assert _status(monkeypatch, train_and_evaluate, '--run_dir=run') == 2
  assert '--run_dir' in capsys.readouterr().err.splitlines()[-1]
  assert os.listdir('run') == ['train']
