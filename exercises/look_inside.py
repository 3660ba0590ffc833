"""Shows what the network sees in your pictures: writes one HTML page, which opens in any browser
without a network or a server.

  python exercises/look_inside.py docs/images/cat.png --out=cat.html

Every tensor of a graph has a name, and `session.run` fetches any of them: 'conv1/conv1:0' is what
the first layer makes of a picture. You can feed any of them, too, and so ask what the network would
have said of another picture: one of which a part is hidden.
"""

from cifar10_support import tf_setup  # First: it imports TensorFlow without its chatter.

import base64
import contextlib
import io
import json
import os
import warnings

import numpy as np
from PIL import Image, ImageOps
import tensorflow.compat.v1 as tf

import cifar10
import cifar10_input
import cifar10_predict
from cifar10_support import console
from cifar10_support import dataset
from cifar10_support import evaluation
from cifar10_support import files
from cifar10_support import pictures
from cifar10_support import runs
from cifar10_support import settings
from cifar10_support.console import UserError

FLAGS = tf.app.flags.FLAGS

console.DEFINE_path('out', 'look_inside.html', 'The page to write; one of that name is replaced.')
for name in ('checkpoint_dir', 'data_dir', 'use_moving_averages'):
  tf.app.flags.declare_key_flag(name)

TEMPLATE = os.path.splitext(__file__)[0] + '.html'

# The layers on the page, and the names of their outputs.
MAPS = {'conv1': 'conv1/conv1:0', 'norm1': 'norm1:0', 'conv2': 'conv2/conv2:0', 'pool2': 'pool2:0'}
UNITS = {'local3': 'local3/local3:0', 'local4': 'local4/local4:0'}

# On the way there: the kernel and the stride of each step, and the layer where we look.
_STEPS = [(5, 1, 'conv1'), (3, 2, 'norm1'), (5, 1, 'conv2'), (3, 2, 'pool2')]

SIMILAR = 8  # Test images.
_LARGEST, _SMALL = 640, 128  # Pixels on a side of a picture on the page; below that it is a PNG.


def build(data_set=dataset.of_run(None, len(dataset.CLASSES))):
  """Adds the network, and names for what is fetched and fed here beside its layers.

  These are 'pictures:0', strings of shape [n] to feed, see `cifar10_predict.decode`; 'images:0',
  which is uint8 of shape [n, 32, 32, 3]; 'crops:0', see `cifar10_input.central_crop`; 'filters:0',
  those of conv1; and 'input_gradients:0', see `gradients`.

  Args:
    data_set: a `dataset.DataSet` that says what the images are like, by default CIFAR-10's.

  Returns:
    The crops.
  """
  contents = tf.placeholder(tf.string, [None], name='pictures')
  images = tf.identity(cifar10_predict.decode(contents, data_set.side, data_set.channels),
                       name='images')
  crops = tf.identity(cifar10_input.central_crop(images), name='crops')
  cifar10.probabilities(crops)
  with tf.variable_scope('', reuse=True):
    tf.identity(tf.get_variable('conv1/weights'), name='filters')
  logits = tf.get_default_graph().get_tensor_by_name('softmax_linear/softmax_linear:0')
  # Of a batch with a copy of one crop for each class, the trace has each logit once.
  tf.identity(tf.gradients(tf.linalg.trace(logits), crops)[0], name='input_gradients')
  return crops


def occlusion(session, crop):
  """Hides a part of a crop, everywhere in turn, and asks how probable each class is then.

  The patch is about a quarter of the crop wide. It is 0, which is the mean of a standardised image.
  Source: Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, 2014.

  Args:
    session: with the graph of `build`, and a checkpoint.
    crop: float32 of shape [24, 24, 3], standardised.

  Returns:
    float32 of shape [10, 24, 24]: by how much the probability of a class falls when the patch is
    centred at a pixel. Where it rises, that is negative.
  """
  pixels = np.arange(len(crop))
  hidden = np.abs(pixels[:, np.newaxis] - pixels) <= len(crop) // 8  # Of [place, pixel].
  [before] = session.run('probabilities:0', {'crops:0': [crop]})
  after = [session.run('probabilities:0', {'crops:0': np.where(
      rows[:, np.newaxis, np.newaxis] & hidden[:, np.newaxis, :, np.newaxis], 0, crop)})
           for rows in hidden]
  return (before - after).transpose(2, 0, 1)


