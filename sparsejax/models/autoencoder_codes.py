"""Encoders and codes of sparse autoencoders: dense, or only the active latents."""

import math
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from sparsejax.functional import (
    RaggedCode,
    SparseCode,
    batch_top_k,
    boost,
    decode,
    decode_ragged,
    encode_above,
    encode_batch_top_k,
    encode_top_k,
    explain_away,
    jump_relu,
    jump_step,
    uniform_fan_in,
    update_boost_state,
    update_threshold,
)
from sparsejax.functional.autoencoder_losses import l0_to_target, silence_penalty
from sparsejax.functional.selection import keep, winners
from sparsejax.functional.sparse_code import gathering_is_faster

Activation = Literal["top_k", "batch_top_k", "jump_relu", "relu", "gated"]
Encoder = Literal["linear", "lista", "lca", "explain_away"]
Latents: TypeAlias = Array | SparseCode | RaggedCode
"""Activities of latents: dense `[batch, hidden]`, or the active ones, as many in each example or in the batch."""
_MOST = 2**31 - 1  # of int32


class Encoded(NamedTuple):
    """A code, and what its penalties need.

    `h` are the pre-activations, of all latents `[batch, hidden]` or of those near or beyond their thresholds; `gate`
    those of a gated network. They are None if they were not computed.
    """

    z: Latents
    h: Array | RaggedCode | None = None
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
    if (capacity := _capacity(model, len(x), axis_name)) and train:
        layer = (x, hidden["rows"], hidden["bias"])
        if model.activation == "batch_top_k":
            options = {"capacity": capacity, "gain": gain, "axis_name": axis_name}
            return Encoded(encode_batch_top_k(*layer, model.k, **options))
        theta, width = hidden["threshold"], model.bandwidth
        near = encode_above(*layer, jax.nn.relu(theta) - width / 2, capacity=capacity)
        return Encoded(near.replace_values(jump_relu(near.values, _of_units(theta, near), bandwidth=width)), near)
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
    kernel, losses, hidden = params["output"]["kernel"], {}, params["hidden"]
    z, h, gate = encoded
    if model.l1 is not None:
        sizes = z * jnp.linalg.norm(kernel, axis=-1)[None] if gate is None else jax.nn.relu(gate)
        losses["l1"] = model.l1 * _mean(jnp.sum(sizes, axis=-1))
    if gate is not None:  # the decoder is frozen here, so that only the gate learns to reconstruct
        by_gate = jax.nn.relu(gate) @ lax.stop_gradient(kernel) + lax.stop_gradient(centre)
        losses["gate"] = _mean(jnp.sum((target - by_gate) ** 2, axis=-1))
    if model.l0 is not None and h is not None:
        if model.l0_penalty == "tanh":
            norms = jnp.linalg.norm(kernel, axis=-1)
            sizes = _values(z) * (_of_units(norms, z) if isinstance(z, RaggedCode) else norms[None])
            count = jnp.sum(jnp.tanh(model.tanh_scale * sizes)) / max(1, len(target))
        else:
            theta = _of_units(hidden["threshold"], h) if isinstance(h, RaggedCode) else hidden["threshold"]
            steps = jump_step(_values(h), theta, bandwidth=model.bandwidth)
            l0 = h.sum_by_row(steps) if isinstance(h, RaggedCode) else jnp.sum(steps, axis=-1)
            count = _mean(l0) if model.l0_penalty == "step" else l0_to_target(l0, model.l0_target)
        losses["l0"] = model.l0 * count
    if model.silence is not None and isinstance(h, jax.Array):
        losses["silence"] = model.silence * silence_penalty(h, hidden["threshold"], kernel, find_dead(model, state))
    return losses


