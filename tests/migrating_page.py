"""docs/migrating.md as its tests read it, and the graph in which they run its snippets.

A section has a snippet of the graph and one of Keras. After a line that begins with *In PyTorch*
there may be one of PyTorch.
"""

import contextlib
import functools
import linecache
import os
import re

import numpy as np
import tensorflow as tf

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
IN_PYTORCH = '\n*In PyTorch'

tf1 = tf.compat.v1

IMAGES = np.random.RandomState(0).normal(size=[8, 4]).astype(np.float32)
LABELS = np.arange(8) % 3
KERNEL = np.random.RandomState(1).normal(size=[4, 3]).astype(np.float32)


def text():
  with open(os.path.join(ROOT, 'docs', 'migrating.md'), encoding='utf-8') as page:
    return page.read()


def sections(heading):
  """Returns {title: text} of the sections under one of the page's headings."""
  part = re.search(f'^## {heading}\n(.*?)^## ', text(), re.DOTALL | re.MULTILINE).group(1)
  parts = re.split('^### (.*)\n', part, flags=re.MULTILINE)
  return dict(zip(parts[1::2], parts[2::2]))


def blocks(part, language='python'):
  return re.findall(f'^```{language}\n(.*?)^```', part, re.DOTALL | re.MULTILINE)


def snippets(title):
  """Returns a function for each snippet of a section: it runs it in a dictionary of names."""
  section = text().split(f'\n### {title}\n')[1].split('\n##')[0]
  functions = []
  for i, block in enumerate(blocks(section)):
    name = f'<{title}, {i}>'
    linecache.cache[name] = len(block), None, block.splitlines(True), name  # `tf.function` looks.
    functions.append(functools.partial(exec, compile(block, name, 'exec')))
  return functions


@contextlib.contextmanager
def linear_graph(**more):
  """A graph with logits, weight decay and a session: what a program has before the snippet."""
  with tf.Graph().as_default(), tf1.Session() as session:
    images, labels = tf.constant(IMAGES), tf.constant(LABELS)
    weights = tf1.get_variable('weights', initializer=KERNEL)
    biases = tf1.get_variable('biases', [3], initializer=tf1.zeros_initializer())
    logits = tf.add(tf.matmul(images, weights), biases, name='logits')
    cross_entropy = tf.reduce_mean(tf1.nn.sparse_softmax_cross_entropy_with_logits(
        labels=labels, logits=logits))
    loss = cross_entropy + 0.1 * tf.nn.l2_loss(weights)
    optimizer = tf1.train.GradientDescentOptimizer(0.1)
    session.run(tf1.global_variables_initializer())
    yield dict(more, tf=tf1, np=np, session=session, images=images, labels=labels, weights=weights,
               biases=biases, logits=logits, loss=loss, optimizer=optimizer)
