"""Settings of the estimators, checked when they are used, as scikit-learn's conventions demand, and the solvers."""

import math
import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sparsejax.coding.admm import admm
from sparsejax.coding.objective import lasso_objective
from sparsejax.coding.problem import Code
from sparsejax.coding.pursuit import orthogonal_matching_pursuit
from sparsejax.coding.quadratic import product
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
    nonnegative: bool
    max_iterations: int
    l1: float | Array
    l2: float | Array
    tolerance: float | Array
    omp_tolerance: float | Array | None
    omp_error: float | Array | None

    def solve(self, x: Array, dictionary: Array, *, violation: float | None = None) -> Code:
        """Codes x `[examples, inputs]` with a dictionary `[inputs, atoms]`; `violation` as in `admm`."""
        if self.pursuit:
            part, error = self.omp_tolerance, self.omp_error
            return orthogonal_matching_pursuit(x, dictionary, k=self.k, tolerance=part, error=error)
        limits = {"tolerance": self.tolerance, "violation": violation, "max_iterations": self.max_iterations}
        return admm(x, dictionary, l1=self.l1, l2=self.l2, nonnegative=self.nonnegative, **limits)

    def objective(self, x: Array, dictionary: Array, code: Array) -> Array:
        """Returns what the codes minimise, for each example: the lasso's objective, or half the squared error."""
        if self.pursuit:
            return jnp.sum((x - product(code, dictionary.T)) ** 2, -1) / 2
        return lasso_objective(x, dictionary, code, l1=self.l1, l2=self.l2)

    def unfinished(self, code: Code) -> tuple[Array, Array]:
        """Returns the number of codes that have not converged, and their largest gap; k atoms end a pursuit."""
        if self.pursuit:
            unfinished = ~code.converged if self.k is None else jnp.zeros_like(code.converged)
        else:
            unfinished = ~(code.gap <= self.tolerance)
        return jnp.sum(unfinished, dtype=jnp.int32), jnp.max(jnp.where(unfinished, code.gap, 0), initial=0)

    def split(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Returns the fields that a compiled program depends on, and those that it takes as numbers."""
        return tuple(self[:4]), tuple(self[4:])

    def describe(self, count: int, codes: int, worst: float, when: str) -> str:
        """Returns the warning that codes have not converged."""
        by = f"by {count} of the {codes} codes {when}"
        if self.pursuit:
            limits = f"omp_tolerance={self.omp_tolerance}, omp_error={self.omp_error}"
            return (
                f"{limits} was not reached with all atoms {by}; at worst {worst:.2g} of the energy is left. Raise it."
            )
        return (
            f"tolerance={self.tolerance:g} was not reached within {self.max_iterations} iterations {by}; the worst "
            f"relative duality gap is {worst:.2g}. Raise max_iterations, tolerance or l1."
        )


def check_coding(settings: dict[str, Any], *, pursuit: bool | None = None) -> Coding:
    """Returns the settings of the codes among those of an estimator; `pursuit` is None to pursue if there is a limit.

    Raises:
      ValueError: one is of another type or out of range, or they do not go together.
    """
    k, part, error = (settings[name] for name in ("k", "omp_tolerance", "omp_error"))
    limited = not (k is part is error is None)
    if pursuit and not limited:
        raise ValueError(
            "k, omp_tolerance and omp_error are None, but codes are to be pursued; expected a limit, such as k=8."
        )
    how = Coding(
        pursuit=limited if pursuit is None else pursuit,
        k=None if k is None else check_count("k", k),
        nonnegative=check_flag("nonnegative", settings["nonnegative"]),
        max_iterations=check_count("max_iterations", settings["max_iterations"]),
        l1=check_number("l1", settings["l1"], positive=True),
        l2=check_number("l2", settings["l2"]),
        tolerance=check_number("tolerance", settings["tolerance"]),
        omp_tolerance=None if part is None else check_number("omp_tolerance", part),
        omp_error=None if error is None else check_number("omp_error", error),
    )
    if how.nonnegative and how.pursuit:
        raise ValueError(
            "nonnegative is True, but a pursuit's codes are of either sign; expected no k, omp_tolerance or omp_error, "
            "for the lasso."
        )
    return how
