"""Figures of the thesis "Sparse Coding in Deep Neural Networks and the Visual System"."""
