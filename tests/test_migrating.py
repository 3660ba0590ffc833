"""docs/migrating.md: each row of its table runs both sides, and its lines are those of the code."""

import json
import os
import re
import subprocess
import sys

import pytest

from conftest import ROOT
import migrating_page

# The others are in tests/system/test_migrating_processes.py.
ROWS = ['reader', 'distortions', 'shuffling', 'queue_runners', 'sharing_variables', 'collections',
        'update_then_average', 'learning_rate', 'command_line', 'clusters', 'one_process']
# Those of other programs: they run the snippets of the page.
OTHERS = ['own_loop', 'summaries_by_hand', 'placeholders', 'checkpoint_state', 'top_k',
          'partial_restore', 'is_training', 'contrib', 'resizing', 'own_schedule',
          'momentum_and_adam', 'assign', 'several_optimizers', 'gradient_by_the_input', 'clipping',
          'records', 'estimators', 'supervisor', 'recurrent', 'conditions', 'frozen_graph',
          'printing']


@pytest.fixture(scope='module')
def outcomes(small_data_dir):
  """What went wrong in each row, or None: one process runs them all."""
  process = subprocess.run(
      [sys.executable, os.path.join(ROOT, 'tests', 'migrating_rows.py'), small_data_dir,
       *ROWS, *OTHERS],
      capture_output=True, text=True, timeout=300)
  assert process.returncode == 0, process.stderr
  return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize('row', ROWS + OTHERS)
def test_both_sides_of_a_row(row, outcomes):
  assert outcomes[row] is None, outcomes[row]


def _lines(*paths):
  return {line.strip() for path in paths
          for line in open(os.path.join(ROOT, path), encoding='utf-8')}


def test_page_shows_lines_of_the_three_programs():
  graph = _lines('cifar10.py', 'cifar10_input.py', 'cifar10_train.py', 'cifar10_eval.py',
                 'cifar10_multi_gpu_train.py', 'cifar10_cluster/tf_config.py',
                 'cifar10_support/evaluation.py', 'cifar10_support/training.py')
  keras = _lines('exercises/keras_cifar10.py')
  pytorch = _lines('exercises/torch_cifar10.py')
  sections = migrating_page.sections('The idioms')
  assert len(sections) == 14
  shown = 0
  for title, section in sections.items():
    first, *in_pytorch = section.split(migrating_page.IN_PYTORCH)
    blocks = migrating_page.blocks(first)
    assert len(blocks) == (1 if title.startswith('TF_CONFIG') else 2), title
    programs = [graph, keras][:len(blocks)]
    for part in in_pytorch:
      blocks += migrating_page.blocks(part)
      programs.append(pytorch)
      shown += 1
    for block, program in zip(blocks, programs):
      assert [line for line in block.splitlines() if line.strip() not in program | {'...'}] == []
    assert '*The trap' in first
    assert all('*Its trap' in part for part in in_pytorch), title
  assert shown > 10


def test_idioms_of_other_programs_are_run():
  sections = migrating_page.sections('Idioms of other programs')
  in_pytorch = [title for title, section in sections.items()
                if migrating_page.IN_PYTORCH in section]
  for path, expected in (('migrating_rows.py', list(sections)),
                         ('test_migrating_torch.py', in_pytorch)):
    with open(os.path.join(ROOT, 'tests', path), encoding='utf-8') as code:
      assert re.findall(r"snippets\('(.*)'\)", code.read()) == expected
  assert len(sections) == len(OTHERS)
  for title, section in sections.items():
    first, *parts = section.split(migrating_page.IN_PYTORCH)
    assert len(migrating_page.blocks(first)) == 2 and '*The trap' in first, title
    assert all(len(migrating_page.blocks(part)) == 1 and '*Its trap' in part for part in parts)


@pytest.mark.parametrize('heading', ['The idioms', 'Idioms of other programs'])
def test_table_links_to_each_section(heading):
  def anchor(title):  # As GitHub makes them.
    return re.sub('[^a-z0-9_ -]', '', title.lower()).replace(' ', '-')

  part = migrating_page.text().split(f'\n## {heading}\n')[1].split('\n### ')[0]
  links = re.findall(r'^\| \[.*?\]\(#([^)]*)\)', part, re.MULTILINE)
  assert links == [anchor(title) for title in migrating_page.sections(heading)] and links
