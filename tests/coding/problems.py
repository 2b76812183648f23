"""Small problems of linear coding that the tests share."""

import numpy as np


def problem(examples=12, inputs=16, atoms=24, seed=0, unit=True):
    """Returns x `[examples, inputs]` and a dictionary `[inputs, atoms]` in float32."""
    rng = np.random.default_rng(seed)
    dictionary = rng.standard_normal((inputs, atoms))
    dictionary /= np.linalg.norm(dictionary, axis=0) / (1.0 if unit else rng.uniform(0.5, 2.0, atoms))
    code = rng.standard_normal((examples, atoms)) * (rng.random((examples, atoms)) < 0.2)
    x = code @ dictionary.T + 0.05 * rng.standard_normal((examples, inputs))
    return x.astype(np.float32), dictionary.astype(np.float32)


def objective(x, dictionary, code, l1):
    """The lasso's objective and the exact duality gap in float64, as the difference of the two objectives."""
    x, dictionary, code = (np.asarray(array, np.float64) for array in (x, dictionary, code))
    residual = x - code @ dictionary.T
    primal = (residual**2).sum(-1) / 2 + l1 * np.abs(code).sum(-1)
    s = np.minimum(1, l1 / np.abs(residual @ dictionary).max(-1).clip(1e-300))
    dual = (x**2).sum(-1) / 2 - ((x - s[..., None] * residual) ** 2).sum(-1) / 2
    return primal, primal - dual


def worst_violation(x, dictionary, code, l1):
    """The largest violation of the lasso's optimality conditions in float64."""
    x, dictionary, code = (np.asarray(array, np.float64) for array in (x, dictionary, code))
    c = (x - code @ dictionary.T) @ dictionary
    return np.where(code != 0, np.abs(c - l1 * np.sign(code)), np.maximum(np.abs(c) - l1, 0)).max()
