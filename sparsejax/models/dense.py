"""Fully connected networks and autoencoders without competition, to be made sparse by activity penalties."""

import itertools
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from sparsejax.configuration import configuration
from sparsejax.models import blocks
from sparsejax.models.base import Layer, Model, Output, Variables, expect

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid}


@configuration
class DenseNetwork(Model):
    """Hidden layers of one activation function and an output layer, all fully connected.

    References:
      "Sparse Coding in Deep Neural Networks and the Visual System" (thesis), chapters 3 and 4.2; its section 3.2.2
      proposes thresholds and an output without bias.
    """

    hidden: tuple[int, ...] = (64,)
    """Units of each hidden layer."""
    classes: int | None = 10
    """Outputs; None for as many as inputs (an autoencoder)."""
    activation: Literal["relu", "sigmoid"] = "relu"
    """Activation function of the hidden layers."""
    output: Literal["linear", "relu"] = "linear"
    """Activation function of the output layer; relu for images without negative pixels."""
    bias: Literal["free", "threshold"] = "free"
    """Biases of the hidden units: any number, or strictly negative, so that a layer without input is inactive."""
    output_bias: bool = True
    """Add biases to the output units; without them a network with inactive hidden layers has no default class."""

    @property
    def task(self) -> Literal["classification", "reconstruction"]:
        return "reconstruction" if self.classes is None else "classification"

    def check(self) -> None:
        expect("model.hidden", self.hidden, "one or more positive numbers", min(self.hidden, default=0) > 0)
        expect("model.classes", self.classes, "None or a positive number", self.classes is None or self.classes > 0)

    def init(self, key: PRNGKeyArray, example: Float[Array, "batch *shape"]) -> Variables:
        """Initialises a network for inputs `[batch, ...]`, which are flattened, as PyTorch does.

        A threshold is stored as its inverse softplus; it starts at the magnitude of the initial bias.
        """
        inputs = math.prod(example.shape[1:])
        sizes = (inputs, *self.hidden, self.classes or inputs)
        names, shapes = self._names(), itertools.pairwise(sizes)
        params = {}
        for name, shape, layer_key in zip(names, shapes, jax.random.split(key, len(names)), strict=True):
            layer, _ = blocks.init_weights(layer_key, shape)
            if name != "output" and self.bias == "threshold":
                layer["threshold"] = jnp.log(jnp.expm1(jnp.maximum(jnp.abs(layer.pop("bias")), 1e-4)))
            elif name == "output" and not self.output_bias:
                del layer["bias"]
            params[name] = layer
        return Variables(params, {})

    def apply(
        self,
        variables: Variables,
        x: Float[Array, "batch *shape"],
        *,
        key: Key[Array, "batch"] | None = None,
        train: bool = False,
        axis_name: str | None = None,
    ) -> Output:
        """Returns logits `[batch, classes]` or reconstructions `[batch, inputs]`, and the hidden layers' outputs."""
        activate, activations = _ACTIVATIONS[self.activation], {}
        x = x.reshape(x.shape[0], -1)
        for name in self._names():
            layer = variables.params[name]
            x = blocks.linear(layer, {}, x)
            if "threshold" in layer:
                x = x - jax.nn.softplus(layer["threshold"])[None]
            if name != "output":
                x = activations[name] = activate(x)
        return Output(jax.nn.relu(x) if self.output == "relu" else x, variables.state, activations)

    def layers(self, example_shape: tuple[int, ...]) -> list[Layer]:
        inputs = (math.prod(example_shape), *self.hidden)
        named = zip(self._names(), self.hidden, inputs, strict=False)
        return [Layer(name, units, inputs=(fan_in,)) for name, units, fan_in in named]

    def _names(self) -> list[str]:
        return [*(f"hidden{i + 1}" for i in range(len(self.hidden))), "output"]
