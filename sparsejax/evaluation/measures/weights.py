"""Distributions of the hidden layers' weights and biases."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from sparsejax.evaluation.measure import EvaluationBatch, Measure, register_measure
from sparsejax.figures import run_layers
from sparsejax.figures.drawing import Drawing, Shown
from sparsejax.models.base import Model, Variables


@register_measure("weights", place=30)
class Weights(Measure):
    """Norms of the units' weights, and biases; needs no examples."""

    def of_batch(self, model: Model, variables: Variables, batch: EvaluationBatch) -> dict[str, Array]:
        return {}

    def report(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Return the numbers of `spread_of` for every layer."""
        variables = self.setting.variables
        if variables is None:
            return {}
        spreads = {layer.name: spread_of(variables.params.get(layer.name, {})) for layer in self.setting.layers}
        return {
            "layers": {
                layer: {name: float(value) for name, value in spread.items()} for layer, spread in spreads.items()
            }
        }

    def track(self, variables: Variables, sums: Mapping[str, Array]) -> dict[str, Float[Array, ""]]:
        """Return the numbers of `spread_of` for every layer.

        References:
          Bricken et al., Noise Transforms Feed-Forward Networks into Sparse Coding Networks, 2022, Fig. 3 and 4.
        """
        return {
            f"{name}/{layer.name}": value
            for layer in self.setting.layers
            for name, value in spread_of(variables.params.get(layer.name, {})).items()
        }

    def figures(self, run: Shown) -> Iterable[Drawing | None]:
        return [run_layers.filters(run.result, run.variables)]


def spread_of(params: Mapping[str, Any]) -> dict[str, Float[Array, ""]]:
    """Return statistics of a layer's parameters.

    With a kernel `key_norm` and `key_norm_spread`, mean and standard deviation over the units of the norm of their
    weights; with a bias for each unit also `bias`, `bias_spread` and `negative_bias`, the fraction of units whose bias
    is below 0.
    """
    spread = {}
    if "kernel" in params:
        kernel = params["kernel"]
        norm = jnp.sqrt(jnp.sum(kernel**2, axis=tuple(range(kernel.ndim - 1))))
        spread |= {"key_norm": jnp.mean(norm), "key_norm_spread": jnp.std(norm)}
    if "bias" in params:
        bias = params["bias"]
        spread |= {"bias": jnp.mean(bias), "negative_bias": jnp.mean((bias < 0).astype(jnp.float32))}
        spread["bias_spread"] = jnp.std(bias)
    return spread
