"""Figures of "Noise Transforms Feed-Forward Networks into Sparse Coding Networks" and "Emergence of
Sparse Representations from Noise".
"""
