"""Loops of attacks whose steps compute only on examples that are not yet misclassified."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

Step = Callable[[Any, Any, Int[Array, "lanes"], Int[Array, ""]], tuple[Any, Bool[Array, "lanes"]]]
"""`step(examples, states, i, turn)` returns the next states and which examples are done, one per lane.

`i` counts the steps of each example, `turn` those of the loop, for random numbers.
"""

_LEAST, _PART = 4, 8


def run_in_lanes(
    step: Step, examples: Any, states: Any, waiting: Bool[Array, "n"], *, iterations: int, lanes: int | None = None
) -> tuple[Any, Int[Array, "n"]]:
    """Steps every waiting example until it is done or has taken all its iterations.

    Each turn of the loop gathers as many unfinished examples as there are lanes, steps them, and writes their states
    back. So an example that is done gives its lane to the next one, and the number of turns is about the sum of the
    examples' steps divided by the number of lanes.

    Args:
      step: computes on one example per lane; lanes without an example repeat the last one, and their results are
        dropped.
      examples: pytree of arrays `[n, ...]`, which stay.
      states: pytree of arrays `[n, ...]`, at the start.
      waiting: which examples to step.
      iterations: largest number of steps per example.
      lanes: their number; None for `count_lanes(n)`.

    Returns:
      The states at the end, and the number of steps of each example.
    """
    count = len(waiting)
    if not count:
        return states, jnp.zeros(0, jnp.int32)
    width = count_lanes(count) if lanes is None else min(lanes, count)

    def turn(carry):
        number, steps, waiting, states = carry
        rows = jnp.nonzero(waiting, size=width, fill_value=count)[0]
        own = jax.tree.map(lambda leaf: leaf.at[rows].get(mode="clip"), (examples, states, steps))
        after, done = step(own[0], own[1], own[2], number)
        taken = own[2] + 1

        def write(leaf, new):
            return leaf.at[rows].set(new.astype(leaf.dtype), mode="drop")  # not for lanes without an example

        new = (taken, ~done & (taken < iterations), after)
        return number + 1, *jax.tree.map(write, (steps, waiting, states), new)

    start = (jnp.int32(0), jnp.zeros(count, jnp.int32), waiting, states)
    _, steps, _, states = lax.while_loop(lambda carry: jnp.any(carry[2]), turn, start)
    return states, steps


def count_lanes(count: int) -> int:
    """Returns the number of lanes for a batch: an eighth of it, at least four; all of it on an accelerator.

    A CPU takes about as long per example in small batches as in large ones; an accelerator needs the large ones.
    """
    return min(count, max(_LEAST, count // _PART)) if jax.default_backend() == "cpu" else count
