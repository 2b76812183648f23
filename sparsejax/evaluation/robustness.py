"""Robustness of a network in one call: accuracy under noise and attacks, and the distance to misclassified images.

```python
report = robustness_report(lambda x: model.apply(variables, x).prediction, images, labels, key=jax.random.key(0))
```
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sparsejax.errors import ConfigError
from sparsejax.evaluation.attacks.ensemble import (
    auto_attack,
    by_target,
    check_images,
    classes_of,
    compile_attack,
    survivors_of,
)
from sparsejax.evaluation.attacks.fmn import fmn
from sparsejax.evaluation.attacks.geometry import Bounds, Norm
from sparsejax.evaluation.attacks.losses import LogitsFn, Network
from sparsejax.evaluation.attacks.registry import ATTACKS
from sparsejax.functional import add_noise, example_keys, salt_and_pepper
from sparsejax.functional.noise import Distribution

NoiseKind = Distribution | Literal["salt_and_pepper"]
"""Additive noise with a scale, or pixels that become black or white with a fraction."""


def robustness_report(
    logits_fn: LogitsFn,
    images: Float[Array, "n *shape"],
    labels: Int[Array, "n"],
    *,
    key: PRNGKeyArray,
    noise: Mapping[NoiseKind, Sequence[float]] | None = None,
    noise_draws: int = 3,
    balls: Mapping[Norm, float] | None = None,
    attacks: Sequence[str] | Mapping[Norm, Sequence[str]] = ("fgsm", "pgd", "apgd_ce", "apgd_t"),
    autoattack: bool = False,
    minimal: Sequence[Norm] = (),
    minimal_iterations: int = 200,
    bounds: Bounds = (0.0, 1.0),
    draws: int | None = None,
    attacked: int | None = None,
    batch_size: int = 250,
) -> dict[str, Any]:
    """Measures accuracy on clean, noisy and attacked images, and the median distance to a misclassified image.

    Args:
      logits_fn: `logits_fn(x) -> [batch, classes]` for images within the bounds (normalise inside it), or with `draws`
        `logits_fn(x, key)`. Any JAX code works.
      images: `[n, ...]`.
      labels: `[n]`.
      key: for all random numbers.
      noise: "gaussian", "laplace" or "uniform" -> scales (as in `add_noise`) of additive noise, after which images are
        clipped to the bounds; "salt_and_pepper" -> fractions of the pixels (of images `[n, H, W, C]`) set to one of the
        bounds. None for Gaussian noise of 0.1.
      noise_draws: number of draws over which that accuracy is averaged.
      balls: norm -> radius of the attacks; None for 2/255 in linf and 0.25 in l2.
      attacks: names in `ATTACKS`, including those added by `register_attack`, run separately, for all norms or by norm.
      autoattack: also run `auto_attack`.
      minimal: norms in which `fmn` finds the nearest misclassified image.
      minimal_iterations: its steps.
      bounds: of a pixel.
      draws: samples of a stochastic network.
      attacked: number of images to attack (also for `minimal`); None for all.
      batch_size: images per batch.

    Returns:
      `clean`, `noise` {kind: {scale: accuracy}}, one dictionary per norm {attack: accuracy, "all": accuracy against all
        of them}, and `minimal` {norm: median distance, in the unit of a pixel}; accuracies in [0, 1].

    Raises:
      ConfigError: an attack, a norm or a kind of noise is unknown, there are no images, their number and that of the
        labels differ, an image is not within the bounds, or an attack returns no Adversarial.

    References:
      Cekic, Bakiskan & Madhow, Neuro-Inspired Deep Neural Networks with Sparse, Strong Activations, 2022, section 3:
      noise (Fig. 4), attacks within the default balls (Table 1) and minimal norms (Fig. 5, which averages them).
    """
    x, y, network = np.asarray(images), np.asarray(labels), Network(logits_fn, draws)
    check_images(x, y, bounds)
    if not len(x) or (attacked is not None and attacked < 1):
        raise ConfigError(f"There are {len(x)} images and attacked is {attacked}; pass at least one to attack.")
    lists = [minimal, *(attacks.values() if isinstance(attacks, Mapping) else [attacks])]
    if wrong := [names for names in lists if isinstance(names, str)]:
        raise ConfigError(f"attacks or minimal has {wrong[0]!r}; expected a tuple of names: ({wrong[0]!r},).")
    if unknown := sorted(set().union(*lists[1:]) - ATTACKS.keys()):
        raise ConfigError(f"Unknown attacks: {', '.join(unknown)}; there are {', '.join(ATTACKS)}.")
    if unknown := sorted((noise or {}).keys() - {*get_args(Distribution), "salt_and_pepper"}):
        raise ConfigError(
            f"The noise {unknown[0]!r} is unknown; there are {', '.join(get_args(Distribution))}, salt_and_pepper."
        )
    if unknown := [norm for norm in (*(balls or ()), *minimal) if norm not in get_args(Norm)]:
        raise ConfigError(f"The norm {unknown[0]!r} is unknown; there are {', '.join(get_args(Norm))}.")
    right = _correct(network, x, y, jax.random.fold_in(key, 0), batch_size)
    kinds: Mapping[NoiseKind, Sequence[float]] = {"gaussian": (0.1,)} if noise is None else noise
    radii: Mapping[Norm, float] = {"linf": 2 / 255, "l2": 0.25} if balls is None else balls
    report: dict[str, Any] = {"clean": float(right.mean()), "noise": {}, "minimal": {}}

    def with_noise(kind: NoiseKind, scale: float, draw: int) -> float:
        own = jax.random.fold_in(key, 1 + draw)
        return float(_correct(network, _noisy(x, kind, scale, bounds, own), y, own, batch_size).mean())

    for kind, scales in kinds.items():
        report["noise"][kind] = {
            scale: float(np.mean([with_noise(kind, scale, draw) for draw in range(noise_draws)])) for scale in scales
        }
    classes = classes_of(network, x, key)
    x, y, right = x[:attacked], y[:attacked], right[:attacked]
    for norm, epsilon in radii.items():
        common: dict[str, Any] = {"epsilon": epsilon, "norm": norm, "bounds": bounds, "draws": draws}
        left: dict[str, np.ndarray] = {}
        for name in attacks.get(norm, ()) if isinstance(attacks, Mapping) else attacks:
            attack = compile_attack(ATTACKS[name].attack, logits_fn, common)
            turns = by_target(attack, classes) if ATTACKS[name].targeted else [attack]
            own = jax.random.fold_in(key, 1000)
            left[name] = survivors_of(turns, x[right], y[right], key=own, batch_size=batch_size)[1][-1]
        if autoattack:
            own = jax.random.fold_in(key, 1001)
            rest = jnp.asarray(x[right]), jnp.asarray(y[right])
            found = auto_attack(logits_fn, *rest, key=own, batch_size=batch_size, **common)
            left["auto_attack"] = ~np.asarray(found.success)
        left["all"] = np.all(list(left.values()), axis=0) if left else np.ones(right.sum(), bool)
        report[norm] = {name: float(standing.sum() / len(x)) for name, standing in left.items()}
    for norm in minimal:
        settings = {"norm": norm, "iterations": minimal_iterations, "bounds": bounds, "draws": draws}
        nearest = jax.jit(lambda x, y, key, settings=settings: fmn(logits_fn, x, y, key=key, **settings).distance)
        distances = _map_batches(nearest, x, y, jax.random.fold_in(key, 1002), batch_size)
        report["minimal"][norm] = float(np.median(distances))
    return report


def _correct(network: Network, x: np.ndarray, y: np.ndarray, key: PRNGKeyArray, batch_size: int) -> np.ndarray:
    answers = jax.jit(lambda x, y, key: jnp.argmax(network(x, key), -1) == y)
    return _map_batches(answers, x, y, key, batch_size)


def _map_batches(function: Any, x: np.ndarray, y: np.ndarray, key: PRNGKeyArray, batch_size: int) -> np.ndarray:
    """Applies a compiled function to batches of one size, the last one padded."""
    parts, batch_size = [], min(batch_size, len(x))
    for start in range(0, len(x), batch_size):
        rows = np.resize(np.arange(start, min(start + batch_size, len(x))), batch_size)
        part = function(jnp.asarray(x[rows]), jnp.asarray(y[rows]), jax.random.fold_in(key, start))
        parts.append(np.asarray(part)[: len(x) - start])
    return np.concatenate(parts)


def _noisy(x: np.ndarray, kind: NoiseKind, scale: float, bounds: Bounds, key: PRNGKeyArray) -> np.ndarray:
    keys, images = example_keys(key, jnp.arange(len(x))), jnp.asarray(x)
    if kind == "salt_and_pepper":
        return np.asarray(salt_and_pepper(keys, images, level=scale, bounds=bounds))
    return np.asarray(jnp.clip(add_noise(keys, images, sigma=scale, distribution=kind), *bounds))
