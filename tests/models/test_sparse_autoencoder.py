"""The sparse autoencoder: recorded losses of its variants, its state, schedules and sites."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import ConfigError
from sparsejax.models import SparseAutoencoder, Variables
from tests import golden

SMALL = SparseAutoencoder(hidden=32, k=4, decoder="free", aux=None)
X = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)


def recorded(case, model, prefix=""):
    """Returns a network with the recorded weights."""
    variables = model.init(jax.random.key(0), np.zeros((1, 8), np.float32))
    hidden = {**variables.params["hidden"], "rows": case[prefix + "W_enc"], "bias": case[prefix + "b_enc"]}
    if "threshold" in hidden:
        hidden["threshold"] = case[prefix + "theta"]
    output = {"kernel": case[prefix + "W_dec"], "bias": case[prefix + "b_dec"]}
    return variables._replace(params=jax.tree.map(jnp.asarray, {"hidden": hidden, "output": output}))


def graded(model, variables, x):
    """Returns the published loss, a sum over the outputs, its output, and the gradients by their recorded names."""

    def loss(params):
        output = model.apply(variables._replace(params=params), x, train=True)
        error = jnp.mean(jnp.sum((output.prediction - output.target) ** 2, axis=-1))
        return error + x.shape[-1] * sum((output.losses or {}).values()), output

    (value, output), of = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables.params)
    names = {"dW_enc": of["hidden"]["rows"], "db_enc": of["hidden"]["bias"], "dW_dec": of["output"]["kernel"],
             "db_dec": of["output"]["bias"], "dtheta": of["hidden"].get("threshold")}  # fmt: skip
    return value, output, names


def assert_recorded(case, prefix, gradients, names):
    for name in names:
        scale = np.abs(case[prefix + name]).max()
        np.testing.assert_allclose(gradients[name], case[prefix + name], atol=2e-6 * scale, err_msg=prefix + name)


@pytest.mark.parametrize(
    "activation, file, prefix", [("top_k", "sae_topk_dictlearn", ""), ("batch_top_k", "sae_batchtopk", "dl_")]
)
def test_recorded_losses_and_gradients_of_winners(activation, file, prefix):
    case, model = golden.load(file), dataclasses.replace(SMALL, activation=activation)
    value, output, gradients = graded(model, recorded(case, model), case["x"])
    np.testing.assert_allclose(value, case[prefix + "loss"], rtol=1e-6)
    np.testing.assert_allclose(output.activations["hidden"], case[prefix + "f"], rtol=1e-5, atol=1e-6)
    assert_recorded(case, prefix, gradients, ("dW_enc", "db_enc", "dW_dec", "db_dec"))


@pytest.mark.parametrize("penalty", ["step", "quadratic", "tanh"])
def test_recorded_losses_and_gradients_of_jump_relu(penalty):
    case = golden.load("sae_jumprelu")
    model = SparseAutoencoder(hidden=32, activation="jump_relu", k=None, decoder="free", aux=None, pre_bias=False,
                              l0=0.7,
                              l0_penalty=penalty, l0_target=5.0, silence=0.03, bandwidth=0.2, dead_after=1)  # fmt: skip
    dead = {"hidden": {"idle": jnp.asarray(np.arange(32) < 5, jnp.int32)}}
    value, output, gradients = graded(model, recorded(case, model, "m_")._replace(state=dead), case["m_x"])
    prefix = f"m_sl_{penalty}_"
    np.testing.assert_allclose(value, case[prefix + "loss"], rtol=1e-6)
    np.testing.assert_allclose(8 * output.losses["l0"], case[prefix + "l0"], rtol=1e-6)
    np.testing.assert_allclose(8 * output.losses["silence"], case[prefix + "preact"], rtol=1e-5)
    assert_recorded(case, prefix, gradients, ("dtheta", "dW_enc", "dW_dec", "db_enc"))


def test_the_recorded_second_reconstruction_trains_the_encoder():
    case = golden.load("sae_topk_sparsify")
    model = dataclasses.replace(SMALL, multi=1.0)
    _, output, gradients = graded(model, recorded(case, model), case["x"])
    spread = np.sum((case["x"] - case["x"].mean(0)) ** 2) / len(case["x"])
    np.testing.assert_allclose(8 * output.losses["multi"] / spread, case["multi_topk_fvu"], rtol=1e-5)
    _, _, without = graded(SMALL, recorded(case, SMALL), case["x"])
    np.testing.assert_allclose((gradients["dW_dec"] - without["dW_dec"]) / spread, case["multi_dW_dec"], atol=1e-5)
    assert np.abs((gradients["dW_enc"] - without["dW_enc"]) / spread).max() > 0.4  # 0 in sparsify, a defect


def test_a_traced_k_is_a_static_one():
    variables = SMALL.init(jax.random.key(0), X[:1])
    grid = dataclasses.replace(SMALL, most_k=9)

    def code(k):
        return dataclasses.replace(grid, k=k).apply(variables, X, train=True).activations["hidden"]

    found = jax.jit(jax.vmap(code))(jnp.float32([1, 4, 9]))
    for k, codes in zip((1, 4, 9), found, strict=True):
        expected = dataclasses.replace(SMALL, k=k).apply(variables, X, train=True).activations["hidden"]
        np.testing.assert_allclose(codes, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("activation", ["top_k", "batch_top_k", "jump_relu", "relu", "gated"])
@pytest.mark.parametrize("encoder", ["linear", "lista", "lca", "explain_away"])
def test_every_variant_has_gradients_for_all_its_parameters(activation, encoder):
    if activation == "gated" and encoder != "linear":
        pytest.skip("gated networks have a linear encoder")
    weight = {"jump_relu": {"l0": 0.1}, "relu": {"l1": 0.1}, "gated": {"l1": 0.1}}.get(activation, {})
    k = 4 if "top_k" in activation else None
    model = SparseAutoencoder(hidden=32, activation=activation, encoder=encoder, k=k, turns=2, bandwidth=2.0,
                              prefixes=(8,), dead_after=1, **weight)  # fmt: skip
    variables = model.init(jax.random.key(1), X[:1])
    idle = {"hidden": {**variables.state["hidden"], "idle": jnp.ones(32, jnp.int32)}}
    variables = variables._replace(state=idle)

    def loss(params):
        output = model.apply(variables._replace(params=params), X, train=True)
        return jnp.sum((output.prediction - output.target) ** 2) + sum(output.losses.values())

    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(variables.params)):
        assert np.isfinite(leaf).all() and np.any(leaf)


def test_the_state_counts_examples_without_activity():
    model = dataclasses.replace(SMALL, boost=2.0, activation="batch_top_k")
    variables = model.init(jax.random.key(0), X[:1])
    output = model.apply(variables, X, train=True)
    state, active = output.state["hidden"], np.any(np.asarray(output.activations["hidden"]) > 0, axis=0)
    np.testing.assert_array_equal(state["idle"], np.where(active, 0, len(X)))
    kept = np.asarray(output.activations["hidden"])
    np.testing.assert_allclose(state["threshold"], kept[kept > 0].min(), rtol=1e-6)
    np.testing.assert_allclose(state["boost"].duty_cycle, (kept > 0).mean(0), rtol=1e-6)
    late = {"hidden": {**state, "idle": jnp.full(32, 2**31 - 2, jnp.int32)}}
    again = model.apply(Variables(variables.params, late), X, train=True).state["hidden"]["idle"]
    assert set(np.asarray(again).tolist()) == {0, 2**31 - 1}


def test_boosting_lets_idle_latents_win():
    model = dataclasses.replace(SMALL, boost=2.0)
    variables = model.init(jax.random.key(0), X[:1])
    boost = variables.state["hidden"]["boost"]
    won = np.asarray(model.apply(variables, X, train=True).activations["hidden"]) > 0
    duty = boost._replace(duty_cycle=jnp.asarray(won.any(0), jnp.float32), samples=jnp.float32(1e6))
    busy = variables._replace(state={"hidden": {**variables.state["hidden"], "boost": duty}})
    after = np.asarray(model.apply(busy, X, train=True).activations["hidden"]) > 0
    assert (after & ~won.any(0)).sum() > (won & ~won.any(0)).sum()
    # The exported code needs no boost.
    np.testing.assert_array_equal(np.asarray(model.apply(busy, X).activations["hidden"]) > 0, won)


def test_schedules_by_steps():
    model = SparseAutoencoder(hidden=32, k=4, k_start=16, k_steps=10, boost=2.0, boost_hold=5, boost_fade=10)
    assert [float(model.at(0, step).k) for step in (0, 5, 10, 99)] == [16, 10, 4, 4]
    assert [float(model.at(0, step).boost) for step in (0, 5, 10, 15)] == [2, 2, 1, 0]
    sparse = SparseAutoencoder(hidden=32, k=None, activation="relu", l1=4.0, penalty_steps=8)
    assert [float(sparse.at(0, step).l1) for step in (0, 2, 8, 20)] == [0, 1, 4, 4]
    assert sparse.unify([sparse]) == {} and model.unify([model, SMALL]) == {"most_k": 16}


def test_sites_are_read_and_written():
    both = np.concatenate([X, 2 * X[::-1]], axis=1)
    codes = []
    for model, target in (
        (dataclasses.replace(SMALL, sites=2), both[:, :8]),
        (dataclasses.replace(SMALL, sites=2, reads=1), both[:, 8:]),
        (dataclasses.replace(SMALL, sites=2, reads=0, writes=1, pre_bias=False, skip=True), both[:, 8:]),
        (dataclasses.replace(SMALL, sites=2, reads=None), both),
    ):
        output = model.apply(model.init(jax.random.key(0), both[:1]), both)
        np.testing.assert_array_equal(output.target, target)
        assert output.prediction.shape == target.shape
        codes.append(output.activations["hidden"])
    alone = SMALL.apply(SMALL.init(jax.random.key(0), X[:1]), X)
    np.testing.assert_allclose(codes[0], alone.activations["hidden"], rtol=1e-6)

    def read(site):
        model = dataclasses.replace(SMALL, sites=2, reads=site, most_k=4)
        return model.apply(model.init(jax.random.key(0), both[:1]), both).target

    np.testing.assert_array_equal(jax.jit(jax.vmap(read))(jnp.int32([0, 1])), np.stack([both[:, :8], both[:, 8:]]))


def test_projections_keep_the_decoder_at_norm_1():
    model = dataclasses.replace(SMALL, decoder="unit")
    params = model.init(jax.random.key(0), X[:1]).params
    np.testing.assert_allclose(jnp.linalg.norm(params["output"]["kernel"], axis=-1), 1, rtol=1e-6)
    longer = jax.tree.map(lambda leaf: 3 * leaf, params)
    projected = model.project(longer)
    np.testing.assert_allclose(projected["output"]["kernel"], params["output"]["kernel"], rtol=1e-6)
    np.testing.assert_array_equal(projected["hidden"]["rows"], longer["hidden"]["rows"])
    along = {"hidden": params["hidden"], "output": {**params["output"], "kernel": 2 * params["output"]["kernel"]}}
    left = model.project_gradient(params, along)["output"]["kernel"]
    np.testing.assert_allclose(left, 0, atol=1e-6)


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"k": None}, "model.k is None"),
        ({"k": 40}, "model.k is 40"),
        ({"k": 2.5}, "batch_top_k also takes 2.5"),
        ({"k": 4, "most_k": 3}, "model.most_k is 3"),
        ({"l1": 1.0}, "because activation is top_k"),
        ({"activation": "jump_relu", "k": None, "l0": 1.0, "l0_penalty": "quadratic"}, "model.l0_target is None"),
        ({"prefixes": (8, 4)}, "sizes that ascend"),
        ({"reads": 1}, "one of 1 sites"),
        ({"sites": 2, "writes": 1}, "model.pre_bias is True"),
        ({"activation": "gated", "k": None, "encoder": "lca"}, "linear, because activation is gated"),
    ],
)
def test_what_does_not_fit_is_refused(changes, named):
    with pytest.raises(ConfigError, match=named):
        dataclasses.replace(SMALL, **changes)


def test_inputs_that_do_not_divide_among_the_sites_are_refused():
    with pytest.raises(ConfigError, match="a divisor of the 8 numbers"):
        dataclasses.replace(SMALL, sites=3).init(jax.random.key(0), X[:1])
