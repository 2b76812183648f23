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
    _rows_pay,
)

# Gradients of rows are taken at once for the first and third, row by row for the second and the last.
SHAPES = [
    ((3, 8, 9, 2), (5, 3, 2, 4)),
    ((2, 5, 5, 1), (5, 5, 1, 5)),
    ((1, 6, 6, 3), (1, 1, 3, 2)),
    ((2, 6, 5, 2), (4, 3, 2, 20)),
]


def reference(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=lax.Precision.HIGHEST
    )


@pytest.mark.parametrize("form", [_by_patches, _by_rows, _by_convolution, conv2d])
@pytest.mark.parametrize(("image", "filters"), SHAPES)
def test_every_form_and_its_gradients_equal_lax_conv(fresh_key, form, image, filters):
    x, kernel = jax.random.normal(fresh_key(), image), jax.random.normal(fresh_key(), filters)
    expected, backward = jax.vjp(reference, x, kernel)
    upstream = jax.random.normal(fresh_key(), expected.shape)
    y, ours = jax.jit(lambda x, kernel: (form(x, kernel), jax.vjp(form, x, kernel)[1](upstream)))(x, kernel)
    np.testing.assert_allclose(y, expected, atol=2e-5)
    for got, gradient in zip(ours, backward(upstream), strict=True):
        np.testing.assert_allclose(got, gradient, atol=5e-5)


@pytest.mark.parametrize("form", [_by_patches, _by_rows, conv2d])
def test_tangents_of_images_and_of_kernels_alone_equal_those_of_lax_conv(fresh_key, form):
    x, kernel = jax.random.normal(fresh_key(), (3, 8, 9, 2)), jax.random.normal(fresh_key(), (5, 3, 2, 4))
    dx, dkernel = jax.random.normal(fresh_key(), x.shape), jax.random.normal(fresh_key(), kernel.shape)
    _, of_both = jax.jvp(reference, (x, kernel), (dx, dkernel))
    np.testing.assert_allclose(jax.jvp(form, (x, kernel), (dx, dkernel))[1], of_both, atol=5e-5)
    _, of_kernel = jax.jvp(lambda kernel: reference(x, kernel), (kernel,), (dkernel,))
    np.testing.assert_allclose(jax.jvp(lambda kernel: form(x, kernel), (kernel,), (dkernel,))[1], of_kernel, atol=5e-5)
    _, of_images = jax.jvp(lambda x: reference(x, kernel), (x,), (dx,))
    np.testing.assert_allclose(jax.jvp(lambda x: form(x, kernel), (x,), (dx,))[1], of_images, atol=5e-5)


def test_many_large_patches_are_added_up_by_rows_and_equal_lax_conv(fresh_key):
    image, filters = (64, 12, 12, 30), (5, 5, 30, 30)
    assert _rows_pay(image, filters)
    assert not _rows_pay((4, *image[1:]), filters), "few patches fit the cache"
    assert not _rows_pay((64, 28, 28, 1), (5, 5, 1, 30)), "the images are smaller than the output"
    x, kernel = jax.random.normal(fresh_key(), image), 0.1 * jax.random.normal(fresh_key(), filters)
    np.testing.assert_allclose(jax.jit(conv2d)(x, kernel), reference(x, kernel), atol=5e-5)


def test_a_convolution_by_hand():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    kernel = jnp.array([[1.0, 0.0], [0.0, -1.0]]).reshape(2, 2, 1, 1)
    np.testing.assert_array_equal(conv2d(x, kernel).reshape(2, 2), [[-4, -4], [-4, -4]])


@pytest.mark.parametrize("form", [_by_rows, conv2d])
def test_members_of_a_vmap_have_their_own_kernels(fresh_key, form):
    x, kernels = jax.random.normal(fresh_key(), (2, 5, 5, 2)), jax.random.normal(fresh_key(), (3, 3, 3, 2, 4))
    together = jax.jit(jax.vmap(form, in_axes=(None, 0)))(x, kernels)
    for kernel, y in zip(kernels, together, strict=True):
        np.testing.assert_allclose(y, reference(x, kernel), atol=2e-5)


@pytest.mark.parametrize(
    ("shape", "window"), [((2, 8, 6, 3), 2), ((2, 7, 9, 1), 2), ((1, 7, 8, 2), 3), ((1, 3, 3, 1), 1)]
)
def test_pooling_equals_reduce_window(fresh_key, shape, window):
    x = jax.random.normal(fresh_key(), shape)
    sizes = (1, window, window, 1)
    expected = lax.reduce_window(x, -jnp.inf, lax.max, sizes, sizes, "VALID")
    pool = functools.partial(max_pool2d, window=window)
    y, backward = jax.vjp(pool, x)
    np.testing.assert_array_equal(y, expected)
    # The gradient goes to the largest value of each window; here all values differ.
    gradient = np.asarray(backward(jnp.ones_like(y))[0])
    kept_by_window = np.repeat(np.repeat(np.asarray(y), window, 1), window, 2)
    rows, columns = kept_by_window.shape[1:3]
    np.testing.assert_array_equal(gradient[:, :rows, :columns], np.asarray(x)[:, :rows, :columns] == kept_by_window)
    assert gradient.sum() == y.size


