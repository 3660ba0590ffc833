"""docs/papers.md and CITATION.cff: their numbers are those of the network and its results."""

import configparser
import os
import re

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cifar10
from conftest import ROOT


def _text(path):
  with open(os.path.join(ROOT, path), encoding='utf-8') as text:
    return text.read()


def _rows(page, heading):
  """Returns the cells of the table under a heading, as texts; without its head."""
  section = _text(page).split(f'\n## {heading}\n')[1].split('\n## ')[0]
  rows = [[cell.strip(' `*') for cell in line[1:-1].split('|')]
          for line in section.splitlines() if line.startswith('|')]
  return rows[2:]


def test_layers_are_those_of_the_graph(run_graph):
  cifar10.inference(tf.zeros([1, 24, 24, 3]))
  # The last op of a layer has its name, in its scope or beside it.
  outputs = {op.name.split('/')[-1]: op.outputs[0] for op in tf.get_default_graph().get_operations()
             if op.outputs}
  decays = tf.get_collection('losses')
  variables = {variable.op.name: variable for variable in tf.trainable_variables()}
  [[values, decays]] = run_graph([variables, decays])
  rows = _rows('docs/papers.md', 'The network')
  parameters = 0
  for name, _, output, count, deviation, bias, decay in rows:
    assert output == 'x'.join(str(size) for size in outputs[name].shape[1:]), name
    layer = {key: value for key, value in values.items() if key.startswith(name + '/')}
    assert sum(value.size for value in layer.values()) == int((count or '0').replace(',', ''))
    parameters += int((count or '0').replace(',', ''))
    if layer:
      weights = layer[name + '/weights']
      numerator, _, denominator = deviation.partition('/')
      # Cut at two standard deviations, a normal has 0.8796 of its deviation.
      expected = 0.8796 * float(numerator) / float(denominator or 1)
      assert weights.std() == pytest.approx(expected, rel=3 / np.sqrt(weights.size))
      np.testing.assert_array_equal(layer[name + '/biases'], np.float32(bias))
      if decay:
        half = np.sum(np.square(weights, dtype=np.float64)) / 2
        assert decays.pop(0) == pytest.approx(float(decay) * half, rel=1e-4)
  assert not decays and len(values) == 10
  assert parameters == 1068298 and '1,068,298 parameters' in _text('docs/papers.md')


def test_results_are_those_of_the_results_page():
  measured = set(re.findall(r'\| ([\d,]+) \| \**(0\.\d{3})\** \| (0\.\d{3}) \|',
                            _text('docs/results.md')))
  rows = _rows('docs/papers.md', 'What it reaches, and when')
  assert len(rows) == 7
  for steps, epochs, averages, raw, _, _ in rows:
    assert int(epochs) == round(int(steps.replace(',', '')) * 128 / 50000)
    if raw and (averages, raw) != ('0.869', '0.863'):  # Of cifar10/trained, which has its card.
      assert (steps, averages, raw) in measured
  card = re.findall(r'\| (0\.\d{3}) \| `python cifar10_eval', _text('cifar10/trained/README.md'))
  assert rows[-1][2:5] == card


def test_citation_names_the_version_and_the_licence():
  setup = configparser.ConfigParser()
  setup.read(os.path.join(ROOT, 'setup.cfg'))
  lines = _text('CITATION.cff').splitlines()
  assert all(re.match(r'( {2})*(- )?[a-z-]+:( |$)', line) for line in lines)
  fields = dict(re.match(r'([a-z-]+): *(.*)', line).groups() for line in lines
                if not line.startswith(' '))
  assert fields['cff-version'] == '1.2.0' and {'message', 'title', 'authors'} <= fields.keys()
  for field in ('version', 'license'):
    assert fields[field] == setup['metadata'][field]
  bibtex = _text('docs/papers.md').split('@software')[1]
  assert f"version = {{{fields['version']}}}" in bibtex and fields['title'] in bibtex
