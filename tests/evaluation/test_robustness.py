"""The robustness report: what it says of a linear network, on noisy ones, and of networks that are not ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.evaluation.attacks import pgd
from sparsejax.evaluation.attacks.ensemble import auto_attack, survivors_of
from sparsejax.evaluation.attacks.geometry import length
from sparsejax.evaluation.robustness import robustness_report
from tests.evaluation.attacks.test_attacks import linear

KEY = jax.random.key(0)


@pytest.mark.slow
def test_a_report_of_a_linear_network():
    logits, x, labels, nearest = linear()
    wrong = labels.at[:4].set((labels[:4] + 1) % 5)
    epsilon = {norm: float(jnp.median(nearest[norm])) for norm in ("linf", "l2")}
    report = robustness_report(
        logits, x, wrong, key=KEY, balls=epsilon, attacks=("fgsm", "pgd", "apgd_t"), minimal=("l2",), batch_size=16,
        noise={"gaussian": (0.0, 0.02), "laplace": (1.0,), "salt_and_pepper": (0.0, 1.0)}, minimal_iterations=200,
    )  # fmt: skip
    assert report["clean"] == pytest.approx(0.9)
    assert report["noise"]["gaussian"][0.0] == report["clean"]
    assert report["noise"]["salt_and_pepper"][0.0] == report["clean"] > report["noise"]["salt_and_pepper"][1.0]
    assert report["noise"]["laplace"][1.0] < report["noise"]["gaussian"][0.02] <= 0.95
    for norm in ("linf", "l2"):
        expected = float((nearest[norm][4:] > epsilon[norm]).sum() / 40)
        assert report[norm]["apgd_t"] == pytest.approx(expected, abs=0.03)
        assert report[norm]["all"] <= min(report[norm][name] for name in ("fgsm", "pgd", "apgd_t"))
        assert report[norm]["pgd"] <= report["clean"]
    truth = np.where(np.arange(40) < 4, 0, nearest["l2"])
    assert report["minimal"]["l2"] == pytest.approx(float(np.median(truth)), rel=0.05)


def test_few_images_are_attacked_and_all_are_shown_noise():
    logits, x, labels, nearest = linear()
    epsilon, wrong = float(jnp.median(nearest["l2"])), labels.at[:10].set((labels[:10] + 1) % 5)
    common = {"key": KEY, "balls": {"l2": epsilon}, "attacks": ("apgd_ce",), "minimal": ("l2",), "batch_size": 16}
    report = robustness_report(logits, x, wrong.at[20:].set(labels[20:]), attacked=20, **common)
    assert report["clean"] == pytest.approx(0.75) and report["noise"]["gaussian"][0.1] <= 0.8
    assert report["l2"]["apgd_ce"] == pytest.approx(float((nearest["l2"][10:20] > epsilon).sum() / 20), abs=0.05)
    expected = np.median(np.where(np.arange(20) < 10, 0, nearest["l2"][:20]))
    assert report["minimal"]["l2"] == pytest.approx(float(expected), rel=0.05)


@pytest.mark.slow
def test_the_ensemble_finds_what_can_be_found_and_spares_what_is_found():
    logits, x, labels, nearest = linear()
    epsilon = float(jnp.median(nearest["linf"]))
    found = auto_attack(logits, x.reshape(40, -1), labels, epsilon=epsilon, key=KEY, batch_size=32)
    within = nearest["linf"] < epsilon
    assert (found.success == within).mean() > 0.95 and not (found.success & ~within).any()
    assert (length(found.images - x.reshape(40, -1), "linf") <= epsilon + 1e-6).all()
    noisy = auto_attack(
        lambda x, key: logits(x + 0.01 * jax.random.normal(key, x.shape)), x[:4], labels[:4], epsilon=epsilon, key=KEY,
        draws=2,
    )  # fmt: skip
    assert noisy.images.shape == x[:4].shape


@pytest.mark.slow
def test_the_ensemble_in_l1_has_no_square():
    logits, x, labels, nearest = linear()
    epsilon = float(jnp.median(nearest["l1"]))
    found = auto_attack(logits, x, labels, epsilon=epsilon, norm="l1", key=KEY, batch_size=32)
    assert (length(found.images - x, "l1") <= epsilon + 1e-6).all()
    assert found.success[nearest["l1"] < 0.94 * epsilon].all() and not found.success[nearest["l1"] > epsilon].any()


def test_examples_that_are_done_are_attacked_no_more():
    logits, x, labels, nearest = linear()
    seen = []

    def of(epsilon):
        def attack(x, labels, key):
            seen.append(len(x))
            return pgd(logits, x, labels, epsilon=epsilon, key=key)

        return jax.jit(attack)

    half, far = float(jnp.median(nearest["linf"])), float(2 * jnp.max(nearest["linf"]))
    images, left = survivors_of([of(half), of(far), of(far)], np.asarray(x), np.asarray(labels), key=KEY, batch_size=40)
    assert seen[:2] == [40, 20], "half of them are attacked again, in a batch of half the size"
    assert not left[1].any() and (jnp.argmax(logits(jnp.asarray(images)), -1) != labels).all()


def test_any_function_of_images_will_do_and_errors_say_what_was_expected():
    report = robustness_report(
        lambda x: jnp.stack([x.sum((1, 2)), 3 - x.sum((1, 2))], 1), jnp.full((5, 2, 2), 0.5), jnp.zeros(5, jnp.int32),
        key=KEY, balls={"linf": 0.01}, attacks={"linf": ("fgsm",)}, noise={},
    )  # fmt: skip
    assert report == {"clean": 1.0, "noise": {}, "minimal": {}, "linf": {"fgsm": 1.0, "all": 1.0}}
    with pytest.raises(ValueError, match="Unknown attacks: cw; there are fgsm"):
        robustness_report(lambda x: x, jnp.zeros((2, 3)), jnp.zeros(2), key=KEY, attacks=("cw",))
    with pytest.raises(ValueError, match="2 images and 3 labels"):
        robustness_report(lambda x: x, jnp.zeros((2, 3)), jnp.zeros(3), key=KEY)
