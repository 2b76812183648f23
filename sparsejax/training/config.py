"""The configuration of a run as dataclasses, validated before compilation."""

from typing import Literal

from sparsejax.configuration import configuration, traced
from sparsejax.errors import ConfigError
from sparsejax.models.base import Model, expect

MOST_EPOCHS = 1_000_000
"""Epochs of a run at most; its history has a row for each."""
MOST_MEMBERS = 10_000
"""Networks of one run at most: more are a mistake in a sweep, and would take minutes before any message."""


@configuration(kw_only=False)
class DataConfig:
    """The data and their source."""

    name: str = "mnist"
    """Data set; see `python -m sparsejax.data list`; tfds/NAME is any prepared TFDS data set."""
    source: Literal["auto", "files", "tfds", "download", "digits"] = "auto"
    """Source; auto tries files, TFDS and a download, and falls back to the bundled digits for MNIST."""
    path: str | None = None
    """Read your own file (.npz, .npy) or folder (arrays, or images by class) instead."""
    test_fraction: float | None = None
    """Fraction of the examples to hold out as a test set, if a path or a TFDS data set has none."""
    train_examples: int | None = None
    """Use only this many training examples."""
    test_examples: int | None = None
    """Use only this many test examples."""
    unit: Literal["words", "characters"] = "words"
    """Tokens of a text."""
    vocabulary: int | None = None
    """Number of most frequent tokens of a text to keep, others become <unk>; None for all."""
    length: int = 128
    """Tokens per window of a text."""
    words: tuple[str, ...] | None = None
    """Spoken words to classify; None for all available ones."""
    silence: float = 0.1
    """Silent clips added to spoken words in training, as a fraction of their number."""
    held_out: Literal["test", "validation"] = "test"
    """Part of the spoken words used for evaluation."""
    balanced: bool = False
    """Resample so that all classes appear equally often."""
    augment: Literal["none", "crop_flip"] = "none"
    """Augment training images at every step: shifted by up to 4 pixels, and half of them mirrored."""
    streaming: bool = False
    """Read training batches from memory or disk, instead of keeping all examples on the devices."""
    shuffle_block: int | None = None
    """When streaming, shuffle blocks of so many examples, and the examples in each; None to shuffle all together."""
    normalise: bool = True
    """Scale pixels to mean 0 and standard deviation 1 over the training set; otherwise they are in [0, 1]. Activations
    are centred, and scaled so that the mean of their squared norm is their width."""

    def check(self) -> None:
        fraction = self.test_fraction
        block = self.shuffle_block
        expect("data.shuffle_block", block, "None, or a positive number of examples", block is None or block >= 1)
        expect("data.test_fraction", fraction, "a number between 0 and 1", fraction is None or 0 < fraction < 1)


@configuration(kw_only=False)
class ObjectiveConfig:
    """What is minimised."""

    kind: Literal["classification", "reconstruction", "next_token"] = "classification"
    """Cross-entropy of the labels, the squared error of the input, or cross-entropy of the next token."""
    l1: float | None = traced(None)
    """Weight of the hidden layers' summed absolute activity; None for no penalty."""
    l2: float | None = traced(None)
    """Weight of their summed squared activity; None for no penalty."""
    cauchy: float | None = traced(None)
    """Weight of their sum of log(1 + a^2); None for no penalty."""
    gaussian: float | None = traced(None)
    """Weight of their sum of -exp(-a^2); None for no penalty."""
    penalised: tuple[str, ...] | None = None
    """Names of the penalised hidden layers; None for all."""
    per_unit: bool = False
    """Divide the penalties by the number of penalised units, so that a weight means the same for any size."""

    def check(self) -> None:
        for name in ("l1", "l2", "cauchy", "gaussian"):
            weight = getattr(self, name)
            expect(f"objective.{name}", weight, "None or a weight of 0 or more", weight is None or weight >= 0)
        expect(
            "objective.penalised", self.penalised, "None for all hidden layers, or layer names", self.penalised != ()
        )


