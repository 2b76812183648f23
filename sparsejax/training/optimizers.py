"""Update rules and learning-rate schedules with traced hyperparameters."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from sparsejax.training.config import TrainingConfig


def optimizer(config: TrainingConfig, learning_rate: Float[Array, ""]) -> optax.GradientTransformation:
    """Returns the configured update rule; parts that are None in the configuration are not compiled.

    It is created in each step from that step's values: an optax transformation is only a pair of functions.
    """
    stages = []
    if config.clip_norm is not None:
        stages.append(optax.clip_by_global_norm(config.clip_norm))
    if config.weight_decay is not None:
        stages.append(optax.add_decayed_weights(config.weight_decay))
    if config.optimizer == "adam":
        stages.append(optax.scale_by_adam(b1=config.beta1, b2=config.beta2))
    elif config.optimizer == "rmsprop":
        stages.append(optax.scale_by_rms())
    if config.momentum is not None:
        stages.append(optax.trace(decay=config.momentum))
    stages.append(optax.scale(-learning_rate))
    return optax.chain(*stages)


def learning_rate(config: TrainingConfig, epoch: Float[Array, ""], fraction: Float[Array, ""]) -> Float[Array, ""]:
    """Returns the current learning rate.

    Args:
      config: names the schedule.
      epoch: whole epochs done.
      fraction: completed fraction of all epochs, in [0, 1]; a warmup starts at 0, so the first step has no effect.
    """
    base = config.learning_rate
    if config.warmup_epochs is not None:
        base = base * jnp.minimum(1.0, fraction * config.epochs / config.warmup_epochs)
    if config.schedule == "step":
        steps = epoch // config.lr_decay_every
        if config.lr_decay_at is not None:
            steps = jnp.sum(epoch >= jnp.asarray(config.lr_decay_at, jnp.float32))
        return base * config.lr_decay**steps
    if config.schedule == "cosine":
        return base * 0.5 * (1 + jnp.cos(jnp.pi * fraction))
    if config.schedule == "linear":
        return base * jnp.minimum(1.0, (1 - fraction) / config.decay_fraction)
    return base
