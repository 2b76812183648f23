"""The implicit loss terms of a network's noise, watched along training."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from sparsejax.functional import implicit_terms
from sparsejax.models.base import Variables
from sparsejax.models.noisy import NoisyNetwork


def implicit_measures(
    variables: Variables, model: NoisyNetwork, x: Float[Array, "batch *shape"]
) -> dict[str, Float[Array, ""]]:
    """Returns what noise on the input adds to the mean squared error of a plain ReLU autoencoder, in its three parts.

    They are named `implicit/mean_shift`, `implicit/second_moment` and `implicit/co_fluctuation`; their sum is the
    expected loss with noise less the loss without.

    Args:
      variables: the network.
      model: as it is now; its `sigma` is that of the noise.
      x: clean inputs `[batch, ...]`.

    References:
      Bricken et al., Emergence of Sparse Representations from Noise, ICML 2023.
    """
    hidden, output, clean = variables.params["hidden"], variables.params["output"], x.reshape(x.shape[0], -1)
    terms = implicit_terms(
        clean,
        encoder=hidden["kernel"],
        encoder_bias=jnp.broadcast_to(hidden.get("bias", 0.0), hidden["kernel"].shape[-1:]),
        decoder=output["kernel"],
        decoder_bias=output["bias"],
        sigma=model.sigma,
    )
    return {f"implicit/{name}": jnp.mean(term) / clean.shape[-1] for name, term in terms._asdict().items()}
