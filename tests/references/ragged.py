"""References of selection over a batch, JumpReLU, and ragged codes."""

import numpy as np

from tests.references.reference import finite, need, reference, relu
from tests.references.selection import kept


def of_a_batch(draw, a):
    """Makes an array have at least one axis, and k fit its rows."""
    x = a["x"] if np.ndim(a["x"]) and a["x"].shape[-1] else draw.array_of((4, 5))
    return a | {"x": x, "k": a["k"] if np.max(a["k"]) <= x.shape[-1] else 1, "axis_name": None}


@reference("batch_top_k", of_a_batch)
def _(a, y):
    rows = a.x.size // max(1, a.x.shape[-1])
    count = int(np.round(np.float32(a.k) * rows))
    marks = kept(a.x.reshape(1, -1), min(count, a.x.size), a.ties)
    return np.where(marks.reshape(a.x.shape), a.x, 0)


@reference("update_threshold", lambda draw, a: a | {"axis_name": None})
def _(a, y):
    finite(a.kept, a.threshold)
    positive = a.kept[a.kept > 0]
    if not positive.size:
        return a.threshold
    return positive.min() if a.threshold < 0 else a.decay * a.threshold + (1 - a.decay) * positive.min()


@reference("jump_relu")
def _(a, y):
    return np.where(a.x > a.threshold, a.x, 0)


@reference("jump_step")
def _(a, y):
    return (a.x > a.threshold).astype(float)


def check_code(a, y, h, chosen_least):
    """Asserts that a code is in order, and has the values of h that are beyond a bound, up to rounding."""
    held, scale = min(int(y.kept), len(y.values)), np.abs(h).max(initial=1)
    rows, units = y.rows[:held].astype(int), y.units[:held].astype(int)
    assert (np.diff(rows * h.shape[1] + units) > 0).all(), "entries out of order"
    assert (y.rows[held:] == len(h)).all() and (y.units[held:] == h.shape[1]).all() and not y.values[held:].any()
    np.testing.assert_allclose(y.values[:held], h[rows, units], atol=0.05 * scale)
    assert (h[rows, units] >= chosen_least[rows, units] - 0.05 * scale).all(), "an entry below the bound"
    if y.kept <= len(y.values):
        dense = np.zeros(h.shape, bool)
        dense[rows, units] = True
        assert dense[h > chosen_least + 0.05 * scale].all(), "an entry beyond the bound is missing"


@reference(
    "encode_batch_top_k", lambda draw, a: a | {"axis_name": None, "k": min(int(np.max(a["k"])), len(a["kernel"]))}
)
def _(a, y):
    finite(a.x, a.kernel, a.bias, a.gain)
    need(a.gain is None)
    h = a.x @ a.kernel.T + a.bias
    if not h.size:
        assert y.kept == 0
        return
    ranks = np.sort(relu(h).ravel())[::-1]
    count = int(a.k * len(h))
    least = ranks[count - 1] if count else np.inf
    check_code(a, y, h, np.full(h.shape, max(least, 0)))


@reference("encode_above")
def _(a, y):
    finite(a.x, a.kernel, a.bias, a.floor)
    h = a.x @ a.kernel.T + a.bias
    if not h.size:
        assert y.kept == 0
        return
    check_code(a, y, h, np.broadcast_to(a.floor, h.shape))


@reference("decode_ragged")
def _(a, y):
    finite(a.kernel)
    need(a.code.n == len(a.kernel))
    dense = np.zeros((a.code.batch + 1, a.code.n + 1))
    np.add.at(dense, (a.code.rows.astype(int), a.code.units.astype(int)), a.code.values)
    return dense[:-1, :-1] @ a.kernel
