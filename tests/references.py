"""What the public functions of functional/ and coding/ return, in float64 NumPy: the references of fuzz_functions.py.

A reference takes the arguments and the result, in float64, and returns the result that is right; or None, after it has
asserted what holds for every draw. It raises Undefined where nothing is promised.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from sparsejax import functional


class Undefined(Exception):
    """Nothing is promised for these arguments."""


class Reference(NamedTuple):
    reference: Callable[[Any, Any], Any]
    prepare: Callable[[Any, dict[str, Any]], dict[str, Any]] = lambda draw, arguments: arguments
    may_refuse: bool = False
    """Whether arguments that the draw calls valid may be refused."""


REFERENCES: dict[str, Reference] = {}


def reference(name: str, prepare=Reference._field_defaults["prepare"], may_refuse: bool = False):
    """Registers the reference of one function."""

    def register(function):
        REFERENCES[name] = Reference(function, prepare, may_refuse)
        return function

    return register


def need(*conditions: Any) -> None:
    """Raises Undefined unless all conditions hold."""
    if not all(map(bool, conditions)):
        raise Undefined


def finite(*arrays: Any) -> None:
    """Raises Undefined unless the arrays are tame: neither NaN, nor infinite, nor of extreme size."""
    for array in arrays:
        size = np.abs(np.asarray(array, np.float64))
        need(array is None or (np.isfinite(size).all() and size.max(initial=0) < 1e4))


def relu(x):
    return np.maximum(x, 0)


# --- selection ---


def ranked(row):
    """Returns the indices of a row from the largest value to the smallest: NaN first, the lower index among ties."""
    return sorted(range(len(row)), key=lambda i: (not np.isnan(row[i]), 0 if np.isnan(row[i]) else -float(row[i]), i))


def kept(x, k, ties="first"):
    """Marks the k largest of each row."""
    marks = np.zeros(x.shape, bool)
    ks = np.broadcast_to(np.clip(k, 0, x.shape[-1]), x.shape[:-1])
    for at in np.ndindex(x.shape[:-1]):
        order = ranked(x[at])[: ks[at]]
        marks[at][order] = True
        if ties == "all" and order:
            last = x[at][order[-1]]
            marks[at] |= np.isnan(x[at]) if np.isnan(last) else x[at] >= last
    return marks


@reference("winners", lambda d, a: of_a_row("rank")(d, a))
def _(a, y):
    return kept(a.rank, a.k, a.ties)


@reference("top_k", lambda d, a: of_a_row("x")(d, a))
def _(a, y):
    x = np.moveaxis(a.x, a.axis, -1)
    return np.moveaxis(np.where(kept(x, a.k, a.ties), x, 0), -1, a.axis)


def of_a_row(name):
    """Makes an array have at least one axis, and k fit its rows."""

    def prepare(d, a):
        x = a[name] if np.ndim(a[name]) and a[name].shape[-1] else d.array_of((5,))
        k = a["k"] if np.max(a["k"]) <= x.shape[-1] and np.shape(a["k"]) in ((), x.shape[:-1]) else 1
        return a | {name: x, "k": k}

    return prepare


@reference("kth_largest", of_a_row("x"))
def _(a, y):
    x = np.moveaxis(a.x, a.axis, -1)
    k = np.broadcast_to(np.clip(a.k, 1, x.shape[-1]), x.shape[:-1])
    found = np.zeros(x.shape[:-1])
    for at in np.ndindex(found.shape):
        found[at] = x[at][ranked(x[at])[k[at] - 1]]
    return found


@reference("top_k_subtract", of_a_row("x"))
def _(a, y):
    k = np.broadcast_to(np.clip(a.k, 1, a.x.shape[-1]), a.x.shape[:-1])
    finite(a.x)
    return relu(a.x - np.take_along_axis(-np.sort(-a.x, -1), k[..., None] - 1, -1))


@reference("sparse_top_k", lambda d, a: {key: value for key, value in a.items() if key != "rank" or value is not None})
def _(a, y):
    marks = kept(a.x if a.rank is None else a.rank, a.k)
    places = np.nonzero(marks)[-1].reshape(*a.x.shape[:-1], a.k)
    assert y.units == a.x.shape[-1]
    return np.take_along_axis(a.x, places, -1), places


@reference("soft_top_k", lambda d, a: a if a["x"].shape[-1] > 1 else a | {"x": d.array_of((4, 5)), "k": 2})
def _(a, y):
    finite(a.k, a.x)
    n, k = a.x.shape[-1], np.broadcast_to(np.asarray(a.k, np.float64), a.x.shape[:-1])[..., None]
    nearest = np.clip(np.round(k), 0, n)
    first, end = np.maximum(nearest - a.window // 2, 0), np.minimum(nearest + a.window // 2, n - 1)
    width = np.maximum(end - first, 1)
    rank = np.argsort(np.argsort(-a.x, -1, kind="stable"), -1, kind="stable")
    exponent = (k - nearest) - 20 * ((rank - first) / np.maximum(width - 1, 1) - (nearest - first) / width)
    weight = np.where(rank < first, 1, np.where(rank < end, 1 / (1 + np.exp(-exponent)), 0))
    return a.x * weight


# --- k-winners and codes ---


def gains(a, target):
    return np.exp(a.boost_strength * (np.asarray(target)[..., None] - a.state.duty_cycle))


def check_winners(x, rank, y, k, ties, rectified):
    """Asserts that y has the k of the highest rank of each row of x, up to rounding of the ranks."""
    finite(x, rank)
    assert y.shape == x.shape
    for at in np.ndindex(x.shape[:-1]):
        count = int(np.broadcast_to(np.clip(k, 0, x.shape[-1]), x.shape[:-1])[at])
        least = np.sort(rank[at])[::-1][count - 1] if count else np.inf
        slack = 0.02 * np.abs(rank[at]).max(initial=0) + 1e-6
        shown = relu(x[at]) if rectified else x[at]
        on = y[at] != 0
        np.testing.assert_array_equal(y[at][on], shown[on])
        assert (rank[at][on] >= least - slack).all(), "a winner of low rank"
        sure = (rank[at] > least + slack) & (shown != 0)
        assert on[sure].all(), "a unit of high rank lost"
        assert ties == "all" or on.sum() <= count, "too many winners"


@reference("k_winners", of_a_row("x"))
def _(a, y):
    finite(a.boost_strength)
    check_winners(a.x, a.x * gains(a, np.asarray(a.k) / a.x.shape[-1]), y, a.k, a.ties, a.relu)


@reference("k_winners_2d", lambda d, a: a | {"k": min(int(np.max(a["k"])), a["x"].shape[-1])})
def _(a, y):
    finite(a.boost_strength)
    lead = a.x.shape[:-3] if not a.local else a.x.shape[:-1]
    row = a.x.shape[len(lead) :]
    k = np.broadcast_to(np.asarray(a.k).reshape(np.shape(a.k) + (1,) * (len(lead) - np.ndim(a.k))), lead)
    rank = a.x * gains(a, k / max(1, math.prod(row))).reshape(*lead, *(1,) * (len(row) - 1), row[-1])
    flat = [array.reshape(*lead, math.prod(row)) for array in (a.x, rank, y)]
    check_winners(*flat, k, a.ties, a.relu)


@reference("boost")
def _(a, y):
    finite(a.x, a.boost_strength, a.target, a.state.duty_cycle)
    y = a.x * gains(a, a.target)
    finite(y)
    return y


@reference("init_boost_state")
def _(a, y):
    return np.zeros(a.units), 0.0


@reference("update_boost_state", lambda d, a: a if not hasattr(a["y"], "units") or not d.empty else a | {"y": a["y"]})
def _(a, y):
    values = a.y.values if isinstance(a.y, functional.SparseCode) else a.y
    if values.size == 0:
        return a.state
    units = a.state.duty_cycle.shape[0]
    if isinstance(a.y, functional.SparseCode):
        count, batch = np.zeros(units), math.prod(values.shape[:-1])
        np.add.at(count, a.y.indices.ravel(), (values > 0).ravel())
    else:
        batch = len(a.y)
        count = (a.y > 0).reshape(-1, units).sum(0) / max(1, math.prod(a.y.shape[1:-1]))
    samples = a.state.samples + batch
    window = min(max(a.period, batch), samples)
    return (a.state.duty_cycle * (window - batch) + count) / window, samples


@reference("inference_k")
def _(a, y):
    finite(a.factor)
    return np.minimum(np.round(np.float32(a.k) * np.float32(a.factor)), a.units)


@reference("to_dense", lambda d, a: a | {"units": d.size("units")})
def _(a, y):
    need(a.code.indices.max(initial=0) < a.units)
    dense = np.zeros((*a.code.values.shape[:-1], a.units))
    np.put_along_axis(dense, a.code.indices, a.code.values, -1)
    return dense


@reference("decode")
def _(a, y):
    finite(a.kernel)
    dense = np.zeros((*a.code.values.shape[:-1], len(a.kernel)))
    np.put_along_axis(dense, a.code.indices, a.code.values, -1)
    return dense @ a.kernel


@reference("encode_top_k", lambda d, a: a | {"k": min(int(a["k"]), a["kernel"].shape[0])})
def _(a, y):
    finite(a.x, a.kernel, a.bias, a.gain)
    h = a.x @ a.kernel.T + a.bias
    dense = np.zeros(h.shape)
    np.put_along_axis(dense, y.indices, y.values, -1)
    scale = np.abs(h).max(initial=1)
    np.testing.assert_allclose(y.values, relu(np.take_along_axis(h, y.indices, -1)), atol=0.05 * scale)
    rank = h if a.gain is None else h * a.gain
    chosen = np.zeros(h.shape, bool)
    np.put_along_axis(chosen, y.indices, True, -1)
    assert (chosen.sum(-1) == a.k).all() and (np.diff(y.indices, axis=-1) > 0).all()
    low = np.where(chosen, rank, np.inf).min(-1, initial=np.inf)
    high = np.where(chosen, -np.inf, rank).max(-1, initial=-np.inf)
    assert (low >= high - 0.05 * np.abs(rank).max(initial=1)).all()


# --- masks ---


@reference("connections_per_unit")
def _(a, y):
    return round(a.density * math.prod(a.shape[:-1]))


@reference("sparse_mask")
def _(a, y):
    fan_in = math.prod(a.shape[:-1])
    assert y.shape == tuple(a.shape) and y.dtype == bool
    wanted = np.clip(np.round(np.float32(a.density) * np.float32(fan_in)), 1, fan_in)
    assert np.all(np.abs(y.reshape(fan_in, -1).sum(0) - wanted) <= 1e-6 + (wanted - a.density * fan_in == 0.5))


def two_axes(d, a):
    """Makes weights have inputs."""
    shape = (5, 8)
    gradient = None if a.get("gradient") is None else d.array_of(shape)
    return a | {"weights": d.array_of(shape), "mask": d.numbers.random(shape) < 0.5, "gradient": gradient}


@reference("rewire", two_axes)
def _(a, y):
    need(np.isfinite(a.fraction))
    finite(a.weights, a.gradient)
    weights, mask = y
    np.testing.assert_array_equal(mask.sum(tuple(range(mask.ndim - 1))), a.mask.sum(tuple(range(mask.ndim - 1))))
    assert not (weights != 0)[~mask].any()
    np.testing.assert_array_equal(weights[weights != 0], np.asarray(a.weights)[weights != 0])


@reference("uniform_fan_in", lambda d, a: a | {"shape": (4, 3)})
def _(a, y):
    fan_in = a.fan_in if a.fan_in is not None else math.prod(a.shape[:-1])
    assert y.shape == tuple(a.shape) and np.abs(y).max(initial=0) <= fan_in**-0.5 * (1 + 1e-6)


# --- lateral ---


def settle(a, inhibition):
    finite(a.drive, a.gamma)
    mu = a.drive
    for _ in range(a.steps):
        mu = mu + a.gamma * (a.drive - inhibition(relu(mu)) - mu)
    need(np.abs(mu).max(initial=0) < 1e3 * max(1e-3, np.abs(a.drive).max(initial=0)))
    return relu(mu)


@reference("explain_away")
def _(a, y):
    finite(a.lateral)
    lateral = a.lateral * (1 - np.eye(len(a.lateral))) if a.zero_diagonal else a.lateral
    return settle(a, lambda z: relu(z @ lateral.T) if a.only_inhibitory else z @ lateral.T)


@reference("inhibitory_interneuron")
def _(a, y):
    finite(a.gather, a.scatter, a.bias)

    def inhibition(z):
        activity = z @ a.gather + (a.bias or 0)
        return np.multiply.outer(relu(activity) if a.rectified else activity, a.scatter)

    return settle(a, inhibition)


# --- schedules and learned k ---


@reference("k_schedule")
def _(a, y):
    k_min, epochs = round(a.k_min), round(a.epochs)
    need(1 <= k_min <= a.n, 1 <= epochs <= 46340, np.isfinite(a.epoch).all())
    t = np.minimum(np.floor(np.clip(a.epoch, 0, 46340)), epochs) / epochs
    exact = a.n - (a.n - k_min) * t if a.kind == "linear" else a.n * (k_min / a.n) ** t
    assert (np.abs(np.asarray(y) - np.floor(exact + 1e-9)) <= (a.kind == "exponential")).all(), exact


@reference("sampled_k")
def _(a, y):
    finite(a.mu)
    need(a.sigma > 1e-3)
    k, log_p = y
    assert k.shape == log_p.shape == a.keys.shape and ((k >= 1) & (k <= a.n)).all()
    most = -np.log(a.sigma * np.sqrt(2 * np.pi))
    assert (log_p <= most + 1e-3 * max(1, abs(most))).all()


@reference("reinforce_loss")
def _(a, y):
    finite(a.log_p, a.loss, a.baseline)
    return np.sum(a.log_p * (a.loss - a.baseline)) / max(1, a.loss.size)


@reference("update_reinforce_baseline")
def _(a, y):
    finite(a.loss, a.baseline, a.decay)
    if not a.loss.size:
        return a.baseline
    return a.loss.mean() + a.decay * (a.baseline - a.loss.mean())


# --- noise ---


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


# --- noise terms ---


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
    pairs = (a.decoder @ a.decoder.T) * (a.encoder.T @ a.encoder) * (1 - np.eye(len(a.decoder)))
    shift = -variance * (((error @ a.decoder.T) * second) @ keys)
    moment = variance * (first**2 @ (keys * np.sum(a.decoder**2, -1)))
    pairwise = variance * np.sum(first * (first @ pairs), -1)
    scale = 1e-3 + max(np.abs(part).max(initial=0) for part in (shift, moment, pairwise, error))
    for got, right in zip(y, (shift, moment, pairwise), strict=True):
        np.testing.assert_allclose(got, right, atol=1e-3 * scale * max(1, variance))


# --- convolution, Hebbian blocks ---


def correlate(x, kernel):
    kh, kw = kernel.shape[:2]
    rows, columns = x.shape[1] - kh + 1, x.shape[2] - kw + 1
    parts = (
        np.tensordot(x[:, i : i + rows, j : j + columns], kernel[i, j], 1) for i in range(kh) for j in range(kw)
    )  # fmt: skip
    return sum(parts, np.zeros((len(x), rows, columns, kernel.shape[-1])))


@reference("conv2d")
def _(a, y):
    finite(a.x, a.kernel)
    return correlate(a.x, a.kernel)


@reference("conv2d_twice")
def _(a, y):
    finite(a.x, a.kernel)
    return correlate(a.x, a.kernel), correlate(a.x, a.kernel)


@reference("depthwise_conv2d")
def _(a, y):
    finite(a.x, a.kernel)
    kh, kw, channels = a.kernel.shape
    need(kh, kw)
    around = [((size - 1) // 2, size - 1 - (size - 1) // 2) for size in (kh, kw)]
    padded = np.pad(a.x, ((0, 0), *around, (0, 0)))
    full = np.zeros((kh, kw, channels, channels))
    full[..., np.arange(channels), np.arange(channels)] = a.kernel
    return correlate(padded, full)


@reference("max_pool2d")
def _(a, y):
    batch, height, width, channels = a.x.shape
    h, w = height // a.window, width // a.window
    x = a.x[:, : h * a.window, : w * a.window].reshape(batch, h, a.window, w, a.window, channels)
    return x.max((2, 4)) if x.size else np.zeros((batch, h, w, channels))


@reference("unit_norm")
def _(a, y):
    finite(a.kernel)
    need(np.isfinite(a.eps), a.eps > 0)
    lengths = np.sqrt(np.sum(a.kernel**2, tuple(range(a.kernel.ndim - 1))))
    need(a.eps > 1e-7 or (lengths > 0).all())
    return a.kernel / (lengths + a.eps)


@reference("divisive_norm")
def _(a, y):
    if not a.y.size:
        return a.y
    finite(a.y)
    need(0 <= a.sigma <= 1, a.eps > 1e-6)
    reach = a.pool // 2
    padded = np.pad(np.abs(a.y), ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    shifted = [padded[:, i : i + a.y.shape[1], j : j + a.y.shape[2]]
               for i, j in itertools.product(range(a.pool), repeat=2)]  # fmt: skip
    mean = np.max(shifted, 0).mean(-1, keepdims=True)
    return a.y / (a.sigma * mean.max((1, 2), keepdims=True) + (1 - a.sigma) * mean + a.eps)


@reference("adaptive_threshold")
def _(a, y):
    need(not np.isnan(a.z).any())
    positions = a.z.shape[1] * a.z.shape[2]
    below = math.floor((1 - a.keep) * positions + 1e-9)
    if below == 0 or not a.z.size:
        return a.z
    rows = np.sort(a.z.reshape(len(a.z), positions, -1), 1)
    return np.where(a.z > rows[:, below - 1][:, None, None], a.z, 0)


@reference("mean_threshold")
def _(a, y):
    finite(a.z, a.factor)
    mean = a.z.mean((1, 2), keepdims=True) * a.factor if a.z.size else np.zeros(a.z.shape)
    near = np.abs(a.z - mean) < 0.02 * (1 + np.abs(mean))
    return np.where(near, y, np.where(a.z > mean, a.z, 0))


@reference("hebbian_cost", may_refuse=True)
def _(a, y):
    finite(a.y, a.demote)
    n = a.y.shape[-1]
    k = math.ceil(a.promoted * n)
    ordered = -np.sort(-a.y, -1)
    cost = ordered[..., :k].sum(-1) / k - a.demote * ordered[..., k:].sum(-1) / (n - k)
    scale = max(1, np.abs(a.y).max(initial=0) * max(1, abs(a.demote)))
    np.testing.assert_allclose(y, cost.mean() if cost.size else 0.0, atol=1e-4 * scale, rtol=1e-3)


# --- spectral ---


def mel_weights(a, n_fft):
    return np.asarray(functional.mel_filters(sample_rate=a.sample_rate, n_fft=n_fft, bands=a.bands), np.float64)


def power_of(x, n_fft, hop, mode):
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(n_fft // 2, n_fft // 2)], mode=mode)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    starts = range(0, (1 + x.shape[-1] // hop) * hop, hop)
    return np.abs(np.stack([np.fft.rfft(padded[..., i : i + n_fft] * window) for i in starts], -2)) ** 2


def half_is_too_coarse(d, a):
    """Makes waveforms float32: XLA has no transform of half precision."""
    return {key: np.asarray(value).astype(np.float32) if np.ndim(value) else value for key, value in a.items()}


@reference("stft_power", half_is_too_coarse)
def _(a, y):
    finite(a.waveform)
    return power_of(a.waveform, a.n_fft, a.hop, a.pad_mode)


@reference("mel_filters")
def _(a, y):
    assert y.shape == (a.bands, 1 + a.n_fft // 2) and (y >= 0).all() and (y.sum(1) > 0).all()


@reference("mel_power")
def _(a, y):
    finite(a.power)
    return np.swapaxes(a.power @ mel_weights(a, 2 * (a.power.shape[-1] - 1)).T, -1, -2)


@reference("power_to_db")
def _(a, y):
    finite(a.power)
    need(a.power.size, a.amin >= 1e-10)
    level = 10 * np.log10(np.maximum(a.power, a.amin))
    level = level - level.max((-2, -1), keepdims=True)
    level = level if a.top_db is None else np.maximum(level, -a.top_db)
    np.testing.assert_allclose(y, level, atol=0.5, rtol=0.02)


@reference("mel_spectrogram", lambda d, a: half_is_too_coarse(d, a) | {"pad_mode": "constant"})
def _(a, y):
    finite(a.waveform)
    need(a.waveform.size)
    power = power_of(a.waveform, a.n_fft, a.hop, a.pad_mode) @ mel_weights(a, a.n_fft).T
    level = 10 * np.log10(np.maximum(power, 1e-10))
    level = np.maximum(level - level.max((-2, -1), keepdims=True), -80)
    np.testing.assert_allclose(y, np.swapaxes(level, -1, -2), atol=0.2)


# --- augmentation ---


@reference("crop_and_flip")
def _(a, y):
    assert y.shape == a.images.shape
    values = set(np.nan_to_num(a.images, nan=1234.5).ravel().tolist()) | {0.0}
    assert set(np.nan_to_num(y, nan=1234.5).ravel().tolist()) <= values
    if a.pad == 0 and not np.isnan(a.images).any():
        for image, new in zip(a.images, y, strict=True):
            assert (new == image).all() or (new == image[:, ::-1]).all()


@reference("augmentation.amplitude")
def _(a, y):
    finite(a.waveform)
    need(a.waveform.size, 0 <= a.probability <= 1, np.isfinite(a.low) and np.isfinite(a.high), abs(a.high) < 1e3)
    for before, after in zip(a.waveform, y, strict=True):
        at = np.argmax(np.abs(before))
        if before[at]:
            factor = after[at] / before[at]
            assert a.low - 0.02 <= factor <= a.high + 0.02 or abs(factor - 1) < 0.02
            np.testing.assert_allclose(after, factor * before, atol=0.02 * np.abs(before).max())


def same_or_within(a, before, y):
    """Asserts the shape, the range, and, with probability 0, that nothing changes."""
    finite(before)
    need(before.size, 0 <= a.probability <= 1)
    assert y.min() >= min(0, before.min()) - 0.05 * np.abs(before).max()
    assert y.max() <= max(0, before.max()) + 0.05 * np.abs(before).max()
    if a.probability == 0:
        np.testing.assert_allclose(y[:, : before.shape[1]], before[:, : y.shape[1]], atol=0.02 * np.abs(before).max())


@reference("augmentation.speed")
def _(a, y):
    assert y.shape == a.waveform.shape
    same_or_within(a, a.waveform, y)


@reference("augmentation.stretch")
def _(a, y):
    frames = a.power.shape[1] if a.frames is None else a.frames
    assert y.shape == (len(a.power), frames, a.power.shape[2])
    need(frames, (a.power >= 0).all())
    same_or_within(a, a.power, y)


@reference("augmentation.shift")
def _(a, y):
    assert y.shape == a.power.shape
    same_or_within(a, a.power, y)
    for before, after in zip(a.power, y, strict=True):
        silence = np.zeros_like(before)
        padded, n = np.concatenate([silence, before, silence]), len(before)
        moves = range(-min(n, a.frames), min(n, a.frames) + 1)
        assert any((after == padded[n - move : 2 * n - move]).all() for move in moves)


# --- penalties and measures ---


def penalty(cost):
    def of(a, y):
        finite(a.activations)
        return cost(np.asarray(a.activations, np.float64)).sum() / max(1, len(a.activations))

    return of


for _name, _cost in {"l1": np.abs, "l2": np.square, "cauchy": lambda x: np.log1p(x**2),
                     "gaussian": lambda x: -np.exp(-(x**2))}.items():  # fmt: skip
    reference(f"penalties.{_name}")(penalty(_cost))


def normal_numbers(x):
    """Raises Undefined for numbers so small that XLA's backends may take them for 0."""
    size = np.abs(np.asarray(x, np.float64))
    need(not ((size > 0) & (size < 1e-37)).any())


