"""crop_and_flip against numpy, and its frequencies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.functional import crop_and_flip, example_keys
from tests.functional.drawn import uniform

change = jax.jit(crop_and_flip, static_argnames="pad")


def keys(count, seed=0):
    return example_keys(jax.random.key(seed), jnp.arange(count))


def test_each_image_is_one_of_its_moved_and_mirrored_ones():
    images = np.random.default_rng(0).integers(1, 255, (40, 5, 6, 2), np.uint8)
    changed = np.asarray(change(keys(40), images, pad=2))
    assert changed.dtype == np.uint8
    found = set()
    for image, after in zip(images, changed, strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
        places = [(r, c, m) for r in range(5) for c in range(5) for m in (False, True)
                  if np.array_equal(after, padded[r : r + 5, c : c + 6][:, :: -1 if m else 1])]  # fmt: skip
        assert len(places) == 1
        found |= set(places)
    assert {place[2] for place in found} == {False, True} and len({place[:2] for place in found}) > 12


def test_an_image_is_changed_by_its_own_key_independently_of_the_batch():
    images = uniform(6, 8, 8, 3)
    whole = change(keys(6), images)
    np.testing.assert_array_equal(change(keys(6)[2:4], images[2:4]), whole[2:4])
    assert not np.array_equal(change(keys(6, seed=1), images), whole)


def test_without_shifts_half_are_mirrored():
    images = np.arange(4.0, dtype=np.float32).reshape(1, 1, 4, 1).repeat(2000, 0)
    mirrored = (np.asarray(change(keys(2000), images, pad=0))[:, 0, 0, 0] == 3).mean()
    assert abs(mirrored - 0.5) < 0.04


@pytest.mark.wrong_types
def test_inputs_that_are_not_images_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        crop_and_flip(keys(2), jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="pad is -1"):
        crop_and_flip(keys(2), jnp.zeros((2, 3, 3, 1)), pad=-1)
