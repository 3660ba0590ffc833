"""Measures cifar10_convert.py on photos of 12 megapixels: photos a second, and the peak memory.

  python benchmarks/convert.py

The photos are generated: a few different ones, each under many names (as hard links), so they come
from memory and not from the disk. It compares with a plain loop that decodes each at its full size,
`Image.open(path).convert('RGB').resize((32, 32))`. The converter is a single process, so its peak
is that of all its threads. Run it on an otherwise idle machine.
"""

import argparse
from concurrent import futures
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PLAIN_LOOP = ('import sys\nfrom PIL import Image\nfor path in sys.argv[1:]:\n'
              '  Image.open(path).convert("RGB").resize((32, 32))')


def save_photo(path, seed):
  """Writes a picture of 4000x3000 pixels with detail of every size, as a photo has it."""
  stream, total = np.random.RandomState(seed), np.zeros([3000, 4000, 3], np.float32)
  for scale in (1, 4, 16, 64, 250, 1000):
    noise = stream.randint(0, 256, [3 * scale, 4 * scale, 3]).astype(np.uint8)
    total += np.asarray(Image.fromarray(noise).resize((4000, 3000), Image.BICUBIC)) / scale**0.2
  total -= total.min()
  Image.fromarray((total * (255 / total.max())).astype(np.uint8)).save(path, quality=90)


def measured(what, count, *command):
  """Runs a command that takes `count` photos, and prints its speed and its peak memory."""
  start = time.perf_counter()
  process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
  _, status, usage = os.wait4(process.pid, 0)
  seconds = time.perf_counter() - start
  if status:
    sys.exit(f'{what} failed.')
  print(f'{what:<20} {count:6} photos {seconds:8.1f} s {count / seconds:8.1f} photos/s '
        f'{usage.ru_maxrss / 1024:8.0f} MB')


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--counts', type=int, nargs='+', default=[1000, 4000],
                      help='numbers of photos to convert (1000 4000)')
  parser.add_argument('--sample', type=int, default=200, help='photos for the plain loop (200)')
  parser.add_argument('--different', type=int, default=8, help='different photos (8)')
  arguments = parser.parse_args()

  with tempfile.TemporaryDirectory() as home:
    home = pathlib.Path(home)
    originals = [home / f'{i}.jpg' for i in range(arguments.different)]
    # In another process: those to be measured would inherit the peak of this one.
    with futures.ProcessPoolExecutor(1) as pool:
      list(pool.map(save_photo, originals, range(len(originals))))
    sizes = [path.stat().st_size / 1e6 for path in originals]
    print(f'{len(originals)} photos of {min(sizes):.1f} to {max(sizes):.1f} MB, '
          f'{os.cpu_count()} cores')
    measured('plain loop', arguments.sample, '-c', PLAIN_LOOP, *(
        str(originals[i % len(originals)]) for i in range(arguments.sample)))
    for count in arguments.counts:
      for i in range(count):  # Each is in a single class.
        number = i % len(originals)
        folder = home / f'{count}' / f'class {number % 2}'
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f'{i}.jpg').hardlink_to(originals[number])
      measured('cifar10_convert.py', count, os.path.join(ROOT, 'cifar10_convert.py'),
               str(home / f'{count}'), f'--data_dir={home}/made of {count}')


if __name__ == '__main__':
  main()
