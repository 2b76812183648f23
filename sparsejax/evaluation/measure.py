"""Measures: objects that sum over the batches of a test set and report the results."""

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from sparsejax.data.dataset import Dataset
from sparsejax.data.resident import Resident
from sparsejax.errors import ConfigError, blame
from sparsejax.figures.drawing import Part
from sparsejax.models.base import Layer, Model, Output, Variables
from sparsejax.registry import Registered, check_name
from sparsejax.training.config import DEFAULT_MEASURES, Config

T = TypeVar("T")


class EvaluationBatch(NamedTuple):
    """A batch of test examples, and the network's output.

    Attributes:
      images: inputs of the network.
      labels: their classes.
      rows: their indices in the test set.
      counted: which of them count: the last batch is padded with repetitions.
      keys: one PRNG key per example, for stochastic networks; None to evaluate without their noise.
      output: of the network on these images, computed once for all measures.
      raw: the examples as stored in the data set.
      data: the whole test set, with the moments of the pixels.
    """

    images: Float[Array, "batch *shape"]
    labels: Int[Array, "batch"]
    rows: Int[Array, "batch"]
    counted: Bool[Array, "batch"]
    keys: Key[Array, "batch"] | None
    output: Output
    raw: Array
    data: Resident

    def sum(self, values: Array) -> Array:
        """Sum values `[batch, ...]` over the examples that count."""
        counted = self.counted.reshape(-1, *(1,) * (values.ndim - 1))
        return jnp.sum(jnp.where(counted, values, jnp.zeros((), values.dtype)), axis=0)


class Setting(NamedTuple):
    """Static information about a network and its test set.

    `layers` are the hidden ones, `examples` is the size of the test set, `classes` its number of classes, `kind` and
    `dtype` those of the data. `variables` are those of the trained network as NumPy arrays: in `report` of one
    network, in `arrays` of all of them with a leading axis, and None before the end of training.
    """

    config: Config
    layers: tuple[Layer, ...]
    examples: int
    classes: int
    kind: str
    dtype: Any
    variables: Variables | None = None

    @property
    def thresholds(self) -> dict[str, float]:
        """Thresholds above which a unit counts as active, by layer."""
        return {layer.name: layer.threshold for layer in self.layers}


class Measure(Part):
    """Base class of measures; any object with `of_batch` and `report` works, with these defaults.

    Attributes:
      name: under which it is registered.
      versions: the number of modified versions of every batch, each with its own forward pass; None for the original
        batch.
      examples: use only this many test examples; None for all.
      at_best: also measure each network after its best epoch, for `best` in `result.json`.
      file: path of its arrays in the run folder; `arrays/NAME.npz` by default.
      setting: static information about the network.
    """

    name: str = ""
    versions: int | None = None
    examples: int | None = None
    at_best: bool = False
    file: str = ""
    setting: Setting

    def bind(self, setting: Setting) -> "Measure":
        """Return the measure for a network."""
        made = copy.copy(self)
        made.setting = setting
        return made

    def misfit(self, setting: Setting) -> str | None:
        """Return why a run cannot have this measure; None if it can."""
        return None

    def of_batch(self, model: Model, variables: Variables, batch: EvaluationBatch) -> Any:
        """Return a pytree of arrays to sum over the batches, for the `batch.counted` examples; must compile."""
        raise NotImplementedError

    def version(self, batch: EvaluationBatch, index: Int[Array, ""]) -> EvaluationBatch:
        """Return version 0 to `versions` - 1 of a batch, with other images or keys; must compile."""
        return batch

    def report(self, sums: Any) -> dict[str, Any]:
        """Return the entries of one network in `result.json`, from its sums as NumPy arrays.

        Entries under `layers`, by the name of a layer, are merged with those of other measures.
        """
        raise NotImplementedError

    def track(self, variables: Variables, sums: Any) -> dict[str, Float[Array, ""]]:
        """Return the numbers of one network to log after an epoch; must compile.

        If it is not defined, the numbers of `report` are logged.
        """
        raise NotImplementedError

    def arrays(self, sums: Any) -> dict[str, np.ndarray]:
        """Return arrays of all networks, from sums with a leading axis of networks; they are written to `file`."""
        return {}


MEASURES: Registered[Measure] = Registered("measure", "sparsejax.evaluation.measures")
"""All measures by name, in the order of the report."""


def register_measure(name: str, *, place: float = 100.0) -> Callable[[T], T]:
    """Register a class without arguments, or an object, as a measure: `@register_measure("margin")`.

    Args:
      name: its name in `evaluation.measures` and `evaluation.track`.
      place: sorts the measures in the report; those of sparsejax have less than 100.

    Returns:
      A decorator that returns its argument.

    Raises:
      ConfigError: the name is no text, or taken, or the class needs arguments.
    """
    check_name(name, "register_measure")

    def register(thing: T) -> T:
        with blame(f"The class of the measure {name!r}, called without arguments,"):
            made = thing() if isinstance(thing, type) else thing
        measure = as_measure(made, name)
        module = getattr(thing, "__module__", type(thing).__module__)
        MEASURES.add(name, measure, module=module, place=place)
        if isinstance(thing, type):
            thing.name = name  # type: ignore[attr-defined]
        return thing

    return register


