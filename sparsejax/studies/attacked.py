"""Attacks on trained networks: inputs are pixels in [0, 1], and the report is saved next to the run."""

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from sparsejax.data import load
from sparsejax.evaluation.robustness import robustness_report
from sparsejax.files import write_whole
from sparsejax.models.base import Model, Variables
from sparsejax.training.records import read_json, reading


class Pixels(NamedTuple):
    """Test images `[n, H, W, C]` in [0, 1], their labels `[n]`, and the normalisation that networks expect."""

    images: np.ndarray
    labels: np.ndarray
    normalize: Callable[[Array], Array]


def test_pixels(name: str, count: int) -> Pixels:
    """Returns the first `count` test images of a data set."""
    data = load(name)
    mean, std = (jnp.asarray(moment, jnp.float32).reshape(1, 1, 1, -1) for moment in (data.mean, data.std))
    images = data.test.images[:count].astype(np.float32) / 255
    return Pixels(images, data.test.labels[:count].astype(np.int32), lambda x: (x - mean) / std)


def cached_report(
    path: Path, model: Model, variables: Variables, data: Pixels, *, seed: int, **settings: Any
) -> dict[str, Any]:
    """Returns `robustness_report` of a network, from a file if it was measured before.

    It is measured again if the network, the images or the settings have changed.

    Args:
      path: of the saved report.
      model: the network.
      variables: its parameters and state.
      data: images to attack.
      seed: for all random numbers.
      settings: further arguments of `robustness_report`.
    """
    parts = [*jax.tree.leaves(variables), data.images, data.labels]
    digest = hashlib.sha256(b"".join(np.asarray(part).tobytes() for part in parts))
    digest.update(repr((seed, settings)).encode())
    of = digest.hexdigest()
    with reading(path, "Delete it, and the report is measured again."):
        kept = read_json(path, {"of": str, "report": dict}) if path.exists() else {}
    if kept.get("of") != of:
        report = robustness_report(
            jax.tree_util.Partial(_logits(model, data.normalize), variables),
            jnp.asarray(data.images), jnp.asarray(data.labels), key=jax.random.key(seed), **settings,
        )  # fmt: skip
        write_whole(path, json.dumps({"of": of, "report": report}).encode())
    return read_json(path, {"report": dict})["report"]


@functools.lru_cache(maxsize=8)
def _logits(model: Model, normalize: Callable[[Array], Array]) -> Callable[..., Array]:
    """Returns one function per architecture, so that networks of several seeds share their compiled attacks."""
    return lambda variables, x: model.apply(variables, normalize(x)).prediction
