"""The report in a browser: complete, without errors, on a phone, in light and dark mode."""

import re
import shutil
import subprocess

import matplotlib.image
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]


def shown(page, *options):
    """Opens a page that may load nothing else, and returns its contents and the browser's output."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--hide-scrollbars",
               "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=2000", "--window-size=400,900",
               *options, page.as_uri()]  # fmt: skip
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120)


def test_a_browser_reports_no_errors(uninterrupted):
    page = uninterrupted / "report.html"
    seen = shown(page, "--dump-dom")
    assert "<h1" in seen.stdout and "How to reproduce" in seen.stdout
    pictures = re.findall(r'<img[^>]*src="([^"]{0,30})', seen.stdout)
    assert len(pictures) >= 3 and all(source.startswith("data:image/png;base64,") for source in pictures)
    assert "CONSOLE" not in seen.stderr


def test_it_is_light_by_day_and_dark_by_night(uninterrupted, tmp_path):
    for options, light in (((), True), (("--force-dark-mode",), False)):
        shown(uninterrupted / "report.html", f"--screenshot={tmp_path / 'seen.png'}", *options)
        pixels = matplotlib.image.imread(tmp_path / "seen.png")[..., :3]
        assert pixels.shape[1] == 400
        margin = pixels[:, -4:].reshape(-1, 3)  # what is too wide for a phone would reach into it
        assert margin.std(axis=0).max() < 0.01 and (margin.mean() > 0.9) == light and (margin.mean() < 0.2) != light
