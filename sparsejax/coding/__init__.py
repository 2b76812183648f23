"""Linear codes: inference and dictionary learning. Pure functions that need only jax, numpy and jaxtyping."""

from sparsejax.coding.convolutional import ConvolutionalCode, convolutional_code, convolutional_reconstruct
from sparsejax.coding.convolutional_dictionary import convolutional_dictionary_step, init_convolutional_dictionary
from sparsejax.coding.dictionary import DictionaryState, dictionary_step, init_dictionary
from sparsejax.coding.estimator import DictionaryLearner
from sparsejax.coding.images import extract_patches, psnr, reconstruct_from_patches
from sparsejax.coding.ksvd import L0Fit, ksvd_step, mod_step
from sparsejax.coding.lasso import admm, fista, ista
from sparsejax.coding.lca import lca
from sparsejax.coding.objective import (
    Code,
    duality_gap,
    hard_threshold,
    kkt_violation,
    lasso_objective,
    soft_threshold,
)
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

__all__ = [
    "Code",
    "ConvolutionalCode",
    "DictionaryLearner",
    "DictionaryState",
    "L0Fit",
    "SparsenetMetrics",
    "SparsenetState",
    "admm",
    "convolutional_code",
    "convolutional_dictionary_step",
    "convolutional_reconstruct",
    "dictionary_step",
    "duality_gap",
    "extract_patches",
    "fista",
    "hard_threshold",
    "init_convolutional_dictionary",
    "init_dictionary",
    "init_sparsenet",
    "ista",
    "kkt_violation",
    "ksvd_step",
    "lasso_objective",
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
]
