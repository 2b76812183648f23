"""The implicit loss terms of input noise: against quadrature, drawn noise, and second-order theory."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from sparsejax.functional import implicit_terms, implicit_terms_smooth
from tests.functional.drawn import normal

BATCH, INPUTS, UNITS = 3, 6, 10
SIGMA = 0.3

relu_terms = jax.jit(implicit_terms, static_argnames="terms")
smooth_terms = jax.jit(implicit_terms_smooth, static_argnums=5)


def network(inputs=INPUTS, units=UNITS, batch=BATCH):
    rng = np.random.default_rng(0)
    encoder = rng.standard_normal((inputs, units)) / np.sqrt(inputs)
    decoder = rng.standard_normal((units, inputs)) / np.sqrt(units)
    arrays = rng.random((batch, inputs)), encoder, 0.3 * rng.standard_normal(units), decoder, np.full(inputs, 0.1)
    return tuple(a.astype(np.float32) for a in arrays)


def on_device(arrays):
    return tuple(map(jnp.asarray, arrays))


def loss(network, x, target):
    """Returns the squared error of each input `[..., inputs]`, for NumPy's arrays or JAX's."""
    _, encoder, encoder_bias, decoder, decoder_bias = network
    with jax.numpy_rank_promotion("allow"):
        hidden = x @ encoder + encoder_bias
        return ((target - hidden * (hidden > 0).astype(hidden.dtype) @ decoder - decoder_bias) ** 2).sum(-1)


def drawn(network, sigma, draws, activation, seed=5):
    """Estimates the three terms of each example from drawn noise: means and standard errors [3, batch].

    Noise and its opposite are drawn together.
    """
    x, encoder, encoder_bias, decoder, decoder_bias = (np.asarray(a, np.float64) for a in network)
    noise = sigma * np.random.default_rng(seed).standard_normal((draws, x.shape[-1]))
    z = x @ encoder + encoder_bias
    error = x - activation(z) @ decoder - decoder_bias
    each = []
    for eps in (noise, -noise):
        delta = activation(z + (eps @ encoder)[:, None, :]) - activation(z)
        shift = delta @ decoder
        second = delta**2 @ np.sum(decoder**2, axis=-1)
        each.append(np.stack([-2 * np.sum(error * shift, -1), second, np.sum(shift**2, -1) - second]))
    pairs = np.mean(each, axis=0)
    return pairs.mean(axis=1), pairs.std(axis=1) / np.sqrt(draws)


@pytest.mark.parametrize("sigma", [0.05, 0.3, 1.5])
def test_relu_terms_are_within_four_standard_errors_of_drawn_noise(sigma):
    net = network()
    mean, error = drawn(net, sigma, 100_000, lambda z: np.maximum(z, 0))
    terms = np.stack(relu_terms(*net, sigma=sigma))
    assert np.all(np.abs(terms - mean) < 4 * error + 1e-6), (terms - mean) / error
    assert np.all(4 * error < 0.1 * np.abs(terms).max(axis=0))


def test_second_order_terms_are_near_those_of_drawn_noise():
    net = network()
    mean, error = drawn(net, 0.05, 50_000, np.tanh)
    terms = np.stack(smooth_terms(*net, jnp.tanh, sigma=0.05))
    assert np.all(np.abs(terms - mean) < 4 * error + 0.01 * np.abs(terms).max(axis=0))


def planar_network():
    """Returns a network of two inputs, whose units have keys at three angles."""
    x, _, encoder_bias, decoder, bias = network(inputs=2, units=3)
    angle = np.array([0.2, 1.5, 2.7], np.float32)
    return x, np.stack([np.cos(angle), np.sin(angle)]), encoder_bias, decoder, bias


def test_the_sum_is_what_noise_adds_to_the_loss():
    """By quadrature over two inputs, with no noise drawn."""
    net = planar_network()
    x, grid = net[0], np.linspace(-7, 7, 561)
    density = np.exp(-(grid**2) / 2)
    eps = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 1, 2)
    weight = np.outer(density, density).reshape(-1, 1) / density.sum() ** 2
    for sigma in (0.1, 1.0):
        rise = np.sum(loss(net, x + sigma * eps, x) * weight, axis=0) - loss(net, x, x)
        total = np.sum(relu_terms(*net, sigma=sigma, terms=24), axis=0)
        np.testing.assert_allclose(total, rise, rtol=2e-4, atol=2e-6)


def test_more_terms_of_the_series_bring_it_nearer_and_change_nothing_else():
    net = planar_network()
    exact = relu_terms(*net, sigma=SIGMA, terms=24)
    errors = []
    for terms in (2, 12):
        part = relu_terms(*net, sigma=SIGMA, terms=terms)
        np.testing.assert_allclose(np.stack(part[:2]), np.stack(exact[:2]), rtol=1e-6)
        errors.append(np.abs(part.co_fluctuation - exact.co_fluctuation).max())
    assert errors[0] > 10 * errors[1]
    assert errors[1] < 1e-3 * np.abs(exact.co_fluctuation).max()


def test_gradients_are_those_of_the_loss_with_drawn_noise():
    net = network()
    x, parameters = net[0][0], on_device(net[1:])
    eps = SIGMA * normal(20_000, INPUTS)

    def noisy(parameters, eps):
        pair = loss((x, *parameters), jnp.stack([x + eps, x - eps]), x)
        return jnp.mean(pair) - loss((x, *parameters), x, x)

    each = jax.jit(jax.vmap(jax.grad(noisy), in_axes=(None, 0)))(parameters, eps)
    ours = jax.jit(jax.grad(lambda p: sum(implicit_terms(jnp.asarray(x), *p, sigma=SIGMA))))(parameters)
    for drawn_gradient, gradient in zip(each, ours, strict=True):
        error = np.std(drawn_gradient, axis=0) / len(eps) ** 0.5
        # Of some 150 numbers, none should be further than five standard errors.
        np.testing.assert_array_less(np.abs(np.mean(drawn_gradient, axis=0) - gradient), 5 * error + 1e-5)


@pytest.mark.parametrize("which", ["relu", "tanh"])
def test_gradients_are_the_slopes_of_the_terms(which):
    net = network()
    with jax.enable_x64(True):
        net = tuple(jnp.asarray(a.astype(np.float64)) for a in net)
        sigma, mix = jnp.float64(SIGMA), jnp.asarray(np.array([[1.0, -2.0, 3.0]]))

        def mixed(sigma, *net):
            parts = (
                implicit_terms(*net, sigma=sigma, terms=6)
                if which == "relu"
                else implicit_terms_smooth(*net, jnp.tanh, sigma=sigma)
            )
            return mix @ jnp.stack(parts)

        check_grads(jax.jit(mixed), (sigma, *net), 1, ("rev",), eps=1e-6, rtol=1e-6, atol=1e-7)


@jax.jit
def value_and_gradients(sigma, *net):
    return jax.value_and_grad(lambda s, *net: jnp.sum(sum(implicit_terms(*net, sigma=s))), range(6))(sigma, *net)


@jax.jit
def smooth_value_and_gradients(sigma, *net):
    def total(sigma, *net):
        return jnp.sum(sum(implicit_terms_smooth(*net, jnp.tanh, sigma=sigma)))

    return jax.value_and_grad(total, range(6))(sigma, *net)


def everything_finite(net, sigma, function=value_and_gradients):
    value, gradient = function(jnp.float32(sigma), *net)
    return np.isfinite(value) and all(np.isfinite(g).all() for g in gradient)


def test_without_noise_the_terms_are_zero_and_their_gradients_finite():
    net = network()
    net[0][0] = net[2][0] = 0  # a unit exactly at its threshold, and units off it
    for terms in (relu_terms(*net, sigma=0.0), smooth_terms(*net, jnp.tanh, sigma=0.0)):
        np.testing.assert_array_equal(np.stack(terms), np.zeros((3, BATCH)))
    for sigma in (0.0, 1e-30, 1e-7, 1e-3, 100.0, 1e8):
        assert everything_finite(net, sigma), sigma
    assert everything_finite(net, 0.0, smooth_value_and_gradients)


def test_units_with_a_zero_key_add_nothing_and_give_finite_gradients():
    net = network()
    net[1][:, 2] = 0
    # The unit still adds to the output, so only the decoder's bias is changed by taking it away.
    x, encoder, _, decoder, decoder_bias = net
    without = np.delete(encoder, 2, axis=-1), np.delete(net[2], 2), np.delete(decoder, 2, axis=0)
    for bias in (0.7, 0.0, -0.7):
        net[2][2] = bias
        rest = relu_terms(x, *without, decoder_bias + np.float32(max(bias, 0.0)) * decoder[2], sigma=SIGMA)
        np.testing.assert_allclose(np.stack(relu_terms(*net, sigma=SIGMA)), np.stack(rest), rtol=1e-4, atol=1e-6)
        assert everything_finite(net, SIGMA) and everything_finite(net, 0.0)


def test_two_equal_keys_keep_the_gradients_finite():
    net = network()
    net[1][:, 1] = net[1][:, 0]
    assert everything_finite(net, SIGMA)


def test_far_from_the_threshold_relu_is_linear():
    x, encoder, _, decoder, bias = network()
    on = relu_terms(x, encoder, np.full(UNITS, 100, np.float32), decoder, bias, sigma=0.1)
    jacobian = encoder @ decoder
    np.testing.assert_allclose(on.mean_shift, np.zeros(BATCH), atol=1e-30)
    np.testing.assert_allclose(
        on.second_moment + on.co_fluctuation, np.full(BATCH, 0.01 * np.sum(jacobian**2)), rtol=1e-5
    )
    off = relu_terms(x, encoder, np.full(UNITS, -100, np.float32), decoder, bias, sigma=0.1)
    np.testing.assert_allclose(np.stack(off), np.zeros((3, BATCH)), atol=1e-20)


def test_the_second_moment_falls_as_units_are_switched_off():
    x, encoder, encoder_bias, decoder, bias = network()
    moments = [relu_terms(x, encoder, encoder_bias - b, decoder, bias, sigma=SIGMA).second_moment for b in (0, 1, 2)]
    assert np.all(moments[0] > moments[1]) and np.all(moments[1] > moments[2]) and np.all(moments[2] > 0)


def test_small_noise_loses_no_digits():
    """Against float64; the difference of the raw moments would be wrong by several times."""
    net = network()
    with jax.enable_x64(True):
        exact = np.stack(relu_terms(*(jnp.asarray(a.astype(np.float64)) for a in net), sigma=1e-4))
    assert exact.dtype == np.float64
    ours = np.stack(relu_terms(*net, sigma=1e-4))
    np.testing.assert_allclose(ours, exact, rtol=1e-3, atol=1e-5 * np.abs(exact).max())


def test_orthogonal_decoders_have_no_co_fluctuation():
    x, encoder, encoder_bias, _, _ = network(inputs=6, units=6)
    decoder, bias = np.eye(6, dtype=np.float32), np.zeros(6, np.float32)
    terms = relu_terms(x, encoder, encoder_bias, decoder, bias, sigma=SIGMA, terms=3)
    np.testing.assert_array_equal(terms.co_fluctuation, np.zeros(BATCH))
    smooth = smooth_terms(x, encoder, encoder_bias, decoder, bias, jnp.tanh, sigma=SIGMA)
    np.testing.assert_array_equal(smooth.co_fluctuation, np.zeros(BATCH))


def test_a_target_of_another_size_takes_the_place_of_x():
    x, encoder, encoder_bias, _, _ = network()
    rng = np.random.default_rng(1)
    decoder, target = rng.standard_normal((UNITS, 4), np.float32), rng.standard_normal((BATCH, 4), np.float32)
    net = (x, encoder, encoder_bias, decoder, np.zeros(4, np.float32))
    eps = SIGMA * rng.standard_normal((50_000, 1, INPUTS))
    noisy = np.mean([loss(net, x + e, target) for e in (eps, -eps)], axis=0)
    rise = np.mean(noisy, axis=0) - loss(net, x, target)
    error = np.std(noisy, axis=0) / np.sqrt(len(eps))
    total = np.sum(relu_terms(*net, sigma=SIGMA, target=target), axis=0)
    assert np.all(np.abs(total - rise) < 4 * error + 1e-5)


def test_jit_vmap_and_batch_axes_change_nothing():
    net = on_device(network(batch=4))
    smooth = lambda *net, sigma: implicit_terms_smooth(*net, jnp.tanh, sigma=sigma)  # noqa: E731
    for function in (partial(implicit_terms, terms=3), smooth):
        plain = np.stack(jax.jit(function)(*net, sigma=SIGMA))
        rows = jax.jit(jax.vmap(lambda x, function=function: function(x, *net[1:], sigma=SIGMA)))(net[0])
        folded = jax.jit(partial(function, sigma=SIGMA))(net[0].reshape(2, 2, INPUTS), *net[1:])
        for other in (rows, [term.reshape(4) for term in folded]):
            np.testing.assert_allclose(np.stack(other), plain, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.stack(smooth(*net, sigma=SIGMA)), plain, rtol=1e-4, atol=1e-6)  # without jit


def test_members_of_a_vmap_have_their_own_sigma():
    net, sigmas = on_device(network()), np.array([0.0, 0.1, 1.0], np.float32)
    together = jax.jit(jax.vmap(lambda s: implicit_terms(*net, sigma=s, terms=3)))(sigmas)
    for i in range(3):
        alone = relu_terms(*net, sigma=sigmas[i], terms=3)
        np.testing.assert_allclose(np.stack(together)[:, i], np.stack(alone), rtol=1e-4, atol=1e-6)


def test_half_precision_is_computed_in_single():
    half = tuple(a.astype(jnp.bfloat16) for a in network())
    terms = relu_terms(*half, sigma=SIGMA, terms=3)
    exact = relu_terms(*(a.astype(np.float32) for a in half), sigma=SIGMA, terms=3)
    assert terms.second_moment.dtype == jnp.float32
    np.testing.assert_allclose(np.stack(terms), np.stack(exact), rtol=1e-6)


@pytest.mark.parametrize("which", ["relu", "tanh"])
def test_nothing_as_large_as_all_pairs_of_all_examples_is_built(which):
    net = network(batch=50, units=30)

    def total(*net):
        if which == "relu":
            return jnp.sum(sum(implicit_terms(*net, sigma=SIGMA)))
        return jnp.sum(sum(implicit_terms_smooth(*net, jnp.tanh, sigma=SIGMA)))

    program = jax.jit(jax.value_and_grad(total, range(5))).lower(*net).as_text()
    shapes = {tuple(map(int, shape.split("x"))) for shape in re.findall(r"tensor<([\dx]+)xf32>", program)}
    assert max(int(np.prod(shape)) for shape in shapes) == 50 * 30


@pytest.mark.slow
def test_training_on_the_terms_lowers_the_loss_with_noise():
    net = on_device(network(batch=16))
    x = net[0]
    eps = 0.5 * normal(4000, 1, INPUTS)

    def objective(parameters):
        clean = loss((x, *parameters), x, x)
        return jnp.mean(clean + sum(implicit_terms(x, *parameters, sigma=0.5, terms=6)))

    @jax.jit
    def train(parameters):
        def step(parameters, _):
            gradient = jax.grad(objective)(parameters)
            return jax.tree.map(lambda p, g: p - 0.02 * g, parameters, gradient), None

        return jax.lax.scan(step, parameters, length=150)[0]

    trained = train(net[1:])
    noisy = jax.jit(lambda p: jnp.mean(loss((x, *p), x[None] + eps, x[None])))
    before, after = float(noisy(net[1:])), float(noisy(trained))
    assert after < 0.6 * before
    np.testing.assert_allclose(objective(trained), after, rtol=0.02)


NET = (jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.ones(4), jnp.ones((4, 3)), jnp.ones(3))


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({1: jnp.ones((4, 3))}, {}, r"encoder has shape \(4, 3\); expected \(3, 3\)"),
        ({2: jnp.ones(3)}, {}, r"encoder_bias has shape \(3,\); expected \(4,\)"),
        ({3: jnp.ones((3, 3))}, {}, r"decoder has shape \(3, 3\); expected \(4, 3\)"),
        ({4: jnp.ones(())}, {}, r"decoder_bias has shape \(\); expected \[outputs\]"),
        ({}, {"target": jnp.ones((1, 3))}, r"target has shape \(1, 3\); expected \(2, 3\)"),
        ({3: jnp.ones((4, 5)), 4: jnp.ones(5)}, {}, r"5 outputs, but x has 3 features; pass a target \(2, 5\)"),
        ({}, {"sigma": -0.1}, "sigma is -0.1"),
        ({}, {"sigma": float("nan")}, "sigma is nan"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, options, message):
    net = tuple(change.get(i, array) for i, array in enumerate(NET))
    options = {"sigma": 0.1} | options
    with pytest.raises(ValueError, match=message):
        implicit_terms(*net, **options)
    with pytest.raises(ValueError, match=message):
        implicit_terms_smooth(*net, jnp.tanh, **options)


def test_a_series_of_no_terms_is_refused():
    with pytest.raises(ValueError, match="terms is 0"):
        implicit_terms(*NET, sigma=0.1, terms=0)
