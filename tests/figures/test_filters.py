import numpy as np
import pytest

from sparsejax.figures import style
from sparsejax.figures.filters import DIVERGING, MASKED, as_images, filter_grid
from tests.figures.pixels import clear_of_edges, pixels, share, texts


def hexed(colour):
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour[:3])


LOWEST, HIGHEST, ZERO, NO_WEIGHT = hexed(DIVERGING(0.0)), hexed(DIVERGING(1.0)), hexed(DIVERGING(0.5)), hexed(MASKED)


def half_and_half(units=8):
    kernels = np.ones((5, 5, 1, units))
    kernels[..., units // 2 :] = -1
    return kernels


@pytest.mark.parametrize("width", ["column", "page"])
def test_both_signs_take_equal_room(width):
    figure = filter_grid(half_and_half(), width=width)
    image = pixels(figure)
    low, high = share(image, LOWEST, 1), share(image, HIGHEST, 1)
    assert low > 0.05 and low == pytest.approx(high, rel=0.05)
    assert "8 units" in texts(figure) and "no weight" not in texts(figure)
    assert clear_of_edges(image)


def test_weights_are_crisp_and_in_place():
    kernels = np.zeros((3, 3, 1, 2))
    kernels[0, 2, 0, 0], kernels[2, 0, 0, 1] = 1, -1  # top right of the first, bottom left of the second
    image = pixels(filter_grid(kernels))
    reds = np.argwhere((image == pixel(HIGHEST)).all(-1))
    blues = np.argwhere((image == pixel(LOWEST)).all(-1))
    reds, blues = (found[found[:, 1] < 0.4 * image.shape[1]] for found in (reds, blues))  # without the scale
    for found in (reds, blues):  # whole squares: nothing blends into the neighbours
        height, width = found.max(0) - found.min(0) + 1
        assert height == width >= 10 and len(found) == height * width
    assert reds[:, 0].max() < blues[:, 0].min()
    assert reds[:, 1].max() < blues[:, 1].min()


def pixel(colour):
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def test_the_scale_is_shared_and_symmetric():
    kernels = half_and_half(2)
    kernels[..., 1] = -0.5  # half of the largest weight: pale, though it is the most negative
    image = pixels(filter_grid(kernels))
    grid = image[:, : image.shape[1] // 3]
    assert share(grid, LOWEST, 1) == 0
    assert share(grid, hexed(DIVERGING(0.25)), 2) > 0.05
    figure = filter_grid(0.3 * kernels)
    scale = figure.axes[1]
    assert [label.get_text() for label in scale.get_yticklabels()] == ["−0.3", "0", "0.3"]
    box, image = scale.get_window_extent(), pixels(figure)
    bar = image[::-1, round(box.x0 + box.width / 2)][round(box.y0) + 2 : round(box.y1) - 2]  # from below
    ends_and_middle = bar[[0, len(bar) // 2, -1]]
    np.testing.assert_allclose(ends_and_middle, [pixel(LOWEST), pixel(ZERO), pixel(HIGHEST)], atol=12)


def test_outliers_do_not_hide_other_weights():
    kernels = 0.1 * half_and_half(64)
    kernels[0, 0, 0, 0] = 10.0
    figure = filter_grid(kernels)
    assert "≥ 0.1" in texts(figure)
    assert share(pixels(figure), LOWEST, 1) > 0.05


def test_masked_weights_are_grey():
    mask = np.ones((5, 5, 1, 8), bool)
    mask[:, :2] = False
    figure = filter_grid(half_and_half(), mask=mask)
    image = pixels(figure)
    assert share(image, NO_WEIGHT, 1) == pytest.approx(2 / 3 * 2 * share(image, HIGHEST, 1), rel=0.1)
    assert share(pixels(filter_grid(half_and_half())), NO_WEIGHT, 1) < 0.001
    assert "no weight where grey" in texts(figure)


def test_receptive_fields_of_a_dense_layer():
    weights = np.zeros((784, 100))
    weights[:392], weights[392:] = 1, -1  # the upper half of the image excites
    figure = filter_grid(weights)
    image = pixels(figure)
    assert "first 64 of 100 units" in texts(figure)
    first = image[60:140, 20:90]  # within the first tile
    reds, blues = (np.argwhere((first == pixel(colour)).all(-1))[:, 0] for colour in (HIGHEST, LOWEST))
    assert reds.size and blues.size and reds.max() < blues.min()


def test_colour_filters_map_channels_to_colour():
    kernels = np.zeros((5, 5, 3, 3))
    for channel in range(3):
        kernels[:, :, channel, channel] = 1
    image = pixels(filter_grid(kernels))
    for colour in ("#ff8080", "#80ff80", "#8080ff"):
        assert share(image, colour, 2) > 0.02
    mask = np.ones(kernels.shape, bool)
    mask[0] = False
    assert share(pixels(filter_grid(kernels, mask=mask)), NO_WEIGHT, 1) > 0.005


def test_other_channels_are_stacked():
    image = pixels(filter_grid(np.random.default_rng(0).normal(size=(3, 3, 5, 4))))
    assert clear_of_edges(image) and share(image, "#ffffff") < 0.98


def test_images_from_inputs():
    assert as_images(np.zeros((784, 7))).shape == (28, 28, 1, 7)
    assert as_images(np.zeros((3072, 7))).shape == (32, 32, 3, 7)
    field = as_images(np.arange(27.0).reshape(27, 1))
    np.testing.assert_array_equal(field[0, 1, :, 0], [3, 4, 5])  # channels last, as images are flattened
    with pytest.raises(ValueError, match="785 inputs"):
        as_images(np.zeros((785, 7)))


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="mask has shape"):
        filter_grid(np.ones((5, 5, 1, 8)), mask=np.ones((5, 5, 1, 7)))
    with pytest.raises(ValueError, match="expected .height"):
        filter_grid(np.ones((5, 5, 1)))


@pytest.mark.parametrize("kernels", [np.zeros((5, 5, 1, 1)), np.ones((1, 1, 1, 200))])
def test_odd_ones_are_drawn(kernels):
    assert pixels(filter_grid(kernels)).shape[1] == round(style.DPI * 6.8)
