"""The loop of all solvers: every example runs until it has converged, and then costs nothing."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

# Below this many examples a smaller batch is not faster.
_FEW = 8
# On a CPU the arrays of twice as many examples no longer stay in the cache.
_MANY = 1024


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

    A converged example is frozen, so its result does not depend on the rest of the batch. Once half of the examples
    have converged, the others continue in an array of half the size, and so on, so that a few slow examples do not
    delay the rest. On a CPU an eighth of a large batch runs at a time, and waiting examples replace converged ones,
    which keeps the arrays small and full. On accelerators, where this was not measured, all examples run at once.

    Args:
      update: one iteration.
      measure: distance of each example from convergence, `[examples]`; or a tuple of several such arrays.
      state: pytree of arrays `[examples, ...]`.
      data: pytree of arrays `[examples, ...]`.
      tolerance: one number per measure, all of which an example has to reach; may be traced. None for exactly
        `max_iterations` of all examples.
      max_iterations: may be traced.
      check_every: iterations between two measures.

    Returns:
      The state, the iterations of each example and its last measures.
    """
    if tolerance is None:
        state = lax.fori_loop(0, max_iterations, lambda _, state: update(state, data), state)
        left = measure(state, data)
        return state, jnp.full(is_unfinished(left, left).shape, max_iterations, jnp.int32), left

    left = measure(state, data)
    work = _Work(state, data, left, jnp.zeros(is_unfinished(left, tolerance).shape, jnp.int32))
    at_once = -(-len(work.taken) // 8)
    whole_rounds = max_iterations - max_iterations % check_every

    def find_unfinished(work: _Work, most: int | Array) -> Array:
        return is_unfinished(work.left, tolerance) & (work.taken < most)

    def advance(work: _Work, steps: int | Array, most: int | Array) -> _Work:
        new = lax.fori_loop(0, steps, lambda _, state: update(state, work.data), work.state)
        on = find_unfinished(work, most)
        state, left = jax.tree.map(
            lambda now, before: jnp.where(_reshape_like(on, now), now, before),
            (new, measure(new, work.data)),
            (work.state, work.left),
        )
        return _Work(state, work.data, left, work.taken + jnp.where(on, steps, 0))

    def in_turn(everyone: _Work) -> _Work:
        on = find_unfinished(everyone, whole_rounds)
        order, count = jnp.argsort(~on), jnp.sum(on)

        def turn(carry: tuple[_Work, _Work, Array, Array]) -> tuple[_Work, _Work, Array, Array]:
            everyone, some, who, first = carry
            some = advance(some, check_every, whole_rounds)
            everyone = _put(everyone, who, some)
            free = ~find_unfinished(some, whole_rounds)
            place = first + jnp.cumsum(free) - 1
            who = jnp.where(free & (place < count), order[jnp.minimum(place, len(order) - 1)], who)
            return everyone, _take(everyone, who), who, first + jnp.sum(free)

        who = order[:at_once]
        carry = everyone, _take(everyone, who), who, jnp.asarray(at_once)
        everyone, some, who, _ = lax.while_loop(lambda carry: carry[-1] < count, turn, carry)
        return _put(everyone, who, by_halves(some))

    def by_halves(work: _Work) -> _Work:
        size = len(work.taken)
        half = size // 2 if size >= 2 * _FEW else 0
        work = lax.while_loop(
            lambda work: jnp.sum(find_unfinished(work, whole_rounds)) > half,
            lambda work: advance(work, check_every, whole_rounds),
            work,
        )
        if not half:
            return work
        some = jnp.argsort(~find_unfinished(work, whole_rounds))[:half]
        return _put(work, some, by_halves(_take(work, some)))

    work = lax.platform_dependent(work, cpu=in_turn, default=by_halves) if at_once >= 2 * _FEW else by_halves(work)
    if check_every > 1 and not (isinstance(max_iterations, int) and whole_rounds == max_iterations):
        work = lax.cond(
            jnp.any(find_unfinished(work, max_iterations)),
            lambda work: advance(work, max_iterations % check_every, max_iterations),
            lambda work: work,
            work,
        )
    return work.state, work.taken, work.left


def in_parts(solve: Callable[..., Any], *arrays: Array) -> Any:
    """Returns `solve(*arrays)`, on a CPU for about a thousand examples at a time, whose state its cache holds.

    Args:
      solve: takes and returns arrays `[examples, ...]`, none of whose examples affects another.
      arrays: `[examples, ...]`.
    """
    examples = len(arrays[0])
    parts = -(-examples // _MANY)
    size = -(-examples // max(parts, 1))

    def in_turn(*arrays: Array) -> Any:
        # A part takes every n-th example, so that it has some of each device's if the examples are sharded.
        filled = (jnp.concatenate([a, jnp.zeros_like(a[: parts * size - examples])]) for a in arrays)
        split = tuple(a.reshape(size, parts, *a.shape[1:]).swapaxes(0, 1) for a in filled)
        solved = lax.map(lambda part: solve(*part), split)
        return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1).reshape(parts * size, *leaf.shape[2:])[:examples], solved)

    return lax.platform_dependent(*arrays, cpu=in_turn, default=solve) if parts > 1 else solve(*arrays)


class _Work(NamedTuple):
    """Examples, their data, distances from convergence, and iterations: all are arrays `[examples, ...]`."""

    state: Any
    data: Any
    left: Any
    taken: Int[Array, "examples"]


def _take(work: _Work, some: Array) -> _Work:
    return jax.tree.map(lambda leaf: leaf[some], work)


def _put(work: _Work, some: Array, part: _Work) -> _Work:
    """Returns the work with some of its examples updated; data do not change."""

    def put(whole: Any, now: Any) -> Any:
        return jax.tree.map(lambda leaf, rows: leaf.at[some].set(rows, unique_indices=True), whole, now)

    return _Work(put(work.state, part.state), work.data, put(work.left, part.left), put(work.taken, part.taken))


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


def reached(left: Any, tolerance: Any) -> Array:
    """Returns which examples `[examples]` reached a tolerance; without one, those whose distances are finite."""
    if tolerance is None:
        fine = jax.tree.map(jnp.isfinite, left)
    else:
        fine = jax.tree.map(lambda left, tolerance: left <= tolerance, left, tolerance)
    return functools.reduce(jnp.logical_and, jax.tree.leaves(fine))


def is_unfinished(left: Any, tolerance: Any) -> Array:
    """Returns which examples `[examples]` are beyond a tolerance; not those with NaN, which no iteration can repair."""
    beyond = jax.tree.map(lambda left, tolerance: left > tolerance, left, tolerance)
    return functools.reduce(jnp.logical_or, jax.tree.leaves(beyond))


def _reshape_like(flags: Array, leaf: Array) -> Array:
    return flags.reshape(flags.shape + (1,) * (leaf.ndim - flags.ndim))
