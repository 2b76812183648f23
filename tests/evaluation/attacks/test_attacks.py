"""The attacks: recorded PGD, closed forms for a linear network, and properties of all attacks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.evaluation.attacks import apgd, apgd_dlr, apgd_targeted, fab_targeted, fgsm, fmn, pgd, square
from sparsejax.evaluation.attacks.losses import cross_entropy, dlr, margin, targeted_dlr
from tests.evaluation.attacks.networks import answers, curved, length_of, linear
from tests.models.test_hebbian_vgg import RECORDED, normalised, recorded_network

KEY = jax.random.key(0)


@pytest.mark.slow
@pytest.mark.optimized
def test_pgd_is_the_recorded_one():
    case, variables = recorded_network()
    x = jnp.asarray(case["x"].transpose(0, 2, 3, 1))
    epsilon, step = 2 / 255, 0.2 / 255
    attack = jax.jit(functools.partial(
        pgd, lambda x: RECORDED.apply(variables, normalised(x)).prediction, epsilon=epsilon, step=step, iterations=30,
        random=False, stop=False,
    ))  # fmt: skip
    found = attack(x, jnp.asarray(case["y"], jnp.int32))
    delta = np.asarray(found.images - x).transpose(0, 3, 1, 2)
    # Rounding determines the sign of gradients close to 0.
    assert np.mean(np.abs(delta - case["delta"]) < 1e-6) > 0.995
    np.testing.assert_array_equal(found.success, case["pred_adv"] != case["y"])


ATTACKS = {
    "fgsm": (fgsm, {}),
    "pgd": (pgd, {"key": KEY}),
    "apgd": (apgd, {"key": KEY}),
    "apgd_dlr": (apgd_dlr, {"key": KEY}),
    "apgd_targeted": (apgd_targeted, {"key": KEY}),
    "fab_targeted": (fab_targeted, {}),
    "square": (square, {"key": KEY, "queries": 60}),
}
LINEAR = [(name, norm) for name in ATTACKS for norm in ("linf", "l2", "l1")
          if name != "square" and (name, norm) not in (("fgsm", "l1"), ("pgd", "l1"))]  # fmt: skip
CASES = [*LINEAR, ("pgd", "l1"), ("square", "linf"), ("square", "l2")]
QUICK = [("fgsm", "linf"), ("fgsm", "l2"), ("pgd", "linf"), ("apgd", "linf")]


def slow_but_few(cases):
    return [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in cases]


@functools.cache
def compiled(name, norm):
    """Returns one program for all networks: `run(logits, x, labels, epsilon)`."""
    attack, settings = ATTACKS[name]
    return jax.jit(lambda logits, x, labels, epsilon: attack(logits, x, labels, epsilon=epsilon, norm=norm, **settings))


def run(name, norm, case, epsilon):
    """Returns an attack's images and success, after checks that hold for any attack."""
    found = compiled(name, norm)(case.logits, case.x, case.labels, np.float32(epsilon))
    images, success = np.asarray(found.images), np.asarray(found.success)
    assert (length_of(images - case.x, norm) <= epsilon + 1e-6).all(), "in the ball"
    assert (images >= 0).all() and (images <= 1).all(), "in the box"
    np.testing.assert_array_equal(success, answers(case.logits, images) != case.labels)
    return images, success


@pytest.mark.parametrize(("name", "norm"), slow_but_few(LINEAR))
def test_a_linear_network_misclassifies_just_beyond_its_boundary(name, norm):
    case = linear()
    nearest = case.nearest[norm]
    # Half of the examples lie within the median's distance.
    middle = np.median(nearest)
    for factor in (0.97, 1.03):
        _, success = run(name, norm, case, factor * middle)
        within = nearest <= factor * middle
        assert not (success & ~within).any(), "no image out of reach is misclassified"
        sure = 0.94 if norm == "l1" else 0.96
        if (name, norm) not in (("fgsm", "l2"), ("pgd", "l2")):  # which move between two equally near classes
            assert success[nearest < sure * factor * middle].all()


EPSILONS = {"linf": 0.02, "l2": 0.1, "l1": 0.6}


@pytest.mark.parametrize(("name", "norm"), slow_but_few(CASES))
def test_images_of_a_curved_network_stay_in_ball_and_box_and_success_is_correct(name, norm):
    case = curved()
    _, success = run(name, norm, case, EPSILONS[norm])
    assert success[2], "which is misclassified clean"
    assert 1 < success.sum() < 40


def test_the_stronger_attack_finds_more():
    case = curved()
    count = {
        (name, epsilon): run(name, "linf", case, epsilon)[1].sum()
        for name in ("fgsm", "pgd", "apgd") for epsilon in (0.025, 0.05)
    }  # fmt: skip
    assert count["fgsm", 0.05] < count["pgd", 0.05] <= count["apgd", 0.05]
    assert count["apgd", 0.025] < count["apgd", 0.05]


