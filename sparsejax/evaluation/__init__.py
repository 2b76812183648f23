"""Evaluation: accuracy, noise score, and how evenly a network uses its units."""
