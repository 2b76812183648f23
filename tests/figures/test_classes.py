"""Confusion matrices, histograms, and tables of kernels show what they are given."""

import numpy as np
import pytest

from sparsejax.figures import style
from sparsejax.figures.classes import confusion_map
from sparsejax.figures.filters import tile_panels
from sparsejax.figures.histograms import Histogram, histograms
from tests.figures.pixels import clear_of_edges, pixels, share, texts


def test_a_confusion_matrix_is_written_in_per_cent_of_its_rows():
    confusion = np.diag([8, 30, 0]) + np.array([[0, 2, 0], [0, 0, 0], [0, 0, 0]])
    figure = confusion_map(confusion)
    words = texts(figure).split("\n")
    assert {"80", "20", "100"} <= set(words) and "taken for" in words
    assert clear_of_edges(pixels(figure))
    assert "3" not in texts(confusion_map(np.eye(35))).split("\n"), "many classes have no numbers in their cells"
    with pytest.raises(ValueError, match=r"confusion has shape \(2, 3\)"):
        confusion_map(np.ones((2, 3)))


@pytest.mark.parametrize("width", ["column", "page"])
def test_histograms_are_shares_of_their_counts(width):
    panels = {
        f"λ = {i}": Histogram([i, 6, 4], [0.1, 1, 10, 100], "size", f"{i} silent") for i in range(3)
    } | {"dead": Histogram([0, 0, 0], [0.1, 1, 10, 100], "size")}  # fmt: skip
    figure = histograms(panels, columns=3, log_x=True, log_y=True, shared=True, width=width)
    assert len(figure.axes) == 4
    heights = [patch.get_data().values for patch in figure.axes[0].patches]
    np.testing.assert_allclose(heights[0], [0, 60, 40])
    assert "λ = 2: 2 silent" in texts(figure)
    image = pixels(figure)
    assert share(image, style.SKY) > 0.02 and clear_of_edges(image)
    with pytest.raises(ValueError, match="2 counts and 2 edges"):
        histograms({"a": Histogram([1, 2], [0, 1])}, columns=1)
    with pytest.raises(ValueError, match="panels is empty"):
        histograms({}, columns=1)


def test_panels_of_a_row_share_their_scale(rng):
    small = rng.normal(size=(5, 5, 1, 6))
    figure = tile_panels(
        [{"λ = 0": 10 * small, "λ = 0.002": small}, {"rgb": rng.normal(size=(5, 5, 3, 4)), "b": small}]
    )
    assert len(figure.axes) == 4 and "λ = 0.002" in texts(figure)
    strong, weak = (axes.images[0].get_array() for axes in figure.axes[:2])
    assert strong.shape == weak.shape
    colour = [np.ptp(np.asarray(tile), axis=-1).mean() for tile in (strong, weak)]
    assert colour[0] > 2 * colour[1], "weights a tenth as large are paler"
