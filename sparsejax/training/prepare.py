"""Setup of a training before its first step, shared by runs, rehearsals and restored networks."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from sparsejax.configuration import stack
from sparsejax.data.dataset import Dataset
from sparsejax.data.resident import Resident, make_resident
from sparsejax.errors import ConfigError, SparsejaxError
from sparsejax.training.checks import batch_sizes, check_data, count_parameters
from sparsejax.training.config import Config, TrainingConfig
from sparsejax.training.devices import Placement, find_memory, place, put_members, put_shared, transform
from sparsejax.training.state import Best, TrainState, init_best, init_state


class Progress(NamedTuple):
    """Networks in training, and the best of each so far; all arrays have a leading member axis."""

    state: TrainState
    best: Best


class Job(NamedTuple):
    """Everything that is constant during training.

    `config` is the stack of their configurations, on the devices of `placement`; it may have `padding` additional
    members: copies of the last one that fill the devices.
    """

    config: Config
    placement: Placement
    data: Resident
    padding: int = 0

    @property
    def members(self) -> int:
        """Number of members."""
        return jax.tree.leaves(self.config)[0].shape[0] - self.padding

    @property
    def examples(self) -> int:
        """Size of the training set."""
        return self.data.labels.shape[0]

    @property
    def training(self) -> TrainingConfig:
        """The training configuration."""
        return self.config.training


def prepare(configs: Sequence[Config], dataset: Dataset, chips: Sequence[Any] | None = None) -> tuple[Job, Resident]:
    """Check everything, and return the job of training networks together and their test data.

    Args:
      configs: of the networks, with the same structure.
      dataset: its training data are put on the devices, unless they are streamed.
      chips: unavailable devices to compile for; all arrays are then `jax.ShapeDtypeStruct`.

    Raises:
      ConfigError: the networks do not fit the data or the devices.
    """
    config, members = configs[0], len(configs)
    try:
        check_data(config, dataset, members, memory=find_memory() if chips is None else math.inf)
        for model in dict.fromkeys(
            other.model for other in configs[1:]
        ):  # swept values such as k or density also have to fit
            model.layers(dataset.train.images.shape[1:])
    except ValueError as error:  # of a function in the network, such as top_k for more winners than units
        if isinstance(error, SparsejaxError):
            raise
        raise ConfigError(f"A {type(config.model).__name__} does not fit {dataset.name}: {error}") from error
    parameters = count_parameters(config, dataset) if config.training.order_seed is not None else None
    placement = place(config.devices, members, batch_sizes(config), sharing=parameters, devices=chips)
    padding, on_host = -members % placement.member_devices, chips is not None
    train, test = (
        make_resident(dataset, split, normalise=config.data.normalise, on_device=not (on_host or streamed))
        for split, streamed in ((dataset.train, config.data.streaming), (dataset.test, False))
    )
    stacked = stack(configs)
    if chips is not None:
        rows = jax.tree.map(lambda leaf: np.empty((members + padding, *leaf.shape[1:]), leaf.dtype), stacked)
        train, test = (shapes_on(split, placement, P(), chips) for split in (train, test))
        return Job(shapes_on(rows, placement, P("member"), chips), placement, train, padding), test
    train = train if config.data.streaming else put_shared(train, placement)
    return Job(put_members(stacked, placement), placement, train, padding), put_shared(test, placement)


def shapes_on(tree: Any, placement: Placement, spec: P, chips: Sequence[Any]) -> Any:
    """Return the shapes and shardings of arrays on unavailable devices."""
    where = SingleDeviceSharding(chips[0]) if placement.mesh is None else NamedSharding(placement.mesh, spec)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree)


def start(config: Config, placement: Placement, example: Any) -> Progress:
    """Return untrained networks.

    Args:
      config: the stack of their configurations.
      placement: the devices.
      example: inputs `[1, ...]`; their values do not matter.
    """
    return transform(_init, placement)(config, example)


def shapes_of(config: Config, example: Any) -> Progress:
    """Return the shapes of the result of `start`, without a device."""
    return jax.eval_shape(jax.vmap(_init, (0, None)), config, example)


def _init(config: Config, example: Any) -> Progress:
    state = init_state(config, example)
    return Progress(state, init_best(state))
