"""Derivatives of codes: those of the solution, beside finite differences in float64 and unrolled iterations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.coding import admm, fista, group_lasso, lca, matching_pursuit, orthogonal_matching_pursuit
from tests.coding.problems import problem

EXACT = {"tolerance": 1e-7, "violation": 1e-6, "max_iterations": 50_000}


def plain_lasso(x, dictionary, l1, l2, nonnegative, mask, steps=20000):
    """Accelerated proximal gradient in float64."""
    x, dictionary = np.asarray(x, np.float64), np.asarray(dictionary, np.float64)
    step = 1 / (np.linalg.norm(dictionary, 2) ** 2 + l2)
    code = ahead = np.zeros((len(x), dictionary.shape[1]))
    t = 1.0
    for _ in range(steps):
        z = ahead + step * ((mask * (x - ahead @ dictionary.T)) @ dictionary - l2 * ahead)
        new = np.maximum(z - step * l1, 0) - (0 if nonnegative else np.maximum(-z - step * l1, 0))
        after = (1 + np.sqrt(1 + 4 * t * t)) / 2
        ahead, code, t = new + (t - 1) / after * (new - code), new, after
    return code


def difference(function, argument, direction, h=1e-5):
    return (function(argument + h * direction) - function(argument - h * direction)) / (2 * h)


CASES = {
    "plain": {},
    "elastic": {"l2": 0.2},
    "nonnegative": {"nonnegative": True},
    "masked": {"mask": True},
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
@pytest.mark.parametrize("solve", [fista, admm, lca], ids=["fista", "admm", "lca"])
def test_derivatives_of_the_solution_are_finite_differences(solve, case):
    if solve is admm and "mask" in case:
        pytest.skip("admm takes no masks")
    rng = np.random.default_rng(0)
    x, dictionary = problem(examples=4, inputs=12, atoms=18)
    weights = rng.uniform(0.1, 0.3, 18).astype(np.float32)
    mask = rng.random(x.shape) < 0.8 if "mask" in case else np.ones(x.shape, bool)
    given = {"l2": case.get("l2", 0.0), "nonnegative": case.get("nonnegative", False)}
    more = {"mask": mask} if "mask" in case else {}
    target = rng.standard_normal((4, 18)).astype(np.float32)

    def loss(x, dictionary, l1, l2):
        settings = given | more | {"l2": l2}
        return jnp.sum(solve(x, dictionary, l1=l1, **settings, **EXACT).code * target)

    arguments = (jnp.asarray(x), jnp.asarray(dictionary), jnp.asarray(weights), jnp.float32(given["l2"]))
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(*arguments)

    def plain(x, dictionary, l1, l2):
        return (plain_lasso(x, dictionary, l1, l2, given["nonnegative"], mask) * target).sum()

    exact = [np.asarray(a, np.float64) for a in arguments]
    for i, gradient in enumerate(gradients):
        direction = rng.standard_normal(exact[i].shape)
        right = difference(lambda a, i=i: plain(*exact[:i], a, *exact[i + 1 :]), exact[i], direction)
        np.testing.assert_allclose(float(np.sum(np.asarray(gradient) * direction)), right, rtol=5e-3, atol=5e-3)
        tangents = [np.zeros_like(a) for a in exact]
        tangents[i] = direction
        tangents = tuple(jnp.asarray(t, jnp.float32) for t in tangents)
        _, forward = jax.jvp(loss, arguments, tangents)
        np.testing.assert_allclose(float(forward), right, rtol=5e-3, atol=5e-3)


def test_derivatives_of_groups_are_finite_differences():
    rng = np.random.default_rng(0)
    x, dictionary = problem(examples=3, inputs=12, atoms=18)
    groups = np.arange(18) // 3
    direction = rng.standard_normal(x.shape).astype(np.float32)
    target = rng.standard_normal((3, 18)).astype(np.float32)

    def loss(x):
        return jnp.sum(group_lasso(x, dictionary, groups=groups, l1=0.3, **EXACT).code * target)

    right = difference(loss, jnp.asarray(x), direction, h=1e-2)
    np.testing.assert_allclose(float(jnp.sum(jax.grad(loss)(jnp.asarray(x)) * direction)), float(right), rtol=2e-2)


def test_derivatives_of_the_solution_are_those_of_unrolled_iterations():
    x, dictionary = problem(examples=4)

    def loss(dictionary, **settings):
        return jnp.sum(fista(x, dictionary, l1=0.2, **settings).code ** 2)

    at_solution = jax.grad(lambda d: loss(d, **EXACT))(jnp.asarray(dictionary))
    unrolled = jax.grad(lambda d: loss(d, tolerance=None, max_iterations=1000))(jnp.asarray(dictionary))
    np.testing.assert_allclose(np.asarray(at_solution), np.asarray(unrolled), rtol=2e-3, atol=2e-3)


def test_the_derivative_of_an_orthogonal_pursuit_is_that_of_least_squares():
    x, dictionary = problem(examples=4)
    code = np.asarray(orthogonal_matching_pursuit(x, dictionary, k=3).code)
    target = np.random.default_rng(0).standard_normal(code.shape).astype(np.float32)
    on = code != 0

    def loss(x, dictionary):
        return jnp.sum(orthogonal_matching_pursuit(x, dictionary, k=3).code * target)

    def by_least_squares(x, dictionary):
        total = 0.0
        for i in range(len(x)):
            chosen = np.flatnonzero(on[i])
            total += jnp.sum(jnp.linalg.lstsq(dictionary[:, chosen], x[i])[0] * target[i, chosen])
        return total

    arguments = jnp.asarray(x), jnp.asarray(dictionary)
    for got, right in zip(
        jax.grad(loss, (0, 1))(*arguments), jax.grad(by_least_squares, (0, 1))(*arguments), strict=True
    ):
        np.testing.assert_allclose(np.asarray(got), np.asarray(right), rtol=1e-3, atol=1e-3)


def test_the_derivative_of_matching_pursuit_is_a_finite_difference():
    x, dictionary = problem(examples=4)
    rng = np.random.default_rng(0)
    directions = [rng.standard_normal(a.shape).astype(np.float32) for a in (x, dictionary)]
    target = rng.standard_normal((4, dictionary.shape[1])).astype(np.float32)

    def loss(x, dictionary):
        return jnp.sum(matching_pursuit(x, dictionary, k=4).code * target)

    arguments = [jnp.asarray(x), jnp.asarray(dictionary)]
    gradients = jax.jit(jax.grad(loss, (0, 1)))(*arguments)
    for i in range(2):
        right = difference(
            lambda a, i=i: loss(*arguments[:i], a, *arguments[i + 1 :]), arguments[i], directions[i], h=1e-3
        )
        np.testing.assert_allclose(float(jnp.sum(gradients[i] * directions[i])), float(right), rtol=2e-2, atol=2e-2)
