"""SparseCNN and SparseMLP: what each option does to the arrays.

See test_sizes.py for sizes and refusals, test_compiled.py for what compiling must not change.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.configuration import as_arrays
from sparsejax.functional import BoostState, add_noise, example_keys
from sparsejax.models import SparseCNN, SparseMLP, Variables

# Noise and dropout are part of the program, but of size 0 unless a test changes that.
OFF = {"sigma": 0.0, "dropout": 0.0}
MORE = {"k_inference_factor": 1.5}
CNN = SparseCNN(channels=(4,), conv_k=(20,), hidden=30, hidden_k=5, kernel_size=3, conv_density=(0.6,), **OFF, **MORE)
RELU = SparseCNN(channels=(4,), conv_k=(None,), hidden=30, hidden_k=None, kernel_size=3, density=None, **MORE)
MLP = SparseMLP(hidden=(40, 30), k=(8, 5), density=None, **MORE)
BATCH = 5
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, 14, 14, 1)), jnp.float32)


@functools.partial(jax.jit, static_argnames="train")
def apply(model, variables, x, key, train):
    return model.apply(variables, x, key=key, train=train)


@functools.cache
def drawn(model):
    """Returns variables with some history: of 32 examples."""
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 14, 14, 1)))
    state = {
        name: layer | ({"boost": a_history(layer["boost"], seed)} if "boost" in layer else {})
        for seed, (name, layer) in enumerate(variables.state.items())
    }
    return Variables(variables.params, state)


def a_history(boost, seed):
    return BoostState(np.random.default_rng(seed).random(boost.duty_cycle.shape, np.float32), np.float32(32))


@functools.cache
def keys():
    return example_keys(jax.random.key(7), jnp.arange(BATCH))


def run(program, x=IMAGES, model=None, *, variables=None, key=None, train=False):
    """Runs the program and weights of one model with the hyperparameters of another."""
    assert model is None or jax.tree.structure(model) == jax.tree.structure(program)
    variables, key = variables or drawn(program), keys() if key is None else key
    return apply(as_arrays(model or program), variables, x, key, train)


def winners(activation):
    return np.count_nonzero(np.asarray(activation).reshape(len(activation), -1), axis=1)


def test_every_unit_of_a_sparse_layer_has_its_connections_and_the_output_is_dense():
    params, state = jax.tree.map(np.asarray, drawn(CNN))
    for name, density in (("conv1", 0.6), ("hidden", 0.3)):
        mask = state[name]["mask"]
        assert mask.shape == params[name]["kernel"].shape
        fan_in = mask[..., 0].size
        expected = np.full(mask.shape[-1], round(density * fan_in))
        np.testing.assert_array_equal(mask.reshape(fan_in, -1).sum(axis=0), expected)
        assert not np.any(params[name]["kernel"][~mask])
        assert np.all(params[name]["bias"] != 0)
    assert "mask" not in state["output"] and np.all(params["output"]["kernel"] != 0)


def test_a_density_may_be_an_argument_and_a_dense_layer_stays_dense():
    denser, dense = (dataclasses.replace(CNN, density=density) for density in (0.5, None))
    key, x = jax.random.key(0), jnp.zeros((1, 14, 14, 1))
    init = jax.jit(lambda model, key: model.init(key, x))
    given = init(as_arrays(CNN), key)
    chex.assert_trees_all_equal(given.params, drawn(CNN).params)
    for name in ("conv1", "hidden"):
        np.testing.assert_array_equal(given.state[name]["mask"], drawn(CNN).state[name]["mask"])
    assert init(as_arrays(denser), key).state["hidden"]["mask"].sum() > given.state["hidden"]["mask"].sum()
    assert "mask" not in jax.eval_shape(init, as_arrays(dense), key).state["hidden"]
    own, other, none = (jax.tree.structure(model) for model in (CNN, denser, dense))
    assert own == other != none, "dense weights are another program"


def test_a_dense_network_has_no_masks_and_uses_relu():
    assert not jax.tree.leaves(drawn(RELU).state)
    for activation in run(RELU, train=True).activations.values():
        assert np.min(activation) == 0 and 0.2 < np.mean(np.asarray(activation) > 0) < 0.9


def test_masked_weights_have_no_influence_and_get_no_gradient():
    params, state = drawn(CNN)

    @jax.jit
    def answer(params):
        def loss(params):
            prediction = CNN.apply(Variables(params, state), IMAGES).prediction
            return jnp.sum(prediction**2), prediction

        return jax.grad(loss, has_aux=True)(params)

    spoilt = {
        name: {**layer, "kernel": np.where(state[name].get("mask", True), layer["kernel"], np.float32(1e6))}
        for name, layer in params.items()
    }
    grads, prediction = answer(spoilt)
    np.testing.assert_array_equal(prediction, answer(params)[1])
    for name in ("conv1", "hidden"):
        gradient, mask = np.asarray(grads[name]["kernel"]), np.asarray(state[name]["mask"])
        assert np.any(gradient[mask]) and not np.any(gradient[~mask])


@pytest.mark.parametrize(
    ("model", "more"), [(CNN, {"conv_k": (11,), "hidden_k": 12}), (MLP, {"k": (11, 9)})], ids=["cnn", "mlp"]
)
def test_k_win_in_training_and_half_as_many_again_at_inference(model, more):
    for values in (model, dataclasses.replace(model, **more)):
        layers = {layer.name: layer for layer in values.layers((14, 14, 1))}
        for train in (True, False):
            activations = run(model, model=values, train=train).activations
            assert list(activations) == list(layers)
            for name, activation in activations.items():
                k = layers[name].k if train else layers[name].k_inference
                np.testing.assert_array_equal(winners(activation), np.full(BATCH, k))
    assert model.layers((14, 14, 1))[-1].k_inference == 8  # 5 * 1.5 = 7.5, rounded to even


def test_ties_keeps_all_or_exactly_k():
    blank = np.zeros_like(IMAGES)  # every position of a filter has the same value
    for model, expected in ((CNN, 20), (dataclasses.replace(CNN, ties="all"), 36)):
        count = winners(run(model, blank, variables=drawn(CNN), train=True).activations["conv1"])
        np.testing.assert_array_equal(count, np.full(BATCH, expected))


def test_local_winners_are_chosen_at_every_position():
    model = dataclasses.replace(RELU, conv_k=(2,), local=True)
    for train, k in ((True, 2), (False, 3)):
        out = run(model, train=train).activations
        np.testing.assert_array_equal(np.count_nonzero(out["conv1"], axis=-1), np.full((BATCH, 6, 6), k))
    assert [layer.local for layer in model.layers((14, 14, 1))] == [True, False]


def test_training_updates_the_duty_cycles_and_evaluation_changes_nothing():
    variables = drawn(CNN)
    chex.assert_trees_all_equal(run(CNN).state, variables.state)
    out = run(CNN, train=True)
    for name in ("conv1", "hidden"):
        before, after = variables.state[name]["boost"], out.state[name]["boost"]
        fired = np.asarray(out.activations[name] > 0).reshape(-1, after.duty_cycle.size).mean(axis=0)
        np.testing.assert_allclose(after.duty_cycle, (32 * before.duty_cycle + 5 * fired) / 37, rtol=1e-5)
        assert int(after.samples) == 37
        np.testing.assert_array_equal(out.state[name]["mask"], variables.state[name]["mask"])


def convolved(images, kernel):
    """Convolves images with small kernels, as NumPy does."""
    windows = np.lib.stride_tricks.sliding_window_view(images, kernel.shape[:2], axis=(1, 2))
    return np.einsum("nhwcij,ijcf->nhwf", windows, kernel)


def test_batch_norm_has_no_weights_and_keeps_running_statistics():
    model, bright = dataclasses.replace(RELU, batch_norm=True), 10 + 3 * IMAGES
    variables = drawn(model)
    chex.assert_trees_all_equal_shapes(variables.params, drawn(RELU).params)
    chex.assert_trees_all_equal(run(model).state, variables.state)
    of_bright = run(model, bright, train=True)
    before, after = variables.state["conv1"]["norm"], of_bright.state["conv1"]["norm"]
    layer = jax.tree.map(np.asarray, variables.params["conv1"])
    x = convolved(bright, layer["kernel"]) + layer["bias"]
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * x.mean((0, 1, 2)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * x.var((0, 1, 2)), rtol=1e-3)
    # A batch that is scaled and shifted gives, once normalised, the same result.
    np.testing.assert_allclose(run(model, train=True).prediction, of_bright.prediction, atol=2e-3)


@pytest.mark.parametrize("off", ["sigma", "dropout"])
def test_noise_and_dropout_each_need_keys(off):
    model = dataclasses.replace(CNN, **{off: None})
    with pytest.raises(ValueError, match=r"Training with noise or dropout needs `key`: one PRNG key per example"):
        jax.eval_shape(functools.partial(model.apply, train=True), drawn(CNN), IMAGES)


def test_noise_and_dropout_are_off_at_inference():
    chex.assert_trees_all_equal(run(CNN, model=dataclasses.replace(CNN, sigma=0.5, dropout=0.5)), run(CNN))


def test_dropout_of_an_example_does_not_depend_on_its_batch():
    dropping = dataclasses.replace(CNN, dropout=0.5)
    alike = np.broadcast_to(IMAGES[:1], IMAGES.shape)
    whole = np.asarray(run(CNN, alike, dropping, train=True).prediction)
    assert len({row.tobytes() for row in whole}) == BATCH
    # The same example with the same key, elsewhere and among others.
    moved = run(CNN, np.roll(IMAGES, 3, axis=0), dropping, key=jnp.roll(keys(), 1), train=True).prediction
    np.testing.assert_allclose(moved[3], whole[2], rtol=1e-5, atol=1e-6)


def test_noise_on_the_examples_is_of_each_example():
    noisy = dataclasses.replace(CNN, sigma=0.5)
    stream = jax.jit(jax.vmap(jax.random.fold_in, in_axes=(0, None)))(keys(), len(CNN.layers((14, 14, 1))))
    seen = jax.jit(functools.partial(add_noise, sigma=0.5))(stream, IMAGES)
    expected = run(CNN, seen, train=True).prediction
    np.testing.assert_allclose(run(CNN, model=noisy, train=True).prediction, expected, rtol=1e-5)


def test_no_prediction_depends_on_another_example():
    expected, changed = run(CNN, train=True).prediction, np.array(IMAGES)
    changed[1:] = np.nan
    changed = run(CNN, changed, train=True).prediction
    np.testing.assert_allclose(changed[0], expected[0], rtol=1e-6)
    assert np.isnan(changed[1:]).all()


def test_numbers_may_be_arguments_or_built_in():
    other = dataclasses.replace(CNN, conv_k=(11,), hidden_k=12, boost_strength=4.0, k_inference_factor=1.2)
    given = run(CNN, model=other)
    chex.assert_trees_all_equal(given, jax.jit(other.apply)(drawn(CNN), IMAGES))
    assert np.any(given.prediction != run(CNN).prediction)


def test_the_boost_strength_decays_by_the_epoch():
    later = CNN.at(jnp.float32(3), jnp.int32(100))
    np.testing.assert_allclose(later.boost_strength, 1.5 * 0.85**3, rtol=1e-6)
    assert dataclasses.replace(later, boost_strength=CNN.boost_strength) == CNN


def test_bfloat16_images_and_weights_give_bfloat16_and_as_many_winners():
    params, state = drawn(CNN)
    half = jax.tree.map(lambda leaf: np.asarray(leaf).astype(jnp.bfloat16), params)
    out = run(CNN, IMAGES.astype(jnp.bfloat16), variables=Variables(half, state), train=True)
    assert out.prediction.dtype == jnp.bfloat16 and out.state["hidden"]["boost"].duty_cycle.dtype == jnp.float32
    for name, k in (("conv1", 20), ("hidden", 5)):
        np.testing.assert_array_equal(winners(out.activations[name]), np.full(BATCH, k))


@pytest.mark.parametrize(("kind", "expected"), [("linear", [40, 25, 10, 10]), ("exponential", [40, 20, 10, 10])])
def test_k_decreases_over_the_epochs_to_its_value(kind, expected):
    model = dataclasses.replace(CNN, conv_k=(10,), hidden_k=10, k_schedule=kind, k_start=4.0, k_epochs=2.0)
    at = jax.jit(jax.vmap(lambda model, epoch: model.at(epoch, jnp.int32(0)), (None, 0)))
    models = jax.tree.map(np.asarray, at(as_arrays(model), np.arange(4, dtype=np.float32)))
    assert models.hidden_k.tolist() == models.conv_k[0].tolist() == expected
    for epoch, k in enumerate(expected):
        now = jax.tree.map(lambda leaf, epoch=epoch: np.asarray(leaf[epoch]), models)
        now = dataclasses.replace(now, k_schedule="constant")  # the only field that needs another program than CNN's
        active = winners(apply(now, drawn(CNN), IMAGES, keys(), True).activations["hidden"])
        np.testing.assert_array_equal(active, np.full(BATCH, min(k, 30)), "all units at most")
    constant = dataclasses.replace(model, k_schedule="constant")
    assert constant.at(jnp.float32(0), jnp.int32(0)).hidden_k == 10
