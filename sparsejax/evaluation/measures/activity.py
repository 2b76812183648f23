"""Activity of the hidden units: in normal evaluation, without the network's own noise, and on noisy examples."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sparsejax.evaluation.measure import EvaluationBatch, Measure, Setting, register_measure
from sparsejax.evaluation.measures.noise_score import NOISE_LEVELS, UnderNoise
from sparsejax.figures import run_layers
from sparsejax.figures.drawing import Column, Drawing, Shown
from sparsejax.figures.words import count
from sparsejax.functional.measures import duty_entropy, max_entropy
from sparsejax.models.base import Layer, Model, Variables


class Units(NamedTuple):
    """Activity of hidden layers, by name.

    `density` is the sum over the examples of the fraction of active units, and of its square; `active` how often each
    unit was active; `k` the number of examples for each number of active units.
    """

    density: dict[str, Float[Array, "2"]]
    active: dict[str, Int[Array, "units"]]
    k: dict[str, Int[Array, "units+1"]]


@register_measure("activity", place=20)
class Activity(Measure):
    """Which units are active on the test set in normal evaluation, including the network's own noise."""

    file = "units.npz"

    def of_batch(self, model: Model, variables: Variables, batch: EvaluationBatch) -> Units:
        density, active, k = {}, {}, {}
        for name, on in active_units(batch, self.setting).items():
            winners = jnp.sum(on.astype(jnp.int32), axis=-1)
            fraction = winners / on.shape[-1]
            density[name] = jnp.stack([jnp.sum(fraction), jnp.sum(fraction**2)])
            active[name] = jnp.sum(on.astype(jnp.int32), axis=0)
            k[name] = jnp.zeros(on.shape[-1] + 1, jnp.int32).at[winners].add(batch.counted.astype(jnp.int32))
        return Units(density, active, k)

    def report(self, sums: Units) -> dict[str, Any]:
        """Describe every layer.

        Returns:
          Per layer `active_fraction` and `active_spread` (mean and standard deviation over the examples of the output's
          density), `dead_units` (never active on the test set), `channels` and `dead_channels` of a convolution and,
          for k-winners, `duty_entropy` and `max_entropy` in bits, from the duty cycles of training.
        """
        report, state = {}, self.setting.variables.state if self.setting.variables else {}
        for layer in self.setting.layers:
            active = np.asarray(sums.active[layer.name])
            mean, spread = _moments(sums.density[layer.name], self.setting.examples)
            entry: dict[str, Any] = {
                "active_fraction": float(mean),
                "active_spread": float(spread),
                "dead_units": int((active == 0).sum()),
            }
            if layer.positions > 1:
                per_channel = active.reshape(layer.positions, -1).sum(0)
                entry |= {"channels": per_channel.size, "dead_channels": int((per_channel == 0).sum())}
            report[layer.name] = entry | _entropies(layer, state.get(layer.name, {}))
        return {"layers": report}

    def track(self, variables: Variables, sums: Units) -> dict[str, Float[Array, ""]]:
        """Return mean and spread of the active fraction, and the dead units, of each layer.

        References:
          Bricken et al., Noise Transforms Feed-Forward Networks into Sparse Coding Networks, 2022, Fig. 3 and 4.
        """
        tracked = {}
        for layer, density in sums.density.items():
            mean, spread = _moments(density, self.setting.examples)
            dead = jnp.sum((sums.active[layer] == 0).astype(jnp.int32))
            tracked |= {f"active_fraction/{layer}": mean, f"active_spread/{layer}": spread, f"dead_units/{layer}": dead}
        return tracked

    def arrays(self, sums: Units) -> dict[str, np.ndarray]:
        """Return each unit's number of active examples, the histogram of active units, and the biases, per layer."""
        arrays, params = {}, self.setting.variables.params if self.setting.variables else {}
        for layer in sums.active:
            arrays |= {f"{layer}.active": sums.active[layer], f"{layer}.k": sums.k[layer]}
            if "bias" in params.get(layer, {}):
                arrays[f"{layer}.bias"] = np.asarray(params[layer]["bias"])
        return arrays

    def columns(self, result: Mapping[str, Any]) -> list[Column]:
        layers = (result.get("layers") or {}).values()
        columns = [
            Column("Active", lambda layer: f"{100 * layer['active_fraction']:.1f} %",
                   "Active is the mean fraction of units that are not zero on the test set; dead units were never "
                   "active on it."),
            Column("Dead units", lambda layer: count(layer["dead_units"])),
        ]  # fmt: skip
        if any(layer.get("channels") is not None for layer in layers):
            columns.append(Column("Dead channels", _dead_channels))
        if any(layer.get("k") is not None for layer in layers):
            said = (
                "Entropy is that of the duty cycles in training, relative to the maximum for k winners: 100 % if all "
                "units win equally often."
            )
            columns.append(Column("Entropy", _entropy, said))
        return columns

    def figures(self, run: Shown) -> Iterable[Drawing | None]:
        return [run_layers.active(run.result), run_layers.duty_cycles(run.result, run.variables)]


