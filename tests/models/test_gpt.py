"""GPT: what each position may see, where the noise is, and that it learns."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sparsejax.hyper import hyper_of, stack_hyper

from sparsejax.errors import ConfigError
from sparsejax.functional import example_keys
from sparsejax.models.gpt import GPT, next_token_loss

SMALL = GPT(vocabulary=11, context=12, blocks=2, width=16, heads=4, sigma=0.5)
BATCH, LENGTH = 3, 8


@functools.cache
def applied(model=SMALL):
    return jax.jit(model.apply, static_argnames="train")


@functools.cache
def drawn(model=SMALL):
    """Returns variables whose weights are large enough for every part to count."""
    variables = model.init(jax.random.key(0), jnp.zeros((1, LENGTH), jnp.int32))
    return variables._replace(params=jax.tree.map(lambda x: x if x.ndim < 2 else 10 * x, variables.params))


def sequences(seed=0, batch=BATCH, length=LENGTH):
    return jax.random.randint(jax.random.key(seed), (batch, length), 0, SMALL.vocabulary)


def keys(seed=1, batch=BATCH):
    return example_keys(jax.random.key(seed), jnp.arange(batch))


def test_shapes_of_everything():
    out = applied()(drawn(), sequences())
    assert out.prediction.shape == (BATCH, LENGTH, 11) and out.prediction.dtype == jnp.float32 and out.state == {}
    assert {name: h.shape for name, h in out.activations.items()} == {
        "mlp1": (BATCH, LENGTH, 64),
        "mlp2": (BATCH, LENGTH, 64),
    }
    assert all(np.min(h) == 0 for h in out.activations.values())
    first, second = SMALL.layers((LENGTH,))
    assert (first.name, first.units, first.positions, first.k, first.threshold) == (
        "mlp1",
        64 * LENGTH,
        LENGTH,
        None,
        0,
    )
    assert second.name == "mlp2" and list(out.activations) == ["mlp1", "mlp2"]
    gelu = dataclasses.replace(SMALL, activation="gelu")
    assert gelu.layers((LENGTH,))[0].threshold == 1e-4
    assert np.min(applied(gelu)(drawn(), sequences()).activations["mlp1"]) < 0


def test_the_first_weights():
    model = GPT(vocabulary=500, context=64, width=64, blocks=2, heads=4)
    params = model.init(jax.random.key(0), jnp.zeros((1, 5), jnp.int32)).params
    spread = {name: float(jnp.std(x)) for name, x in (
        ("embedding", params["embedding"]), ("attention", params["attention2"]["inputs"]["kernel"]),
        ("hidden", params["mlp1"]["kernel"]), ("output", params["output"]["kernel"]))}  # fmt: skip
    assert spread == pytest.approx(dict.fromkeys(spread, 0.02), rel=0.05)
    for layer in (params["attention1"]["output"], params["mlp2_output"]):
        assert float(jnp.std(layer["kernel"])) == pytest.approx(0.01, rel=0.05) and not np.any(layer["bias"])
    assert len({float(x.ravel()[0]) for x in jax.tree.leaves(params) if x.ndim == 2}) == 11  # no two from one key


@pytest.mark.parametrize("train", [False, True])
def test_a_later_token_never_changes_earlier_predictions(train):
    before = sequences()
    expected = np.asarray(applied()(drawn(), before, key=keys(), train=train).prediction)
    for place in (0, 3, LENGTH - 1):
        after = before.at[:, place].set((before[:, place] + 1) % SMALL.vocabulary)
        got = np.asarray(applied()(drawn(), after, key=keys(), train=train).prediction)
        np.testing.assert_array_equal(got[:, :place], expected[:, :place])
        changed = np.abs(got[:, place:] - expected[:, place:]).max(axis=(0, 2))
        assert np.all(changed > 1e-4)  # that position and every later one


def test_a_shorter_sequence_is_predicted_alike():
    whole = applied()(drawn(), sequences()).prediction
    part = applied()(drawn(), sequences()[:, :5]).prediction
    np.testing.assert_allclose(part, whole[:, :5], rtol=1e-4, atol=1e-5)


def test_positions_count():
    same = applied()(drawn(), jnp.zeros((1, LENGTH), jnp.int32)).prediction[0]
    assert np.all(np.abs(np.diff(np.asarray(same), axis=0)).max(axis=-1) > 1e-3)


def test_noise_is_in_training_only():
    plain = applied()(drawn(), sequences()).prediction
    np.testing.assert_array_equal(applied()(drawn(), sequences(), key=keys()).prediction, plain)
    noisy = applied()(drawn(), sequences(), key=keys(), train=True)
    assert np.all(np.abs(noisy.prediction - plain).max(axis=-1) > 1e-3)
    none = {**hyper_of(SMALL), "sigma": np.float32(0)}
    without = applied()(drawn(), sequences(), key=keys(), train=True, hyper=none)
    np.testing.assert_allclose(without.prediction, plain, rtol=1e-5, atol=1e-6)
    assert float(noisy.measures["sigma"]) == 0.5 and float(without.measures["sigma"]) == 0


def test_noise_is_added_to_the_normalised_input_of_every_mlp():
    # With an MLP that passes on its input, the hidden units are what it read: noise of the same size in each block,
    # whatever the scale of the residual stream.
    model = dataclasses.replace(SMALL, width=32, mlp_factor=1, sigma=0.5)
    variables = drawn(model)
    for i in (1, 2):
        variables.params[f"mlp{i}"] = {"kernel": jnp.eye(32), "bias": jnp.full(32, 100.0)}
        variables.params[f"mlp{i}_output"] = {"kernel": jnp.zeros((32, 32)), "bias": jnp.zeros(32)}
    tokens, many = sequences(batch=60), keys(batch=60)
    clean = applied(model)(variables, tokens).activations
    noisy = applied(model)(variables, tokens, key=many, train=True).activations
    noise = {name: np.asarray(noisy[name] - clean[name]) for name in clean}
    for name in clean:
        np.testing.assert_allclose(np.mean(np.asarray(clean[name]), axis=-1), 100, atol=1e-3)
        assert noise[name].std() == pytest.approx(0.5, rel=0.03) and abs(noise[name].mean()) < 0.02
    drawings = np.stack([noise["mlp1"][0], noise["mlp1"][1], noise["mlp2"][0]])  # by example and by block
    assert np.abs(np.corrcoef(drawings.reshape(3, -1)) - np.eye(3)).max() < 0.25


def test_noise_of_an_example_does_not_depend_on_its_batch():
    alike = jnp.broadcast_to(sequences()[:1], (BATCH, LENGTH))
    whole = applied()(drawn(), alike, key=keys(), train=True).prediction
    part = applied()(drawn(), alike[1:], key=keys()[1:], train=True).prediction
    np.testing.assert_allclose(part, whole[1:], rtol=1e-4, atol=1e-5)
    assert len({row.tobytes() for row in np.asarray(whole)}) == BATCH


def test_noise_is_off_from_its_step_on():
    model = dataclasses.replace(SMALL, noise_off_step=100)
    at = jax.jit(lambda hyper, step: model.scheduled(hyper, epoch=jnp.float32(0), step=step)["sigma"])
    assert [float(at(hyper_of(model), jnp.int32(step))) for step in (0, 99, 100, 101, 10**6)] == [0.5, 0.5, 0, 0, 0]
    assert float(SMALL.scheduled(hyper_of(SMALL), epoch=jnp.float32(0), step=jnp.int32(10**6))["sigma"]) == 0.5
    # Traced: networks that differ in it are one program.
    several = stack_hyper([dataclasses.replace(model, noise_off_step=step) for step in (0, 50, 200)])
    sigmas = jax.vmap(at, in_axes=(0, None))(several, jnp.int32(50))
    np.testing.assert_array_equal(np.asarray(sigmas), np.asarray([0, 0, 0.5], np.float32))
    off = model.scheduled(hyper_of(model), epoch=jnp.float32(0), step=jnp.int32(100))
    got = applied(model)(drawn(), sequences(), key=keys(), train=True, hyper=off).prediction
    np.testing.assert_allclose(got, applied()(drawn(), sequences()).prediction, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("train", [False, True])
def test_jit_changes_nothing(train):
    compiled = applied()(drawn(), sequences(), key=keys(), train=train)
    eager = SMALL.apply(drawn(), sequences(), key=keys(), train=train)
    for got, wanted in zip(jax.tree.leaves(compiled), jax.tree.leaves(eager), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_several_networks_in_one_program_equal_each_alone():
    models = [dataclasses.replace(SMALL, sigma=sigma) for sigma in (0.0, 0.3, 2.0)]
    together = jax.jit(jax.vmap(lambda hyper: SMALL.apply(
        drawn(), sequences(), key=keys(), train=True, hyper=hyper).prediction))(stack_hyper(models))  # fmt: skip
    for model, got in zip(models, together, strict=True):
        alone = applied()(drawn(), sequences(), key=keys(), train=True, hyper=hyper_of(model)).prediction
        np.testing.assert_allclose(got, alone, rtol=1e-3, atol=1e-4)


def test_eight_devices_give_the_gradient_of_one():
    tokens, many = sequences(batch=8), keys(batch=8)

    def gradient(params, tokens, keys):
        def loss_of(params):
            output = SMALL.apply(drawn()._replace(params=params), tokens, key=keys, train=True)
            return jnp.mean(next_token_loss(output.prediction, tokens))

        return jax.grad(loss_of)(params)

    def shard(params, tokens, keys):
        local = gradient(jax.lax.pcast(params, "data", to="varying"), tokens, keys)
        return jax.lax.pmean(local, "data")

    mesh, data = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,)), jax.P("data")
    spread = jax.jit(jax.shard_map(shard, mesh=mesh, in_specs=(jax.P(), data, data), out_specs=jax.P()))
    got, wanted = spread(drawn().params, tokens, many), jax.jit(gradient)(drawn().params, tokens, many)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_tied_weights():
    tied = dataclasses.replace(SMALL, tied=True)
    variables = drawn(tied)
    assert "output" not in variables.params
    untied = {**variables.params, "output": {"kernel": variables.params["embedding"].T}}
    expected = applied()(variables._replace(params=untied), sequences()).prediction
    np.testing.assert_allclose(applied(tied)(variables, sequences()).prediction, expected, rtol=1e-5, atol=1e-6)


def test_loss_is_the_mean_surprise_of_each_next_token():
    logits = np.asarray(jax.random.normal(jax.random.key(3), (2, 4, 5)))
    tokens = np.asarray([[0, 1, 2, 3], [4, 4, 0, 1]], np.int32)
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = [-np.mean([np.log(probability[n, t, tokens[n, t + 1]]) for t in range(3)]) for n in range(2)]
    np.testing.assert_allclose(next_token_loss(jnp.asarray(logits), jnp.asarray(tokens)), expected, rtol=1e-5)
    untrained = SMALL.init(jax.random.key(0), sequences()[:1])
    loss = next_token_loss(applied()(untrained, sequences()).prediction, sequences())
    np.testing.assert_allclose(loss, np.full(BATCH, np.log(11)), rtol=0.02)
    for shape in ((2, 1, 5), (2, 3, 5)):
        with pytest.raises(ValueError, match="expected .batch, length, vocabulary"):
            next_token_loss(jnp.zeros(shape), jnp.asarray(tokens[:, : 1 if shape[1] == 1 else 4]))


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_a_small_network_learns_a_repeated_sequence(sigma):
    model = dataclasses.replace(SMALL, sigma=sigma)
    # Which token follows 1 and 2 depends on the token before them: the network has to look back.
    cycle = jnp.asarray([0, 1, 2, 3, 1, 2, 4, 5], jnp.int32)
    tokens = jnp.stack([jnp.tile(jnp.roll(cycle, -shift), 2)[:12] for shift in range(8)])
    variables, optimiser = model.init(jax.random.key(0), tokens[:1]), optax.adam(1e-2)

    @jax.jit
    def trained(params):
        def step(carry, index):
            params, moments = carry
            noise = example_keys(jax.random.fold_in(jax.random.key(5), index), jnp.arange(8))

            def loss_of(params):
                output = model.apply(variables._replace(params=params), tokens, key=noise, train=True)
                return jnp.mean(next_token_loss(output.prediction, tokens))

            loss, gradient = jax.value_and_grad(loss_of)(params)
            change, moments = optimiser.update(gradient, moments)
            return (optax.apply_updates(params, change), moments), loss

        (params, _), losses = jax.lax.scan(step, (params, optimiser.init(params)), jnp.arange(150))
        return params, losses

    with jax.numpy_dtype_promotion("standard"):  # optax promotes
        params, losses = trained(variables.params)
    assert float(losses[0]) == pytest.approx(np.log(11), rel=0.05)
    logits = applied(model)(variables._replace(params=params), tokens).prediction
    assert np.mean(next_token_loss(logits, tokens)) < 0.25
    right = np.argmax(np.asarray(logits[:, 2:-1]), axis=-1) == np.asarray(tokens[:, 3:])
    assert right.all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": 3}, "model.heads is 3; expected a divisor of model.width, which is 16"),
        ({"heads": 0}, "model.heads is 0"),
        ({"blocks": 0}, "model.blocks is 0; expected a positive number"),
        ({"vocabulary": 1}, "model.vocabulary is 1"),
        ({"activation": "tanh"}, "model.activation is tanh; expected relu or gelu"),
        ({"sigma": -0.1}, "model.sigma is -0.1"),
        ({"noise_off_step": -1}, "model.noise_off_step is -1; expected None, or 0 or more"),
    ],
)
def test_refused_settings(changes, said):
    with pytest.raises(ConfigError, match=said):
        dataclasses.replace(SMALL, **changes)


def test_refused_inputs():
    too_long = sequences(length=13)
    for call in (lambda: SMALL.init(jax.random.key(0), too_long), lambda: SMALL.apply(drawn(), too_long)):
        with pytest.raises(ConfigError, match=r"length of the input is 13; expected a sequence of 1 to 12 tokens"):
            call()
    for wrong in (jnp.zeros((1, 8)), jnp.zeros(8, jnp.int32)):
        with pytest.raises(ConfigError, match=r"expected token ids, integers \[batch, length\]"):
            SMALL.apply(drawn(), wrong)
    with pytest.raises(ValueError, match="needs `key`: one PRNG key per example"):
        SMALL.apply(drawn(), sequences(), train=True)
    with pytest.raises(ValueError, match="no traced field"):
        SMALL.apply(drawn(), sequences(), hyper={"sigmas": 1.0})


@pytest.mark.parametrize("wrong", [-1, 11, 10**6])
def test_an_unknown_token_shows(wrong):
    got = np.asarray(applied()(drawn(), sequences().at[0, 4].set(wrong)).prediction)
    assert np.isnan(got[0, 4:]).all() and np.isfinite(got[1:]).all()
