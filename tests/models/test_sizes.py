"""SparseCNN and SparseMLP: the papers' sizes, how layers are described, and what is refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from sparsejax import configs
from sparsejax.errors import ConfigError
from sparsejax.functional import connections_per_unit
from sparsejax.models import SparseCNN, SparseMLP

CNN = SparseCNN(channels=(4, 6), conv_k=(20, 6), hidden=30, hidden_k=5, kernel_size=3)
MLP = SparseMLP(hidden=(40, 30), k=(8, 5))


def cnn(channels, conv_k, hidden, hidden_k, density, **more):
    """A network in the order of the paper's Table 3."""
    return SparseCNN(channels=channels, conv_k=conv_k, hidden=hidden, hidden_k=hidden_k, density=density, **more)


PAPER = {
    "dense CNN-1": (cnn((30,), (None,), 1000, None, None), 4_331_790, 4_331_790),
    "dense CNN-2": (cnn((30, 30), (None, None), 1000, None, None), 514_320, 514_320),
    "sparse CNN-1": (cnn((30,), (400,), 150, 50, 0.3), 650_440, 196_840),
    "sparse CNN-2": (cnn((32, 64), (400, 300), 700, 100, 0.3), 776_606, 274_706),
    "dense CNN-2 SP3": (cnn((30, 30), (None, None), 700, 100, 0.3), 367_020, 131_820),
    "sparse CNN-2 D3": (cnn((32, 64), (400, 300), 1000, None, None), 1_087_106, 1_087_106),
    "sparse CNN-2 W1": (cnn((32, 64), (400, 300), 700, 100, None), 776_606, 776_606),
    "sparse CNN-2 DSW": (cnn((32, 64), (400, 300), 1000, None, 0.3), 1_087_106, 370_106),
}
gsc = functools.partial(cnn, classes=12, batch_norm=True)
SPEECH = {
    "dense CNN-2": (gsc((64, 64), (None, None), 1000, None, None), 1_717_140, 1_717_140),
    "sparse CNN-2": (gsc((64, 64), (1200, 200), 1000, 100, 0.4), 1_717_140, 757_140),
    "super-sparse CNN-2": (gsc((64, 64), (1200, 200), 1500, 100, 0.1), 2_523_640, 363_640),
}


@pytest.mark.parametrize(
    ("model", "total", "nonzero", "size"),
    [(*row, 28) for row in PAPER.values()] + [(*row, 32) for row in SPEECH.values()],
    ids=[f"mnist {name}" for name in PAPER] + [f"speech {name}" for name in SPEECH],
)
def test_the_papers_networks_have_the_papers_number_of_weights(model, total, nonzero, size):
    params, state = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 1)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == total
    masks = {name: layer["mask"] for name, layer in state.items() if "mask" in layer}
    assert list(masks) == (["hidden"] if model.density is not None else [])
    kept = sum(connections_per_unit(mask.shape, model.density) * mask.shape[-1] for mask in masks.values())
    assert total - sum(mask.size for mask in masks.values()) + kept == nonzero


def test_layers_of_the_papers_sparse_cnn_2_are_described():
    model = configs.get("mnist_kwinners").model
    assert PAPER["sparse CNN-2"][0] == SparseCNN() == dataclasses.replace(model, k_inference_factor=1.0)
    described = [(x.name, x.units, x.k, x.k_inference, x.positions) for x in model.layers((28, 28, 1))]
    assert described == [("conv1", 4608, 400, 600, 144), ("conv2", 1024, 300, 450, 16), ("hidden", 700, 100, 150, 1)]
    mlp = SparseMLP(hidden=(40, 30), k=(8, None), k_inference_factor=1.5).layers((14, 14, 1))
    described = [(x.name, x.units, x.k, x.k_inference) for x in mlp]
    assert described == [("hidden1", 40, 8, 12), ("hidden2", 30, None, None)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden": 0, "hidden_k": None}, "model.hidden is 0"),
        ({"hidden_k": 31}, "model.hidden_k is 31; expected None or a number of winners from 1 to 30"),
        ({"hidden_k": 0}, "model.hidden_k is 0"),
        ({"channels": ()}, r"model.channels is \(\)"),
        ({"conv_k": (20,)}, r"model.conv_k is \(20,\); expected one entry for each of the 2 convolutions"),
        ({"density": 0.0}, r"model.density is 0.0"),
        ({"density": 1.2}, r"model.density is 1.2"),
        ({"conv_density": (0.5,)}, r"model.conv_density is \(0.5,\); expected None or 2 fractions"),
        ({"conv_density": (0.5, 0.0)}, "model.conv_density is"),
        ({"boost_strength": -1.0}, "model.boost_strength is -1.0"),
        ({"boost_decay": 1.1}, "model.boost_decay is 1.1"),
        ({"k_inference_factor": 0.0}, "model.k_inference_factor is 0.0"),
        ({"period": 0}, "model.period is 0"),
        ({"dropout": 1.0}, "model.dropout is 1.0"),
        ({"sigma": -0.1}, "model.sigma is -0.1; expected None or a standard deviation"),
        ({"kernel_size": 0}, r"model.kernel_size is 0"),
    ],
)
def test_a_cnn_that_cannot_be_is_refused_by_name(fields, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CNN, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden": ()}, r"model.hidden is \(\)"),
        ({"k": (8,)}, r"model.k is \(8,\); expected one entry for each of the 2 hidden layers"),
        ({"k": (8, 31)}, r"model.k\[1\] is 31; expected None or a number of winners from 1 to 30"),
        ({"density": 0.0}, "model.density is 0.0"),
        ({"classes": 0}, "model.classes is 0"),
        ({"dropout": -0.1}, "model.dropout is -0.1"),
    ],
)
def test_an_mlp_that_cannot_be_is_refused_by_name(fields, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(MLP, **fields)


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        (
            dataclasses.replace(CNN, conv_k=(9, 6)),
            6,
            r"Images of shape \(6, 6, 1\) are too small for 2 convolutions .* nothing is left after conv2",
        ),
        (CNN, 2, "nothing is left after conv1"),
        (
            dataclasses.replace(CNN, conv_k=(145, 6)),
            14,
            r"k of conv1 is 145; .* from 1 to 144, the units of conv1",
        ),
        (dataclasses.replace(CNN, conv_k=(5, 6), local=True), 14, r"k of conv1 is 5; .* from 1 to 4"),
        (dataclasses.replace(CNN, density=0.01), 14, "Layer hidden: density 0.01 leaves a unit none of its 24 inputs"),
        (dataclasses.replace(MLP, density=0.002), 14, "density 0.002 leaves a unit none of its 196 inputs"),
    ],
)
def test_images_that_do_not_fit_the_network_are_refused_by_name(model, size, message):
    with pytest.raises(ConfigError, match=message):
        model.init(jax.random.key(0), jnp.zeros((1, size, size, 1)))
