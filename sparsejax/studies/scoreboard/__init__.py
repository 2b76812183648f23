"""One benchmark for all sparsity methods."""
