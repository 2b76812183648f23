"""Attacks by name: those of sparsejax in order, and a user's own in the robustness report."""

import runpy

import jax
import jax.numpy as jnp
import pytest

from sparsejax.errors import ConfigError
from sparsejax.evaluation import register_attack, robustness_report
from sparsejax.evaluation.attacks import Adversarial, fgsm
from sparsejax.evaluation.attacks.ensemble import auto_attack
from sparsejax.evaluation.attacks.geometry import length
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
    with pytest.raises(ConfigError, match="Unknown attacks: pdg; there are fgsm, pgd"):
        robustness_report(logits, IMAGES, LABELS, key=jax.random.key(0), attacks=("pdg",))
    with pytest.raises(ConfigError, match="The attack 'pgd' of tests.*has the same name as one of sparsejax"):
        register_attack("pgd")(lambda *_, **__: None)
    with pytest.raises(ConfigError, match=r'register_attack got <function .*expected text.*@register_attack\("mine"\)'):
        register_attack(fgsm)


def report_of(attack, logits_fn=logits, **settings):
    """Returns the accuracy in a ball of radius 0.2 under an attack of the user's."""
    register_attack("theirs")(attack)
    report = robustness_report(logits_fn, IMAGES, LABELS, key=jax.random.key(2), noise={}, attacks=("theirs",),
                               **{"balls": {"linf": 0.2}} | settings)  # fmt: skip
    return next(report[norm]["theirs"] for norm in report if norm not in ("clean", "noise", "minimal", "not_found"))


def moved(factor, norm):
    """Returns an attack that takes images a factor of the way to the border of a ball, which fools the network."""
    away = WEIGHTS.mean(1, keepdims=True).T - WEIGHTS.T[LABELS]  # away from the label's class

    def attack(logits_fn, images, labels, *, epsilon, bounds, **settings):
        rows = jnp.argmax(jnp.all(images[:, None] == IMAGES[None], axis=(2, 3, 4)), axis=1)
        step = jnp.sign(away)[rows] if norm == "linf" else away[rows] / length(away[rows], norm)[:, None]
        images = images + factor * epsilon * step.reshape(images.shape)
        return Adversarial(images, jnp.argmax(logits_fn(images), -1) != labels)

    return attack


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.4), ("l2", 1.2), ("l1", 4.0)])
def test_images_count_only_in_the_ball_and_the_bounds(norm, epsilon):
    wide = {"balls": {norm: epsilon}, "bounds": (-9.0, 9.0)}
    assert report_of(moved(0.999, norm), **wide) < 1, "in the ball"
    assert report_of(moved(1.000001, norm), **wide) < 1, "in the ball up to rounding"
    assert report_of(moved(1.01, norm), **wide) == 1, "outside the ball"
    within = jnp.all((attacked_images(norm, epsilon) >= 0) & (attacked_images(norm, epsilon) <= 1), axis=(1, 2, 3))
    expected = 1 - float((within & fooled(norm, epsilon)).mean())
    assert report_of(moved(0.999, norm), balls={norm: epsilon}) == pytest.approx(expected), "some are out of bounds"


def attacked_images(norm, epsilon):
    return moved(0.999, norm)(logits, IMAGES, LABELS, epsilon=epsilon, bounds=None).images


def fooled(norm, epsilon):
    return jnp.argmax(logits(attacked_images(norm, epsilon)), -1) != LABELS


@pytest.mark.parametrize("draws", [None, 2])
def test_a_success_is_confirmed_by_the_network(draws):
    def claim(value):
        return lambda logits_fn, x, labels, **settings: Adversarial(x + value, jnp.ones(len(x), bool))

    network = logits if draws is None else (lambda x, key: logits(x) + 1e-6 * jax.random.normal(key, (len(x), 4)))
    assert report_of(claim(0.0), network, draws=draws) == 1, "the clean images are classified correctly"
    assert report_of(claim(jnp.nan), network, draws=draws) == 1 == report_of(claim(jnp.inf), network, draws=draws)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda x: None, r"attack attack returned NoneType; expected an Adversarial with images \(16, 4, 4, 1\)"),
        (lambda x: (x, jnp.zeros(len(x), bool)), "returned tuple; expected an Adversarial"),
        (lambda x: Adversarial(x[:1], jnp.zeros(len(x), bool)), r"returned \[\(1, 4, 4, 1\), \(16,\)\]; expected"),
        (lambda x: Adversarial(x, jnp.zeros((), bool)), r"\(\)\]; expected an Adversarial .* and success \(16,\)"),
    ],
)
def test_attacks_return_an_adversarial(result, message):
    def attack(logits_fn, x, labels, **settings):
        return result(x)

    with pytest.raises(ConfigError, match=message):
        report_of(attack, batch_size=16)


@pytest.mark.parametrize(
    ("images", "labels", "settings", "message"),
    [
        (IMAGES, LABELS, {"attacks": "fgsm"}, r"has 'fgsm'; expected a tuple of names: \('fgsm',\)"),
        (IMAGES, LABELS, {"attacks": {"linf": "fgsm"}}, r"has 'fgsm'; expected a tuple of names"),
        (IMAGES, LABELS, {"minimal": "l2"}, r"has 'l2'; expected a tuple of names"),
        (IMAGES, LABELS, {"minimal": ("l3",)}, "The norm 'l3' is unknown; there are linf, l2, l1, l0"),
        (IMAGES, LABELS, {"balls": {"inf": 0.1}}, "The norm 'inf' is unknown; there are linf, l2, l1, l0"),
        (
            IMAGES,
            LABELS,
            {"balls": {"l0": 3}, "attacks": ("pgd",)},
            "norm is l0 for the attack pgd; expected linf, l2, l1",
        ),
        (IMAGES, LABELS, {"noise": {"pink": (0.1,)}}, "The noise 'pink' is unknown; there are gaussian"),
        (IMAGES, LABELS[:3], {}, r"12 images and labels of shape \(3,\) and type int.*; expected one integer class"),
        (IMAGES[:0], LABELS[:0], {}, "the number of images is 0; expected an integer of 1 or more"),
        (IMAGES, LABELS, {"attacked": 0}, "attacked is 0; expected an integer of 1 or more"),
        (IMAGES * 255, LABELS, {}, r"images has values from .*, but bounds is \(0.0, 1.0\); expected values within"),
        (IMAGES * jnp.nan, LABELS, {}, "images has values from nan to nan, but bounds"),
    ],
)
def test_what_a_report_cannot_attack(images, labels, settings, message):
    with pytest.raises(ConfigError, match=message):
        robustness_report(logits, images, labels, key=jax.random.key(0), **{"noise": {}, **settings})
    if not settings and len(images):
        with pytest.raises(ConfigError, match=message):
            auto_attack(logits, images, labels, epsilon=0.1, key=jax.random.key(0))