@pytest.mark.parametrize("norm", ["linf", *(pytest.param(norm, marks=pytest.mark.slow) for norm in ("l2", "l1"))])
def test_minimal_norms_of_a_linear_network(norm):
    logits, x, labels, nearest = linear()
    found = jax.jit(lambda x: fmn(logits, x, labels, norm=norm, iterations=300))(x)
    assert found.success.all() and (found.distance >= nearest[norm] * (1 - 1e-4)).all()
    assert np.median(found.distance / nearest[norm]) < 1.03
    np.testing.assert_allclose(length_of(np.asarray(found.images) - x, norm), found.distance, rtol=1e-6)


@pytest.mark.parametrize("norm", ["linf", *(pytest.param(norm, marks=pytest.mark.slow) for norm in ("l2", "l1"))])
def test_fab_finds_minimal_norms_of_a_linear_network(norm):
    logits, x, labels, nearest = linear()
    far = jax.jit(
        lambda x: fab_targeted(logits, x, labels, epsilon=jnp.inf, norm=norm, iterations=20, stop=False)
    )(x)  # fmt: skip
    assert far.success.all()
    ratio = length_of(np.asarray(far.images) - x, norm) / nearest[norm]
    assert (ratio > 1 - 1e-4).all() and np.median(ratio) < 1.06


def test_entries_at_the_bounds_are_not_used_in_l0():
    # The first four entries count most, but are as dark as can be; of the others four together are enough.
    weights = np.array([-9.0] * 4 + [1.0] * 12, np.float32)
    x = np.where(np.arange(16) < 4, 0.0, 0.5).astype(np.float32).reshape(1, 4, 4, 1)

    def logits(x):
        return jnp.stack([jnp.zeros(len(x), x.dtype), x.reshape(len(x), -1) @ weights - 7.5], -1)

    found = jax.jit(lambda x: fmn(logits, x, jnp.zeros(1, jnp.int32), norm="l0", iterations=60))(x)
    assert found.success.all()
    assert found.distance == 4, "from 6.0 to more than 7.5 by steps of at most 0.5"


@pytest.mark.slow
def test_few_entries_suffice_in_l0():
    network, x, labels, _ = linear()
    found = jax.jit(lambda x: fmn(network, x, labels, norm="l0", iterations=300))(x)
    assert found.success.all() and (answers(network, found.images) != labels).all()
    distance = np.asarray(found.distance)
    np.testing.assert_array_equal(distance, np.sum((found.images != x).reshape(len(x), -1), -1))
    # No single entry suffices where two are reported.
    for i in range(32):
        for value in (0.0, 1.0):
            one = x.reshape(len(x), -1).copy()
            one[:, i] = value
            changed = ((one - 0.5) @ network.weights).argmax(-1) != labels
            assert np.mean(distance[changed] > 1) <= 0.34 if changed.any() else True


def test_gradients_of_a_noisy_network_are_averaged_over_draws():
    logits, x, labels, nearest = linear()

    def noisy(x, key):
        return logits(x + 0.1 * jax.random.normal(key, x.shape, x.dtype))

    epsilon = float(np.median(nearest["linf"]))
    found = jax.jit(lambda x: pgd(noisy, x, labels, epsilon=epsilon, draws=16, key=KEY, stop=False))(x)
    silent = np.asarray(answers(logits, found.images)) != labels
    assert silent.mean() >= 0.8 * (nearest["linf"] < epsilon).mean()
    with pytest.raises(ValueError, match="key is None"):
        pgd(noisy, x, labels, epsilon=epsilon, draws=16, random=False)


def test_losses_by_hand():
    logits, labels = np.array([[3.0, 1.0, 0.0, -1.0], [0.0, 2.0, 1.0, 5.0]], np.float32), np.array([0, 1])
    losses = (margin, dlr, targeted_dlr(jnp.array([1, 3])), cross_entropy)
    found = jax.jit(lambda *given: [loss(*given) for loss in losses])(logits, labels)
    np.testing.assert_allclose(found[0], [-2, 3])
    np.testing.assert_allclose(found[1], [-2 / 3, 3 / 4], rtol=1e-6)
    np.testing.assert_allclose(found[2], [-2 / 3.5, 3 / 4.5], rtol=1e-6)
    expected = np.logaddexp.reduce(logits, axis=-1) - logits[np.arange(2), labels]
    np.testing.assert_allclose(found[3], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, x, y: pgd(f, x, y, epsilon=-1.0, key=KEY), "epsilon is -1.0"),
        (lambda f, x, y: pgd(f, x, y, epsilon=0.1, norm="l0", key=KEY), "norm is l0"),
        (lambda f, x, y: pgd(f, x, y, epsilon=0.1), "key is None"),
        (lambda f, x, y: apgd(f, x, y, epsilon=0.1, norm="l0", key=KEY), "norm is l0"),
        (lambda f, x, y: square(f, x.reshape(40, -1), y, epsilon=0.1, key=KEY), r"\(40, 32\)"),
        (lambda f, x, y: fmn(f, x, y, norm="l3"), "norm is l3"),
        (lambda f, x, y: apgd_targeted(lambda x: f(x)[:, :3], x, y, epsilon=0.1, key=KEY), "3 classes"),
    ],
)
def test_errors_say_what_was_expected(call, message):
    logits, x, labels, _ = linear()
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda x: call(logits, x, labels), x)
