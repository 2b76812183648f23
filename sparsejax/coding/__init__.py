"""Linear codes: inference and dictionary learning. Pure functions that need jax, numpy and jaxtyping, nothing else."""

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
