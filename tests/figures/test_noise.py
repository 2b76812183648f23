import numpy as np
import pytest

from sparsejax.figures import style
from sparsejax.figures.noise import noise_curve
from tests.figures.pixels import clear_of_edges, pixels, share, texts

LEVELS = np.arange(11) / 20
ACCURACY = 0.98 - 0.8 * LEVELS**2


def test_one_network():
    figure = noise_curve(LEVELS, ACCURACY, scores=102845)
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.lines[0].get_xdata(), 100 * LEVELS)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), 100 * ACCURACY)
    assert "noise score 102,845" in texts(figure)
    image = pixels(figure)
    assert share(image, style.BLUE) > 0.002 and clear_of_edges(image)


def test_several_networks_have_a_band():
    accuracy = np.stack([ACCURACY, ACCURACY - 0.02, ACCURACY - 0.05])
    figure = noise_curve(LEVELS, accuracy, scores=[100, 200, 300])
    (axes,) = figure.axes
    (band,) = axes.collections
    low, high = band.get_paths()[0].get_extents().get_points()[:, 1]
    assert (low, high) == pytest.approx((100 * accuracy.min(), 100 * accuracy.max()))
    np.testing.assert_allclose(axes.lines[-1].get_ydata(), 100 * accuracy[1])
    assert "noise score 200 ± 82" in texts(figure)


def test_groups_and_references():
    figure = noise_curve(
        LEVELS, np.stack([ACCURACY, ACCURACY - 0.1]), scores=[10, 20], groups=["ReLU", "k-winners"],
        references={"paper": ([0.0, 0.5], [0.985, 0.7])}, width="page",
    )  # fmt: skip
    assert {"ReLU: 10", "k-winners: 20", "paper"} <= set(texts(figure).splitlines())
    np.testing.assert_allclose(figure.axes[0].lines[-1].get_ydata(), [98.5, 70])
    image = pixels(figure)
    assert share(image, style.BLUE) > 0.001 and share(image, style.VERMILION) > 0.001 and clear_of_edges(image)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(11,\) and accuracy \(2, 3\)"):
        noise_curve(LEVELS, np.ones((2, 3)))
    with pytest.raises(ValueError, match="one for each of 1 networks"):
        noise_curve(LEVELS, ACCURACY, scores=[1, 2])
