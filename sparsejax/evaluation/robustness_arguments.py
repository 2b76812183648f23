"""Checks of the arguments of a robustness report: levels of noise, radii, and attacks by norm."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import numpy as np

from sparsejax.errors import ConfigError, blame
from sparsejax.evaluation.attacks.geometry import BALLS, Norm
from sparsejax.evaluation.attacks.problem import check_number
from sparsejax.evaluation.attacks.programs import AnyNorm
from sparsejax.evaluation.attacks.registry import ATTACKS, Entry
from sparsejax.functional.noise import Distribution

NoiseKind = Distribution | Literal["salt_and_pepper"]
"""Additive noise with a scale, or pixels that become black or white with a fraction."""
Levels = float | Sequence[float]
Attacks = Sequence[str | Callable[..., Any]]
"""Names in `ATTACKS`, or functions with the arguments that `register_attack` describes."""

_DEFAULT = ("fgsm", "pgd", "apgd_ce", "apgd_t")


def check_noise(noise: Mapping[NoiseKind, Levels], axes: int) -> dict[NoiseKind, tuple[float, ...]]:
    """Returns kind -> levels.

    Args:
      noise: kind -> one level, or several.
      axes: of the images.

    Raises:
      ConfigError: a kind is unknown or does not apply to such images, or a level is wrong.
    """
    known = (*get_args(Distribution), "salt_and_pepper")
    for kind in _mapping("noise", noise, "{'gaussian': 0.1}"):
        if kind not in known:
            raise ConfigError(f"The noise {kind!r} is unknown; there are {', '.join(known)}.")
    if "salt_and_pepper" in noise and axes != 4:
        raise ConfigError("The noise salt_and_pepper sets whole pixels; expected images [n, height, width, channels].")
    most = {"salt_and_pepper": 1.0}
    return {
        kind: _levels(f"The level of {kind} noise", levels, most=most.get(kind, np.inf), finite=True)
        for kind, levels in noise.items()
    }


def check_balls(balls: Mapping[AnyNorm, Levels], images: Any) -> dict[AnyNorm, tuple[float, ...]]:
    """Returns norm -> radii in ascending order.

    Raises:
      ConfigError: a norm is unknown or returns no number for each image, or a radius is no number of 0 or more.
    """
    for norm in _mapping("balls", balls, "{'linf': 0.03}"):
        if not callable(norm):
            check_norms((norm,))
            continue
        with blame(f"The norm {name_of(norm)}"):
            found = jax.eval_shape(
                lambda delta, norm=norm: norm(delta), jax.ShapeDtypeStruct(images.shape, images.dtype)
            )
        if getattr(found, "shape", None) != images.shape[:1]:
            shape = getattr(found, "shape", type(found).__name__)
            raise ConfigError(
                f"The norm {name_of(norm)} returned {shape} for {len(images)} images; expected one number for each, "
                f"[{len(images)}]."
            )
    radii: dict[AnyNorm, tuple[float, ...]] = {}
    for norm, several in balls.items():
        radii[norm] = tuple(sorted(_levels(f"The radius in {name_of(norm)}", several)))
    return radii


def check_norms(norms: Any) -> tuple[Norm, ...]:
    """Returns norms as a tuple.

    Raises:
      ConfigError: they are no list of known ones.
    """
    for norm in _several("minimal", norms):
        if norm not in get_args(Norm):
            raise ConfigError(f"The norm {norm!r} is unknown; there are {', '.join(get_args(Norm))}.")
    return tuple(norms)


def check_attacks(
    attacks: Attacks | Mapping[AnyNorm, Attacks] | None, norms: Iterable[AnyNorm], classes: int, *, autoattack: bool
) -> dict[AnyNorm, dict[str, Entry]]:
    """Returns norm -> name -> attack.

    Args:
      attacks: for all norms or by norm; None for those that attack a network of so few classes.
      norms: that have a radius.
      classes: of the network.
      autoattack: whether AutoAttack runs, too.

    Raises:
      ConfigError: an attack is unknown, or does not attack in its norm, or networks of so few classes.
    """
    if unfit := [name_of(norm) for norm in norms if autoattack and norm not in BALLS]:
        raise ConfigError(f"autoattack is True and the norm is {unfit[0]}; expected {', '.join(BALLS)}.")
    if attacks is None:
        attacks = [name for name in _DEFAULT if ATTACKS[name].classes <= classes]
    if not isinstance(attacks, Mapping):
        attacks = dict.fromkeys(norms, attacks)
    if missing := [name_of(norm) for norm in attacks if norm not in norms]:
        raise ConfigError(f"attacks has {missing[0]!r}, but balls has no radius for it; add one.")
    return {norm: _entries(attacks.get(norm, ()), norm, classes) for norm in norms}


def _entries(attacks: Attacks, norm: AnyNorm, classes: int) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for attack in _several("attacks", attacks):
        name = name_of(attack)
        if not isinstance(attack, str) and not callable(attack):
            raise ConfigError(f"attacks has {attack!r}; expected a name or a function.")
        if isinstance(attack, str) and attack not in ATTACKS:
            raise ConfigError(f"Unknown attacks: {attack}; there are {', '.join(ATTACKS)}.")
        if name in entries or name in ("all", "auto_attack"):
            raise ConfigError(f"attacks has {name!r} twice, or as a name of an own entry of the report; rename it.")
        entry = entries[name] = ATTACKS[attack] if isinstance(attack, str) else Entry(attack)
        if entry.norms and norm not in entry.norms:
            raise ConfigError(f"norm is {name_of(norm)} for the attack {name}; expected {', '.join(entry.norms)}.")
        if entry.classes > classes:
            raise ConfigError(f"The attack {name} needs {entry.classes} classes; logits_fn returns {classes}.")
    return entries


def name_of(named: Any) -> str:
    """Returns a name, or that of a function."""
    return named if isinstance(named, str) else getattr(getattr(named, "func", named), "__name__", type(named).__name__)


def _levels(name: str, levels: Any, *, most: float = np.inf, finite: bool = False) -> tuple[float, ...]:
    """Returns one level or several as numbers of Python."""
    several = tuple(levels) if np.ndim(levels) else (levels,)
    if not several:
        raise ConfigError(f"{name} is {levels!r}; expected a number, or several.")
    for level in several:
        check_number(name, level, least=0, most=most, finite=finite)
    return tuple(level.item() if hasattr(level, "item") else level for level in several)


def _several(name: str, given: Any) -> tuple[Any, ...]:
    """Returns the names of a list; the letters of a text are none."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigError(f"{name} has {given!r}; expected a tuple of names: ({given!r},).")
    return tuple(given)


def _mapping(name: str, given: Any, example: str) -> Mapping[Any, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{name} is {given!r}; expected a dictionary, such as {example}.")
    return given
