"""The attacks by name: those of this folder and the user's."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from sparsejax.registry import Registered, check_name

F = TypeVar("F", bound=Callable[..., Any])


class Entry(NamedTuple):
    """An attack; a targeted one takes `ranks [classes]`, the ranks of the most likely wrong classes to target.

    It needs that many classes, and attacks in these norms, or in any if there are none.
    """

    attack: Callable[..., Any]
    targeted: bool = False
    classes: int = 2
    norms: tuple[str, ...] = ()


ATTACKS: Registered[Entry] = Registered("attack", "sparsejax.evaluation.attacks")
"""All attacks within a ball, by name."""


def register_attack(
    name: str, *, targeted: bool = False, classes: int = 2, norms: tuple[str, ...] = (), place: float = 100.0
) -> Callable[[F], F]:
    """Register an attack for `robustness_report`: `@register_attack("mine")`.

    The attack is called as `attack(logits_fn, images, labels, epsilon=, norm=, bounds=, draws=, key=)` and returns an
    `Adversarial`; it compiles.

    Args:
      name: its name in the report.
      targeted: whether it targets a class given by `ranks`; it runs for one rank after another.
      classes: the least number of classes that it needs.
      norms: in which it attacks; any if there are none.
      place: sorts the list of attacks; those of sparsejax have less than 100.

    Returns:
      A decorator that returns the attack.

    Raises:
      ConfigError: the name is no text, or taken.
    """
    check_name(name, "register_attack")

    def register(attack: F) -> F:
        ATTACKS.add(name, Entry(attack, targeted, classes, norms), module=attack.__module__, place=place)
        return attack

    return register
