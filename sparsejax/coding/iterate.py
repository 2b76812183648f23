"""The loop that all solvers share: every example runs until it is done, and then no longer costs anything."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

# Below so many examples a smaller batch is no faster.
_FEW = 32


def iterate(
    update: Callable[[Any, Any], Any],
    measure: Callable[[Any, Any], Any],
    state: Any,
    data: Any,
    *,
    tolerance: Any,
    max_iterations: int | Array,
    check_every: int,
) -> tuple[Any, Int[Array, "examples"], Any]:
    """Applies `state = update(state, data)` until `measure(state, data) <= tolerance` for each example.

    An example that is done is frozen, so that its result does not depend on its neighbours. As soon as half of them
    are done, the others go on in an array of half the size, and so on: the slowest few do not hold up the rest.

    Args:
      update: one iteration.
      measure: how far each example is from done, `[examples]`; or several such arrays, in a tuple.
      state: pytree of arrays `[examples, ...]`.
      data: pytree of arrays `[examples, ...]`.
      tolerance: as many numbers as there are measures, all of which an example has to reach; may be traced. None for
        exactly `max_iterations` of all examples.
      max_iterations: may be traced.
      check_every: iterations between two measures.

    Returns:
      The state, the iterations of each example and its last measures.
    """
    if tolerance is None:
        state = lax.fori_loop(0, max_iterations, lambda _, state: update(state, data), state)
        left = measure(state, data)
        return state, jnp.full(_pending(left, left).shape, max_iterations, jnp.int32), left

    def stage(state: Any, data: Any, left: Any, taken: Array, done: Array) -> tuple[Any, Array, Any]:
        size = taken.shape[0]
        half = size // 2 if size >= 2 * _FEW else 0

        def unfinished(carry: Any) -> Array:
            _, left, _, done = carry
            return (jnp.sum(_pending(left, tolerance)) > half) & (done < max_iterations)

        def go_on(carry: Any) -> Any:
            state, left, taken, done = carry
            steps = jnp.minimum(check_every, max_iterations - done).astype(jnp.int32)
            new = lax.fori_loop(0, steps, lambda _, state: update(state, data), state)
            pending = _pending(left, tolerance)
            state, left = jax.tree.map(
                lambda now, before: jnp.where(_like(pending, now), now, before),
                (new, measure(new, data)),
                (state, left),
            )
            return state, left, taken + jnp.where(pending, steps, 0), done + steps

        state, left, taken, done = lax.while_loop(unfinished, go_on, (state, left, taken, done))
        if not half:
            return state, taken, left
        some = jnp.argsort(~_pending(left, tolerance))[:half]
        part_state, part_data, part_left, part_taken = jax.tree.map(lambda leaf: leaf[some], (state, data, left, taken))
        rest = stage(part_state, part_data, part_left, part_taken, done)
        return jax.tree.map(lambda leaf, part: leaf.at[some].set(part), (state, taken, left), rest)

    left = measure(state, data)
    nothing = jnp.zeros((), jnp.int32)
    return stage(state, data, left, jnp.zeros(_pending(left, tolerance).shape, jnp.int32), nothing)


def goal(tolerance: float | Array | None, violation: float | Array | None) -> tuple[Any, Any] | None:
    """Returns the tolerances of a loop that measures a `shortfall`; None for a fixed number of iterations."""
    return None if tolerance is None else (tolerance, jnp.inf if violation is None else violation)


def check_loop(
    tolerance: float | Array | None,
    max_iterations: int | Array,
    check_every: int = 1,
    violation: float | Array | None = None,
) -> None:
    """Checks the settings of the loop, where they are still Python numbers.

    Raises:
      ValueError: one is out of range.
    """
    if isinstance(max_iterations, int) and max_iterations < 0:
        raise ValueError(f"max_iterations is {max_iterations}; expected 0 or more.")
    if isinstance(tolerance, (int, float)) and not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}; expected 0 or more, or None for exactly max_iterations.")
    if isinstance(violation, (int, float)) and not violation >= 0:
        raise ValueError(f"violation is {violation}; expected 0 or more, or None for any.")
    if check_every < 1:
        raise ValueError(f"check_every is {check_every}; expected 1 or more iterations between two measures.")


def _pending(left: Any, tolerance: Any) -> Array:
    """Returns which examples `[examples]` are beyond a tolerance; not those with NaN, which no iteration would mend."""
    beyond = jax.tree.map(lambda left, tolerance: left > tolerance, left, tolerance)
    return functools.reduce(jnp.logical_or, jax.tree.leaves(beyond))


def _like(flags: Array, leaf: Array) -> Array:
    return flags.reshape(flags.shape + (1,) * (leaf.ndim - flags.ndim))
