"""What the pages for people refer to: the files that they link to, the commands that they show."""

import ast
import functools
import glob
import os
import re

import pytest

from conftest import ROOT

PAGES = ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'cifar10/README.md',
         'cifar10/trained/README.md', 'docs/tutorial.ipynb'] + sorted(
    'docs/' + os.path.basename(path) for path in glob.glob(os.path.join(ROOT, 'docs', '*.md')))


def _text(page):
  with open(os.path.join(ROOT, page), encoding='utf-8') as text:
    return text.read()


def _commands(page):
  """Returns (script, flags) of each `python` command, the script's path relative to the project."""
  commands = []
  for program, rest in re.findall(r'python3? (-m \w+|[\w./]+\.py)([^`\n&|;]*)', _text(page)):
    script = re.sub(r'-m (\w+)', r'\1/__main__.py', program)
    commands.append((script, re.findall(r'--(\w+)', rest)))
  return [(script, flags) for script, flags in commands
          if script not in ('venv/__main__.py', 'pytest/__main__.py', 'tf2onnx/__main__.py')]


def _source(module):
  """Returns the path of a module of the project, or None."""
  path = os.path.join(ROOT, *module.split('.'))
  return next((name for name in (path + '.py', os.path.join(path, '__init__.py'))
               if os.path.exists(name)), None)


@functools.lru_cache(maxsize=None)
def _parsed(path):
  """Returns the flags that a file defines, and the paths of the modules whose flags it knows."""
  with open(path, encoding='utf-8') as source:
    text = source.read()
  # A benchmark may hand flags that it does not know to a script, which it names.
  hands_flags_on = 'parse_known_args' in text
  flags, modules = set(), set()
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.Call):
      name = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
      if name.startswith('DEFINE') or name == 'add_argument':
        flags.update(argument.value.lstrip('-') for argument in node.args[:1]
                     if isinstance(argument, ast.Constant))
    elif isinstance(node, ast.Import):
      modules.update(alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      modules.update(['%s.%s' % (node.module, alias.name) for alias in node.names], [node.module])
    elif isinstance(node, ast.Constant) and hands_flags_on and str(node.value).endswith('.py'):
      modules.add(node.value[:-len('.py')])
  return flags, {_source(module) for module in modules} - {None}


def _known_flags(script):
  """Returns the flags that a script and all modules that it imports define."""
  flags, paths, todo = set(), set(), {os.path.join(ROOT, script)}
  while todo:
    paths |= todo
    parsed = [_parsed(path) for path in todo]
    flags.update(*(own for own, _ in parsed))
    todo = set().union(*(imported for _, imported in parsed)) - paths
  return flags


@pytest.mark.parametrize('page', PAGES)
def test_files_that_a_page_links_to_exist(page):
  folder = os.path.join(ROOT, os.path.dirname(page))
  links = re.findall(r'\]\((?!https?:|#)([^)#\s]+)', _text(page))
  links += re.findall(r'(?:src|href)="(?!https?:|#)([^"#]+)', _text(page))
  assert [link for link in links if not os.path.exists(os.path.join(folder, link))] == []


def _headings(page):
  """Returns the anchors that GitHub makes of a page's headings."""
  text = re.sub('^```.*?^```', '', _text(page), flags=re.DOTALL | re.MULTILINE)
  titles = [re.sub(r'\[(.*?)\]\(.*?\)', r'\1', title)
            for title in re.findall('^#+ (.*)', text, re.MULTILINE)]
  return {re.sub('[^a-z0-9_ -]', '', title.lower()).replace(' ', '-') for title in titles}


@pytest.mark.parametrize('page', [page for page in PAGES if page.endswith('.md')])
def test_headings_that_a_page_links_to_exist(page):
  folder = os.path.dirname(page)
  links = re.findall(r'\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)', _text(page))
  missing = [(path, anchor) for path, anchor in links if anchor not in _headings(
      os.path.normpath(os.path.join(folder, path)) if path else page)]
  assert missing == []


@pytest.mark.parametrize('page', PAGES)
def test_scripts_that_a_page_runs_exist(page):
  assert [script for script, _ in _commands(page)
          if not os.path.exists(os.path.join(ROOT, script))] == []


@pytest.mark.parametrize('page', PAGES)
def test_flags_that_a_page_gives_are_those_of_the_script(page):
  # Both --name and --noname are the flags of a boolean.
  unknown = [(script, flag) for script, given in _commands(page) for flag in given
             if not {flag, re.sub('^no', '', flag)} & _known_flags(script)]
  assert unknown == []


def test_commands_are_found():
  # Without which the tests above would compare nothing.
  assert len(_commands('docs/tutorial.md')) > 10
  assert len(_commands('docs/your_own.md')) > 10
  assert any(flags for _, flags in _commands('README.md'))
