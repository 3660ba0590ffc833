"""Run these first: in a few seconds they say whether the network learns, evaluates, predicts."""

import json

import numpy as np
from PIL import Image
import pytest
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_eval
import cifar10_predict
from conftest import TRAINED
import numpy_network

FLAGS = tf.app.flags.FLAGS


def test_one_step_lowers_the_loss_of_its_batch(small_data_set):
  images, labels = numpy_network.read(small_data_set.test_files[0])
  logits = cifar10.inference(tf.constant(numpy_network.central_crop(images[:32])))
  loss = cifar10.loss(logits, tf.constant(labels[:32]))
  train_op = cifar10.train(loss, tf.train.get_or_create_global_step())
  assert sum(v.shape.num_elements() for v in tf.trainable_variables()) == 1068298
  with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    first = session.run(loss)
    session.run(train_op)
    assert first == pytest.approx(4.68, abs=0.1)
    assert session.run(loss) < first - 0.01


def test_trained_network_is_evaluated(labelled_data_dir, tmp_path, monkeypatch, capsys):
  # The labels are what the network answers, but for 20 of 100 images.
  monkeypatch.chdir(tmp_path)
  FLAGS(['cifar10_eval.py', '--data_dir=' + labelled_data_dir, '--checkpoint_dir=' + TRAINED,
         '--run_once'])
  cifar10_eval.main()
  assert 'precision @ 1 = 0.800\n' in capsys.readouterr().out


def test_trained_network_classifies_a_picture(tmp_path, monkeypatch, capsys):
  # A red disc on grass.
  monkeypatch.chdir(tmp_path)
  y, x = np.mgrid[:32, :32] - 15.5
  picture = np.full([32, 32, 3], [60, 160, 40], np.uint8)
  picture[x * x + y * y < 100] = [220, 30, 20]
  Image.fromarray(picture).save('disc.png')
  FLAGS(['cifar10_predict.py', '--checkpoint_dir=' + TRAINED, '--json'])
  assert cifar10_predict.main(['disc.png']) == 0
  [answer] = json.loads(capsys.readouterr().out)
  actual = {item['class']: item['probability'] for item in answer['predictions']}
  [expected] = numpy_network.probabilities(numpy_network.central_crop(picture[np.newaxis]),
                                           numpy_network.averages(TRAINED))
  assert actual == pytest.approx(dict(zip(cifar10_predict.dataset.CLASSES, expected)), rel=1e-3)
