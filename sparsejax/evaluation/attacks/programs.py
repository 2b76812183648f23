"""Compiled programs of a network, and the check of what attacks return."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer, eval_jaxpr
from jax.extend.core import ClosedJaxpr
from jaxtyping import Array, Float, PRNGKeyArray

from sparsejax.errors import ConfigError
from sparsejax.evaluation.attacks.geometry import Bounds, Norm, expand, flatten, length, widen
from sparsejax.evaluation.attacks.network import LogitsFn, Network
from sparsejax.evaluation.attacks.pgd import Adversarial
from sparsejax.functional.measures import is_misclassified

AnyNorm = Norm | Callable[[Float[Array, "batch *shape"]], Float[Array, "batch"]]
"""The name of a norm, or a function `norm(delta) -> [batch]` for attacks of the user's."""

_AGAIN = 2**31 - 1
"""Folded into an attack's key for the draws of the check."""

_KEPT = 128
_PROGRAMS: dict[bytes, Callable[..., Any]] = {}
"""Compiled programs by the digest of their operations, the one used last at the end."""


def compile_network(
    function: Callable[..., Any], logits_fn: LogitsFn, *, fresh: bool = False, **settings: Any
) -> Callable[..., Any]:
    """Compiles `function(logits_fn, *arrays, **settings)`, a function of the arrays.

    The arrays of a network that is a pytree of them, such as `jax.tree_util.Partial(apply, variables)`, are arguments
    of the program: later calls reuse it, also for other arrays. Any other callable is traced anew, because what it
    reads may have changed. The arrays that it closes over become arguments, too, so that a network of the same
    operations finds its program among those kept.

    Args:
      function: to compile.
      logits_fn: the network.
      fresh: compile anew, because the function itself may depend on arrays; its `epsilon` is then static.
      settings: hashable arguments that are fixed.
    """
    if fresh:
        return jax.jit(functools.partial(function, logits_fn, **settings), static_argnames=("epsilon",))
    leaves = jax.tree.leaves(logits_fn)
    if leaves and all(isinstance(leaf, (jax.Array, np.ndarray)) for leaf in leaves):
        return functools.partial(_shared(function, tuple(sorted(settings.items()))), logits_fn)
    return _traced_anew(functools.partial(function, logits_fn, **settings))


