"""References of penalties and measures."""

import math

import numpy as np

from tests.references.reference import finite, need, reference


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
