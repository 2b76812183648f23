"""The atoms of a dictionary as images, and the quality of their Gabor fits."""

import math

import numpy as np
from matplotlib.figure import Figure

from sparsejax.figures import style
from sparsejax.figures.filters import mosaic


@style.styled
def basis_functions(atoms: np.ndarray, r2: np.ndarray, reference: np.ndarray, *, good: float = 0.8) -> Figure:
    """Draws atoms, the best fitted ones first, next to the variance explained by their Gabor fits.

    Each atom is scaled by its largest weight around mid-grey.

    Args:
      atoms: `[atoms, side, side]`.
      r2: of the fits, `[atoms]`.
      reference: r2 of random functions of that size, `[functions]`.
      good: the threshold to mark.
    """
    order = np.argsort(-r2)
    widest = math.ceil(math.sqrt(1.4 * len(atoms)))
    columns = min(range(widest, widest + 4), key=lambda columns: -len(atoms) % columns)  # the fullest last row
    scaled = 0.5 + 0.5 * atoms[order] / np.abs(atoms[order]).max((1, 2), keepdims=True).clip(1e-12)
    figure, (left, right) = style.panels(2, width="page", height=3.0, columns=2)
    layout = left.get_gridspec()
    if layout is not None:
        layout.set_width_ratios([2, 1])
    left.imshow(mosaic(scaled[..., None], columns), interpolation="nearest")
    left.set_xticks([])
    left.set_yticks([])
    left.spines[["left", "bottom"]].set_visible(False)
    left.set_title(f"{len(atoms)} basis functions")
    for values, color, name in ((r2, style.BLUE, "learnt"), (reference, style.GREY, "noise")):
        right.plot(np.linspace(0, 100, len(values)), np.sort(values)[::-1], color=color, label=name)
    right.axhline(good, color=style.INK, linewidth=0.6, linestyle=(0, (2, 2)))
    right.set_ylim(0, 1)
    right.set_xlabel("functions (%), best first")
    right.set_ylabel("variance that a Gabor function explains")
    right.set_title(f"{100 * np.mean(r2 > good):.0f} % above {good:g}")
    right.legend()
    style.grid(right)
    return figure
