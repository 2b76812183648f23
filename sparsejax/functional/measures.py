"""Measures of sparsity, of how evenly units are used, and of activity by class.

Counts take NaN for what it is, a number that is not 0; every other measure of NaN is NaN.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from sparsejax.functional.arguments import checked
from sparsejax.functional.shards import on_shards
from sparsejax.functional.sums import at_least_float32, mean


@checked
def l0(x: Float[Array, "*batch units"]) -> Int[Array, "*batch"]:
    """Counts the non-zero units of each example, of either sign.

    Args:
      x: activations `[..., units]`.

    Returns:
      int32 `[...]`.
    """
    return jnp.sum(x != 0, axis=-1, dtype=jnp.int32)


@checked
def active_fraction(x: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Returns the fraction of non-zero entries (the density) of an array.

    Args:
      x: any array `[...]`.

    Returns:
      A fraction in [0, 1], float32 `[]`; 0 of nothing.
    """
    return mean((x != 0).astype(jnp.float32))


@checked
def dead_units(x: Float[Array, "batch units"]) -> Bool[Array, "units"]:
    """Marks the units that are zero in every example.

    Args:
      x: activations `[batch, units]`.

    Returns:
      Booleans `[units]`, True where dead.
    """
    return jnp.all(x == 0, axis=0)


@checked
def is_misclassified(logits: Float[Array, "*batch classes"], labels: Int[Array, "*batch"]) -> Bool[Array, "*batch"]:
    """Returns which examples a classifier misclassifies; an answer with a NaN among its logits is always wrong.

    `argmax` alone would take the first NaN for the answer.

    Args:
      logits: `[..., classes]`; among equal ones the first class is the answer.
      labels: true classes `[...]`.

    Returns:
      Booleans `[...]`.

    Raises:
      ValueError: there are no classes, or the shapes differ.
    """
    if not logits.shape[-1] or labels.shape != logits.shape[:-1]:
        raise ValueError(f"logits is {logits.shape} and labels {labels.shape}; expected [..., classes] and [...].")
    answers = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return (answers != labels.astype(jnp.int32)) | jnp.any(jnp.isnan(logits), axis=-1)


