"""Loads a configuration's data, and checks that network, objective and data fit each other."""

import math
from typing import Any

import jax
import numpy as np

from sparsejax import data
from sparsejax.data.dataset import Dataset
from sparsejax.data.resident import example_of, steps_per_epoch
from sparsejax.errors import ConfigError, SparsejaxError
from sparsejax.models.base import Model, Output
from sparsejax.training.config import Config, DataConfig

_READ = {
    "images": ("images", "vectors"), "vectors": ("vectors", "images"), "tokens": ("tokens",), "clips": ("clips",),
}  # fmt: skip
"""Kind of data -> accepted kinds of inputs; networks that flatten their inputs accept both images and vectors."""


def load_data(config: Config, dataset: Dataset | None = None) -> Dataset:
    """Loads the configured data, or takes a given data set, and limits the number of its examples.

    Raises:
      ConfigError: there is no such data set, it has fewer examples, or its test examples have another shape or type.
      DataMissingError, DataDamagedError: the data cannot be loaded.
    """
    wanted = config.data
    if dataset is None:
        dataset = _load(wanted)
    train, test = (f"{split.images.dtype} {list(split.images.shape[1:])}" for split in (dataset.train, dataset.test))
    if train != test:
        raise ConfigError(
            f"The training examples of {dataset.name} are {train}, but the test examples {test}; expected one shape "
            "and type."
        )
    return dataset.limit(wanted.train_examples, wanted.test_examples)


def _load(wanted: DataConfig) -> Dataset:
    options = {
        name: getattr(wanted, name) for name in data.options_of(wanted.name, wanted.path) if hasattr(wanted, name)
    }
    dataset = data.load(wanted.name, wanted.source, path=wanted.path, **options)
    if wanted.test_fraction is not None and "test_fraction" not in options:
        raise ConfigError(
            f"data.test_fraction is {wanted.test_fraction}, but {dataset.name} has its own test set; omit the option."
        )
    return dataset


def check_data(config: Config, dataset: Dataset, members: int = 1, *, memory: float = math.inf) -> None:
    """Checks that the networks and their batches fit the data and the memory.

    Args:
      config: of the networks.
      dataset: the data.
      members: number of networks.
      memory: bytes that they may take.

    Raises:
      ConfigError: they do not fit.
    """
    for batch_size in sorted(batch_sizes(config)):
        steps = steps_per_epoch(len(dataset.train.labels), batch_size)
        if config.training.epochs * steps >= 2**31:
            raise ConfigError(
                f"training.epochs is {config.training.epochs:,}, of {steps:,} steps each; expected fewer than 2³¹ "
                "steps in all."
            )
    if config.data.augment != "none" and dataset.kind != "images":
        raise ConfigError(
            f"data.augment is {config.data.augment}, but {dataset.name} has no images to shift and mirror; use none."
        )
    if config.data.streaming and members > 1 and config.training.order_seed is None:
        raise ConfigError(
            f"data.streaming reads the same batches for all {members} networks; set one order with "
            "--training.order-seed 0, or keep the data on the devices."
        )
    _check_task(config, dataset)
    parameters = count_parameters(config, dataset)  # checks k and densities against the layers
    if (needed := 8 * parameters * members) > memory:  # float32, of each network and of the best of it so far
        raise ConfigError(
            f"The {f'{members:,} networks have' if members > 1 else 'network has'} {parameters:,} parameters"
            f"{' each' if members > 1 else ''}, which take {needed / 1e9:,.0f} GB and more in training, but there are "
            f"{memory / 1e9:,.0f} GB of memory; use fewer units or networks."
        )
    penalised, layers = config.objective.penalised, config.model.layers(dataset.train.images.shape[1:])
    unknown = sorted({*(penalised or ())} - {layer.name for layer in layers})
    if unknown:
        raise ConfigError(
            f"objective.penalised names {', '.join(unknown)}, but the hidden layers of this network are "
            f"{', '.join(layer.name for layer in layers)}; choose some of them, or None for all."
        )


