"""Robustness of a network in one call: accuracy under noise and attacks, and the distance to misclassified images.

```python
report = robustness_report(lambda x: model.apply(variables, x).prediction, images, labels, key=jax.random.key(0))
```
"""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from sparsejax.errors import ConfigError
from sparsejax.evaluation.attack_progress import AttackProgress, Watch
from sparsejax.evaluation.attacks.ensemble import auto_attack, by_target, survivors_of
from sparsejax.evaluation.attacks.fmn import fmn
from sparsejax.evaluation.attacks.geometry import Bounds, Norm
from sparsejax.evaluation.attacks.network import LogitsFn, Network
from sparsejax.evaluation.attacks.problem import check_count, check_images, check_labels, check_network, classes_of
from sparsejax.evaluation.attacks.programs import AnyNorm, compile_attack, compile_network
from sparsejax.evaluation.attacks.registry import Entry
from sparsejax.evaluation.robustness_arguments import (
    Attacks,
    Levels,
    NoiseKind,
    check_attacks,
    check_balls,
    check_noise,
    check_norms,
    name_of,
)
from sparsejax.functional import add_noise, example_keys, salt_and_pepper
from sparsejax.functional.measures import is_misclassified


def robustness_report(
    logits_fn: LogitsFn,
    images: Float[Array, "n *shape"],
    labels: Int[Array, "n"],
    *,
    key: PRNGKeyArray,
    noise: Mapping[NoiseKind, Levels] | None = None,
    noise_draws: int = 3,
    balls: Mapping[AnyNorm, Levels] | None = None,
    attacks: Attacks | Mapping[AnyNorm, Attacks] | None = None,
    autoattack: bool = False,
    minimal: Sequence[Norm] = (),
    minimal_iterations: int = 200,
    bounds: Bounds = (0.0, 1.0),
    draws: int | None = None,
    attacked: int | None = None,
    batch_size: int = 250,
) -> dict[str, Any]:
    """Measures accuracy on clean, noisy and attacked images, and the median distance to a misclassified image.

    On a terminal a bar shows the progress of each attack.

    Args:
      logits_fn: `logits_fn(x) -> [batch, classes]` for images within the bounds (normalise inside it), or with `draws`
        `logits_fn(x, key)`. Any JAX code works. It is traced at every call, but later calls reuse compiled programs of
        the same operations, also for other arrays. A pytree of all its arrays, such as
        `jax.tree_util.Partial(apply, variables)`, is not even traced again.
      images: floating-point numbers `[n, ...]` within the bounds.
      labels: integers `[n]`, classes from 0.
      key: for all random numbers.
      noise: "gaussian", "laplace" or "uniform" -> scales (as in `add_noise`) of additive noise, after which images are
        clipped to the bounds; "salt_and_pepper" -> fractions of the pixels (of images `[n, H, W, C]`) set to one of the
        bounds. None for Gaussian noise of 0.1.
      noise_draws: number of draws over which that accuracy is averaged.
      balls: norm -> radius of the attacks, or several radii; None for 2/255 in linf and 0.25 in l2. A norm of the
        user's is a function `norm(delta) -> [batch]`, for attacks of the user's.
      attacks: names in `ATTACKS`, including those added by `register_attack`, or functions with the same arguments; run
        separately, for all norms or by norm. None for FGSM, PGD, APGD and, with four or more classes, APGD-T.
      autoattack: also run `auto_attack`.
      minimal: norms in which `fmn` finds the nearest misclassified image.
      minimal_iterations: its steps.
      bounds: of a pixel.
      draws: samples of a stochastic network.
      attacked: number of images to attack (also for `minimal`); None for all.
      batch_size: images per batch.

    Returns:
      `clean`, `noise` {kind: {scale: accuracy}}, one dictionary per norm {attack: accuracy, "all": accuracy against all
        of them}, or with several radii {radius: {attack: accuracy}}, `minimal` {norm: median distance, in the unit of a
        pixel}, and `not_found` {norm: number of images for which no misclassified one was found}, whose distance counts
        as infinite; accuracies in [0, 1]. An image misclassified within a radius counts for larger ones, too.

    Raises:
      ConfigError: an attack, a norm or a kind of noise is unknown, there are no images, they are not floating-point
        numbers within the bounds, the labels are not one class of the network for each, or an attack returns no
        Adversarial.

    References:
      Cekic, Bakiskan & Madhow, Neuro-Inspired Deep Neural Networks with Sparse, Strong Activations, 2022, section 3:
      noise (Fig. 4), attacks within the default balls (Table 1) and minimal norms (Fig. 5, which averages them).
    """
    if isinstance(images, Tracer) or isinstance(labels, Tracer):
        raise ConfigError("robustness_report compiles several programs and cannot be traced; call it outside of jit.")
    bounds = check_images(images, labels, bounds)
    key = check_network(logits_fn, key)
    counts = {"noise_draws": noise_draws, "minimal_iterations": minimal_iterations, "batch_size": batch_size,
              "attacked": attacked, "draws": draws, "the number of images": len(images)}  # fmt: skip
    for name, count in counts.items():
        if count is not None or name not in ("attacked", "draws"):
            check_count(name, count)
    classes = classes_of(Network(logits_fn, draws), images, key)
    check_labels(labels, classes)
    levels = check_noise({"gaussian": 0.1} if noise is None else noise, np.ndim(images))
    balls = {"linf": 2 / 255, "l2": 0.25} if balls is None else balls
    radii = check_balls(balls, images)
    entries = check_attacks(attacks, radii, classes, autoattack=autoattack)
    minimal = check_norms(minimal)

    every = _Images(np.asarray(images), np.asarray(labels), key, batch_size)
    answers = compile_network(_is_right, logits_fn, draws=draws)
    right = _map_batches(answers, every, jax.random.fold_in(key, 0))
    report: dict[str, Any] = {"clean": float(right.mean()), "noise": {}, "minimal": {}, "not_found": {}}
    for kind, scales in levels.items():
        report["noise"][kind] = {
            scale: _accuracy_under_noise(answers, every, kind, scale, bounds, noise_draws) for scale in scales
        }
    some = every._replace(x=every.x[:attacked], y=every.y[:attacked])
    for norm, several in radii.items():
        settings = {"norm": norm, "bounds": bounds, "draws": draws}
        runs = {name: _runner(entry, logits_fn, classes, some, settings) for name, entry in entries[norm].items()}
        if autoattack:
            runs["auto_attack"] = functools.partial(_auto_attack, logits_fn, some, settings)
        with AttackProgress() as progress:
            within = _accuracy_within(runs, some, right[:attacked], several, name_of(norm), progress)
        report[name_of(norm)] = within if np.ndim(balls[norm]) else within[several[0]]
    for norm in minimal:
        settings = {"norm": norm, "iterations": minimal_iterations, "bounds": bounds, "draws": draws}
        nearest = compile_network(_distance, logits_fn, **settings)
        distances = _map_batches(nearest, some, jax.random.fold_in(key, 1002))
        report["minimal"][norm], count = float(np.median(distances)), int(np.isinf(distances).sum())
        report["not_found"][norm] = count
        if count:
            warnings.warn(
                f"No misclassified image was found for {count} of {len(distances)} images in {norm}; their distances "
                "count as infinite. More minimal_iterations may find some.",
                stacklevel=2,
            )
    return report


