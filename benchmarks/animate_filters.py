"""Shows how the filters of the first convolution emerge from noise, as an animated GIF.

  python benchmarks/animate_filters.py cifar10 --out=filters.gif

The pictures are those that training writes for TensorBoard, every --save_summaries_steps. The
filters change most at the beginning, so from one frame to the next the number of steps grows by a
constant factor.
"""

import argparse
import io
import os
import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import curves

TAG = 'conv1/filters/image'
FRAMES = 36  # At most: neighbours that would show the same picture become one.
MAGNIFICATION = 9
STRIP = 32  # Pixels below the filters, for the step.
COLOURS = 32  # Of the filters in a frame: more make the file larger and can hardly be told apart.
MILLISECONDS = 200
LAST_MILLISECONDS = 3000


def read_pictures(directory):
  """Reads the pictures of the filters in a directory's event files.

  Returns:
    {step: PNG} in the order of the steps; of a step that was repeated the latest picture.
  """
  pictures = {event.step: value.image.encoded_image_string
              for event, value in curves.read_values(directory) if value.tag == TAG}
  return dict(sorted(pictures.items()))


def choose(steps, frames=FRAMES):
  """Returns at most that many of the steps, the first and the last among them.

  Args:
    steps: positive numbers in ascending order.
    frames: the number of points, a constant factor apart, to which the nearest steps are returned.
  """
  steps = np.array(steps)
  nearest = [abs(steps - point).argmin() for point in np.geomspace(steps[0], steps[-1], frames)]
  return steps[np.unique(nearest)].tolist()


def frame(png, step):
  """Returns a picture of the filters, enlarged without smoothing, with the step below them."""
  filters = Image.open(io.BytesIO(png)).convert('RGB').quantize(COLOURS, dither=Image.Dither.NONE)
  width, height = (MAGNIFICATION * side for side in filters.size)
  picture = Image.new('RGB', [width, height + STRIP], (32, 32, 32))
  picture.paste(filters.convert('RGB').resize([width, height], Image.Resampling.NEAREST))
  ImageDraw.Draw(picture).text([width / 2, height + STRIP / 2], f'step {step:,}', 'white',
                               ImageFont.load_default(STRIP * 0.6), 'mm')
  # With as many again for the letters.
  return picture.quantize(2 * COLOURS, dither=Image.Dither.NONE)


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('run', nargs='?', default='cifar10',
                      help='directory of a run, with event files in train (cifar10)')
  parser.add_argument('--out', default='filters.gif', help='file to write (filters.gif)')
  arguments = parser.parse_args()

  directory = os.path.join(arguments.run, 'train')
  pictures = read_pictures(directory)
  if not pictures:
    sys.exit(f'There are no pictures of filters in {directory}: name the directory of a run.')
  steps = choose(list(pictures))
  first, *others = [frame(pictures[step], step) for step in steps]
  try:
    first.save(arguments.out, 'GIF', save_all=True, append_images=others, loop=0,
               duration=[MILLISECONDS] * len(others) + [LAST_MILLISECONDS])
  except OSError as error:
    sys.exit(f'Cannot write {arguments.out}: {error}')
  print(f'{arguments.out}: {len(steps)} of {len(pictures)} pictures, steps {steps[0]} to '
        f'{steps[-1]}, {os.path.getsize(arguments.out) / 1000:.0f} kB')


if __name__ == '__main__':
  main()
