"""What is followed along training besides the loss: how the hidden layers are used, and how their weights gather."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from sparsejax.evaluation.accuracy import Counts
from sparsejax.models.base import Variables


def layer_measures(variables: Variables, counts: Counts, examples: int) -> dict[str, Float[Array, ""]]:
    """Returns numbers named `MEASURE/LAYER` for each hidden layer of one network.

    Always `active_fraction` and `active_spread`, mean and standard deviation over the examples of the fraction of
    units active. Where units were counted, `dead_units`. Where the layer has a kernel, `key_norm` and
    `key_norm_spread`, mean and standard deviation over the units of the length of their weights; with a bias for each
    unit also `bias`, `bias_spread` and `negative_bias`, the fraction of units whose bias is below 0.

    Args:
      variables: the network.
      counts: its evaluation.
      examples: number of examples evaluated.

    References:
      Bricken et al., Noise Transforms Feed-Forward Networks into Sparse Coding Networks, 2022, Fig. 3 and 4.
    """
    measures = {}
    for layer, density in counts.density.items():
        mean, square = density / examples
        entries = {"active_fraction": mean, "active_spread": jnp.sqrt(jnp.maximum(square - mean**2, 0.0))}
        if layer in counts.active:
            entries["dead_units"] = jnp.sum((counts.active[layer] == 0).astype(jnp.int32))
        params = variables.params.get(layer, {})
        if "kernel" in params:
            kernel = params["kernel"]
            norm = jnp.sqrt(jnp.sum(kernel**2, axis=tuple(range(kernel.ndim - 1))))
            entries |= {"key_norm": jnp.mean(norm), "key_norm_spread": jnp.std(norm)}
        if "bias" in params:
            bias = params["bias"]
            entries |= {"bias": jnp.mean(bias), "negative_bias": jnp.mean((bias < 0).astype(jnp.float32))}
            entries["bias_spread"] = jnp.std(bias)
        measures |= {f"{name}/{layer}": value for name, value in entries.items()}
    return measures
