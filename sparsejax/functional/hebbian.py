"""Hebbian/anti-Hebbian (HaH) blocks: unit-norm kernels, divisive normalisation, adaptive thresholds, and the cost.

A HaH block is convolution with a kernel of `unit_norm`, ReLU, `divisive_norm`, `adaptive_threshold`; its cost is
`hebbian_cost` of the output of the ReLU. Images are `[batch, height, width, channels]`, a neuron is a channel.

References:
  Cekic, Bakiskan & Madhow, Neuro-Inspired Deep Neural Networks with Sparse, Strong Activations, 2022. Each function
  notes differences between the paper and its code.
"""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sparsejax.functional.arguments import checked
from sparsejax.functional.convolution import conv2d
from sparsejax.functional.selection import kth_largest, top_k
from sparsejax.functional.sums import at_least_float32, mean


@checked
def unit_norm(kernel: Float[Array, "*inputs outputs"], *, eps: float = 1e-6) -> Float[Array, "*inputs outputs"]:
    """Returns the kernel with each neuron's weights divided by their norm, so that responses are projections.

    The gradient includes the norm: it is orthogonal to the weights, so no step shortens them.

    Args:
      kernel: `[..., outputs]`; a neuron's weights are all weights to one output.
      eps: added to the norm, so that a neuron without weights stays inactive.

    Returns:
      Array like kernel.

    References:
      Cekic, Bakiskan & Madhow, Neuro-Inspired Deep Neural Networks with Sparse, Strong Activations, 2022, Eq. 1; eps is
      that of the code.
    """
    square = jnp.sum(jnp.square(kernel), axis=tuple(range(kernel.ndim - 1)))
    # The square root has no gradient at 0.
    length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return kernel / (length + eps).reshape((1,) * (kernel.ndim - 1) + (-1,))


@checked
def divisive_norm(
    y: Float[Array, "batch height width channels"],
    *,
    sigma: float | Float[Array, ""] = 0.1,
    pool: int = 3,
    eps: float = 1e-7,
) -> Float[Array, "batch height width channels"]:
    r"""Divides activations by the mean activity at their position and at the image's most active one.

    .. math:: z_k(p) = \frac{y_k(p)}{\sigma \max_q M(q) + (1 - \sigma) M(p)}

    with M the mean activity over the neurons; with `pool` the maximum over a square of positions is taken first. z is
    invariant to the scale of an image, up to eps.

    Args:
      y: activations `[batch, height, width, channels]`, usually 0 or more; for negative ones the absolute value counts.
      sigma: weight of the most active position, in [0, 1] (the paper's symbol, not a standard deviation); may be
        traced.
      pool: side of the square around each position. The paper's equation has none, which is 1; its code uses 3.
      eps: added to the denominator.

    Returns:
      Array like y.

    Raises:
      ValueError: y is not a batch of images, sigma is a Python number outside [0, 1], or pool is even or below 1.

    References:
      Cekic, Bakiskan & Madhow, Neuro-Inspired Deep Neural Networks with Sparse, Strong Activations, 2022, Eq. 2; pool
      and eps are those of the code.
    """
    if isinstance(sigma, (int, float)) and not 0 <= sigma <= 1:
        raise ValueError(f"sigma is {sigma}; expected a weight in [0, 1].")
    if pool < 1 or pool % 2 == 0:
        raise ValueError(f"pool is {pool}; expected an odd number of positions, 1 for none.")
    if y.size == 0:
        return y
    # The gradient of jnp.abs at 0 is 1, not 0.
    activity = y * jax.lax.stop_gradient(jnp.sign(y))
    mean = jnp.mean(_local_max(activity, pool), axis=-1, keepdims=True)
    most = jnp.max(mean, axis=(1, 2), keepdims=True)
    return y / (jnp.asarray(sigma, y.dtype) * most + jnp.asarray(1 - sigma, y.dtype) * mean + eps)


@checked
def adaptive_threshold(
    z: Float[Array, "batch height width channels"], *, keep: float = 0.2
) -> Float[Array, "batch height width channels"]:
    """Keeps the positions with the largest activations of every image and neuron, and zeroes the others.

    Of n positions floor((1 - keep) n) are at or below the threshold, and only strictly larger values are kept: tied
    values are dropped together, and if more than that many are 0, all positive ones are kept. No gradient passes the
    threshold.

    Args:
      z: activations `[batch, height, width, channels]`.
      keep: fraction of the positions to keep, in (0, 1].

    Returns:
      Array like z.

    Raises:
      ValueError: z is not a batch of images, or keep is outside (0, 1].

    References:
      Cekic, Bakiskan & Madhow, Neuro-Inspired Deep Neural Networks with Sparse, Strong Activations, 2022, Eq. 3 with
      the 1 - keep quantile of section 2.1; strictness and floor are those of the code.
    """
    batch, height, width, channels = z.shape
    if not 0 < keep <= 1:
        raise ValueError(f"keep is {keep}; expected a fraction in (0, 1].")
    positions = height * width
    below = math.floor((1 - keep) * positions + 1e-9)  # in floating point 1 - 0.8 < 0.2
    if below == 0:
        return z
    rows = jnp.moveaxis(jax.lax.stop_gradient(z), -1, 1).reshape(batch, channels, positions)
    threshold = kth_largest(rows, positions - below + 1)
    return _keep_above(z, threshold[:, None, None, :])


