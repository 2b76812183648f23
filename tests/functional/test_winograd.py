"""Winograd's minimal filtering: the matrices, derived independently, and rounding."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsejax.functional.winograd import LARGEST_KERNEL, matrices, tile_size, winograd
from tests.functional.drawn import normal

SIZES = [(size, taps) for taps in range(1, LARGEST_KERNEL + 1) for size in range(1, min(4, 9 - taps) + 1)]


def solve(rows):
    """Solves a square system `[n, n + 1]` by elimination in exact fractions."""
    rows = [[Fraction(number) for number in row] for row in rows]
    for i in range(len(rows)):
        pivot = next(j for j in range(i, len(rows)) if rows[j][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [number / rows[i][i] for number in rows[i]]
        for j in range(len(rows)):
            if j != i:
                rows[j] = [a - rows[j][i] * b for a, b in zip(rows[j], rows[i], strict=True)]
    return [row[-1] for row in rows]


@pytest.mark.parametrize(("size", "taps"), SIZES)
def test_matrices_solve_the_equations_that_define_a_filter(size, taps):
    """Output i from tap j and input u: the sum over the products is 1 if u = i + j, else 0.

    For given A and G these are linear equations of B's columns. They are solved in fractions, without interpolation:
    as many of them as there are products, and the others have to hold as well.
    """
    back, filters, forth = matrices(size, taps)
    inputs = size + taps - 1
    assert (back.shape, filters.shape, forth.shape) == ((inputs, size), (inputs, taps), (inputs, inputs))
    pairs = [(0, j) for j in range(taps)] + [(i, taps - 1) for i in range(1, size)]
    exact = [[Fraction(float(number)).limit_denominator(10_000) for number in row] for row in filters]
    np.testing.assert_array_max_ulp(np.array(exact, float), filters, 2)  # the fractions are those meant
    for u in range(inputs):
        equations = [
            [Fraction(float(back[a, i])) * exact[a][j] for a in range(inputs)] + [i + j == u] for i, j in pairs
        ]
        column = solve(equations)
        np.testing.assert_allclose(forth[:, u], np.array(column, float), rtol=1e-14, atol=1e-14)
        for i, j in itertools.product(range(size), range(taps)):
            assert sum(Fraction(float(back[a, i])) * exact[a][j] * column[a] for a in range(inputs)) == (i + j == u)


@pytest.mark.parametrize(
    ("outputs", "taps", "size"), [(8, 5, 4), (10, 5, 4), (6, 3, 3), (2, 3, 2), (32, 7, 2), (1, 4, 1), (9, 1, 1)]
)
def test_tiles_have_the_size_that_needs_the_fewest_products(outputs, taps, size):
    assert tile_size(outputs, taps) == size


@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 2), (0, 3)), ((3, 0), (4, 1))])
@pytest.mark.parametrize(("kh", "kw"), [(1, 3), (2, 7), (6, 1), (4, 5)])
def test_every_kernel_and_padding_equals_lax_conv(kh, kw, padding):
    x, kernel = normal(2, 9, 10, 3), normal(kh, kw, 3, 4, seed=1)
    expected = lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    got = jax.jit(winograd, static_argnums=2)(x, kernel, padding)
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


# The order of the sums in a CPU's matrix product matters: of 3 taps 3e-6 were measured with AVX-512, 4.4e-6 with AVX2.
@pytest.mark.parametrize(("taps", "bound"), [(3, 6e-6), (5, 8e-6), (7, 8e-6)])
def test_rounding_stays_below_a_hundred_thousandth_of_the_largest_output(taps, bound):
    x, kernel = normal(8, 12, 12, 64), normal(taps, taps, 64, 32, seed=1)
    flat = np.lib.stride_tricks.sliding_window_view(np.float64(x), (taps, taps), (1, 2))
    exact = np.einsum("bhwcij,ijco->bhwo", flat, np.float64(kernel), optimize=True)
    got = jax.jit(lambda x, kernel: winograd(x, kernel, ((0, 0), (0, 0))))(x, kernel)
    assert np.abs(np.asarray(got) - exact).max() < bound * np.abs(exact).max()


def test_blank_images_stay_blank_and_gradients_are_those_of_a_bilinear_map():
    x, kernel = normal(2, 8, 8, 3), normal(5, 3, 3, 4, seed=1)
    form = jax.jit(lambda x, kernel: winograd(x, kernel, ((0, 0), (0, 0))))
    assert not np.any(form(jnp.zeros_like(x), kernel))
    y, pull_back = jax.vjp(form, x, kernel)
    dx, dkernel = pull_back(y)
    squared = float(jnp.sum(y**2))
    np.testing.assert_allclose([float(jnp.sum(dx * x)), float(jnp.sum(dkernel * kernel))], squared, rtol=1e-5)
    seconds = jax.hessian(lambda scale: jnp.sum(form(scale * x, kernel) ** 2))(1.0)
    np.testing.assert_allclose(seconds, 2 * squared, rtol=1e-5)
