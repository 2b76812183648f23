import numpy as np
import pytest

from sparsejax.figures import style
from sparsejax.figures.units import DutyCycles, active_fractions, duty_cycle_histograms
from tests.figures.pixels import clear_of_edges, pixels, share, texts


@pytest.mark.parametrize(
    ("layers", "networks", "width"), [(1, 1, "column"), (2, 3, "page"), (4, 1, "page"), (4, 3, "column")]
)
def test_duty_cycles(rng, layers, networks, width):
    drawn = {
        f"conv{i}": DutyCycles(rng.beta(2, 12, (networks, 64)), np.full(networks, 0.125), 1764.7, 1961.7)
        for i in range(layers)
    }
    figure = duty_cycle_histograms(drawn, width=width)
    assert len(figure.axes) == layers
    for axes in figure.axes:
        assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(100)  # all units, pooled
    words = texts(figure)
    assert "k / n = 0.125" in words and "entropy 1,765 of 1,962 bits (90 %)" in words
    image = pixels(figure)
    assert share(image, style.SKY) > 0.01 and share(image, style.VERMILION) > 0.0005 and clear_of_edges(image)


def test_idle_units_are_counted_at_zero():
    duty = np.r_[np.zeros(60), np.full(40, 0.3)]
    axes = duty_cycle_histograms({"hidden": DutyCycles(duty[None], [0.1])}).axes[0]
    assert axes.patches[0].get_x() == pytest.approx(0, abs=1e-9) and axes.patches[0].get_height() == pytest.approx(60)
    assert axes.patches[-1].get_x() + axes.patches[-1].get_width() >= 0.3


def test_all_idle_units_are_drawn():
    assert share(pixels(duty_cycle_histograms({"hidden": DutyCycles(np.zeros((1, 10)), [0.0])})), style.SKY) > 0.01


def test_several_targets():
    assert "k / n = 0.1 to 0.4" in texts(duty_cycle_histograms({"a": DutyCycles(np.full((2, 9), 0.2), [0.1, 0.4])}))


def test_active_fractions():
    figure = active_fractions({"conv1": [0.1, 0.2, 0.3], "hidden": [1.0]}, targets={"conv1": 0.25, "hidden": None})
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.2, 1.0])
    assert {"20.0 %", "100.0 %", "conv1", "hidden"} <= set(texts(figure).splitlines())
    image = pixels(figure)
    assert share(image, style.SKY) > 0.01 and share(image, style.VERMILION) > 0.0005 and clear_of_edges(image)


def test_nothing_to_draw_is_reported():
    with pytest.raises(ValueError, match="layers is empty"):
        duty_cycle_histograms({})
    with pytest.raises(ValueError, match="fractions is empty"):
        active_fractions({})
    with pytest.raises(ValueError, match="hidden has no units"):
        duty_cycle_histograms({"hidden": DutyCycles(np.zeros((1, 0)), [0.1])})
