"""The numbers of a run: those of its networks, and their means."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two reports of a network, layer by layer."""
    together = {**first, **second}
    if "layers" in first and "layers" in second:
        layers = dict(first["layers"])
        for name, entry in second["layers"].items():
            layers[name] = {**layers.get(name, {}), **entry}
        together["layers"] = layers
    return together


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
    """Average numbers, arrays of numbers or dictionaries of them; other values are those of the first."""
    if isinstance(values[0], Mapping):
        return {name: _mean([value[name] for value in values]) for name in values[0]}
    if all(value == values[0] for value in values):
        return values[0]
    try:
        return np.mean(np.asarray(values, float), axis=0).tolist()
    except (TypeError, ValueError):
        return values[0]
