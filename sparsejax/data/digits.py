"""The handwritten digits that scikit-learn ships, framed like MNIST: real data that needs no download."""

import numpy as np

from sparsejax.data.dataset import Dataset, Split, pixel_moments
from sparsejax.data.registry import Entry

CLASSES = 10
_BOX, _SIDE = 20, 28  # MNIST's digits fill a box of 20 × 20 in the middle of 28 × 28
_EVERY = 5  # one image in five is a test image


def read_digits(*, notice: str = "") -> Dataset:
    """Returns scikit-learn's 1,797 digits as 1,437 training and 360 test images, uint8 [n, 28, 28, 1].

    The split is fixed: every fifth image, counted through the images sorted by label, so that each class is
    divided alike.

    References:
      Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998,
      https://doi.org/10.24432/C50P49 (the part that is its test set).
    """
    from sklearn.datasets import load_digits

    small, labels = map(np.asarray, load_digits(return_X_y=True))  # [n, 64] of 0 to 16
    images = frame(small.reshape(-1, 8, 8))
    in_test = np.zeros(len(labels), bool)
    in_test[np.argsort(labels, kind="stable")[::_EVERY]] = True
    labels = labels.astype(np.int32)
    train, test = Split(images[~in_test], labels[~in_test]), Split(images[in_test], labels[in_test])
    mean, std = pixel_moments(train.images)
    return Dataset("digits", "digits", train, test, CLASSES, mean, std, notice)


def frame(small: np.ndarray) -> np.ndarray:
    """Enlarges images [n, h, w] of 0 to 16 to MNIST's frame, uint8 [n, 28, 28, 1], bicubically."""
    from PIL import Image

    pixels = np.rint(small * (255 / 16)).astype(np.uint8)
    border = (_SIDE - _BOX) // 2
    images = np.zeros((len(pixels), _SIDE, _SIDE, 1), np.uint8)
    for image, tile in zip(images, pixels, strict=True):
        large = Image.fromarray(tile).resize((_BOX, _BOX), Image.Resampling.BICUBIC)
        image[border:-border, border:-border, 0] = np.asarray(large)
    return images


Entry(
    name="digits", title="the digits that scikit-learn ships", kind="images", read=read_digits, location="digits"
).add(3)
