"""Executes docs/tutorial.ipynb in a folder of its own, as a person with the project's files would.

As a program it stores the outputs in the notebook:

  python tests/system/notebook_run.py
"""

import contextlib
import glob
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile

import nbclient
import nbformat

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), '..', '..'))
NOTEBOOK = os.path.join('docs', 'tutorial.ipynb')

_CELL_SECS = 900  # A busy machine may need minutes for the longest cell.


def stored():
  """Returns the notebook as it is in the project."""
  return nbformat.read(os.path.join(ROOT, NOTEBOOK), as_version=4)


def executed(folder):
  """Copies what the notebook needs into a folder, and executes it there.

  Args:
    folder: a `pathlib.Path` of an existing folder.

  Returns:
    The notebook with its outputs.
  """
  project, temporary = folder / 'project', folder / 'temporary'
  (project / 'docs').mkdir(parents=True)
  temporary.mkdir()
  for path in glob.glob(os.path.join(ROOT, '*.py')):
    shutil.copy(path, project)
  for place in ('cifar10_support', 'exercises', 'cifar10/trained', 'docs/images'):
    shutil.copytree(os.path.join(ROOT, place), project / place)

  notebook = stored()
  client = nbclient.NotebookClient(
      notebook, timeout=_CELL_SECS, kernel_name='python3', record_timing=False,
      coalesce_streams=True,
      resources={'metadata': {'path': str(project / 'docs')}})
  # The kernel finds the program `tensorboard` as in an activated environment. TensorBoard notes in
  # TMPDIR that it runs; a folder of our own keeps it apart from any other that does.
  path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get('PATH', '')])
  try:
    client.execute(env=dict(os.environ, PATH=path, TMPDIR=str(temporary)))
  finally:
    for info in temporary.glob('.tensorboard-info/pid-*.info'):
      with contextlib.suppress(ProcessLookupError):
        os.kill(json.loads(info.read_text())['pid'], signal.SIGTERM)
  return notebook


def starts_tensorboard(cell):
  """Returns whether a cell shows TensorBoard: what it leaves behind is dead when it is read."""
  return '%tensorboard' in cell.source


def code_cells(notebook):
  """Returns the cells of a notebook that have code."""
  return [cell for cell in notebook.cells if cell.cell_type == 'code']


def main():
  with tempfile.TemporaryDirectory() as folder:
    notebook = executed(pathlib.Path(folder))
  for cell in code_cells(notebook):
    cell.metadata.clear()
    if starts_tensorboard(cell):
      cell.outputs = []
    for output in cell.outputs:
      output.get('data', {}).pop('image/jpeg', None)  # Pillow gives the PNG once more as a JPEG.
  notebook.metadata.language_info = {'name': 'python'}  # Without the version of this Python.
  nbformat.write(notebook, os.path.join(ROOT, NOTEBOOK))


if __name__ == '__main__':
  main()