def gradients(session, crop):
  """Computes the gradient of each class's logit with respect to each pixel of a crop.

  Source: Simonyan et al., Deep Inside Convolutional Networks, 2014. Arguments are those of
  `occlusion`.

  Returns:
    float32 of shape [10, 24, 24]: the largest magnitude among the colours of a pixel.
  """
  copies = np.repeat(crop[np.newaxis], cifar10.NUM_CLASSES, axis=0)
  return np.abs(session.run('input_gradients:0', {'crops:0': copies})).max(axis=-1)


def run_test_images(session, batches, number):
  """Runs the test images through the network.

  Args:
    session: as for `occlusion`.
    batches: their crops and labels, see `cifar10.inputs`.
    number: of test images in the data set.

  Returns:
    Their local4, float32 of shape [number, 192], and their labels, int32 of shape [number].
  """
  coordinator = tf.train.Coordinator()
  threads = tf.train.start_queue_runners(session, coordinator)
  found, done = [], 0
  try:
    with console.progress('Looking at', number, 'test images') as progress:
      while done < number:
        crops, labels = session.run(batches)
        found.append((session.run(UNITS['local4'], {'crops:0': crops}), labels))
        done += len(labels)
        progress.update(len(labels))
  finally:
    coordinator.request_stop()
    coordinator.join(threads)
  local4, labels = map(np.concatenate, zip(*found))
  return local4, labels


def cosine_similarities(vector, vectors):
  """Returns the cosines of the angles between a vector and others, of shape [n, size]."""
  lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(vector)
  return vectors @ vector / np.maximum(lengths, np.finfo(np.float32).tiny)