def update_state(model: Any, state: Any, z: Latents, axis_name: str | None) -> dict[str, Any]:
    """Returns the state after a batch: examples since each latent was active, duty cycles and threshold."""
    active = _count_by_unit(z, model.hidden)
    examples = jnp.int32(z.batch if isinstance(z, RaggedCode) else len(_values(z)))
    if axis_name is not None:
        active, examples = lax.psum((active, examples), axis_name)
    idle = jnp.minimum(state["idle"], _MOST - examples) + examples  # stays at the largest integer
    new = {**state, "idle": jnp.where(active > 0, 0, idle)}
    if "boost" in state:
        new["boost"] = update_boost_state(state["boost"], z, period=model.period, axis_name=axis_name)
    if "threshold" in state:
        new["threshold"] = update_threshold(state["threshold"], _values(z), axis_name=axis_name)
    return new


def find_dead(model: Any, state: Any) -> Bool[Array, "hidden"]:
    """Returns which latents have not been active for `dead_after` examples."""
    return state["idle"] >= model.dead_after


def decode_latents(z: Latents, kernel: Float[Array, "hidden outputs"]) -> Float[Array, "batch outputs"]:
    """Returns the sum of the active latents' rows, each times its activity."""
    if isinstance(z, RaggedCode):
        return decode_ragged(z, kernel)
    return decode(z, kernel) if isinstance(z, SparseCode) else z @ kernel


def to_dense(z: Latents) -> Float[Array, "batch hidden"]:
    """Returns the activities of all latents."""
    return z.to_dense() if isinstance(z, SparseCode | RaggedCode) else z


def count_active(z: Latents) -> dict[str, Float[Array, ""]]:
    """Returns L0, the mean number of active latents of an example, and the active latents that the slots cannot hold.

    The second, `overflow`, is missing if there is none by construction.
    """
    examples = z.batch if isinstance(z, RaggedCode) else len(_values(z))
    counts = {"l0": jnp.sum(_values(z) > 0, dtype=jnp.int32).astype(jnp.float32) / max(1, examples)}
    return counts | ({"overflow": z.overflow.astype(jnp.float32)} if isinstance(z, RaggedCode) else {})


def _values(z: Latents) -> Array:
    return z.values if isinstance(z, SparseCode | RaggedCode) else z


def _of_units(each: Float[Array, "hidden"], code: RaggedCode) -> Float[Array, "capacity"]:
    """Returns the number of each entry's latent; 0 in empty slots."""
    return each.at[code.units].get(mode="fill", fill_value=0)


def _count_by_unit(z: Latents, n: int) -> Int[Array, "hidden"]:
    """Returns in how many examples each latent is active."""
    if isinstance(z, RaggedCode):
        return z.count_by_unit()
    active = (_values(z) > 0).astype(jnp.int32)
    if isinstance(z, SparseCode):
        return jnp.zeros(n, jnp.int32).at[z.indices.reshape(-1)].add(active.reshape(-1))
    return jnp.sum(active, axis=0, dtype=jnp.int32)


def _gain(model: Any, state: Any) -> Float[Array, "hidden"] | None:
    """Returns the factors of the ranking by boost, exp(b (1 - duty n / k)); None without boost."""
    if model.boost is None:
        return None
    density = model.k / model.hidden
    return boost(jnp.ones(model.hidden, jnp.float32), state["boost"], density, model.boost / density)


def _capacity(model: Any, batch: int, axis_name: str | None) -> int | None:
    """Returns the slots of a batch's ragged code; None to compute densely."""
    slots = _slots(model) if model.activation == "batch_top_k" else model.most_k
    if slots is None or model.encoder != "linear" or model.silence is not None:
        return None
    if model.activation not in ("batch_top_k", "jump_relu") or not gathering_is_faster(slots / model.hidden):
        return None
    # One of several devices may have all the winners of the whole batch.
    devices = 1 if axis_name is None or model.activation == "jump_relu" else lax.axis_size(axis_name)
    return max(1, min(slots * devices, model.hidden) * batch)


def _slots(model: Any) -> int | None:
    """Returns the number of slots of an example's code; None if k is traced without a largest value."""
    if isinstance(model.k, (int, float)):
        return math.ceil(model.k)
    return model.most_k


def _whole(k: Any) -> Any:
    return int(k) if isinstance(k, (int, float)) else jnp.round(k).astype(jnp.int32)


def _mean(values: Array) -> Float[Array, ""]:
    return jnp.sum(values) / max(1, values.size)
