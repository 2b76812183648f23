"""The robustness report of a linear network, of stochastic ones, and of networks that are not ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.evaluation.attacks import Adversarial, apgd, apgd_targeted, fab_targeted, pgd, square
from sparsejax.evaluation.attacks.ensemble import auto_attack, ensemble, survivors_of
from sparsejax.evaluation.robustness import robustness_report
from tests.evaluation.attacks.networks import answers, length_of, linear

KEY = jax.random.key(0)


def mislabelled(labels, count):
    """Returns labels of which the first so many are wrong."""
    return np.where(np.arange(len(labels)) < count, (labels + 1) % 5, labels)


@pytest.mark.slow
def test_a_report_of_a_linear_network():
    logits, x, labels, nearest = linear()
    epsilon = {norm: float(np.median(nearest[norm])) for norm in ("linf", "l2")}
    report = robustness_report(
        logits, x, mislabelled(labels, 4), key=KEY, balls=epsilon, attacks=("fgsm", "pgd", "apgd_t"), minimal=("l2",),
        noise={"gaussian": (0.0, 0.02), "laplace": (1.0,), "salt_and_pepper": (0.0, 1.0)}, minimal_iterations=200,
        batch_size=16,
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


def test_few_images_are_attacked_and_all_are_used_for_noise():
    logits, x, labels, nearest = linear()
    epsilon = float(np.median(nearest["l2"]))
    common = {"key": KEY, "balls": {"l2": epsilon}, "attacks": ("apgd_ce",), "minimal": ("l2",), "batch_size": 16}
    report = robustness_report(logits, x, mislabelled(labels, 10), attacked=20, **common)
    assert report["clean"] == pytest.approx(0.75) and report["noise"]["gaussian"][0.1] <= 0.8
    assert report["l2"]["apgd_ce"] == pytest.approx(float((nearest["l2"][10:20] > epsilon).sum() / 20), abs=0.05)
    expected = np.median(np.where(np.arange(20) < 10, 0, nearest["l2"][:20]))
    assert report["minimal"]["l2"] == pytest.approx(float(expected), rel=0.05)


@pytest.mark.slow
def test_the_ensemble_combines_attacks_and_skips_misclassified_images():
    logits, x, labels, nearest = linear()
    epsilon = float(np.median(nearest["linf"]))
    found = auto_attack(logits, x.reshape(40, -1), labels, epsilon=epsilon, key=KEY, batch_size=20)
    within = nearest["linf"] < epsilon
    assert (found.success == within).mean() > 0.95 and not (found.success & ~within).any()
    assert (length_of(found.images - x.reshape(40, -1), "linf") <= epsilon + 1e-6).all()


@pytest.mark.slow
def test_the_ensemble_takes_networks_that_draw_noise():
    logits, x, labels, _ = linear()
    network, draws = (lambda x, key: logits(x + 0.01 * jax.random.normal(key, x.shape))), 2
    for attack in set(ensemble(network, classes=5, epsilon=0.1, draws=draws)):
        assert jax.eval_shape(attack, x[:4], labels[:4], KEY).images.shape == x[:4].shape
    wrong = (labels[:4] + 1) % 5  # misclassified clean, so that one attack is enough
    found = auto_attack(network, x[:4], wrong, epsilon=0.1, key=KEY, draws=draws)
    assert found.images.shape == x[:4].shape and found.success.all()


@pytest.mark.slow
def test_the_ensemble_in_l1_has_no_square():
    logits, x, labels, nearest = linear()
    epsilon = float(np.median(nearest["l1"]))
    found = auto_attack(logits, x, labels, epsilon=epsilon, norm="l1", key=KEY, batch_size=20)
    assert (length_of(found.images - x, "l1") <= epsilon + 1e-6).all()
    success = np.asarray(found.success)
    assert success[nearest["l1"] < 0.94 * epsilon].all() and not success[nearest["l1"] > epsilon].any()


def test_misclassified_examples_are_not_attacked_again():
    logits, x, labels, nearest = linear()
    run, seen = jax.jit(lambda x, labels, key, epsilon: pgd(logits, x, labels, epsilon=epsilon, key=key)), []

    def of(epsilon):
        def attack(x, labels, key):
            seen.append(len(x))
            return run(x, labels, key, np.float32(epsilon))

        return attack

    half, far = np.median(nearest["linf"]), 2 * np.max(nearest["linf"])
    images, left = survivors_of([of(half), of(far), of(far)], x, labels, key=KEY, batch_size=40)
    assert seen == [40, 20], "half of them are attacked again, in a batch of half the size, and none a third time"
    assert not left[1].any() and (answers(logits, images) != labels).all()


def test_images_that_fill_a_batch_have_no_class_and_end_an_attack_at_once():
    seen = []

    def attack(x, labels, key):
        seen.append(labels.tolist())
        return Adversarial(x, labels == 7)

    images, left = survivors_of([attack], np.zeros((5, 2), np.float32), np.full(5, 7, np.uint8), key=KEY, batch_size=8)
    assert seen == [[7] * 5 + [-1] * 3] and not left[0].any() and images.shape == (5, 2)
    logits, x, _, _ = linear()
    for run in (pgd, apgd, apgd_targeted, fab_targeted, square):
        found = jax.jit(lambda x, labels, run=run: run(logits, x, labels, epsilon=1e-6, key=KEY))(
            x[:4], np.full(4, -1, np.int32)
        )
        assert found.success.all() and np.isfinite(found.images).all(), run.__name__


def test_any_function_of_images_is_accepted_and_errors_say_what_was_expected():
    report = robustness_report(
        lambda x: jnp.stack([x.sum((1, 2)), 3 - x.sum((1, 2))], 1), jnp.full((5, 2, 2), 0.5), jnp.zeros(5, jnp.int32),
        key=KEY, balls={"linf": 0.01}, attacks={"linf": ("fgsm",)}, noise={},
    )  # fmt: skip
    assert report == {"clean": 1.0, "noise": {}, "minimal": {}, "not_found": {}, "linf": {"fgsm": 1.0, "all": 1.0}}
    with pytest.raises(ValueError, match="Unknown attacks: cw; there are fgsm"):
        robustness_report(lambda x: x, jnp.zeros((2, 3)), jnp.zeros(2, int), key=KEY, attacks=("cw",))
    with pytest.raises(ValueError, match=r"2 images and labels of shape \(3,\)"):
        robustness_report(lambda x: x, jnp.zeros((2, 3)), jnp.zeros(3, int), key=KEY)
