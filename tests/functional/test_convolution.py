"""conv2d, depthwise_conv2d and max_pool2d against lax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sparsejax.functional import conv2d, depthwise_conv2d, max_pool2d
from sparsejax.functional.convolution import _by_convolution, _by_grouped_convolution, _by_shifts
from sparsejax.functional.convolution_cpu import by_patches, by_rows, estimate_costs
from sparsejax.functional.winograd import winograd
from tests.functional.drawn import normal

NONE = ((0, 0), (0, 0))
SHAPES = [
    ((3, 8, 9, 2), (5, 3, 2, 4)),
    ((2, 5, 5, 1), (5, 5, 1, 5)),
    ((1, 6, 6, 3), (1, 1, 3, 2)),
    ((2, 6, 5, 2), (4, 3, 2, 20)),
]


@functools.partial(jax.jit, static_argnames="padding")
def reference(x, kernel, padding="VALID"):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=lax.Precision.HIGHEST
    )


def by_winograd(x, kernel):
    return winograd(x, kernel, NONE)


def by_convolution(x, kernel):
    return _by_convolution(x, kernel, NONE)


def close(form, got, exact):
    """Asserts equality up to rounding, relative to the largest number: Winograd adds and subtracts multiples up to 5 of
    the inputs and of the outputs' parts, so its error is some times that of a sum."""
    rounding = 1e-5 if form is by_winograd else 2e-6
    np.testing.assert_allclose(got, exact, rtol=0, atol=rounding * np.abs(exact).max())


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(form, x, kernel):
    """Returns a form's output, and its gradients times the sine of that."""
    y, backward = jax.vjp(form, x, kernel)
    return y, backward(jnp.sin(y))


@pytest.mark.parametrize(
    ("form", "image", "filters"),
    [
        *((form, *shapes) for form in (by_patches, by_rows, by_winograd) for shapes in SHAPES),
        *((form, *SHAPES[0]) for form in (by_convolution, conv2d)),
    ],
)
def test_every_form_and_its_gradients_equal_lax_conv(form, image, filters):
    x, kernel = normal(*image), normal(*filters, seed=1)
    y, ours = value_and_gradients(form, x, kernel)
    expected, gradients = value_and_gradients(reference, x, kernel)
    for got, exact in zip((y, *ours), (expected, *gradients), strict=True):
        close(form, got, exact)


@pytest.mark.parametrize("form", [by_patches, by_rows, by_winograd, conv2d])
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
        close(form, ours, expected)


def fastest(batch, size, kernel):
    costs = estimate_costs(batch, size - kernel[0] + 1, size - kernel[1] + 1, kernel)
    return min(costs, key=costs.get)


@pytest.mark.parametrize(
    ("batch", "size", "kernel", "form"),
    [
        (64, 12, (5, 5, 32, 64), "winograd"),
        (4, 12, (5, 5, 32, 64), "winograd"),
        (128, 34, (3, 3, 32, 32), "winograd"),
        (1, 6, (3, 3, 256, 256), "patches"),  # the transform of the kernel would take longer than the products
        (64, 28, (5, 5, 1, 32), "patches"),  # transforms of 32 outputs save nothing with one input
        (64, 26, (7, 7, 6, 16), "rows"),  # 154 numbers at a position, patches 294, Winograd's transforms more
        (64, 22, (11, 11, 6, 16), "rows"),  # too large for Winograd
        (0, 12, (5, 5, 32, 64), "patches"),
    ],
)
def test_the_form_depends_on_the_shapes(batch, size, kernel, form):
    assert fastest(batch, size, kernel) == form


@pytest.mark.parametrize(("image", "filters"), [((4, 12, 12, 32), (5, 5, 32, 32)), ((64, 20, 21, 6), (9, 5, 6, 6))])
@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_forms_that_conv2d_chooses_equal_lax_conv(image, filters, padding):
    x, kernel = normal(*image), np.float32(0.1) * normal(*filters, seed=1)
    assert fastest(image[0], image[1], filters) == ("winograd" if filters[0] == 5 else "rows")
    ours, expected = (functools.partial(form, padding=padding) for form in (conv2d, reference))
    y, gradients = value_and_gradients(ours, x, kernel)
    wanted, others = value_and_gradients(expected, x, kernel)
    for got, exact in zip((y, *gradients), (wanted, *others), strict=True):
        np.testing.assert_allclose(got, exact, atol=1e-5 * np.abs(exact).max())


@pytest.mark.parametrize(("kh", "kw"), [(1, 1), (2, 3), (4, 6), (7, 5)])
def test_same_padding_keeps_the_size_as_in_lax_conv(kh, kw):
    x, kernel = normal(2, 6, 9, 3), normal(kh, kw, 3, 4, seed=1)
    expected = reference(x, kernel, padding="SAME")
    np.testing.assert_allclose(jax.jit(functools.partial(conv2d, padding="SAME"))(x, kernel), expected, atol=5e-5)
    np.testing.assert_allclose(conv2d(normal(1, 2, 2, 3), kernel, "SAME").shape, (1, 2, 2, 4))


def test_a_convolution_by_hand():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    kernel = jnp.array([[1.0, 0.0], [0.0, -1.0]]).reshape(2, 2, 1, 1)
    np.testing.assert_array_equal(conv2d(x, kernel).reshape(2, 2), [[-4, -4], [-4, -4]])


@pytest.mark.parametrize("form", [by_rows, by_winograd, conv2d])
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


@pytest.mark.parametrize("image", [(2, 6, 6, 2), (8, 16, 16, 32)])  # patches and Winograd
@pytest.mark.parametrize(
    ("dtypes", "expected"), [("bfloat16 bfloat16", "bfloat16"), ("float16 float16", "float16"),
                             ("bfloat16 float32", "float32"), ("float32 bfloat16", "float32")]
)  # fmt: skip
def test_every_form_returns_the_wider_of_the_types(image, dtypes, expected):
    of_images, of_kernel = map(jnp.dtype, dtypes.split())
    x, kernel = normal(*image).astype(of_images), normal(3, 3, image[-1], 32, seed=1).astype(of_kernel)
    y = conv2d(x, kernel)
    exact = reference(np.float32(x), np.float32(kernel))
    assert y.dtype == expected
    np.testing.assert_allclose(np.float32(y), exact, atol=(float(jnp.finfo(expected).eps) + 1e-5) * np.abs(exact).max())


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
    with pytest.raises(ValueError, match="padding"):
        conv2d(jnp.ones((2, 6, 6, 2)), jnp.ones((3, 3, 2, 4)), "FULL")


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
