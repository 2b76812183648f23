"""Filters of the first layer: kernels, or receptive fields of a dense layer."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from sparsejax.figures import style

DIVERGING = LinearSegmentedColormap.from_list(
    "blue_orange", ["#053B6B", style.BLUE, "#86BBDD", "#F7F7F7", "#F0A873", style.VERMILION, "#6B2A00"], N=511
)
"""Blue below zero, nearly white at it, vermilion above: distinguishable for red-green colour-blind readers."""

_MARGIN, _BAR, _TOP = 0.08, 0.68, 0.28
"""Inches around the tiles, to their right for the scale, and above them for the title."""

_WEIGHT = 0.11
"""Largest size of one weight in inches."""

MASKED = (0.83, 0.83, 0.83)
"""Colour of masked weights."""


def as_images(weights: ArrayLike) -> np.ndarray:
    """Shapes the weights of a dense layer `[inputs, units]` as images `[height, width, channels, units]`.

    Images are square, of one channel if the inputs are a square number, of three if three times one.

    Raises:
      ValueError: the inputs are not such an image.
    """
    weights = np.asarray(weights)
    inputs, units = weights.shape
    for channels in (1, 3):
        side = math.isqrt(inputs // channels)
        if side * side * channels == inputs:
            return weights.reshape(side, side, channels, units)
    raise ValueError(f"weights has {inputs} inputs, which are not a square image of one or three channels.")


@style.styled
def filter_grid(
    kernels: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    at_most: int = 64,
    width: style.Width = "page",
    title: str | None = None,
) -> Figure:
    """Draws the kernels of a convolution, or the receptive fields of a dense layer, on one common scale.

    Full colour is the largest weight, or the 99.5 % quantile if there are outliers.

    With one input channel, colour is the weight: blue below zero, vermilion above. With three, they are
    red, green and blue, and mid-grey is zero. Otherwise the channels of a unit are drawn below each other.
    Masked weights are light grey, with three channels where all of them are masked.

    Args:
      kernels: `[height, width, inputs, units]`; for a dense layer `[pixels, units]`, see `as_images`.
      mask: of the same shape, false where a weight does not exist.
      at_most: draw only this many units.
      width: of the figure.
      title: of the figure; None for the number of units.

    Raises:
      ValueError: the shapes do not fit.
    """
    kernels = np.asarray(kernels, float)
    exists = np.ones(kernels.shape, bool) if mask is None else np.asarray(mask, bool)
    if exists.shape != kernels.shape:
        raise ValueError(f"mask has shape {exists.shape}, but kernels {kernels.shape}; expected the same.")
    if kernels.ndim == 2:
        kernels, exists = as_images(kernels), as_images(exists)
    if kernels.ndim != 4 or not kernels.size:
        raise ValueError(
            f"kernels has shape {kernels.shape}; expected [height, width, inputs, units] or [pixels, units]."
        )
    units = kernels.shape[-1]
    shown = min(units, at_most)
    exists = exists & np.isfinite(kernels)  # weights of a diverged network are not drawn
    kernels, exists = np.where(exists, kernels, 0.0)[..., :shown], exists[..., :shown]
    scale, clipped = _scale(np.abs(kernels[exists]))
    tiles = _tiles(np.clip(kernels / scale, -1, 1), exists)
    tile_height, tile_width = tiles.shape[1:3]
    gap = _gap(tile_height, tile_width)
    columns = _columns(shown, tile_width + gap, width)
    note = _title(shown, units) if title is None else title
    if not exists.all():
        note += "; no weight where grey"
    return _draw_mosaic(mosaic(tiles, columns, gap), scale, clipped, width, note, rgb=kernels.shape[2] == 3)


@style.styled
def tile_panels(rows: Sequence[Mapping[str, ArrayLike]], *, width: style.Width = "page") -> Figure:
    """Draws kernels, or feature maps, as a table of panels; the panels of a row share their scale.

    Colours as in `filter_grid`: of one channel blue below zero, vermilion above; three are red, green and blue. Any
    other number of channels is drawn below each other.

    Args:
      rows: title -> `[height, width, channels, units]` for each row, with equally many panels.
      width: of the figure.
    """
    panels = [(title, np.asarray(kernels, float)) for row in rows for title, kernels in row.items()]
    scales = [_scale(np.abs(np.concatenate([np.ravel(kernels) for kernels in row.values()])))[0] for row in rows]
    columns = len(rows[0])
    mosaics = []
    for i, (_, kernels) in enumerate(panels):
        tiles = _tiles(np.clip(kernels / scales[i // columns], -1, 1), np.ones(kernels.shape, bool))
        count, high, wide, _ = tiles.shape
        fitting = [n for n in range(1, count + 1) if count % n == 0]  # so that every row is full
        across = min(fitting, key=lambda n: abs(n * wide - 1.6 * count // n * high))
        mosaics.append(mosaic(tiles, across, _gap(high, wide)))
    each = style.WIDTHS[width] / columns
    heights = [each * image.shape[0] / image.shape[1] for image in mosaics]
    by_row = [min(max(heights[i : i + columns]), 3.4) + 0.2 for i in range(0, len(heights), columns)]
    figure, axes = style.panels(len(panels), width=width, height=by_row, columns=columns)
    for panel, (title, _), image in zip(axes, panels, mosaics, strict=True):
        panel.imshow(image, interpolation="nearest")
        panel.set_axis_off()
        panel.set_anchor("NW")
        panel.set_title(title)
    return figure


def _scale(sizes: np.ndarray) -> tuple[float, bool]:
    """Returns the weight at full colour, and whether a few outliers exceed it."""
    if not sizes.size or not sizes.max():
        return 1.0, False
    most, usual = float(sizes.max()), float(np.quantile(sizes, 0.995))
    return (usual, True) if 0 < usual < 0.7 * most else (most, False)


def _gap(height: int, width: int) -> int:
    """Returns the gap between two tiles, in weights."""
    return max(1, round(min(height, width) / 12))


def _room(width: style.Width) -> float:
    """Returns the width in inches that is left for the tiles next to their scale."""
    return style.WIDTHS[width] - 2 * _MARGIN - _BAR


def _columns(count: int, pitch: int, width: style.Width) -> int:
    """Returns the number of tiles per row, `pitch` weights apart, that fills the width with few gaps."""
    most = min(count, {"column": 8, "page": 16}[width])
    room = _room(width) * style.DPI

    def loss(columns: int) -> float:
        dots = min(int(room / (columns * pitch)), int(_WEIGHT * style.DPI))
        empty = -count % columns / (count + -count % columns)
        return 1 - columns * pitch * dots / room + 2 * empty

    return min(range(most, most // 2, -1), key=loss)


def _title(shown: int, units: int) -> str:
    return f"first {shown} of {units} units" if shown < units else f"{units} unit{'s' if units > 1 else ''}"


def _tiles(kernels: np.ndarray, exists: np.ndarray) -> np.ndarray:
    """Colours kernels with weights in [-1, 1], `[h, w, inputs, units]` -> `[units, height, width, 3]`."""
    if kernels.shape[2] == 3:
        colours = 0.5 + 0.5 * kernels
        colours = np.where(exists.any(axis=2, keepdims=True), colours, np.reshape(MASKED, (1, 1, 3, 1)))
        return colours.transpose(3, 0, 1, 2)
    height, width, inputs, units = kernels.shape
    stacked = kernels.transpose(3, 2, 0, 1).reshape(units, inputs * height, width)
    present = exists.transpose(3, 2, 0, 1).reshape(stacked.shape)
    return np.where(present[..., None], DIVERGING(0.5 + 0.5 * stacked)[..., :3], MASKED)


def mosaic(tiles: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """Arranges tiles `[units, height, width, 3 or 1]`, clipped to [0, 1], in rows with gaps -> `[rows, columns, 3]`."""
    units, height, width, _ = tiles.shape
    rows = -(-units // columns)
    image = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3))
    for i, tile in enumerate(tiles):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        image[top : top + height, left : left + width] = np.clip(tile, 0, 1)
    return image


def _draw_mosaic(
    image: np.ndarray, scale: float, clipped: bool, width: style.Width, title: str, *, rgb: bool
) -> Figure:
    """Draws the mosaic with its scale; each weight covers the same number of pixels."""
    rows, columns = image.shape[:2]
    dots = max(1, int(min(_room(width) / columns, 6.0 / rows, _WEIGHT) * style.DPI))
    across, down = columns * dots / style.DPI, rows * dots / style.DPI
    paper = style.WIDTHS[width], max(down, 0.6) + _TOP + _MARGIN
    figure = Figure(figsize=paper, dpi=style.DPI)
    style.FigureCanvasAgg(figure)

    def place(left: float, wide: float, high: float) -> tuple[float, float, float, float]:
        """Returns a box of the given size in inches, with its top just below the title."""
        return left / paper[0], (paper[1] - _TOP - high) / paper[1], wide / paper[0], high / paper[1]

    axes = figure.add_axes(place(_MARGIN, across, down))
    axes.imshow(np.kron(image, np.ones((dots, dots, 1))), interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    axes.set_title(title)
    bar = figure.add_axes(place(_MARGIN + across + 0.12, 0.09, min(max(down, 0.6), 1.6)))
    colours = LinearSegmentedColormap.from_list("grey", ["black", "white"]) if rgb else DIVERGING
    less, more = ("≤ ", "≥ ") if clipped else ("", "")
    scalebar = figure.colorbar(ScalarMappable(Normalize(-scale, scale), colours), cax=bar)
    scalebar.set_ticks([-scale, 0, scale], labels=[f"{less}−{scale:.2g}", "0", f"{more}{scale:.2g}"])
    scalebar.outline.set_linewidth(0.4)
    bar.set_title("R, G, B weight" if rgb else "weight", fontsize=7)
    return figure
