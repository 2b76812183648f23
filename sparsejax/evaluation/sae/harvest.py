"""Activations of networks, collected from their sites."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.data.activations import make_activations, read_activations, write_activations
from sparsejax.data.dataset import Dataset
from sparsejax.data.resident import Resident, normalize
from sparsejax.data.shards import Stored
from sparsejax.errors import ConfigError
from sparsejax.models.base import Model, Variables
from sparsejax.training.restore import TrainedNetwork

Read = Callable[[Any], Mapping[str, Any]]
"""A function of a batch of examples that returns the activations `[batch, ..., width]` of sites by name."""


def harvest(
    network: TrainedNetwork | Read,
    data: Dataset | tuple[Any, Any],
    *,
    sites: str | Sequence[str] | None = None,
    out: str | Path | None = None,
    batch_size: int = 64,
    stored: Stored = "float16",
    skip_positions: int = 0,
) -> Dataset:
    """Run a network over its data, and return the activations of its sites as a data set.

    Every position of a text or an image becomes one example. The network runs without noise.

    Args:
      network: a trained network, whose sites `model.read_sites` names; or any function of a batch that returns a
        dictionary of site -> activations `[batch, ..., width]`, such as one of your own network.
      data: the data set, or its training and test examples `(train, test)`, arrays or sequences with a length that
        slices index.
      sites: which sites to keep, in this order; None for all.
      out: a new folder to write shards to, which are then read from the disk when they are used; None to keep all in
        memory, as float32.
      batch_size: examples per forward pass.
      stored: type of the numbers in the folder.
      skip_positions: number of first positions of each sequence to leave out, such as that of a start token.

    Returns:
      A Dataset of vectors, centred and scaled by its moments in training.

    Raises:
      ConfigError: there is no such site, a site has another shape, an activation is not finite, or the folder exists.

    Examples:
      >>> rng = np.random.default_rng(0)
      >>> found = harvest(lambda x: {"doubled": 2 * x}, (rng.normal(size=(8, 3)), rng.normal(size=(4, 3))))
      >>> found.train.images.shape
      (8, 3)
    """
    read = _reader(network) if isinstance(network, TrainedNetwork) else network
    examples = (data.train.images, data.test.images) if isinstance(data, Dataset) else data
    wanted = [sites] if isinstance(sites, str) else sites

    def batches(x: Any) -> Iterator[dict[str, np.ndarray]]:
        for first in range(0, len(x), batch_size):
            yield _positions(read(x[first : first + batch_size]), wanted, skip_positions)

    if out is not None:
        origin = {"network": type(network.model).__name__} if isinstance(network, TrainedNetwork) else {}
        return read_activations(write_activations(out, *map(batches, examples), stored=stored, origin=origin))
    return make_activations(*(_concatenate(batches(x)) for x in examples))


def _reader(network: TrainedNetwork) -> Read:
    mean, std = (jnp.asarray(values, jnp.float32).reshape(1, 1, 1, -1) for values in (network.mean, network.std))

    def read(x: Any) -> Mapping[str, Any]:
        data = Resident(jnp.asarray(x), jnp.zeros(len(x), jnp.int32), mean, std)
        return _read_sites(network.model, network.variables, data)

    return read


@jax.jit
def _read_sites(model: Model, variables: Variables, data: Resident) -> dict[str, jax.Array]:
    return model.read_sites(variables, normalize(data, data.images))


def _positions(found: Mapping[str, Any], sites: Sequence[str] | None, skip: int) -> dict[str, np.ndarray]:
    """Returns activations `[positions, width]` of the wanted sites."""
    missing = [site for site in sites or () if site not in found]
    if missing:
        raise ConfigError(f"The network has no site {missing[0]!r}; its sites are {', '.join(found)}.")
    made = {}
    for site in found if sites is None else sites:
        h = np.asarray(found[site], np.float32)
        if h.ndim < 2 or (skip and h.ndim != 3):
            raise ConfigError(f"The activations of {site} have shape {list(h.shape)}; expected [batch, ..., width]"
                              f"{', and [batch, length, width] with skip_positions' * bool(skip)}.")  # fmt: skip
        made[site] = (h[:, skip:] if skip else h).reshape(-1, h.shape[-1])
    return made


def _concatenate(batches: Iterator[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    found = list(batches)
    return {site: np.concatenate([batch[site] for batch in found]) for site in found[0]} if found else {}
