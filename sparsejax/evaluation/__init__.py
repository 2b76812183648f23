"""Evaluation: the measures of a run, adversarial attacks, and robustness reports."""

import importlib
from typing import TYPE_CHECKING, Any

_NAMES = {
    "Measure": "measure",
    "register_attack": "attacks.registry",
    "register_measure": "measure",
    "robustness_report": "robustness",
}
__all__ = ["Measure", "register_attack", "register_measure", "robustness_report"]

if TYPE_CHECKING:
    from sparsejax.evaluation.attacks.registry import register_attack
    from sparsejax.evaluation.measure import Measure, register_measure
    from sparsejax.evaluation.robustness import robustness_report


def __getattr__(name: str) -> Any:
    """Import a module on first use."""
    if name in _NAMES:
        return getattr(importlib.import_module(f"sparsejax.evaluation.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'sparsejax.evaluation' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
