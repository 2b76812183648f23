"""k-winners, sparse weights and noise against results of nupic.torch and the paper's code (see tests/golden.py)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.functional import (
    BoostState,
    connections_per_unit,
    example_keys,
    inference_k,
    init_boost_state,
    k_winners,
    k_winners_2d,
    pixel_noise,
    uniform_fan_in,
    update_boost_state,
)
from tests import golden

pytestmark = pytest.mark.optimized

keep = jax.jit(k_winners, static_argnames=("ties", "relu"))
keep_2d = jax.jit(k_winners_2d, static_argnames=("local", "ties", "relu"))
update = jax.jit(update_boost_state, static_argnames="period")


@partial(jax.jit, static_argnames=("k", "boost_strength", "ties", "relu"))
def kept_and_gradient(x, state, upstream, **settings):
    y, backward = jax.vjp(lambda x: k_winners(x, state, **settings), x)
    return y, backward(upstream)[0]


def seen(duty_cycle) -> BoostState:
    return BoostState(jnp.asarray(duty_cycle).reshape(-1), jnp.float32(1000))


def nhwc(x):
    return jnp.asarray(np.moveaxis(x, 1, -1))


def batches(x, sizes):
    return np.split(x, np.cumsum(sizes)[:-1])


def test_forward_without_boost():
    case = golden.load("kwinners_01_fwd_noboost")
    for i, k in enumerate(case["ks"]):
        for ties, name in (("all", "out_noties"), ("first", "out_breakties")):
            y = keep(case["x"], seen(case["duty"]), k=int(k), ties=ties)
            np.testing.assert_array_equal(y, case[name][i], err_msg=f"k={k}, ties={ties}")


def test_forward_with_boost():
    case = golden.load("kwinners_02_fwd_boost")
    for i, k in enumerate(case["ks"]):
        for j, strength in enumerate(case["boost_strengths"]):
            for ties, names in (("all", ["out"]), ("first", ["out_breakties", "out_paper"])):
                y = keep(case["x"], seen(case["duty"]), k=int(k), boost_strength=float(strength), ties=ties)
                for name in names:
                    np.testing.assert_array_equal(y, case[name][i, j], err_msg=f"k={k}, strength={strength}, {name}")


def test_ties():
    case = golden.load("kwinners_04_ties")
    every = np.asarray(keep(case["x"], seen(case["duty"]), k=2, ties="all"))
    first = np.asarray(keep(case["x"], seen(case["duty"]), k=2, ties="first"))
    np.testing.assert_array_equal(every, case["out_noties"])
    # The peer does not specify which tied units it keeps, but their number and values.
    np.testing.assert_array_equal(np.count_nonzero(first, axis=-1), case["nnz_breakties"])
    np.testing.assert_array_equal(np.sort(first, axis=-1), np.sort(case["out_breakties"], axis=-1))


@pytest.mark.parametrize(("ties", "name"), [("all", "out_noties"), ("first", "out_breakties")])
def test_relu(ties, name):
    case = golden.load("kwinners_05_relu")
    state = seen(case["duty"])
    np.testing.assert_array_equal(keep(case["x"], state, k=2, boost_strength=1.0, ties=ties, relu=True), case[name])
    plain = keep(case["x"], state, k=2, boost_strength=1.0, ties=ties)
    np.testing.assert_array_equal(plain, case["out_norelu"])


@pytest.mark.parametrize(
    ("ties", "relu", "names"),
    [
        ("all", False, ["noties"]),
        ("first", False, ["breakties", "paper"]),
        ("all", True, ["noties_relu"]),
        ("first", True, ["breakties_relu"]),
    ],
)
def test_gradient(ties, relu, names):
    case = golden.load("kwinners_06_grad")
    settings = {"k": 6, "boost_strength": 1.5, "ties": ties, "relu": relu}
    y, gradient = kept_and_gradient(case["x"], seen(case["duty"]), case["upstream"], **settings)
    for name in names:
        np.testing.assert_array_equal(y, case[f"out_{name}"])
        np.testing.assert_array_equal(gradient, case[f"grad_{name}"])


@pytest.mark.parametrize(
    ("ties", "relu", "name"),
    [("all", False, "grad_zeros_noties"), ("all", True, None), ("first", True, "grad_zeros_breakties_relu")],
)
def test_gradient_of_units_tied_at_zero(ties, relu, name):
    """With ties="all" and relu the peer passes gradient to winners that are exactly 0; ours, as ReLU's, does not."""
    case = golden.load("kwinners_06_grad")
    settings = {"k": 2, "boost_strength": 0.0, "ties": ties, "relu": relu}
    _, gradient = kept_and_gradient(case["x_zeros"], init_boost_state(5), case["upstream_zeros"], **settings)
    np.testing.assert_array_equal(gradient, case[name] if name else [[0, 0, 0, 4, 0]])


