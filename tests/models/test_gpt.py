"""GPT: causality, the position of the noise, and learning."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.configuration import as_arrays, stack
from sparsejax.errors import ConfigError
from sparsejax.functional import example_keys
from sparsejax.models.gpt import GPT, next_token_loss

SMALL = GPT(vocabulary=11, context=12, blocks=2, width=16, heads=4, sigma=0.5)
BATCH, LENGTH = 8, 8
TOKENS = np.random.default_rng(0).integers(0, SMALL.vocabulary, (BATCH, LENGTH), np.int32)


@functools.cache
def untrained(model=SMALL):
    return jax.jit(model.init)(jax.random.key(0), TOKENS[:1])


@functools.cache
def drawn(model=SMALL):
    """Returns variables whose weights are large enough for every part to count."""
    larger = jax.tree.map(lambda x: x if x.ndim < 2 else jnp.asarray(10 * np.asarray(x)), untrained(model).params)
    return untrained(model)._replace(params=larger)


@functools.partial(jax.jit, static_argnames="train")
def apply(model, variables, tokens, key=None, train=False):
    return model.apply(variables, tokens, key=key, train=train)


@functools.cache
def keys(seed=1):
    return jax.jit(example_keys)(jax.random.key(seed), np.arange(BATCH))


def answered(tokens, model=SMALL, variables=None, key=None):
    return apply(as_arrays(model), variables or drawn(), tokens, key)


def trained(tokens=TOKENS, variables=None, key=None, **fields):
    """Runs the network as in training: with noise."""
    key = keys() if key is None else key
    return apply(as_arrays(dataclasses.replace(SMALL, **fields)), variables or drawn(), tokens, key, train=True)


def test_shapes_of_everything():
    out = answered(TOKENS)
    assert out.prediction.shape == (BATCH, LENGTH, 11) and out.prediction.dtype == jnp.float32 and out.state == {}
    assert [(name, h.shape) for name, h in out.activations.items()] == [
        ("mlp1", (BATCH, LENGTH, 64)), ("mlp2", (BATCH, LENGTH, 64)),
    ]  # fmt: skip
    assert all(np.min(h) == 0 for h in out.activations.values())
    first, second = SMALL.layers((LENGTH,))
    described = (first.name, first.units, first.positions, first.k, first.threshold)
    assert described == ("mlp1", 64 * LENGTH, LENGTH, None, 0) and second.name == "mlp2"
    gelu = dataclasses.replace(SMALL, activation="gelu")
    assert gelu.layers((LENGTH,))[0].threshold == 1e-4
    assert np.min(answered(TOKENS, gelu).activations["mlp1"]) < 0


def test_the_first_weights():
    model = GPT(vocabulary=500, context=64, width=64, blocks=2, heads=4)
    params = jax.tree.map(np.asarray, jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 5), jnp.int32)).params)
    spread = {name: float(np.std(x)) for name, x in (
        ("embedding", params["embedding"]), ("attention", params["attention2"]["inputs"]["kernel"]),
        ("hidden", params["mlp1"]["kernel"]), ("output", params["output"]["kernel"]))}  # fmt: skip
    assert spread == pytest.approx(dict.fromkeys(spread, 0.02), rel=0.05)
    for layer in (params["attention1"]["output"], params["mlp2_output"]):
        assert float(np.std(layer["kernel"])) == pytest.approx(0.01, rel=0.05) and not np.any(layer["bias"])
    assert len({float(x.ravel()[0]) for x in jax.tree.leaves(params) if x.ndim == 2}) == 11  # no two from one key


@pytest.mark.parametrize("run", [answered, trained])
def test_a_later_token_never_changes_earlier_predictions(run):
    expected = np.asarray(run(TOKENS).prediction)
    for place in (0, 3, LENGTH - 1):
        after = TOKENS.copy()
        after[:, place] = (TOKENS[:, place] + 1) % SMALL.vocabulary
        got = np.asarray(run(after).prediction)
        np.testing.assert_array_equal(got[:, :place], expected[:, :place])
        changed = np.abs(got[:, place:] - expected[:, place:]).max(axis=(0, 2))
        assert np.all(changed > 1e-4)  # that position and every later one


def test_a_shorter_sequence_is_predicted_alike():
    whole, part = (answered(tokens).prediction for tokens in (TOKENS, TOKENS[:, :5]))
    np.testing.assert_allclose(part, whole[:, :5], rtol=1e-4, atol=1e-5)


def test_positions_count():
    same = answered(np.zeros_like(TOKENS)).prediction[0]
    assert np.all(np.abs(np.diff(np.asarray(same), axis=0)).max(axis=-1) > 1e-3)


def test_noise_is_in_training_only():
    plain = answered(TOKENS).prediction
    np.testing.assert_array_equal(answered(TOKENS, key=keys()).prediction, plain)
    noisy, without = trained(), trained(sigma=0.0)
    assert np.all(np.abs(noisy.prediction - plain).max(axis=-1) > 1e-3)
    np.testing.assert_allclose(without.prediction, plain, rtol=1e-5, atol=1e-6)
    assert float(noisy.measures["sigma"]) == 0.5 and float(without.measures["sigma"]) == 0


def test_noise_is_added_to_the_normalised_input_of_every_mlp():
    # With an MLP that passes on its input, the hidden units are what it read: noise of the same size in each block,
    # whatever the scale of the residual stream.
    params = dict(drawn().params)
    for i in (1, 2):
        params[f"mlp{i}"] = {"kernel": np.eye(16, 64, dtype=np.float32), "bias": np.full(64, 100, np.float32)}
        params[f"mlp{i}_output"] = {"kernel": np.zeros((64, 16), np.float32), "bias": np.zeros(16, np.float32)}
    variables = drawn()._replace(params=params)
    runs = [trained(variables=variables, key=keys(seed), sigma=sigma) for sigma in (0.0, 0.5) for seed in range(16)]
    passed = {name: np.stack([run.activations[name][..., :16] for run in runs]) for name in ("mlp1", "mlp2")}
    noise = {}
    for name, read in passed.items():
        clean, noisy = read[:16], read[16:]
        np.testing.assert_allclose(np.mean(clean, axis=-1), 100, atol=1e-3)
        noise[name] = noisy - clean
        assert noise[name].std() == pytest.approx(0.5, rel=0.03) and abs(noise[name].mean()) < 0.02
    drawings = np.stack([noise["mlp1"][:, 0], noise["mlp1"][:, 1], noise["mlp2"][:, 0]])  # by example and by block
    assert np.abs(np.corrcoef(drawings.reshape(3, -1)) - np.eye(3)).max() < 0.1


def test_noise_of_an_example_does_not_depend_on_its_batch():
    whole = np.asarray(trained(np.broadcast_to(TOKENS[:1], TOKENS.shape)).prediction)
    assert len({row.tobytes() for row in whole}) == BATCH
    # The same sequence with the same key, elsewhere and among others.
    moved = trained(np.roll(TOKENS, 3, axis=0), key=jnp.roll(keys(), 1)).prediction
    np.testing.assert_allclose(moved[3], whole[2], rtol=1e-4, atol=1e-5)


def test_noise_is_removed_at_its_step():
    model = dataclasses.replace(SMALL, noise_off_step=100)

    @jax.jit
    def at(model, step):
        return model.at(jnp.float32(0), step).sigma

    assert [float(at(model, np.int32(step))) for step in (0, 99, 100, 101, 10**6)] == [0.5, 0.5, 0, 0, 0]
    assert SMALL.at(jnp.float32(0), jnp.int32(10**6)) == SMALL
    # Traced: networks that differ in it are one program.
    several = stack([dataclasses.replace(model, noise_off_step=step) for step in (0, 50, 200)])
    sigmas = jax.vmap(at, in_axes=(0, None))(several, jnp.int32(50))
    np.testing.assert_array_equal(np.asarray(sigmas), np.asarray([0, 0, 0.5], np.float32))


def test_several_networks_in_one_program_equal_each_alone():
    models = [dataclasses.replace(SMALL, sigma=sigma) for sigma in (0.0, 0.3, 2.0)]
    run = jax.jit(jax.vmap(lambda model: model.apply(drawn(), TOKENS, key=keys(), train=True).prediction))
    for model, got in zip(models, run(stack(models)), strict=True):
        np.testing.assert_allclose(got, trained(sigma=model.sigma).prediction, rtol=1e-3, atol=1e-4)


def test_eight_devices_give_the_gradient_of_one():
    model = dataclasses.replace(SMALL, blocks=1)

    def gradient(params, tokens, keys):
        def loss_of(params):
            output = model.apply(drawn(model)._replace(params=params), tokens, key=keys, train=True)
            return jnp.mean(next_token_loss(output.prediction, tokens))

        return jax.grad(loss_of)(params)

    def shard(params, tokens, keys):
        local = gradient(jax.lax.pcast(params, "data", to="varying"), tokens, keys)
        return jax.lax.pmean(local, "data")

    mesh, data = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,)), jax.P("data")
    spread = jax.jit(jax.shard_map(shard, mesh=mesh, in_specs=(jax.P(), data, data), out_specs=jax.P()))
    got, wanted = (run(drawn(model).params, TOKENS, keys()) for run in (spread, jax.jit(gradient)))
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_tied_weights():
    tied = dataclasses.replace(SMALL, tied=True)
    params = drawn().params
    assert set(params) - set(jax.eval_shape(tied.init, jax.random.key(0), TOKENS[:1]).params) == {"output"}
    expected = {**params, "output": {"kernel": params["embedding"].T}}
    expected = answered(TOKENS, variables=drawn()._replace(params=expected)).prediction
    own = drawn()._replace(params={name: layer for name, layer in params.items() if name != "output"})
    np.testing.assert_allclose(answered(TOKENS, tied, own).prediction, expected, rtol=1e-5, atol=1e-6)


def test_loss_is_the_mean_surprise_of_each_next_token():
    logits = np.random.default_rng(3).normal(size=(2, 4, 5)).astype(np.float32)
    tokens = np.asarray([[0, 1, 2, 3], [4, 4, 0, 1]], np.int32)
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = [-np.mean([np.log(probability[n, t, tokens[n, t + 1]]) for t in range(3)]) for n in range(2)]
    loss = jax.jit(next_token_loss)
    np.testing.assert_allclose(loss(logits, tokens), expected, rtol=1e-5)
    np.testing.assert_allclose(loss(answered(TOKENS, variables=untrained()).prediction, TOKENS), np.log(11), rtol=0.02)
    for shape in ((2, 1, 5), (2, 3, 5)):
        with pytest.raises(ValueError, match="expected .batch, length, vocabulary"):
            next_token_loss(jnp.zeros(shape), jnp.asarray(tokens[:, : 1 if shape[1] == 1 else 4]))


@pytest.mark.slow
def test_a_small_network_learns_a_repeated_sequence():
    # Which token follows 1 and 2 depends on the token before them: the network has to look back.
    cycle = np.asarray([0, 1, 2, 3, 1, 2, 4, 5], np.int32)
    tokens = np.stack([np.tile(np.roll(cycle, -shift), 2)[:12] for shift in range(8)])
    variables, optimiser = untrained(), optax.adam(1e-2)

    @jax.jit
    def learnt(params, model):
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

    for sigma in (0.0, 0.3):
        with jax.numpy_dtype_promotion("standard"):  # optax promotes
            params, losses = learnt(variables.params, dataclasses.replace(SMALL, sigma=sigma))
        assert float(losses[0]) == pytest.approx(np.log(11), rel=0.05)
        logits = answered(tokens, variables=variables._replace(params=params)).prediction
        assert np.mean(next_token_loss(logits, tokens)) < 0.25
        np.testing.assert_array_equal(np.argmax(np.asarray(logits)[:, 2:-1], axis=-1), tokens[:, 3:])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": 3}, "model.heads is 3; expected a divisor of model.width, which is 16"),
        ({"heads": 0}, "model.heads is 0"),
        ({"blocks": 0}, "model.blocks is 0; expected a positive number"),
        ({"vocabulary": 1}, "model.vocabulary is 1"),
        ({"activation": "tanh"}, "model.activation is 'tanh'; expected 'relu' or 'gelu'"),
        ({"sigma": -0.1}, "model.sigma is -0.1"),
        ({"noise_off_step": -1}, "model.noise_off_step is -1; expected None, or 0 or more"),
    ],
)
def test_refused_settings(changes, said):
    with pytest.raises(ConfigError, match=said):
        dataclasses.replace(SMALL, **changes)


def test_refused_inputs():
    too_long = np.zeros((3, 13), np.int32)
    for call in (lambda: SMALL.init(jax.random.key(0), too_long), lambda: SMALL.apply(drawn(), too_long)):
        with pytest.raises(ConfigError, match=r"length of the input is 13; expected a sequence of 1 to 12 tokens"):
            call()
    for wrong in (np.zeros((1, 8), np.float32), np.zeros(8, np.int32)):
        with pytest.raises(ConfigError, match=r"expected token ids, integers \[batch, length\]"):
            SMALL.apply(drawn(), wrong)
    with pytest.raises(ValueError, match="needs `key`: one PRNG key per example"):
        SMALL.apply(drawn(), TOKENS, train=True)


@pytest.mark.parametrize("wrong", [-1, 11, 10**6])
def test_an_unknown_token_gives_nan(wrong):
    tokens = TOKENS.copy()
    tokens[0, 4] = wrong
    got = np.asarray(answered(tokens).prediction)
    assert np.isnan(got[0, 4:]).all() and np.isfinite(got[1:]).all()
