"""The layers of the house: imports only point down, and an installation has all of it."""

import ast
import configparser
import pathlib

import pytest

from conftest import ROOT

HOUSE = pathlib.Path(ROOT)
MODULES = {path.stem for path in HOUSE.glob('*.py')}
PACKAGES = {path.parent.name for path in HOUSE.glob('*/__init__.py')}
SCRIPTS = MODULES - {'cifar10', 'cifar10_input'}
UPPER = {'cifar10_cluster', 'exercises', 'benchmarks', 'tests'}


def _imported(path):
  """Returns the first parts of the names of all modules that a file imports, anywhere in it."""
  names = set()
  for statement in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(statement, ast.Import):
      names |= {alias.name for alias in statement.names}
    elif isinstance(statement, ast.ImportFrom):
      names.add(statement.module)
  return {name.split('.')[0] for name in names}


def _files(place):
  return sorted(place.rglob('*.py'), key=str) if place.is_dir() else [place]


@pytest.mark.parametrize('place, above', [
    ('cifar10_support', MODULES | UPPER),
    ('cifar10_input.py', SCRIPTS | UPPER | {'cifar10'}),
    ('cifar10.py', SCRIPTS | UPPER),
    *[(name + '.py', SCRIPTS | UPPER) for name in sorted(SCRIPTS)],
    ('cifar10_cluster', UPPER - {'cifar10_cluster'}),
])
def test_imports_only_point_down(place, above):
  files = _files(HOUSE / place)
  assert files
  assert {path.name: _imported(path) & above for path in files} == {
      path.name: set() for path in files}


def test_top_level_has_few_files():
  assert SCRIPTS >= {'cifar10_train', 'cifar10_multi_gpu_train', 'cifar10_eval', 'cifar10_predict',
                     'cifar10_convert'}
  assert len(MODULES) <= 7
  # A package of that name would hide cifar10.py.
  assert not (HOUSE / 'cifar10' / '__init__.py').exists()


def test_installation_has_every_module_and_package():
  setup = configparser.ConfigParser()
  setup.read(HOUSE / 'setup.cfg')
  assert sorted(setup['options']['py_modules'].split()) == sorted(MODULES)
  assert sorted(setup['options']['packages'].split()) == sorted(PACKAGES - {'tests'})
