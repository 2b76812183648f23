"""Sparse activations in JAX: pure functions, Flax adapters, networks and a trainer.

Import what you need from `sparsejax.functional`, `sparsejax.linen`, `sparsejax.nnx` or `sparsejax.models`.
"""

__version__ = "0.1.0"
