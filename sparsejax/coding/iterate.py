"""The loop that all solvers share: every example runs until it is done, and then no longer costs anything."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

# Below so many examples a smaller batch is no faster.
_FEW = 32


def iterate(
    update: Callable[[Any, Any], Any],
    measure: Callable[[Any, Any], Float[Array, "examples"]],
    state: Any,
    data: Any,
    *,
    tolerance: float | Array | None,
    max_iterations: int | Array,
    check_every: int,
) -> tuple[Any, Int[Array, "examples"], Float[Array, "examples"]]:
    """Applies `state = update(state, data)` until `measure(state, data) <= tolerance` for each example.

    An example that is done is frozen, so that its result does not depend on its neighbours. As soon as half of them
    are done, the others go on in an array of half the size, and so on: the slowest few do not hold up the rest.

    Args:
      update: one iteration.
      measure: how far each example is from done.
      state: pytree of arrays `[examples, ...]`.
      data: pytree of arrays `[examples, ...]`.
      tolerance: None for exactly `max_iterations` of all examples; may be traced.
      max_iterations: may be traced.
      check_every: iterations between two measures.

    Returns:
      The state, the iterations of each example and its last measure.
    """
    if tolerance is None:
        state = lax.fori_loop(0, max_iterations, lambda _, state: update(state, data), state)
        gap = measure(state, data)
        return state, jnp.broadcast_to(jnp.asarray(max_iterations, jnp.int32), gap.shape), gap

    def stage(state: Any, data: Any, gap: Array, taken: Array, done: Array) -> tuple[Any, Array, Array]:
        size = gap.shape[0]
        half = size // 2 if size >= 2 * _FEW else 0

        def unfinished(carry: Any) -> Array:
            _, gap, _, done = carry
            return (jnp.sum(gap > tolerance) > half) & (done < max_iterations)

        def go_on(carry: Any) -> Any:
            state, gap, taken, done = carry
            steps = jnp.minimum(check_every, max_iterations - done).astype(jnp.int32)
            new = lax.fori_loop(0, steps, lambda _, state: update(state, data), state)
            pending = gap > tolerance
            state = jax.tree.map(lambda now, before: jnp.where(_like(pending, now), now, before), new, state)
            gap = jnp.where(pending, measure(new, data), gap)
            return state, gap, taken + jnp.where(pending, steps, 0), done + steps

        state, gap, taken, done = lax.while_loop(unfinished, go_on, (state, gap, taken, done))
        if not half:
            return state, gap, taken
        pending = jnp.argsort(gap <= tolerance)[:half]
        some, its_data = jax.tree.map(lambda leaf: leaf[pending], (state, data))
        rest = stage(some, its_data, gap[pending], taken[pending], done)
        return jax.tree.map(lambda leaf, some: leaf.at[pending].set(some), (state, gap, taken), rest)

    gap = measure(state, data)
    nothing = jnp.zeros((), jnp.int32)
    state, gap, taken = stage(state, data, gap, jnp.zeros(gap.shape, jnp.int32), nothing)
    return state, taken, gap


def check_loop(tolerance: float | Array | None, max_iterations: int | Array, check_every: int = 1) -> None:
    """Checks the settings of the loop, where they are still Python numbers.

    Raises:
      ValueError: one is out of range.
    """
    if isinstance(max_iterations, int) and max_iterations < 0:
        raise ValueError(f"max_iterations is {max_iterations}; expected 0 or more.")
    if isinstance(tolerance, (int, float)) and not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}; expected 0 or more, or None for exactly max_iterations.")
    if check_every < 1:
        raise ValueError(f"check_every is {check_every}; expected 1 or more iterations between two measures.")


def _like(flags: Array, leaf: Array) -> Array:
    return flags.reshape(flags.shape + (1,) * (leaf.ndim - flags.ndim))
