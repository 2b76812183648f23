"""Figures rendered to arrays."""

import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from sparsejax.figures import style


def pixels(figure: Figure) -> np.ndarray:
    """Renders a figure: `[height, width, 3]`, 0 to 255."""
    return np.asarray(Image.open(io.BytesIO(style.png(figure))).convert("RGB")).astype(int)


def share(image: np.ndarray, colour: str, tolerance: int = 6) -> float:
    """Returns the fraction of pixels of a colour such as `#0072B2`."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return float((np.abs(image - wanted).max(axis=-1) <= tolerance).mean())


def clear_of_edges(image: np.ndarray) -> bool:
    """Returns whether nothing is cut off at the border of the figure."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    return bool((border == 255).all())


def texts(figure: Figure) -> str:
    """Returns all words in a figure, titles and labels and legends."""
    found = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return "\n".join(text.get_text() for text in found if text.get_visible())