def test_half_precision_is_kept(fresh_key):
    x, kernel = jax.random.normal(fresh_key(), (2, 6, 6, 2), jnp.bfloat16), jnp.ones((3, 3, 2, 2), jnp.bfloat16)
    assert conv2d(x, kernel).dtype == max_pool2d(x).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("image", "filters"), [((2, 6, 6, 2), (3, 3, 1, 4)), ((2, 2, 6, 1), (3, 3, 1, 4)), ((2, 6, 2, 1), (3, 3, 1, 4))]
)
def test_shapes_that_do_not_fit_are_refused(image, filters):
    with pytest.raises(ValueError, match="Cannot convolve images"):
        conv2d(jnp.ones(image), jnp.ones(filters))


DEPTHWISE = [((3, 8, 9, 4), (5, 3, 4)), ((2, 4, 4, 3), (2, 4, 3)), ((1, 2, 3, 2), (5, 5, 2)), ((2, 3, 3, 1), (1, 1, 1))]


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


@pytest.mark.parametrize("form", [_by_shifts, _by_grouped_convolution, depthwise_conv2d])
@pytest.mark.parametrize(("image", "filters"), DEPTHWISE)
def test_every_depthwise_form_and_its_gradients_equal_lax_conv(fresh_key, form, image, filters):
    x, kernel = jax.random.normal(fresh_key(), image), jax.random.normal(fresh_key(), filters)
    expected, backward = jax.vjp(depthwise_reference, x, kernel)
    upstream = jax.random.normal(fresh_key(), expected.shape)
    y, ours = jax.jit(lambda x, kernel: (form(x, kernel), jax.vjp(form, x, kernel)[1](upstream)))(x, kernel)
    np.testing.assert_allclose(y, expected, atol=2e-5)
    for got, gradient in zip(ours, backward(upstream), strict=True):
        np.testing.assert_allclose(got, gradient, atol=5e-5)


def test_a_depthwise_convolution_by_hand():
    x = jnp.arange(8.0).reshape(1, 2, 2, 2)  # channel 0 is [[0, 2], [4, 6]], channel 1 one more
    kernel = jnp.zeros((3, 3, 2)).at[1, 0, 0].set(1.0).at[2, 1, 1].set(10.0)
    y = depthwise_conv2d(x, kernel)
    np.testing.assert_array_equal(y[0, ..., 0], [[0, 0], [0, 4]])  # the neighbour to the left
    np.testing.assert_array_equal(y[0, ..., 1], [[50, 70], [0, 0]])  # ten times the one below


def test_members_of_a_vmap_have_their_own_depthwise_kernels(fresh_key):
    x, kernels = jax.random.normal(fresh_key(), (2, 5, 5, 2)), jax.random.normal(fresh_key(), (3, 3, 3, 2))
    together = jax.jit(jax.vmap(depthwise_conv2d, in_axes=(None, 0)))(x, kernels)
    for kernel, y in zip(kernels, together, strict=True):
        np.testing.assert_allclose(y, depthwise_reference(x, kernel), atol=2e-5)


def test_a_depthwise_convolution_keeps_half_precision():
    x = jnp.ones((2, 6, 6, 2), jnp.bfloat16)
    assert depthwise_conv2d(x, jnp.ones((3, 3, 2), jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("image", "filters"), [((2, 6, 6, 2), (3, 3, 1)), ((2, 6, 6, 2), (3, 3, 1, 2)), ((6, 6, 2), (3, 3, 2))]
)
def test_shapes_that_do_not_fit_are_refused_channel_by_channel(image, filters):
    with pytest.raises(ValueError, match="channel by channel"):
        depthwise_conv2d(jnp.ones(image), jnp.ones(filters))


def test_the_gradient_of_the_maximum_is_finite_however_it_is_compiled(fresh_key):
    """What is compared in the backward pass may have been computed again, and rounded otherwise."""
    x, kernel = jax.random.normal(fresh_key(), (8, 12, 12, 3)), jax.random.normal(fresh_key(), (3, 3, 3, 10))

    def loss(kernel):
        h = jax.nn.relu(conv2d(x, kernel))
        h = (h - h.mean((0, 1, 2), keepdims=True)) / jnp.sqrt(h.var((0, 1, 2), keepdims=True) + 1e-5)
        return jnp.sum(max_pool2d(h * 1.1 + 0.3) ** 2)

    assert np.isfinite(jax.jit(jax.grad(loss))(kernel)).all()


def test_the_greatest_of_a_window_share_its_gradient():
    x = jnp.asarray([[3.0, 1.0, 0.0, 2.0], [3.0, 0.0, 2.0, 2.0]]).reshape(1, 2, 4, 1)
    gradient = jax.grad(lambda x: jnp.sum(max_pool2d(x) * jnp.asarray([6.0, 9.0]).reshape(1, 1, 2, 1)))(x)
    np.testing.assert_allclose(gradient.reshape(2, 4), [[3, 0, 0, 3], [3, 0, 3, 3]])
