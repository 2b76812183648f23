"""Compiled networks equal those op by op, with hyperparameters as arguments or as constants."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.configuration import as_arrays
from sparsejax.functional import example_keys
from sparsejax.models import GPT, DenseNetwork, NoisyNetwork, SparseCNN, SparseMLP
from tests.models.made_up import made_up

pytestmark = pytest.mark.optimized
BATCH = 3
CNN = SparseCNN(channels=(4,), conv_k=(20,), hidden=30, hidden_k=5, kernel_size=3, sigma=0.1, dropout=0.2)
MLP = SparseMLP(hidden=(40, 30), k=(8, 5))
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, 10, 10, 1)), jnp.float32)
TOKENS = np.random.default_rng(0).integers(0, 11, (BATCH, 4), np.int32)
# Small, for each operation is compiled by itself.
OP_BY_OP = {
    "cnn": (SparseCNN(channels=(2,), conv_k=(9,), hidden=6, hidden_k=2, kernel_size=3, sigma=0.1, dropout=0.2), IMAGES),
    "mlp": (SparseMLP(hidden=(6,), k=(2,), batch_norm=True), IMAGES),
    "dense": (DenseNetwork(hidden=(6,), bias="threshold"), IMAGES),
    "noisy": (NoisyNetwork(hidden=6, sigma=0.1, competition="sampled_k", sampled_log_k=1.0), IMAGES),
    "gpt": (GPT(vocabulary=11, context=4, blocks=1, width=8, heads=2, sigma=0.5), TOKENS),
}


@functools.cache
def drawn(model):
    return jax.jit(model.init)(jax.random.key(0), IMAGES)


@functools.cache
def applied(model):
    return jax.jit(model.apply, static_argnames="train")


@functools.partial(jax.jit, static_argnames="train")
def with_numbers(model, variables, x, key, train):
    return model.apply(variables, x, key=key, train=train)


@functools.cache
def keys():
    return jax.jit(example_keys)(jax.random.key(1), np.arange(BATCH))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in ("cnn", "gpt") else name for name in OP_BY_OP]
)
def test_jit_changes_nothing(name):
    model, x = OP_BY_OP[name]
    variables = jax.tree.map(jnp.asarray, made_up(model, x.shape[1:], dtype=x.dtype))
    compiled = applied(model)(variables, x, key=keys(), train=True)
    op_by_op = model.apply(variables, x, key=keys(), train=True)
    chex.assert_trees_all_close(op_by_op, compiled, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(op_by_op.state, compiled.state, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_a_density_that_is_an_argument_draws_the_same_bits():
    model = SparseMLP(hidden=(40,), k=(8,), density=0.3)
    given = jax.jit(lambda model, key: model.init(key, IMAGES))(as_arrays(model), jax.random.key(0))
    chex.assert_trees_all_equal(given, drawn(model))
    assert np.count_nonzero(given.state["hidden1"]["mask"]) == 30 * 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "more"), [(CNN, {"conv_k": (11,), "hidden_k": 12, "dropout": 0.5}), (MLP, {"k": (11, 9)})],
    ids=["cnn", "mlp"],
)  # fmt: skip
def test_numbers_may_be_arguments_or_built_in(model, more):
    other = dataclasses.replace(model, boost_strength=4.0, k_inference_factor=1.2, **more)
    variables = drawn(model)
    for train in (True, False):
        given, own = (with_numbers(as_arrays(m), variables, IMAGES, keys(), train) for m in (other, model))
        chex.assert_trees_all_equal(given, applied(other)(variables, IMAGES, key=keys(), train=train))
        assert np.any(given.prediction != own.prediction)