def test_duty_cycles_over_two_epochs_with_partial_batches():
    case = golden.load("kwinners_07_duty_seq_p1000")
    sizes = case["batch_sizes"]
    state = init_boost_state(30)
    for t, (x, out) in enumerate(zip(batches(case["x"], sizes), batches(case["out"], sizes), strict=True)):
        y = keep(x, state, k=6, boost_strength=1.5)
        np.testing.assert_array_equal(y, out, err_msg=f"batch {t}")
        state = update(state, y, period=1000)
        np.testing.assert_allclose(state.duty_cycle, case["duty"][t], atol=1e-6, err_msg=f"batch {t}")
        assert int(state.samples) == case["learning_iterations"][t]


def test_a_batch_larger_than_the_period_differs_by_design():
    """The peer weighs the old average by (50 - 64) / 50 < 0, so its duty cycles are not fractions; ours are."""
    case = golden.load("kwinners_09_duty_batch_gt_period")
    assert case["duty"][0].sum() > 3  # more winners than the three that every example has
    state = init_boost_state(12)
    for t, x in enumerate(batches(case["x"], case["batch_sizes"])):
        y = keep(x, state, k=3, boost_strength=1.0)
        state = update(state, y, period=50)
        np.testing.assert_allclose(state.duty_cycle, np.mean(np.asarray(y) > 0, axis=0), atol=1e-6)
        assert np.sum(state.duty_cycle) <= 3.0001
        if t == 0:
            np.testing.assert_array_equal(y, batches(case["out"], case["batch_sizes"])[0])


def test_inference():
    case = golden.load("kwinners_10_inference_k")
    state = init_boost_state(40)
    for x in batches(case["x_train"], case["batch_sizes"]):
        state = update(state, keep(x, state, k=10, boost_strength=1.5))
    np.testing.assert_allclose(state.duty_cycle, case["duty_before"], atol=1e-6)
    np.testing.assert_array_equal(keep(case["x_eval"], state, k=15, boost_strength=1.5), case["out_eval"])
    for n, _, factor, k, k_inference in case["table"]:
        # The peer's one-dimensional layer truncates (int), its images and the paper round: ours always rounds.
        assert k_inference == int(k * factor)
        assert inference_k(int(k), float(factor), int(n)) == round(k * factor)


def test_k_of_images_at_inference():
    for *_, factor, local, n, k, k_inference in golden.load("kwinners_16_2d_k_table")["table"]:
        # The peer rounds n * fraction * factor, ours k * factor, k being what a user gives: two local rows differ.
        ours = int(inference_k(int(k), float(factor), int(n)))
        assert ours == k_inference - 1 if local else ours == k_inference


def test_images_global():
    case = golden.load("kwinners_12_2d_global")
    for i, k in enumerate(case["ks"]):
        for j, strength in enumerate(case["boost_strengths"]):
            y = keep_2d(nhwc(case["x"]), seen(case["duty"]), k=int(k), boost_strength=float(strength))
            np.testing.assert_array_equal(y, nhwc(case["out"][i, j]), err_msg=f"k={k}, strength={strength}")
            np.testing.assert_array_equal(y, nhwc(case["out_paper"][i, j]))


def test_images_local():
    case = golden.load("kwinners_13_2d_local")
    for i, k in enumerate(case["ks"]):
        for j, strength in enumerate(case["boost_strengths"]):
            for relu, name in ((False, "out"), (True, "out_relu")):
                y = keep_2d(
                    nhwc(case["x"]), seen(case["duty"]), k=int(k), boost_strength=float(strength), local=True, relu=relu
                )
                np.testing.assert_array_equal(y, nhwc(case[name][i, j]), err_msg=f"k={k}, {strength=}, {name}")


def test_duty_cycles_of_filters():
    case = golden.load("kwinners_14_2d_duty_seq_global")
    sizes = case["batch_sizes"]
    state = init_boost_state(8)
    for t, (x, out) in enumerate(zip(batches(case["x"], sizes), batches(case["out"], sizes), strict=True)):
        y = keep_2d(nhwc(x), state, k=24, boost_strength=1.5)
        np.testing.assert_array_equal(y, nhwc(out), err_msg=f"batch {t}")
        state = update(state, y, period=100)
        np.testing.assert_allclose(state.duty_cycle, case["duty"][t].reshape(-1), atol=1e-6)
        assert int(state.samples) == case["learning_iterations"][t]
    np.testing.assert_array_equal(
        keep_2d(nhwc(case["x_eval"]), state, k=36, boost_strength=1.5), nhwc(case["out_eval"])
    )


def test_continuing_from_a_saved_state():
    """The peer loses the number of examples and overwrites the average; our state has the count."""
    case = golden.load("kwinners_26_checkpoint")
    state = init_boost_state(16)
    for x in np.split(case["x"], 20):
        state = update(state, keep(x, state, k=4, boost_strength=1.5))
    np.testing.assert_allclose(state.duty_cycle, case["duty_saved"], atol=1e-6)
    saved = BoostState(*(np.asarray(leaf) for leaf in state))
    restored = BoostState(*(jnp.asarray(leaf) for leaf in saved))
    state = update(restored, keep(case["x_next"], restored, k=4, boost_strength=1.5))
    np.testing.assert_allclose(state.duty_cycle, case["duty_continued"], atol=1e-6)
    assert np.abs(np.asarray(state.duty_cycle) - case["duty_reloaded"]).max() > 0.01


