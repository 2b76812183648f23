"""Probability that two sparse vectors match by chance: the counts of Eq. 1 to 3, and simulations for Eq. 4 and 5.

The counts are logarithms in numpy's float64, because they reach 10^1000 at ordinary sizes; the simulations are JAX
programs in float32, which only compare sums of a few terms with a threshold.

References:
  Ahmad & Scheinkman, How Can We Be So Dense? The Benefits of Using Highly Sparse Representations, 2019, section 2.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray
from numpy.typing import ArrayLike

Values = Literal["binary", "scalar"]


def log_matches(n: int, *, k: int, active: int, overlap: int) -> float:
    """Returns the logarithm of the number of vectors with exactly `overlap` bits in common with one vector, Eq. 1.

    Args:
      n: length of the vectors.
      k: non-zeros of the one vector.
      active: non-zeros of the vectors counted.
      overlap: non-zeros in common; -inf is returned if no vector has that many.

    Raises:
      ValueError: k or active is outside [0, n].
    """
    _check_sizes(n, k, active)
    return _log_choose(k, overlap) + _log_choose(n - k, active - overlap)


def match_probability(n: int, *, k: int, active: int, threshold: int, given_overlap: ArrayLike | None = None) -> float:
    r"""Returns the probability that a random vector matches: Eq. 3, or Eq. 4 with `given_overlap`.

    .. math:: P = \sum_{b \geq \theta} p_b \binom{k}{b} \binom{n - k}{a - b} / \binom{n}{a}

    Exact to a relative error of about 1e-16 n log n, for all sizes of the counts.

    Args:
      n: length of the vectors.
      k: non-zeros of the stored vector, |x_i| in the paper.
      active: non-zeros a of the random one.
      threshold: theta, the smallest overlap that matches; 0 for Eq. 4, where p_b is 0 without a match.
      given_overlap: p_b for b = 0 to k; None for 1, as for binary vectors.

    Raises:
      ValueError: k or active is outside [0, n], or given_overlap does not have k + 1 entries.
    """
    p = np.ones(k + 1) if given_overlap is None else np.asarray(given_overlap, np.float64)
    if p.shape != (k + 1,):
        raise ValueError(f"given_overlap has shape {p.shape}; expected one probability for each overlap, {(k + 1,)}.")
    counts = np.array([log_matches(n, k=k, active=active, overlap=b) for b in range(k + 1)])
    shares = np.exp(counts - _log_choose(n, active))
    # Small terms first, to avoid rounding errors.
    return float(np.sum(np.sort((shares * p)[max(threshold, 0) :])))


def scalar_threshold(k: int) -> float:
    """Returns theta of the scalar vectors, half the mean square length of a weight vector: E[x_w . x_w] / 2 = 1 / 6k.

    A weight vector's k non-zeros are uniform in [-1/k, 1/k], and so have a mean square of 1 / 3k^2 each.
    """
    return 1 / (6 * k)


def simulate_matches(
    key: PRNGKeyArray,
    n: int | Int[Array, ""],
    active: int | Int[Array, ""],
    scale: float | Float[Array, ""] = 1.0,
    *,
    k: int,
    threshold: float,
    trials: int,
    values: Values = "scalar",
    chunk: int = 2048,
) -> Int[Array, ""]:
    """Draws pairs of random vectors and counts those whose dot product reaches the threshold.

    Each pair is distributed as in the paper, but only the relevant entries are drawn. By symmetry the weight vector's k
    non-zeros can be first; each of them in turn coincides with a non-zero of the input with probability (non-zeros
    left) / (places left). This samples a random subset exactly, at a cost of k instead of n, and without a sort.

    Args:
      key: a PRNG key.
      n: length of the vectors; may be traced.
      active: non-zeros a of the input; may be traced, so that a whole figure is one vmap.
      scale: S, of the input's values; may be traced.
      k: non-zeros of the weight vector.
      threshold: theta; `scalar_threshold(k)` for scalar vectors.
      trials: pairs of vectors; rounded up to whole chunks, so divide by `simulated_trials(trials, chunk)`.
      values: "scalar" for weights uniform in [-1/k, 1/k] and inputs in S * [0, 2/k], "binary" for ones.
      chunk: pairs in memory at a time.

    Returns:
      The number of matches [].

    Raises:
      ValueError: sizes do not fit, as far as they are Python numbers, or values is unknown.

    References:
      Ahmad & Scheinkman, 2019, sections 2.2 and 2.3. Their code compares every 4 weight vectors with 1,000 inputs, so
      its trials are not independent, unlike these.
    """
    if values not in ("binary", "scalar"):
        raise ValueError(f"values is {values!r}; expected 'binary' or 'scalar'.")
    if isinstance(n, int):
        _check_sizes(n, k, active if isinstance(active, int) else 0)
    n, active = jnp.asarray(n, jnp.uint32), jnp.asarray(active, jnp.uint32)

    def match(key):
        place_key, value_key = jax.random.split(key)
        bits = jax.random.bits(place_key, (k, chunk), jnp.uint32)
        terms = jnp.ones((k, chunk)) if values == "binary" else scale * _products(value_key, k, chunk)

        def meet(carry, place):
            met, dot = carry
            left, bits, term = place
            hit = lax.rem(bits, left) < active - met
            return (met + hit.astype(jnp.uint32), dot + jnp.where(hit, term, 0.0)), None

        left = n - jnp.arange(k, dtype=jnp.uint32)
        start = (jnp.zeros(chunk, jnp.uint32), jnp.zeros(chunk, jnp.float32))
        (_, dot), _ = lax.scan(meet, start, (left, bits, terms))
        return jnp.sum((dot >= threshold).astype(jnp.int32))

    return _over_chunks(match, key, trials, chunk)


def simulate_given_overlap(
    key: PRNGKeyArray,
    scale: float | Float[Array, ""] = 1.0,
    *,
    k: int,
    threshold: float,
    trials: int,
    chunk: int = 2048,
) -> Int[Array, "overlaps"]:
    """Counts the matches of scalar vectors with exactly b non-zeros in common, for b = 0 to k, Eq. 5.

    One draw of k products serves every b: its first b are those of an overlap of b. Divided by the trials this is the
    p_b of Eq. 4, which also covers matches that are too rare to sample.

    Args:
      key, scale, k, threshold, trials, chunk: as in `simulate_matches`.

    Returns:
      Counts `[k + 1]`.
    """

    def match(key):
        dots = scale * jnp.cumsum(_products(key, k, chunk), axis=0)
        counts = jnp.sum((dots >= threshold).astype(jnp.int32), axis=1)
        return jnp.concatenate([jnp.full(1, chunk if threshold <= 0 else 0, jnp.int32), counts])

    return _over_chunks(match, key, trials, chunk)


def simulated_trials(trials: int, chunk: int = 2048) -> int:
    """Returns the number of pairs that a simulation draws: rounded up to whole chunks.

    Raises:
      ValueError: trials is below 1, or more than 32 bits can count.
    """
    drawn = -(-trials // chunk) * chunk
    if not 1 <= trials <= drawn < 2**31:
        raise ValueError(f"trials is {trials}; expected 1 to {2**31 - chunk:,}, which 32 bits can count.")
    return drawn


def _products(key: PRNGKeyArray, k: int, chunk: int) -> Float[Array, "k chunk"]:
    """Draws products of a weight, uniform in [-1/k, 1/k], and an input, uniform in [0, 2/k]."""
    weight_key, input_key = jax.random.split(key)
    weights = jax.random.uniform(weight_key, (k, chunk), minval=-1 / k, maxval=1 / k)
    return weights * jax.random.uniform(input_key, (k, chunk), maxval=2 / k)


def _over_chunks(counts_of: Callable[[PRNGKeyArray], Any], key: PRNGKeyArray, trials: int, chunk: int):
    """Sums `counts_of(key)` over enough chunks for the trials."""

    def add(total, index):
        return total + counts_of(jax.random.fold_in(key, index)), None

    zero = jnp.zeros_like(jax.eval_shape(counts_of, key), device=None)
    return lax.scan(add, zero, jnp.arange(simulated_trials(trials, chunk) // chunk))[0]


def _log_choose(n: int, m: int) -> float:
    if not 0 <= m <= n:
        return -math.inf
    return math.lgamma(n + 1) - math.lgamma(m + 1) - math.lgamma(n - m + 1)


def _check_sizes(n: int, k: int, active: int) -> None:
    if not (0 <= k <= n and 0 <= active <= n):
        raise ValueError(f"k is {k} and active {active}, but the vectors have n={n} places; expected 0 to {n}.")
