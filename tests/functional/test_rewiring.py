"""Rewiring moves the requested number of every unit's smallest connections to the right positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.functional import connections_per_unit, rewire
from tests.functional.drawn import normal

SHAPES = [((40, 6), 0.3), ((3, 3, 4, 5), 0.5)]
moving = jax.jit(rewire)


def network(shape, density):
    """Returns weights, a mask with as many connections for every unit, and a gradient."""
    order = np.argsort(np.random.default_rng(0).random((shape[-1], np.prod(shape[:-1]))), axis=-1)
    mask = (order < connections_per_unit(shape, density)).T.reshape(shape)
    weights = np.where(mask, normal(*shape, seed=1), np.float32(0))
    return jnp.asarray(weights), jnp.asarray(mask), normal(*shape, seed=2)


def per_unit(array):
    return np.asarray(array).reshape(-1, array.shape[-1]).T


@pytest.mark.parametrize(("shape", "density"), SHAPES)
@pytest.mark.parametrize("by_gradient", [False, True])
@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_every_unit_moves_its_weakest_and_keeps_its_count(shape, density, by_gradient, fraction):
    weights, mask, gradient = network(shape, density)
    after, moved = moving(jax.random.key(9), weights, mask, gradient if by_gradient else None, fraction)
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
    weights, _, gradient = network((40, 6), 0.3)
    mask = jnp.asarray(np.arange(40)[:, None] < np.array([[1, 5, 40, 0, 7, 2]]))
    for grads in (None, gradient):
        _, moved = moving(jax.random.key(0), weights, mask, grads, 0.5)
        np.testing.assert_array_equal(np.asarray(moved).sum(0), [1, 5, 40, 0, 7, 2])


def test_the_call_without_jit_moves_the_same():
    weights, mask, gradient = network((40, 6), 0.3)
    expected = moving(jax.random.key(0), weights, mask, gradient, 0.25)
    jax.tree.map(np.testing.assert_array_equal, rewire(jax.random.key(0), weights, mask, gradient, 0.25), expected)


def test_growth_at_random_is_even_and_of_its_key():
    weights, mask, _ = network((50, 400), 0.2)
    first, second = (moving(jax.random.key(seed), weights, mask, None, 1.0)[1] for seed in (1, 2))
    assert (np.asarray(first) != np.asarray(second)).any()
    used = np.asarray(first).sum(1)  # 50 binomial counts of mean 80 and standard deviation 8
    assert np.abs(used - 80).max() < 5 * 8
    np.testing.assert_array_equal(first, moving(jax.random.key(1), weights, mask, None, 1.0)[1])


@pytest.mark.wrong_types
def test_what_does_not_fit_is_refused():
    weights, mask, gradient = network((40, 6), 0.3)
    with pytest.raises(ValueError, match="expected one shape for all"):
        rewire(jax.random.key(0), weights, mask[:5], None, 0.1)
    with pytest.raises(ValueError, match="expected one shape for all"):
        rewire(jax.random.key(0), weights, mask, gradient[:5], 0.1)
    with pytest.raises(ValueError, match="fraction is 1.5"):
        rewire(jax.random.key(0), weights, mask, None, 1.5)
