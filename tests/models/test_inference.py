"""Frozen networks answer as those they are made of, whichever way a layer's products are taken."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import ConfigError
from sparsejax.functional import BoostState
from sparsejax.functional import sparse_code as compact
from sparsejax.models import NoisyNetwork, SparseCNN, SparseMLP, SpeechCNN, Variables, freeze, predict
from sparsejax.models import inference as frozen

CNN = SparseCNN(channels=(4, 6), conv_k=(20, 6), hidden=30, hidden_k=5, kernel_size=3, conv_density=(0.6, 0.5))
MLP = SparseMLP(hidden=(40, 30), k=(8, 5))
answer = jax.jit(predict)
OPTIONS = {
    "as published": CNN,
    "fully connected": MLP,
    "batch norm": dataclasses.replace(CNN, batch_norm=True),
    "ties are kept": dataclasses.replace(CNN, ties="all"),
    "local": dataclasses.replace(CNN, local=True, conv_k=(2, 2)),
    "all units may win": dataclasses.replace(CNN, k_inference_factor=100.0),
    "ReLU": SparseCNN(channels=(4,), conv_k=(None,), hidden=30, hidden_k=None, kernel_size=3, density=1.0),
}


def trained(model, shape, seed=0):
    """Returns a network as if it had been trained: duty cycles, statistics and weights are anything."""
    variables = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, *shape)))
    rng = np.random.default_rng(seed)

    def history(layer):
        layer = dict(layer)
        if "boost" in layer:
            layer["boost"] = BoostState(jnp.asarray(rng.random(layer["boost"].duty_cycle.shape, np.float32)), 99.0)
        if "norm" in layer:
            layer["norm"] = {name: jnp.asarray(rng.uniform(0.5, 2, leaf.shape), jnp.float32)
                             for name, leaf in layer["norm"].items()}  # fmt: skip
        return layer

    return Variables(variables.params, {name: history(layer) for name, layer in variables.state.items()})


@pytest.mark.slow
@pytest.mark.parametrize("rows", [True, False], ids=["rows", "dense"])
@pytest.mark.parametrize("model", OPTIONS.values(), ids=OPTIONS)
def test_answers_are_those_of_the_network(model, rows, monkeypatch):
    monkeypatch.setattr(frozen, "_WORTH", 0)
    for module in (compact, frozen):
        monkeypatch.setattr(module, "gathering_pays", lambda *_: rows)
    variables, x = trained(model, (14, 14, 1)), jax.random.normal(jax.random.key(1), (3, 14, 14, 1))
    expected = jax.jit(model.apply)(variables, x).prediction
    found = jax.jit(lambda network, x: predict(network, x))(freeze(model, variables, (14, 14, 1)), x)  # compiled anew
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_hyperparameters_in_force_are_kept():
    variables, x = trained(MLP, (50,)), jax.random.normal(jax.random.key(1), (2, 50))
    hyper = {"boost_strength": jnp.float32(0.2), "k_inference_factor": jnp.float32(2.0)}
    network = freeze(MLP, variables, (50,), hyper=hyper)
    assert network.k == (16, 10)
    expected = jax.jit(MLP.apply)(variables, x, hyper=hyper).prediction
    np.testing.assert_allclose(answer(network, x), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(answer(network, x) - jax.jit(MLP.apply)(variables, x).prediction).max() > 1e-3
    with pytest.raises(ValueError, match="no traced field"):
        freeze(MLP, variables, (50,), hyper={"boost": 1.0})


def test_spoken_words_become_spectrograms():
    model = SpeechCNN(channels=(2, 3), conv_k=(20, 6), hidden=30, hidden_k=5, classes=4, batch_norm=True)
    variables, x = trained(model, (16_000,)), jax.random.normal(jax.random.key(1), (2, 16_000))
    network = freeze(model, variables, (16_000,))
    np.testing.assert_allclose(answer(network, x), jax.jit(model.apply)(variables, x).prediction, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_examples_may_be_batched_apart_and_networks_mapped():
    x = jax.random.normal(jax.random.key(1), (4, 50))
    networks = [freeze(MLP, trained(MLP, (50,), i), (50,)) for i in range(2)]
    one_by_one = jnp.stack([answer(networks[0], example[None])[0] for example in x])
    np.testing.assert_allclose(one_by_one, answer(networks[0], x), rtol=1e-4, atol=1e-5)
    both = jax.vmap(predict, (0, None))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks), x)
    np.testing.assert_allclose(both[1], answer(networks[1], x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_network_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="too small"):
        freeze(CNN, trained(CNN, (14, 14, 1)), (4, 4, 1))
    with pytest.raises(ConfigError, match="model is a NoisyNetwork; expected a network of k-winners"):
        freeze(NoisyNetwork(), CNN.init(jax.random.key(0), jnp.zeros((1, 14, 14, 1))), (14, 14, 1))
