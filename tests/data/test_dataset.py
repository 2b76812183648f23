"""Tests of sparsejax.data.dataset."""

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from sparsejax.data import Dataset, Split, pixel_moments
from sparsejax.errors import ConfigError


def some_split(count: int = 6) -> Split:
    """Returns a split whose pixels and labels all differ."""
    images = np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2, 1)
    return Split(images, np.arange(count, dtype=np.int32))


def some_dataset(train: Split, test: Split) -> Dataset:
    """Returns a data set of two splits."""
    return Dataset("some", "files", train, test, 10, (0.5,), (0.25,))


def test_fingerprint_changes_with_every_byte_and_shape():
    base = some_dataset(some_split(), some_split(4))
    assert len(base.fingerprint) == 64 and int(base.fingerprint, 16)
    assert base.fingerprint == some_dataset(some_split(), some_split(4)).fingerprint
    assert base.fingerprint == dataclasses.replace(base, name="other", source="tfds").fingerprint

    pixel, label = some_split(), some_split()
    pixel.images[-1, -1, -1, -1] ^= 1
    label.labels[0] = 1
    wide = Split(some_split().images.reshape(6, 1, 4, 1), some_split().labels)
    prints = {some_dataset(split, some_split(4)).fingerprint for split in (some_split(), pixel, label, wide)}
    prints.add(some_dataset(some_split(4), some_split()).fingerprint)
    assert len(prints) == 5


def test_limited_keeps_the_first():
    short = some_dataset(some_split(), some_split(4)).limit(train=2)
    assert short.train.labels.tolist() == [0, 1] and short.train.images.shape == (2, 2, 2, 1)
    assert len(short.test.labels) == 4 and short.mean == (0.5,)
    assert short.fingerprint != some_dataset(some_split(), some_split(4)).fingerprint


@pytest.mark.parametrize(("word", "count"), [("train", 7), ("train", 0), ("test", 5), ("test", -1)])
def test_limited_refuses_more_than_there_is(word: str, count: int):
    with pytest.raises(ConfigError, match=f"{count} {word} examples"):
        some_dataset(some_split(), some_split(4)).limit(**{word: count})


def test_pixel_moments_per_channel():
    images = np.zeros((2, 1, 2, 2), np.uint8)
    images[0, ..., 1] = 255  # channel 0 is black, half of channel 1 is white
    assert pixel_moments(images) == ((0.0, 0.5), (0.0, 0.5))
    noise = np.random.default_rng(0).integers(0, 256, (5000, 3, 4, 3), dtype=np.uint8)  # more than one chunk
    mean, std = pixel_moments(noise)
    np.testing.assert_allclose(mean, (noise / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (noise / 255).std((0, 1, 2)), rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": np.zeros((6, 2, 2, 1))}, "float64"),
        ({"images": np.zeros((6, 2, 2), np.uint8)}, r"\[6, 2, 2\]"),
        ({"images": np.zeros((5, 2, 2, 1), np.uint8)}, "5 images and 6 labels"),
        ({"labels": np.arange(6)}, "int64"),
        ({"labels": np.full(6, 10, np.int32)}, "from 10 to 10"),
        ({"labels": np.full(6, -1, np.int32)}, "from -1"),
    ],
)
def test_dataset_refuses_arrays_of_another_kind(change: dict[str, np.ndarray], said: str):
    with pytest.raises(ValueError, match=said):
        some_dataset(some_split(), some_split()._replace(**change))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mean": (0.5, 0.5)}, r"mean of 'some' is \(0.5, 0.5\); expected one finite number per channel, of 1"),
        ({"mean": (float("nan"),)}, "mean of 'some' is"),
        ({"std": (-0.1,)}, "std of 'some' is"),
    ],
)
def test_moments_that_do_not_fit(change: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        dataclasses.replace(some_dataset(some_split(), some_split(4)), **change)


def test_import_brings_no_heavy_library():
    heavy = ["jax", "tensorflow", "tensorflow_datasets", "sklearn", "pooch", "PIL", "requests"]
    code = f"import sys, sparsejax.data; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
