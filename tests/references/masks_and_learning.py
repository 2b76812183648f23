"""References of masks, lateral inhibition, schedules and learned k."""

import math

import numpy as np

from tests.references.reference import finite, need, reference, relu


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


@reference("k_schedule")
def _(a, y):
    k_min, epochs = round(float(a.k_min)), round(float(a.epochs))
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
