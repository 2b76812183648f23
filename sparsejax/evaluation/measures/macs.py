"""The number of products that a network needs: those of a weight and an input that are both non-zero.

Each time an input unit is active, it contributes as many products as it has non-zero weights. So the integer total over
a test set follows from how often every unit was active, without another pass over the examples.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from sparsejax.evaluation.measure import EvaluationBatch, Measure, register_measure
from sparsejax.evaluation.measures.activity import active_units
from sparsejax.figures.drawing import Column, Row
from sparsejax.figures.words import score
from sparsejax.models.base import Layer, Model, Variables, kernel_of


@register_measure("macs", place=40)
class Macs(Measure):
    """Products of a weight and an input that are both non-zero, per example and layer."""

    def of_batch(self, model: Model, variables: Variables, batch: EvaluationBatch) -> dict[str, Int[Array, "units"]]:
        units = active_units(batch, self.setting)
        return {name: jnp.sum(on.astype(jnp.int32), axis=0) for name, on in units.items()}

    def report(self, sums: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return the numbers of `macs_report` for the network and every layer, if they can be counted."""
        if self.setting.variables is None:
            return {}
        products = count_macs(self.setting.layers, self.setting.variables, sums, self.setting.examples)
        layers = {layer: macs_report([of_layer]) for layer, of_layer in products.items() if layer in sums}
        return macs_report(list(products.values())) | {"layers": layers}

    def rows(self, result: Mapping[str, Any]) -> list[Row]:
        if not all(member.get("products_ratio") for member in result["members"]):
            return []
        return [Row("products", "non-zero products", score, f"{result['products_ratio']:.1f}× fewer than all")]

    def columns(self, result: Mapping[str, Any]) -> list[Column]:
        if not any(layer.get("products_ratio") for layer in (result.get("layers") or {}).values()):
            return []
        said = (
            "Non-zero products are those of a non-zero weight and a non-zero input, per image, and how many "
            "times fewer they are than all products; the output layer is only counted for the whole network."
        )
        return [Column("Non-zero products", _products, said)]


class Products(NamedTuple):
    """Products of one layer per example: `nonzero` on average, out of `dense`."""

    nonzero: float
    dense: int


def nonzero_products(active: np.ndarray, connected: np.ndarray) -> int:
    """Counts products whose weight and input are both non-zero.

    Args:
      active: number of examples for which each input is non-zero, `[inputs]`, or `[height, width, channels]` for a
        convolution of stride 1 without padding.
      connected: which weights are non-zero, `[inputs, units]` or `[kernel height, kernel width, channels, filters]`.

    Returns:
      Their number, over all examples (and all positions of the convolution's output).

    Raises:
      ValueError: the inputs do not fit the weights.
    """
    dense_macs(active.shape, connected.shape)  # checks the shapes
    active, fan_out = active.astype(np.int64), np.count_nonzero(connected, axis=-1)
    if connected.ndim == 2:
        return int(active @ fan_out)
    kh, kw = connected.shape[:2]
    rows, columns = active.shape[0] - kh + 1, active.shape[1] - kw + 1
    # Each weight multiplies the inputs of one window of the output's size.
    return sum(
        int(active[i : i + rows, j : j + columns].sum((0, 1)) @ fan_out[i, j]) for i in range(kh) for j in range(kw)
    )


def dense_macs(inputs: tuple[int, ...], weights: tuple[int, ...]) -> int:
    """Returns the number of products of one example if nothing is zero; shapes and errors as in `nonzero_products`."""
    fits = len(weights) == 2 and inputs == weights[:1]
    if len(weights) == 4 and len(inputs) == 3:
        fits = inputs[2] == weights[2] and inputs[0] >= weights[0] and inputs[1] >= weights[1]
    if not fits:
        raise ValueError(
            f"Inputs {inputs} do not fit weights {weights}; expected [inputs] and [inputs, units], or [height, width, "
            "channels] and [kernel height, kernel width, channels, filters] of no larger a kernel."
        )
    positions = 1 if len(weights) == 2 else (inputs[0] - weights[0] + 1) * (inputs[1] - weights[1] + 1)
    return positions * math.prod(weights)


def count_macs(
    layers: Sequence[Layer], variables: Variables, counts: Mapping[str, np.ndarray], examples: int
) -> dict[str, Products]:
    """Counts the products of every layer over a test set, including the output.

    All pixels of the first layer's input count as non-zero.

    Args:
      layers: the hidden ones, as the model describes them.
      variables: of one network.
      counts: how often each unit of a layer was active, by layer.
      examples: size of the test set.

    Returns:
      Layer -> products; empty if the network is not a plain chain of layers.
    """
    if any(layer.inputs is None for layer in layers) or "output" not in variables.params:
        return {}
    products, active = {}, None
    for name, shape, padding in [*((layer.name, layer.inputs, layer.padding) for layer in layers), ("output", None, 0)]:
        params, state = variables.params[name], variables.state.get(name, {})
        kernel = np.asarray(kernel_of(params))
        connected = (kernel != 0) & np.asarray(state["mask"]) if "mask" in state else kernel != 0
        shape = shape or kernel.shape[:1]
        seen = np.full(shape, examples) if active is None else active.reshape(shape)
        if padding:
            seen = np.pad(seen, ((padding, padding), (padding, padding), (0, 0)))
        products[name] = Products(nonzero_products(seen, connected) / examples, dense_macs(seen.shape, kernel.shape))
        active = np.asarray(counts[name]) if name in counts else None
    return products


def macs_report(products: Sequence[Products]) -> dict[str, Any]:
    """Returns the products of layers together: `products`, `products_dense` and the reduction factor."""
    if not products:
        return {}
    nonzero, dense = (sum(numbers) for numbers in zip(*products, strict=True))
    ratio = dense / nonzero if nonzero else None
    return {"products": nonzero, "products_dense": dense, "products_ratio": ratio}


def _products(entry: Mapping[str, Any]) -> str:
    """Format a number of products and its reduction factor."""
    if not entry.get("products_ratio"):
        return "–"
    return f"{entry['products']:,.0f} ({entry['products_ratio']:.1f}× fewer)"
