"""How well a sparse autoencoder found the known features of a world."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from scipy.optimize import linear_sum_assignment

from sparsejax.data.world import World, draw
from sparsejax.errors import ConfigError

Encode = Callable[[Array], Array]


class Truth(NamedTuple):
    """Scores of a code against the true features.

    Attributes:
      mcc: mean of the absolute cosines of decoder rows and features, matched one to one.
      uniqueness: number of different features that are nearest to a latent, as a fraction of the latents.
      precision, recall, f1: of each latent as a detector of its nearest feature, averaged over the latents.
      fvu: fraction of variance unexplained.
      l0: active latents of an example.
      dead: fraction of latents that were never active.
    """

    mcc: float
    uniqueness: float
    precision: float
    recall: float
    f1: float
    fvu: float
    l0: float
    dead: float


def score_truth(
    world: World,
    key: PRNGKeyArray,
    encode: Encode,
    decode: Encode,
    kernel: Any,
    *,
    examples: int = 20_000,
    batch_size: int = 1000,
) -> Truth:
    """Return the scores of a code on newly drawn examples.

    Args:
      world: of the training data.
      key: of the draws.
      encode: from activations `[batch, width]` to activities `[batch, latents]`.
      decode: back.
      kernel: the decoder's rows, `[latents, width]`.
      examples: number of draws, at least `batch_size`.
      batch_size: examples per call.

    Raises:
      ConfigError: the decoder has another width than the world.

    References:
      Chanin & Garriga-Alonso, SynthSAEBench, 2026, section on metrics; O'Neill et al., Compute Optimal Inference and
      Provable Amortisation Gap in Sparse Autoencoders, 2024, for the MCC.
    """
    rows, directions = np.asarray(kernel, np.float32), np.asarray(world.directions)
    if rows.shape[-1] != directions.shape[-1]:
        raise ConfigError(f"The decoder has {rows.shape[-1]} outputs, but the world a width of {directions.shape[-1]}.")
    cosines = np.abs(_unit(rows) @ _unit(directions).T)
    nearest = cosines.argmax(axis=1)
    first, second = linear_sum_assignment(-cosines)
    sums: dict[str, Any] = {}
    for i in range(max(1, examples // batch_size)):
        x, features = _draw(world, jax.random.fold_in(key, i), batch_size)
        z = encode(x)
        part = _sums(x, decode(z), z > 0, features[:, nearest] > 0)
        sums = part if not sums else jax.tree.map(lambda a, b: a + b, sums, part)
    found = {name: np.asarray(value, np.float64) for name, value in sums.items()}
    fires, both, true = found["fires"], found["both"], found["true"]
    precision, recall = both / np.maximum(fires, 1), both / np.maximum(true, 1)
    f1 = 2 * both / np.maximum(fires + true, 1)
    count = found["count"]
    return Truth(
        mcc=float(cosines[first, second].mean()),
        uniqueness=len(np.unique(nearest)) / len(nearest),
        precision=float(precision.mean()),
        recall=float(recall.mean()),
        f1=float(f1.mean()),
        fvu=float(found["error"] / (found["square"] - (found["sum"] ** 2).sum() / count)),
        l0=float(fires.sum() / count),
        dead=float((fires == 0).mean()),
    )


@jax.jit
def _sums(x: Array, y: Array, fires: Array, true: Array) -> dict[str, Float[Array, "..."]]:
    return {
        "error": jnp.sum((x - y) ** 2), "square": jnp.sum(x**2), "sum": jnp.sum(x, axis=0),
        "fires": jnp.sum(fires, axis=0, dtype=jnp.int32), "true": jnp.sum(true, axis=0, dtype=jnp.int32),
        "both": jnp.sum(fires & true, axis=0, dtype=jnp.int32), "count": jnp.int32(len(x)),
    }  # fmt: skip


_draw = jax.jit(draw, static_argnums=2)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)
