"""Rewiring moves as many connections of every unit as asked, the weakest, to where it should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.functional import rewire, sparse_mask

SHAPES = [((40, 6), 0.3), ((3, 3, 4, 5), 0.5)]


def network(shape, density, seed=0):
    mask = sparse_mask(jax.random.key(seed), shape, density)
    weights = jnp.where(mask, jax.random.normal(jax.random.key(seed + 1), shape), 0.0)
    return weights, mask, jax.random.normal(jax.random.key(seed + 2), shape)


def per_unit(array):
    return np.asarray(array).reshape(-1, array.shape[-1]).T


@pytest.mark.parametrize(("shape", "density"), SHAPES)
@pytest.mark.parametrize("by_gradient", [False, True])
@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_every_unit_moves_its_weakest_and_keeps_its_count(shape, density, by_gradient, fraction):
    weights, mask, gradient = network(shape, density)
    after, moved = jax.jit(rewire)(jax.random.key(9), weights, mask, gradient if by_gradient else None,
                                   jnp.float32(fraction))  # fmt: skip
    for w, old, g, w_after, new in zip(*map(per_unit, (weights, mask, gradient, after, moved)), strict=True):
        count = old.sum()
        dropped = round(fraction * count)
        order = np.argsort(np.where(old, np.abs(w), np.inf))
        kept = old.copy()
        kept[order[:dropped]] = False
        assert new.sum() == count
        assert new[kept].all()
        np.testing.assert_array_equal(w_after, np.where(kept, w, 0))
        grown = new & ~kept
        assert grown.sum() == dropped
        if by_gradient and dropped:
            assert np.abs(g[grown]).min() >= np.abs(g[~kept & ~grown]).max(initial=0)


def test_units_with_other_counts_keep_theirs():
    weights, _, gradient = network((30, 4), 0.5)
    mask = jnp.arange(30)[:, None] < jnp.array([[1, 5, 30, 0]])
    for grads in (None, gradient):
        _, moved = rewire(jax.random.key(0), weights, mask, grads, 0.5)
        np.testing.assert_array_equal(np.asarray(moved).sum(0), [1, 5, 30, 0])


def test_growth_at_random_is_even_and_of_its_key():
    weights, mask, _ = network((50, 400), 0.2)
    first, second = (rewire(jax.random.key(seed), weights, mask, None, 1.0)[1] for seed in (1, 2))
    assert (np.asarray(first) != np.asarray(second)).any()
    used = np.asarray(first).sum(1)  # 50 binomial counts of mean 80 and standard deviation 8
    assert np.abs(used - 80).max() < 5 * 8
    np.testing.assert_array_equal(first, rewire(jax.random.key(1), weights, mask, None, 1.0)[1])


def test_what_does_not_fit_is_refused():
    weights, mask, gradient = network((40, 6), 0.3)
    with pytest.raises(ValueError, match="expected one shape for all"):
        rewire(jax.random.key(0), weights, mask[:5], None, 0.1)
    with pytest.raises(ValueError, match="expected one shape for all"):
        rewire(jax.random.key(0), weights, mask, gradient[:5], 0.1)
    with pytest.raises(ValueError, match="fraction is 1.5"):
        rewire(jax.random.key(0), weights, mask, None, 1.5)
