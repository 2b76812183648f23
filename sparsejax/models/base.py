"""Base class of models: frozen dataclasses of hyperparameters with two pure methods, `init` and `apply`."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PRNGKeyArray, PyTree

from sparsejax.errors import ConfigError


class Variables(NamedTuple):
    """Arrays of a network: `params` are trained by gradients, `state` (duty cycles, masks, ...) is not."""

    params: PyTree
    state: PyTree


class Output(NamedTuple):
    """The result of a forward pass.

    `activations` maps the name of a layer to its output, for penalties, measures and figures. `losses` [] are added to
    the training loss. `log_probability` [batch] is that of the network's samples, for REINFORCE. `measures` [] are
    logged; one named `overflow` stops the run if it is above 0, because the network dropped so many values. `target`
    [batch, outputs] is what the prediction should reconstruct; None for the input.
    """

    prediction: Array
    state: PyTree
    activations: dict[str, Array]
    losses: dict[str, Array] | None = None
    log_probability: Array | None = None
    measures: dict[str, Any] | None = None
    target: Array | None = None


class Layer(NamedTuple):
    """Description of a hidden layer for reports.

    `k` winners in training and `k_inference` at inference are out of `units`, or with `local` out of the channels of
    each position; both are None for ReLU. `positions` units share a duty cycle. A unit is active if the magnitude of
    its output exceeds `threshold`. `inputs` is the shape of the kernel's input, `[H, W, C]` or `[n]`. Set it only if
    that is exactly the previous layer's output (or the example), up to `padding` zeros around the image, and the layer
    has no other weights; otherwise None, and products are not counted.
    """

    name: str
    units: int
    k: int | None = None
    k_inference: int | None = None
    positions: int = 1
    local: bool = False
    threshold: float = 0.0
    inputs: tuple[int, ...] | None = None
    padding: int = 0


class Model:
    """Base class of networks: a class made by `configuration` with two pure methods, `init` and `apply`.

    Fields declared by `traced` may differ between the networks of one compiled program. The other methods have
    defaults, which a network may override.
    """

    inputs: ClassVar[Literal["images", "vectors", "tokens", "clips"]] = "images"
    """Kind of the network's inputs; a network of images also accepts vectors if it flattens them."""

    @property
    def task(self) -> Literal["classification", "reconstruction", "next_token"] | None:
        """The network's task, or None if any objective fits its prediction."""
        return None

    def init(self, key: PRNGKeyArray, example: Array) -> Variables:
        """Initialise a network for inputs shaped like the example `[batch, ...]`."""
        raise NotImplementedError

    def apply(
        self,
        variables: Variables,
        x: Array,
        *,
        key: Key[Array, "batch"] | None = None,
        train: bool = False,
        axis_name: str | None = None,
    ) -> Output:
        """Run the network on inputs `[batch, ...]`.

        Args:
          variables: parameters and state.
          x: inputs.
          key: one key per example `[batch]`; None without randomness.
          train: whether this is a training step.
          axis_name: mesh axis over which the batch is sharded.
        """
        raise NotImplementedError

    def read_sites(self, variables: Variables, x: Array) -> dict[str, Array]:
        """Return the activations `[batch, ...]` of the network's sites by name; by default its layers' outputs."""
        return self.apply(variables, x).activations

    def at(self, epoch: Array | float, step: Array | int) -> "Model":
        """Return the model with its schedules evaluated after `epoch` whole epochs and `step` steps."""
        return self

    def project(self, params: PyTree) -> PyTree:
        """Return the parameters with their constraints, such as rows of norm 1; each step starts from them."""
        return params

    def project_gradient(self, params: PyTree, gradient: PyTree) -> PyTree:
        """Return the gradient without the parts that the constraints undo; `params` satisfy them."""
        return gradient

    def unify(self, models: Sequence["Model"]) -> dict[str, Any]:
        """Return the fields, by name, that all networks of one program need in common, such as their greatest k."""
        return {}

    def layers(self, example_shape: tuple[int, ...]) -> list[Layer]:
        """Describe the hidden layers, in order, for inputs of that shape: those whose activations `apply` returns."""
        dtype = jnp.int32 if self.inputs == "tokens" else jnp.float32
        example = jax.ShapeDtypeStruct((1, *example_shape), dtype)
        output = jax.eval_shape(lambda x: self.apply(self.init(jax.random.key(0), x), x), example)
        return [Layer(name, math.prod(h.shape[1:])) for name, h in output.activations.items()]


def kernel_of(params: Any) -> Any:
    """Returns a layer's kernel, inputs first and units last, also if it is stored with one row per unit."""
    return params["kernel"] if "kernel" in params else params["rows"].swapaxes(-1, -2)


MOST_BLOCKS = 256
"""Blocks of a network, or iterations in a layer, at most: each is traced on its own, for milliseconds."""


def expect(name: str, value: object, expected: str, holds: bool) -> None:
    """Raises a ConfigError with the value and what was expected, unless `holds`."""
    if not holds:
        raise ConfigError(f"{name} is {value}; expected {expected}.")
