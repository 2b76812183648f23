r"""Terms that Gaussian input noise adds to the loss of a one-hidden-layer autoencoder, without sampling noise.

With noise eps of standard deviation sigma, hidden units :math:`h = f(W_e x + b_e)` and loss the squared error *summed*
over outputs, write e for the error without noise, delta for the change of h by the noise and v_j for unit j's row of
the decoder. The expected loss is then exactly :math:`\|e\|^2` plus

.. math:: -2 \sum_j (e \cdot v_j)\, E \delta_j \; + \; \sum_j \|v_j\|^2\, E \delta_j^2
    \; + \; \sum_{j \neq k} (v_j \cdot v_k)\, E \delta_j \delta_k

of which, for ReLU, the first rewards a margin around the threshold, the second sparse activations, and the third units
with little overlap. For the mean over outputs, divide by their number.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sparsejax.functional.arguments import checked
from sparsejax.functional.normal import normal_cdf
from sparsejax.functional.sums import at_least_float32

# Beyond this many standard deviations from the threshold, noise never takes a unit across it (in float32).
_FAR = 12.0


class ImplicitTerms(NamedTuple):
    """The three terms of each example `[...]`; their sum is the increase of the expected loss.

    `mean_shift` has either sign; `second_moment` is >= 0; `co_fluctuation` has either sign.
    """

    mean_shift: Float[Array, "*batch"]
    second_moment: Float[Array, "*batch"]
    co_fluctuation: Float[Array, "*batch"]


@checked
def implicit_terms(
    x: Float[Array, "*batch inputs"],
    encoder: Float[Array, "inputs units"],
    encoder_bias: Float[Array, "units"],
    decoder: Float[Array, "units outputs"],
    decoder_bias: Float[Array, "outputs"],
    *,
    sigma: float | Float[Array, ""],
    target: Float[Array, "*batch outputs"] | None = None,
    terms: int = 12,
) -> ImplicitTerms:
    r"""Returns the three terms of a ReLU autoencoder, for noise of any size.

    The mean and the second moment are closed forms. The co-fluctuation of two units whose keys have the cosine rho is
    Mehler's series :math:`\sum_p \rho^p c_{pj} c_{pk}`, with the Hermite coefficients c_p of delta: one product with a
    [units, units] matrix per term, recomputed in the backward pass instead of stored.

    Args:
      x: clean inputs `[..., inputs]`.
      encoder: weights `[inputs, units]`; a zero column is a unit without noise.
      encoder_bias: `[units]`.
      decoder: weights `[units, outputs]`.
      decoder_bias: `[outputs]`.
      sigma: standard deviation of the noise on each input; 0 gives zeros and finite gradients; may be traced.
      target: to reconstruct, `[..., outputs]`; None for the clean x.
      terms: number of terms of the series, p = 0, ..., terms - 1; static. Twelve leave an error below 1e-5 of the
        co-fluctuation of random keys; for a pair of equal (or opposite) keys, one of up to 0.0013 sigma^2 |w|^2.

    Returns:
      The terms, differentiable in everything. At the threshold of a unit they are not differentiable; the gradient
        there is that from below, as for ReLU.

    Raises:
      ValueError: shapes do not fit, sigma is a negative Python number, or terms is not positive.

    References:
      Bricken et al., Emergence of Sparse Representations from Noise, 2023, names the three terms; the closed forms
      are ours. The leading order in sigma, without the mean shift and the smoothing near the threshold, is wrong by
      several times in an untrained network.
    """
    x, encoder, encoder_bias, decoder, decoder_bias = map(
        at_least_float32, (x, encoder, encoder_bias, decoder, decoder_bias)
    )
    error = _error(x, encoder, encoder_bias, decoder, decoder_bias, sigma, target, jax.nn.relu)
    if terms < 1:
        raise ValueError(f"terms is {terms}; expected at least one term of the series (12 suffice for most networks).")
    z = _affine(x, encoder, encoder_bias)
    length = _safe_norm(encoder)
    s = jnp.broadcast_to(jnp.asarray(sigma, z.dtype) * length, z.shape)
    # Distance from the threshold in standard deviations; far from it, a constant, which does not need s > 0. Likewise
    # where the square of s, a divisor of the gradient, would underflow.
    far = (jnp.abs(z) >= _FAR * s) | (s < 1e-15)
    t = jnp.where(far, _FAR * jnp.sign(z), z / jnp.where(far, 1.0, s))
    above = t > 0
    # Not jnp.abs, whose gradient at 0 is 1.
    a = jnp.where(above, t, -t)
    density, beyond = jax.scipy.stats.norm.pdf(t), normal_cdf(-a)
    mean = s * (density - a * beyond)
    # Written relative to s: the difference of the raw moments of relu(z + noise) would cancel most digits.
    moment = s**2 * (jnp.where(above, 1 - 2 * beyond, 0.0) + (1 + a**2) * beyond - a * density)

    unit_keys = encoder / jnp.where(length > 0, length, 1.0)[None, :]
    cosine, overlap = unit_keys.T @ unit_keys, _without_diagonal(decoder @ decoder.T)
    co_fluctuation = jnp.zeros_like(z[..., 0])
    for p, c in enumerate(_hermite_coefficients(t, s, mean, density, terms)):
        co_fluctuation += _pairs(c, cosine, overlap, p)
    return ImplicitTerms(
        mean_shift=-2 * jnp.sum(error * (mean @ decoder), axis=-1),
        second_moment=moment @ jnp.sum(decoder**2, axis=-1),
        co_fluctuation=co_fluctuation,
    )


@checked
def implicit_terms_smooth(
    x: Float[Array, "*batch inputs"],
    encoder: Float[Array, "inputs units"],
    encoder_bias: Float[Array, "units"],
    decoder: Float[Array, "units outputs"],
    decoder_bias: Float[Array, "outputs"],
    activation: Callable[[Array], Array],
    *,
    sigma: float | Float[Array, ""],
    target: Float[Array, "*batch outputs"] | None = None,
) -> ImplicitTerms:
    r"""Returns the three terms of a smooth autoencoder to second order in sigma.

    .. math:: -\sigma^2 \sum_j (e \cdot v_j) f''(z_j) \|w_j\|^2, \quad \sigma^2 \sum_j \|v_j\|^2 \|w_j\|^2 f'(z_j)^2,
        \quad \sigma^2 \sum_{j \neq k} (v_j \cdot v_k) (w_j \cdot w_k) f'(z_j) f'(z_k)

    Args:
      x: as in `implicit_terms`, like all other arrays.
      encoder: `[inputs, units]`.
      encoder_bias: `[units]`.
      decoder: `[units, outputs]`.
      decoder_bias: `[outputs]`.
      activation: f, elementwise and twice differentiable: `jax.nn.gelu`, `jnp.tanh`. Not ReLU, whose second derivative
        is concentrated at the threshold.
      sigma: standard deviation of the noise; may be traced. For GELU the sum is within 1% up to 0.05, 2% at 0.1 and
        16% at 0.3 (keys of norm 0.6); sigmoid and tanh are five times closer.
      target: as in `implicit_terms`.

    Returns:
      The terms, differentiable in all arrays.

    Raises:
      ValueError: as `implicit_terms`.

    References:
      Bricken et al., 2023; Bishop, Training with noise is equivalent to Tikhonov regularization, 1995.
    """
    x, encoder, encoder_bias, decoder, decoder_bias = map(
        at_least_float32, (x, encoder, encoder_bias, decoder, decoder_bias)
    )
    error = _error(x, encoder, encoder_bias, decoder, decoder_bias, sigma, target, activation)
    z = _affine(x, encoder, encoder_bias)

    def slope(z):
        return jax.jvp(activation, (z,), (jnp.ones_like(z),))[1]

    first, second = jax.jvp(slope, (z,), (jnp.ones_like(z),))
    variance = jnp.asarray(sigma, z.dtype) ** 2
    keys = jnp.sum(encoder**2, axis=0)
    pairs = _without_diagonal((decoder @ decoder.T) * (encoder.T @ encoder))
    return ImplicitTerms(
        mean_shift=-variance * (((error @ decoder.T) * second) @ keys),
        second_moment=variance * (first**2 @ (keys * jnp.sum(decoder**2, axis=-1))),
        co_fluctuation=variance * jnp.sum(first * (first @ pairs), axis=-1),
    )


def _error(x, encoder, encoder_bias, decoder, decoder_bias, sigma, target, activation) -> Array:
    """Checks the arguments and returns the error without noise."""
    inputs, units, outputs = encoder.shape[0], encoder.shape[-1], decoder.shape[-1]
    target_shape = (*x.shape[:-1], outputs)
    expected = {
        "encoder": (encoder, (x.shape[-1], units)),
        "encoder_bias": (encoder_bias, (units,)),
        "decoder": (decoder, (units, outputs)),
        "decoder_bias": (decoder_bias, (outputs,)),
        "target": (target, target_shape),
    }
    for name, (array, shape) in expected.items():
        if array is not None and array.shape != shape:
            raise ValueError(
                f"{name} has shape {array.shape}; expected {shape} for x {x.shape}, encoder [inputs, units] "
                f"{encoder.shape} and decoder [units, outputs] {decoder.shape}."
            )
    if target is None and outputs != inputs:
        raise ValueError(
            f"The decoder has {outputs} outputs, but x has {inputs} features; pass a target {target_shape}."
        )
    if isinstance(sigma, (int, float)) and not sigma >= 0:
        raise ValueError(f"sigma is {sigma}; expected a standard deviation, 0 (no noise) or more.")
    hidden = activation(_affine(x, encoder, encoder_bias))
    return (x if target is None else at_least_float32(target)) - _affine(hidden, decoder, decoder_bias)


def _affine(x: Array, weights: Array, bias: Array) -> Array:
    y = x @ weights
    return y + jnp.broadcast_to(bias, y.shape)


def _safe_norm(weights: Float[Array, "inputs units"]) -> Float[Array, "units"]:
    """Returns the norm of each column; its gradient at 0 is 0 instead of NaN."""
    square = jnp.sum(weights**2, axis=0)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def _without_diagonal(matrix: Float[Array, "units units"]) -> Float[Array, "units units"]:
    return jnp.where(jnp.eye(matrix.shape[0], dtype=bool), 0.0, matrix)


def _hermite_coefficients(t: Array, s: Array, mean: Array, density: Array, terms: int) -> list[Array]:
    """Returns c_p [..., units], p < terms: delta's coefficients in the normalised Hermite polynomials of the noise.

    From the second on, those of relu: c_p = s phi(t) He_{p-2}(t) / sqrt(p!), up to a sign that is the same for both
    units of a pair. The polynomials are divided by the root of their factorial to avoid overflow.
    """
    coefficients = [mean, s * normal_cdf(t)]
    before, now = jnp.zeros_like(t), jnp.ones_like(t)
    for p in range(2, terms):
        coefficients.append(s * density * now / (p * (p - 1)) ** 0.5)
        before, now = now, (t * now - (p - 2) ** 0.5 * before) / (p - 1) ** 0.5
    return coefficients[:terms]


def _pairs(c: Array, cosine: Array, overlap: Array, p: int) -> Array:
    """Returns the sum over pairs of overlap * cosine^p * c_j * c_k."""

    def product(c, cosine, overlap):
        return jnp.sum(c * (c @ (overlap * cosine**p)), axis=-1)

    return jax.checkpoint(product)(c, cosine, overlap)
