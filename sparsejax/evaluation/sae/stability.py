"""Whether networks of other seeds find the same features."""

from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from sparsejax.errors import ConfigError


def match(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a one-to-one matching of rows by the largest sum of cosines, and the cosines.

    Args:
      a: rows `[n, width]`, such as a decoder's.
      b: rows `[m, width]`.

    Returns:
      Indices of rows of a and of b, and their cosines, each `[min(n, m)]`.

    Raises:
      ConfigError: the rows have different widths, or there are none.
    """
    rows, others = (_unit(np.asarray(one, np.float32)) for one in (a, b))
    if rows.ndim != 2 or rows.shape[-1] != others.shape[-1] or not (len(rows) and len(others)):
        raise ConfigError(
            f"The rows are {list(rows.shape)} and {list(others.shape)}; expected [n, width] of one width."
        )
    cosines = rows @ others.T
    first, second = linear_sum_assignment(-cosines)
    return first, second, cosines[first, second]


def matched_cosine(a: Any, b: Any) -> float:
    """Return the mean cosine of rows that are matched one to one, 1 if both networks have the same rows.

    References:
      Song et al., Position: Mechanistic Interpretability Should Prioritize Feature Consistency in SAEs, 2025.
    """
    return float(match(a, b)[2].mean())


def pairwise_matched_cosine(kernels: Any) -> np.ndarray:
    """Return the matched cosine of each pair of networks, `[networks, networks]`; 1 on the diagonal.

    Args:
      kernels: decoders `[networks, latents, width]`.
    """
    count = len(kernels)
    found = np.eye(count)
    for i in range(count):
        for j in range(i):
            found[i, j] = found[j, i] = matched_cosine(kernels[i], kernels[j])
    return found


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)
