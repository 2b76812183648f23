"""Projections against what an optimiser finds, and by their properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.evaluation.attacks.geometry import (
    dual_length,
    inside,
    length,
    onto_ball,
    random_start,
    steepest,
    to_hyperplane,
)

NORMS = ("linf", "l2", "l1", "l0")
rng = np.random.default_rng(0)
DELTA = jnp.asarray(rng.normal(size=(6, 3, 4)), jnp.float32)
X = jnp.asarray(rng.random((6, 3, 4)), jnp.float32)


@pytest.mark.parametrize("norm", NORMS)
def test_a_projection_lies_in_the_ball_and_none_is_nearer(norm):
    epsilon = jnp.asarray([0.3, 1.0, 2.0, 3.0, 5.5, 100.0])
    y = jax.jit(lambda d: onto_ball(d, epsilon, norm))(DELTA)
    assert (length(y, norm) <= epsilon * (1 + 1e-6)).all()
    within = length(DELTA, norm) <= epsilon
    np.testing.assert_array_equal(np.asarray(y)[within], np.asarray(DELTA)[within])
    for seed in range(20):  # other points of the ball
        if norm == "l0":
            ranks = np.random.default_rng(seed).permuted(np.arange(12)[None].repeat(6, 0), axis=1)
            other = jnp.where((ranks < np.floor(epsilon)[:, None]).reshape(6, 3, 4), DELTA, 0)
        else:
            other = random_start(jax.random.key(seed), jnp.zeros_like(DELTA), epsilon, norm)
            assert (length(other, norm) <= epsilon * (1 + 1e-6)).all()
        assert (length(y - DELTA, "l2") <= length(other - DELTA, "l2") + 1e-6).all()


def test_the_l1_projection_is_the_optimisers():
    scipy = pytest.importorskip("scipy.optimize")
    delta = np.asarray(DELTA[:1], np.float64).ravel()
    best = scipy.minimize(
        lambda v: np.sum((v[:12] - v[12:] - delta) ** 2), np.zeros(24), bounds=[(0, None)] * 24, method="SLSQP",
        constraints={"type": "ineq", "fun": lambda v: 1.5 - v.sum()}, options={"ftol": 1e-12, "maxiter": 500},
    ).x  # fmt: skip
    ours = onto_ball(DELTA[:1], jnp.asarray([1.5]), "l1")
    np.testing.assert_allclose(np.ravel(ours), best[:12] - best[12:], atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_what_is_inside_is_in_ball_and_box(norm):
    epsilon = jnp.full(6, 2.0 if norm in ("l0", "l1") else 0.2)
    y = inside(X, X + DELTA, epsilon, norm, (0.0, 1.0))
    assert (length(y - X, norm) <= epsilon + 1e-6).all() and (y >= 0).all() and (y <= 1).all()


def test_in_l1_the_nearest_point_of_ball_and_box_is_the_optimisers():
    scipy = pytest.importorskip("scipy.optimize")
    epsilon = jnp.asarray([0.3, 1.0, 2.0, 3.0, 5.0, 100.0])
    ours = np.asarray(jax.jit(lambda x: inside(x, x + DELTA, epsilon, "l1", (0.0, 1.0)) - x)(X), np.float64)
    for i in range(6):
        delta, x = np.asarray(DELTA[i], np.float64).ravel(), np.asarray(X[i], np.float64).ravel()
        best = scipy.minimize(
            lambda v, delta=delta: np.sum((v[:12] - v[12:] - delta) ** 2), np.zeros(24), method="SLSQP",
            bounds=[*((0, r) for r in 1 - x), *((0, r) for r in x)],
            constraints={"type": "ineq", "fun": lambda v, i=i: float(epsilon[i]) - v.sum()},
            options={"ftol": 1e-13, "maxiter": 500},
        ).x  # fmt: skip
        np.testing.assert_allclose(ours[i].ravel(), best[:12] - best[12:], atol=2e-4)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_steepest_direction_rises_as_fast_as_the_dual_norm_says(norm):
    direction = steepest(DELTA, norm, share=0.01)
    np.testing.assert_allclose(length(direction, norm), np.ones(6), rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(direction * DELTA, (1, 2)), dual_length(DELTA, norm), rtol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_shortest_way_to_a_plane_is_the_optimisers(norm):
    scipy = pytest.importorskip("scipy.optimize")
    missing = jnp.asarray([0.3, -0.5, 1.5, -2.0, 0.0, 50.0])
    move = jax.jit(lambda x: to_hyperplane(x, DELTA, missing, norm, (0.0, 1.0)))(X)
    there = X + move
    assert (there >= -1e-6).all() and (there <= 1 + 1e-6).all()
    reached = np.asarray(jnp.sum(move * DELTA, (1, 2)))
    np.testing.assert_allclose(reached[:5], missing[:5], atol=2e-5)
    most = np.where(DELTA > 0, DELTA * (1 - X), -DELTA * X).sum((1, 2))
    assert reached[5] == pytest.approx(most[5], rel=1e-4), "beyond the box, as near as it allows"
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
        assert float(length(move, norm)[i]) == pytest.approx(least, abs=2e-5)
