"""The group lasso: atoms enter a code by groups."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sparsejax.coding.iterate import check_loop, goal
from sparsejax.coding.lasso import accelerate
from sparsejax.coding.penalties import GroupL1
from sparsejax.coding.problem import (
    AnyArray,
    Code,
    Problem,
    arrays,
    cast,
    check_weight,
    observe,
    per_example,
    restore_batch_axes,
)
from sparsejax.functional.arguments import checked


@checked
def group_lasso(
    x: Float[AnyArray, "*batch inputs"],
    dictionary: Float[AnyArray, "inputs atoms"],
    *,
    groups: Int[np.ndarray, "labels"],
    l1: float | Float[AnyArray, "..."],
    l2: float | Float[Array, ""] = 0.0,
    mask: Bool[AnyArray, "*observed"] | None = None,
    initial: Float[AnyArray, "*batch atoms"] | None = None,
    tolerance: float | Float[Array, ""] | None = 1e-4,
    violation: float | Float[Array, ""] | None = 5e-4,
    max_iterations: int = 2000,
    check_every: int = 10,
) -> Code:
    r"""Codes x by FISTA on :math:`\frac12 \|x - D a\|^2 + \sum_g \lambda_g \|a_g\| + \frac{\lambda_2}{2} \|a\|^2`.

    The coefficients of a group are all 0, or none is. With groups of one atom it is the lasso.

    Args:
      x: `[..., inputs]`.
      dictionary: `[inputs, atoms]`, atoms of any norm.
      groups: the group of each atom `[atoms]`, numbered from 0; a NumPy array, or a JAX array with known values.
      l1: lambda > 0: a number, one per group `[groups]`, or an array that broadcasts to `[..., groups]`; may be traced.
        Yuan & Lin weigh a group by the root of its size: `l1 * np.sqrt(np.bincount(groups))`.
      l2: lambda_2 >= 0, weight of half the squared length of the code; may be traced.
      mask: True for the inputs that were observed, broadcast to x; None for all.
      initial: a code to start from, `[..., atoms]`; None for zeros.
      tolerance: largest relative duality gap; None for exactly `max_iterations`, without measuring.
      violation: largest violation of a group's optimality conditions over its lambda to reach as well; None for any.
      max_iterations: upper bound.
      check_every: iterations between two measures of the gap.

    Returns:
      Code `[..., atoms]`, with the relative duality gap. It has derivatives, like those of `fista`.

    Raises:
      ValueError: shapes do not fit, a known number is out of range, or groups are not numbered from 0.

    References:
      Yuan & Lin, Model selection and estimation in regression with grouped variables, 2006; Bach, Jenatton, Mairal &
      Obozinski, Optimization with Sparsity-Inducing Penalties, 2012, section 3.3 (the proximal operator).
    """
    check_loop(tolerance, max_iterations, check_every, violation)
    x, dictionary, start, batch = arrays(x, dictionary, initial)
    groups = np.asarray(groups)
    if groups.shape != dictionary.shape[1:]:
        raise ValueError(f"groups has shape {groups.shape}; expected the group of each of {dictionary.shape[1]} atoms.")
    count = int(groups.max(initial=-1)) + 1
    if groups.min(initial=0) < 0:
        raise ValueError(f"groups has {groups.min()}; expected groups that are numbered from 0.")
    check_weight("l1", l1, above=0, hint=" (for 0, solve the least-squares problem instead)")
    check_weight("l2", l2, least=0)
    weight = cast(per_example("l1", l1, batch, count, "groups"), x.dtype)
    x, dictionary, mask = observe(x, dictionary, mask, batch)
    members = jnp.asarray(groups[:, None] == np.arange(count))
    problem = Problem(x, dictionary, start, GroupL1(weight, members), cast(l2, x.dtype), mask)
    settings = {"max_iterations": max_iterations, "check_every": check_every}
    return restore_batch_axes(accelerate(problem, goal(tolerance, violation), **settings), batch)
