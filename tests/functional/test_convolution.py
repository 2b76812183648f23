"""conv2d, depthwise_conv2d and max_pool2d against lax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsejax.functional import conv2d, depthwise_conv2d, max_pool2d
from sparsejax.functional.convolution import (
    _by_convolution,
    _by_grouped_convolution,
    _by_patches,
    _by_rows,
    _by_shifts,
    _rows_are_faster,
)
from tests.functional.drawn import normal

# Gradients of rows are taken at once for the first and third, row by row for the second and the last.
SHAPES = [
    ((3, 8, 9, 2), (5, 3, 2, 4)),
    ((2, 5, 5, 1), (5, 5, 1, 5)),
    ((1, 6, 6, 3), (1, 1, 3, 2)),
    ((2, 6, 5, 2), (4, 3, 2, 20)),
]


@jax.jit
def reference(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=lax.Precision.HIGHEST
    )


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(form, x, kernel):
    """Returns a form's output, and its gradients times the sine of that."""
    y, backward = jax.vjp(form, x, kernel)
    return y, backward(jnp.sin(y))


@pytest.mark.parametrize(
    ("form", "image", "filters"),
    [
        *((form, *shapes) for form in (_by_patches, _by_rows) for shapes in SHAPES),
        *((form, *SHAPES[0]) for form in (_by_convolution, conv2d)),
    ],
)
def test_every_form_and_its_gradients_equal_lax_conv(form, image, filters):
    x, kernel = normal(*image), normal(*filters, seed=1)
    y, ours = value_and_gradients(form, x, kernel)
    expected, gradients = value_and_gradients(reference, x, kernel)
    np.testing.assert_allclose(y, expected, atol=2e-5)
    for got, gradient in zip(ours, gradients, strict=True):
        np.testing.assert_allclose(got, gradient, atol=5e-5)


@pytest.mark.parametrize("form", [_by_patches, _by_rows, conv2d])
def test_tangents_of_images_and_of_kernels_alone_equal_those_of_lax_conv(form):
    x, kernel = normal(3, 8, 9, 2), normal(5, 3, 2, 4, seed=1)
    dx, dkernel = normal(*x.shape, seed=2), normal(*kernel.shape, seed=3)

    @functools.partial(jax.jit, static_argnums=0)
    def tangents(form, x, kernel):
        of_both = jax.jvp(form, (x, kernel), (dx, dkernel))
        of_kernel = jax.jvp(lambda kernel: form(x, kernel), (kernel,), (dkernel,))
        of_images = jax.jvp(lambda x: form(x, kernel), (x,), (dx,))
        return of_both[1], of_kernel[1], of_images[1]

    for ours, expected in zip(tangents(form, x, kernel), tangents(reference, x, kernel), strict=True):
        np.testing.assert_allclose(ours, expected, atol=5e-5)


def test_many_large_patches_are_added_up_by_rows_and_equal_lax_conv():
    image, filters = (64, 12, 12, 30), (5, 5, 30, 30)
    assert _rows_are_faster(image, filters)
    assert not _rows_are_faster((4, *image[1:]), filters), "few patches fit the cache"
    assert not _rows_are_faster((64, 28, 28, 1), (5, 5, 1, 30)), "the images are smaller than the output"
    x, kernel = normal(*image), jnp.asarray(np.float32(0.1) * normal(*filters, seed=1))
    np.testing.assert_allclose(jax.jit(conv2d)(x, kernel), reference(x, kernel), atol=5e-5)


def test_a_convolution_by_hand():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    kernel = jnp.array([[1.0, 0.0], [0.0, -1.0]]).reshape(2, 2, 1, 1)
    np.testing.assert_array_equal(conv2d(x, kernel).reshape(2, 2), [[-4, -4], [-4, -4]])


@pytest.mark.parametrize("form", [_by_rows, conv2d])
def test_members_of_a_vmap_have_their_own_kernels(form):
    x, kernels = normal(2, 5, 5, 2), normal(3, 3, 3, 2, 4, seed=1)
    together = jax.jit(jax.vmap(form, in_axes=(None, 0)))(x, kernels)
    for kernel, y in zip(kernels, together, strict=True):
        np.testing.assert_allclose(y, reference(x, kernel), atol=2e-5)


@pytest.mark.parametrize(
    ("shape", "window"), [((2, 8, 6, 3), 2), ((2, 7, 9, 1), 2), ((1, 7, 8, 2), 3), ((1, 3, 3, 1), 1)]
)
def test_pooling_equals_reduce_window(shape, window):
    x, sizes = normal(*shape), (1, window, window, 1)
    expected = lax.reduce_window(x, -jnp.inf, lax.max, sizes, sizes, "VALID")

    @jax.jit
    def both(x):
        y, backward = jax.vjp(functools.partial(max_pool2d, window=window), x)
        return y, backward(jnp.ones_like(y))[0]

    y, gradient = map(np.asarray, both(x))
    np.testing.assert_array_equal(y, expected)
    # The gradient goes to the largest value of each window; here all values differ.
    kept_by_window = np.repeat(np.repeat(y, window, 1), window, 2)
    rows, columns = kept_by_window.shape[1:3]
    np.testing.assert_array_equal(gradient[:, :rows, :columns], np.asarray(x)[:, :rows, :columns] == kept_by_window)
    assert gradient.sum() == y.size