@configuration(kw_only=False)
class TrainingConfig:
    """How a network is trained."""

    seed: int = traced(42)
    """Seed of the weights, the masks and the order of the examples."""
    order_seed: int | None = None
    """Seed of the order of the examples for all networks of a grid, which then share their batches: many small ones
    train in a fraction of the time. None for a separate order for each network."""
    epochs: int = 10
    """Passes over the training set."""
    batch_size: int = 64
    """Examples per step, over all devices."""
    first_epoch_batch_size: int | None = None
    """Batch size of the first epoch; a small one lets the duty cycles converge."""
    optimizer: Literal["sgd", "adam", "rmsprop"] = "sgd"
    """Update rule."""
    learning_rate: float = traced(0.01)
    """Learning rate of the first epoch."""
    beta1: float = 0.9
    """Decay of adam's average of the gradient; 0 for the latest gradient alone."""
    beta2: float = 0.999
    """Decay of adam's average of the squared gradient."""
    momentum: float | None = traced(None)
    """Momentum of sgd and rmsprop; None for none."""
    weight_decay: float | None = traced(None)
    """L2 penalty added to the gradient of every parameter; None for none."""
    clip_norm: float | None = traced(None)
    """Largest norm of a gradient; None for no clipping."""
    schedule: Literal["constant", "step", "cosine", "linear"] = "step"
    """Learning rate over the epochs: step multiplies it by lr_decay, cosine decreases it to 0 all along, and linear in
    the last part of the training."""
    lr_decay: float = traced(1.0)
    """Factor of the step schedule."""
    lr_decay_every: int = 1
    """Epochs between two steps of the step schedule."""
    decay_fraction: float = traced(0.2)
    """Last fraction of the training, over which the linear schedule decreases to 0."""
    lr_decay_at: tuple[int, ...] | None = None
    """Epochs after which the step schedule steps, instead of lr_decay_every."""
    warmup_epochs: float | None = traced(None)
    """Epochs of linear warmup from 0, in addition to the schedule; None for none."""
    rewiring: Literal["none", "set", "rigl"] = "none"
    """Rewire the sparse weights: drop each unit's smallest, grow others at random (set) or by gradient (rigl)."""
    rewire_every: int = 100
    """Steps between two rewirings."""
    rewire_fraction: float = traced(0.3)
    """Fraction of every unit's connections to rewire; with rigl it decreases to 0 over 3/4 of the training."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the network in training; parameters, updates and evaluations are float32."""
    on_nan: Literal["stop", "skip"] = "stop"
    """If a loss or gradient is not finite: stop, or skip the update of that step."""
    checkpoint_every: int | None = None
    """Also save a checkpoint after this many steps (at the end of a chunk); None for only after each epoch."""
    keep_checkpoints: int = 2
    """Number of latest checkpoints to keep, in addition to the best one."""

    def check(self) -> None:
        positive = ("epochs", "batch_size", "first_epoch_batch_size", "learning_rate", "clip_norm", "lr_decay_every",
                    "warmup_epochs", "rewire_every", "checkpoint_every", "keep_checkpoints",
                    "decay_fraction")  # fmt: skip
        for name in positive:
            value = getattr(self, name)
            expect(f"training.{name}", value, "more than 0", value is None or value > 0)
        expect("training.epochs", self.epochs, f"{MOST_EPOCHS:,} or fewer", self.epochs <= MOST_EPOCHS)
        for name, high in (
            ("momentum", 1),
            ("rewire_fraction", 1),
            ("lr_decay", 1),
            ("decay_fraction", 1),
            ("weight_decay", float("inf")),
        ):
            value = getattr(self, name)
            expect(f"training.{name}", value, f"a number in [0, {high}]", value is None or 0 <= value <= high)
        for name in ("beta1", "beta2"):
            expect(f"training.{name}", getattr(self, name), "a number in [0, 1)", 0 <= getattr(self, name) < 1)
        if self.momentum is not None and self.optimizer == "adam":
            raise ConfigError(
                f"training.momentum is {self.momentum}, but adam has its own averages; use --training.momentum None "
                "or --training.optimizer sgd."
            )
        if self.lr_decay_at is not None and (min(self.lr_decay_at, default=0) < 1 or self.schedule != "step"):
            raise ConfigError(
                f"training.lr_decay_at is {self.lr_decay_at} with training.schedule {self.schedule}; expected epochs, "
                "counted from 1, and the schedule step."
            )
        for name in ("seed", "order_seed"):
            value = getattr(self, name)
            expect(f"training.{name}", value, "an integer in [0, 2^31)", value is None or 0 <= value < 2**31)

    def batch_size_in(self, epoch: int) -> int:
        """Returns the batch size of an epoch, counted from 0."""
        return self.first_epoch_batch_size if epoch == 0 and self.first_epoch_batch_size else self.batch_size


