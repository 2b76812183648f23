"""Rewiring of the masked layers between two steps of training."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from sparsejax.functional.masks import rewire
from sparsejax.models.base import Variables
from sparsejax.training.config import TrainingConfig

Gradients = dict[str, Array]


def masked_layers(variables: Variables) -> list[str]:
    """Returns the names of the layers that have a mask."""
    return [name for name, state in variables.state.items() if isinstance(state, dict) and "mask" in state]


def add_probes(variables: Variables, probes: Gradients) -> Variables:
    """Adds a matrix to the kernel of each masked layer after masking; its gradient is that of every weight."""
    state = dict(variables.state)
    for name, probe in probes.items():
        state[name] = {**state[name], "probe": probe}
    return variables._replace(state=state)


def zero_probes(variables: Variables) -> Gradients:
    """Returns matrices of zeros for all masked layers."""
    return {name: jnp.zeros_like(variables.params[name]["kernel"]) for name in masked_layers(variables)}


def rewire_fraction(config: TrainingConfig, done: Float[Array, ""]) -> Float[Array, ""]:
    """Returns the fraction of connections to move: for RigL a half cosine that ends after 3/4 of the training.

    References:
      Evci et al., Rigging the Lottery, 2020, section 3.
    """
    if config.rewiring == "set":
        return config.rewire_fraction
    return config.rewire_fraction * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(done / 0.75, 1.0)))


def rewire_layers(
    key: PRNGKeyArray,
    variables: Variables,
    opt_state: PyTree,
    gradients: Callable[[], Gradients] | None,
    fraction: Float[Array, ""],
    init: Callable[[PyTree], PyTree],
) -> tuple[Variables, PyTree]:
    """Rewires all masked layers; the optimiser's state of new and dropped weights becomes 0.

    Args:
      key: a PRNG key.
      variables: the network.
      opt_state: of the optimiser.
      gradients: returns those of all weights of the masked layers (RigL); None to grow at random (SET).
      fraction: of the connections of every unit to move.
      init: of the optimiser, which identifies the parts of its state that belong to the parameters.
    """
    params, state = dict(variables.params), dict(variables.state)
    known: Any = jax.tree.map(lambda leaf: jnp.ones_like(leaf, bool), variables.params)
    dense = gradients() if gradients is not None else {}
    for index, name in enumerate(masked_layers(variables)):
        layer_key = jax.random.fold_in(key, index)
        kernel, mask = rewire(layer_key, params[name]["kernel"], state[name]["mask"], dense.get(name), fraction)
        known = {**known, name: {**known[name], "kernel": kernel != 0}}  # new and dropped weights are 0
        params[name], state[name] = {**params[name], "kernel": kernel}, {**state[name], "mask": mask}
    forgotten = optax.tree.map_params(
        init, lambda leaf, kept: jnp.where(kept, leaf, jnp.zeros_like(leaf)), opt_state, known
    )
    return Variables(params, state), forgotten
