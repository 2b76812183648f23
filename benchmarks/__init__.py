"""Benchmarks against peers: `python -m benchmarks`."""

import sparsejax.figures  # noqa: F401  before any module imports matplotlib
