"""Networks made of the Flax layers learn, in Linen and in NNX."""

import flax.linen as flax_linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx as flax_nnx

from sparsejax import linen, nnx


class LinenNet(flax_linen.Module):
    @flax_linen.compact
    def __call__(self, x, *, train):
        x = linen.SparseConv(6, kernel_size=(3, 3), density=0.5)(x)
        x = linen.KWinners2d(k=30, boost_strength=1.5)(x, train=train)
        x = linen.SparseDense(20, density=0.3)(x.reshape(x.shape[0], -1))
        return flax_linen.Dense(3)(linen.KWinners(k=5, boost_strength=1.5)(x, train=train))


class NNXNet(flax_nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.SparseConv(1, 6, (3, 3), density=0.5, rngs=rngs)
        self.images = nnx.KWinners2d(6, k=30, boost_strength=1.5)
        self.dense = nnx.SparseDense(216, 20, density=0.3, rngs=rngs)
        self.units = nnx.KWinners(20, k=5, boost_strength=1.5)
        self.out = flax_nnx.Linear(20, 3, rngs=rngs)

    def __call__(self, x, *, train):
        x = self.images(self.conv(x), train=train)
        return self.out(self.units(self.dense(x.reshape(x.shape[0], -1)), train=train))


def task():
    x = jax.random.normal(jax.random.key(0), (24, 8, 8, 1))
    return x, jnp.arange(24) % 3


def trained(step, params, rest, steps=20):
    """Runs SGD; `step(params, rest)` gives the loss and the rest of the state. Returns all losses."""
    tx = optax.sgd(0.5)

    @jax.jit
    def one(params, moments, rest):
        (loss, rest), grads = jax.value_and_grad(step, has_aux=True)(params, rest)
        updates, moments = tx.update(grads, moments)
        return optax.apply_updates(params, updates), moments, rest, loss

    moments, losses = tx.init(params), []
    for _ in range(steps):
        params, moments, rest, loss = one(params, moments, rest)
        losses.append(float(loss))
    return losses, params, rest


def cross_entropy(logits, labels):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


@pytest.mark.slow
def test_twenty_steps_with_linen_lower_the_loss_and_leave_the_masks():
    x, labels = task()
    net = LinenNet()
    variables = net.init(jax.random.key(0), x, train=True)

    def step(params, rest):
        logits, updated = net.apply({"params": params, **rest}, x, train=True, mutable=["boost"])
        return cross_entropy(logits, labels), {**rest, **updated}

    rest = {name: leaves for name, leaves in variables.items() if name != "params"}
    losses, _, after = trained(step, variables["params"], rest)
    assert losses[-1] < 0.8 * losses[0]
    jax.tree.map(np.testing.assert_array_equal, after["masks"], rest["masks"])
    assert float(after["boost"]["KWinners_0"]["state"].samples) == 20 * 24


def test_twenty_steps_with_nnx_in_plain_jit_lower_the_loss_and_leave_the_masks():
    x, labels = task()
    graph, params, rest = flax_nnx.split(NNXNet(flax_nnx.Rngs(0)), flax_nnx.Param, ...)

    def step(params, rest):
        net = flax_nnx.merge(graph, params, rest, copy=True)  # variables of this trace, which may be set in it
        loss = cross_entropy(net(x, train=True), labels)
        return loss, flax_nnx.state(net, flax_nnx.Not(flax_nnx.Param))

    losses, params, after = trained(step, params, rest)
    assert losses[-1] < 0.8 * losses[0]
    net = flax_nnx.merge(graph, params, after)
    before = flax_nnx.merge(graph, params, rest)
    np.testing.assert_array_equal(net.dense.mask.get_value(), before.dense.mask.get_value())
    assert float(net.units.boost.samples) == 20 * 24
    np.testing.assert_array_equal(net(x, train=False).shape, (24, 3))
