"""What each latent of a sparse autoencoder responds to: densities, values, and the examples that activate it most."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sparsejax.errors import ConfigError


class Features(NamedTuple):
    """Statistics of every latent over a set of examples, as NumPy arrays.

    Attributes:
      density: fraction of the examples for which it is active, `[latents]`.
      mean: mean activity where it is active, 0 if never, `[latents]`.
      most: largest activity, `[latents]`.
      histogram: examples by activity in equal bins from 0 to `most`, `[latents, bins]`.
      rows: examples with the largest activities, the largest first, `[latents, top]`; -1 where there are fewer.
      values: their activities, `[latents, top]`.
    """

    density: np.ndarray
    mean: np.ndarray
    most: np.ndarray
    histogram: np.ndarray
    rows: np.ndarray
    values: np.ndarray


def find_features(
    encode: Callable[[Array], Float[Array, "batch latents"]],
    x: Any,
    *,
    top: int = 12,
    bins: int = 20,
    batch: int = 1000,
) -> Features:
    """Return what every latent responds to, in two passes over the examples.

    Args:
      encode: from examples `[batch, width]` to activities `[batch, latents]`, such as that of `load_sae`.
      x: examples `[n, width]`, an array or anything that slices index.
      top: number of examples to keep for each latent.
      bins: of the histograms.
      batch: examples per call; its codes are dense.

    Raises:
      ConfigError: there are no examples.
    """
    if not len(x):
        raise ConfigError("x has no examples; pass at least one, [n, width].")
    sums: Any = None
    for first, z in _codes(encode, x, batch):
        best = (
            (jnp.full((z.shape[1], top), -1, jnp.int32), jnp.zeros((z.shape[1], top), z.dtype))
            if sums is None
            else sums[2]
        )
        part = _statistics(z, jnp.int32(first), best)
        sums = part if sums is None else (sums[0] + part[0], sums[1] + part[1], part[2])
    count, total, (rows, values) = (jax.device_get(part) for part in sums)
    most = values[:, 0]
    histogram = np.zeros((len(most), bins), np.int64)
    for _, z in _codes(encode, x, batch):
        histogram += np.asarray(_histogram(z, jnp.asarray(most), bins))
    return Features(
        count / len(x), total / np.maximum(count, 1), most, histogram, np.where(values > 0, rows, -1), values
    )


def find_activities(
    encode: Callable[[Array], Float[Array, "batch latents"]], x: Any, rows: np.ndarray, *, batch: int = 1000
) -> np.ndarray:
    """Return the activities of latents at given examples.

    Args:
      encode: as in `find_features`.
      x: examples `[n, width]`.
      rows: examples for every latent, `[latents, ...]`; negative ones have the activity 0.
      batch: examples per call.

    Returns:
      Array like rows, float32.
    """
    found = np.zeros(rows.shape, np.float32)
    latents = np.broadcast_to(np.arange(len(rows)).reshape(-1, *(1,) * (rows.ndim - 1)), rows.shape)
    for first, z in _codes(encode, x, batch):
        here = (rows >= first) & (rows < first + len(z))
        if here.any():
            found[here] = np.asarray(z)[rows[here] - first, latents[here]]
    return found


def _codes(encode: Any, x: Any, batch: int) -> Any:
    for first in range(0, len(x), batch):
        yield first, encode(jnp.asarray(np.asarray(x[first : first + batch]), jnp.float32))


@jax.jit
def _statistics(z: Array, first: Array, best: tuple[Array, Array]) -> tuple[Array, Array, tuple[Array, Array]]:
    """Returns counts and sums of a batch, and the best examples so far, merged with those of the batch."""
    rows, values = best
    own, places = jax.lax.top_k(z.T, min(values.shape[1], len(z)))
    every = jnp.concatenate([values, own], axis=1)
    of = jnp.concatenate([rows, places.astype(jnp.int32) + first], axis=1)
    values, order = jax.lax.top_k(every, values.shape[1])
    best = jnp.take_along_axis(of, order, axis=1), values
    return jnp.sum(z > 0, axis=0, dtype=jnp.int32), jnp.sum(z, axis=0), best


def _histogram(z: Array, most: Array, bins: int) -> Array:
    return _histogram_of(z, most, jnp.arange(bins, dtype=jnp.int32))


@jax.jit
def _histogram_of(z: Array, most: Array, order: Array) -> Array:
    scaled = z / jnp.where(most > 0, most, 1)[None] * len(order)
    place = jnp.where(z > 0, jnp.minimum(scaled.astype(jnp.int32), len(order) - 1), -1)
    return jax.lax.map(lambda bin: jnp.sum(place == bin, axis=0, dtype=jnp.int32), order).T
