"""References of k-winners, Top-K and sparse codes."""

import math

import numpy as np

from sparsejax import functional
from tests.references.reference import finite, need, reference, relu


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
