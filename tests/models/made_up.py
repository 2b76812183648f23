"""Networks with arbitrary weights for tests, without compiling an initialisation."""

from typing import Any

import jax
import numpy as np

from sparsejax.models.base import Model, Variables

_RANGES = {"scale": (0.5, 1.5), "var": (0.5, 2), "duty_cycle": (0, 1), "samples": (99, 99)}


def made_up(model: Model, shape: tuple[int, ...], seed: int = 0, dtype: Any = np.float32) -> Variables:
    """Returns variables of a model for an example of that shape and type, with arbitrary numbers.

    They are NumPy arrays; duty cycles are of 99 examples.
    """
    rng = np.random.default_rng(seed)

    def anything(path: Any, leaf: Any) -> np.ndarray:
        if leaf.dtype == bool:
            return rng.random(leaf.shape) < 0.5
        name = str(getattr(path[-1], "key", getattr(path[-1], "name", "")))
        return np.asarray(rng.uniform(*_RANGES.get(name, (-0.2, 0.2)), leaf.shape), leaf.dtype)

    example = jax.ShapeDtypeStruct((1, *shape), dtype)
    return jax.tree.map_with_path(anything, jax.eval_shape(model.init, jax.random.key(0), example))