@checked
def binary_entropy(p: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""Returns the entropy of a Bernoulli variable in bits, :math:`-p \log_2 p - (1-p) \log_2 (1-p)`, with 0 log 0 = 0.

    Args:
      p: probabilities in [0, 1], any array `[...]`.

    Returns:
      Array like p, in bits, each in [0, 1].

    References:
      Shannon, A Mathematical Theory of Communication, 1948.
    """
    q = 1 - p
    safe_p, safe_q = jnp.where(p > 0, p, 1.0), jnp.where(q > 0, q, 1.0)
    return -(p * jnp.log2(safe_p) + q * jnp.log2(safe_q))


@checked
def duty_entropy(duty_cycle: Float[Array, "units"], *, positions: int = 1) -> Float[Array, ""]:
    """Returns the entropy of a layer in bits: the sum over its units, as independent Bernoulli variables.

    Args:
      duty_cycle: fraction of examples in which each unit wins, `[units]` or one per channel.
      positions: units that share each duty cycle (height * width of a feature map).

    Returns:
      A number of bits `[]`; at most `max_entropy` if the duty cycles add up to k.

    Raises:
      ValueError: positions is not positive.

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 3.1, which maximises the entropy of a layer; the
      formula is that of the authors' library.
    """
    if positions < 1:
        raise ValueError(f"positions is {positions}; expected 1 or more.")
    return positions * jnp.sum(binary_entropy(duty_cycle))


@checked
def max_entropy(units: int, k: int | Num[Array, ""]) -> Float[Array, ""]:
    """Returns the largest entropy in bits of a layer with k winners, when all units win equally often.

    Args:
      units: number of units.
      k: winners, 0 <= k <= units; may be traced.

    Returns:
      A number of bits `[]`: units times the entropy of a Bernoulli variable with probability k / units.

    Raises:
      ValueError: units is not positive, or k a Python number outside [0, units].

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 3.1; the formula is that of the authors' library.
    """
    if units < 1:
        raise ValueError(f"units is {units}; expected 1 or more.")
    if isinstance(k, int) and not 0 <= k <= units:
        raise ValueError(f"k is {k}, but the layer has {units} units; expected 0 <= k <= {units}.")
    return units * binary_entropy(jnp.asarray(k / units, jnp.float32))


@checked
def gini(x: Float[Array, "*batch units"]) -> Float[Array, "*batch"]:
    r"""Returns the Gini index of each example: how unequally its activity is distributed over the units.

    .. math:: G = 1 - 2 \sum_k \frac{a_k}{\|a\|_1} \frac{N - k + 1/2}{N} = \frac{\sum_k (2k - N - 1) a_k}{N \sum_k a_k},

    with a the absolute values in ascending order; this takes one sort, N log N. It is 0 if all are equal, 1 - 1/N if
    one unit has all the activity, and 0 for all zeros. It does not depend on the scale.

    Args:
      x: activations `[..., units]`.

    Returns:
      The index of each example, float32 or float64 `[...]`, in [0, 1 - 1/N]; NaN if a unit is not finite.

    References:
      Hurley & Rickard, Comparing Measures of Sparsity, 2009; the thesis Sparse Coding in Deep Neural Networks and the
      Visual System, Eq. 1.18, which has no absolute values and so is only correct for activity of one sign.
    """
    return on_shards(_gini, lead=x.ndim - 1, rows={"x": x}, shared={})


def _gini(x: Float[Array, "*batch units"]) -> Float[Array, "*batch"]:
    a, units = jnp.sort(_unit_scale(x), axis=-1), x.shape[-1]
    rank = 2 * jnp.arange(1, units + 1, dtype=a.dtype) - units - 1
    total = jnp.sum(a, axis=-1)
    weighted = jnp.matmul(a, rank, precision="highest")  # ranks need more precision than a TPU's default product
    return jnp.where(total == 0, 0.0, weighted / (units * jnp.where(total == 0, 1.0, total)))  # NaN remains NaN


@checked
def hoyer(x: Float[Array, "*batch units"]) -> Float[Array, "*batch"]:
    r"""Returns Hoyer's index of each example, from the ratio of its norms.

    .. math:: H = \frac{\sqrt N - \|a\|_1 / \|a\|_2}{\sqrt N - 1}

    It is 0 if all units are equally active, 1 if one has all the activity, and 0 for all zeros.

    Args:
      x: activations `[..., units]`, of at least 2 units.

    Returns:
      The index of each example, float32 or float64 `[...]`, in [0, 1]; NaN if a unit is not finite.

    Raises:
      ValueError: there are fewer than 2 units.

    References:
      Hoyer, Non-negative Matrix Factorization with Sparseness Constraints, 2004; the thesis's Eq. 1.19, which omits the
      absolute values.
    """
    units = x.shape[-1]
    if units < 2:
        raise ValueError(f"x has shape {x.shape}; Hoyer's index is defined for 2 units or more (the last axis).")
    a = _unit_scale(x)
    square = jnp.sum(a * a, axis=-1)
    ratio = jnp.sum(a, axis=-1) / jnp.sqrt(jnp.where(square == 0, 1.0, square))
    return jnp.where(square == 0, 0.0, (math.sqrt(units) - ratio) / (math.sqrt(units) - 1))  # NaN remains NaN


@checked
def gini_weighted_accuracy(
    accuracy: Float[Array, "*points networks"], index: Float[Array, "*points networks"]
) -> Float[Array, "*points"]:
    """Returns the product of accuracy and Gini index, each averaged over networks first.

    The thesis chooses the penalty's weight that maximises it, where networks are both accurate and sparse.

    Args:
      accuracy: of each network at each weight of the penalty, a fraction `[..., networks]`.
      index: the networks' Gini index, averaged over examples, `[..., networks]`.

    Returns:
      A number in [0, 1] for each weight, `[...]`.

    Raises:
      ValueError: shapes differ.

    References:
      The thesis Sparse Coding in Deep Neural Networks and the Visual System, section 3.1.3 and Fig. 3.7.
    """
    if accuracy.shape != index.shape:
        raise ValueError(f"accuracy has shape {accuracy.shape}, but index {index.shape}; expected [..., networks].")
    return jnp.mean(accuracy, axis=-1) * jnp.mean(index, axis=-1)


@checked
def best_weight(
    weights: Num[Array, "points"], accuracy: Float[Array, "points networks"], index: Float[Array, "points networks"]
) -> Num[Array, ""]:
    """Returns the weight of the penalty with the largest Gini-weighted accuracy.

    Args:
      weights: candidates `[points]`.
      accuracy, index: as in `gini_weighted_accuracy`, `[points, networks]`.

    Returns:
      One of the weights `[]`, the first if several are the best. A point that is NaN is not the best, unless all are.

    Raises:
      ValueError: shapes do not fit, or there is no weight.

    References:
      The thesis Sparse Coding in Deep Neural Networks and the Visual System, section 3.1.3 and Fig. 3.7.
    """
    if weights.shape != accuracy.shape[:1] or not weights.size:
        raise ValueError(
            f"weights have shape {weights.shape} and accuracy {accuracy.shape}; expected [points] and "
            "[points, networks], of at least one point."
        )
    score = gini_weighted_accuracy(accuracy, index)
    return weights[jnp.argmax(jnp.where(jnp.isnan(score), -jnp.inf, score))]


@checked
def confusion_matrix(
    labels: Int[Array, "batch"],
    predictions: Int[Array, "batch"],
    *,
    classes: int,
    counted: Bool[Array, "batch"] | None = None,
) -> Int[Array, "classes classes"]:
    """Counts examples by their class (row) and predicted class (column).

    Args:
      labels: classes `[batch]`.
      predictions: predicted classes `[batch]`; labels or predictions outside [0, classes) are not counted.
      classes: number of classes.
      counted: examples that count `[batch]`; None for all.

    Returns:
      Counts, int32 `[classes, classes]`.

    Raises:
      ValueError: classes is not positive.
    """
    _check_classes(classes)
    ones = jnp.ones_like(labels, jnp.int32) if counted is None else counted.astype(jnp.int32)

    def count(labels, predictions, ones):
        # An index of -1 would be the last class.
        places = (jnp.where(place < 0, classes, place) for place in (labels, predictions))
        return jnp.zeros((classes, classes), jnp.int32).at[tuple(places)].add(ones, mode="drop")

    rows = {"labels": labels, "predictions": predictions, "ones": ones}
    return on_shards(count, lead=1, rows=rows, shared={}, summed=True)


@checked
def precision(confusion: Num[Array, "*batch classes classes"]) -> Float[Array, "*batch classes"]:
    """Returns the precision of each class; NaN for a class that is never predicted.

    Args:
      confusion: counts `[..., classes, classes]`, from `confusion_matrix`.

    Returns:
      A fraction for each class, float32 `[..., classes]`.

    Raises:
      ValueError: confusion is not square.
    """
    return _share_on_diagonal(confusion, jnp.sum(confusion, axis=-2))


@checked
def recall(confusion: Num[Array, "*batch classes classes"]) -> Float[Array, "*batch classes"]:
    """Returns the recall of each class; NaN for a class without examples.

    Args:
      confusion: counts `[..., classes, classes]`, from `confusion_matrix`.

    Returns:
      A fraction for each class, float32 `[..., classes]`.

    Raises:
      ValueError: confusion is not square.
    """
    return _share_on_diagonal(confusion, jnp.sum(confusion, axis=-1))


@checked
def active_counts(
    active: Bool[Array, "batch units"], labels: Int[Array, "batch"], *, classes: int
) -> Int[Array, "classes units"]:
    """Counts the examples of each class for which each unit is active.

    Args:
      active: booleans `[batch, units]`, with fewer than 2^24 examples.
      labels: classes `[batch]`, in [0, classes).
      classes: number of classes.

    Returns:
      int32 `[classes, units]`.

    Raises:
      ValueError: classes is not positive.
    """
    _check_classes(classes)

    def count(active, labels):
        # A product with the labels' one-hot code is exact in float32 and much faster than a scatter.
        member = jax.nn.one_hot(labels, classes, dtype=jnp.float32)
        return (member.T @ active.astype(jnp.float32)).astype(jnp.int32)

    return on_shards(count, lead=1, rows={"active": active, "labels": labels}, shared={}, summed=True)


@checked
def activation_frequency(x: Float[Array, "batch units"], *, threshold: float = 0.0) -> Float[Array, "units"]:
    """Returns the fraction of examples for which the magnitude of each unit exceeds `threshold`.

    Args:
      x: activations `[batch, units]`.
      threshold: activations of exactly this magnitude do not count.

    Returns:
      A fraction in [0, 1] for each unit, float32 `[units]`; NaN for a unit that is NaN in an example.
    """
    above = (jnp.abs(x) > threshold).astype(jnp.float32)
    return mean(jnp.where(jnp.isnan(x), jnp.nan, above), axis=0)


@checked
def magnitude_counts(
    x: Float[Array, "*shape"], edges: Float[Array, "edges"], *, counted: Bool[Array, "*#shape"] | None = None
) -> Int[Array, "edges+1"]:
    """Counts the entries whose absolute value is below the first edge, between adjacent edges, and above the last.

    Args:
      x: any array `[...]`.
      edges: ascending `[edges]`; an entry equal to an edge counts above it.
      counted: entries that count, broadcastable to x's shape; None for all.

    Returns:
      int32 `[edges + 1]`; NaN counts above the last edge.
    """
    ones = jnp.ones_like(x, jnp.int32) if counted is None else jnp.broadcast_to(counted, x.shape).astype(jnp.int32)

    def count(x, ones, edges):
        magnitude = at_least_float32(jnp.abs(x)).ravel()
        place = jnp.searchsorted(edges.astype(magnitude.dtype), magnitude, side="right")
        return jnp.zeros(edges.shape[0] + 1, jnp.int32).at[place].add(ones.ravel())

    return on_shards(count, lead=x.ndim, rows={"x": x, "ones": ones}, shared={"edges": edges}, summed=True)


def _unit_scale(x: Array) -> Float[Array, "*batch units"]:
    """Returns absolute values divided by their maximum, in float32 at least, so that no sum overflows or underflows."""
    a = jnp.abs(at_least_float32(x))
    most = jnp.max(a, axis=-1, keepdims=True, initial=0)
    return a / jnp.where(most > 0, most, 1.0)


def _check_classes(classes: int) -> None:
    if classes < 1:
        raise ValueError(f"classes is {classes}; expected 1 or more.")


def _share_on_diagonal(confusion: Array, totals: Array) -> Float[Array, "*batch classes"]:
    if confusion.shape[-2] != confusion.shape[-1]:
        raise ValueError(f"confusion has shape {confusion.shape}; expected [..., classes, classes].")
    hits = jnp.diagonal(confusion, axis1=-2, axis2=-1).astype(jnp.float32)
    return jnp.where(totals > 0, hits / jnp.maximum(totals, 1).astype(jnp.float32), jnp.nan)
