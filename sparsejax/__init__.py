"""Sparse activations in JAX: pure functions, Flax adapters, networks and a trainer.

`import sparsejax as sj` gives access to all modules, which are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0.dev0"

_MODULES = ("coding", "configs", "data", "errors", "evaluation", "functional", "linen", "models", "nnx")
_NAMES = {
    "Config": "training.config",
    "DataConfig": "training.config",
    "DevicesConfig": "training.config",
    "EvaluationConfig": "training.config",
    "ObjectiveConfig": "training.config",
    "TrainingConfig": "training.config",
    "Run": "runs",
    "compare": "api",
    "harvest": "evaluation.sae.harvest",
    "load": "api",
    "load_sae": "evaluation.sae.files",
    "save_sae": "evaluation.sae.files",
    "train": "api",
}
__all__ = [
    "Config", "DataConfig", "DevicesConfig", "EvaluationConfig", "ObjectiveConfig", "Run", "TrainingConfig", "coding",
    "compare", "configs", "data", "errors", "evaluation", "functional", "harvest", "linen", "load", "load_sae",
    "models", "nnx", "save_sae", "train",
]  # fmt: skip

if TYPE_CHECKING:
    from sparsejax import coding, configs, data, errors, evaluation, functional, linen, models, nnx
    from sparsejax.api import compare, load, train
    from sparsejax.evaluation.sae.files import load_sae, save_sae
    from sparsejax.evaluation.sae.harvest import harvest
    from sparsejax.runs import Run
    from sparsejax.training.config import (
        Config,
        DataConfig,
        DevicesConfig,
        EvaluationConfig,
        ObjectiveConfig,
        TrainingConfig,
    )


def __getattr__(name: str) -> Any:
    """Import a module on first use."""
    if name in _MODULES:
        return importlib.import_module(f"sparsejax.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"sparsejax.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'sparsejax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
