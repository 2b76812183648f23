"""References of noise and its implicit loss terms."""

import math

import jax
import numpy as np

from tests.references.reference import finite, need, reference, relu


@reference("example_keys")
def _(a, y):
    each = [jax.random.key_data(jax.random.fold_in(a.key, int(row))) for row in a.rows]
    np.testing.assert_array_equal(jax.random.key_data(y), np.array(each).reshape(jax.random.key_data(y).shape))


def changed_pixels(a, y):
    images = a.images
    need(np.isfinite(a.level) and 0 <= a.level <= 1)
    count = math.floor(np.float32(a.level) * np.float32(images.shape[1] * images.shape[2]) + 1e-3)
    assert y.shape == images.shape
    changed = ((y != images) & ~np.isnan(images)).any(-1).reshape(len(images), -1).sum(-1)
    assert (changed <= count).all()
    return count, changed


@reference("pixel_noise", lambda d, a: a | {"value": 7.5})
def _(a, y):
    need(a.images.size)
    count, _ = changed_pixels(a, y)
    number = np.ndim(a.value) == 0 and np.isfinite(a.value) and abs(a.value) < 1e3
    if number and np.isfinite(a.images).all() and not (a.images == a.value).any():
        value = float(np.float16(a.value))
        np.testing.assert_array_equal((abs(y - value) < 0.05 + 0.01 * abs(value)).all(-1).sum((1, 2)), count)


@reference("salt_and_pepper")
def _(a, y):
    finite(a.images, a.bounds)
    need(a.images.size)
    changed_pixels(a, y)
    to_bound = np.min([np.abs(y - bound) for bound in a.bounds], axis=0)
    assert ((y == a.images) | (to_bound <= 0.01 * np.abs(a.bounds).max())).all(), "neither a bound nor the old value"


@reference("add_noise")
def _(a, y):
    assert y.shape == a.x.shape
    if a.sigma == 0:
        return a.x
    need(0 < a.sigma < 10)
    calm = np.isfinite(a.x) & (np.abs(a.x) < 1e3)
    noise = np.abs(y - a.x)[calm]
    assert (noise <= (1.8 if a.distribution == "uniform" else 40) * a.sigma + 10).all()


@reference("anneal")
def _(a, y):
    finite(a.sigma, a.time, a.hold, a.duration)
    late = a.time - a.hold
    left = 1 if late <= 0 else max(0.0, 1 - late / max(a.duration, 1e-6))
    np.testing.assert_allclose(y, a.sigma * left, atol=1e-5 * abs(a.sigma), rtol=1e-4)


@reference("dropout")
def _(a, y):
    need(0 <= a.rate < 0.999)
    on = y != 0
    finite(a.x)
    np.testing.assert_allclose(y[on], a.x[on] / (1 - a.rate), rtol=0.05, atol=1e-5)
    assert y.shape == a.x.shape and (a.rate > 0 or (y == a.x).all())


@reference("white_noise_blend")
def _(a, y):
    need(0 <= a.level <= 1)
    finite(a.waveform)
    assert y.shape == a.waveform.shape
    assert (np.abs(y - (1 - a.level) * a.waveform) <= a.level + 0.05 * (1 + np.abs(a.waveform))).all()


def same_outputs(d, a):
    """Makes the decoder's outputs the inputs, if there is no target."""
    if a.get("target") is None:
        inputs = a["x"].shape[-1]
        a |= {"decoder": d.array_of((a["encoder"].shape[1], inputs)), "decoder_bias": d.array_of((inputs,))}
    return a


@reference("implicit_terms", same_outputs)
def _(a, y):
    finite(a.x, a.encoder, a.encoder_bias, a.decoder, a.decoder_bias, a.target, a.sigma)
    need(a.sigma < 2)
    # By quadrature of each unit's noise, which is Gaussian with standard deviation sigma |w|.
    points, weights = np.polynomial.hermite_e.hermegauss(64)
    weights = weights / weights.sum()
    z, s = a.x @ a.encoder + a.encoder_bias, a.sigma * np.linalg.norm(a.encoder, axis=0)
    delta = relu(z[..., None] + s[:, None] * points) - relu(z)[..., None]
    error = (a.x if a.target is None else a.target) - relu(z) @ a.decoder - a.decoder_bias
    shift = -2 * np.sum(error * ((delta @ weights) @ a.decoder), -1)
    moment = (delta**2 @ weights) @ np.sum(a.decoder**2, -1)
    scale = 1 + np.abs(shift).max(initial=0) + np.abs(moment).max(initial=0) + np.sum(error**2, -1).max(initial=0)
    np.testing.assert_allclose(y.mean_shift, shift, atol=0.03 * scale)
    np.testing.assert_allclose(y.second_moment, moment, atol=0.03 * scale)
    assert np.isfinite(y.co_fluctuation).all() and y.co_fluctuation.shape == a.x.shape[:-1]


@reference("implicit_terms_smooth", same_outputs)
def _(a, y):
    finite(a.x, a.encoder, a.encoder_bias, a.decoder, a.decoder_bias, a.target, a.sigma)
    z = a.x @ a.encoder + a.encoder_bias
    first = 1 - np.tanh(z) ** 2
    second = -2 * np.tanh(z) * first
    error = (a.x if a.target is None else a.target) - np.tanh(z) @ a.decoder - a.decoder_bias
    keys, variance = np.sum(a.encoder**2, 0), a.sigma**2
    decoder = np.asarray(a.decoder, np.float64)  # a product of booleans is a logical one
    pairs = (decoder @ decoder.T) * (a.encoder.T @ a.encoder) * (1 - np.eye(len(a.decoder)))
    shift = -variance * (((error @ a.decoder.T) * second) @ keys)
    moment = variance * (first**2 @ (keys * np.sum(a.decoder**2, -1)))
    pairwise = variance * np.sum(first * (first @ pairs), -1)
    scale = 1e-3 + max(np.abs(part).max(initial=0) for part in (shift, moment, pairwise, error))
    for got, right in zip(y, (shift, moment, pairwise), strict=True):
        np.testing.assert_allclose(got, right, atol=1e-3 * scale * max(1, variance))
