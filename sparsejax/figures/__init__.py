"""Figures of a run, from plain arrays, and the report that shows them.

Every figure is a pure function, arrays in and a `matplotlib.figure.Figure` out, that needs only numpy and matplotlib;
pyplot and its global state are never used. Figures come in two widths for two-column papers,
`"column"` (3.3 inches) and `"page"` (6.8 inches); `style.png` renders one to the same bytes every time.

  style.py     the house style: type, lines, colours, sizes
  curves.py    loss and accuracy against epochs
  noise.py     accuracy against the noise in the images
  filters.py   kernels of the first layer, receptive fields
  units.py     how often units win, how many are active
  classes.py   confusion matrices
  histograms.py  distributions of activations and weights
  heat.py      quantities over a grid of two hyperparameters
  table.py     a table
  report.py    one self-contained HTML page
  run.py       all of the above for a run folder

Import the modules by name, e.g. `from sparsejax.figures import filters`: this package imports none itself, so that
matplotlib is only imported to draw.
"""

import importlib.metadata
import importlib.util
import os
from pathlib import Path


def _is_usable(backend: str) -> bool:
    """Returns whether this process has a backend of matplotlib, without importing either."""
    module = backend.removeprefix("module://")
    if module != backend:
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    if backend in importlib.metadata.entry_points(group="matplotlib.backend").names:
        return True
    matplotlib = importlib.util.find_spec("matplotlib")
    where = matplotlib.submodule_search_locations if matplotlib is not None else None
    return any((Path(folder) / "backends" / f"backend_{backend.lower()}.py").is_file() for folder in where or ())


# Matplotlib cannot be imported if MPLBACKEND names a backend that this process lacks, such as that of the notebook that
# started it. No figure needs it: all are drawn by Agg.
if (_backend := os.environ.get("MPLBACKEND")) and _backend != "notebook" and not _is_usable(_backend):
    os.environ["MPLBACKEND"] = "agg"