@functools.lru_cache(maxsize=_KEPT)
def _shared(function: Callable[..., Any], settings: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    return jax.jit(functools.partial(function, **dict(settings)))


def _traced_anew(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function, traced once per shapes, whose programs are those of `_program`."""
    ready: dict[Any, Callable[..., Any]] = {}

    def call(*arrays: Any, **own: Any) -> Any:
        given, structure = jax.tree.flatten((arrays, own))
        if any(isinstance(leaf, Tracer) for leaf in given):
            return function(*arrays, **own)  # it becomes a part of the program that is traced
        given = [jnp.asarray(leaf) for leaf in given]
        kind = (structure, *map(jax.typeof, given))
        if kind not in ready:
            flat = lambda *given: _call(function, jax.tree.unflatten(structure, given))  # noqa: E731
            closed, shapes = jax.make_jaxpr(flat, return_shape=True)(*given)
            program, result = _program(closed, given), jax.tree.structure(shapes)
            ready[kind] = lambda *given: jax.tree.unflatten(result, program(closed.consts, *given))
        return ready[kind](*given)

    return call


def _call(function: Callable[..., Any], arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    return function(*arguments[0], **arguments[1])


def _program(closed: ClosedJaxpr, given: Sequence[Array]) -> Callable[..., Any]:
    """Compiles traced operations, or returns the program of the same ones.

    Programs are the same if their StableHLO is, which contains every constant that is no argument. It names callbacks
    to Python only by number, so that those are compiled anew.
    """
    lowered = jax.jit(functools.partial(eval_jaxpr, closed.jaxpr)).lower(closed.consts, *given)
    if closed.effects or getattr(jax.config, "jax_use_simplified_jaxpr_constants", False):
        return lowered.compile()
    text = lowered.as_text()
    if "callback" in text:
        return lowered.compile()
    places: list[Any] = [getattr(array, "sharding", None) for array in (*closed.consts, *given)]
    places.append(getattr(jax.config, "jax_default_device", None))
    key = hashlib.sha256(f"{places} {text}".encode()).digest()
    program = _PROGRAMS.pop(key, None) or lowered.compile()
    _PROGRAMS[key] = program  # at the end: the first is the one not used for the longest time
    if len(_PROGRAMS) > _KEPT:
        del _PROGRAMS[next(iter(_PROGRAMS))]
    return program


def compile_attack(
    attack: Callable[..., Adversarial], logits_fn: LogitsFn, *, norm: AnyNorm, bounds: Bounds, draws: int | None
) -> Callable[..., Adversarial]:
    """Compiles an attack on a network, and checks its results.

    An attack has succeeded only where its image is finite, in the ball and the bounds up to rounding, and misclassified
    when the network answers again; a stochastic network answers with the mean over new draws.

    Returns:
      `attack(images, labels, key, epsilon=)`; a targeted one also takes `ranks`. One program serves every epsilon,
      except for an attack of the user's, whose epsilon is a Python number.

    Raises:
      ConfigError: it returns no Adversarial of the shapes of the images and labels.
    """
    settings = {"norm": norm, "bounds": bounds, "draws": draws}
    ours = attack.__module__.startswith("sparsejax.")
    checked = _checked(attack) if ours else _checked.__wrapped__(attack)
    return compile_network(checked, logits_fn, fresh=not ours, **settings)


@functools.lru_cache(maxsize=_KEPT)
def _checked(attack: Callable[..., Adversarial]) -> Callable[..., Adversarial]:
    def checked(
        logits_fn: LogitsFn,
        x: Array,
        y: Array,
        key: PRNGKeyArray,
        *,
        epsilon: float | Array,
        norm: AnyNorm,
        bounds: Bounds,
        draws: int | None,
        **own: Any,
    ) -> Adversarial:
        found = attack(logits_fn, x, y, key=key, epsilon=epsilon, norm=norm, bounds=bounds, draws=draws, **own)
        shapes = [jnp.shape(part) for part in found] if isinstance(found, Adversarial) else type(found).__name__
        if shapes != [x.shape, y.shape]:
            raise ConfigError(
                f"The attack {getattr(attack, '__name__', attack)} returned {shapes}; expected an Adversarial with "
                f"images {x.shape} and success {y.shape}."
            )
        sound = _is_sound(x, found.images, epsilon, norm, bounds)
        wrong = is_misclassified(Network(logits_fn, draws)(found.images, jax.random.fold_in(key, _AGAIN)), y)
        return Adversarial(found.images, jnp.asarray(found.success, bool) & sound & wrong)

    return checked


def _is_sound(x: Array, images: Array, epsilon: float | Array, norm: AnyNorm, bounds: Bounds) -> Array:
    """Returns which images are finite, and in the ball and the bounds up to rounding in float32 `[batch]`."""
    x, images, (low, high) = widen(x), widen(images), bounds
    measure = norm if callable(norm) else functools.partial(length, norm=norm)
    rounding = jnp.finfo(x.dtype).eps * jnp.maximum(length(x, "linf"), length(images, "linf"))
    slack = 0 if norm == "l0" else measure(jnp.broadcast_to(expand(rounding, x), x.shape))
    near = measure(images - x) <= (1 + 1e-5) * epsilon + slack
    inside = jnp.minimum(low, x) - expand(rounding, x) <= images
    inside &= images <= jnp.maximum(high, x) + expand(rounding, x)
    return near & jnp.all(flatten(inside & jnp.isfinite(images)), axis=-1)
