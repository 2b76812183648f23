"""What a model is: a frozen dataclass of hyperparameters with two pure methods, `init` and `apply`."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray, PyTree

from sparsejax.errors import ConfigError
from sparsejax.hyper import Hyper


class Variables(NamedTuple):
    """What a network is made of: `params` are trained by gradients, `state` (duty cycles, masks, ...) is not."""

    params: PyTree
    state: PyTree


class Output(NamedTuple):
    """What a forward pass returns.

    `activations` maps the name of a layer to its output, for penalties, measures and figures. `losses` [] are added
    to what training minimises. `log_probability` [batch] is that of what the network sampled, for which the examples
    with less loss than usual are then reinforced. `measures` [] are logged.
    """

    prediction: Array
    state: PyTree
    activations: dict[str, Array]
    losses: dict[str, Array] | None = None
    log_probability: Array | None = None
    measures: dict[str, Array] | None = None


class Layer(NamedTuple):
    """What a report says of a hidden layer.

    `k` winners in training and `k_inference` at inference are out of `units`, or with `local` out of the channels of
    each position; both are None for ReLU. `positions` units share a duty cycle. A unit is active when its output lies
    further than `threshold` from 0. `inputs` is the shape of what the layer's kernel meets, `[H, W, C]` or `[n]`, if
    that is the layer before (or the example) as it is, but for `padding` zeros around the image, and the kernel all
    there is; otherwise None.
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


class Model(Protocol):
    """The contract every network keeps; see `SparseCNN` for one."""

    def init(
        self, key: PRNGKeyArray, example: Float[Array, "batch *shape"], *, hyper: Hyper | None = None
    ) -> Variables:
        """Draws a network for inputs shaped like the example; `hyper` overrides the traced fields."""
        ...

    def apply(
        self,
        variables: Variables,
        x: Float[Array, "batch *shape"],
        *,
        key: Key[Array, "batch"] | None = None,
        train: bool = False,
        hyper: Hyper | None = None,
        axis_name: str | None = None,
    ) -> Output:
        """Runs the network; `hyper` overrides the traced fields, `key` holds one key per example."""
        ...

    def scheduled(self, hyper: Hyper, *, epoch: Array, step: Array) -> Hyper:
        """Returns the hyperparameters in force after `epoch` whole epochs and `step` steps."""
        ...

    def layers(self, example_shape: tuple[int, ...]) -> list[Layer]:
        """Describes the hidden layers, in order, for inputs of that shape."""
        ...


def merged(model: Any, hyper: Hyper | None, default: Hyper) -> Hyper:
    """Returns the default hyperparameters with those given put over them.

    Raises:
      ValueError: a name is unknown to the model.
    """
    unknown = set(hyper or ()) - set(default)
    if unknown:
        raise ValueError(f"{type(model).__name__} has no traced field {sorted(unknown)}; it has {sorted(default)}.")
    return {**jax.tree.map(jnp.asarray, default), **(hyper or {})}


def kernel_of(params: Any) -> Any:
    """Returns a layer's kernel, inputs first and units last, also of one that keeps a row for each unit."""
    return params["kernel"] if "kernel" in params else params["rows"].swapaxes(-1, -2)


def expect(name: str, value: object, expected: str, holds: bool) -> None:
    """Raises a ConfigError that names the value and what was expected, unless it holds."""
    if not holds:
        raise ConfigError(f"{name} is {value}; expected {expected}.")