def test_half_precision_is_kept():
    x = np.ones((2, 6, 6, 2), jnp.bfloat16)
    assert jax.eval_shape(conv2d, x, np.ones((3, 3, 2, 2), jnp.bfloat16)).dtype == jnp.bfloat16
    assert jax.eval_shape(depthwise_conv2d, x, np.ones((3, 3, 2), jnp.bfloat16)).dtype == jnp.bfloat16
    assert jax.eval_shape(max_pool2d, x).dtype == jnp.bfloat16


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("image", "filters"), [((2, 6, 6, 2), (3, 3, 1, 4)), ((2, 2, 6, 1), (3, 3, 1, 4)), ((2, 6, 2, 1), (3, 3, 1, 4))]
)
def test_shapes_that_do_not_fit_are_refused(image, filters):
    with pytest.raises(ValueError, match="Cannot convolve images"):
        conv2d(jnp.ones(image), jnp.ones(filters))


DEPTHWISE = [((3, 8, 9, 4), (5, 3, 4)), ((2, 4, 4, 3), (2, 4, 3)), ((1, 2, 3, 2), (5, 5, 2)), ((2, 3, 3, 1), (1, 1, 1))]


@jax.jit
def depthwise_reference(x, kernel):
    """Convolves one channel after another."""
    channels = [
        lax.conv_general_dilated(
            x[..., c : c + 1], kernel[:, :, None, c : c + 1], (1, 1), "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=lax.Precision.HIGHEST,
        )
        for c in range(x.shape[-1])
    ]  # fmt: skip
    return jnp.concatenate(channels, axis=-1)


@pytest.mark.parametrize(
    ("form", "image", "filters"),
    [
        *((_by_shifts, *shapes) for shapes in DEPTHWISE),
        *((form, *DEPTHWISE[1]) for form in (_by_grouped_convolution, depthwise_conv2d)),
    ],
)
def test_every_depthwise_form_and_its_gradients_equal_lax_conv(form, image, filters):
    x, kernel = normal(*image), normal(*filters, seed=1)
    y, ours = value_and_gradients(form, x, kernel)
    expected, gradients = value_and_gradients(depthwise_reference, x, kernel)
    np.testing.assert_allclose(y, expected, atol=2e-5)
    for got, gradient in zip(ours, gradients, strict=True):
        np.testing.assert_allclose(got, gradient, atol=5e-5)


def test_a_depthwise_convolution_by_hand():
    x = jnp.arange(8, dtype=jnp.float32).reshape(1, 2, 2, 2)  # channel 0 is [[0, 2], [4, 6]], channel 1 one more
    kernel = np.zeros((3, 3, 2), np.float32)
    kernel[1, 0, 0], kernel[2, 1, 1] = 1, 10
    y = depthwise_conv2d(x, jnp.asarray(kernel))
    np.testing.assert_array_equal(y[0, ..., 0], [[0, 0], [0, 4]])  # the neighbour to the left
    np.testing.assert_array_equal(y[0, ..., 1], [[50, 70], [0, 0]])  # ten times the one below


def test_members_of_a_vmap_have_their_own_depthwise_kernels():
    x, kernels = normal(2, 5, 5, 2), normal(3, 3, 3, 2, seed=1)
    together = jax.jit(jax.vmap(depthwise_conv2d, in_axes=(None, 0)))(x, kernels)
    for kernel, y in zip(kernels, together, strict=True):
        np.testing.assert_allclose(y, depthwise_reference(x, kernel), atol=2e-5)


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("image", "filters"), [((2, 6, 6, 2), (3, 3, 1)), ((2, 6, 6, 2), (3, 3, 1, 2)), ((6, 6, 2), (3, 3, 2))]
)
def test_shapes_that_do_not_fit_are_refused_channel_by_channel(image, filters):
    with pytest.raises(ValueError, match=r"channel by channel|kernel has shape|x has shape"):
        depthwise_conv2d(jnp.ones(image), jnp.ones(filters))


def test_the_greatest_of_a_window_share_its_gradient():
    x = jnp.asarray([[3.0, 1.0, 0.0, 2.0], [3.0, 0.0, 2.0, 2.0]]).reshape(1, 2, 4, 1)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(max_pool2d(x) * jnp.asarray([6.0, 9.0]).reshape(1, 1, 2, 1))))(x)
    np.testing.assert_allclose(gradient.reshape(2, 4), [[3, 0, 0, 3], [3, 0, 3, 3]])


@pytest.mark.optimized
def test_the_gradient_of_the_maximum_is_finite_however_it_is_compiled():
    """The values compared in the backward pass may have been recomputed, with different rounding."""
    x, kernel = normal(8, 12, 12, 3), normal(3, 3, 3, 10, seed=1)

    def loss(kernel):
        h = jax.nn.relu(conv2d(x, kernel))
        h = (h - h.mean((0, 1, 2), keepdims=True)) / jnp.sqrt(h.var((0, 1, 2), keepdims=True) + 1e-5)
        return jnp.sum(max_pool2d(h * 1.1 + 0.3) ** 2)

    assert np.isfinite(jax.jit(jax.grad(loss))(kernel)).all()
