"""References of convolutions and Hebbian blocks."""

import itertools
import math

import numpy as np

from tests.references.reference import finite, need, reference


def correlate(x, kernel):
    kh, kw = kernel.shape[:2]
    rows, columns = x.shape[1] - kh + 1, x.shape[2] - kw + 1
    parts = (
        np.tensordot(x[:, i : i + rows, j : j + columns], kernel[i, j], 1) for i in range(kh) for j in range(kw)
    )  # fmt: skip
    return sum(parts, np.zeros((len(x), rows, columns, kernel.shape[-1])))


def pad_to_same(x, kernel):
    around = [((size - 1) // 2, size - 1 - (size - 1) // 2) for size in kernel.shape[:2]]
    return np.pad(x, ((0, 0), *around, (0, 0)))


@reference("conv2d")
def _(a, y):
    finite(a.x, a.kernel)
    return correlate(pad_to_same(a.x, a.kernel) if a.padding == "SAME" else a.x, a.kernel)


@reference("conv2d_twice")
def _(a, y):
    finite(a.x, a.kernel)
    return (correlate(pad_to_same(a.x, a.kernel) if a.padding == "SAME" else a.x, a.kernel),) * 2


@reference("depthwise_conv2d")
def _(a, y):
    finite(a.x, a.kernel)
    kh, kw, channels = a.kernel.shape
    need(kh, kw)
    padded = pad_to_same(a.x, a.kernel)
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