def as_measure(thing: Any, name: str = "") -> Measure:
    """Return an object as a measure, with the defaults of `Measure` for undefined methods.

    Args:
      thing: with `of_batch` and `report`.
      name: of the measure; by default the object's own, or that of its class.

    Raises:
      ConfigError: it lacks one of the two, or is a class.
    """
    if isinstance(thing, type):
        raise ConfigError(f"The measure {thing.__name__} is a class; pass an object, {thing.__name__}().")
    lacking = [method for method in ("of_batch", "report") if not callable(getattr(thing, method, None))]
    if lacking:
        raise ConfigError(f"{thing!r} has no {' and no '.join(lacking)}, which a measure needs.")
    if isinstance(thing, Measure):
        measure = copy.copy(thing)
    else:
        measure = Measure()
        for attribute in (entry for entry in dir(Measure) if not entry.startswith("_") and hasattr(thing, entry)):
            setattr(measure, attribute, getattr(thing, attribute))
    measure.name = name or measure.name or re.sub(r"(?<!^)(?=[A-Z])", "_", type(thing).__name__).lower()
    return measure


def setting_of(config: Config, dataset: Dataset, variables: Variables | None = None) -> Setting:
    """Return the `Setting` of a network on a data set."""
    layers = tuple(config.model.layers(dataset.train.images.shape[1:]))
    test = dataset.test
    return Setting(config, layers, len(test.labels), dataset.classes, dataset.kind, test.images.dtype, variables)


def chosen_measures(config: Config, dataset: Dataset, passed: Iterable[Any] = ()) -> tuple[Measure, ...]:
    """Return the measures of a run in the order of the report: those of the configuration, and those passed.

    The best network is selected by `accuracy`, which is therefore always included. Default measures that do not fit the
    run are omitted.

    Args:
      config: of the run.
      dataset: of the run.
      passed: objects as in `as_measure`; one of a registered class replaces the registered object.

    Raises:
      ConfigError: a name is unknown or taken, a measure does not fit the run, or its file is not in the run folder.
    """
    given: dict[str, Measure] = {}
    for measure in map(as_measure, passed):
        if measure.name in given or (measure.name in MEASURES and type(MEASURES[measure.name]) is not type(measure)):
            raise ConfigError(f"Two measures have the name {measure.name!r}; set `name` of yours to another one.")
        given[measure.name] = measure
    named = {"accuracy", *config.evaluation.measures, *config.evaluation.track} - given.keys()
    for name in sorted(named):
        MEASURES[name]  # suggests similar names
    found = [given.get(name) or MEASURES[name] for name in MEASURES if name in named | given.keys()]
    found += [measure for name, measure in given.items() if name not in MEASURES]
    setting, fitting, taken = setting_of(config, dataset), [], set()
    for measure in found:
        path = PurePath(file_of(measure))
        if path.is_absolute() or ".." in path.parts or path.suffix != ".npz" or path in taken:
            raise ConfigError(
                f"The arrays of the measure {measure.name!r} have the file {str(path)!r}; expected the path of an .npz "
                "file in the run folder that no other measure has. Set its `file`, such as 'arrays/mine.npz', or "
                "leave it empty."
            )
        taken.add(path)
        with blame(f"`misfit` of the measure {measure.name!r}"):
            reason = measure.misfit(setting)
        if reason is None:
            fitting.append(measure)
        elif measure.name not in DEFAULT_MEASURES:
            raise ConfigError(f"evaluation.measures has {measure.name}, but {reason}; remove it.")
    return tuple(fitting)


def measures_of(result: Mapping[str, Any]) -> list[Measure]:
    """Return the registered measures that a run has, in the order of the page.

    Args:
      result: as in `result.json`; version 0.1 did not list the measures there; their entries identify them.
    """
    names = result.get("measures")
    if names is None:
        member = result["members"][0]
        detail = any("gini" in layer for layer in (member.get("layers") or {}).values())
        names = ["accuracy", "activity", "weights", "macs", *["noise_score"] * ("noise_score" in member)]
        names += ["detail"] * (detail or "confusion" in member)
    return [measure for name, measure in MEASURES.items() if name in names]


def file_of(measure: Measure) -> str:
    """Return the path of a measure's arrays in the run folder."""
    return measure.file or f"arrays/{measure.name}.npz"


def has_track(measure: Measure) -> bool:
    """Return whether a measure defines `track`."""
    return getattr(measure.track, "__func__", None) is not Measure.track


def numbers_of(report: Mapping[str, Any], suffix: str = "") -> dict[str, float]:
    """Return the numbers of a report by name; those of a layer are called `NAME/LAYER`."""
    found: dict[str, float] = {}
    for name, value in report.items():
        if isinstance(value, Mapping) and name == "layers":
            for layer, entry in value.items():
                found |= numbers_of(entry, f"/{layer}")
        elif isinstance(value, (int, float, np.number, np.ndarray, jax.Array)) and np.ndim(value) == 0:
            found[name + suffix] = float(value)
    return found
