"""Registers references, and says where nothing is promised."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Undefined(Exception):
    """Nothing is promised for these arguments."""


class Reference(NamedTuple):
    reference: Callable[[Any, Any], Any]
    prepare: Callable[[Any, dict[str, Any]], dict[str, Any]] = lambda draw, arguments: arguments
    may_refuse: bool = False
    """Whether arguments that the draw calls valid may be refused."""


REFERENCES: dict[str, Reference] = {}


def reference(name: str, prepare=Reference._field_defaults["prepare"], may_refuse: bool = False):
    """Registers the reference of one function."""

    def register(function):
        REFERENCES[name] = Reference(function, prepare, may_refuse)
        return function

    return register


def need(*conditions: Any) -> None:
    """Raises Undefined unless all conditions hold."""
    if not all(map(bool, conditions)):
        raise Undefined


def finite(*arrays: Any) -> None:
    """Raises Undefined unless the arrays are tame: neither NaN, nor infinite, nor of extreme size."""
    for array in arrays:
        size = np.abs(np.asarray(array, np.float64))
        need(array is None or (np.isfinite(size).all() and size.max(initial=0) < 1e4))


def relu(x):
    return np.maximum(x, 0)
