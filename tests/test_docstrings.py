"""The reference is complete: arguments, shapes, errors, and sources."""

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

MODULES = (
    "sparsejax.functional", "sparsejax.functional.measures", "sparsejax.functional.penalties", "sparsejax.coding",
    "sparsejax.evaluation.attacks", "sparsejax.evaluation.robustness",
    "sparsejax.interop", "sparsejax.models.inference",
)  # fmt: skip
ELEMENTARY = frozenset({
    "activation_frequency", "active_counts", "active_fraction", "confusion_matrix", "conv2d", "conv2d_twice",
    "dead_units", "depthwise_conv2d", "example_keys", "is_misclassified", "kth_largest", "l0", "l2", "magnitude_counts",
    "max_pool2d", "precision", "recall", "to_dense", "winners",
    "named_arrays", "save_weights", "load_weights", "torch_kernel",
})  # fmt: skip
"""Common definitions and algorithms without a source."""


def exported(module: str) -> list[str]:
    """Returns the names of a module's public functions."""
    loaded = importlib.import_module(module)
    names = getattr(loaded, "__all__", None) or [
        name for name, item in vars(loaded).items()
        if not name.startswith("_") and getattr(item, "__module__", None) == module
    ]  # fmt: skip
    return [name for name in names if callable(item := getattr(loaded, name)) and not inspect.isclass(item)]


def raises(function: Callable[..., Any]) -> bool:
    """Returns whether the function, or one of its own module that it calls, raises our errors."""
    function = inspect.unwrap(function)
    body = ast.parse(textwrap.dedent(inspect.getsource(function)))
    if any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(body)):
        return True
    called = {node.func.id for node in ast.walk(body) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    near = (vars(inspect.getmodule(function)).get(name) for name in called if name.startswith("_"))
    return any(raises(helper) for helper in near if inspect.isfunction(helper))


def missing(function: Callable[..., Any]) -> list[str]:
    """Returns what is missing in the docstring of a function."""
    said = inspect.getdoc(function) or ""
    told = {name for line in re.findall(r"^  ((?:\*{0,2}\w+, )*\*{0,2}\w+): ", said, re.MULTILINE)
            for name in re.split(r"\W+", line)}  # fmt: skip
    parameters = inspect.signature(function).parameters
    lacks = [f"argument {name}" for name in parameters if name not in told]
    if not re.search(r"^(Returns|Yields):$", said, re.MULTILINE) and not re.search(r"\b(Returns|Yields) ", said):
        lacks.append("what is returned")
    if "Array" in str(inspect.signature(function)) and not re.search(r"`\[[^\]]*\]|\blike \w+", said):
        lacks.append("shapes")
    if raises(function) and "\nRaises:\n" not in said:
        lacks.append("errors")
    if function.__name__ not in ELEMENTARY and "\nReferences:\n" not in said:
        lacks.append("source")
    return lacks


@pytest.mark.parametrize("module", MODULES)
def test_public_functions_are_fully_documented(module):
    functions = {name: getattr(importlib.import_module(module), name) for name in exported(module)}
    assert functions
    assert {name: lacks for name, function in functions.items() if (lacks := missing(function))} == {}


def test_what_is_missing_is_found():
    def silent(x, k):
        raise ValueError(k)

    assert missing(silent) == ["argument x", "argument k", "what is returned", "errors", "source"]
