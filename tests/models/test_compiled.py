"""Networks compiled as users compile them: as they are op by op, and with their numbers as arguments or built in."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.configuration import as_arrays
from sparsejax.functional import example_keys
from sparsejax.models import SparseCNN, SparseMLP
from sparsejax.models.gpt import GPT

pytestmark = [pytest.mark.optimized, pytest.mark.slow]
BATCH = 3
CNN = SparseCNN(channels=(4,), conv_k=(20,), hidden=30, hidden_k=5, kernel_size=3, sigma=0.1, dropout=0.2)
MLP = SparseMLP(hidden=(40, 30), k=(8, 5))
GPT_ = GPT(vocabulary=11, context=12, blocks=1, width=16, heads=4, sigma=0.5)
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, 10, 10, 1)), jnp.float32)
TOKENS = np.random.default_rng(0).integers(0, 11, (BATCH, 8), np.int32)


@functools.cache
def drawn(model):
    return jax.jit(model.init)(jax.random.key(0), TOKENS if isinstance(model, GPT) else IMAGES)


@functools.cache
def applied(model):
    return jax.jit(model.apply, static_argnames="train")


@functools.partial(jax.jit, static_argnames="train")
def with_numbers(model, variables, x, key, train):
    return model.apply(variables, x, key=key, train=train)


def keys():
    return example_keys(jax.random.key(1), jnp.arange(BATCH))


@pytest.mark.parametrize(("model", "x"), [(CNN, IMAGES), (GPT_, TOKENS)], ids=["cnn", "gpt"])
def test_jit_changes_nothing(model, x):
    compiled = applied(model)(drawn(model), x, key=keys(), train=True)
    op_by_op = model.apply(drawn(model), x, key=keys(), train=True)
    chex.assert_trees_all_close(op_by_op, compiled, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(op_by_op.state, compiled.state, rtol=1e-6, atol=1e-6)


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
