"""The best atom of each example, found in vector instructions."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

_PARTS = 16


def first_largest(scores: Float[Array, "examples atoms"]) -> Int[Array, "examples"]:
    """Returns the index of the largest score of each example; of equal ones the first, as `lax.argmax`.

    On a CPU XLA's argmax compares one score after the other. Here each sixteenth of the scores is compared with the
    best of those before it, element by element, which XLA vectorises: several times as fast for hundreds of scores.
    Only the sixteenth that remains is searched across.

    Args:
      scores: `[examples, atoms]`, at least one atom; NaN counts as the largest.
    """
    atoms = scores.shape[1]
    width = max(1, -(-atoms // _PARTS))
    best, index = scores[:, :width], lax.broadcasted_iota(jnp.int32, (len(scores), width), 1)
    for part in range(width, atoms, width):
        first = min(part, atoms - width)  # the last part may overlap with the one before it
        part_scores = scores[:, first : first + width]
        better = (part_scores > best) | jnp.isnan(part_scores)
        best = jnp.where(better, part_scores, best)
        index = jnp.where(better, first + lax.broadcasted_iota(jnp.int32, index.shape, 1), index)
    largest = (best == jnp.max(best, 1)[:, None]) | jnp.isnan(best)
    return jnp.min(jnp.where(largest, index, atoms - 1), 1)
