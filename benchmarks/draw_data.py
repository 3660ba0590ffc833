"""Draws what is in the data set: the first test images of each class.

  python benchmarks/draw_data.py --out=data.png
"""

import argparse
import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cifar10_support import dataset
from cifar10_support.console import UserError

BLOCKS_IN_A_ROW = 5
IMAGES_IN_A_ROW = 3  # Of a block: the images of one class, in two rows.
IMAGES = 2 * IMAGES_IN_A_ROW
SIDE = 44  # Pixels on a side of an image: larger than in the files, to be looked at.
GAP = 12  # Around the blocks.
STRIP = 24  # Below each block, for the name of the class.
COLOURS = 128  # Of the whole picture: more make the file larger and can hardly be told apart.


def block(images, name):
  """Returns a picture of the images of one class, with its name below."""
  width, height = IMAGES_IN_A_ROW * SIDE, IMAGES // IMAGES_IN_A_ROW * SIDE
  picture = Image.new('RGB', [width, height + STRIP], 'white')
  for i, image in enumerate(images):
    row, column = divmod(i, IMAGES_IN_A_ROW)
    picture.paste(Image.fromarray(image).resize([SIDE, SIDE], Image.Resampling.LANCZOS),
                  [column * SIDE, row * SIDE])
  ImageDraw.Draw(picture).text([width / 2, height + STRIP / 2], name, 'black',
                               ImageFont.load_default(STRIP * 0.8), 'mm')
  return picture


def draw(data_set):
  """Returns a picture of the blocks of all classes."""
  [path] = data_set.test_files
  labels = np.fromfile(path, np.uint8)[::dataset.RECORD_BYTES]
  blocks = [block(data_set.read_images('test', np.flatnonzero(labels == label)[:IMAGES]), name)
            for label, name in enumerate(data_set.classes)]
  width, height = (side + GAP for side in blocks[0].size)
  rows = -(-len(blocks) // BLOCKS_IN_A_ROW)
  picture = Image.new('RGB', [BLOCKS_IN_A_ROW * width + GAP, rows * height + GAP], 'white')
  for i, of_class in enumerate(blocks):
    row, column = divmod(i, BLOCKS_IN_A_ROW)
    picture.paste(of_class, [GAP + column * width, GAP + row * height])
  return picture.quantize(COLOURS)


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--data_dir', default='cifar10/data',
                      help='folder with the data set (cifar10/data)')
  parser.add_argument('--out', default='data.png', help='image file to write (data.png)')
  arguments = parser.parse_args()
  try:
    data_set = dataset.find(arguments.data_dir, len(dataset.CLASSES), ['test'])
    draw(data_set).save(arguments.out, optimize=True)
  except (UserError, OSError) as error:
    sys.exit(str(error))


if __name__ == '__main__':
  main()
