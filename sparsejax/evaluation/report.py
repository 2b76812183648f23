"""The numbers of a run: those of its networks, and their means."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sparsejax.errors import ConfigError, blame
from sparsejax.evaluation.measure import Measure

_OF_RUN = (
    *("name", "dataset", "source", "notice", "training_seconds", "seconds", "measures", "members", "command"),
    *("versions", "device", "data", "config", "seed", "seeds", "epoch", "best"),
)
"""Entries of `result.json` that no measure may report."""


def add_report(entries: Mapping[str, Any], measure: Measure, sums: Any) -> dict[str, Any]:
    """Return the entries of a network with a measure's report, whose `layers` are merged layer by layer.

    Raises:
      ConfigError: the report is no dictionary of values for JSON, has an entry that exists already or a layer that the
        network has not, or raises an exception.
    """
    name = measure.name
    with blame(f"`report` of the measure {name!r}"):
        report = measure.report(sums)
    if not isinstance(report, Mapping) or not isinstance(report.get("layers", {}), Mapping):
        raise ConfigError(
            f"`report` of the measure {name!r} returned {report!r}; expected a dictionary, such as "
            "{'margin': 0.5}, in which `layers`, if any, is a dictionary by layer."
        )
    report = _plain(report)
    try:
        json.dumps(report)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"`report` of the measure {name!r} returned {report!r}, which result.json cannot store ({error}); expected "
            "numbers, text, arrays, and lists or dictionaries of them."
        ) from None
    if dotted := [key for key in report if "." in key]:
        raise ConfigError(
            f"The measure {name!r} reports {', '.join(dotted)}; expected keys without a dot, which marks swept fields."
        )
    own, known = report.pop("layers", {}), [layer.name for layer in measure.setting.layers]
    layers = {layer: dict(entry) for layer, entry in entries.get("layers", {}).items()}
    for layer, entry in own.items():
        if layer not in known or not isinstance(entry, dict):
            raise ConfigError(
                f"`report` of the measure {name!r} returned {entry!r} for the layer {layer!r}; expected a dictionary "
                f"for one of the layers {', '.join(known)}."
            )
        add(layers.setdefault(layer, {}), entry, name)
    together = {**entries, "layers": layers} if layers else dict(entries)
    add(together, report, name, reserved=_OF_RUN)
    return together


def add(entries: dict[str, Any], own: Mapping[str, Any], name: str, reserved: Sequence[str] = ()) -> None:
    """Add a measure's own entries to those of others.

    Raises:
      ConfigError: one exists already.
    """
    if taken := [key for key in own if key in entries or key in reserved]:
        raise ConfigError(
            f"The measure {name!r} reports {', '.join(taken)}, which the run or another measure reports already; "
            "choose another key."
        )
    entries |= own


def _plain(value: Any) -> Any:
    """Return arrays and numbers of NumPy and JAX as numbers and lists of Python, also within lists and dictionaries."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        value = np.asarray(value).tolist()
    return value


def summary(members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the numbers of a run: those of its one network, or means over its networks.

    With several, a mean of integers is rounded to an integer, and `NAME_std` is the population standard deviation of
    each number `NAME` that differs; `layers` are means; `best` holds the same after the epoch with the best score of
    each network, as in the k-winners paper.
    """
    first = members[0]
    if len(members) == 1:
        return {name: value for name, value in first.items() if "." not in name}  # except swept values
    layers = {
        layer: {name: _mean([member["layers"][layer][name] for member in members]) for name in entry}
        for layer, entry in first["layers"].items()
    }
    return {
        "seed": first["seed"],
        "seeds": [member["seed"] for member in members],
        **_average(members),
        "layers": layers,
        "best": _average([member["best"] for member in members]),
    }


@np.errstate(invalid="ignore")  # numbers that are not finite
def _average(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    averaged, spreads = {}, {}
    for name, value in entries[0].items():
        values = [entry.get(name) for entry in entries]
        if name in ("seed", "layers", "best") or "." in name:
            continue
        averaged[name] = _mean(values)
        if name != "epoch" and isinstance(value, (int, float)) and None not in values:
            if not all(isinstance(one, int) for one in values):
                spreads[f"{name}_std"] = float(np.std(np.asarray(values, float)))
            elif len(set(values)) > 1:
                averaged[name] = round(averaged[name])
                spreads[f"{name}_std"] = float(np.std(np.asarray(values, float)))
    return averaged | spreads


def _mean(values: Sequence[Any]) -> Any:
    """Average numbers, arrays of numbers or dictionaries of them; other values are those of the first.

    A mean of numbers of which one does not exist (None) does not exist, either.
    """
    if isinstance(values[0], Mapping):
        return {name: _mean([value[name] for value in values]) for name in values[0]}
    if all(value == values[0] for value in values):
        return values[0]
    if any(value is None for value in values):
        return None
    try:
        return np.mean(np.asarray(values, float), axis=0).tolist()
    except (TypeError, ValueError):
        return values[0]
