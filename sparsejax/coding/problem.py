"""The arguments of solvers: checked, in one shape and type; and what they return."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from sparsejax.coding.penalties import L1, Penalty
from sparsejax.coding.quadratic import Data, product
from sparsejax.functional.sums import at_least_float32

AnyArray = Array | np.ndarray
"""What the functions take: arrays of either kind."""


class Code(NamedTuple):
    """What a solver returns.

    An example with a value that is not finite, or any example of a dictionary with one, gets a code and a gap of nan,
    and counts as not converged.

    Attributes:
      code: `[..., atoms]`.
      iterations: number of iterations for each example, `[...]`.
      gap: distance from the optimum, `[...]`: the relative duality gap of lasso solvers; see the other solvers'
        docstrings.
      converged: whether each example reached the tolerances, `[...]`; where none were given, whether its gap is finite.
    """

    code: Float[Array, "*batch atoms"]
    iterations: Int[Array, "*batch"]
    gap: Float[Array, "*batch"]
    converged: Bool[Array, "*batch"]


class Problem(NamedTuple):
    """What solvers take, in one type.

    Attributes:
      x: `[examples, inputs]`, 0 where it was not observed.
      dictionary: `[inputs, atoms]`.
      start: the code to start from, `[examples, atoms]`.
      penalty: of the code.
      l2: weight of half the squared length of the code.
      mask: which inputs were observed, `[examples, inputs]`; None for all.
    """

    x: Float[Array, "examples inputs"]
    dictionary: Float[Array, "inputs atoms"]
    start: Float[Array, "examples atoms"]
    penalty: Penalty
    l2: float | Array
    mask: Bool[Array, "examples inputs"] | None

    def data(self) -> Data:
        """Returns what each example brings to the iterations."""
        own = jnp.shape(self.penalty.l1)[:1] == (len(self.x),)
        return Data(product(self.x, self.dictionary), self.x, self.mask, self.penalty if own else None)


def lasso_problem(
    x: ArrayLike,
    dictionary: ArrayLike,
    initial: ArrayLike | None,
    *,
    l1: float | ArrayLike,
    l2: float | Array = 0.0,
    nonnegative: bool = False,
    mask: ArrayLike | None = None,
) -> tuple[Problem, tuple[int, ...]]:
    """Checks the arguments of a lasso solver; returns the problem and the batch's shape.

    Raises:
      ValueError: shapes do not fit, or a known weight is out of range.
    """
    x, dictionary, start, batch = arrays(x, dictionary, initial)
    check_weight("l1", l1, above=0, hint=" (for 0, solve the least-squares problem instead)")
    check_weight("l2", l2, least=0)
    weight = per_example("l1", l1, batch, dictionary.shape[1], "atoms")
    x, dictionary, mask = observe(x, dictionary, mask, batch)
    if nonnegative:
        start = jnp.maximum(start, 0)
    return Problem(x, dictionary, start, L1(cast(weight, x.dtype), nonnegative), cast(l2, x.dtype), mask), batch


def arrays(x: ArrayLike, dictionary: ArrayLike, code: ArrayLike | None) -> tuple[Array, Array, Array, tuple[int, ...]]:
    """Checks the arguments; returns x `[examples, inputs]`, the dictionary, the code (or zeros) and the batch's shape.

    Raises:
      ValueError: shapes do not fit.
    """
    x, dictionary = at_least_float32(x), at_least_float32(dictionary)
    if dictionary.ndim != 2 or not x.ndim or x.shape[-1] != dictionary.shape[0]:
        hint = "; pass its transpose" if dictionary.ndim == 2 and x.shape[-1:] == dictionary.shape[1:] else ""
        raise ValueError(
            f"x has shape {x.shape} and dictionary {dictionary.shape}; expected x [..., inputs] and a dictionary "
            f"[inputs, atoms], whose columns are the atoms{hint}."
        )
    batch, atoms = x.shape[:-1], dictionary.shape[1]
    if code is not None and jnp.shape(code) != (*batch, atoms):
        raise ValueError(
            f"The code has shape {jnp.shape(code)}; expected [..., atoms], here {(*batch, atoms)}, for x {x.shape} and "
            f"a dictionary of {atoms} atoms."
        )
    examples = math.prod(batch)
    start = jnp.zeros((examples, atoms), x.dtype) if code is None else at_least_float32(code).reshape(examples, atoms)
    return x.reshape(examples, x.shape[-1]), dictionary.astype(x.dtype), start.astype(x.dtype), batch


def check_weight(
    name: str, value: float | ArrayLike, *, above: float | None = None, least: float = 0, hint: str = ""
) -> None:
    """Checks a weight, or an array of them, unless it is traced.

    Raises:
      ValueError: it is not above, or not at least, a bound; or it is infinite or not a number.
    """
    if isinstance(value, Tracer):
        return
    values = np.asarray(value)
    good = (values > above if above is not None else values >= least) & ~np.isinf(values)
    if not good.all():
        worst = value if np.ndim(value) == 0 else f"an array with {values[~good].flat[0]}"
        bound = f"above {above}" if above is not None else f"of {least} or more"
        finite = "finite " * bool(np.isinf(values).any())
        raise ValueError(f"{name} is {worst}; expected a {finite}weight {bound}{hint}.")


def leave_out(x: Array, start: Array, dictionary: Array) -> tuple[Array, Array, Bool[Array, "examples"]]:
    """Returns x and the start with zeros for examples that are not finite, and which examples are finite."""
    finite = jnp.isfinite(x).all(-1) & jnp.isfinite(start).all(-1)
    x, start = (jnp.where(finite[:, None], a, 0) for a in (x, start))  # zeros have converged at once
    return x, start, finite & jnp.isfinite(dictionary).all()


def fill_in(code: Code, finite: Bool[Array, "examples"]) -> Code:
    """Returns the code with nan for the examples that are not finite."""
    values = jnp.where(finite[:, None], code.code, jnp.nan)
    return Code(values, code.iterations, jnp.where(finite, code.gap, jnp.nan), code.converged & finite)


def restore_batch_axes(code: Code, batch: tuple[int, ...]) -> Code:
    """Returns the result with the batch axes that x had."""
    return jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), code)


def per_example(name: str, weight: Any, batch: tuple[int, ...], size: int, axis: str) -> Array | float:
    """Returns a weight as a number, `[1, size]` for all examples, or `[examples, size or 1]`.

    Raises:
      ValueError: it does not broadcast to `[..., size]`.
    """
    if jnp.ndim(weight) == 0:
        return weight
    shape = jnp.shape(weight)
    if not _broadcasts(shape, (*batch, size)):
        raise ValueError(
            f"{name} has shape {shape}; expected a number, [{axis}], or what broadcasts to {(*batch, size)}, such as "
            f"{name}[:, None] for one weight per example."
        )
    if len(shape) == 1:
        return jnp.asarray(weight)[None, :]
    return jnp.broadcast_to(jnp.asarray(weight), (*batch, shape[-1])).reshape(math.prod(batch), shape[-1])


def observe(
    x: Array, dictionary: Array, mask: ArrayLike | None, batch: tuple[int, ...]
) -> tuple[Array, Array, Array | None]:
    """Returns x, the dictionary, and the mask `[examples, inputs]`: None if there is none, or one for all examples.

    Raises:
      ValueError: the mask does not broadcast to x.
    """
    if mask is None:
        return x, dictionary, None
    mask, inputs = jnp.asarray(mask), x.shape[1]
    if not mask.ndim or not _broadcasts(mask.shape, (*batch, inputs)):
        raise ValueError(
            f"mask has shape {mask.shape}; expected what broadcasts to x, {(*batch, inputs)}: [inputs] for one mask of "
            "all examples, or [..., inputs]."
        )
    if mask.ndim == 1:  # these inputs are missing everywhere, so that the atoms do not need them either
        return jnp.where(mask, x, 0), jnp.where(mask[:, None], dictionary, 0), None
    mask = jnp.broadcast_to(mask, (*batch, inputs)).reshape(x.shape)
    return jnp.where(mask, x, 0), dictionary, mask


def _broadcasts(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Returns whether an array of this shape can be broadcast to that of a whole."""
    return len(shape) <= len(whole) and all(
        size in (1, other) for size, other in zip(reversed(shape), reversed(whole), strict=False)
    )


def cast(weight: float | ArrayLike, dtype: jnp.dtype) -> float | Array:
    """Returns arrays in the problem's precision; numbers take it on by themselves."""
    return weight if isinstance(weight, (int, float)) else jnp.asarray(weight, dtype)
