"""Attacks by name: those of sparsejax in order, and a user's own in the robustness report."""

import runpy

import jax
import jax.numpy as jnp
import pytest

from sparsejax.errors import ConfigError
from sparsejax.evaluation import register_attack, robustness_report
from sparsejax.evaluation.attacks import Adversarial, fgsm
from sparsejax.evaluation.attacks.registry import ATTACKS

WEIGHTS = jax.random.normal(jax.random.key(0), (16, 4))
IMAGES = jax.random.uniform(jax.random.key(1), (12, 4, 4, 1))


def logits(x):
    return (x - 0.5).reshape(len(x), -1) @ WEIGHTS


LABELS = jnp.argmax(logits(IMAGES), -1)

FILE = """
import jax.numpy as jnp
from sparsejax.evaluation import register_attack
from sparsejax.evaluation.attacks import Adversarial

@register_attack("brighten")
def brighten(logits_fn, images, labels, *, epsilon, bounds, **settings):
    brighter = jnp.clip(images + epsilon, *bounds)
    return Adversarial(brighter, jnp.argmax(logits_fn(brighter), -1) != labels)
"""


def test_the_attacks_are_listed_by_cost():
    assert list(ATTACKS)[:3] == ["fgsm", "pgd", "apgd_ce"] and ATTACKS["fgsm"].attack is fgsm
    assert {name for name, entry in ATTACKS.items() if entry.targeted} == {"apgd_t", "fab_t"}


def test_an_own_attack_from_a_users_file_is_in_the_report(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    runpy.run_path(str(tmp_path / "mine.py"), run_name="mine")
    report = robustness_report(logits, IMAGES, LABELS, key=jax.random.key(2), noise={}, balls={"linf": 0.2},
                               attacks=("fgsm", "brighten"))  # fmt: skip
    fooled = jnp.argmax(logits(jnp.clip(IMAGES + 0.2, 0, 1)), -1) != LABELS
    assert report["linf"]["brighten"] == pytest.approx(1 - float(fooled.mean()))
    assert report["linf"]["fgsm"] <= report["linf"]["brighten"] and list(report["linf"])[:2] == ["fgsm", "brighten"]


def test_a_targeted_attack_is_run_for_one_rank_after_another():
    asked = []

    @register_attack("second_best", targeted=True)
    def second_best(logits_fn, images, labels, *, ranks, **settings):
        asked.append(ranks.shape)
        return Adversarial(images, jnp.zeros(len(images), bool) & (ranks[0] > 0))

    report = robustness_report(logits, IMAGES, LABELS, key=jax.random.key(2), noise={}, attacks=("second_best",))
    assert report["linf"]["second_best"] == 1 and set(asked) == {(1,)}


def test_names_are_unknown_or_taken():
    with pytest.raises(ValueError, match="Unknown attacks: pdg; there are fgsm, pgd"):
        robustness_report(logits, IMAGES, LABELS, key=jax.random.key(0), attacks=("pdg",))
    with pytest.raises(ConfigError, match="The attack 'pgd' of tests.*has the same name as one of sparsejax"):
        register_attack("pgd")(lambda *_, **__: None)
