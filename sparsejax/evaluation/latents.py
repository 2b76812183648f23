"""Activations of a layer of a trained network for every example of a split."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sparsejax.data.resident import Resident, normalize
from sparsejax.models.base import Model, Variables


def make_embedding(layer: str, *, examples: int, batch_size: int):
    """Returns `embed(model, variables, data) -> [examples, features]`, evaluated without noise.

    Args:
      layer: name of the hidden layer, whose output is flattened.
      examples: size of the split.
      batch_size: examples per batch.
    """
    batches = -(-examples // batch_size)

    def embed(model: Model, variables: Variables, data: Resident) -> Float[Array, "examples features"]:

        def of_batch(batch):
            # The last batch is padded by repeating the last example; these rows are dropped.
            rows = jnp.minimum(batch * batch_size + jnp.arange(batch_size), examples - 1)
            output = model.apply(variables, normalize(data, data.images[rows]), train=False)
            return output.activations[layer].reshape(batch_size, -1).astype(jnp.float32)

        vectors = lax.map(of_batch, jnp.arange(batches))
        return vectors.reshape(batches * batch_size, -1)[:examples]

    return embed