@reference("measures.l0")
def _(a, y):
    normal_numbers(a.x)
    return (a.x != 0).sum(-1)


@reference("measures.active_fraction")
def _(a, y):
    normal_numbers(a.x)
    return np.mean(a.x != 0) if np.size(a.x) else 0.0


@reference("measures.dead_units")
def _(a, y):
    normal_numbers(a.x)
    return (a.x == 0).all(0)


def entropy(p):
    p = np.asarray(p, np.float64)
    q = 1 - p
    return -(p * np.log2(np.where(p > 0, p, 1)) + q * np.log2(np.where(q > 0, q, 1)))


@reference("measures.binary_entropy")
def _(a, y):
    need((np.asarray(a.p) >= 0).all(), (np.asarray(a.p) <= 1).all())
    return entropy(a.p)


@reference("measures.duty_entropy")
def _(a, y):
    need((a.duty_cycle >= 0).all(), (a.duty_cycle <= 1).all())
    return a.positions * entropy(a.duty_cycle).sum()


@reference("measures.max_entropy")
def _(a, y):
    need(0 <= a.k <= a.units)
    return a.units * entropy(a.k / max(1, a.units))


@reference("measures.gini")
def _(a, y):
    finite(a.x)
    need(np.abs(a.x[a.x != 0]).min(initial=1) > 1e-30)
    x, n = np.sort(np.abs(a.x), -1), a.x.shape[-1]
    total = x.sum(-1)
    return np.where(total > 0, (x * (2 * np.arange(1, n + 1) - n - 1)).sum(-1) / np.where(total > 0, n * total, 1), 0)


