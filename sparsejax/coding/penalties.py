r"""Penalties of linear codes: what a solver of :math:`\min_a \frac12 \|x - D a\|^2 + \Omega(a)` needs to know of Omega.

A penalty is a gauge: convex, and proportional to the length of a code in any direction. Then a dual point is feasible
if it is at most a fixed size in the dual gauge, and the duality gap is a sum of non-negative terms. c are the
correlations :math:`D^T r` of the atoms with the residual, all arrays are `[examples, atoms]`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


@functools.partial(jax.tree_util.register_dataclass, data_fields=["l1"], meta_fields=["nonnegative"])
@dataclasses.dataclass(frozen=True)
class L1:
    r""":math:`\sum_i \lambda_i |a_i|`, of non-negative codes alone if `nonnegative`.

    Attributes:
      l1: lambda: a number, or an array `[examples or 1, atoms or 1]`.
      nonnegative: whether codes are 0 or more.
    """

    l1: float | Array
    nonnegative: bool = False

    def shrink(self, z: Array, step: float | Array = 1.0) -> Array:
        """Returns the minimum of (a - z)^2 / 2 + step Omega(a)."""
        threshold = jnp.asarray(step * self.l1, z.dtype)
        return jnp.maximum(z - threshold, 0) if self.nonnegative else z - jnp.clip(z, -threshold, threshold)

    def cost(self, code: Array) -> Float[Array, "examples"]:
        """Returns Omega of codes."""
        return jnp.sum(self.l1 * jnp.abs(code), -1)

    def excess(self, c: Array) -> Float[Array, "examples"]:
        """Returns how far correlations are beyond those of a feasible dual point: the factor to divide them by."""
        return jnp.max(self._size(c) / self.l1, -1, initial=0)

    def slack(self, code: Array, c: Array) -> Float[Array, "examples"]:
        """Returns Omega(a) - a c, which is 0 or more for feasible c, without cancellation between its terms."""
        return jnp.sum(jnp.maximum(self.l1 * jnp.abs(code) - code * c, 0), -1)

    def violation(self, code: Array, c: Array) -> tuple[Array, Array]:
        """Returns the worst violation `[examples]` of the optimality conditions: as it is, and over lambda."""
        off = jnp.maximum(self._size(c) - self.l1, 0)
        violation = jnp.where(code != 0, jnp.abs(c - self.slope(code)), off)
        return jnp.max(violation, -1, initial=0), jnp.max(violation / self.l1, -1, initial=0)

    def slope(self, code: Array) -> Array:
        """Returns the derivative of Omega where it has one: at the codes that are not 0; else 0."""
        return self.l1 * jnp.sign(code)

    def dual(self, code: Array, c: Array) -> Array:
        """Returns the dual variables nearest to c with which the code satisfies the optimality conditions."""
        within = jnp.minimum(c, self.l1) if self.nonnegative else jnp.clip(c, -self.l1, self.l1)
        return jnp.where(code != 0, self.slope(code), within)

    def _size(self, c: Array) -> Array:
        return jnp.maximum(c, 0) if self.nonnegative else jnp.abs(c)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["l1", "members"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class GroupL1:
    r""":math:`\sum_g \lambda_g \|a_g\|`, the sum of the lengths of groups of coefficients.

    Attributes:
      l1: lambda_g: a number, or an array `[examples or 1, groups or 1]`.
      members: which atoms each group has, `[atoms, groups]`; each atom is in one group.
    """

    l1: float | Array
    members: Any  # of bool; of other leaves within JAX

    def shrink(self, z: Array, step: float | Array = 1.0) -> Array:
        """Returns the minimum of (a - z)^2 / 2 + step Omega(a)."""
        length = self._lengths(z)
        threshold = jnp.asarray(step * self.l1, z.dtype)
        left = jnp.where(length > threshold, 1 - threshold / jnp.where(length > threshold, length, 1), 0)
        # Group by group, where 0 * inf would be nan.
        return jnp.where(self._spread(left) > 0, z * self._spread(left), 0)

    def cost(self, code: Array) -> Float[Array, "examples"]:
        """Returns Omega of codes."""
        return jnp.sum(self.l1 * self._lengths(code), -1)

    def excess(self, c: Array) -> Float[Array, "examples"]:
        """Returns how far correlations are beyond those of a feasible dual point: the factor to divide them by."""
        return jnp.max(self._lengths(c) / self.l1, -1, initial=0)

    def slack(self, code: Array, c: Array) -> Float[Array, "examples"]:
        """Returns Omega(a) - a c, which is 0 or more for feasible c, without cancellation between its terms."""
        return jnp.sum(jnp.maximum(self.l1 * self._lengths(code) - self._sum(code * c), 0), -1)

    def violation(self, code: Array, c: Array) -> tuple[Array, Array]:
        """Returns the worst violation `[examples]` of the optimality conditions: as it is, and over lambda."""
        off = jnp.maximum(self._lengths(c) - self.l1, 0)
        violation = jnp.where(self._lengths(code) > 0, self._lengths(c - self.slope(code)), off)
        return jnp.max(violation, -1, initial=0), jnp.max(violation / self.l1, -1, initial=0)

    def slope(self, code: Array) -> Array:
        """Returns the derivative of Omega where it has one: in the groups that are not 0; else 0."""
        length = self._lengths(code)
        return code * self._spread(jnp.where(length > 0, self.l1 / jnp.where(length > 0, length, 1), 0))

    def dual(self, code: Array, c: Array) -> Array:
        """Returns the dual variables nearest to c with which the code satisfies the optimality conditions."""
        factor = jnp.minimum(1, self.l1 / jnp.maximum(self._lengths(c), jnp.finfo(c.dtype).tiny))
        return jnp.where(self._spread(self._lengths(code)) > 0, self.slope(code), c * self._spread(factor))

    def _sum(self, values: Array) -> Array:
        return jnp.matmul(values, self.members.astype(values.dtype), precision=lax.Precision.HIGHEST)

    def _spread(self, values: Array) -> Array:
        return jnp.matmul(values, self.members.T.astype(values.dtype), precision=lax.Precision.HIGHEST)

    def _lengths(self, values: Array) -> Array:
        squares = self._sum(values**2)
        return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


Penalty = L1 | GroupL1
