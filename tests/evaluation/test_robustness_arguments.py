"""Arguments of the robustness report: radii, norms and attacks of the user's, classes, predictions that are NaN."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import ConfigError
from sparsejax.evaluation.attacks import Adversarial, fmn, programs
from sparsejax.evaluation.attacks.geometry import expand, length
from sparsejax.evaluation.robustness import robustness_report
from tests.evaluation.attacks.networks import curved, linear

KEY = jax.random.key(0)
report = functools.partial(robustness_report, key=KEY, noise={}, batch_size=40)


def test_with_several_radii_the_accuracies_fall():
    logits, x, labels, nearest = linear()
    radii = np.quantile(nearest["linf"], [0.25, 0.75, 0.5]).astype(float)
    found = report(logits, x, labels, balls={"linf": radii}, attacks=("apgd_ce",))["linf"]
    assert list(found) == sorted(radii)
    for radius, accuracy in found.items():
        assert accuracy["apgd_ce"] == accuracy["all"] == pytest.approx((nearest["linf"] > radius).mean(), abs=0.03)
    one = report(logits, x, labels, balls={"linf": float(radii[2])}, attacks=("apgd_ce",))["linf"]
    assert one == pytest.approx(found[radii[2]], abs=0.03)


def test_one_level_of_noise_is_a_number():
    logits, x, labels, _ = linear()
    both = [report(logits, x, labels, noise={"gaussian": level}, attacks=()) for level in (0.2, (0.2,))]
    assert both[0] == both[1] and list(both[0]["noise"]["gaussian"]) == [0.2]


def towards_the_mean(logits_fn, x, labels, *, epsilon, norm, **settings):
    """Moves along the gradient of the label's logit, to the border of a ball of the user's norm."""
    assert isinstance(epsilon, float), "a number of Python, for code that decides by it"
    slope = jax.grad(lambda x: -jnp.take_along_axis(logits_fn(x), labels[:, None], 1).sum())(x)
    there = x + expand(epsilon / norm(slope), x) * slope
    return Adversarial(there, jnp.ones(len(x), bool))


def test_functions_are_attacks_and_norms():
    logits, x, labels, _ = linear()

    def root_mean_square(delta):
        return length(delta, "l2") / float(np.sqrt(delta[0].size))

    size = np.sqrt(x[0].size)
    theirs = report(logits, x, labels, balls={root_mean_square: 0.5 / size}, attacks=[towards_the_mean],
                    bounds=(-9.0, 9.0))["root_mean_square"]  # fmt: skip
    fooled = towards_the_mean(logits, x, labels, epsilon=0.5, norm=functools.partial(length, norm="l2")).images
    expected = np.mean(np.asarray(logits(fooled)).argmax(-1) == labels)
    assert theirs == {"towards_the_mean": pytest.approx(expected), "all": pytest.approx(expected)} and expected < 0.9
    far = functools.partial(lambda *_, epsilon, **settings: towards_the_mean(*_, epsilon=2 * epsilon, **settings))
    beyond = report(logits, x, labels, balls={root_mean_square: 0.5 / size}, attacks=[far], bounds=(-9.0, 9.0))
    assert beyond["root_mean_square"]["all"] == 1, "images beyond the ball of the user's norm do not count"


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_the_default_attacks_fit_the_number_of_classes(classes):
    logits, x, labels, _ = linear()
    labels = np.minimum(labels, classes - 1)
    found = report(lambda x: logits(x)[:, :classes], x, labels, balls={"linf": 0.001})
    assert list(found["linf"]) == ["fgsm", "pgd", "apgd_ce", *["apgd_t"] * (classes >= 4), "all"]


def test_an_undefined_prediction_is_misclassified():
    def undefined(x):
        return jnp.full((len(x), 5), jnp.nan, x.dtype) * x.sum()

    x, labels = np.full((6, 2, 2, 1), 0.5, np.float32), np.array([0, 0, 0, 0, 0, 1])  # argmax answers 0
    found = report(
        undefined, x, labels, noise={"uniform": (0.1,)}, balls={"linf": 0.1}, attacks=("fgsm",), minimal=("l2",)
    )
    assert found["clean"] == found["noise"]["uniform"][0.1] == found["linf"]["all"] == found["minimal"]["l2"] == 0


def test_images_without_a_misclassified_one_are_counted_and_their_distance_is_infinite():
    def by_first_pixel(x):  # no image of a bright first pixel can be misclassified
        first = x.reshape(len(x), -1)[:, :1]
        return jnp.concatenate([jnp.where(first > 0.9, 1.0, first), 0.6 + jnp.zeros_like(first)], 1)

    x = np.full((4, 1, 1, 2), 0.7, np.float32)
    x[:3, :, :, 0] = 1.0
    with pytest.warns(UserWarning, match="No misclassified image was found for 3 of 4 images in l2; their distances"):
        found = report(by_first_pixel, x, np.zeros(4, int), attacks=(), minimal=("l2",), minimal_iterations=20)
    assert found["minimal"]["l2"] == np.inf and found["not_found"] == {"l2": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert report(by_first_pixel, x[3:], np.zeros(1, int), attacks=(), minimal=("l2",))["not_found"] == {"l2": 0}


@pytest.mark.parametrize("hidden", [False, True])
def test_distances_of_images_with_many_black_pixels(hidden):
    rng = np.random.default_rng(0)
    x = np.where(rng.random((60, 64)) < 0.5, 0, rng.random((60, 64))).astype(np.float32)
    weights = rng.normal(size=(64, 64 if hidden else 10)).astype(np.float32)
    out = rng.normal(size=(64, 10)).astype(np.float32) if hidden else np.eye(10, dtype=np.float32)

    def logits(x):
        inner = (x - np.float32(0.3)) @ weights
        return (jnp.maximum(inner, 0) if hidden else inner) @ out

    labels = jnp.argmax(logits(x), -1).astype(jnp.int32)
    within, free = (
        jax.jit(lambda x, bounds=bounds: fmn(logits, x, labels, iterations=50, bounds=bounds))(x)
        for bounds in ((0.0, 1.0), (-10.0, 10.0))
    )
    assert within.success.all() and free.success.all()
    assert 1 < np.median(within.distance) / np.median(free.distance) < 1.6
    if not hidden:
        found = np.asarray(within.distance)
        optimal = _nearest_in_the_box(x, np.asarray(logits(x)), weights, np.asarray(labels))
        assert (found >= optimal * (1 - 1e-4)).all()
        assert np.median(found / optimal) < 1.005 and np.max(found / optimal) < 1.2


def _nearest_in_the_box(x, logits, weights, labels):
    """Returns the l2 distance to the boundary of a linear network within [0, 1], by bisection in NumPy."""
    best = np.full(len(x), np.inf)
    for i, other in np.ndindex(len(x), 10):
        slope = (weights[:, other] - weights[:, labels[i]]).astype(np.float64)
        missing = float(logits[i, labels[i]]) - float(logits[i, other])
        room = np.where(slope > 0, 1.0 - x[i], x[i])
        if other == labels[i] or (np.abs(slope) * room).sum() < missing:
            continue
        low, high = 0.0, 1e3
        for _ in range(80):
            level = (low + high) / 2
            reached = (np.minimum(level * np.abs(slope), room) * np.abs(slope)).sum() >= missing
            low, high = (low, level) if reached else (level, high)
        best[i] = min(best[i], np.linalg.norm(np.minimum(high * np.abs(slope), room)))
    return best


def test_a_network_that_is_a_pytree_compiles_once_for_all_its_arrays():
    case, traced = curved(), []

    def apply(network, x):
        traced.append(x.shape)
        return network(x)

    settings = {"balls": {"linf": (0.02, 0.05), "l2": 0.1}, "attacks": ("fgsm", "pgd"), "minimal": ("l2",),
                "minimal_iterations": 5, "bounds": (0, 1)}  # fmt: skip
    first = report(jax.tree_util.Partial(apply, case.logits), case.x, case.labels, **settings)
    count = len(traced)
    assert first == report(
        jax.tree_util.Partial(apply, jax.tree.map(np.copy, case.logits)), case.x, case.labels, **settings
    )
    assert len(traced) - count == 1 < count, "only the number of classes is asked again"
    other = jax.tree.map(lambda leaf: -leaf, case.logits)
    second = report(jax.tree_util.Partial(apply, other), case.x, case.labels, **settings)
    again = report(lambda x: other(x), case.x, case.labels, **settings)
    assert second == again and first["clean"] > second["clean"]


def test_a_function_compiles_once_for_all_the_arrays_that_it_closes_over():
    case = curved()
    kept: dict = programs._PROGRAMS
    kept.clear()

    def accuracy(sign):
        weights = jax.tree.map(lambda leaf: jnp.asarray(sign * leaf), case.logits)
        answers = report(lambda x: weights(x), case.x, case.labels, balls={"linf": 0.02}, attacks=("pgd",))
        return answers["clean"], answers["linf"]["pgd"]

    first, compiled = accuracy(1), list(kept.values())
    assert accuracy(1) == first and set(map(id, kept.values())) == set(map(id, compiled)), "nothing is compiled again"
    other = accuracy(-1)
    assert other[0] < first[0] and set(map(id, kept.values())) == set(map(id, compiled))
    as_pytree = jax.tree_util.Partial(lambda network, x: network(x), jax.tree.map(lambda leaf: -leaf, case.logits))
    same = report(as_pytree, case.x, case.labels, balls={"linf": 0.02}, attacks=("pgd",))
    assert other == (same["clean"], same["linf"]["pgd"])


def test_callbacks_of_two_functions_are_not_confused():
    case, asked = curved(), []

    def network(name):
        def ask(x):
            asked.append(name)
            return np.asarray(case.logits(x), np.float32)

        return lambda x: jax.pure_callback(ask, jax.ShapeDtypeStruct((len(x), 5), jnp.float32), x)

    for name in ("first", "second"):
        report(network(name), case.x, case.labels, noise={}, balls={}, attacks=())
    assert set(asked) == {"first", "second"}


def test_arrays_of_a_function_are_read_at_every_call():
    case, scale = curved(), {"of": 1.0}
    labels = case.labels

    def logits(x):
        return scale["of"] * case.logits(x)

    before = report(logits, case.x, labels, attacks=())["clean"]
    scale["of"] = -1.0
    assert report(logits, case.x, labels, attacks=())["clean"] < before


def length_of_all(delta):
    return length(delta, "l2")


CASES = {
    "radius": ({"balls": {"linf": -0.1}}, "The radius in linf is -0.1; expected a number of 0 or more"),
    "a text as radius": ({"balls": {"linf": "8/255"}}, "The radius in linf is '8/255'; expected a number"),
    "one of the radii": ({"balls": {"l2": (0.1, np.nan)}}, "The radius in l2 is nan; expected a number of 0"),
    "level": ({"noise": {"gaussian": -1}}, "The level of gaussian noise is -1; expected a number of 0 or more"),
    "infinite level": ({"noise": {"gaussian": np.inf}}, "The level of gaussian noise is inf; expected a number"),
    "fraction": ({"noise": {"salt_and_pepper": 1.5}}, "salt_and_pepper noise is 1.5; expected a number from 0 to 1"),
    "attacked": ({"attacked": 2.5}, "attacked is 2.5; expected an integer of 1 or more"),
    "noise_draws": ({"noise_draws": 0}, "noise_draws is 0; expected an integer"),
    "batch_size": ({"batch_size": -1}, "batch_size is -1; expected an integer"),
    "steps": ({"minimal_iterations": 0}, "minimal_iterations is 0; expected an integer"),
    "draws": ({"draws": True}, "draws is True; expected an integer"),
    "an attack": ({"attacks": (3,)}, "attacks has 3; expected a name or a function"),
    "no list": ({"attacks": 3}, "attacks has 3; expected a tuple of names"),
    "twice": ({"attacks": ("pgd", "pgd")}, "attacks has 'pgd' twice"),
    "no mapping": ({"noise": 0.1}, r"noise is 0.1; expected a dictionary, such as \{'gaussian': 0.1\}"),
    "no radius": ({"balls": {"linf": ()}}, r"The radius in linf is \(\); expected a number, or several"),
    "more than float32": ({"noise": {"gaussian": 1e39}}, r"The level of gaussian noise is 1e\+39; expected a number"),
    "a norm of the batch": ({"balls": {np.linalg.norm: 1}}, "The norm norm raised Tracer"),
    "one number": ({"balls": {jnp.linalg.norm: 1}}, r"norm returned \(\) for 40 images; expected one number for each"),
    "several keys": ({"key": jax.random.split(KEY)}, r"key is an array of key<fry> \(2,\); expected one key of JAX"),
    "a number as key": ({"key": np.uint32(5)}, r"key is an array of uint32 \(\); expected one key of JAX"),
    "no ball": ({"attacks": {"l1": ("pgd",)}}, "attacks has 'l1', but balls has no radius for it; add one"),
    "square in l1": (
        {"balls": {"l1": 1}, "attacks": ("square",)},
        "norm is l1 for the attack square; expected linf, l2",
    ),
    "autoattack in l0": (
        {"balls": {"l0": 2}, "autoattack": True},
        "autoattack is True and the norm is l0; expected linf",
    ),
    "our attack in their norm": (
        {"balls": {length_of_all: 1}, "attacks": ("pgd",)},
        "norm is length_of_all for the attack pgd",
    ),
    "classes": ({"attacks": ("apgd_t",)}, "The attack apgd_t needs 4 classes; logits_fn returns 3"),
}


@pytest.mark.parametrize("case", CASES)
def test_wrong_arguments_are_refused_before_the_network_runs(case):
    logits, x, labels, _ = linear()
    settings, message = CASES[case]

    def three(x):
        assert isinstance(x, jax.core.Tracer), "it is only asked for its number of classes"
        return logits(x)[:, :3]

    with pytest.raises(ConfigError, match=message):
        robustness_report(three, x, np.minimum(labels, 2), **{"key": KEY, **settings})


def test_a_key_of_the_older_form_is_one_and_a_report_is_not_traced():
    logits, x, labels, _ = linear()
    old, new = (
        robustness_report(logits, x, labels, key=key, balls={"linf": 0.02}, attacks=("pgd",), batch_size=40)
        for key in (jax.random.PRNGKey(0), jax.random.key(0))
    )
    assert old == new
    with pytest.raises(ConfigError, match="robustness_report compiles several programs and cannot be traced"):
        jax.jit(lambda x: report(logits, x, labels)["clean"])(x)
