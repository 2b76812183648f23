"""Many networks in one program: a function of one network, mapped over a leading member axis."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax


def map_members(function: Callable[..., Any], at_once: int | None) -> Callable[..., Any]:
    """Maps `function(*mapped, shared)` over the leading axis of all arguments but the last.

    Args:
      function: pure function of one network.
      at_once: networks computed in parallel; None for all (a vmap), 1 for one after another (a loop), which is faster
        if a single network already uses the whole processor.

    Returns:
      Function of the same arguments with a member axis, also on its results.
    """

    def mapped(*arguments):
        *per_member, shared = arguments
        members = jax.tree.leaves(per_member)[0].shape[0]
        if members == 1:  # a loop of one iteration would only hide the network from the compiler
            results = function(*jax.tree.map(lambda leaf: leaf[0], per_member), shared)
            return jax.tree.map(lambda leaf: leaf[None], results)
        if at_once is None or at_once >= members:
            return jax.vmap(lambda *one: function(*one, shared))(*per_member)
        # A batch of one would be a vmap of one, whose grouped operations are slower than plain ones.
        batch_size = None if at_once == 1 else at_once
        return lax.map(lambda one: function(*one, shared), tuple(per_member), batch_size=batch_size)

    return mapped
