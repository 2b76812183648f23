"""Chance matches of sparse vectors: exact counts, and simulations equivalent to whole vectors."""

import functools
import itertools
import math
from fractions import Fraction

import jax
import numpy as np
import pytest

from sparsejax.studies.dense.match_probability import (
    log_matches,
    match_probability,
    scalar_threshold,
    simulate_given_overlap,
    simulate_matches,
    simulated_trials,
)

# Eq. 3 as the authors print it (24 bits, threshold 12), in the script that draws Fig. 2.
PAPER = [
    (300, 64, 0.00109461662333690), (700, 64, 1.41253230930730e-7), (300, 128, 0.292078213737764),
    (1900, 128, 7.13143762262004e-9), (300, 256, 0.999997973443107), (3500, 256, 2.23380881095835e-8),
]  # fmt: skip


@pytest.mark.parametrize(("n", "active", "expected"), PAPER)
def test_the_probability_is_the_papers(n, active, expected):
    assert match_probability(n, k=24, active=active, threshold=12) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("n", "k", "active", "threshold"), [(20, 5, 7, 2), (7, 7, 3, 3), (9, 4, 8, 4), (50, 30, 35, 20)]
)
def test_the_count_is_that_of_whole_numbers(n, k, active, threshold):
    counts = [math.comb(k, b) * math.comb(n - k, active - b) if active >= b else 0 for b in range(k + 1)]
    logs = [log_matches(n, k=k, active=active, overlap=b) for b in range(k + 1)]
    np.testing.assert_allclose(np.exp(logs), counts, rtol=1e-12)
    exact = float(Fraction(sum(counts[threshold:]), math.comb(n, active)))
    assert match_probability(n, k=k, active=active, threshold=threshold) == pytest.approx(exact, rel=1e-12)
    assert match_probability(n, k=k, active=active, threshold=0) == pytest.approx(1, rel=1e-12)


