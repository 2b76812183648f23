"""Pallas kernels, imported only where they are used."""