@reference("measures.hoyer", may_refuse=True)
def _(a, y):
    finite(a.x)
    need(np.abs(a.x[a.x != 0]).min(initial=1) > 1e-30)
    root, length = math.sqrt(a.x.shape[-1]), np.linalg.norm(a.x, axis=-1)
    ratio = np.abs(a.x).sum(-1) / np.where(length > 0, length, 1)
    np.testing.assert_allclose(y, np.where(length > 0, (root - ratio) / (root - 1), 0), atol=1e-5)


def weighted(a):
    finite(a.accuracy, a.index)
    need(a.accuracy.shape[-1], a.index.shape[-1])
    return a.accuracy.mean(-1) * a.index.mean(-1)


@reference("measures.gini_weighted_accuracy")
def _(a, y):
    return weighted(a)


@reference("measures.best_weight", may_refuse=True)
def _(a, y):
    need(len(a.weights) == len(a.accuracy))
    scores, finite_weights = weighted(a), np.isfinite(a.weights).all()
    need(finite_weights)
    assert y in a.weights[scores >= scores.max() - 0.02 * abs(scores.max())]


@reference("measures.is_misclassified")
def _(a, y):
    undefined = np.isnan(a.logits).any(-1)
    return (np.where(undefined[..., None], 0, a.logits).argmax(-1) != a.labels) | undefined


