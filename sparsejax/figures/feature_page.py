"""A page on the latents of a sparse autoencoder: one HTML file to search, sort and read, which opens offline."""

import base64
import io
import json
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from sparsejax.errors import ConfigError
from sparsejax.files import write_whole

_TEMPLATE = Path(__file__).with_name("feature_page.html")
_NEAR = 6
"""Nearest decoder rows that are shown."""
_BEFORE, _AFTER = 12, 6
"""Tokens shown before and after the one that activates a latent."""


class Table(Protocol):
    """Statistics of latents, as `evaluation.sae.features.Features`."""

    density: np.ndarray
    mean: np.ndarray
    most: np.ndarray
    histogram: np.ndarray
    rows: np.ndarray
    values: np.ndarray


class Shown(NamedTuple):
    """How the page shows examples: the kind, what all latents share, and the examples of each latent."""

    kind: str
    shared: Any
    examples: list[Any]


def show_words(features: Table, words: Sequence[str]) -> Shown:
    """Show each example as a word: row i of the examples is `words[i]`."""
    used, places = np.unique(np.maximum(features.rows, 0), return_inverse=True)
    places = places.reshape(features.rows.shape)
    each = [[[int(place), _short(value)] for place, row, value in zip(*latent, strict=True) if row >= 0]
            for latent in zip(places, features.rows, features.values, strict=True)]  # fmt: skip
    return Shown("words", [words[row] for row in used], each)


def show_tokens(
    features: Table, windows: np.ndarray, vocabulary: Sequence[str], activities: Callable[[np.ndarray], np.ndarray]
) -> Shown:
    """Show each example as a token in its text, shaded by the latent's activity.

    Args:
      features: of the latents, whose row i is token `i % length` of window `i // length`.
      windows: token ids `[windows, length]`.
      vocabulary: the text of each id.
      activities: of latents at rows `[latents, top, context]`, such as `find_activities` for some examples.
    """
    length = windows.shape[1]
    around = features.rows[..., None] + np.arange(-_BEFORE, _AFTER + 1)
    inside = (features.rows[..., None] >= 0) & (around // length == features.rows[..., None] // length) & (around >= 0)
    values = activities(np.where(inside, around, -1))
    shades = np.ceil(9 * values / np.maximum(features.most, 1e-9)[:, None, None]).astype(int).clip(0, 9)
    flat = windows.reshape(-1)
    used, ids = np.unique(flat[np.where(inside, around, 0)], return_inverse=True)
    ids = ids.reshape(around.shape)

    def line(i: int, j: int) -> list[Any]:
        """Returns the tokens around an example, a digit for the activity at each, and the place of its own."""
        shown = inside[i, j]
        tokens, digits = ids[i, j][shown].tolist(), "".join(map(str, shades[i, j][shown]))
        return [tokens, digits, int(np.sum(shown[:_BEFORE])), _short(features.values[i, j])]

    latents, top = features.rows.shape
    each = [[line(i, j) for j in range(top) if features.rows[i, j] >= 0] for i in range(latents)]
    return Shown("tokens", [vocabulary[token] for token in used], each)


def show_images(features: Table, images: np.ndarray) -> Shown:
    """Show each example as an image, bytes `[n, height, width, channels]`."""
    used, places = np.unique(np.maximum(features.rows, 0), return_inverse=True)
    places = places.reshape(features.rows.shape)
    each = [[[int(place), _short(value)] for place, row, value in zip(*latent, strict=True) if row >= 0]
            for latent in zip(places, features.rows, features.values, strict=True)]  # fmt: skip
    return Shown("images", [_as_uri(images[row]) for row in used], each)


def write_feature_page(
    path: str | Path,
    features: Table,
    kernel: Any,
    shown: Shown,
    *,
    title: str = "Features",
    about: str = "",
    effects: tuple[np.ndarray, Sequence[str]] | None = None,
) -> Path:
    """Write the page, and return its path.

    Args:
      path: of the HTML file.
      features: of the latents.
      kernel: the decoder's rows, `[latents, width]`.
      shown: examples of the latents, by `show_words`, `show_tokens` or `show_images`.
      title: of the page.
      about: a sentence below it.
      effects: how much each latent adds to the logit of each output, `[latents, outputs]`, and the outputs' names.

    Raises:
      ConfigError: the kernel has another number of rows than there are latents.
    """
    rows = np.asarray(kernel, np.float32)
    if len(rows) != len(features.density):
        raise ConfigError(f"The kernel has {len(rows)} rows, but there are {len(features.density)} latents.")
    norms = np.linalg.norm(rows, axis=1)
    unit = rows / np.maximum(norms, 1e-9)[:, None]
    near = []
    for first in range(0, len(unit), 1024):
        cosines = unit[first : first + 1024] @ unit.T
        cosines[np.arange(len(cosines)), first + np.arange(len(cosines))] = -2
        best = np.argsort(-cosines, axis=1)[:, : min(_NEAR, len(unit) - 1)]
        near += [[[int(j), round(float(cosines[i, j]), 2)] for j in row] for i, row in enumerate(best)]
    content = {
        "density": [_short(value) for value in features.density],
        "mean": [_short(value) for value in features.mean],
        "most": [_short(value) for value in features.most],
        "norm": [_short(value) for value in norms],
        "histogram": features.histogram.tolist(),
        "near": near,
        "kind": shown.kind,
        "shared": shown.shared,
        "examples": shown.examples,
    }
    if effects is not None:
        logits, names = np.asarray(effects[0]), effects[1]
        order = np.argsort(logits, axis=1)
        content["effects"] = [[[names[j] for j in row[:-9:-1]], [names[j] for j in row[:8]]] for row in order]
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).replace("</", "<\\/")
    page = _TEMPLATE.read_text()
    for mark, value in (("TITLE", escape(title)), ("ABOUT", escape(about)), ("CONTENT", text)):
        page = page.replace(f"@@{mark}@@", value)
    return write_whole(Path(path).absolute(), page.encode())


def _short(value: Any) -> float:
    """Returns a number with three digits, as few bytes as the page needs."""
    return float(f"{float(value):.3g}")


def _as_uri(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