CLEAN_MEASURES = ("accuracy", "activity", "weights", "macs")
"""Default measures."""
DEFAULT_MEASURES = (*CLEAN_MEASURES, "noise_score")


@configuration(kw_only=False)
class EvaluationConfig:
    """Evaluation on the test set."""

    batch_size: int = 250
    """Batch size of evaluation."""
    measures: tuple[str, ...] = DEFAULT_MEASURES
    """Measures of the trained network, by name; default ones that do not fit the network and the data are omitted."""
    track: tuple[str, ...] = ()
    """Measures that are also logged after every epoch, in addition to the accuracy."""
    noise_seed: int = 0
    """Seed of the noise, the same for all networks, so that they are compared on the same images."""
    implicit_examples: int = 200
    """Number of test examples for the implicit terms."""

    def check(self) -> None:
        for name in ("batch_size", "implicit_examples"):
            value = getattr(self, name)
            expect(f"evaluation.{name}", value, "a positive number", value >= 1)


@configuration(kw_only=False)
class DevicesConfig:
    """Sharding of the computation."""

    transform: Literal["auto", "jit", "shard_map", "pmap"] = "auto"
    """Transform of the step; auto is jit on one device and shard_map on several."""
    data: int | None = None
    """Devices per batch; None for all that remain after sharding the members."""
    member: int | None = None
    """Devices for the networks of a grid; None for one each, while devices last."""
    members_at_once: int | None = None
    """Networks computed in parallel on a device; None for all, but on a CPU for 1, or for as many small ones as fit its
    cache if they share their batches."""

    def check(self) -> None:
        for name in ("data", "member", "members_at_once"):
            value = getattr(self, name)
            expect(f"devices.{name}", value, "1 or more", value is None or value >= 1)
        if self.transform == "pmap" and (self.member or 1) > 1:
            raise ConfigError(
                "devices.transform pmap only shards batches; use devices.member 1 or transform shard_map."
            )

    def devices_for(self, members: int) -> int:
        """Returns the number of devices that `members` networks can use."""
        spread = 1 if self.transform in ("jit", "pmap") else self.member or members
        return spread * (self.data or 1)


@configuration(kw_only=False)
class Config:
    """One experiment."""

    model: Model = traced()
    """The network."""
    data: DataConfig = traced(DataConfig())
    """The data."""
    training: TrainingConfig = traced(TrainingConfig())
    """The training."""
    evaluation: EvaluationConfig = traced(EvaluationConfig())
    """The evaluation."""
    devices: DevicesConfig = traced(DevicesConfig())
    """The devices."""
    objective: ObjectiveConfig = traced(ObjectiveConfig())
    """What is minimised."""

    def check(self) -> None:
        expected = "a network, such as sparsejax.models.SparseMLP()"
        expect("model", self.model, expected, isinstance(self.model, Model))
