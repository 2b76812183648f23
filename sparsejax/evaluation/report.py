"""The final figures of a network: accuracy, noise score, and how each layer uses its units."""

from typing import Any

import numpy as np

from sparsejax.evaluation.accuracy import NOISE_LEVELS, Counts
from sparsejax.functional import duty_entropy, max_entropy
from sparsejax.models.base import Layer, Variables


def layer_report(layers: list[Layer], variables: Variables, counts: Counts, examples: int) -> dict[str, Any]:
    """Describes how the hidden layers were used on a test set.

    Args:
      layers: as the model describes them.
      variables: of one network.
      counts: its evaluation.
      examples: size of the test set.

    Returns:
      Per layer: `units`, `k` and `k_inference` (null for ReLU), `active_fraction` (mean density of the output),
      `dead_units` (never active on the test set) and, for k-winners, `duty_entropy` and `max_entropy` in bits, from
      the duty cycles of training.
    """
    report = {}
    for layer in layers:
        active = np.asarray(counts.active[layer.name])
        entry: dict[str, Any] = {
            "units": layer.units,
            "k": layer.k,
            "k_inference": layer.k_inference,
            "active_fraction": float(active.mean() / examples),
            "dead_units": int((active == 0).sum()),
        }
        if layer.positions > 1:
            per_channel = active.reshape(layer.positions, -1).sum(0)
            entry |= {"channels": per_channel.size, "dead_channels": int((per_channel == 0).sum())}
        if layer.k is not None:
            duty = variables.state[layer.name]["boost"].duty_cycle
            winners = layer.k * (layer.positions if layer.local else 1)
            entry |= {
                "duty_entropy": float(duty_entropy(duty, positions=layer.positions)),
                "max_entropy": float(max_entropy(layer.units, winners)),
            }
        report[layer.name] = entry
    return report


def noise_report(correct: np.ndarray, examples: int) -> dict[str, Any]:
    """Returns the noise score (correct answers over all levels), the accuracy at each level, and the levels."""
    return {
        "noise_score": int(correct.sum()),
        "noise_score_max": len(NOISE_LEVELS) * examples,
        "noise_accuracy": [float(count) / examples for count in correct],
        "noise_levels": list(NOISE_LEVELS),
    }


def summary(members: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the figures of a run: those of its one network, or means over its networks.

    With several, `test_accuracy_std` and `noise_score_std` are population standard deviations over them, and `layers`
    are means; `best` holds the same under the paper's rule, the epoch with the best test accuracy of each network.
    """
    first = members[0]
    if len(members) == 1:
        return {name: first[name] for name in ("seed", *_FIGURES, "layers", "best") if name in first}
    layers = {
        layer: {name: _mean([member["layers"][layer][name] for member in members]) for name in entry}
        for layer, entry in first["layers"].items()
    }
    return {
        "seed": first["seed"],
        "seeds": [member["seed"] for member in members],
        **_averaged(members),
        "layers": layers,
        "best": _averaged([member["best"] for member in members]),
    }


_FIGURES = ("epoch", "test_accuracy", "test_loss", "noise_score", "noise_score_max", "noise_accuracy", "noise_levels")


def _averaged(entries: list[dict[str, Any]]) -> dict[str, Any]:
    averaged = {name: _mean([entry[name] for entry in entries]) for name in _FIGURES if name in entries[0]}
    if "noise_score" in averaged:
        averaged |= {name: entries[0][name] for name in ("noise_score_max", "noise_levels")}
        averaged["noise_score"] = round(averaged["noise_score"])
        averaged["noise_score_std"] = float(np.std([entry["noise_score"] for entry in entries]))
    return averaged | {"test_accuracy_std": float(np.std([entry["test_accuracy"] for entry in entries]))}


def _mean(values: list[Any]) -> Any:
    if values[0] is None:
        return None
    mean = np.mean(np.asarray(values, float), axis=0)
    return mean.tolist()
