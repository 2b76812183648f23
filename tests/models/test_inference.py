"""Frozen networks have the outputs of the original ones, for all implementations of a layer's products."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from sparsejax.configuration import as_arrays
from sparsejax.errors import ConfigError
from sparsejax.functional import sparse_code as compact
from sparsejax.models import NoisyNetwork, SparseCNN, SparseMLP, SpeechCNN, freeze, predict
from sparsejax.models import inference as frozen
from tests.models.made_up import made_up

MORE = {"k_inference_factor": 1.5}
CNN = SparseCNN(channels=(4, 6), conv_k=(20, 6), hidden=30, hidden_k=5, kernel_size=3, conv_density=(0.6, 0.5), **MORE)
ONE = SparseCNN(channels=(4,), conv_k=(20,), hidden=30, hidden_k=5, kernel_size=3, **MORE)
RELU = SparseCNN(channels=(4,), conv_k=(None,), hidden=30, hidden_k=None, kernel_size=3, density=None)
MLP = SparseMLP(hidden=(40, 30), k=(8, 5), density=None, **MORE)
answer = jax.jit(predict)
BY_ROWS, DENSE = True, False
# Where ties are kept, or ReLU passes on any number of units, no rows are gathered.
WAYS = {
    "as published": (CNN, [BY_ROWS, DENSE]),
    "fully connected": (MLP, [BY_ROWS, DENSE]),
    "batch norm": (dataclasses.replace(ONE, batch_norm=True), [BY_ROWS, DENSE]),
    "ties are kept": (dataclasses.replace(ONE, ties="all"), [BY_ROWS]),
    "local": (dataclasses.replace(ONE, local=True, conv_k=(2,)), [BY_ROWS, DENSE]),
    "all units may win": (dataclasses.replace(ONE, k_inference_factor=100.0), [BY_ROWS, DENSE]),
    "ReLU": (RELU, [DENSE]),
}
QUICK = ("batch norm", "ties are kept", "ReLU")


@functools.cache
def applied(model):
    return jax.jit(model.apply)


def examples(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    "way", [way if way in QUICK else pytest.param(way, marks=pytest.mark.slow) for way in WAYS]
)  # fmt: skip
def test_answers_are_those_of_the_network(way, monkeypatch):
    monkeypatch.setattr(frozen, "_WORTH", 0)
    model, ways = WAYS[way]
    variables, x = made_up(model, (14, 14, 1)), examples(3, 14, 14, 1)
    expected, network = applied(model)(variables, x).prediction, freeze(model, variables, (14, 14, 1))
    for rows in ways:
        for module in (compact, frozen):
            monkeypatch.setattr(module, "gathering_is_faster", lambda *_, rows=rows: rows)
        found = jax.jit(lambda network, x: predict(network, x))(network, x)  # compiled again
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_current_values_are_kept():
    variables, x = made_up(MLP, (14, 14, 1)), examples(3, 14, 14, 1)
    later = dataclasses.replace(MLP, k_inference_factor=2.0).at(np.float32(12), np.int32(0))
    assert 0.2 < later.boost_strength < 0.22
    network = freeze(later, variables, (14, 14, 1))
    assert network.k == (16, 10)
    run = jax.jit(lambda model, variables, x: model.apply(variables, x).prediction)
    expected, before = (run(as_arrays(model), variables, x) for model in (later, MLP))
    np.testing.assert_allclose(answer(network, x), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected - before).max() > 1e-3


def test_spoken_words_become_spectrograms():
    model = SpeechCNN(channels=(2,), conv_k=(None,), hidden=30, hidden_k=None, density=None, classes=4, batch_norm=True)
    variables, x = made_up(model, (16_000,)), examples(2, 16_000)
    network = freeze(model, variables, (16_000,))
    np.testing.assert_allclose(answer(network, x), applied(model)(variables, x).prediction, rtol=1e-3, atol=1e-4)


def test_examples_may_be_batched_apart_and_networks_mapped():
    model, x = SparseMLP(hidden=(30,), k=(5,), density=None), examples(4, 50)
    networks = [freeze(model, made_up(model, (50,), seed), (50,)) for seed in range(2)]
    one_by_one = np.concatenate([answer(networks[0], example[None]) for example in x])
    np.testing.assert_allclose(one_by_one, answer(networks[0], x), rtol=1e-4, atol=1e-5)
    both = jax.jit(jax.vmap(predict, (0, None)))(jax.tree.map(lambda *leaves: np.stack(leaves), *networks), x)
    np.testing.assert_allclose(both[1], answer(networks[1], x), rtol=1e-4, atol=1e-5)


def test_a_network_that_does_not_fit_is_refused():
    variables = made_up(MLP, (14, 14, 1))
    with pytest.raises(ConfigError, match="too small"):
        freeze(CNN, variables, (4, 4, 1))
    with pytest.raises(ConfigError, match="model is a NoisyNetwork; expected a network of k-winners"):
        freeze(NoisyNetwork(), variables, (14, 14, 1))
