"""How robust a network is: accuracy under noise and attacks, and how near mistakes are, in one call.

```python
report = robustness_report(lambda x: model.apply(variables, x).prediction, images, labels, key=jax.random.key(0))
```
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from sparsejax.evaluation.attacks.apgd import apgd, apgd_dlr, apgd_targeted
from sparsejax.evaluation.attacks.fab import fab_targeted
from sparsejax.evaluation.attacks.fmn import fmn
from sparsejax.evaluation.attacks.geometry import Bounds, Norm
from sparsejax.evaluation.attacks.losses import LogitsFn, Network
from sparsejax.evaluation.attacks.pgd import Adversarial, fgsm, pgd
from sparsejax.evaluation.attacks.square import square
from sparsejax.functional import add_noise, example_keys
from sparsejax.functional.noise import Distribution

Attack = Callable[[Array, Array, PRNGKeyArray], Adversarial]
"""`attack(images, labels, key)`, to be compiled once for a batch."""

_FEW = 16


def survivors_of(
    attacks: Sequence[Attack], images: np.ndarray, labels: np.ndarray, *, key: PRNGKeyArray, batch_size: int = 250
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Attacks what no attack before has found a mistake for.

    Examples that are done leave the batch: the rest are gathered in batches of half the size and half again, so that no
    more than a few programs are compiled.

    Args:
      attacks: in order, from the cheapest on.
      images: `[n, ...]`.
      labels: `[n]`.
      key: for all of them.
      batch_size: images at a time.

    Returns:
      The images, mistaken where an attack succeeded, and after each attack which are left `[n]`.
    """
    found, left, after = np.array(images), np.ones(len(images), bool), []
    for number, attack in enumerate(attacks):
        compiled, own = jax.jit(attack), jax.random.fold_in(key, number)
        waiting = np.flatnonzero(left)
        for start in range(0, len(waiting), batch_size):
            rows = waiting[start : start + batch_size]
            size = batch_size
            while size // 2 >= max(len(rows), _FEW):
                size //= 2
            padded = np.resize(rows, size)
            result = compiled(jnp.asarray(images[padded]), jnp.asarray(labels[padded]), jax.random.fold_in(own, start))
            success = np.asarray(result.success)[: len(rows)]
            found[rows[success]] = np.asarray(result.images)[: len(rows)][success]
            left[rows[success]] = False
        after.append(left.copy())
    return found, after


def auto_attack(
    logits_fn: LogitsFn,
    images: Float[Array, "n *shape"],
    labels: Int[Array, "n"],
    *,
    epsilon: float,
    norm: Norm = "linf",
    key: PRNGKeyArray,
    bounds: Bounds = (0.0, 1.0),
    draws: int | None = None,
    batch_size: int = 250,
) -> Adversarial:
    """Runs the standard ensemble: APGD-CE, APGD-T, FAB-T and Square, each on what those before left.

    Of 10 classes each targeted attack goes for nine. It compiles and runs several programs, and so is not itself to be
    compiled; arguments as in `pgd`, with images as many as there are.

    References:
      Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks,
      2020: the version "standard".
    """
    x, y = np.asarray(images), np.asarray(labels)
    common: dict[str, Any] = {"epsilon": epsilon, "norm": norm, "bounds": bounds, "draws": draws}
    classes = jax.eval_shape(functools.partial(Network(logits_fn, draws)), jnp.asarray(x[:1]), key).shape[-1]
    ranks = [jnp.asarray([rank]) for rank in range(1, min(10, classes))]
    attacks: list[Attack] = [lambda x, y, key: apgd(logits_fn, x, y, key=key, **common)]
    if classes >= 4:
        attacks += [lambda x, y, key, r=r: apgd_targeted(logits_fn, x, y, ranks=r, key=key, **common) for r in ranks]
    attacks += [lambda x, y, key, r=r: fab_targeted(logits_fn, x, y, ranks=r, key=key, **common) for r in ranks]
    if x.ndim == 4:
        attacks.append(lambda x, y, key: square(logits_fn, x, y, key=key, **common))
    found, after = survivors_of(attacks, x, y, key=key, batch_size=batch_size)
    return Adversarial(jnp.asarray(found), jnp.asarray(~after[-1]))


ATTACKS: Mapping[str, Callable[..., Adversarial]] = {
    "fgsm": fgsm,
    "pgd": pgd,
    "apgd_ce": apgd,
    "apgd_dlr": apgd_dlr,
    "apgd_t": apgd_targeted,
    "fab_t": fab_targeted,
    "square": square,
}


