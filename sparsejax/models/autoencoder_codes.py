"""Encoders and codes of sparse autoencoders: dense, or only the active latents."""

import math
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from sparsejax.functional import (
    SparseCode,
    batch_top_k,
    boost,
    decode,
    encode_top_k,
    explain_away,
    jump_relu,
    jump_step,
    uniform_fan_in,
    update_boost_state,
    update_threshold,
)
from sparsejax.functional.autoencoder_losses import l0_to_target, silence_penalty, tanh_penalty
from sparsejax.functional.selection import keep, winners

Activation = Literal["top_k", "batch_top_k", "jump_relu", "relu", "gated"]
Encoder = Literal["linear", "lista", "lca", "explain_away"]
Latents: TypeAlias = Array | SparseCode
"""Activities of latents: dense `[batch, hidden]`, or the active ones."""
_MOST = 2**31 - 1  # of int32


class Encoded(NamedTuple):
    """A code, and what its penalties need.

    `h` are the pre-activations `[batch, hidden]`, and `gate` those of a gated network; None if they were not computed.
    """

    z: Latents
    h: Array | None = None
    gate: Array | None = None


def init_parameters(model: Any, key: PRNGKeyArray) -> dict[str, Array]:
    """Returns the parameters that an activation or encoder has in addition to rows and bias."""
    n, extra = model.hidden, {}
    if model.activation == "jump_relu":
        extra["threshold"] = jnp.full(n, model.initial_threshold, jnp.float32)
    if model.activation == "gated":
        extra |= {"log_gain": jnp.zeros(n, jnp.float32), "gain_bias": jnp.zeros(n, jnp.float32)}
    if model.encoder == "explain_away":
        extra["lateral"] = uniform_fan_in(key, (n, n))
    return extra


def encode(model: Any, params: Any, state: Any, x: Float[Array, "batch inputs"], *, train: bool, axis_name) -> Encoded:
    """Returns the code of inputs, which have been centred.

    Args:
      model: a `SparseAutoencoder`.
      params: its parameters.
      state: of its hidden layer.
      x: inputs.
      train: select winners and boost as in training.
      axis_name: mesh axis over which the batch is sharded.
    """
    hidden = params["hidden"]
    gain = _gain(model, state) if train else None
    slots = _slots(model)
    if model.activation == "top_k" and model.encoder == "linear" and slots is not None:
        code = encode_top_k(x, hidden["rows"], hidden["bias"], slots, gain=gain)
        if not isinstance(model.k, (int, float)):  # a traced k may be below the slots
            rank = code.values if gain is None else code.values * gain[code.indices]
            code = code._replace(values=jnp.where(winners(rank, _whole(model.k)), code.values, 0))
        return Encoded(code)
    h = x @ hidden["rows"].T + hidden["bias"][None]
    if model.activation == "gated":
        bare = h - hidden["bias"][None]
        magnitude = jnp.exp(hidden["log_gain"])[None] * bare + hidden["gain_bias"][None]
        return Encoded(jnp.where(h > 0, jax.nn.relu(magnitude), 0), h, h)

    def select(h: Array) -> Array:
        return _select(model, hidden, state, h, gain=gain, train=train, axis_name=axis_name)

    if model.encoder == "explain_away":
        h = explain_away(h, hidden["lateral"], zero_diagonal=True, steps=model.turns, gamma=model.turn_rate)
    elif model.encoder != "linear":
        h = _compete(model, params, h, x, select)
    return Encoded(select(h), h)


def _compete(model: Any, params: Any, h: Array, x: Array, select: Any) -> Array:
    """Returns the pre-activations after turns in which latents compete for what is not yet explained.

    A turn of LISTA starts from the code, z + rate W_e (x - W_d^T z); one of LCA moves a membrane potential, from which
    the drive of the input minus the inhibition by active latents subtracts, u + rate (h - u - (W_e W_d^T z - z)).

    References:
      Gregor & LeCun, Learning Fast Approximations of Sparse Coding, 2010; Rozell et al., Sparse Coding via Thresholding
      and Local Competition in Neural Circuits, 2008, Eq. 3.1.
    """
    rows, kernel, rate = params["hidden"]["rows"], params["output"]["kernel"], model.turn_rate
    drive, u = h, h
    for _ in range(model.turns):
        z = select(u)
        seen = z @ kernel
        if model.encoder == "lista":
            u = z + rate * ((x - seen) @ rows.T)
        else:
            u = u + rate * (drive - u - (seen @ rows.T - z))
    return u


def _select(model: Any, hidden: Any, state: Any, h: Array, *, gain: Array | None, train: bool, axis_name) -> Array:
    """Returns the activities `[batch, hidden]` of pre-activations."""
    if model.activation == "top_k":
        return keep(h, _whole(model.k), gain=gain, relu=True)
    if model.activation == "batch_top_k":
        z = jax.nn.relu(h)
        if not train:
            return jnp.where(h > state["threshold"], z, 0)
        rank = lax.stop_gradient(z if gain is None else z * gain[None])
        return jnp.where(batch_top_k(rank, model.k, axis_name=axis_name) > 0, z, 0)
    if model.activation == "jump_relu":
        return jump_relu(h, hidden["threshold"], bandwidth=model.bandwidth)
    return jax.nn.relu(h)


