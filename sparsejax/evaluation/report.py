"""The final figures of a network: accuracy, noise score, and how each layer uses its units."""

from typing import Any

import numpy as np

from sparsejax.evaluation.accuracy import NOISE_LEVELS, Counts
from sparsejax.evaluation.macs import count_macs, macs_report
from sparsejax.evaluation.tracking import layer_measures
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
      Per layer: `units`, `k` and `k_inference` (null without winners), `active_fraction` and `active_spread` (mean and
      standard deviation over the examples of the output's density), `dead_units` (never active on the test set), means
      and spreads of biases and key norms as in `layer_measures`, the products of one example as `macs_report` has
      them and, for k-winners, `duty_entropy` and `max_entropy` in bits, from the duty cycles of training.
    """
    report, measures = {}, layer_measures(variables, counts, examples)
    products = count_macs(layers, variables, counts, examples)
    for layer in layers:
        active = np.asarray(counts.active[layer.name])
        entry: dict[str, Any] = {
            "units": layer.units,
            "k": layer.k,
            "k_inference": layer.k_inference,
            "active_fraction": float(measures[f"active_fraction/{layer.name}"]),
            "active_spread": float(measures[f"active_spread/{layer.name}"]),
            "dead_units": int((active == 0).sum()),
        }
        entry |= {name: float(measures[f"{name}/{layer.name}"]) for name in _WEIGHTS
                  if f"{name}/{layer.name}" in measures}  # fmt: skip
        if layer.name in products:
            entry |= macs_report([products[layer.name]])
        if layer.positions > 1:
            per_channel = active.reshape(layer.positions, -1).sum(0)
            entry |= {"channels": per_channel.size, "dead_channels": int((per_channel == 0).sum())}
        if "boost" in variables.state.get(layer.name, {}):
            duty = variables.state[layer.name]["boost"].duty_cycle
            winners = (layer.k or 0) * (layer.positions if layer.local else 1)
            entry |= {
                "duty_entropy": float(duty_entropy(duty, positions=layer.positions)),
                "max_entropy": float(max_entropy(layer.units, winners)),
            }
        report[layer.name] = entry
    return report


_WEIGHTS = ("key_norm", "key_norm_spread", "bias", "bias_spread", "negative_bias")


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


_FIGURES = (
    "epoch",
    "test_accuracy",
    "test_loss",
    "test_perplexity",
    "noise_score",
    "noise_score_max",
    "noise_accuracy",
    "noise_levels",
    "products",
    "products_dense",
    "products_ratio",
    "confusion",
    "precision",
    "recall",
)


def _averaged(entries: list[dict[str, Any]]) -> dict[str, Any]:
    averaged = {name: _mean([entry[name] for entry in entries]) for name in _FIGURES if name in entries[0]}
    if "noise_score" in averaged:
        averaged |= {name: entries[0][name] for name in ("noise_score_max", "noise_levels")}
        averaged["noise_score"] = round(averaged["noise_score"])
        averaged["noise_score_std"] = float(np.std([entry["noise_score"] for entry in entries]))
    spreads = {name: np.std([entry[name] for entry in entries]) for name in ("test_accuracy", "test_loss")
               if name in entries[0]}  # fmt: skip
    return averaged | {f"{name}_std": float(spread) for name, spread in spreads.items()}


def _mean(values: list[Any]) -> Any:
    if values[0] is None:
        return None
    mean = np.mean(np.asarray(values, float), axis=0)
    return mean.tolist()