@reference("measures.confusion_matrix")
def _(a, y):
    counts = np.zeros((a.classes, a.classes))
    counted = np.ones(len(a.labels), bool) if a.counted is None else a.counted
    for label, prediction, one in zip(a.labels, a.predictions, counted, strict=True):
        if one and 0 <= label < a.classes and 0 <= prediction < a.classes:
            counts[label, prediction] += 1
    return counts


def share(confusion, axis):
    finite(confusion)
    total, hits = confusion.sum(axis), np.diagonal(confusion, axis1=-2, axis2=-1)
    need(((total == 0) | (total >= 1)).all())
    return np.where(total > 0, hits / np.where(total > 0, total, 1), np.nan)


@reference("measures.precision")
def _(a, y):
    return share(a.confusion, -2)


@reference("measures.recall")
def _(a, y):
    return share(a.confusion, -1)


@reference("measures.active_counts")
def _(a, y):
    return np.array([a.active[a.labels == one].sum(0) for one in range(a.classes)]).reshape(a.classes, -1)


@reference("measures.activation_frequency")
def _(a, y):
    finite(a.threshold)
    normal_numbers(a.x)
    near = np.abs(np.abs(a.x) - a.threshold) < 0.01
    need(a.threshold == 0 or not near.any())
    return (np.abs(a.x) > a.threshold).mean(0) if len(a.x) else np.zeros(a.x.shape[1])


