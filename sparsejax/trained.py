"""A trained network back from its run folder, for other code to use."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sparsejax.data.dataset import Dataset
from sparsejax.errors import ConfigError, RunFolderError
from sparsejax.models.base import Model, Variables
from sparsejax.training.checks import load_data
from sparsejax.training.config import Config
from sparsejax.training.restore import Recorded, recorded, trained
from sparsejax.training.run_folder import RunFolder


class TrainedNetwork(NamedTuple):
    """A network as it is after training, its schedules evaluated; its variables; the data it was trained on."""

    model: Model
    variables: Variables
    dataset: Dataset

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.dataset.train.images.shape[1:]


def load_network(run: str | Path, member: int = 0) -> TrainedNetwork:
    """Reads a network from the newest checkpoint of a run.

    Args:
      run: the run's folder.
      member: which of its networks.

    Raises:
      ConfigError: there is no such network.
      RunFolderError: there is no run, or other data is found now than it was trained on.
      CheckpointError: it has no checkpoint yet, or a damaged one.
      DataMissingError, DataDamagedError: its data cannot be had.
    """
    folder = RunFolder(Path(run))
    run_of = recorded(folder)
    config = config_of(folder, run_of, member)
    dataset = load_data(config)
    check_same_data(folder, run_of, dataset)
    state = jax.tree.map(lambda leaf: leaf[member], trained(folder, run_of.configs, dataset))
    model = config.model.at(state.epoch.astype(jnp.float32), state.step)
    return TrainedNetwork(model, state.variables, dataset)


def config_of(folder: RunFolder, run_of: Recorded, member: int) -> Config:
    """Returns the configuration of one of a run's networks.

    Raises:
      ConfigError: there is no such network.
    """
    if not 0 <= member < len(run_of.configs):
        raise ConfigError(
            f"member is {member}; expected a number from 0 to {len(run_of.configs) - 1}, the networks in {folder.path}."
        )
    return run_of.configs[member]


def check_same_data(folder: RunFolder, run_of: Recorded, dataset: Dataset) -> None:
    """Refuses data that a run was not trained on.

    Raises:
      RunFolderError: the data differ.
    """
    origin = run_of.description["data"]
    if dataset.fingerprint != origin["fingerprint"]:
        raise RunFolderError(
            f"The network in {folder.path} was trained on {origin['name']} from {origin['source']}, but other data is "
            f"found now: {dataset.name} from {dataset.source}. Let SPARSEJAX_DATA name the folder it named then."
        )
