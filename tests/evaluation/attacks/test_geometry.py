"""Projections against what an optimiser finds, and by their properties."""

import functools

import jax
import numpy as np
import pytest

from sparsejax.evaluation.attacks import geometry
from tests.evaluation.attacks.networks import length_of

rng = np.random.default_rng(0)
DELTA = rng.normal(size=(6, 3, 4)).astype(np.float32)
X = rng.random((6, 3, 4)).astype(np.float32)
EPSILON = np.array([0.3, 1.0, 2.0, 3.0, 5.5, 100.0], np.float32)

onto_ball, length, dual_length, steepest = (
    jax.jit(function, static_argnames="norm")
    for function in (geometry.onto_ball, geometry.length, geometry.dual_length, geometry.steepest)
)
inside, to_hyperplane = (
    jax.jit(functools.partial(function, bounds=(0.0, 1.0)), static_argnames="norm")
    for function in (geometry.inside, geometry.to_hyperplane)
)


@functools.partial(jax.jit, static_argnames="norm")
def random_starts(norm):
    """Draws points of the balls around 0, `[20, 6, 3, 4]`."""
    keys = jax.random.split(jax.random.key(0), 20)
    return jax.vmap(lambda key: geometry.random_start(key, 0 * DELTA, EPSILON, norm))(keys)


def other_points(norm):
    """Returns twenty times other points of the balls; in l0 such as keep entries of DELTA."""
    if norm != "l0":
        return np.asarray(random_starts(norm=norm))
    ranks = np.random.default_rng(0).permuted(np.tile(np.arange(12), (20, 6, 1)), axis=-1)
    return np.where((ranks < np.floor(EPSILON)[:, None]).reshape(20, 6, 3, 4), DELTA, 0)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_a_projection_lies_in_the_ball_and_none_is_nearer(norm):
    y = np.asarray(onto_ball(DELTA, EPSILON, norm=norm))
    assert (length_of(y, norm) <= EPSILON * (1 + 1e-6)).all()
    within = length_of(DELTA, norm) <= EPSILON
    np.testing.assert_array_equal(y[within], DELTA[within])
    for other in other_points(norm):
        assert (length_of(other, norm) <= EPSILON * (1 + 1e-6)).all()
        assert (length_of(y - DELTA, "l2") <= length_of(other - DELTA, "l2") + 1e-6).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_lengths_are_the_norms(norm):
    sparse = np.where(X < 0.5, 0, DELTA)
    np.testing.assert_allclose(length(sparse, norm=norm), length_of(sparse, norm), rtol=1e-6)


def nearest_in_l1(delta, radius, room):
    """Returns the point of the l1 ball nearest to delta, within its room above and below, as an optimiser finds it."""
    scipy = pytest.importorskip("scipy.optimize")
    target = np.asarray(delta, np.float64).ravel()
    best = scipy.minimize(
        lambda v: np.sum((v[:12] - v[12:] - target) ** 2), np.zeros(24), method="SLSQP",
        bounds=[(0, most) for most in np.ravel(room)],
        constraints={"type": "ineq", "fun": lambda v: float(radius) - v.sum()},
        options={"ftol": 1e-13, "maxiter": 500},
    ).x  # fmt: skip
    return (best[:12] - best[12:]).reshape(3, 4)


