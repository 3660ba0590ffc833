"""A headless Chromium to look at pages with."""

import contextlib
import shutil

import pytest


@contextlib.contextmanager
def opened(profile, width=1280, height=1000, flags=()):
  """Yields a selenium driver, which keeps the logs 'browser' and 'performance'.

  Skips the test if there is no browser. `profile` is the path of an empty directory,
  `flags` are Chromium's, without the dashes.
  """
  program, driver = shutil.which('chromium'), shutil.which('chromedriver')
  if not (program and driver):
    pytest.skip('there is no browser: apt-get install chromium chromium-driver')
  webdriver = pytest.importorskip('selenium.webdriver')
  options = webdriver.ChromeOptions()
  options.binary_location = program
  options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
  for flag in ('headless=new', 'no-sandbox', 'disable-gpu', 'disable-dev-shm-usage', 'no-first-run',
               'disable-background-networking', 'disable-component-update', 'disable-sync',
               'disable-quic', f'window-size={width},{height}', f'user-data-dir={profile}',
               *flags):
    options.add_argument('--' + flag)
  service = webdriver.chrome.service.Service(driver)
  with webdriver.Chrome(options=options, service=service) as browser:
    yield browser
