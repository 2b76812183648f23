"""Transformers of scikit-learn that learn a dictionary or code with one; the only part of `coding` that imports it."""

from sparsejax.coding.estimators.coder import SparseCoder
from sparsejax.coding.estimators.learner import DictionaryLearner

__all__ = ["DictionaryLearner", "SparseCoder"]