def encode_more(model: Any, params: Any, x: Float[Array, "batch inputs"], factor: int = 4) -> Latents:
    """Returns the code with several times as many active latents, for a second reconstruction.

    References:
      Gao et al., Scaling and evaluating sparse autoencoders, 2024, appendix on multi-TopK.
    """
    hidden, n = params["hidden"], model.hidden
    if (slots := _slots(model)) is not None:
        code = encode_top_k(x, hidden["rows"], hidden["bias"], min(factor * slots, n))
        if isinstance(model.k, (int, float)):
            return code
        k = jnp.minimum(factor * _whole(model.k), code.values.shape[-1])
        return code._replace(values=jnp.where(winners(code.values, k), code.values, 0))
    return keep(x @ hidden["rows"].T + hidden["bias"][None], jnp.minimum(factor * _whole(model.k), n), relu=True)


def penalties(
    model: Any, params: Any, state: Any, encoded: Encoded, target: Array, centre: Array
) -> dict[str, Float[Array, ""]]:
    """Returns the weighted penalties on the activity of the latents, each averaged over the batch."""
    kernel, losses = params["output"]["kernel"], {}
    z, h, gate, hidden = to_dense(encoded.z), encoded.h, encoded.gate, params["hidden"]
    if model.l1 is not None:
        norms = jnp.linalg.norm(kernel, axis=-1)
        sizes = z * norms[None] if gate is None else jax.nn.relu(gate)
        losses["l1"] = model.l1 * _mean(jnp.sum(sizes, axis=-1))
    if gate is not None:  # the decoder is frozen here, so that only the gate learns to reconstruct
        by_gate = jax.nn.relu(gate) @ lax.stop_gradient(kernel) + lax.stop_gradient(centre)
        losses["gate"] = _mean(jnp.sum((target - by_gate) ** 2, axis=-1))
    if model.l0 is not None and h is not None:
        if model.l0_penalty == "tanh":
            count = tanh_penalty(z, kernel, model.tanh_scale)
        else:
            l0 = jnp.sum(jump_step(h, hidden["threshold"], bandwidth=model.bandwidth), axis=-1)
            count = _mean(l0) if model.l0_penalty == "step" else l0_to_target(l0, model.l0_target)
        losses["l0"] = model.l0 * count
    if model.silence is not None and h is not None:
        losses["silence"] = model.silence * silence_penalty(h, hidden["threshold"], kernel, find_dead(model, state))
    return losses


def update_state(model: Any, state: Any, z: Latents, axis_name: str | None) -> dict[str, Any]:
    """Returns the state after a batch: examples since each latent was active, duty cycles and threshold."""
    batch = z.values.shape[0] if isinstance(z, SparseCode) else len(z)
    active = jnp.sum(to_dense(z) > 0, axis=0, dtype=jnp.int32)
    examples = jnp.int32(batch)
    if axis_name is not None:
        active, examples = lax.psum((active, examples), axis_name)
    idle = jnp.minimum(state["idle"], _MOST - examples) + examples  # stays at the largest integer
    new = {**state, "idle": jnp.where(active > 0, 0, idle)}
    if "boost" in state:
        new["boost"] = update_boost_state(state["boost"], z, period=model.period, axis_name=axis_name)
    if "threshold" in state:
        new["threshold"] = update_threshold(state["threshold"], lax.stop_gradient(z), axis_name=axis_name)
    return new


def find_dead(model: Any, state: Any) -> Bool[Array, "hidden"]:
    """Returns which latents have not been active for `dead_after` examples."""
    return state["idle"] >= model.dead_after


def decode_latents(z: Latents, kernel: Float[Array, "hidden outputs"]) -> Float[Array, "batch outputs"]:
    """Returns the sum of the active latents' rows, each times its activity."""
    return decode(z, kernel) if isinstance(z, SparseCode) else z @ kernel


def to_dense(z: Latents) -> Float[Array, "batch hidden"]:
    """Returns the activities of all latents."""
    return z.to_dense() if isinstance(z, SparseCode) else z


def count_active(z: Latents) -> Float[Array, ""]:
    """Returns L0, the mean number of active latents of an example."""
    values = z.values if isinstance(z, SparseCode) else z
    return jnp.sum(values > 0, dtype=jnp.int32).astype(jnp.float32) / max(1, len(values))


def _gain(model: Any, state: Any) -> Float[Array, "hidden"] | None:
    """Returns the factors of the ranking by boost, exp(b (1 - duty n / k)); None without boost."""
    if model.boost is None:
        return None
    density = model.k / model.hidden
    return boost(jnp.ones(model.hidden, jnp.float32), state["boost"], density, model.boost / density)


def _slots(model: Any) -> int | None:
    """Returns the number of slots of an example's code; None if k is traced without a largest value."""
    if isinstance(model.k, (int, float)):
        return math.ceil(model.k)
    return model.most_k


def _whole(k: Any) -> Any:
    return int(k) if isinstance(k, (int, float)) else jnp.round(k).astype(jnp.int32)


def _mean(values: Array) -> Float[Array, ""]:
    return jnp.sum(values) / max(1, values.size)
