"""The modules, as setup.cfg installs them and the README orders them."""

import ast
import configparser
import glob
import os
import re

from conftest import ROOT

MODULES = {os.path.basename(path)[:-len('.py')] for path in glob.glob(os.path.join(ROOT, '*.py'))}


def _in_readme():
  """Returns the names of the modules in the README's table of files, in its order."""
  with open(os.path.join(ROOT, 'README.md'), encoding='utf-8') as readme:
    return re.findall(r'^\| `(\w+)\.py` \|', readme.read(), re.MULTILINE)


def test_setup_installs_every_module():
  setup = configparser.ConfigParser()
  setup.read(os.path.join(ROOT, 'setup.cfg'))
  assert setup['options']['py_modules'].split() == sorted(MODULES)


def test_readme_names_every_module_once():
  assert sorted(_in_readme()) == sorted(MODULES)


def test_imports_point_down_the_list_of_the_readme():
  order = _in_readme()
  for place, module in enumerate(order):
    with open(os.path.join(ROOT, module + '.py'), encoding='utf-8') as source:
      statements = list(ast.walk(ast.parse(source.read())))
    imported = {alias.name for statement in statements if isinstance(statement, ast.Import)
                for alias in statement.names}
    imported |= {statement.module for statement in statements
                 if isinstance(statement, ast.ImportFrom)}
    assert imported & set(order[:place + 1]) == set(), module
