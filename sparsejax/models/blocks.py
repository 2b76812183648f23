"""Building blocks of networks: masked weights, batch norm, and activations."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sparsejax.functional import (
    conv2d,
    inference_k,
    init_boost_state,
    k_winners,
    k_winners_2d,
    sparse_mask,
    uniform_fan_in,
    update_boost_state,
)
from sparsejax.functional.masks import fan_in_of
from sparsejax.functional.selection import Ties

Params = dict[str, Array]
State = dict[str, Any]
EPSILON = 1e-5
"""Added to the variance of a batch norm."""


def init_weights(
    key: PRNGKeyArray, shape: tuple[int, ...], density: float | Float[Array, ""] | None = None
) -> tuple[Params, State]:
    """Initialises a kernel and bias as PyTorch does, and the mask of a sparse kernel; a dense one has no state.

    Args:
      key: one PRNG key.
      shape: of the kernel, units last.
      density: fraction of non-zero weights; None for a dense kernel.
    """
    kernel_key, bias_key, mask_key = jax.random.split(key, 3)
    kernel = uniform_fan_in(kernel_key, shape)
    bias = uniform_fan_in(bias_key, shape[-1:], fan_in=fan_in_of(shape))
    if density is None:
        return {"kernel": kernel, "bias": bias}, {}
    mask = sparse_mask(mask_key, shape, density)
    return {"kernel": jnp.where(mask, kernel, 0.0), "bias": bias}, {"mask": mask}


def linear(params: Params, state: State, x: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
    """Applies a convolution or a dense layer: `multiply`, then `add_bias`."""
    return add_bias(params, multiply(params, state, x))


def multiply(params: Params, state: State, x: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
    """Applies a convolution (four-dimensional kernel) or a dense layer without its bias; masked weights count as zero.

    The gradient with respect to a `probe` of zeros in the state is that for every weight, including masked ones.
    """
    kernel = params["kernel"]
    if "mask" in state:
        kernel = jnp.where(state["mask"], kernel, 0.0)
    if "probe" in state:
        kernel = kernel + state["probe"].astype(kernel.dtype)
    return conv2d(x, kernel) if kernel.ndim == 4 else x @ kernel


def add_bias(params: Params, y: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
    """Adds the bias of a layer, if it has one."""
    return y + params["bias"].reshape((1,) * (y.ndim - 1) + (-1,)) if "bias" in params else y


def init_batch_norm(features: int) -> State:
    """Returns running statistics of mean 0 and variance 1."""
    return {"mean": jnp.zeros(features, jnp.float32), "var": jnp.ones(features, jnp.float32)}


def init_scale(features: int) -> Params:
    """Returns the initial scale 1 and offset 0 of a batch norm."""
    return {"scale": jnp.ones(features, jnp.float32), "bias": jnp.zeros(features, jnp.float32)}


def batch_norm(
    state: State, x: Float[Array, "batch ..."], *, train: bool, axis_name: str | None, params: Params | None = None
) -> tuple[Float[Array, "batch ..."], State]:
    """Normalises each feature in float32, then scales and offsets it by `params`, if any.

    Flax's running variance is biased.
    """
    norm = nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=EPSILON,
        use_scale=False,
        use_bias=False,
        axis_name=axis_name,
    )
    y, updated = norm.apply({"batch_stats": state}, x.astype(jnp.float32), mutable=["batch_stats"])
    if params is not None:
        shape = (1,) * (y.ndim - 1) + (-1,)
        scale, bias = (params[name].astype(jnp.float32).reshape(shape) for name in ("scale", "bias"))
        y = y * scale + bias
    return y.astype(x.dtype), dict(updated["batch_stats"])


def activate(
    state: State,
    x: Float[Array, "batch ..."],
    *,
    k: Int[Array, ""] | None,
    k_inference_factor: float | Array,
    boost_strength: float | Array,
    period: int,
    local: bool,
    ties: Ties,
    train: bool,
    axis_name: str | None,
) -> tuple[Float[Array, "batch ..."], State]:
    """Applies k-winners, or ReLU if k is None, and updates the duty cycles in training."""
    if k is None:
        return jax.nn.relu(x), state
    if not train:
        k = inference_k(k, k_inference_factor, x.shape[-1] if local or x.ndim == 2 else x[0].size)
    if x.ndim == 2:
        y = k_winners(x, state["boost"], k=k, boost_strength=boost_strength, ties=ties)
    else:
        y = k_winners_2d(x, state["boost"], k=k, boost_strength=boost_strength, local=local, ties=ties)
    if not train:
        return y, state
    boost = update_boost_state(state["boost"], y, period=period, axis_name=axis_name)
    return y, {**state, "boost": boost}


def init_activation(features: int, k: int | None) -> State:
    """Returns the boost state of a k-winners layer; ReLU has none."""
    return {} if k is None else {"boost": init_boost_state(features)}