def robustness_report(
    logits_fn: LogitsFn,
    images: Float[Array, "n *shape"],
    labels: Int[Array, "n"],
    *,
    key: PRNGKeyArray,
    noise: Mapping[Distribution, Sequence[float]] | None = None,
    noise_draws: int = 3,
    balls: Mapping[Norm, float] | None = None,
    attacks: Sequence[str] = ("fgsm", "pgd", "apgd_ce", "apgd_t"),
    ensemble: bool = False,
    minimal: Sequence[Norm] = (),
    minimal_iterations: int = 200,
    bounds: Bounds = (0.0, 1.0),
    draws: int | None = None,
    batch_size: int = 250,
) -> dict[str, Any]:
    """Measures accuracy on clean, noisy and attacked images, and the median distance to a mistake.

    Args:
      logits_fn: `logits_fn(x) -> [batch, classes]` for images within the bounds (normalise inside it), or with `draws`
        `logits_fn(x, key)`. Any JAX code will do.
      images: `[n, ...]`.
      labels: `[n]`.
      key: for all that is random.
      noise: distribution -> scales of the noise added to the images, which then are clipped to the bounds; None for
        Gaussian noise of 0.1.
      noise_draws: over which that accuracy is averaged.
      balls: norm -> radius of the attacks; None for 2/255 in linf and 0.25 in l2.
      attacks: names of `ATTACKS`; each alone.
      ensemble: also run `auto_attack`.
      minimal: norms in which `fmn` seeks the nearest mistake.
      minimal_iterations: its steps.
      bounds: of a pixel.
      draws: of a noisy network's answer.
      batch_size: images at a time.

    Returns:
      `clean`, `noise` {distribution: {scale: accuracy}}, one dictionary per norm {attack: accuracy, "all": accuracy
      against all of them}, and `minimal` {norm: median distance}; accuracies in [0, 1].

    Raises:
      ValueError: an attack is unknown, or images and labels differ in number.
    """
    unknown = sorted(set(attacks) - set(ATTACKS))
    if unknown or len(images) != len(labels):
        raise ValueError(
            f"Unknown attacks: {', '.join(unknown)}; there are {', '.join(ATTACKS)}." if unknown else
            f"There are {len(images)} images and {len(labels)} labels; expected as many."
        )  # fmt: skip
    x, y, network = np.asarray(images), np.asarray(labels), Network(logits_fn, draws)
    right = _correct(network, x, y, jax.random.fold_in(key, 0), batch_size)
    distributions: Mapping[Distribution, Sequence[float]] = {"gaussian": (0.1,)} if noise is None else noise
    radii: Mapping[Norm, float] = {"linf": 2 / 255, "l2": 0.25} if balls is None else balls
    report: dict[str, Any] = {"clean": float(right.mean()), "noise": {}, "minimal": {}}

    def with_noise(kind: Distribution, scale: float, draw: int) -> float:
        own = jax.random.fold_in(key, 1 + draw)
        return float(_correct(network, _noisy(x, kind, scale, bounds, own), y, own, batch_size).mean())

    for kind, scales in distributions.items():
        report["noise"][kind] = {
            scale: float(np.mean([with_noise(kind, scale, draw) for draw in range(noise_draws)])) for scale in scales
        }
    for norm, epsilon in radii.items():
        common: dict[str, Any] = {"epsilon": epsilon, "norm": norm, "bounds": bounds, "draws": draws}
        left: dict[str, np.ndarray] = {}
        for name in attacks:
            attack = functools.partial(_attack, name, logits_fn, common)
            own = jax.random.fold_in(key, 1000)
            left[name] = survivors_of([attack], x[right], y[right], key=own, batch_size=batch_size)[1][0]
        if ensemble:
            own = jax.random.fold_in(key, 1001)
            rest = jnp.asarray(x[right]), jnp.asarray(y[right])
            found = auto_attack(logits_fn, *rest, key=own, batch_size=batch_size, **common)
            left["auto_attack"] = ~np.asarray(found.success)
        left["all"] = np.all(list(left.values()), axis=0) if left else np.ones(right.sum(), bool)
        report[norm] = {name: float(standing.sum() / len(x)) for name, standing in left.items()}
    for norm in minimal:
        settings = {"norm": norm, "iterations": minimal_iterations, "bounds": bounds, "draws": draws}
        nearest = jax.jit(lambda x, y, key, settings=settings: fmn(logits_fn, x, y, key=key, **settings).distance)
        distances = _in_batches(nearest, x, y, jax.random.fold_in(key, 1002), batch_size)
        report["minimal"][norm] = float(np.median(distances))
    return report


def _attack(name: str, logits_fn: LogitsFn, settings: Mapping[str, Any], x, y, key) -> Adversarial:
    return ATTACKS[name](logits_fn, x, y, key=key, **settings)


def _correct(network: Network, x: np.ndarray, y: np.ndarray, key: PRNGKeyArray, batch_size: int) -> np.ndarray:
    answers = jax.jit(lambda x, y, key: jnp.argmax(network(x, key), -1) == y)
    return _in_batches(answers, x, y, key, batch_size)


def _in_batches(function: Any, x: np.ndarray, y: np.ndarray, key: PRNGKeyArray, batch_size: int) -> np.ndarray:
    """Applies a compiled function to batches of one size, the last filled up."""
    parts = []
    for start in range(0, len(x), batch_size):
        rows = np.resize(np.arange(start, min(start + batch_size, len(x))), batch_size)
        part = function(jnp.asarray(x[rows]), jnp.asarray(y[rows]), jax.random.fold_in(key, start))
        parts.append(np.asarray(part)[: len(x) - start])
    return np.concatenate(parts)


def _noisy(x: np.ndarray, kind: Distribution, scale: float, bounds: Bounds, key: PRNGKeyArray) -> np.ndarray:
    keys = example_keys(key, jnp.arange(len(x)))
    return np.asarray(jnp.clip(add_noise(keys, jnp.asarray(x), sigma=scale, distribution=kind), *bounds))