def count_parameters(config: Config, dataset: Dataset) -> int:
    """Counts the parameters of a network on these data, without initialising it."""
    variables = jax.eval_shape(config.model.init, jax.random.key(0), example_of(dataset.train))
    return sum(leaf.size for leaf in jax.tree.leaves(variables.params))


def _check_task(config: Config, dataset: Dataset) -> None:
    """Checks that the network's inputs and outputs fit the task and the data."""
    model, kind = config.model, config.objective.kind
    name, reads = type(model).__name__, _READ[dataset.kind]
    if model.inputs not in reads:
        raise ConfigError(
            f"A {name} reads {model.inputs}, but {dataset.name} has {dataset.kind}; use a network that reads "
            f"{' or '.join(reads)}, or other data."
        )
    if (model.task or kind) != kind or (kind == "next_token") != (dataset.kind == "tokens"):
        classifier = kind == "classification" and hasattr(model, "classes")  # with `classes` it is a classifier
        raise ConfigError(
            f"objective.kind is {kind}, but a {name} is for {model.task or kind} and {dataset.name} has "
            f"{dataset.kind}; use --objective.kind {model.task or 'next_token'}, or "
            f"{f'--model.classes {dataset.classes}' if classifier else 'another network or data set'}."
        )
    if kind == "classification" and not dataset.classes:
        raise ConfigError(
            f"objective.kind is classification, but {dataset.name} has no labels; pass some, or use --objective.kind "
            "reconstruction and a network for it."
        )
    example = example_of(dataset.train)
    output = _trace(model, np.repeat(example, 2, axis=0), dataset.name)
    expected = (2, *example.shape[1:]) if kind == "next_token" else (2,)
    if output.prediction.shape[:-1] != expected:
        raise ConfigError(
            f"The prediction of a {name} for two examples has shape {output.prediction.shape}; expected "
            f"{(*expected, 'outputs')} for {kind}. Correct its apply."
        )
    target = example[0].size if output.target is None else output.target.shape[-1]
    outputs, wanted = output.prediction.shape[-1], target if kind == "reconstruction" else dataset.classes
    if outputs != wanted if kind == "reconstruction" else outputs < wanted:
        what = {"classification": "classes", "reconstruction": "numbers in an example", "next_token": "tokens"}[kind]
        field = "vocabulary" if kind == "next_token" else "classes"
        way_out = f"use --model.{field} {wanted}" if hasattr(model, field) else "use a network with as many outputs"
        raise ConfigError(f"The network has {outputs} outputs, but {dataset.name} has {wanted} {what}; {way_out}.")


def _trace(model: Model, examples: np.ndarray, data: str) -> Output:
    """Returns the shapes of a network's output in training.

    Raises:
      ConfigError: the network fails, or does not return what training needs.
    """

    def run(x: Any) -> Any:
        variables = model.init(jax.random.key(0), x[:1])
        return variables, model.apply(variables, x, key=jax.random.split(jax.random.key(0), len(x)), train=True)

    name = type(model).__name__
    try:
        variables, output = jax.eval_shape(run, examples)
    except SparsejaxError:
        raise
    except Exception as error:
        raise ConfigError(
            f"A {name} fails on examples {list(examples.shape)} of {data}: {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}. Correct its fields, or its init and apply."
        ) from error
    wrong = ""
    if not isinstance(output, Output) or not isinstance(output.activations, dict):
        wrong = f"returns {type(output).__name__}; expected Output(prediction, state, activations), activations a dict"
    elif jax.tree.structure(output.state) != jax.tree.structure(variables.state):
        wrong = (
            f"returns a state of the structure {jax.tree.structure(output.state)}; expected that of init, "
            f"{jax.tree.structure(variables.state)}"
        )
    elif flat := [
        layer for layer, h in output.activations.items() if getattr(h, "shape", ())[:1] != examples.shape[:1]
    ]:
        wrong = f"returns activations of {flat[0]} that are not an array [batch, ...]"
    if wrong:
        raise ConfigError(f"apply of a {name} {wrong}. Correct it.")
    return output


def batch_sizes(config: Config) -> set[int]:
    """Returns the batch sizes of training: that of the first epoch may differ."""
    return {config.training.batch_size_in(epoch) for epoch in range(min(2, config.training.epochs))}
