"""Tests of sparsejax.data.digits."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from sparsejax.data import Dataset, read_digits
from sparsejax.data.digits import frame


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """Returns the digits."""
    return read_digits()


def test_shapes_and_split(digits: Dataset):
    assert (digits.name, digits.source, digits.classes, digits.notice) == ("digits", "digits", 10, "")
    assert digits.train.images.shape == (1437, 28, 28, 1) and digits.test.images.shape == (360, 28, 28, 1)
    both = np.bincount(digits.train.labels) + np.bincount(digits.test.labels)
    assert both.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # UCI's counts
    assert np.abs(np.bincount(digits.test.labels) - both / 5).max() < 1
    assert digits.train.labels[:5].tolist() == [1, 3, 5, 6, 7] and digits.test.labels[:5].tolist() == [
        0,
        2,
        4,
        7,
        1,
    ]


def test_framed_as_mnist(digits: Dataset):
    images = np.concatenate([digits.train.images, digits.test.images])
    assert images.dtype == np.uint8 and images.max() == 255
    border = np.ones((28, 28), bool)
    border[4:24, 4:24] = False
    assert not images[:, border].any()
    assert images[:, 4:24, 4:24].any((0, 3)).mean() > 0.9  # the box is filled


def test_pixels_are_scikit_learns(digits: Dataset):
    small, labels = load_digits(return_X_y=True)
    in_test = np.zeros(len(small), bool)
    in_test[np.argsort(labels, kind="stable")[::5]] = True
    for split, rows in ((digits.train, ~in_test), (digits.test, in_test)):
        np.testing.assert_array_equal(split.labels, labels[rows])
        # 4 × 4 blocks of the 8 × 8 fall on 10 × 10 blocks of the 20 × 20: their means agree.
        ours = split.images[:, 4:24, 4:24, 0].reshape(-1, 2, 10, 2, 10).mean((2, 4)) / 255
        theirs = small[rows].reshape(-1, 2, 4, 2, 4).mean((2, 4)) / 16
        assert np.abs(ours - theirs).max() < 0.05


@pytest.mark.parametrize(("value", "pixel"), [(0, 0), (1, 16), (8, 128), (16, 255)])
def test_values_run_from_0_to_255(value: int, pixel: int):
    assert np.unique(frame(np.full((1, 8, 8), float(value)))[0, 4:24, 4:24]).tolist() == [pixel]


def test_moments_are_of_the_training_pixels(digits: Dataset):
    assert digits.mean == pytest.approx(((digits.train.images / 255).mean(),))
    assert digits.std == pytest.approx(((digits.train.images / 255).std(),))
    assert 0.1 < digits.mean[0] < 0.2 and 0.25 < digits.std[0] < 0.35  # near MNIST's 0.13 and 0.31