@reference("measures.magnitude_counts")
def _(a, y):
    need(not np.isnan(a.x).any(), not np.isnan(a.edges).any(), (np.diff(a.edges) >= 0).all())
    counted = np.broadcast_to(True if a.counted is None else a.counted, np.shape(a.x)).ravel()
    places = np.searchsorted(a.edges, np.abs(a.x).ravel(), side="right")
    return np.bincount(places[counted], minlength=len(a.edges) + 1)


# --- coding ---


def tame_problem(a):
    finite(a.x, a.dictionary, getattr(a, "code", None), getattr(a, "initial", None))


def lasso(a, code, weight):
    return np.sum((a.x - code @ a.dictionary.T) ** 2, -1) / 2 + weight * np.abs(code).sum(-1)


@reference("soft_threshold")
def _(a, y):
    finite(a.z, a.threshold)
    return np.sign(a.z) * relu(np.abs(a.z) - a.threshold)


@reference("hard_threshold")
def _(a, y):
    finite(a.z, a.threshold)
    near = np.abs(np.abs(a.z) - a.threshold) < 0.01 * (1 + abs(a.threshold))
    return np.where(near, y, np.where(np.abs(a.z) > a.threshold, a.z, 0))


@reference("lasso_objective")
def _(a, y):
    tame_problem(a)
    return lasso(a, a.code, a.l1)


