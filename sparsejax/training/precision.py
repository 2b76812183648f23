"""Training in bfloat16: the network computes in bfloat16; parameters, counts and sums stay in float32."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from sparsejax.models.base import Model, Output, Variables

Precision = Literal["float32", "bfloat16"]


def apply_with_precision(
    model: Model, variables: Variables, x: Array, *, precision: Precision, **settings: Any
) -> Output:
    """Applies a network in training.

    In bfloat16 parameters and inputs are cast on entry, so gradients reach the float32 parameters; the output is cast
    back to float32, and the state to its original types.

    Args:
      model: the network.
      variables: its parameters and state.
      x: inputs `[batch, ...]`.
      precision: of the computation.
      settings: further arguments of `model.apply`.
    """
    if precision == "float32":
        return model.apply(variables, x, train=True, **settings)
    half = variables._replace(params=_cast(variables.params, jnp.float32, jnp.bfloat16))
    output = model.apply(half, _cast(x, jnp.float32, jnp.bfloat16), train=True, **settings)
    state = jax.tree.map(lambda new, old: new.astype(jnp.asarray(old).dtype), output.state, variables.state)
    return _cast(output._replace(state=None), jnp.bfloat16, jnp.float32)._replace(state=state)


def _cast(tree: Any, those: Any, to: Any) -> Any:
    """Casts the leaves of one type."""
    return jax.tree.map(lambda leaf: leaf.astype(to) if jnp.asarray(leaf).dtype == those else leaf, tree)
