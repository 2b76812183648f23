import subprocess
import sys

import matplotlib
import numpy as np

from sparsejax.figures import style
from sparsejax.figures.noise import noise_curve
from tests.command import ROOT

LEVELS = np.arange(11) / 20


def test_the_callers_settings_have_no_effect_and_are_unchanged():
    usual = style.png(noise_curve(LEVELS, 1 - LEVELS))
    with matplotlib.rc_context(
        {"font.size": 20, "axes.facecolor": "black", "savefig.bbox": "tight", "axes.ymargin": 0.4}
    ):
        before = dict(matplotlib.rcParams)
        assert style.png(noise_curve(LEVELS, 1 - LEVELS)) == usual
        assert dict(matplotlib.rcParams) == before


def test_the_same_bytes_every_time():
    figure = noise_curve(LEVELS, 1 - LEVELS)
    first = style.png(figure)
    assert style.png(figure) == first
    assert b"Date" not in first and b"Software" not in first


def test_no_backend_is_touched():
    program = """
import sys
import sparsejax.figures.run
assert "matplotlib" not in sys.modules, "imported before it is needed"
from sparsejax.figures import curves, filters, noise, report, style, units
style.png(noise.noise_curve([0, 0.5], [1, 0.5]))
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=300)
