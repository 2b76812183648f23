"""A trained network back from its run folder."""

import json
from typing import Any, NamedTuple

import jax

from sparsejax.configuration import stack
from sparsejax.data.dataset import Dataset
from sparsejax.errors import CheckpointError, ConfigError, RunFolderError
from sparsejax.training import checkpoints, loop
from sparsejax.training.config import Config, DevicesConfig
from sparsejax.training.devices import place
from sparsejax.training.run_folder import RunFolder
from sparsejax.training.schema import members_from_json
from sparsejax.training.state import TrainState


class Recorded(NamedTuple):
    """What a run folder says of its run: all that `config.json` holds, and the configuration of every network."""

    description: dict[str, Any]
    configs: tuple[Config, ...]


def recorded(folder: RunFolder) -> Recorded:
    """Reads the configurations of a run.

    Raises:
      RunFolderError: there is no run, or its configuration cannot be read.
    """
    try:
        description = json.loads(folder.config.read_text(encoding="utf-8"))
        return Recorded(description, members_from_json(description))
    except FileNotFoundError:
        raise RunFolderError(f"{folder.path} is not a run folder: it holds no config.json. Name another.") from None
    except ConfigError as error:
        raise RunFolderError(f"{folder.config} cannot be read: {str(error).rstrip('.')}.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"{folder.config} cannot be read ({error!r}): it is damaged. Train the network again."
        ) from None


def trained(folder: RunFolder, configs: tuple[Config, ...], dataset: Dataset) -> TrainState:
    """Returns all networks of a run, on one device, as they are in its newest checkpoint.

    Args:
      folder: the run's.
      configs: as `recorded` says.
      dataset: what they were trained on; only the shape of an example matters.

    Raises:
      CheckpointError: there is none yet, or it is damaged.
    """
    config, placement = configs[0], place(DevicesConfig("jit"), len(configs), set())
    example = loop.example_of(dataset.train)
    untrained = jax.eval_shape(lambda config: loop.start(config, placement, example), stack(configs))
    restored = None
    if folder.checkpoints.is_dir():  # opening it would make it
        with checkpoints.opened(folder.checkpoints, keep=config.training.keep_checkpoints) as saved:
            restored = saved.restore(untrained)
    if restored is None:
        raise CheckpointError(f"There is no checkpoint in {folder.checkpoints}; train the network for an epoch first.")
    return jax.tree.map(jax.numpy.asarray, restored.tree.state)
