"""docs/migrating.md: each row of its table runs both sides, and its lines are those of the code."""

import json
import os
import re
import subprocess
import sys

import pytest

from conftest import ROOT

# The others are in tests/system/test_migrating.py.
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
