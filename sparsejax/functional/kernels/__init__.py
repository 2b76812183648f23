"""Pallas kernels, imported only on use."""
