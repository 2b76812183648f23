"""Data on the device, images as uint8, and the shuffled batches that a compiled chunk takes from it."""

import typing
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray, UInt8

from sparsejax.data.dataset import Dataset, Split
from sparsejax.data.streaming import Streamed
from sparsejax.errors import ConfigError


class Resident(NamedTuple):
    """One split on the device, passed to a compiled function as an argument (closed over, it would be copied in).

    `batches` are the example indices of the next steps if all networks train on the same examples; None if each has its
    own order.
    """

    images: UInt8[Array, "n height width channels"]
    labels: Int[Array, "n"]
    mean: Float[Array, "1 1 1 channels"]
    std: Float[Array, "1 1 1 channels"]
    batches: Int[Array, "steps batch"] | None = None


class Batch(NamedTuple):
    """Normalised images, their labels, and each example's row in the whole batch (over all devices)."""

    images: Float[Array, "batch height width channels"]
    labels: Int[Array, "batch"]
    rows: Int[Array, "batch"]


def make_resident(dataset: Dataset, split: Split, *, normalise: bool = True, on_device: bool = True) -> Resident:
    """Returns a split with the data set's mean and standard deviation, of pixels in [0, 1]; or 0 and 1.

    Unless `on_device`, images and labels stay NumPy arrays, to be streamed.
    """
    moments = (dataset.mean, dataset.std) if normalise else ((0.0,), (1.0,))
    mean, std = (jnp.asarray(numbers, jnp.float32).reshape(1, 1, 1, -1) for numbers in moments)
    images, labels = typing.cast(tuple[Array, Array], tuple(map(jnp.asarray, split)) if on_device else tuple(split))
    return Resident(images, labels, mean, std)


def example(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Returns an input of zeros `[1, ...]`, of the type of a network's input for data of that shape and type."""
    return np.zeros((1, *shape), np.int32 if np.dtype(dtype) == np.int32 else np.float32)


def example_of(data: Resident | Split) -> np.ndarray:
    """Returns an input of zeros `[1, ...]`, of the shape and type of a network's input."""
    return example(data.images.shape[1:], data.images.dtype)


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Returns the number of batches that contain every example at least once.

    Raises:
      ConfigError: the batch is larger than the data.
    """
    if batch_size > examples:
        raise ConfigError(
            f"The batch size is {batch_size}, but the training set has {examples} examples; use "
            f"--training.batch-size {examples} or less, or more data."
        )
    return -(-examples // batch_size)


def epoch_order(
    key: PRNGKeyArray,
    epoch: Int[Array, ""],
    examples: int,
    batch_size: int,
    labels: Int[Array, "examples"] | None = None,
) -> Int[Array, "steps batch"]:
    """Returns the example indices of every batch of an epoch, shuffled by the key and the epoch's number.

    The last batch is padded with the first examples of the same order, so that all batches have one shape. Given
    labels, classes appear equally often (up to one example).
    """
    key = jax.random.fold_in(key, epoch)
    order = jax.random.permutation(key, examples)
    if labels is not None:
        order = _balance(jax.random.fold_in(key, 1), order, labels)
    steps = steps_per_epoch(examples, batch_size)
    return jnp.concatenate([order, order[: steps * batch_size - examples]]).reshape(steps, batch_size)


def _balance(key: PRNGKeyArray, order: Int[Array, "n"], labels: Int[Array, "n"]) -> Int[Array, "n"]:
    """Resamples so that classes appear equally often (up to one example): large ones are truncated, small ones
    repeated; the length is unchanged.
    """
    by_class = order[jnp.argsort(labels[order], stable=True)]
    at = labels[by_class]
    group = jnp.cumsum(jnp.concatenate([jnp.zeros(1, jnp.int32), (at[1:] != at[:-1]).astype(jnp.int32)]))
    sizes = jnp.zeros(len(order), jnp.int32).at[group].add(1)
    starts, classes = jnp.cumsum(sizes) - sizes, group[-1] + 1
    slot = jnp.arange(len(order))
    chosen = by_class[starts[slot % classes] + slot // classes % sizes[slot % classes]]
    return jax.random.permutation(key, chosen)


def normalize(
    data: Resident | Streamed, images: UInt8[Array, "batch height width channels"]
) -> Float[Array, "batch h w c"]:
    """Standardizes images and vectors, and turns 16-bit samples of waveforms to [-1, 1); tokens are unchanged."""
    if images.dtype == jnp.int16:
        return images.astype(jnp.float32) / 32768
    if images.dtype == jnp.int32:
        return images
    return standardize(data, to_pixels(images))


def to_pixels(images: Num[Array, "batch height width channels"]) -> Float[Array, "batch height width channels"]:
    """Returns images as pixels in [0, 1]: bytes are divided by 255, floats are unchanged."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def standardize(
    data: Resident | Streamed, pixels: Float[Array, "batch height width channels"]
) -> Float[Array, "batch height width channels"]:
    """Turns pixels in [0, 1] to mean 0 and standard deviation 1; a channel without variance becomes 0.

    Its divisor is infinite, so that its gradient is 0 as well. Deviations below the least normal number count as 0,
    because devices flush them.
    """
    mean, std = (moment.reshape((1,) * (pixels.ndim - 1) + (-1,)) for moment in (data.mean, data.std))
    varies = std >= jnp.finfo(std.dtype).tiny
    return (pixels - mean) / jnp.where(varies, std, jnp.inf)