@reference("kkt_violation")
def _(a, y):
    tame_problem(a)
    c = (a.x - a.code @ a.dictionary.T) @ a.dictionary
    on, off = np.abs(c - a.l1 * np.sign(a.code)), relu(np.abs(c) - a.l1)
    return np.where(a.code != 0, on, off).max(-1, initial=0)


@reference("duality_gap")
def _(a, y):
    tame_problem(a)
    residual = a.x - a.code @ a.dictionary.T
    c = residual @ a.dictionary
    s = np.minimum(1, a.l1 / np.maximum(np.abs(c).max(-1, initial=0), 1e-30))[..., None]
    dual = np.sum(a.x**2, -1) / 2 - np.sum((a.x - s * residual) ** 2, -1) / 2
    primal = lasso(a, a.code, a.l1)
    gap = primal - dual
    scale = np.maximum(primal, 1e-3)
    right = np.where(primal > 0, gap / np.where(primal > 0, primal, 1), 0) if a.relative else gap
    np.testing.assert_allclose(y / (1 if a.relative else scale), right / (1 if a.relative else scale), atol=2e-3)


def solved(weight_of=lambda a: a.l1):
    """Asserts that a solver's code is as good as zeros, and near the minimum if it says so."""

    def of(a, y):
        tame_problem(a)
        assert y.code.shape == (*a.x.shape[:-1], a.dictionary.shape[1])
        assert y.iterations.shape == y.gap.shape == a.x.shape[:-1]
        assert np.isfinite(y.code).all()
        need(a.tolerance is not None and 0 < a.tolerance < 0.1, a.dictionary.size)
        done, objective = y.gap <= a.tolerance, lasso(a, y.code, weight_of(a))
        # Coordinate descent in float64.
        code = np.zeros(y.code.shape)
        for _ in range(200):
            for j in range(code.shape[-1]):
                d = a.dictionary[:, j]
                if d @ d > 0:
                    c = (a.x - code @ a.dictionary.T) @ d + code[..., j] * (d @ d)
                    code[..., j] = np.sign(c) * relu(np.abs(c) - weight_of(a)) / (d @ d)
        best = lasso(a, code, weight_of(a))
        assert (objective[done] <= best[done] * (1 + a.tolerance + 1e-3) + 1e-4).all()

    return of


