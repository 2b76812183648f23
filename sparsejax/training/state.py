"""The state of training."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from sparsejax.models.base import Variables
from sparsejax.training.config import Config
from sparsejax.training.optimizers import optimizer

# Streams of random numbers of one network; its key itself never changes.
INIT, ORDER, NOISE, REWIRE, AUGMENT = range(5)


class TrainState(NamedTuple):
    """A network in training: `position` counts the steps of the current epoch, `step` all steps."""

    variables: Variables
    opt_state: PyTree
    key: PRNGKeyArray
    epoch: Int[Array, ""]
    position: Int[Array, ""]
    step: Int[Array, ""]


class Best(NamedTuple):
    """The network after its best epoch so far, the one with the highest score; `epoch` counts from 1."""

    score: Float[Array, ""]
    epoch: Int[Array, ""]
    variables: Variables


def init_state(config: Config, example: Float[Array, "batch *shape"]) -> TrainState:
    """Returns an untrained network; pure in the configuration, so that it can be mapped over members."""
    key = jax.random.key(config.training.seed)
    variables = config.model.init(jax.random.fold_in(key, INIT), example)
    opt_state = optimizer(config.training, jnp.float32(0)).init(variables.params)
    return TrainState(variables, opt_state, key, jnp.int32(0), jnp.int32(0), jnp.int32(0))


def init_best(state: TrainState) -> Best:
    """Returns the initial record of an untrained network."""
    return Best(jnp.float32(-jnp.inf), jnp.int32(0), jax.tree.map(jnp.copy, state.variables))


def update_best(best: Best, state: TrainState, score: Float[Array, ""]) -> Best:
    """Replaces the record if the score is higher."""
    better = score > best.score
    candidate = Best(score, state.epoch, state.variables)
    return jax.tree.map(lambda new, old: jnp.where(better, new, old), candidate, best)
