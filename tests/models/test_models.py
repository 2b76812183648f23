"""SparseCNN and SparseMLP: what each option does to the arrays; see test_sizes.py for sizes and refusals."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sparsejax.hyper import hyper_of, static_fields

from sparsejax.functional import BoostState, add_noise, example_keys
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


@pytest.mark.slow
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
def test_noise_on_the_examples_is_of_training_only_and_of_each_example(model):
    noisy = dataclasses.replace(model, sigma=0.5)
    variables, apply = network(noisy, model)
    with pytest.raises(ValueError, match="Training with noise or dropout needs `key`"):
        apply(variables, images(), train=True)
    np.testing.assert_array_equal(apply(variables, images()).prediction, applied(model)(variables, images()).prediction)
    keys = example_keys(jax.random.key(7), jnp.arange(BATCH))
    seen = add_noise(jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, len(model.layers((14, 14, 1)))), images(),
                     sigma=0.5)  # fmt: skip
    expected = applied(model)(variables, seen, train=True).prediction
    np.testing.assert_allclose(apply(variables, images(), key=keys, train=True).prediction, expected, rtol=1e-5)


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


@pytest.mark.parametrize(("kind", "expected"), [("linear", [40, 25, 10, 10]), ("exponential", [40, 20, 10, 10])])
def test_k_comes_down_over_the_epochs_to_its_value(kind, expected):
    model = SparseCNN(channels=(4,), conv_k=(10,), hidden=30, hidden_k=10, k_schedule=kind, k_start=4.0, k_epochs=2.0)
    hyper = [model.scheduled(hyper_of(model), epoch=jnp.float32(epoch), step=jnp.int32(0)) for epoch in range(4)]
    assert [int(at["hidden_k"]) for at in hyper] == [int(at["conv_k"][0]) for at in hyper] == expected
    x = jax.random.normal(jax.random.key(1), (2, 12, 12, 1))
    variables = model.init(jax.random.key(0), x)
    run = jax.jit(lambda at: model.apply(variables, x, train=True, hyper=at).activations["hidden"][0])
    assert [np.count_nonzero(run(at)) for at in hyper] == [min(k, 30) for k in expected], "all units at most"
    constant = dataclasses.replace(model, k_schedule="constant")
    assert int(constant.scheduled(hyper_of(model), epoch=jnp.float32(0), step=jnp.int32(0))["hidden_k"]) == 10


def test_a_given_density_replaces_the_models_own_and_a_dense_layer_stays_dense():
    model, x = SparseMLP(hidden=(30,), k=(6,), density=0.5), jnp.zeros((1, 10, 10, 1))
    drawn = model.init(jax.random.key(0), x, hyper={**hyper_of(model), "density": jnp.float32(0.2)})
    alone = dataclasses.replace(model, density=0.2).init(jax.random.key(0), x)
    chex.assert_trees_all_equal(drawn, alone)
    dense = dataclasses.replace(model, density=1.0)
    assert "mask" not in dense.init(jax.random.key(0), x, hyper=hyper_of(dense)).state["hidden1"]
    assert static_fields(dense)["density"] != static_fields(model)["density"] == static_fields(
        dataclasses.replace(model, density=0.2)
    )["density"], "dense weights are another program"  # fmt: skip