class _Images(NamedTuple):
    x: np.ndarray
    y: np.ndarray
    key: PRNGKeyArray
    batch_size: int


_Run = Callable[[float, np.ndarray, Watch], np.ndarray]
"""`run(epsilon, rows, watch)` attacks the images of these rows, and returns which of them are still right."""


def _accuracy_within(
    runs: Mapping[str, _Run],
    images: _Images,
    right: np.ndarray,
    radii: Sequence[float],
    norm: str,
    progress: AttackProgress,
) -> dict[float, dict[str, float]]:
    """Returns radius -> attack -> accuracy, and under "all" that against all of them; the radii ascend."""
    left, within = {name: right.copy() for name in runs}, {}
    for epsilon in radii:
        for name, run in runs.items():
            rows = np.flatnonzero(left[name])
            left[name][rows] = run(epsilon, rows, progress.of(name, norm, epsilon))
        standing = {**left, "all": np.all([right, *left.values()], axis=0)}
        within[epsilon] = {name: float(alone.sum() / len(images.x)) for name, alone in standing.items()}
    return within


def _runner(entry: Entry, logits_fn: LogitsFn, classes: int, images: _Images, settings: dict[str, Any]) -> _Run:
    """Compiles an attack; a targeted one runs for one rank after another."""
    attack = compile_attack(entry.attack, logits_fn, **settings)
    turns = by_target(attack, classes) if entry.targeted else [attack]

    def run(epsilon: float, rows: np.ndarray, watch: Watch) -> np.ndarray:
        own = {"key": jax.random.fold_in(images.key, 1000), "batch_size": images.batch_size, "epsilon": epsilon}
        return survivors_of(turns, images.x[rows], images.y[rows], watch=watch, **own)[1][-1]

    return run


