"""docs/migrating.md: each row of its table runs both sides, and its lines are those of the code."""

import json
import os
import re
import subprocess
import sys

import pytest

from conftest import ROOT

# The others are in tests/system/test_migrating_processes.py.
ROWS = ['reader', 'distortions', 'shuffling', 'queue_runners', 'sharing_variables', 'collections',
        'update_then_average', 'learning_rate', 'command_line', 'clusters']


@pytest.fixture(scope='module')
def outcomes(small_data_dir):
  """What went wrong in each row, or None: one process runs them all."""
  process = subprocess.run(
      [sys.executable, os.path.join(ROOT, 'tests', 'migrating_rows.py'), small_data_dir, *ROWS],
      capture_output=True, text=True, timeout=300)
  assert process.returncode == 0, process.stderr
  return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize('row', ROWS)
def test_both_sides_of_a_row(row, outcomes):
  assert outcomes[row] is None, outcomes[row]


def _page():
  with open(os.path.join(ROOT, 'docs', 'migrating.md'), encoding='utf-8') as text:
    return text.read()


def _lines(*paths):
  return {line.strip() for path in paths
          for line in open(os.path.join(ROOT, path), encoding='utf-8')}


def test_page_shows_lines_of_the_two_programs():
  idioms, _ = _page().split('## The recipe')
  graph = _lines('cifar10.py', 'cifar10_input.py', 'cifar10_train.py', 'cifar10_eval.py',
                 'cifar10_multi_gpu_train.py', 'cifar10_cluster/tf_config.py',
                 'cifar10_support/restore.py')
  keras = _lines('exercises/keras_cifar10.py')
  sections = re.split('^### ', idioms, flags=re.MULTILINE)[1:]
  assert len(sections) == 13
  for section in sections:
    blocks = re.findall('^```python\n(.*?)^```', section, re.DOTALL | re.MULTILINE)
    assert len(blocks) == (1 if section.startswith('TF_CONFIG') else 2), section
    for block, program in zip(blocks, (graph, keras)):
      assert [line for line in block.splitlines() if line.strip() not in program | {'...'}] == []
    assert '*The trap' in section


def test_table_links_to_each_section():
  def anchor(title):  # As GitHub makes them.
    return re.sub('[^a-z0-9_ -]', '', title.lower()).replace(' ', '-')

  titles = re.findall('^### (.*)', _page().split('## The recipe')[0], re.MULTILINE)
  links = re.findall(r'^\| \[.*?\]\(#([^)]*)\)', _page(), re.MULTILINE)
  assert links == [anchor(title) for title in titles] and len(links) == 13