def start_like_the_code(d, a):
    """Lets solvers start from a code of the same type."""
    return a


for _name in ("ista", "fista", "admm"):
    reference(_name)(solved())


@reference("lca")
def _(a, y):
    tame_problem(a)
    assert y.code.shape == (*a.x.shape[:-1], a.dictionary.shape[1]) and y.gap.shape == a.x.shape[:-1]
    need(a.threshold == "soft", a.step is None)
    solved()(a, y)


@reference("matching_pursuit")
def _(a, y):
    tame_problem(a)
    energy = np.sum(a.x**2, -1)
    left = np.sum((a.x - y.code @ a.dictionary.T) ** 2, -1)
    started = energy if a.initial is None else np.sum((a.x - a.initial @ a.dictionary.T) ** 2, -1)
    assert (left <= started * 1.001 + 1e-5).all(), "the residual grew"
    assert a.initial is not None or ((y.code != 0).sum(-1) <= a.k).all()
    np.testing.assert_allclose(y.gap, left / np.where(energy > 0, energy, 1), rtol=1e-2, atol=1e-4)


@reference("orthogonal_matching_pursuit", lambda d, a: a | {"at_most": 3})
def _(a, y):
    tame_problem(a)
    assert ((y.code != 0).sum(-1) <= max(0, a.k)).all()
    energy, left = np.sum(a.x**2, -1), np.sum((a.x - y.code @ a.dictionary.T) ** 2, -1)
    assert (left <= energy * 1.001 + 1e-5).all()
    np.testing.assert_allclose(y.gap, left / np.where(energy > 0, energy, 1), rtol=1e-2, atol=1e-4)


