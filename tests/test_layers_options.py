"""Options of the Flax layers: types, biases, modes, plain dictionaries, and kernels that do not fit."""

import flax.nnx as flax_nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import functional, linen, nnx

KINDS = {
    "dense": (linen.SparseDense(6, density=0.3), lambda **o: nnx.SparseDense(10, 6, **o), (4, 10), (10, 6), (6, 10)),
    "conv": (
        linen.SparseConv(6, kernel_size=(3, 2), density=0.3),
        lambda **o: nnx.SparseConv(2, 6, (3, 2), **o),
        (4, 7, 6, 2),
        (3, 2, 2, 6),
        (6, 2, 3, 2),
    ),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def in_nnx(kind, **options):
    return KINDS[kind][1](**({"density": 0.3, "rngs": flax_nnx.Rngs(0)} | options))


@kinds
def test_a_layer_computes_in_its_own_type(kind):
    layer, _, shape, *_ = KINDS[kind]
    x = jax.random.normal(jax.random.key(0), shape)
    variables = layer.init(jax.random.key(1), x)
    assert variables["params"]["kernel"].dtype == jnp.float32
    half = layer.clone(dtype=jnp.bfloat16).apply(variables, x)
    assert half.dtype == jnp.bfloat16 and layer.apply(variables, x).dtype == jnp.float32
    np.testing.assert_allclose(half.astype(jnp.float32), layer.apply(variables, x), atol=0.05)
    pixels = jnp.ones(shape, jnp.uint8)
    np.testing.assert_array_equal(
        layer.clone(dtype=jnp.float32).apply(variables, pixels), layer.apply(variables, jnp.ones(shape))
    )
    half = in_nnx(kind, dtype=jnp.bfloat16)
    assert half.kernel.get_value().dtype == jnp.float32 and half(x).dtype == jnp.bfloat16
    np.testing.assert_allclose(half(x).astype(jnp.float32), in_nnx(kind)(x), atol=0.05)


@kinds
def test_a_layer_without_biases(kind):
    layer, _, shape, *_ = KINDS[kind]
    x = jax.random.normal(jax.random.key(0), shape)
    variables = layer.init(jax.random.key(1), x)
    bare = layer.clone(use_bias=False)
    assert set(bare.init(jax.random.key(1), x)["params"]) == {"kernel"}
    bias = variables["params"]["bias"]
    without = {**variables, "params": {"kernel": variables["params"]["kernel"]}}
    np.testing.assert_allclose(bare.apply(without, x) + jnp.broadcast_to(bias, layer.apply(variables, x).shape),
                               layer.apply(variables, x), atol=1e-6)  # fmt: skip
    bare = in_nnx(kind, use_bias=False)
    assert bare.bias is None
    np.testing.assert_array_equal(bare(jnp.zeros(shape)), jnp.zeros_like(bare(x)))


@kinds
def test_a_kernel_arranged_as_in_pytorch_is_explained(kind):
    layer, _, shape, kernel, turned = KINDS[kind]
    x = jnp.ones(shape)
    variables = layer.init(jax.random.key(1), x)
    params = {**variables["params"], "kernel": jnp.ones(turned)}
    hint = "kernel.T" if kind == "dense" else r"jnp.transpose\(kernel, \(2, 3, 1, 0\)\)"
    with pytest.raises(ValueError, match=rf"The kernel has shape .*It seems to be in PyTorch's layout; pass {hint}"):
        layer.apply({**variables, "params": params}, x)
    given = in_nnx(kind)
    given.kernel.set_value(jnp.ones(turned))
    with pytest.raises(ValueError, match=f"It seems to be in PyTorch's layout; pass {hint}"):
        given(x)
    given.kernel.set_value(jnp.ones((7, *kernel[1:])))
    with pytest.raises(ValueError, match=r"The kernel has shape \(7, .*expected \[") as error:
        given(x)
    assert "transposed" not in str(error.value)


def test_both_libraries_keep_k_by_default():
    x = jax.random.normal(jax.random.key(0), (5, 12))
    layer = linen.KWinners(k=4)
    variables = layer.init(jax.random.key(1), x, train=False)
    for y in (layer.apply(variables, x, train=False), nnx.KWinners(12, k=np.int64(4))(x, train=False)):
        np.testing.assert_array_equal(y, functional.top_k(x, 4))
    more = nnx.KWinners(12, k=4, k_inference_factor=1.5)
    np.testing.assert_array_equal(more(x, train=False), functional.top_k(x, 6))
    tied = jnp.ones((2, 12))
    assert jnp.count_nonzero(nnx.TopK(3)(tied)) == jnp.count_nonzero(linen.TopK(k=3).apply({}, tied)) == 6


class Network(flax_nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.SparseDense(10, 12, density=0.5, rngs=rngs)
        self.winners = nnx.KWinners(12, k=4, boost_strength=1.5, k_inference_factor=1.5)
        self.output = nnx.SparseDense(12, 3, density=1.0, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.output(self.winners(self.hidden(x)))


def active(network, x):
    return set(np.sum(np.asarray(network.winners(network.hidden(x))) != 0, axis=-1).tolist())


def test_modes_control_counting_and_k():
    network, x = Network(flax_nnx.Rngs(0)), jax.random.normal(jax.random.key(0), (5, 10))
    assert active(network, x) == {4} and network.winners.samples.get_value() == 5
    network.eval()
    assert active(network, x) == {6} and network.winners.samples.get_value() == 5
    network.train()
    assert active(network, x) == {4} and network.winners.samples.get_value() == 10
    quiet = flax_nnx.view(network, use_running_average=True)
    assert active(quiet, x) == {6} and active(network, x) == {4}
    assert "KWinners" in flax_nnx.view_info(network)
    network.eval()
    before = network.winners.samples.get_value()
    assert np.sum(np.asarray(network.winners(x @ jnp.ones((10, 12)), train=True)) != 0) == 5 * 4  # the call decides
    assert network.winners.samples.get_value() == before + 5


def test_state_is_restored_from_plain_dictionaries():
    trained, fresh = Network(flax_nnx.Rngs(0)), Network(flax_nnx.Rngs(1))
    x = jax.random.normal(jax.random.key(0), (5, 10))
    trained(x)
    saved = jax.tree.map(np.asarray, flax_nnx.to_pure_dict(flax_nnx.state(trained)))
    leaves = jax.tree.leaves(saved, is_leaf=lambda node: not isinstance(node, dict))
    assert all(isinstance(leaf, np.ndarray) for leaf in leaves)
    assert set(saved["winners"]) == {"duty_cycle", "samples"}
    state = flax_nnx.state(fresh)
    flax_nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, saved))
    flax_nnx.update(fresh, state)
    for network in (trained, fresh):
        network.eval()
    np.testing.assert_array_equal(fresh(x), trained(x))
    np.testing.assert_array_equal(fresh.winners.boost.duty_cycle, trained.winners.boost.duty_cycle)
    assert fresh.winners.boost.samples == 5
