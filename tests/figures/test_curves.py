import numpy as np
import pytest

from sparsejax.figures import style
from sparsejax.figures.curves import Curve, curves_of, training_curves
from tests.figures.pixels import clear_of_edges, pixels, share, texts


def falling(networks):
    rng = np.random.default_rng(1)
    train, test = np.linspace(0.1, 6, 60), np.arange(1, 7.0)

    def values(epochs):
        return np.exp(-epochs / 2)[:, None] * np.exp(rng.normal(0, 0.1, (len(epochs), networks)))

    return {
        "loss": Curve(train, values(train)),
        "accuracy": Curve(train, 1 - values(train) / 2),
        "test_loss": Curve(test, values(test)),
        "test_accuracy": Curve(test, 1 - values(test) / 2),
        "grad_norm": Curve(train, values(train)),
    }


def test_curves_are_collected_by_name():
    lines = [
        {"step": 10, "epoch": 0.5, "time": 1.0, "loss": [2.0, 3.0], "accuracy": [0.1, None]},
        {"step": 20, "epoch": 1.0, "time": 2.0, "loss": [1.0, 1.5], "accuracy": [0.2, 0.3]},
        {"step": 20, "epoch": 1, "time": 3.0, "test_accuracy": 0.25},
    ]
    curves = curves_of(lines)
    assert set(curves) == {"loss", "accuracy", "test_accuracy"}
    np.testing.assert_array_equal(curves["loss"].epochs, [0.5, 1.0])
    np.testing.assert_array_equal(curves["loss"].values, [[2.0, 3.0], [1.0, 1.5]])
    np.testing.assert_array_equal(curves["accuracy"].values, [[0.1, np.nan], [0.2, 0.3]])
    np.testing.assert_array_equal(curves["test_accuracy"].values, [[0.25]])


@pytest.mark.parametrize(("networks", "width"), [(1, "page"), (3, "column"), (12, "page")])
def test_training_is_drawn(networks, width):
    figure = training_curves(falling(networks), width=width)
    loss, accuracy = figure.axes
    assert figure.get_figwidth() == style.WIDTHS[width]
    assert loss.get_yscale() == "log" and accuracy.get_yscale() == "linear"
    image = pixels(figure)
    assert share(image, style.BLUE) > 0.001 and share(image, style.GREY) > 0.001
    assert clear_of_edges(image)
    assert ("median and range" in texts(figure)) == (networks > 1)
    # the median, plus a thin line per network where there are few; once for training and once for test
    assert len(loss.lines) == 2 * (1 + (networks if 1 < networks <= 10 else 0))


def test_lines_are_the_numbers():
    curves = falling(1)
    loss, accuracy = training_curves(curves).axes
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), curves["loss"].values[:, 0])
    np.testing.assert_array_equal(accuracy.lines[1].get_ydata(), 100 * curves["test_accuracy"].values[:, 0])


def test_groups_have_colours_and_names():
    figure = training_curves(falling(4), groups=["k = 10", "k = 10", "k = 20", "k = 20"])
    image = pixels(figure)
    assert share(image, style.BLUE) > 0.001 and share(image, style.VERMILION) > 0.001
    assert "k = 10" in texts(figure) and "k = 20" in texts(figure)
    assert clear_of_edges(image)


def test_too_many_groups_are_drawn_as_one():
    figure = training_curves(falling(9), groups=[f"k = {k}" for k in range(9)])
    assert "median and range of 9 networks" in texts(figure)


def test_missing_numbers_leave_gaps():
    curves = {"loss": Curve(np.arange(1.0, 4), np.array([[1.0, np.nan], [np.nan, np.nan], [0.5, 0.4]]))}
    (axes,) = training_curves(curves).axes
    median = axes.lines[-1]
    np.testing.assert_allclose(median.get_xdata(), [1, 3])
    np.testing.assert_allclose(median.get_ydata(), [1, 0.45])


def test_a_single_point_is_seen():
    assert share(pixels(training_curves({"test_accuracy": Curve([1.0], [[0.9]])})), style.BLUE) > 0


def test_nothing_to_draw_is_reported():
    with pytest.raises(ValueError, match="grad_norm.*expected loss"):
        training_curves({"grad_norm": Curve([1.0], [[1.0]])})
    with pytest.raises(ValueError, match=r"loss has epochs of shape \(2,\)"):
        training_curves({"loss": Curve([1.0, 2.0], [[1.0]])})
    with pytest.raises(ValueError, match="one per network"):
        training_curves(falling(3), groups=["a", "b"])
