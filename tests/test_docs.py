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
