"""What the pages for people refer to."""

import os
import re

import pytest

from conftest import ROOT


@pytest.mark.parametrize('page', [
    'README.md', 'cifar10/README.md', 'cifar10/trained/README.md', 'docs/reliability.md',
    'docs/results.md', 'docs/scaling.md', 'docs/speed.md', 'docs/tutorial.md'])
def test_pictures_and_files_that_a_page_names_are_there(page):
  path = os.path.join(ROOT, page)
  with open(path, encoding='utf-8') as text:
    links = re.findall(r'\]\((?!https?:)([^):#]+)', text.read())
  assert links
  assert [link for link in links
          if not os.path.exists(os.path.join(os.path.dirname(path), link))] == []


def test_tests_that_hold_the_promises_are_there():
  with open(os.path.join(ROOT, 'docs', 'reliability.md'), encoding='utf-8') as text:
    sections = text.read().split('\n## ')
  count = 0
  for section in sections:
    of_section = file = None
    for line in section.splitlines():
      file = of_section or file
      for name, ending in re.findall(r'`(test_\w+)(\.py|\.\.\.|)`', line):
        if ending == '.py':
          file = name
        else:
          assert [test for test in _tests(file) if test == name or ending and test.startswith(name)]
          count += 1
      if not line.startswith('|'):
        of_section = file
  assert count > 50


def _tests(file):
  """Returns the names of the tests in a file."""
  with open(os.path.join(ROOT, 'tests', file + '.py'), encoding='utf-8') as source:
    return re.findall(r'^def (test_\w+)', source.read(), re.MULTILINE)