@register_measure("clean_activity", place=21)
class CleanActivity(Measure):
    """The active fraction without the network's own noise."""

    versions = 1

    def version(self, batch: EvaluationBatch, index: Int[Array, ""]) -> EvaluationBatch:
        return batch._replace(keys=None)

    def of_batch(self, model: Model, variables: Variables, batch: EvaluationBatch) -> dict[str, Float[Array, ""]]:
        return {name: _fraction(on) for name, on in active_units(batch, self.setting).items()}

    def report(self, sums: Mapping[str, Float[np.ndarray, "1"]]) -> dict[str, Any]:
        """Return `clean_active_fraction` of every layer."""
        each = {name: float(total[0]) / self.setting.examples for name, total in sums.items()}
        return {"layers": {name: {"clean_active_fraction": mean} for name, mean in each.items()}}

    def columns(self, result: Mapping[str, Any]) -> list[Column]:
        said = "Active, clean is the same without the network's own noise."
        return [Column("Active, clean", lambda layer: f"{100 * layer['clean_active_fraction']:.1f} %", said)]


@register_measure("noisy_activity", place=22)
class NoisyActivity(UnderNoise):
    """The active fraction at each level of noise of the noise score."""

    def of_batch(self, model: Model, variables: Variables, batch: EvaluationBatch) -> dict[str, Float[Array, ""]]:
        return {name: _fraction(on) for name, on in active_units(batch, self.setting).items()}

    def report(self, sums: Mapping[str, Float[np.ndarray, "levels"]]) -> dict[str, Any]:
        """Return `noisy_active_fraction` of every layer, one number for each of `NOISE_LEVELS`."""
        each = {name: [float(total) / self.setting.examples for total in totals] for name, totals in sums.items()}
        return {"layers": {name: {"noisy_active_fraction": means} for name, means in each.items()}}

    def columns(self, result: Mapping[str, Any]) -> list[Column]:
        said = f"Active, noisy is the same with {100 * NOISE_LEVELS[-1]:.0f} % of the pixels or the clip replaced."
        return [Column("Active, noisy", lambda layer: f"{100 * layer['noisy_active_fraction'][-1]:.1f} %", said)]


def active_units(batch: EvaluationBatch, setting: Setting) -> dict[str, Bool[Array, "batch units"]]:
    """Return which units of each hidden layer are active on the examples that count."""
    return {
        name: (jnp.abs(y) > setting.thresholds[name]).reshape(len(batch.rows), -1) & batch.counted[:, None]
        for name, y in batch.output.activations.items()
    }


def _fraction(on: Bool[Array, "batch units"]) -> Float[Array, ""]:
    return jnp.sum(jnp.sum(on.astype(jnp.int32), axis=-1) / on.shape[-1])


def _moments(density: Float[Array, "2"], examples: int) -> tuple[Float[Array, ""], Float[Array, ""]]:
    mean, square = density / examples
    return mean, jnp.sqrt(jnp.maximum(square - mean**2, 0.0))


def _entropies(layer: Layer, state: Mapping[str, Any]) -> dict[str, float]:
    if "boost" not in state:
        return {}
    winners = (layer.k or 0) * (layer.positions if layer.local else 1)
    return {
        "duty_entropy": float(duty_entropy(jnp.asarray(state["boost"].duty_cycle), positions=layer.positions)),
        "max_entropy": float(max_entropy(layer.units, winners)),
    }


def _dead_channels(layer: Mapping[str, Any]) -> str:
    known = layer.get("channels") is not None
    return f"{count(layer['dead_channels'])} of {count(layer['channels'])}" if known else "–"


def _entropy(layer: Mapping[str, Any]) -> str:
    known = layer.get("duty_entropy") is not None and layer.get("max_entropy")
    return f"{100 * layer['duty_entropy'] / layer['max_entropy']:.1f} %" if known else "–"
