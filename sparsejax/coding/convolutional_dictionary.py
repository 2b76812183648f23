"""Learning the atoms of convolutional codes from whole images."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from sparsejax.coding.convolutional import ConvolutionalCode, check_fit, convolutional_code, spectrum, weights_of
from sparsejax.coding.dictionary import revive
from sparsejax.coding.images import extract_patches
from sparsejax.coding.problem import AnyArray
from sparsejax.functional.arguments import checked
from sparsejax.functional.sums import at_least_float32


@checked
def init_convolutional_dictionary(
    key: PRNGKeyArray,
    images: Float[AnyArray, "*batch height width"],
    *,
    size: int | tuple[int, int],
    atoms: int,
) -> Float[Array, "rows columns atoms"]:
    """Returns patches of the images, at random places and without their means, scaled to norm 1.

    Random directions replace patches that are constant or not finite.

    Args:
      key: a PRNG key.
      images: `[..., height, width]`.
      size: rows and columns of an atom; one number for a square.
      atoms: number of atoms, 1 or more.

    Returns:
      The dictionary `[rows, columns, atoms]`.

    Raises:
      ValueError: the images are smaller than an atom, or size or atoms is not positive.

    References:
      As `init_dictionary`; Mairal, Bach, Ponce & Sapiro, Online learning for matrix factorization and sparse coding,
      2010.
    """
    images = at_least_float32(images)
    if atoms < 1:
        raise ValueError(f"atoms is {atoms}; expected 1 or more.")
    rows, columns = size if isinstance(size, tuple) else (size, size)
    if min(rows, columns) < 1:
        raise ValueError(f"size is {size}; expected 1 or more.")
    height, width = images.shape[-2:]
    check_fit((height, width), (rows, columns, atoms))
    flat = images.reshape(-1, height, width)
    keys = jax.random.split(key, 4)
    noise = jax.random.normal(keys[3], (atoms, rows, columns), images.dtype)
    if len(flat):
        limits = (len(flat), height - rows + 1, width - columns + 1)
        places = [jax.random.randint(key, (atoms,), 0, most) for key, most in zip(keys, limits, strict=False)]
        cut = jax.vmap(lambda *place: lax.dynamic_slice(flat, place, (1, rows, columns))[0])(*places)
        cut = cut - jnp.mean(cut, (1, 2), keepdims=True)
        length = jnp.linalg.norm(cut, axis=(1, 2), keepdims=True)
        noise = jnp.where((length > 1e-6) & jnp.isfinite(length), cut, noise)
    return (noise / jnp.linalg.norm(noise, axis=(1, 2), keepdims=True)).transpose(1, 2, 0)


@checked
def convolutional_dictionary_step(
    dictionary: Float[AnyArray, "rows columns atoms"],
    images: Float[AnyArray, "*batch height width"],
    *,
    l1: float | Float[Array, ""],
    mask: Float[AnyArray, "*masks height width"] | Bool[AnyArray, "*masks height width"] | None = None,
    initial: Float[AnyArray, "*batch height width atoms"] | None = None,
    tolerance: float | Float[Array, ""] | None = 1e-2,
    max_iterations: int = 20,
    descents: int = 10,
) -> tuple[Float[Array, "rows columns atoms"], ConvolutionalCode]:
    r"""Returns the dictionary after one step, and the images' code with the dictionary as it was.

    The step codes the images by `convolutional_code`. Then it lowers

    .. math:: \min_d \sum_i \tfrac12 \Big\| W_i \Big( \sum_m d_m * z_{im} - x_i \Big) \Big\|^2
        \quad \text{subject to} \quad \|d_m\| \le 1

    by accelerated projected gradients, in the Fourier domain, on the pixels of the atoms alone. A descent that would
    raise the error is not taken, so the objective never rises after the coding. An atom with an empty map becomes the
    patch of the largest residual.

    To learn, repeat the step with all images and start each coding from the maps of the step before: then few
    iterations suffice.

    Args:
      dictionary: `[rows, columns, atoms]`, from `init_convolutional_dictionary`; atoms longer than 1 are scaled first.
      images: `[..., height, width]`. Images that are not finite are left out.
      l1: lambda > 0; may be traced.
      mask: the weights of the pixels, as in `convolutional_code`.
      initial: maps to start from, `[..., height, width, atoms]`, such as `code.maps` of the step before.
      tolerance: of the coding.
      max_iterations: upper bound for the coding, rounded up to tens.
      descents: number of gradient steps.

    Returns:
      The new dictionary `[rows, columns, atoms]`, of atoms of norm 1 at most, and the ConvolutionalCode. Without
        images the dictionary stays.

    Raises:
      ValueError: as `convolutional_code`, or descents is negative.

    References:
      Garcia-Cardona & Wohlberg, Convolutional dictionary learning: a comparative review and new algorithms, 2018
      (accelerated projected gradients; the bounds of the curvature and the restarts are ours); Beck & Teboulle, A fast
      iterative shrinkage-thresholding algorithm for linear inverse problems, 2009.
    """
    if descents < 0:
        raise ValueError(f"descents is {descents}; expected a number of gradient steps, 0 or more.")
    code = convolutional_code(
        images, dictionary, l1=l1, mask=mask, initial=initial, tolerance=tolerance, max_iterations=max_iterations
    )
    images = at_least_float32(images)
    dictionary = at_least_float32(dictionary).astype(images.dtype)
    flat, maps = images.reshape(-1, *images.shape[-2:]), code.maps.reshape(-1, *code.maps.shape[-3:])
    if not len(flat):
        return dictionary, code
    if mask is not None and mask.shape == images.shape:
        mask = jnp.asarray(mask).reshape(flat.shape)
    return _update(dictionary, flat, maps.transpose(0, 3, 1, 2), weights_of(mask, flat), descents=descents), code


@functools.partial(jax.jit, static_argnames="descents")
def _update(dictionary, images, maps, weights, *, descents):
    """Returns the dictionary after some descents, given maps `[images, atoms, height, width]`."""
    shape, (rows, columns, _) = images.shape[1:], dictionary.shape
    finite = jnp.all(jnp.isfinite(maps), (1, 2, 3))[:, None, None]
    maps = jnp.where(finite[..., None], maps, 0)
    weights = jnp.ones_like(images) if weights is None else weights
    images = jnp.where(finite & (weights != 0), images, 0)
    transformed = jnp.fft.rfft2(maps)

    def show(d):
        """Returns the weighted images of a dictionary."""
        return weights * jnp.fft.irfft2(jnp.sum(transformed * spectrum(d, shape)[None], 1), s=shape)

    def gradient(rest):
        slope = jnp.sum(jnp.conj(transformed) * jnp.fft.rfft2(weights * rest)[:, None], 0)
        return jnp.fft.irfft2(slope, s=shape)[:, :rows, :columns].transpose(1, 2, 0)

    def project(d):
        return d / jnp.maximum(jnp.linalg.norm(d, axis=(0, 1)), 1)[None, None, :]

    target = weights * images

    def descend(_, state):
        d, shown, last, last_shown, momentum, curvature = state
        grown = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        weight = (momentum - 1) / grown
        # The images of the extrapolated dictionary: those of both dictionaries, extrapolated.
        ahead, ahead_shown = d + weight * (d - last), shown + weight * (shown - last_shown)
        new = project(ahead - gradient(ahead_shown - target) / curvature)
        new_shown = show(new)
        change, steep = jnp.sum((new - ahead) ** 2), jnp.sum((new_shown - ahead_shown) ** 2)
        fits = steep <= curvature * change * 1.001
        lower = jnp.sum((new_shown - target) ** 2) <= jnp.sum((shown - target) ** 2)
        # A step that overshoots reveals a larger curvature along its direction, which the next step uses.
        curvature = jnp.where(fits, curvature, 1.5 * steep / jnp.where(change > 0, change, 1))
        # A step that would raise the error is undone, and the momentum starts anew.
        after = (new, new_shown, d, shown, grown)
        again = tuple(jnp.where(fits, a, b) for a, b in ((d, last), (shown, last_shown), (1, momentum)))
        before = (d, shown, *again)
        state = (jnp.where(fits & lower, now, was) for now, was in zip(after, before, strict=True))
        return (*state, curvature)

    start = project(dictionary)
    shown = show(start)
    steep, size = jnp.sum(shown**2), jnp.sum(start**2)
    curvature = jnp.where(steep > 0, steep / jnp.where(size > 0, size, 1), 1)
    state = (start, shown, start, shown, jnp.ones((), images.dtype), curvature)
    dictionary, shown, *_ = lax.fori_loop(0, descents, descend, state)
    rest = extract_patches(target - shown, (rows, columns), stride=(rows, columns)).reshape(-1, rows * columns)
    unused = ~jnp.any(maps != 0, (0, 2, 3))
    flat, _ = revive(dictionary.reshape(rows * columns, -1), unused, rest, rest)
    return flat.reshape(dictionary.shape)