def test_the_l1_projection_is_the_optimisers():
    ours = onto_ball(DELTA, EPSILON, norm="l1")
    for i in (1, 3):
        np.testing.assert_allclose(ours[i], nearest_in_l1(DELTA[i], EPSILON[i], [None] * 24), atol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_what_is_inside_is_in_ball_and_box(norm):
    epsilon = np.full(6, 2.0 if norm in ("l0", "l1") else 0.2, np.float32)
    y = np.asarray(inside(X, X + DELTA, epsilon, norm=norm))
    assert (length_of(y - X, norm) <= epsilon + 1e-6).all() and (y >= 0).all() and (y <= 1).all()


def test_in_l1_the_nearest_point_of_ball_and_box_is_the_optimisers():
    ours = np.asarray(inside(X, X + DELTA, EPSILON, norm="l1"), np.float64) - X
    for i in range(6):
        best = nearest_in_l1(DELTA[i], EPSILON[i], [1 - X[i], X[i]])
        np.testing.assert_allclose(ours[i], best, atol=2e-4)


def test_in_l2_the_nearest_point_of_ball_and_box_is_the_optimisers():
    scipy = pytest.importorskip("scipy.optimize")
    x = np.where(np.arange(12).reshape(3, 4) % 2 == 0, np.float32(0), X)  # half of the entries have no room below
    ours = np.asarray(inside(x, x + DELTA, EPSILON, norm="l2"), np.float64) - x
    for i in range(6):
        target, clean = DELTA[i].astype(np.float64).ravel(), x[i].astype(np.float64).ravel()
        best = scipy.minimize(
            lambda v, target=target: np.sum((v - target) ** 2), np.zeros(12), method="SLSQP",
            bounds=list(zip(-clean, 1 - clean, strict=True)),
            constraints={"type": "ineq", "fun": lambda v, i=i: float(EPSILON[i]) ** 2 - v @ v},
            options={"ftol": 1e-13, "maxiter": 500},
        ).x  # fmt: skip
        np.testing.assert_allclose(ours[i].ravel(), best, atol=2e-4)


def test_a_level_fills_as_much_as_asked():
    rng = np.random.default_rng(0)
    rate, most = rng.exponential(size=(50, 9)).astype(np.float32), rng.exponential(size=(50, 9)).astype(np.float32)
    rate[:, 0], most[:, 1] = 0, 0
    asked = (rng.uniform(0, 1.2, 50) * most[:, 1:].sum(1)).astype(np.float32)
    level = np.asarray(jax.jit(geometry.fill_level)(rate, most, asked))
    filled = np.minimum(level[:, None] * rate, most).sum(1)
    np.testing.assert_allclose(filled, np.minimum(asked, most[:, 1:].sum(1)), rtol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_steepest_direction_rises_as_fast_as_the_dual_norm_says(norm):
    direction = np.asarray(steepest(DELTA, norm=norm))
    np.testing.assert_allclose(length_of(direction, norm), np.ones(6), rtol=1e-6)
    np.testing.assert_allclose(np.sum(direction * DELTA, (1, 2)), dual_length(DELTA, norm=norm), rtol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_projection_onto_a_plane_is_the_optimisers(norm):
    scipy = pytest.importorskip("scipy.optimize")
    missing = np.array([0.3, -0.5, 1.5, -2.0, 0.0, 50.0], np.float32)
    move = np.asarray(to_hyperplane(X, DELTA, missing, norm=norm))
    there = X + move
    assert (there >= -1e-6).all() and (there <= 1 + 1e-6).all()
    reached = np.sum(move * DELTA, (1, 2))
    np.testing.assert_allclose(reached[:5], missing[:5], atol=2e-5)
    most = np.where(DELTA > 0, DELTA * (1 - X), -DELTA * X).sum((1, 2))
    assert reached[5] == pytest.approx(most[5], rel=1e-4), "outside the box, as close as possible"
    for i in range(4):
        w, x = np.asarray(DELTA[i], np.float64).ravel(), np.asarray(X[i], np.float64).ravel()
        n = len(x)
        if norm == "l2":
            d = scipy.minimize(
                lambda d: d @ d, np.zeros(n), bounds=list(zip(-x, 1 - x, strict=True)), method="SLSQP",
                constraints={"type": "eq", "fun": lambda d, w=w, i=i: w @ d - float(missing[i])},
                options={"ftol": 1e-14, "maxiter": 500},
            ).x  # fmt: skip
            least = np.linalg.norm(d)
        else:  # a linear programme: d = p - q, with the largest or the sum of p + q
            cost = np.r_[np.zeros(2 * n), 1] if norm == "linf" else np.r_[np.ones(2 * n), 0]
            over = np.c_[np.eye(n), np.eye(n), -np.ones(n)] if norm == "linf" else None
            least = scipy.linprog(
                cost, A_ub=over, b_ub=None if over is None else np.zeros(n), A_eq=np.r_[w, -w, 0][None],
                b_eq=[float(missing[i])], bounds=[*((0, r) for r in 1 - x), *((0, r) for r in x), (0, None)],
            ).fun  # fmt: skip
        assert length_of(move, norm)[i] == pytest.approx(least, abs=2e-5)