@reference("sparse_set")
def _(a, y):
    tame_problem(a)

    def objective(code):
        return np.sum((a.x - code @ a.dictionary.T) ** 2, -1) / 2 + float(a.l0) * (code != 0).sum(-1)

    start = np.zeros(y.code.shape) if a.initial is None else a.initial
    before = objective(start)
    assert (objective(y.code) <= before * 1.01 + 1e-4).all()


@reference("init_dictionary")
def _(a, y):
    finite(a.x)
    assert y.dictionary.shape == (a.x.shape[1], a.atoms) and y.steps == 0
    need(a.x.shape[1])
    np.testing.assert_allclose(np.linalg.norm(y.dictionary, axis=0), 1, rtol=1e-4)
    assert not y.codes.any() and not y.products.any()


@reference("dictionary_step")
def _(a, y):
    finite(a.x, *a.state)
    new, code = y
    assert new.dictionary.shape == a.state.dictionary.shape and code.code.shape == (len(a.x), new.codes.shape[0])
    if not len(a.x):
        return a.state, None
    assert np.isfinite(new.dictionary).all() and new.steps == a.state.steps + 1
    need(np.isfinite(a.forget) and 0 <= a.forget < 10)
    keep = 0 if a.state.steps == 0 else (1 - 1 / new.steps) ** a.forget
    codes = keep * a.state.codes + code.code.T @ code.code / len(a.x)
    np.testing.assert_allclose(new.codes, codes, rtol=1e-3, atol=1e-4 * max(1, np.abs(codes).max(initial=0)))


@reference("init_sparsenet")
def _(a, y):
    need(np.isfinite(a.variance_goal))
    np.testing.assert_allclose(np.linalg.norm(y.dictionary, axis=0), 1, rtol=1e-4)
    np.testing.assert_allclose(y.variance, a.variance_goal, rtol=1e-4)
    return None, np.ones(a.atoms), None


_SPARSENESS = {"cauchy": lambda x: np.log1p(x**2), "l1": np.abs, "gaussian": lambda x: 1 - np.exp(-(x**2))}


def sparsenet(a, code):
    return np.sum((a.x - code @ a.dictionary.T) ** 2, -1) / 2 + a.penalty * _SPARSENESS[a.sparseness](
        code / a.scale
    ).sum(-1)


@reference("sparsenet_objective")
def _(a, y):
    tame_problem(a)
    return sparsenet(a, a.code)


@reference("sparsenet_code")
def _(a, y):
    tame_problem(a)
    assert y.code.shape == (*a.x.shape[:-1], a.dictionary.shape[1]) and np.isfinite(y.code).all()
    need(a.initial is not None, a.sparseness != "l1")
    assert (sparsenet(a, y.code) <= sparsenet(a, a.initial) * 1.001 + 1e-4).all()


@reference("sparsenet_step")
def _(a, y):
    finite(a.x, *a.state)
    new, metrics = y
    assert new.dictionary.shape == a.state.dictionary.shape
    if not len(a.x):
        return a.state, (0.0, 0.0)
    need(*(np.isfinite(v) and 0 < v < 2 for v in (a.learning_rate, a.variance_goal, a.variance_rate, a.gain_exponent)))
    assert np.isfinite(new.dictionary).all() and metrics.error >= 0


@reference("DictionaryLearner", may_refuse=True)
def _(a, y):
    assert y.shape == (len(a.x), a.atoms) and np.isfinite(y).all()
