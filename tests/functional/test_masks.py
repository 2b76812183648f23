"""Sparse connectivity: an exact number of connections for every unit, drawn evenly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.functional import connections_per_unit, sparse_mask
from sparsejax.functional.masks import fan_in_of
from tests import golden

SHAPES = [((1024, 700), 0.3), ((7, 4), 0.5), ((10, 3), 1.0), ((5, 5, 4, 6), 0.45), ((3, 3, 1, 8), 0.12)]


@pytest.mark.parametrize(("shape", "density"), SHAPES)
def test_every_unit_has_exactly_its_number_of_connections(fresh_key, shape, density):
    mask = sparse_mask(fresh_key(), shape, density)
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


def test_every_input_is_used_equally_often(fresh_key):
    used = np.asarray(sparse_mask(fresh_key(), (64, 2000), 0.25)).sum(axis=1)
    # 64 binomial counts of mean 500 and standard deviation 19.4; the original's lie within 457 and 546.
    assert np.abs(used - 500).max() < 5 * 19.4
    assert 10 < used.std() < 30


def test_units_draw_apart_from_each_other(fresh_key):
    mask = np.asarray(sparse_mask(fresh_key(), (20, 50), 0.3))
    assert len({column.tobytes() for column in mask.T}) > 45


def test_the_mask_is_that_of_its_key():
    same = [sparse_mask(jax.random.key(3), (20, 50), 0.3) for _ in range(2)]
    np.testing.assert_array_equal(*same)
    assert np.any(same[0] != sparse_mask(jax.random.key(4), (20, 50), 0.3))


def test_jit_and_vmap_draw_the_same_masks():
    draw = lambda key: sparse_mask(key, (20, 5), 0.3)  # noqa: E731
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.jit(jax.vmap(draw))(keys)
    for key, mask in zip(keys, together, strict=True):
        np.testing.assert_array_equal(draw(key), mask)


@pytest.mark.parametrize("momentum", [False, True])
def test_training_masked_weights_equals_zeroing_them_after_each_step(momentum):
    """The peer zeroes after the step; ours masks in the forward pass. What the weights do is the same.

    Weights that the peer keeps at zero stay at zero here, because no gradient reaches them.
    """
    name = "kwinners_19_rezero_sgd_momentum_wd" if momentum else "kwinners_19_rezero_sgd_plain"
    case, setting = golden.load(name), golden.params(name)
    mask = ~case["zero_mask"].astype(bool)
    weights, bias = jnp.where(mask, case["w0"], 0.0), jnp.asarray(case["b0"])

    @jax.jit
    def gradients(weights, bias, x, y):
        def loss(weights, bias):
            return jnp.mean((x @ jnp.where(mask, weights, 0.0).T + bias[None] - y) ** 2)

        return jax.grad(loss, argnums=(0, 1))(weights, bias)

    velocity = [jnp.zeros_like(weights), jnp.zeros_like(bias)]
    for t in range(4):
        grads = gradients(weights, bias, case["X"][t], case["Y"][t])
        np.testing.assert_array_equal(np.asarray(grads[0])[~mask], 0)
        np.testing.assert_allclose(np.asarray(grads[0])[mask], case["grad"][t][mask], atol=1e-6)
        decayed = [g + setting["weight_decay"] * p for g, p in zip(grads, (weights, bias), strict=True)]
        velocity = [setting["momentum"] * v + d for v, d in zip(velocity, decayed, strict=True)]
        weights, bias = weights - setting["lr"] * velocity[0], bias - setting["lr"] * velocity[1]
        np.testing.assert_allclose(weights, case["w"][t], atol=1e-6)
        np.testing.assert_allclose(bias, case["b"][t], atol=1e-6)


def test_a_traced_density_gives_the_same_mask():
    for shape, density in [*SHAPES[:2], ((20, 5), 1.0), ((30, 7), 0.2)]:
        mask = jax.jit(lambda d, shape=shape: sparse_mask(jax.random.key(5), shape, d))(jnp.float32(density))
        np.testing.assert_array_equal(mask, sparse_mask(jax.random.key(5), shape, density))
    fewest = jax.jit(lambda d: sparse_mask(jax.random.key(5), (20, 5), d))(jnp.float32(1e-3))
    np.testing.assert_array_equal(np.asarray(fewest).sum(0), 1)


def test_a_traced_density_is_rounded_as_a_number_is():
    percent = np.arange(1, 100)
    for fan_in in (10, 150, 784, 1024, 1600):
        traced = np.asarray(jnp.round(jnp.asarray(percent / 100, jnp.float32) * fan_in))
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
