r"""Convolutional sparse codes: whole images as sums of small atoms at any place.

Images are `[..., height, width]`, a dictionary is `[rows, columns, atoms]`, and a code is a map for each atom, `[...,
height, width, atoms]`. An entry of a map is the coefficient of the atom whose first pixel is there. Images have no
edges: an atom that leaves one on the right or at the bottom continues on the left or at the top.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sparsejax.coding.iterate import check_loop, iterate
from sparsejax.coding.problem import AnyArray
from sparsejax.coding.quadratic import ratio
from sparsejax.functional.arguments import checked
from sparsejax.functional.sums import at_least_float32

_RELAXATION = 1.8
# At the start the threshold l1 / rho is this fraction of the largest correlation of an atom with the image.
_FIRST_THRESHOLD = 0.02


class ConvolutionalCode(NamedTuple):
    """What `convolutional_code` returns.

    Attributes:
      maps: `[..., height, width, atoms]`; NaN for an image that is not finite.
      iterations: number of iterations for each image, `[...]`.
      gap: relative duality gap, an upper bound of the objective's distance from its minimum, `[...]`.
      converged: whether the gap reached the tolerance, `[...]`.
    """

    maps: Float[Array, "*batch height width atoms"]
    iterations: Int[Array, "*batch"]
    gap: Float[Array, "*batch"]
    converged: Bool[Array, "*batch"]


@checked
def convolutional_code(
    images: Float[AnyArray, "*batch height width"],
    dictionary: Float[AnyArray, "rows columns atoms"],
    *,
    l1: float | Float[Array, ""],
    mask: Float[AnyArray, "*masks height width"] | Bool[AnyArray, "*masks height width"] | None = None,
    initial: Float[AnyArray, "*batch height width atoms"] | None = None,
    tolerance: float | Float[Array, ""] | None = 1e-2,
    max_iterations: int = 500,
    check_every: int = 10,
) -> ConvolutionalCode:
    r"""Codes whole images by alternating directions, with the least-squares step in the Fourier domain.

    .. math:: \min_z \tfrac12 \Big\| W \Big( \sum_m d_m * z_m - x \Big) \Big\|^2 + \lambda \sum_m \|z_m\|_1

    with circular convolutions. In the Fourier domain, the matrix of the least-squares step is rho times the identity
    plus a matrix of rank 1 at each frequency, so the step has a closed solution. An iteration transforms every map
    twice. The weight rho of the constraint adapts to each image, so that primal and dual residuals shrink together.

    Code images without their local mean: an atom for it would need large coefficients everywhere. To keep atoms from
    wrapping around the edges, pad the images at the bottom and on the right by the size of an atom less 1, with a mask
    that is 0 there.

    Args:
      images: `[..., height, width]`.
      dictionary: `[rows, columns, atoms]`, atoms of any norm.
      l1: lambda > 0; may be traced.
      mask: the weights W of the pixels, `[height, width]` for all images or `[..., height, width]`: 0 or False for
        unknown pixels, whose values do not matter (also NaN); None for ones, which needs fewer iterations.
      initial: maps to start from, `[..., height, width, atoms]`.
      tolerance: stop for an image at this relative duality gap; None for exactly `max_iterations`.
      max_iterations: upper bound, rounded up to whole rounds.
      check_every: iterations of a round, after which rho adapts and the gap is measured.

    Returns:
      ConvolutionalCode.

    Raises:
      ValueError: shapes do not fit, or a Python number is out of range.

    References:
      Wohlberg, Efficient algorithms for convolutional sparse representations, 2016 (the closed solution, and an
      adaptive rho); Heide, Heidrich & Wetzstein, Fast and flexible convolutional sparse coding,
      2015 (the mask as a second constraint).
    """
    check_loop(tolerance, max_iterations, check_every)
    images, dictionary, weights, start, batch = _problem(images, dictionary, mask, initial, l1)
    maps, taken, gap = _code(
        images, dictionary, weights, start, l1, tolerance, rounds=-(-max_iterations // check_every), turns=check_every
    )
    finite = jnp.isfinite(gap)
    reached = finite & (gap <= (jnp.inf if tolerance is None else tolerance))
    maps = jnp.where(finite[:, None, None, None], maps, jnp.nan).transpose(0, 2, 3, 1)
    code = ConvolutionalCode(maps, check_every * taken, gap, reached)
    return ConvolutionalCode(*(leaf.reshape(*batch, *leaf.shape[1:]) for leaf in code))


@checked
def convolutional_reconstruct(
    maps: Float[AnyArray, "*batch height width atoms"], dictionary: Float[AnyArray, "rows columns atoms"]
) -> Float[Array, "*batch height width"]:
    r"""Returns the images of a code, :math:`\sum_m d_m * z_m` with circular convolutions.

    Args:
      maps: `[..., height, width, atoms]`.
      dictionary: `[rows, columns, atoms]`.

    Returns:
      Array `[..., height, width]`.

    Raises:
      ValueError: shapes do not fit.

    References:
      Wohlberg, Efficient algorithms for convolutional sparse representations, 2016.
    """
    maps, dictionary = at_least_float32(maps), at_least_float32(dictionary)
    if maps.shape[-1] != dictionary.shape[2]:
        raise ValueError(
            f"maps has shape {maps.shape} and dictionary {dictionary.shape}; expected a map for each atom, maps "
            "[..., height, width, atoms] and a dictionary [rows, columns, atoms]."
        )
    check_fit(maps.shape[-3:-1], dictionary.shape)
    return _synthesize(jnp.moveaxis(maps, -1, -3), spectrum(dictionary.astype(maps.dtype), maps.shape[-3:-1]))


def check_fit(shape: tuple[int, ...], dictionary: tuple[int, ...]) -> None:
    """Checks that atoms `[rows, columns, atoms]` are not larger than images `[height, width]`.

    Raises:
      ValueError: they are, or are empty.
    """
    if dictionary[0] > shape[0] or dictionary[1] > shape[1] or not min(dictionary):
        raise ValueError(
            f"The dictionary has shape {dictionary}; expected [rows, columns, atoms], none of them 0, with atoms no "
            f"larger than the images of {shape[0]} x {shape[1]} pixels."
        )


def spectrum(dictionary: Array, shape: tuple[int, ...]) -> Array:
    """Returns the transforms of atoms `[rows, columns, atoms]` in images of that shape, `[atoms, height, half]`."""
    return jnp.fft.rfft2(dictionary.transpose(2, 0, 1), s=shape)


def weights_of(mask: AnyArray | None, images: Array) -> Array | None:
    """Returns the mask of images `[images, height, width]` as floats of their shape.

    Raises:
      ValueError: its shape is neither that of the images nor of one of them.
    """
    return None if mask is None else jnp.broadcast_to(jnp.asarray(mask).astype(images.dtype), images.shape)


def _problem(images, dictionary, mask, initial, l1):
    """Checks the arguments; returns images `[images, height, width]`, weights, start `[images, atoms, height, width]`.

    Raises:
      ValueError: shapes do not fit, or l1 is a Python number that is not positive.
    """
    images = at_least_float32(images)
    dictionary = at_least_float32(dictionary).astype(images.dtype)
    *batch, height, width = images.shape
    check_fit((height, width), dictionary.shape)
    if isinstance(l1, (int, float)) and not l1 > 0:
        raise ValueError(f"l1 is {l1}; expected a weight above 0.")
    if mask is not None and mask.shape not in (images.shape, (height, width)):
        raise ValueError(f"mask has shape {mask.shape}; expected {(height, width)}, or that of images {images.shape}.")
    expected = (*images.shape, dictionary.shape[2])
    if initial is not None and initial.shape != expected:
        raise ValueError(f"initial has shape {initial.shape}; expected a map for each atom, {expected}.")
    flat = images.reshape(-1, height, width)
    if mask is not None:
        mask = mask.reshape(flat.shape) if mask.shape == images.shape else mask
    start = None
    if initial is not None:
        start = (
            at_least_float32(initial).astype(images.dtype).reshape(len(flat), height, width, -1).transpose(0, 3, 1, 2)
        )
    return flat, dictionary, weights_of(mask, flat), start, tuple(batch)


@functools.partial(jax.jit, static_argnames=("rounds", "turns"))
def _code(images, dictionary, weights, start, l1, tolerance, *, rounds, turns):
    """Returns the maps `[images, atoms, height, width]`, the rounds of each image and its relative duality gap.

    With z = y + u, the code y and the scaled dual u are parts of one array: u is z clipped to l1 / rho.
    """
    atoms = spectrum(dictionary, images.shape[1:])[None]
    power = jnp.sum(atoms.real**2 + atoms.imag**2, 1)
    if weights is not None:
        images = jnp.where(weights != 0, images, 0)

    def dual_of(z, rho):
        bound = (l1 / rho)[:, None, None, None]
        return jnp.clip(z, -bound, bound)

    def explained(maps):
        return jnp.sum(atoms * jnp.fft.rfft2(maps), 1)

    def spread(plane):
        """Returns the correlations of the atoms with an image given by its transform."""
        return jnp.fft.irfft2(jnp.conj(atoms) * plane[:, None], s=images.shape[1:])

    def residual_of(code, data):
        image, weight = data
        rest = image - jnp.fft.irfft2(explained(code), s=image.shape[1:])
        return rest if weight is None else weight * rest

    def correlations_of(rest, data):
        weighted = rest if data[1] is None else data[1] * rest
        return spread(jnp.fft.rfft2(weighted))

    def measure(state, data):
        z, rho, _ = state
        code = z - dual_of(z, rho)
        rest = residual_of(code, data)
        return _relative_gap(code, correlations_of(rest, data), jnp.sum(rest**2, (1, 2)), l1)

    def turn(state, data):
        """One iteration; returns the state and the squared norms of both residuals and of what they are relative to."""
        z, rho, fit = state
        image, weight = data
        dual = dual_of(z, rho)
        code = z - dual
        anchor = code - dual
        before = explained(anchor)
        if weight is None:
            target, shift = jnp.fft.rfft2(image), rho[:, None, None]
        else:
            target, shift = jnp.fft.rfft2(fit[0] - fit[1]), 1
        step = (target - before) * (1 / (shift + power)).astype(target.dtype)
        solved = anchor + spread(step)
        z = _RELAXATION * solved + (1 - _RELAXATION) * code + dual
        new = z - dual_of(z, rho)
        norms = [_squares(solved - new), _squares(new - code), _squares(solved), _squares(new), _squares(z - new)]
        if weight is not None:
            # A second constraint, that a plane is the code's image. The mask only weights the plane's error.
            shown = jnp.fft.irfft2(before + power.astype(step.dtype) * step, s=image.shape[1:])
            plane, u = fit
            mixed = _RELAXATION * shown + (1 - _RELAXATION) * plane + u
            strength = rho[:, None, None]
            now = (weight**2 * image + strength * mixed) / (weight**2 + strength)
            fit = now, mixed - now
            more = [_squares(one) for one in (shown - now, now - plane, shown, now, fit[1])]
            norms = [a + b for a, b in zip(norms, more, strict=True)]
        return (z, rho, fit), norms

    def update(state, data):
        state = lax.fori_loop(0, turns - 1, lambda _, state: turn(state, data)[0], state)
        (z, rho, fit), (primal, dual, solved, code, scaled) = turn(state, data)
        # The ratio of the relative residuals. Only its fourth root is taken, because larger changes let rho oscillate;
        # small changes are left out, because every change disturbs the convergence.
        balance = jnp.sqrt(ratio(primal, jnp.maximum(solved, code)) / jnp.maximum(ratio(dual, scaled), 1e-30))
        factor = jnp.clip(balance**0.25, 0.4, 2.5)
        factor = jnp.where((factor > 1.2) | (factor < 1 / 1.2), factor, 1)
        u = dual_of(z, rho)
        z = z - u + u / factor[:, None, None, None]
        return z, rho * factor, tuple(one / factor[:, None, None] if i else one for i, one in enumerate(fit))

    data = images, weights
    zeros = jnp.zeros((len(images), dictionary.shape[2], *images.shape[1:]), images.dtype)
    rest = residual_of(zeros if start is None else start, data)
    c = correlations_of(rest, data)
    largest = jnp.max(jnp.abs(c), (1, 2, 3), initial=0)
    rho = l1 / (_FIRST_THRESHOLD * jnp.maximum(largest, l1))
    # At the optimum rho u are the correlations of the residual, which are l1 in size where the code is not 0.
    u = jnp.clip(c, -l1, l1) if start is None else jnp.where(start == 0, jnp.clip(c, -l1, l1), l1 * jnp.sign(start))
    z = (0 if start is None else start) + u / rho[:, None, None, None]
    fit = ()
    if weights is not None:
        shown = jnp.fft.irfft2(explained(zeros if start is None else start), s=images.shape[1:])
        fit = shown, -weights * rest / rho[:, None, None]
    (z, rho, _), taken, gap = iterate(
        update, measure, (z, rho, fit), data, tolerance=tolerance, max_iterations=rounds, check_every=1
    )
    return z - dual_of(z, rho), taken, gap


def _relative_gap(code: Array, correlations: Array, energy: Array, l1: float | Array) -> Array:
    """Returns the duality gap over the objective, as `duality_gap` does, of maps `[images, atoms, height, width]`."""
    axes = (1, 2, 3)
    largest = jnp.max(jnp.abs(correlations), axes, initial=0)
    s = jnp.where(largest > l1, l1 / jnp.where(largest > l1, largest, 1), 1)
    s = jnp.where(jnp.isnan(largest), jnp.nan, s)
    terms = l1 * jnp.abs(code) - s[:, None, None, None] * code * correlations
    gap = (1 - s) ** 2 * energy / 2 + jnp.sum(jnp.maximum(terms, 0), axes)
    return ratio(gap, energy / 2 + l1 * jnp.sum(jnp.abs(code), axes))


def _synthesize(maps: Array, atoms: Array) -> Array:
    """Returns the images of maps `[..., atoms, height, width]`."""
    atoms = jnp.expand_dims(atoms, range(maps.ndim - 3))
    return jnp.fft.irfft2(jnp.sum(atoms * jnp.fft.rfft2(maps), -3), s=maps.shape[-2:])


def _squares(a: Array) -> Array:
    return jnp.sum(a**2, tuple(range(1, a.ndim)))
