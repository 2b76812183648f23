"""SparseCNN and SparseMLP: sizes, what each option does, and what is refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import ConfigError
from sparsejax.functional import BoostState, connections_per_unit, example_keys
from sparsejax.hyper import hyper_of
from sparsejax.models import SparseCNN, SparseMLP, Variables

CNN = SparseCNN(channels=(4, 6), conv_k=(20, 6), hidden=30, hidden_k=5, kernel_size=3, conv_density=(0.6, 0.5))
MLP = SparseMLP(hidden=(40, 30), k=(8, 5))
EXAMPLE = jnp.zeros((1, 14, 14, 1))
BATCH = 5
HIDDEN = {CNN: ["conv1", "conv2", "hidden"], MLP: ["hidden1", "hidden2"]}
both = pytest.mark.parametrize("model", [CNN, MLP], ids=["cnn", "mlp"])


@functools.cache
def applied(model):
    return jax.jit(model.apply, static_argnames="train")


@functools.cache
def drawn(model):
    """Returns variables with some history: of 32 examples."""
    variables = model.init(jax.random.key(0), EXAMPLE)
    state = {
        name: layer | ({"boost": a_history(layer["boost"], seed)} if "boost" in layer else {})
        for seed, (name, layer) in enumerate(variables.state.items())
    }
    return Variables(variables.params, state)


def a_history(boost, seed):
    return BoostState(jax.random.uniform(jax.random.key(seed), boost.duty_cycle.shape), jnp.float32(32))


def network(model, like=None):
    """Returns variables, drawn for a model of the same shape, and the jitted `apply` of a model."""
    return drawn(like or model), applied(model)


def images(seed=0, batch=BATCH):
    return jax.random.normal(jax.random.key(seed), (batch, 14, 14, 1))


def winners(activation):
    return np.count_nonzero(np.asarray(activation).reshape(len(activation), -1), axis=1)


def assert_trees_equal(actual, expected, rtol=0.0):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for got, wanted in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=rtol, atol=rtol)


PAPER = {
    "dense CNN-1": (SparseCNN((30,), (None,), 1000, None, 1.0), 4_331_790, 4_331_790),
    "dense CNN-2": (SparseCNN((30, 30), (None, None), 1000, None, 1.0), 514_320, 514_320),
    "sparse CNN-1": (SparseCNN((30,), (400,), 150, 50, 0.3), 650_440, 196_840),
    "sparse CNN-2": (SparseCNN((32, 64), (400, 300), 700, 100, 0.3), 776_606, 274_706),
    "dense CNN-2 SP3": (SparseCNN((30, 30), (None, None), 700, 100, 0.3), 367_020, 131_820),
    "sparse CNN-2 D3": (SparseCNN((32, 64), (400, 300), 1000, None, 1.0), 1_087_106, 1_087_106),
    "sparse CNN-2 W1": (SparseCNN((32, 64), (400, 300), 700, 100, 1.0), 776_606, 776_606),
    "sparse CNN-2 DSW": (SparseCNN((32, 64), (400, 300), 1000, None, 0.3), 1_087_106, 370_106),
}
GSC = functools.partial(SparseCNN, classes=12, batch_norm=True)
SPEECH = {
    "dense CNN-2": (GSC((64, 64), (None, None), 1000, None, 1.0), 1_717_140, 1_717_140),
    "sparse CNN-2": (GSC((64, 64), (1200, 200), 1000, 100, 0.4), 1_717_140, 757_140),
    "super-sparse CNN-2": (GSC((64, 64), (1200, 200), 1500, 100, 0.1), 2_523_640, 363_640),
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
    assert list(masks) == (["hidden"] if model.density < 1 else [])
    kept = sum(connections_per_unit(mask.shape, model.density) * mask.shape[-1] for mask in masks.values())
    assert total - sum(mask.size for mask in masks.values()) + kept == nonzero


def test_layers_of_the_papers_sparse_cnn_2_are_described():
    model = PAPER["sparse CNN-2"][0]
    assert model == SparseCNN()
    described = [(x.name, x.units, x.k, x.k_inference, x.positions) for x in model.layers((28, 28, 1))]
    assert described == [("conv1", 4608, 400, 600, 144), ("conv2", 1024, 300, 450, 16), ("hidden", 700, 100, 150, 1)]
    mlp = [(x.name, x.units, x.k, x.k_inference) for x in SparseMLP((40, 30), (8, None)).layers((14, 14, 1))]
    assert mlp == [("hidden1", 40, 8, 12), ("hidden2", 30, None, None)]


@both
def test_every_unit_of_a_sparse_layer_has_its_connections_and_the_output_is_dense(model):
    params, state = network(model)[0]
    densities = {"conv1": 0.6, "conv2": 0.5}
    for name in HIDDEN[model]:
        mask = np.asarray(state[name]["mask"])
        assert mask.shape == params[name]["kernel"].shape
        fan_in = mask[..., 0].size
        expected = round(densities.get(name, 0.3) * fan_in)
        np.testing.assert_array_equal(mask.reshape(fan_in, -1).sum(axis=0), np.full(mask.shape[-1], expected))
        assert not np.any(np.asarray(params[name]["kernel"])[~mask])
        assert np.all(params[name]["bias"] != 0)
    assert "mask" not in state["output"] and np.all(params["output"]["kernel"] != 0)


@both
def test_a_dense_network_has_no_masks_and_uses_relu(model):
    dense = dataclasses.replace(model, density=1.0, **({"conv_density": None} if model is CNN else {}))
    dense = dataclasses.replace(
        dense, **({"conv_k": (None, None), "hidden_k": None} if model is CNN else {"k": (None, None)})
    )
    variables, apply = network(dense)
    assert not jax.tree.leaves(variables.state)
    out = apply(variables, images(), train=True)
    for activation in out.activations.values():
        assert np.min(activation) == 0 and 0.2 < np.mean(np.asarray(activation) > 0) < 0.9


@both
def test_masked_weights_have_no_influence_and_get_no_gradient(model):
    variables, apply = network(model)
    spoilt = {
        name: {**layer, "kernel": jnp.where(variables.state[name].get("mask", True), layer["kernel"], 1e6)}
        for name, layer in variables.params.items()
    }
    out = apply(variables, images())
    np.testing.assert_array_equal(apply(Variables(spoilt, variables.state), images()).prediction, out.prediction)
    grads = jax.jit(jax.grad(lambda p: jnp.sum(model.apply(Variables(p, variables.state), images()).prediction ** 2)))(
        spoilt
    )
    for name in HIDDEN[model]:
        gradient, mask = np.asarray(grads[name]["kernel"]), np.asarray(variables.state[name]["mask"])
        assert np.any(gradient[mask]) and not np.any(gradient[~mask])


@both
def test_k_win_in_training_and_half_as_many_again_at_inference(model):
    variables, apply = network(model)
    layers = {layer.name: layer for layer in model.layers((14, 14, 1))}
    assert list(layers) == HIDDEN[model]
    for train in (True, False):
        for name, activation in apply(variables, images(), train=train).activations.items():
            k = layers[name].k if train else layers[name].k_inference
            np.testing.assert_array_equal(winners(activation), np.full(BATCH, k))
    assert layers[HIDDEN[model][-1]].k_inference == 8  # 5 * 1.5 = 7.5, rounded to even


def test_ties_keeps_all_or_exactly_k():
    blank = jnp.zeros((BATCH, 14, 14, 1))  # every position of a filter has the same value
    for ties, expected in (("first", 20), ("all", 36)):
        variables, apply = network(dataclasses.replace(CNN, ties=ties), CNN)
        count = winners(apply(variables, blank, train=True).activations["conv1"])
        np.testing.assert_array_equal(count, np.full(BATCH, expected))


def test_local_winners_are_chosen_at_every_position():
    model = dataclasses.replace(CNN, local=True, conv_k=(2, 3))
    variables, apply = network(model, CNN)
    out = apply(variables, images(), train=True)
    np.testing.assert_array_equal(np.count_nonzero(out.activations["conv1"], axis=-1), np.full((BATCH, 6, 6), 2))
    out = apply(variables, images())
    np.testing.assert_array_equal(np.count_nonzero(out.activations["conv1"], axis=-1), np.full((BATCH, 6, 6), 3))
    assert [layer.local for layer in model.layers((14, 14, 1))] == [True, True, False]


@both
def test_training_updates_the_duty_cycles_and_evaluation_changes_nothing(model):
    variables, apply = network(model)
    assert_trees_equal(apply(variables, images()).state, variables.state)
    out = apply(variables, images(), train=True)
    for name in HIDDEN[model]:
        before, after = variables.state[name]["boost"], out.state[name]["boost"]
        fired = np.asarray(out.activations[name] > 0).reshape(-1, after.duty_cycle.size).mean(axis=0)
        np.testing.assert_allclose(after.duty_cycle, (32 * before.duty_cycle + 5 * fired) / 37, rtol=1e-5)
        assert int(after.samples) == 37
        np.testing.assert_array_equal(out.state[name]["mask"], variables.state[name]["mask"])


@both
def test_batch_norm_has_no_weights_and_keeps_running_statistics(model):
    normal = dataclasses.replace(model, batch_norm=True)
    variables, apply = network(normal)
    assert jax.tree.structure(variables.params) == jax.tree.structure(drawn(model).params)
    assert_trees_equal(apply(variables, images()).state, variables.state)
    first = HIDDEN[model][0]
    before = variables.state[first]["norm"]
    after = apply(variables, 10 + 3 * images(), train=True).state[first]["norm"]
    kernel = np.where(variables.state[first]["mask"], variables.params[first]["kernel"], 0)
    if model is MLP:
        x = (10 + 3 * np.asarray(images()).reshape(BATCH, -1)) @ kernel + np.asarray(variables.params[first]["bias"])
        np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * x.mean(axis=0), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * x.var(axis=0), rtol=1e-3)
    # A batch that is scaled and shifted gives, once normalised, the same result.
    outs = [apply(variables, x, train=True).prediction for x in (images(), 10 + 3 * images())]
    np.testing.assert_allclose(*outs, atol=2e-3)


@both
def test_dropout_needs_keys_and_is_off_at_inference(model):
    dropping = dataclasses.replace(model, dropout=0.5)
    variables, apply = network(dropping, model)
    with pytest.raises(ValueError, match=r"needs `key`: one PRNG key per example"):
        apply(variables, images(), train=True)
    np.testing.assert_array_equal(apply(variables, images()).prediction, applied(model)(variables, images()).prediction)


@both
def test_dropout_of_an_example_does_not_depend_on_its_batch(model):
    dropping = dataclasses.replace(model, dropout=0.5)
    variables, apply = network(dropping, model)
    alike = jnp.broadcast_to(images()[:1], (BATCH, 14, 14, 1))
    keys = example_keys(jax.random.key(7), jnp.arange(BATCH))
    whole = apply(variables, alike, key=keys, train=True).prediction
    part = apply(variables, alike[2:], key=keys[2:], train=True).prediction
    np.testing.assert_allclose(part, whole[2:], rtol=1e-5, atol=1e-6)
    assert len({row.tobytes() for row in np.asarray(whole)}) == BATCH


@both
def test_no_prediction_depends_on_another_example(model):
    variables, apply = network(model)
    expected = apply(variables, images(), train=True).prediction
    changed = apply(variables, images().at[1:].set(jnp.nan), train=True).prediction
    np.testing.assert_allclose(changed[0], expected[0], rtol=1e-6)
    assert np.isnan(changed[1:]).all()


@both
def test_jit_changes_nothing(model):
    variables, apply = network(model)
    plain = model.apply(variables, images(), train=True)
    compiled = apply(variables, images(), train=True)
    assert_trees_equal(plain._replace(state=()), compiled._replace(state=()), rtol=1e-5)
    assert_trees_equal(plain.state, compiled.state, rtol=1e-6)


@both
def test_hyper_equals_a_model_built_with_those_values(model):
    variables, apply = network(model)
    k = {"conv_k": (11, 9), "hidden_k": 12} if model is CNN else {"k": (11, 9)}
    other = dataclasses.replace(model, boost_strength=4.0, k_inference_factor=1.2, **k)
    hyper = jax.tree.map(
        jnp.asarray, {name: hyper_of(other)[name] for name in (*k, "boost_strength", "k_inference_factor")}
    )
    for train in (True, False):
        actual = apply(variables, images(), train=train, hyper=hyper)
        assert_trees_equal(actual, applied(other)(variables, images(), train=train))
        assert np.any(actual.prediction != apply(variables, images(), train=train).prediction)


@both
def test_an_unknown_hyperparameter_is_refused_with_those_there_are(model):
    variables = network(model)[0]
    with pytest.raises(ValueError, match=r"no traced field \['bost_strength'\]; it has .*'boost_strength'"):
        model.apply(variables, images(), hyper={"bost_strength": 2.0})


@both
def test_the_boost_strength_decays_by_the_epoch(model):
    hyper = hyper_of(model)
    later = model.scheduled(hyper, epoch=jnp.int32(3), step=jnp.int32(100))
    np.testing.assert_allclose(later.pop("boost_strength"), 1.5 * 0.85**3, rtol=1e-6)
    hyper.pop("boost_strength")
    assert_trees_equal(later, hyper)


def test_bfloat16_images_and_weights_give_bfloat16_and_as_many_winners():
    variables, apply = network(CNN)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), variables.params)
    out = apply(Variables(half, variables.state), images().astype(jnp.bfloat16), train=True)
    assert out.prediction.dtype == jnp.bfloat16 and out.state["hidden"]["boost"].duty_cycle.dtype == jnp.float32
    for name, k in zip(HIDDEN[CNN], (20, 6, 5), strict=True):
        np.testing.assert_array_equal(winners(out.activations[name]), np.full(BATCH, k))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden": 0, "hidden_k": None}, "model.hidden is 0"),
        ({"hidden_k": 31}, "model.hidden_k is 31; expected None or a number of winners from 1 to hidden=30"),
        ({"hidden_k": 0}, "model.hidden_k is 0"),
        ({"channels": ()}, r"model.channels is \(\)"),
        ({"conv_k": (20,)}, r"model.conv_k is \(20,\); expected one entry for each of the 2 convolutions"),
        ({"density": 0.0}, r"model.density is \(0.0"),
        ({"density": 1.2}, r"model.density is \(1.2"),
        ({"conv_density": (0.5,)}, r"model.conv_density is \(0.5,\); expected None or 2 fractions"),
        ({"conv_density": (0.5, 0.0)}, "model.density is"),
        ({"boost_strength": -1.0}, "model.boost_strength is -1.0"),
        ({"boost_decay": 1.1}, "model.boost_decay is 1.1"),
        ({"k_inference_factor": 0.0}, "model.k_inference_factor is 0.0"),
        ({"duty_period": 0}, "model.duty_period is 0"),
        ({"dropout": 1.0}, "model.dropout is 1.0"),
        ({"kernel_size": 0}, r"model.kernel_size, model.classes is \(0, 10\)"),
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
            r"model.conv_k\[0\] is 145; .* from 1 to 144, the units of conv1",
        ),
        (dataclasses.replace(CNN, conv_k=(5, 6), local=True), 14, r"model.conv_k\[0\] is 5; .* from 1 to 4"),
        (dataclasses.replace(CNN, density=0.01), 14, "Layer hidden: density 0.01 leaves a unit none of its 24 inputs"),
        (dataclasses.replace(MLP, density=0.002), 14, "density 0.002 leaves a unit none of its 196 inputs"),
    ],
)
def test_images_that_do_not_fit_the_network_are_refused_by_name(model, size, message):
    with pytest.raises(ConfigError, match=message):
        model.init(jax.random.key(0), jnp.zeros((1, size, size, 1)))