@checked
def mean_threshold(
    z: Float[Array, "batch height width channels"], *, factor: float | Float[Array, ""] = 1.0
) -> Float[Array, "batch height width channels"]:
    """Zeroes values that do not exceed `factor` times the mean over the positions, for every image and neuron.

    No gradient passes the threshold.

    Args:
      z: activations `[batch, height, width, channels]`.
      factor: of the mean; may be traced.

    Returns:
      Array like z.

    Raises:
      ValueError: z is not a batch of images.

    References:
      Cekic, Bakiskan & Madhow, Neuro-Inspired Deep Neural Networks with Sparse, Strong Activations, 2022, section 2.1,
      the alternative threshold.
    """
    mean = jnp.mean(jax.lax.stop_gradient(z), axis=(1, 2), keepdims=True)
    return _keep_above(z, jnp.asarray(factor, z.dtype) * mean)


@checked
def hebbian_cost(
    y: Float[Array, "*batch channels"], *, demote: float | Float[Array, ""], promoted: float = 0.1
) -> Float[Array, ""]:
    r"""Returns the activity of the most active neurons minus that of the others, averaged over positions; maximise it.

    .. math:: L = \frac{1}{K} \sum_{k \le K} y^{(k)} - \frac{\lambda}{N - K} \sum_{k > K} y^{(k)}

    with the activations of a position in descending order. Raising L strengthens what fires together (Hebbian) and
    weakens the rest (anti-Hebbian).

    Args:
      y: activations `[..., channels]` after the ReLU, before any normalisation of them.
      demote: lambda, the weight of the others; may be traced. The paper says 0.1; its code uses 1 because of a misspelt
        name.
      promoted: fraction of the neurons that count as the most active; K is rounded up.

    Returns:
      L, float32 or float64 `[]`, in the unit of y; 0 for an empty batch.

    Raises:
      ValueError: promoted leaves no neuron among the most active or among the others.

    References:
      Cekic, Bakiskan & Madhow, Neuro-Inspired Deep Neural Networks with Sparse, Strong Activations, 2022, Eq. 4; the
      rounding is that of the code.
    """
    neurons = y.shape[-1]
    k = math.ceil(promoted * neurons)
    if not 1 <= k < neurons:
        raise ValueError(
            f"promoted is {promoted}, {k} of {neurons} neurons; expected a fraction that leaves at least one neuron "
            "among the most active and one among the others."
        )
    y = at_least_float32(y)
    most = jnp.sum(top_k(y, k, ties="first"), axis=-1)
    others = jnp.sum(y, axis=-1) - most
    return mean(most / k - demote * others / (neurons - k))


@checked
def conv2d_twice(
    x: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "kh kw inputs outputs"],
    padding: Literal["VALID", "SAME"] = "VALID",
) -> tuple[Float[Array, "batch rows columns outputs"], Float[Array, "batch rows columns outputs"]]:
    """Returns `conv2d` twice: the first has gradients to kernel and input, the second only to the kernel.

    So a cost of the second output is local to the layer, as if its input were constant, without an additional
    convolution: the kernel's gradients are computed together.

    Args:
      x: images `[batch, height, width, inputs]`.
      kernel: weights `[kh, kw, inputs, outputs]`.
      padding: "VALID" or "SAME", as in `conv2d`.

    Returns:
      A pair of the same output of `conv2d` `[batch, rows, columns, outputs]`.

    Raises:
      ValueError: shapes do not fit, the kernel is larger than the padded image, or the padding is unknown.

    References:
      The code of Cekic, Bakiskan & Madhow, Neuro-Inspired Deep Neural Networks with Sparse, Strong Activations, 2022,
      whose gradient of each layer's cost stays in the layer; the paper does not mention it.
    """
    return _conv2d_twice(padding, x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv2d_twice(padding, x, kernel):
    y = conv2d(x, kernel, padding)
    return y, y


def _forward(padding, x, kernel):
    y, pull_back = jax.vjp(lambda x, kernel: conv2d(x, kernel, padding), x, kernel)
    return (y, y), pull_back


def _backward(padding, pull_back, gradients):
    passed, local = gradients
    return pull_back(passed)[0], pull_back(passed + local)[1]


_conv2d_twice.defvjp(_forward, _backward)


def _local_max(y: Array, side: int) -> Array:
    """Returns the maximum over a square around each position: along one axis, then the other, by shifting.

    Inside a while loop `lax.reduce_window` and its gradient are slow on a CPU.
    """
    reach = side // 2
    for axis in (1, 2):
        around = ((0, 0),) * axis + ((reach, reach),) + ((0, 0),) * (3 - axis)
        padded = jnp.pad(y, around)  # with 0, the smallest absolute value
        length = y.shape[axis]
        shifted = (jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(side))
        y = functools.reduce(jnp.maximum, shifted)
    return y


def _keep_above(z: Array, threshold: Array) -> Array:
    """Keeps values above the threshold, and NaN."""
    return jnp.where(z <= threshold, jnp.zeros_like(z), z)
