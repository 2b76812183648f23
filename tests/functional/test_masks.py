"""Sparse connectivity: an exact number of connections for every unit, drawn evenly."""

import jax
import numpy as np
import pytest

from sparsejax.functional import connections_per_unit, sparse_mask
from sparsejax.functional.masks import fan_in_of
from tests import golden

SHAPES = [((300, 70), 0.3), ((7, 4), 0.5), ((10, 3), 1.0), ((5, 5, 4, 6), 0.45), ((3, 3, 1, 8), 0.12)]


draw = jax.jit(sparse_mask, static_argnums=(1, 2))


@pytest.mark.parametrize(("shape", "density"), SHAPES)
def test_every_unit_has_exactly_its_number_of_connections(shape, density):
    mask = draw(jax.random.key(0), shape, density)
    assert mask.shape == shape and mask.dtype == bool
    fan_in = int(np.prod(shape[:-1]))
    counts = np.count_nonzero(np.asarray(mask).reshape(fan_in, -1), axis=0)
    np.testing.assert_array_equal(counts, np.full(shape[-1], round(density * fan_in)))
    assert connections_per_unit(shape, density) == round(density * fan_in)


def test_counts_equal_those_of_the_original_layers():
    case = golden.load("kwinners_18_sparse_masks")
    for inputs, _, sparsity, fewest, most, *_ in case["linear"]:
        assert connections_per_unit((int(inputs), 2), 1 - sparsity) == fewest == most
    for inputs, outputs, kernel, sparsity, fewest, most in case["conv"]:
        shape = (int(kernel), int(kernel), int(inputs), int(outputs))
        assert connections_per_unit(shape, 1 - sparsity) == fewest == most


def test_every_input_is_used_equally_often():
    used = np.asarray(draw(jax.random.key(1), (64, 2000), 0.25)).sum(axis=1)
    # 64 binomial counts of mean 500 and standard deviation 19.4; the original's lie within 457 and 546.
    assert np.abs(used - 500).max() < 5 * 19.4
    assert 10 < used.std() < 30


def test_the_mask_is_that_of_its_key_and_units_draw_apart():
    mask = np.asarray(draw(jax.random.key(3), (20, 50), 0.3))
    np.testing.assert_array_equal(mask, draw(jax.random.key(3), (20, 50), 0.3))
    assert np.any(mask != draw(jax.random.key(4), (20, 50), 0.3))
    assert len({column.tobytes() for column in mask.T}) > 45


def test_jit_and_vmap_draw_the_same_masks():
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.jit(jax.vmap(lambda key: sparse_mask(key, (20, 50), 0.3)))(keys)
    for key, mask in zip(keys, together, strict=True):
        np.testing.assert_array_equal(draw(key, (20, 50), 0.3), mask)
    np.testing.assert_array_equal(sparse_mask(keys[0], (20, 50), 0.3), together[0])


def test_a_traced_density_gives_the_same_mask():
    traced, key = jax.jit(sparse_mask, static_argnums=1), jax.random.key(5)
    for shape, density in [*SHAPES[:2], ((20, 50), 0.3), ((20, 50), 1.0)]:
        np.testing.assert_array_equal(traced(key, shape, density), draw(key, shape, density))
    np.testing.assert_array_equal(np.sum(traced(key, (20, 50), 1e-3), axis=0), 1)


def test_a_traced_density_is_rounded_as_a_number_is():
    percent = np.arange(1, 100)
    for fan_in in (10, 150, 784, 1024, 1600):
        traced = np.round((percent / 100).astype(np.float32) * np.float32(fan_in))
        written = [connections_per_unit((fan_in, 1), float(p) / 100) if p * fan_in >= 100 else 0 for p in percent]
        differing = [p for p, a, b in zip(percent, traced, written, strict=True) if b and a != b]
        assert all(p * fan_in % 100 == 50 for p in differing), "only halves may go the other way"


@pytest.mark.parametrize("density", [0.0, -0.1, 1.1, float("nan")])
def test_a_density_outside_its_range_is_refused(density):
    with pytest.raises(ValueError, match=f"density is {density}"):
        sparse_mask(jax.random.key(0), (10, 5), density)


def test_a_unit_without_inputs_is_refused():
    with pytest.raises(ValueError, match=r"density 0.01 leaves a unit none of its 10 inputs; expected at least 0.1"):
        sparse_mask(jax.random.key(0), (10, 5), 0.01)
    with pytest.raises(ValueError, match=r"Weights of shape \(5,\) have no inputs"):
        fan_in_of((5,))
