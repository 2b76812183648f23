"""Loss terms of sparse autoencoders: dead latents, nested prefixes, and penalties on the number of active latents.

Inputs x are `[batch, d]`, codes and pre-activations `[batch, n]`, and kernels have a row for each latent, `[n, d]`.
Losses are summed over d or n and averaged over the batch.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from sparsejax.functional.arguments import checked
from sparsejax.functional.ragged_code import RaggedCode, decode_ragged
from sparsejax.functional.sparse_code import SparseCode, decode, encode_top_k


@checked
def auxiliary_loss(
    residual: Float[Array, "batch outputs"],
    x: Float[Array, "batch inputs"],
    *,
    encoder: Float[Array, "units inputs"],
    bias: Float[Array, "units"],
    decoder: Float[Array, "units outputs"],
    dead: Bool[Array, "units"],
    k: int,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    r"""Returns AuxK: how badly the dead latents alone reconstruct what is left of the inputs.

    .. math:: \min(n_\mathrm{dead} / k, 1)\, |e - W_d^T z_\mathrm{dead}|^2 / \mathrm{Var}(e)

    Here :math:`z_\mathrm{dead}` are the k largest positive activities of dead latents. The decoder's bias is not added
    again. Encoder and decoder get their gradients, the residual gets none.

    Args:
      residual: e, the targets without their reconstructions, `[batch, outputs]`.
      x: inputs of the encoder, `[batch, inputs]`.
      encoder: `[units, inputs]`.
      bias: of the encoder, `[units]`.
      decoder: `[units, outputs]`.
      dead: which latents are dead, `[units]`.
      k: number of dead latents per example, at least 1; more than `units` are all.
      axis_name: mesh axis over which the batch is sharded; the variance is that of the whole batch, the rest that of
        a device's share, to be averaged.

    Returns:
      A number, 0 without dead latents or without a residual.

    Raises:
      ValueError: k is below 1.

    References:
      Gao et al., Scaling and evaluating sparse autoencoders, 2024, appendix A.2.
    """
    residual = lax.stop_gradient(residual)
    # Active latents have rank 0, below every positive dead one; those that win nevertheless count as 0.
    code = encode_top_k(x, encoder, bias, min(k, len(encoder)), gain=dead.astype(x.dtype))
    code = code._replace(values=jnp.where(dead[code.indices], code.values, 0))
    total = _mean(jnp.sum((residual - decode(code, decoder)) ** 2, axis=-1))
    centre = _mean_over(residual, axis_name)
    variance = _mean_over(jnp.sum((residual - centre[None]) ** 2, axis=-1), axis_name)
    share = jnp.minimum(jnp.sum(dead, dtype=jnp.int32).astype(x.dtype) / k, 1)
    return share * total / jnp.where(variance > 0, variance, jnp.inf)


def decode_prefixes(
    code: Float[Array, "batch units"] | SparseCode | RaggedCode,
    kernel: Float[Array, "units outputs"],
    widths: Sequence[int],
    *,
    detach: bool = False,
) -> Float[Array, "levels batch outputs"]:
    """Returns the reconstructions by nested prefixes of the latents, without a bias.

    Args:
      code: activities `[batch, units]`, dense or as values and indices.
      kernel: `[units, outputs]`.
      widths: sizes of the prefixes, ascending; the last is `units`.
      detach: a level's loss trains only its own latents: the shorter prefixes in it pass no gradient.

    Returns:
      Array `[levels, batch, outputs]`, the whole reconstruction last.

    Raises:
      ValueError: the widths do not ascend from 1 to `units`.

    References:
      Bussmann et al., Learning Multi-Level Features with Matryoshka Sparse Autoencoders, 2025, Eq. 4.
    """
    bounds = (0, *widths)
    if not widths or widths[-1] != len(kernel) or any(a >= b for a, b in zip(bounds, widths, strict=False)):
        raise ValueError(
            f"Prefixes have widths {tuple(widths)}; expected them to ascend to {len(kernel)}, all latents."
        )
    levels, total = [], None
    for first, end in zip(bounds, widths, strict=False):
        if isinstance(code, RaggedCode):
            own = (code.units >= first) & (code.units < end)
            part = decode_ragged(code.replace_values(jnp.where(own, code.values, 0)), kernel)
        elif isinstance(code, SparseCode):
            own = (code.indices >= first) & (code.indices < end)
            part = decode(code._replace(values=jnp.where(own, code.values, 0)), kernel)
        else:
            part = code[:, first:end] @ kernel[first:end]
        levels.append(part if total is None else total + part)
        total = lax.stop_gradient(levels[-1]) if detach else levels[-1]
    return jnp.stack(levels)


@checked
def l0_to_target(l0: Float[Array, "batch"], target: float | Float[Array, ""]) -> Float[Array, ""]:
    r"""Returns the quadratic penalty :math:`(2 / L^*)\,(L_0 - L^*)^2`, averaged over the batch.

    Args:
      l0: number of active latents of each example, such as the sum of `jump_step`.
      target: L*, the number aimed at, more than 0.

    References:
      Rajamanoharan et al., Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU Sparse Autoencoders, 2024,
      appendix; the factor of SAELens.
    """
    return _mean(2 / target * (l0 - target) ** 2)


@checked
def silence_penalty(
    h: Float[Array, "batch units"],
    threshold: Float[Array, "units"],
    kernel: Float[Array, "units outputs"],
    dead: Bool[Array, "units"],
) -> Float[Array, ""]:
    r"""Returns :math:`\sum_\mathrm{dead} \mathrm{ReLU}(\theta - h)\, |W_d|`, averaged over the batch.

    It lifts the pre-activations h of dead latents towards their thresholds.

    References:
      Conerly et al., Circuits Updates January 2025, Anthropic: the pre-activation loss.
    """
    below = jnp.where(dead[None], jax.nn.relu(threshold[None] - h), 0)
    return _mean(jnp.sum(below * jnp.linalg.norm(kernel, axis=-1)[None], axis=-1))


@checked
def unit_rows(kernel: Float[Array, "units outputs"]) -> Float[Array, "units outputs"]:
    """Returns the rows scaled to norm 1; rows of zeros stay zero.

    Args:
      kernel: `[units, outputs]`.
    """
    norm = jnp.linalg.norm(lax.stop_gradient(kernel), axis=-1, keepdims=True)
    return kernel / jnp.where(norm > 0, norm, 1)


@checked
def remove_parallel(
    gradient: Float[Array, "units outputs"], kernel: Float[Array, "units outputs"]
) -> Float[Array, "units outputs"]:
    """Returns the gradient of rows of norm 1 without its part along each row, which would only change the norm.

    Args:
      gradient: `[units, outputs]`.
      kernel: the rows, of norm 1.
    """
    return gradient - jnp.sum(gradient * kernel, axis=-1, keepdims=True) * kernel


def _mean(values: Array) -> Array:
    """Returns the mean over the batch, 0 of an empty one."""
    return jnp.sum(values) / max(1, values.size)


def _mean_over(values: Array, axis_name: str | None) -> Array:
    """Returns the mean over the first axis, and over the devices."""
    mean = jnp.sum(values, axis=0) / max(1, len(values))
    return mean if axis_name is None else lax.pmean(mean, axis_name)
