import os
import sys

import pytest
import tensorflow.compat.v1 as tf

from conftest import ROOT

sys.path.insert(0, os.path.join(ROOT, 'benchmarks'))

import plot_curves  # noqa: E402


def _write(folder, tag, curve):
  suffix = '.%d' % len(list(folder.iterdir()))
  with tf.summary.FileWriter(str(folder), filename_suffix=suffix) as out:
    for step, value in curve:
      out.add_summary(tf.Summary(value=[tf.Summary.Value(tag=tag, simple_value=value)]), step)


@pytest.fixture
def run(tmp_path):
  """A run of 300 steps, whose loss is 4, but 1 and 3 by turns from step 201 on."""
  for name in ('train', 'eval'):
    (tmp_path / 'mine' / name).mkdir(parents=True)
  _write(tmp_path / 'mine' / 'train', 'losses/total_loss/raw',
         [(step, 4 if step <= 200 else 1 + 2 * (step % 2)) for step in range(1, 301)])
  _write(tmp_path / 'mine' / 'eval', 'precision @ 1', [(100, 0.5), (250, 0.625)])
  _write(tmp_path / 'mine' / 'eval', 'precision @ 1 without moving averages', [(250, 0.375)])
  return tmp_path / 'mine'


def _main(monkeypatch, *arguments):
  monkeypatch.setattr(sys, 'argv', ['plot_curves.py', *map(str, arguments)])
  plot_curves.main()


def test_table_has_a_row_for_each_evaluation(run, monkeypatch, capsys):
  _main(monkeypatch, 'name=%s' % run, '--csv')
  heading, first, second = capsys.readouterr().out.splitlines()
  assert heading == 'run,step,training loss,moving averages,plain variables'
  assert first == 'name,100,4.000,0.500,'
  name, step, loss, *precisions = second.split(',')
  assert (name, step, precisions) == ('name', '250', ['0.625', '0.375'])
  # The mean over three steps: 3 + 1 + 3, or 1 + 3 + 1.
  assert 5 / 3 <= float(loss) <= 7 / 3


def test_table_is_markdown_unless_told_otherwise(run, monkeypatch, capsys):
  _main(monkeypatch, run)
  assert capsys.readouterr().out.splitlines()[1:3] == [
      '| --- | --- | --- | --- | --- |', '| mine | 100 | 4.000 | 0.500 |  |']


def test_two_runs_of_one_name_are_refused(run, monkeypatch):
  with pytest.raises(SystemExit, match='Two runs have the name mine: write LABEL=.*mine.'):
    _main(monkeypatch, run, run)


def test_repeated_steps_count_once_with_their_latest_value(run):
  _write(run / 'eval', 'precision @ 1', [(250, 0.75)])
  assert plot_curves.read_curves(str(run / 'eval'))['precision @ 1'] == {100: 0.5, 250: 0.75}


def test_last_record_may_be_unfinished(run):
  [events] = (run / 'train').iterdir()
  events.write_bytes(events.read_bytes()[:-5])
  curve = plot_curves.read_curves(str(run / 'train'))['losses/total_loss/raw']
  assert sorted(curve) == list(range(1, 300))


def test_smoothing_takes_means_of_as_many_groups():
  assert plot_curves.smooth({1: 2.0, 2: 4.0, 3: 5.0, 4: 7.0}, points=2) == [[1.5, 3.5], [3.0, 6.0]]


def test_folder_without_a_run_is_one_sentence(tmp_path, monkeypatch):
  with pytest.raises(SystemExit, match='There are no event files of a training in .*nothing'):
    _main(monkeypatch, tmp_path / 'nothing')


def test_picture_shows_each_run(run, tmp_path, monkeypatch):
  pytest.importorskip('matplotlib', reason='matplotlib is not here: pip install -e .[plots]')
  _main(monkeypatch, 'first=%s' % run, 'second=%s' % run, '--out=%s' % (tmp_path / 'curves.svg'))
  picture = (tmp_path / 'curves.svg').read_text()
  for label in ('first', 'second', 'first, moving averages', 'second, plain variables'):
    assert '<!-- %s -->' % label in picture


@pytest.mark.parametrize('out', ['curves.nosuch', 'nowhere/curves.png'])
def test_picture_that_cannot_be_drawn_is_one_sentence(out, run, tmp_path, monkeypatch, capsys):
  pytest.importorskip('matplotlib', reason='matplotlib is not here: pip install -e .[plots]')
  with pytest.raises(SystemExit, match='.*%s cannot be drawn: ' % out):
    _main(monkeypatch, run, '--out=%s' % (tmp_path / out))
  assert '| mine | 100 |' in capsys.readouterr().out


def test_picture_without_matplotlib_is_one_sentence(run, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'matplotlib', None)
  with pytest.raises(SystemExit, match='Pictures need matplotlib: pip install '):
    _main(monkeypatch, run, '--out=%s' % (tmp_path / 'curves.png'))