def receptive_fields(side):
  """Returns which pixels of a crop, of `side` pixels, the values in each layer of MAPS depend on.

  That is {layer: (stride, first, size)}: row i of the layer sees the `size` rows from
  stride * i + first on, some of which may be outside; and so with columns.
  """
  fields, stride, first, size = {}, 1, 0, 1
  for kernel, step, layer in _STEPS:
    outputs = -(-side // step)
    padding = max(0, (outputs - 1) * step + kernel - side)  # What SAME adds; the larger half after.
    first -= stride * (padding // 2)
    size += stride * (kernel - 1)
    stride, side = stride * step, outputs
    fields[layer] = stride, first, size
  return fields


def look(session, path):
  """Runs a picture through the network; returns a dictionary of what the page shows of it.

  `session` is as for `occlusion`. A `UserError` if the picture cannot be read, or has no answer.
  """
  square = pictures.load(path)
  names = {'image': 'images:0', 'crop': 'crops:0', 'probabilities': 'probabilities:0',
           **MAPS, **UNITS}
  values = {key: value for key, [value] in session.run(names, {'pictures:0': [square]}).items()}
  if not np.isfinite(values['probabilities']).all():
    raise UserError(f'The network has no answer to {path}: its training has diverged. Name another '
                    'one with --checkpoint_dir.')
  return {'name': os.path.basename(path), 'picture': _as_it_was(path, square), **values,
          'occlusion': occlusion(session, values['crop']),
          'gradient': gradients(session, values['crop'])}


def similar(seen, local4, labels, data_set):
  """Finds the test images that are most like a picture to the network, see `cosine_similarities`.

  Args:
    seen: what `look` returned for the picture.
    local4, labels: what `run_test_images` returned for the data set.

  Returns:
    A list of dictionaries, the most similar first; and the index of the picture itself, or None:
    a picture that is in the data set is not among those it is like.
  """
  similarities = cosine_similarities(seen['local4'], local4)
  nearest = np.argsort(-similarities, kind='stable')[:SIMILAR + 1]
  images = data_set.read_images('test', nearest)
  is_itself = (images == seen['image']).all(axis=(1, 2, 3))
  others = [{'index': int(i), 'similarity': float(similarities[i]), 'image': _url(image, 'PNG'),
             'label': data_set.classes[labels[i]]}
            for i, image in zip(nearest[~is_itself], images[~is_itself])]
  return others[:SIMILAR], next(map(int, nearest[is_itself]), None)


def _as_it_was(path, square):
  """Returns the URL of a whole picture, upright and not too large, on white.

  What `pictures.load` has read without an error, its central square, is what there is of pictures
  that a browser would not show: with more than 8 bits.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    with Image.open(path) as whole, Image.open(io.BytesIO(square)) as in_8_bits:
      picture = in_8_bits if whole.mode[0] in 'IF' else whole
      picture.load()
      with contextlib.suppress(Exception):
        ImageOps.exif_transpose(picture, in_place=True)
      picture = picture.convert('RGBA')
  picture.thumbnail([_LARGEST, _LARGEST])
  white = Image.new('RGBA', picture.size, 'white')
  pixels = np.asarray(Image.alpha_composite(white, picture).convert('RGB'))
  return _url(pixels, 'PNG' if max(picture.size) <= _SMALL else 'JPEG')


def _url(pixels, kind):
  """Returns an image, uint8 of shape [height, width, 3], as an address that is its contents."""
  contents = io.BytesIO()
  Image.fromarray(pixels.squeeze()).save(contents, kind, quality=85)
  return f'data:image/{kind.lower()};base64,{base64.b64encode(contents.getvalue()).decode()}'


def packed(values):
  """Returns an array in 256 levels, of which the lowest stands for `low`, the highest for `high`.
  """
  low, high = float(values.min()), float(values.max())
  levels = np.rint((values - low) * (255 / (high - low or 1))).astype(np.uint8)
  return {'shape': values.shape, 'low': low, 'high': high,
          'levels': base64.b64encode(levels.tobytes()).decode()}


def page(looked, **others):
  """Returns the page, a string, with what `look` returned for each picture, and other data."""
  shown = [{**{key: seen.get(key) for key in ('name', 'picture', 'similar', 'itself')},
            'side': len(seen['image']),
            'probabilities': seen['probabilities'].tolist(),
            **{key: packed(seen[key]) for key in ('crop', *MAPS, *UNITS)},
            # The strongest channels first: those with the highest mean.
            'order': {key: np.argsort(-seen[key].mean(axis=(0, 1)), kind='stable').tolist()
                      for key in MAPS},
            # Those of an improbable class are small, so each class has levels of its own.
            **{key: list(map(packed, seen[key])) for key in ('occlusion', 'gradient')}}
           for seen in looked]
  data = json.dumps({'pictures': shown, **others}).replace('<', r'\u003c')
  with open(TEMPLATE, encoding='utf-8') as template:
    return template.read().replace('{{data}}', data)


def look_inside(paths):
  """Builds the graph, restores the checkpoint, and looks at the pictures at these paths.

  Returns:
    The page, a string, and how many pictures are on it.
  """
  checkpoint = runs.find_checkpoint(FLAGS.checkpoint_dir, 'checkpoint_dir')
  directory = os.path.dirname(checkpoint.path)
  run = runs.read(directory)
  data_set = dataset.of_run(run, cifar10.NUM_CLASSES)
  dataset.follow(data_set.constants, vars(cifar10), vars(cifar10_input))
  test_images = _test_images()

  with tf.Graph().as_default(), tf_setup.explained_errors(
      'run the same command again', 'close other programs that use it'):
    crops = build(data_set)
    runs.check_data(directory, run, (test_images or data_set).seen_as(crops))
    batches = test_images and cifar10.inputs('test', test_images, one_pass=True)
    with tf.Session(config=tf_setup.session_config()) as session:
      evaluation.restore(session, checkpoint)
      looked = []
      for path in console.progress('Looking at', len(paths), 'pictures', iterable=paths):
        try:
          looked.append(look(session, path))
        except UserError as error:
          console.complain(error)
      if test_images and looked:
        local4, labels = run_test_images(session, batches, test_images.num_test)
        for seen in looked:
          seen['similar'], seen['itself'] = similar(seen, local4, labels, test_images)
      filters = session.run('filters:0')
  side = cifar10_input.IMAGE_SIZE
  return page(looked, classes=data_set.classes, filters=packed(filters),
              fields=receptive_fields(side), patch=side // 8 * 2 + 1,
              testImages=test_images and test_images.num_test,
              checkpoint=os.path.basename(checkpoint.path)), len(looked)


def _test_images():
  """Returns the `dataset.DataSet` in --data_dir; None if it has no images for testing."""
  if dataset.locate(FLAGS.data_dir):
    found = dataset.find(FLAGS.data_dir, cifar10.NUM_CLASSES, ['test'])
    if found.num_test:
      return found
  print(f'There are no test images in {FLAGS.data_dir}: the page is without similar ones.')
  return None


def main(paths):
  """Writes the page; returns 1 if one of the pictures is unreadable."""
  if not paths:
    raise UserError('Name at least one picture.')
  if not FLAGS.out.endswith('.html'):  # It is replaced, so it should not be one of the pictures.
    raise UserError(f'{FLAGS.out} does not end in .html: name the page to write with --out.')
  with settings.from_flags(cifar10):
    text, number = look_inside(paths)
  if number:
    with tf_setup.writing_to(FLAGS.out, 'out'):
      files.write(FLAGS.out, text)
    print(f'{FLAGS.out} shows what the network sees: open it in a browser.')
  return 1 if number < len(paths) else 0


if __name__ == '__main__':
  FLAGS.set_default('checkpoint_dir', 'cifar10/trained')
  tf_setup.use_graph_mode()
  console.run(main, takes_arguments=True)
