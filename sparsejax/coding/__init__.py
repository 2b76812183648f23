"""Linear codes: inference and dictionary learning. Pure functions that need only jax, numpy and jaxtyping.

`DictionaryLearner` and `SparseCoder` are transformers of scikit-learn, which is imported on their first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from sparsejax.coding.admm import admm
from sparsejax.coding.constrained import ConstrainedCode, code_within_error, code_within_l1, lasso_path
from sparsejax.coding.convolutional import ConvolutionalCode, convolutional_code, convolutional_reconstruct
from sparsejax.coding.convolutional_dictionary import convolutional_dictionary_step, init_convolutional_dictionary
from sparsejax.coding.dictionary import DictionaryState, dictionary_step, init_dictionary, update_dictionary
from sparsejax.coding.group_lasso import group_lasso
from sparsejax.coding.images import extract_patches, psnr, reconstruct_from_patches
from sparsejax.coding.ksvd import L0Fit, ksvd_step, mod_step
from sparsejax.coding.lasso import fista, ista
from sparsejax.coding.lca import lca
from sparsejax.coding.objective import (
    duality_gap,
    hard_threshold,
    kkt_violation,
    lasso_objective,
    soft_threshold,
)
from sparsejax.coding.problem import Code
from sparsejax.coding.pursuit import matching_pursuit, orthogonal_matching_pursuit
from sparsejax.coding.sparse_set import sparse_set
from sparsejax.coding.sparsenet import (
    SparsenetMetrics,
    SparsenetState,
    init_sparsenet,
    sparsenet_code,
    sparsenet_objective,
    sparsenet_step,
)

if TYPE_CHECKING:
    from sparsejax.coding.estimators import DictionaryLearner, SparseCoder

__all__ = [
    "Code",
    "ConstrainedCode",
    "ConvolutionalCode",
    "DictionaryLearner",
    "DictionaryState",
    "L0Fit",
    "SparseCoder",
    "SparsenetMetrics",
    "SparsenetState",
    "admm",
    "code_within_error",
    "code_within_l1",
    "convolutional_code",
    "convolutional_dictionary_step",
    "convolutional_reconstruct",
    "dictionary_step",
    "duality_gap",
    "extract_patches",
    "fista",
    "group_lasso",
    "hard_threshold",
    "init_convolutional_dictionary",
    "init_dictionary",
    "init_sparsenet",
    "ista",
    "kkt_violation",
    "ksvd_step",
    "lasso_objective",
    "lasso_path",
    "lca",
    "matching_pursuit",
    "mod_step",
    "orthogonal_matching_pursuit",
    "psnr",
    "reconstruct_from_patches",
    "soft_threshold",
    "sparse_set",
    "sparsenet_code",
    "sparsenet_objective",
    "sparsenet_step",
    "update_dictionary",
]


def __getattr__(name: str) -> Any:
    """Imports the estimators on first use."""
    if name in ("DictionaryLearner", "SparseCoder"):
        return getattr(importlib.import_module("sparsejax.coding.estimators"), name)
    raise AttributeError(f"module 'sparsejax.coding' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
