"""Loads networks from a run folder, without the data they were trained on."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.configuration import stack
from sparsejax.data import Dataset, title
from sparsejax.data.resident import Resident, example, normalize
from sparsejax.data.speech import SAMPLES
from sparsejax.errors import CheckpointError, ConfigError, RunFolderError, shorten
from sparsejax.models.base import Model, Output, Variables
from sparsejax.training import checkpoints
from sparsejax.training.checks import load_data
from sparsejax.training.config import Config
from sparsejax.training.devices import find_devices
from sparsejax.training.prepare import shapes_of
from sparsejax.training.records import read_description, reading
from sparsejax.training.run_folder import RunFolder
from sparsejax.training.schema import members_from_json
from sparsejax.training.state import TrainState


class Record(NamedTuple):
    """The record of a run: the contents of `config.json`, and the configuration of every network."""

    description: dict[str, Any]
    configs: tuple[Config, ...]


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """A trained network.

    Attributes:
      model: the network, with its schedules evaluated at the end of training.
      variables: its parameters and state.
      mean, std: of training pixels in [0, 1], one per channel; the network's inputs are (pixels - mean) / std. The
        std of a channel whose pixels are all equal is infinite, because the network's input there is 0.
      example_shape: shape of one example.
      batch_size: of `predict`, `activations` and `run`.
      epoch: number of epochs of its training.
    """

    model: Model
    variables: Variables
    mean: tuple[float, ...]
    std: tuple[float, ...]
    example_shape: tuple[int, ...]
    batch_size: int = 250
    epoch: int = 0

    def predict(self, x: Any) -> np.ndarray:
        """Return predictions `[examples, ...]`: logits, reconstructions or logits of next tokens.

        Args:
          x: examples `[examples, ...]` as stored in their data set: images as integers up to 255, or floats in
            [0, 1]; vectors float32; clips int16, or floats in [-1, 1); tokens integers.

        Raises:
          ConfigError: an example's shape differs from that in training, pixels are out of range, or tokens or clips
          have another type.
        """
        return self.run(x, _prediction)

    def activations(self, x: Any) -> dict[str, np.ndarray]:
        """Return the output of every hidden layer `[examples, ...]` by name; arguments and errors as in `predict`."""
        return self.run(x, _activations)

    def run(self, x: Any, of: Callable[[Output], Any]) -> Any:
        """Return `of(output)` of all batches, arrays `[examples, ...]` in any structure; errors as in `predict`.

        Calls with the same function share a compiled program.
        """
        x = np.asarray(x)
        if x.shape[1:] != self.example_shape:
            raise ConfigError(
                f"Examples have shape {x.shape[1:]}, but the network was trained on {self.example_shape}; pass "
                f"[examples, {', '.join(map(str, self.example_shape))}]."
            )
        x = _check_pixels(x) if len(self.example_shape) == 3 else _check_numbers(x, self.model.inputs)
        mean, std = (jnp.asarray(values, jnp.float32).reshape(1, 1, 1, -1) for values in (self.mean, self.std))

        def run_batch(batch: np.ndarray) -> Any:
            data = Resident(jnp.asarray(batch), jnp.zeros(len(batch), jnp.int32), mean, std)
            return jax.device_get(_forward(self.model, self.variables, data, of))

        if not len(x):
            one = run_batch(np.zeros((1, *x.shape[1:]), x.dtype))
            return jax.tree.map(lambda array: array[:0], one)
        parts = [run_batch(x[i : i + self.batch_size]) for i in range(0, len(x), self.batch_size)]
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


@functools.partial(jax.jit, static_argnames="of")
def _forward(model: Model, variables: Variables, data: Resident, of: Callable[[Output], Any]) -> Any:
    return of(model.apply(variables, normalize(data, data.images)))


def _prediction(output: Output) -> Any:
    return output.prediction


def _activations(output: Output) -> Any:
    return output.activations


def _check_pixels(x: np.ndarray) -> np.ndarray:
    """Returns images as bytes or floats, whichever they are; integers of other types, such as int64, become bytes."""
    most = 255 if x.dtype.kind in "iu" else 1
    if x.size and not -1e-6 <= x.min() <= x.max() <= most + 1e-6:  # rounded, as attacked images are
        raise ConfigError(
            f"Images of {x.dtype} hold values from {x.min():g} to {x.max():g}; expected integers from 0 to 255, or "
            "floats in [0, 1]."
        )
    return x.astype(np.uint8) if x.dtype.kind in "iu" else x


def _check_numbers(x: np.ndarray, inputs: str) -> np.ndarray:
    """Returns other examples; integers of another type would be read as others: tokens wrap, clips are not scaled."""
    integers = x.dtype.kind in "iu"
    if inputs == "tokens" and not (integers and (not x.size or -(2**31) <= x.min() <= x.max() < 2**31)):
        raise ConfigError(f"Examples of {x.dtype} are no tokens; expected integers of 32 bits.")
    if inputs == "clips" and integers and x.dtype != np.int16:
        raise ConfigError(f"Clips of {x.dtype} have no known scale; expected int16, or floats in [-1, 1).")
    return x


def read_record(folder: RunFolder) -> Record:
    """Reads the configurations of a run.

    Raises:
      RunFolderError: there is no run, or its configuration cannot be read.
    """
    with reading(folder.config, "Train the network again."):
        try:
            description = read_description(folder.config)
            return Record(description, members_from_json(description))
        except FileNotFoundError:
            raise RunFolderError(f"{folder.path} is not a run folder: it has no config.json. Choose another.") from None
        except ConfigError as error:
            raise RunFolderError(f"{folder.config} cannot be read: {shorten(str(error), 500).rstrip('.')}.") from None


def load_network(folder: RunFolder, member: int = 0) -> TrainedNetwork:
    """Loads a network from the latest checkpoint of a run; its data are not needed.

    Args:
      folder: of the run.
      member: index of the network.

    Raises:
      ConfigError: there is no such network.
      RunFolderError: there is no run.
      CheckpointError: it has no checkpoint, or a damaged one.
    """
    run_of = read_record(folder)
    config = config_of(folder, run_of, member)
    state = jax.tree.map(lambda leaf: leaf[member], load_state(folder, run_of))
    model = config.model.at(state.epoch.astype(jnp.float32), state.step)
    shape, _, mean, std = _inputs(run_of)
    return TrainedNetwork(model, state.variables, mean, std, shape, config.evaluation.batch_size, int(state.epoch))


def load_state(folder: RunFolder, run_of: Record) -> TrainState:
    """Loads all networks of a run from its latest checkpoint, on one device.

    Raises:
      ConfigError: JAX finds no devices.
      CheckpointError: there is no checkpoint, or it is damaged.
    """
    find_devices()
    configs, (shape, dtype, *_) = run_of.configs, _inputs(run_of)
    untrained = shapes_of(stack(configs), example(shape, dtype))
    restored = checkpoints.restore(folder.checkpoints, untrained)
    if restored is None:
        raise CheckpointError(f"There is no checkpoint in {folder.checkpoints}; train the network for an epoch first.")
    return jax.tree.map(jnp.asarray, restored.tree.state)


def config_of(folder: RunFolder, run_of: Record, member: int) -> Config:
    """Returns the configuration of one of a run's networks.

    Raises:
      ConfigError: there is no such network.
    """
    if not isinstance(member, (int, np.integer)) or not 0 <= member < len(run_of.configs):
        raise ConfigError(
            f"member is {member!r}; expected a number from 0 to {len(run_of.configs) - 1}, the networks in "
            f"{folder.path}."
        )
    return run_of.configs[member]


def check_same_data(folder: RunFolder, run_of: Record, dataset: Dataset) -> None:
    """Checks that a run was trained on these data.

    Raises:
      RunFolderError: the data differ.
    """
    origin = run_of.description["data"]
    if dataset.fingerprint != origin["fingerprint"]:
        raise RunFolderError(
            f"The network in {folder.path} was trained on {title(origin['name'], origin['source'])}, but other data is "
            f"found now: {title(dataset.name, dataset.source)}. Set SPARSEJAX_DATA to the folder used for training."
        )


def _inputs(run_of: Record) -> tuple[tuple[int, ...], str, tuple[float, ...], tuple[float, ...]]:
    """Returns shape and type of an example, and the moments for normalising pixels."""
    origin, config = run_of.description["data"], run_of.configs[0]
    if "shape" not in origin:  # written by version 0.1, without these entries
        unscaled = {"mean": (0.0,), "std": (1.0,)}
        if origin.get("kind") == "windows":
            origin = {"shape": (config.data.length,), "dtype": "int32", **unscaled}
        elif origin.get("kind") == "clips":
            origin = {"shape": (SAMPLES,), "dtype": "int16", **unscaled}
        else:  # the moments are only known from the data
            origin = describe_inputs(load_data(config))
    mean, std = (origin["mean"], origin["std"]) if config.data.normalise else ((0.0,), (1.0,))
    return tuple(origin["shape"]), origin["dtype"], tuple(mean), tuple(value or float("inf") for value in std)


def describe_inputs(dataset: Dataset) -> dict[str, Any]:
    """Returns the information about the data that a network needs to be loaded without them."""
    images = dataset.train.images
    return {"shape": list(images.shape[1:]), "dtype": images.dtype.name, "mean": [*map(float, dataset.mean)],
            "std": [*map(float, dataset.std)], "classes": int(dataset.classes)}  # fmt: skip