def test_nan_and_infinity():
    case = golden.load("kwinners_27_nan_inf")
    y = np.asarray(keep(case["x"], seen(case["duty"]), k=2, ties="all"))
    # With more NaN than winners the peer's threshold is NaN and the whole row passes; ours keeps the tied NaN only.
    np.testing.assert_array_equal(np.delete(y, 3, axis=0), np.delete(case["out_noties"], 3, axis=0))
    np.testing.assert_array_equal(y[3], [np.nan, np.nan, np.nan, 0, 0])
    first = np.asarray(keep(case["x"], seen(case["duty"]), k=2, ties="first"))
    np.testing.assert_array_equal(np.delete(first, 3, axis=0), np.delete(case["out_breakties"], 3, axis=0))
    np.testing.assert_array_equal(first[3], [np.nan, np.nan, 0, 0, 0])


def test_boosts_so_strong_that_they_underflow():
    case = golden.load("kwinners_28_boost_underflow")
    for i, strength in enumerate(case["boost_strengths"]):
        state = seen(case["duty"])
        y = keep(case["x"], state, k=3, boost_strength=float(strength), ties="all")
        np.testing.assert_array_equal(y, case["out"][i], err_msg=f"strength {strength}")
        first = np.asarray(keep(case["x"], state, k=3, boost_strength=float(strength), ties="first"))
        assert (np.count_nonzero(first, axis=-1) == 3).all()
        clear = np.count_nonzero(case["out"][i], axis=-1) == 3
        np.testing.assert_array_equal(first[clear], case["out_paper"][i][clear])


def test_scale_and_density_of_sparse_layers():
    draw, key = jax.jit(uniform_fan_in, static_argnums=(1, 2)), jax.random.key(1)
    for inputs, _, sparsity, largest, deviation, bias, density, *_ in golden.load("kwinners_20_init_scale")["table"]:
        shape = (int(inputs), 64)
        np.testing.assert_allclose(connections_per_unit(shape, 1 - sparsity) / inputs, density, atol=1e-6)
        weights = np.asarray(draw(key, shape))
        np.testing.assert_allclose(np.abs(weights).max(), largest, rtol=1e-3)
        np.testing.assert_allclose(weights.std(), deviation, rtol=0.02)
        np.testing.assert_allclose(np.abs(draw(key, (700,), int(inputs))).max(), bias, rtol=0.05)


@jax.jit
def masked_gradients(weights, bias, mask, x, y):
    def loss(weights, bias):
        return jnp.mean((x @ jnp.where(mask, weights, 0.0).T + bias[None] - y) ** 2)

    return jax.grad(loss, argnums=(0, 1))(weights, bias)


@pytest.mark.parametrize("momentum", [False, True])
def test_training_masked_weights_equals_zeroing_them_after_each_step(momentum):
    """The peer zeroes after the step; ours masks in the forward pass. The weights have the same effect.

    Weights that the peer keeps at zero stay at zero here, because no gradient reaches them.
    """
    name = "kwinners_19_rezero_sgd_momentum_wd" if momentum else "kwinners_19_rezero_sgd_plain"
    case, setting = golden.load(name), golden.params(name)
    mask = ~case["zero_mask"].astype(bool)
    weights, bias = np.where(mask, case["w0"], np.float32(0)), case["b0"]
    velocity = [np.zeros_like(weights), np.zeros_like(bias)]
    for t in range(4):
        grads = list(map(np.asarray, masked_gradients(weights, bias, mask, case["X"][t], case["Y"][t])))
        np.testing.assert_array_equal(grads[0][~mask], 0)
        np.testing.assert_allclose(grads[0][mask], case["grad"][t][mask], atol=1e-6)
        decayed = [g + np.float32(setting["weight_decay"]) * p for g, p in zip(grads, (weights, bias), strict=True)]
        velocity = [np.float32(setting["momentum"]) * v + d for v, d in zip(velocity, decayed, strict=True)]
        weights, bias = (p - np.float32(setting["lr"]) * v for p, v in zip((weights, bias), velocity, strict=True))
        np.testing.assert_allclose(weights, case["w"][t], atol=1e-6)
        np.testing.assert_allclose(bias, case["b"][t], atol=1e-6)


def test_the_number_of_pixels_changed_by_noise():
    case = golden.load("kwinners_25_mnist_noise")
    value, noisy = golden.params("kwinners_25_mnist_noise")["white"], jax.jit(pixel_noise)
    image, keys = jnp.asarray(case["image"]).reshape(1, 28, 28, 1), example_keys(jax.random.key(0), jnp.arange(1))
    for level, out, count in zip(case["levels"], case["out"], case["counts"], strict=True):
        ours = np.asarray(noisy(keys, image, level=float(level), value=value))
        changed = ours != np.asarray(image)
        assert changed.sum() == count == (out.reshape(-1) != case["image"].reshape(-1)).sum()
        np.testing.assert_array_equal(ours[changed], np.full(count, np.float32(value)))
