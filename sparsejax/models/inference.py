"""Inference with trained networks: training-only parts are removed, and products skip zeros."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sparsejax.errors import ConfigError
from sparsejax.functional import boost, decode, inference_k, k_winners, k_winners_2d, max_pool2d, sparse_top_k
from sparsejax.functional.sparse_code import gathering_is_faster
from sparsejax.models import blocks
from sparsejax.models.base import Variables
from sparsejax.models.network import SparseNetwork

_WORTH = 2**17
"""Number of weights from which a CPU is faster with the winners' indices."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Frozen:
    """A network frozen for inference; a pytree that can be passed to compiled functions.

    `layers` maps the name of a layer to its `kernel`, 0 where it is masked, its `bias`, and its `boost` state;
    `boost_strength` [] is beta; `k` are the winners of each hidden layer, None for ReLU.
    """

    layers: dict[str, dict[str, Any]]
    boost_strength: Float[Array, ""]
    k: tuple[int | None, ...] = dataclasses.field(metadata={"static": True})
    model: SparseNetwork


def freeze(model: SparseNetwork, variables: Variables, example_shape: tuple[int, ...]) -> Frozen:
    """Prepares a trained network for inference.

    It multiplies masks into the weights, folds batch norm into them, and makes k static.

    Args:
      model: the network, `model.at(epoch, step)` after training.
      variables: after training.
      example_shape: shape of one example, `[H, W, C]` or `[n]`.

    Returns:
      A network for `predict`, with the outputs of `model.apply` without `train`, up to rounding.

    Raises:
      ConfigError: the model is not a SparseNetwork, or does not fit the example.

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 4.3, for the products that sparsity saves.
    """
    if not isinstance(model, SparseNetwork):
        raise ConfigError(
            f"model is a {type(model).__name__}; expected a network of k-winners, such as SparseMLP or SparseCNN. "
            "For others use `model.apply(variables, x).prediction`."
        )
    k, stages = [], model.stages(example_shape)
    for stage in stages:
        units = model.competitors(stage)
        k.append(None if stage.k is None else int(inference_k(stage.k, model.k_inference_factor, units)))
    names = [*(stage.name for stage in stages), "output"]
    layers = {name: _fold(variables.params[name], variables.state[name]) for name in names}
    return Frozen(layers, jnp.asarray(model.boost_strength, jnp.float32), tuple(k), model)


def _fold(params: blocks.Params, state: blocks.State) -> dict[str, Any]:
    kernel, bias = params["kernel"], params["bias"]
    if "mask" in state:
        kernel = jnp.where(state["mask"], kernel, 0)
    if "norm" in state:
        scale = lax.rsqrt(state["norm"]["var"] + blocks.EPSILON)
        kernel, bias = kernel * scale.reshape((1,) * (kernel.ndim - 1) + (-1,)), (bias - state["norm"]["mean"]) * scale
    return {"kernel": kernel, "bias": bias} | {name: state[name] for name in ("boost",) if name in state}


def predict(network: Frozen, x: Float[Array, "batch *shape"]) -> Float[Array, "batch classes"]:
    """Returns the network's logits, `[batch, classes]`.

    On a CPU a large fully connected layer reads only the rows of the previous layer's winners if that is faster: for a
    single example if at most two in five units win, for sixteen if one in ten does.

    Args:
      network: from `freeze`.
      x: inputs `[batch, ...]`, as `model.apply` takes them.

    Returns:
      Logits `[batch, classes]`.

    Raises:
      ConfigError: the network does not fit the inputs.

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 4.3.
    """
    model, x = network.model, network.model.seen(x)
    stages = model.stages(x.shape[1:])
    names = [*(stage.name for stage in stages), "output"]
    x = _pre_activation(network.layers[names[0]], x)
    for stage, k, after in zip(stages, network.k, names[1:], strict=True):
        if len(stage.shape) == 4:
            x = max_pool2d(x, stage.pool)
        x = _next_pre_activation(network, x, network.layers[stage.name], k, network.layers[after])
    return x


def _pre_activation(layer: dict[str, Any], x: Array) -> Array:
    """Returns the pre-activations of a layer; a fully connected layer flattens its input."""
    return blocks.linear(layer, {}, x if layer["kernel"].ndim == 4 else x.reshape(x.shape[0], -1))


def _next_pre_activation(
    network: Frozen, x: Array, layer: dict[str, Any], k: int | None, after: dict[str, Any]
) -> Array:
    """Returns the pre-activations of the next layer, from pre-activations `x` of a layer."""
    if k is None:
        return _pre_activation(after, jax.nn.relu(x))
    model, local = network.model, network.model.local and x.ndim == 4
    settings: dict[str, Any] = {"k": k, "boost_strength": network.boost_strength, "ties": model.ties}

    def dense(x, state, after):
        won = k_winners_2d(x, state, local=local, **settings) if x.ndim == 4 else k_winners(x, state, **settings)
        return _pre_activation(after, won)

    def by_rows(x, state, after):
        units = math.prod(x.shape[1:])
        rank = boost(x, state, k / units, network.boost_strength).reshape(-1, units)
        return decode(sparse_top_k(x.reshape(-1, units), k, rank=rank), after["kernel"]) + after["bias"][None]

    kernel = after["kernel"]
    pays = kernel.ndim == 2 and kernel.size >= _WORTH and gathering_is_faster(k / len(kernel), len(x))
    if local or model.ties != "first" or not pays:
        return dense(x, layer["boost"], after)
    return lax.platform_dependent(x, layer["boost"], after, cpu=by_rows, default=dense)