def test_large_dimensions_neither_overflow_nor_vanish():
    for n in (10**4, 10**6, 10**8):
        coin = sum(math.comb(24, b) for b in range(12, 25)) / 2**24  # half the places: a coin for each bit
        assert match_probability(n, k=24, active=n // 2, threshold=12) == pytest.approx(coin, rel=1e-3)
    exact = Fraction(sum(math.comb(2000, b) * math.comb(98_000, 2000 - b) for b in range(300, 420)),
                     math.comb(100_000, 2000))  # fmt: skip
    ours = match_probability(100_000, k=2000, active=2000, threshold=300)
    # A quotient of numbers with thousands of digits.
    assert math.log(ours) == pytest.approx(math.log(exact.numerator) - math.log(exact.denominator), rel=1e-6)


def test_more_dimensions_match_less_at_fixed_sparsity_and_dense_vectors_do_not():
    sparse = [match_probability(n, k=24, active=n // 10, threshold=12) for n in (200, 400, 800)]
    same = [match_probability(n, k=24, active=64, threshold=12) for n in (200, 400, 800, 1600)]
    assert all(later < earlier / 10 for earlier, later in itertools.pairwise(same))
    assert max(sparse) < 2e-5


CHUNK, ASKED = 1000, 39_500
TRIALS = simulated_trials(ASKED, CHUNK)


@functools.partial(jax.jit, static_argnames="values")
def matches(key, n, active, scale, threshold, *, values):
    """Counts matches, `[]`: one program for each kind of vectors."""
    return simulate_matches(key, n, active, scale, k=8, threshold=threshold, trials=ASKED, values=values, chunk=CHUNK)


def count(values, n, active, *, scale=1.0, threshold=3.0, seed=0):
    return int(matches(jax.random.key(seed), n, active, scale, threshold, values=values))


@jax.jit
def given_overlaps(key, scales):
    """Counts the matches of every overlap, `[scales, k + 1]`."""
    of = functools.partial(simulate_given_overlap, k=8, threshold=scalar_threshold(8), trials=100_000)
    return jax.vmap(lambda scale: of(key, scale))(scales)


@pytest.mark.parametrize(("n", "active", "threshold"), [(40, 12, 3), (8, 3, 3), (30, 30, 8), (30, 0, 1), (64, 32, 6)])
def test_binary_vectors_match_as_often_as_counted(n, active, threshold):
    p = match_probability(n, k=8, active=active, threshold=threshold)
    found = count("binary", n, active, threshold=threshold)
    assert abs(found - TRIALS * p) <= 4 * math.sqrt(TRIALS * p * (1 - p)) + 1e-6 * TRIALS


def plain_vectors(rng, n, places, low, high):
    """Draws whole vectors `[trials, n]` with so many non-zeros at random places."""
    vectors = np.zeros((TRIALS, n))
    where = np.argsort(rng.random(vectors.shape), axis=1)[:, :places]
    np.put_along_axis(vectors, where, rng.uniform(low, high, where.shape), axis=1)
    return vectors


def test_scalar_vectors_match_as_often_as_whole_vectors_drawn_the_plain_way():
    k, n, active, scale = 8, 30, 12, 1.5
    threshold = scalar_threshold(k)
    rng = np.random.default_rng(0)
    weights = plain_vectors(rng, n, k, -1 / k, 1 / k)
    inputs = plain_vectors(rng, n, active, 0, scale * 2 / k)
    plain = np.mean(np.sum(weights * inputs, axis=1) >= threshold)
    ours = count("scalar", n, active, scale=scale, threshold=threshold) / TRIALS
    assert 0.1 < plain < 0.4
    assert abs(ours - plain) < 4 * math.sqrt(2 * plain * (1 - plain) / TRIALS)
    # And as often as Eq. 4 says, with p_b drawn apart.
    given = given_overlaps(jax.random.key(1), np.full(3, scale, np.float32))[0]
    p = np.asarray(given) / simulated_trials(100_000)
    eq4 = match_probability(n, k=k, active=active, threshold=0, given_overlap=p)
    assert abs(ours - eq4) < 4 * math.sqrt(1.5 * eq4 / TRIALS)


def test_the_threshold_is_half_the_mean_square_of_a_weight_vector():
    drawn = np.random.default_rng(0).uniform(-1 / 32, 1 / 32, (20_000, 32))
    assert scalar_threshold(32) == pytest.approx(np.mean(np.sum(drawn**2, axis=1)) / 2, rel=0.01)


def test_given_overlaps_are_those_of_products_and_rise_with_the_scale():
    counts = np.asarray(given_overlaps(jax.random.key(0), np.array([1.0, 2.0, 4.0], np.float32)))
    assert counts.shape == (3, 9) and (counts[:, 0] == 0).all()
    assert (np.diff(counts[:, 1:], axis=0) >= 0).all()
    # One product w x reaches t with probability 1/2 - (s / 2 - (s / 2) log s), s = t k^2 / (2 S) being below 1.
    s = scalar_threshold(8) * 32 / np.array([1.0, 2.0, 4.0])
    p = np.where(s < 1, 0.5 * (1 - s + s * np.log(s)), 0)
    trials = simulated_trials(100_000)
    np.testing.assert_allclose(counts[:, 1] / trials, p, atol=4 * np.sqrt(0.25 / trials))


def test_points_of_a_vmap_are_those_alone_and_the_key_decides():
    n, active = np.array([20, 40, 80], np.int32), np.array([8, 8, 40], np.int32)
    keys = jax.random.split(jax.random.key(3), 3)
    at_once = jax.jit(jax.vmap(functools.partial(matches, values="binary"), in_axes=(0, 0, 0, None, None)))
    alone = [int(matches(keys[i], n[i], active[i], 1.0, 3.0, values="binary")) for i in range(3)]
    np.testing.assert_array_equal(at_once(keys, n, active, 1.0, 3.0), alone)
    assert count("binary", 40, 8) != count("binary", 40, 8, seed=1)


def test_only_whole_chunks_are_drawn():
    assert [simulated_trials(t, 100) for t in (1, 100, 101)] == [100, 100, 200]
    assert count("binary", 10, 10) == TRIALS == 40_000 != ASKED


def simulated(n, *, values="binary", trials=10):
    return simulate_matches(jax.random.key(0), n, 5, k=8, threshold=3.0, trials=trials, values=values)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: match_probability(10, k=11, active=5, threshold=2), "k is 11 and active 5, but the vectors have n=10"),
        (lambda: match_probability(10, k=5, active=-1, threshold=2), "active -1"),
        (lambda: match_probability(10, k=5, active=5, threshold=0, given_overlap=[1.0]), r"shape \(1,\); expected"),
        (lambda: simulated(10, values="ternary"), "values is 'ternary'"),
        (lambda: simulated(5), "k is 8"),
        (lambda: simulated(50, trials=0), "trials is 0"),
        (lambda: simulated_trials(2**31), "32 bits"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
