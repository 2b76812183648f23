"""Settings of the estimators, checked when they are used, as scikit-learn's conventions demand, and the solvers."""

import math
import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sparsejax.coding.lasso import admm
from sparsejax.coding.objective import Code, lasso_objective, product
from sparsejax.coding.pursuit import orthogonal_matching_pursuit
from sparsejax.functional.arguments import check_int


def check_count(name: str, value: Any, *, least: int = 1) -> int:
    """Returns an integer of any type as a Python int.

    Raises:
      ValueError: it is no integer, or too small.
    """
    number = check_int(name, value)
    if number < least:
        raise ValueError(f"{name} is {number}; expected an integer, {least} or more.")
    return number


def check_number(name: str, value: Any, *, positive: bool = False) -> float:
    """Returns a finite number of any type, 0 or more, as a Python float.

    Raises:
      ValueError: it is no number, is not finite, or is out of range.
    """
    expected = "a finite number above 0" if positive else "a finite number, 0 or more"
    scalar = isinstance(value, (np.generic, np.ndarray, jax.Array)) and value.ndim == 0
    number = value.item() if scalar else value
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        raise ValueError(f"{name} is {number!r}; expected {expected}.")
    if not 0 <= float(number) < math.inf or (positive and number == 0):
        raise ValueError(f"{name} is {number!r}; expected {expected}.")
    return float(number)


def check_flag(name: str, value: Any) -> bool:
    """Returns a bool of any type as Python's.

    Raises:
      ValueError: it is not True or False.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} is {value!r}; expected True or False.")
    return bool(value)


class Coding(NamedTuple):
    """How an estimator codes: by orthogonal matching pursuit if `pursuit`, else by the lasso."""

    pursuit: bool
    k: int | None
    max_iterations: int
    l1: float | Array
    tolerance: float | Array
    omp_tolerance: float | Array | None

    def solve(self, x: Array, dictionary: Array) -> Code:
        """Codes x `[examples, inputs]` with a dictionary `[inputs, atoms]`."""
        if self.pursuit:
            assert self.k is not None
            return orthogonal_matching_pursuit(x, dictionary, k=self.k, tolerance=self.omp_tolerance)
        limits = {"tolerance": self.tolerance, "violation": None, "max_iterations": self.max_iterations}
        return admm(x, dictionary, l1=self.l1, **limits)

    def objective(self, x: Array, dictionary: Array, code: Array) -> Array:
        """Returns what the codes minimise, for each example: the lasso's objective, or half the squared error."""
        if self.pursuit:
            return jnp.sum((x - product(code, dictionary.T)) ** 2, -1) / 2
        return lasso_objective(x, dictionary, code, l1=self.l1)

    def unfinished(self, code: Code) -> tuple[Array, Array]:
        """Returns the number of codes that have not converged, and their largest gap; a pursuit ends as asked for."""
        unfinished = jnp.zeros_like(code.gap, bool) if self.pursuit else ~(code.gap <= self.tolerance)
        return jnp.sum(unfinished, dtype=jnp.int32), jnp.max(jnp.where(unfinished, code.gap, 0), initial=0)

    def split(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Returns the fields that a compiled program depends on, and those that it takes as numbers."""
        return tuple(self[:3]), tuple(self[3:])


def check_coding(settings: dict[str, Any], *, pursuit: bool | None = None) -> Coding:
    """Returns the settings of the codes among those of an estimator; `pursuit` is None to pursue if there is a limit.

    Raises:
      ValueError: one is of another type or out of range, or they do not go together.
    """
    k, part = settings["k"], settings["omp_tolerance"]
    how = Coding(
        pursuit=(k is not None or part is not None) if pursuit is None else pursuit,
        k=None if k is None else check_count("k", k),
        max_iterations=check_count("max_iterations", settings["max_iterations"]),
        l1=check_number("l1", settings["l1"], positive=True),
        tolerance=check_number("tolerance", settings["tolerance"]),
        omp_tolerance=None if part is None else check_number("omp_tolerance", part),
    )
    if how.pursuit and k is None:
        raise ValueError("k is None, but codes are to be pursued; expected a number of atoms, such as k=8.")
    return how


def describe(count: int, codes: int, worst: float, when: str, how: Coding) -> str:
    """Returns the warning that codes have not converged."""
    return (
        f"tolerance={how.tolerance:g} was not reached within {how.max_iterations} iterations by {count} of the {codes} "
        f"codes {when}; the worst relative duality gap is {worst:.2g}. Raise max_iterations, tolerance or l1."
    )
