"""What a configuration trains on: its data, and whether network, objective and data fit each other."""

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax import data
from sparsejax.data.dataset import Dataset
from sparsejax.data.resident import steps_per_epoch
from sparsejax.data.speech import SPEECH
from sparsejax.data.text import TEXTS, load_text, windows
from sparsejax.errors import ConfigError
from sparsejax.models.gpt import GPT
from sparsejax.models.noisy import NoisyNetwork
from sparsejax.models.speech import SpeechCNN
from sparsejax.models.top_k_autoencoder import TopKAutoencoder
from sparsejax.training.config import Config


def load_data(config: Config, networks: int = 1) -> Dataset:
    """Loads the configured data and checks that so many networks, and their batches, fit it.

    Raises:
      ConfigError: they do not fit.
      DataMissingError, DataDamagedError: the data cannot be had.
    """
    if config.data.name in TEXTS:
        text = load_text(config.data.name, unit=config.data.unit, vocabulary=config.data.vocabulary)
        dataset = windows(text, config.data.length)
    elif config.data.name in SPEECH:
        wanted = {"words": config.data.words, "silence": config.data.silence, "held_out": config.data.held_out}
        dataset = data.load(config.data.name, config.data.source, **wanted)
    else:
        dataset = data.load(config.data.name, config.data.source)
    dataset = dataset.limited(config.data.train_examples, config.data.test_examples)
    for batch_size in sorted(batch_sizes(config)):
        steps_per_epoch(len(dataset.train.labels), batch_size)
    if config.data.augment != "none" and (dataset.train.images.ndim != 4 or config.data.name in SPEECH):
        raise ConfigError(
            f"data.augment is {config.data.augment}, but {dataset.name} has no images to move and mirror; take none."
        )
    if config.data.streaming and networks > 1 and config.training.order_seed is None:
        raise ConfigError(
            f"data.streaming reads the same batches for all {networks} networks; give them one order with "
            "--training.order-seed 0, or keep the data on the devices."
        )
    _check_task(config, dataset)
    count_parameters(config, dataset)  # k and densities against the layers
    penalised, layers = config.objective.penalised, config.model.layers(dataset.train.images.shape[1:])
    unknown = sorted({*(penalised or ())} - {layer.name for layer in layers})
    if unknown:
        raise ConfigError(
            f"objective.penalised names {', '.join(unknown)}, but the hidden layers of this network are "
            f"{', '.join(layer.name for layer in layers)}; take some of them, or None for all."
        )
    return dataset


def count_parameters(config: Config, dataset: Dataset) -> int:
    """Counts the parameters of a network on these data, without drawing it."""
    shape, dtype = dataset.train.images.shape[1:], dataset.train.images.dtype
    example = jnp.zeros((1, *shape), jnp.int32 if dtype == np.int32 else jnp.float32)
    variables = jax.eval_shape(config.model.init, jax.random.key(0), example)
    return sum(leaf.size for leaf in jax.tree.leaves(variables.params))


def _check_task(config: Config, dataset: Dataset) -> None:
    """Refuses a network whose outputs do not fit the task and the data."""
    text, language = config.data.name in TEXTS, config.objective.kind == "next_token"
    if isinstance(config.model, GPT) or text or language:
        if not (isinstance(config.model, GPT) and text and language):
            raise ConfigError(
                f"A {type(config.model).__name__} on {dataset.name} with objective.kind {config.objective.kind} cannot "
                "be; texts, the model GPT and the objective next_token go together."
            )
        if config.model.vocabulary < dataset.classes:
            raise ConfigError(
                f"model.vocabulary is {config.model.vocabulary}, but {dataset.name} has {dataset.classes} different "
                f"tokens; take --model.vocabulary {dataset.classes}, or a smaller data.vocabulary."
            )
        if config.evaluation.detail:
            raise ConfigError("evaluation.detail is True, but windows of a text have no classes; take False.")
        return
    known = isinstance(config.model, NoisyNetwork) and config.model.has_implicit_terms
    if config.evaluation.implicit_examples is not None and not known:
        raise ConfigError(
            f"evaluation.implicit_examples is {config.evaluation.implicit_examples}, but the implicit terms are known "
            "in closed form for a plain ReLU autoencoder under gaussian noise on its input only; take None."
        )
    if isinstance(config.model, SpeechCNN) != (config.data.name in SPEECH):
        raise ConfigError(
            f"A {type(config.model).__name__} on {dataset.name} cannot be; spoken words ({', '.join(SPEECH)}) and the "
            "model SpeechCNN go together."
        )
    classes = config.model.classes
    if isinstance(config.model, TopKAutoencoder) and config.objective.kind == "classification":
        raise ConfigError(
            "objective.kind is classification, but a TopKAutoencoder classifies nothing; take reconstruction."
        )
    if config.objective.kind == "reconstruction" and classes is not None:
        raise ConfigError(
            f"objective.kind is reconstruction, but model.classes is {classes}; take a network "
            "with model.classes None, such as a DenseNetwork, whose outputs are as many as its inputs."
        )
    if config.objective.kind == "classification" and (classes is None or classes < dataset.classes):
        raise ConfigError(
            f"model.classes is {config.model.classes}, but {dataset.name} has {dataset.classes} classes; take "
            f"--model.classes {dataset.classes}."
        )


def batch_sizes(config: Config) -> set[int]:
    """Returns the sizes of the batches of training: the first epoch may have one of its own."""
    return {config.training.batch_size_in(epoch) for epoch in range(min(2, config.training.epochs))}