def _auto_attack(
    logits_fn: LogitsFn, images: _Images, settings: dict[str, Any], epsilon: float, rows: np.ndarray, watch: Watch
) -> np.ndarray:
    found = auto_attack(
        logits_fn, jnp.asarray(images.x[rows]), jnp.asarray(images.y[rows]), epsilon=epsilon,
        key=jax.random.fold_in(images.key, 1001), batch_size=images.batch_size, watch=watch,
        **settings,
    )  # fmt: skip
    return ~np.asarray(found.success)


def _accuracy_under_noise(
    answers: Any, images: _Images, kind: NoiseKind, scale: float, bounds: Bounds, draws: int
) -> float:
    keys = [jax.random.fold_in(images.key, 1 + draw) for draw in range(draws)]
    noisy = (images._replace(x=_noisy(images.x, kind, scale, bounds, own)) for own in keys)
    return float(np.mean([_map_batches(answers, each, own) for each, own in zip(noisy, keys, strict=True)]))


def _noisy(x: np.ndarray, kind: NoiseKind, scale: float, bounds: Bounds, key: PRNGKeyArray) -> np.ndarray:
    keys, images = example_keys(key, jnp.arange(len(x))), jnp.asarray(x)
    if kind == "salt_and_pepper":
        return np.asarray(salt_and_pepper(keys, images, level=scale, bounds=bounds))
    return np.asarray(jnp.clip(add_noise(keys, images, sigma=scale, distribution=kind), *bounds))


def _is_right(logits_fn: LogitsFn, x: Array, y: Array, key: PRNGKeyArray, *, draws: int | None) -> Bool[Array, "batch"]:
    return ~is_misclassified(Network(logits_fn, draws)(x, key), y)


def _distance(logits_fn: LogitsFn, x: Array, y: Array, key: PRNGKeyArray, **settings: Any) -> Float[Array, "batch"]:
    return fmn(logits_fn, x, y, key=key, **settings).distance


def _map_batches(function: Any, images: _Images, key: PRNGKeyArray) -> np.ndarray:
    """Applies a compiled function to batches of one size, the last one padded."""
    parts, count = [], len(images.x)
    size = min(images.batch_size, count)
    for start in range(0, count, size):
        rows = np.resize(np.arange(start, min(start + size, count)), size)
        part = function(jnp.asarray(images.x[rows]), jnp.asarray(images.y[rows]), jax.random.fold_in(key, start))
        parts.append(np.asarray(part)[: count - start])
    return np.concatenate(parts)
