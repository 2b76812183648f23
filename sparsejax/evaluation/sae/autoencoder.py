"""Trained sparse autoencoders that read and write activations as they are, with all scaling folded into the weights."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sparsejax.errors import ConfigError
from sparsejax.models.base import Variables
from sparsejax.models.sparse_autoencoder import SparseAutoencoder
from sparsejax.training.restore import TrainedNetwork


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """A trained sparse autoencoder, which reads and writes activations as they are, without further scaling.

    Attributes:
      model: the network.
      variables: its parameters and state.
    """

    model: SparseAutoencoder
    variables: Variables

    def encode(self, x: Any) -> Float[Array, "*batch hidden"]:
        """Return the activities of all latents for activations `[..., inputs]`."""
        return self._by_rows(_encode, x)

    def decode(self, z: Any, x: Any = None) -> Float[Array, "*batch outputs"]:
        """Return reconstructions of codes `[..., hidden]`; an autoencoder with a skip connection also needs `x`."""
        return self._by_rows(_decode, z, *(() if x is None else (x,)))

    def __call__(self, x: Any) -> Float[Array, "*batch outputs"]:
        """Return reconstructions of activations `[..., inputs]`."""
        return self.decode(self.encode(x), x if self.model.skip else None)

    @property
    def W_enc(self) -> Array:
        """Weights of the encoder, `[inputs, hidden]`."""
        return jnp.asarray(self.variables.params["hidden"]["rows"]).T

    @property
    def W_dec(self) -> Array:
        """Weights of the decoder, `[hidden, outputs]`."""
        return self.model.project(self.variables.params)["output"]["kernel"]

    @property
    def b_enc(self) -> Array:
        """Bias of the encoder, `[hidden]`."""
        return jnp.asarray(self.variables.params["hidden"]["bias"])

    @property
    def b_dec(self) -> Array:
        """Bias of the decoder, `[outputs]`."""
        return jnp.asarray(self.variables.params["output"]["bias"])

    def _by_rows(self, function: Callable[..., Array], *arrays: Any) -> Array:
        arrays = tuple(jnp.asarray(array, jnp.float32) for array in arrays)
        lead = arrays[0].shape[:-1]
        flat = (array.reshape(-1, array.shape[-1]) for array in arrays)
        found = function(self.model, self.variables, *flat)
        return found.reshape(*lead, found.shape[-1])


@jax.jit
def _encode(model: SparseAutoencoder, variables: Variables, x: Array) -> Array:
    return model.encode(variables, x)


@jax.jit
def _decode(model: SparseAutoencoder, variables: Variables, z: Array, x: Array | None = None) -> Array:
    return model.decode(variables, z, x)


def fold(network: TrainedNetwork) -> Autoencoder:
    """Return a trained network whose weights include the centring and scaling of its training data.

    The threshold of BatchTopK becomes one of JumpReLU for every latent, scaled like its activity.

    Raises:
      ConfigError: it is not a sparse autoencoder of one site, or its encoder has more than one layer.
    """
    model, variables = network.model, network.variables
    if not isinstance(model, SparseAutoencoder) or model.sites != 1 or model.encoder != "linear":
        raise ConfigError(
            f"A {type(model).__name__} cannot be folded; expected a SparseAutoencoder of one site and a linear encoder."
        )
    params = jax.tree.map(jnp.asarray, model.project(variables.params))
    hidden, output = params["hidden"], params["output"]
    mean = jnp.broadcast_to(jnp.asarray(network.mean, jnp.float32), output["bias"].shape)
    scales = np.asarray(network.std, np.float32)
    if np.ptp(scales) > 0:
        raise ConfigError(f"The scales of the features run from {scales.min():g} to {scales.max():g}; expected one.")
    scale = jnp.float32(scales.reshape(-1)[0])
    # Activities are multiplied by the scale, so that the decoder keeps its norms.
    bias = scale * hidden["bias"]
    folded = {"rows": hidden["rows"], "bias": bias if model.pre_bias else bias - hidden["rows"] @ mean}
    if "threshold" in hidden:
        folded["threshold"] = scale * hidden["threshold"]
    if "log_gain" in hidden:
        gain, offset = jnp.exp(hidden["log_gain"]), scale * hidden["gain_bias"]
        offset = offset if model.pre_bias else offset - gain * (hidden["rows"] @ mean)
        folded |= {"log_gain": hidden["log_gain"], "gain_bias": offset}
    written = {"kernel": output["kernel"], "bias": scale * output["bias"] + mean}
    if model.skip:
        written["skip"] = output["skip"]
        if not model.pre_bias:
            written["bias"] = written["bias"] - mean @ output["skip"]
    state = variables.state["hidden"]
    if model.activation == "batch_top_k":
        folded["threshold"] = jnp.full(model.hidden, scale * jnp.maximum(state["threshold"], 0), jnp.float32)
    made = SparseAutoencoder(
        hidden=model.hidden, activation="jump_relu" if model.activation == "batch_top_k" else model.activation,
        k=model.k if model.activation == "top_k" else None, decoder="free", pre_bias=model.pre_bias, skip=model.skip,
    )  # fmt: skip
    return Autoencoder(
        made, Variables({"hidden": folded, "output": written}, {"hidden": {"idle": jnp.zeros(model.hidden, jnp.int32)}})
    )
