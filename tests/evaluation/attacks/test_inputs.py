"""What attacks are given: gradients and predictions that are not finite, ties, dtypes, wrong arguments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import ConfigError
from sparsejax.evaluation.attacks import apgd, fmn, pgd, square
from sparsejax.evaluation.attacks.ensemble import auto_attack
from tests.evaluation.attacks.networks import curved, length_of
from tests.evaluation.attacks.test_attacks import ATTACKS

KEY = jax.random.key(0)
BALL = {**{name: functools.partial(attack, **settings) for name, (attack, settings) in ATTACKS.items()}}
EVERY = {**BALL, "fmn": lambda f, x, y, *, epsilon=None, **settings: fmn(f, x, y, **{"iterations": 5, **settings})}


def quick(name):
    """Returns an attack of few iterations."""
    few = {} if name in ("fgsm", "square", "fmn") else {"iterations": 4}
    return functools.partial(EVERY[name], **few)


@functools.cache
def rows():
    """Returns weights, images with black rows, and labels of `by_rows`."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0.2, 0.8, (32, 4, 4, 1)).astype(np.float32)
    x[:28, 1] = 0
    weights = rng.normal(size=(16, 5)).astype(np.float32)
    return weights, x, np.asarray(jnp.argmax(by_rows(weights, x), -1), np.int32)


def by_rows(weights, x, safe=False):
    """Divides every row of pixels by 1 + its norm, whose gradient at a black row is NaN, or 0 if `safe`."""
    squares = jnp.sum(x * x, axis=2, keepdims=True)
    norm = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0) if safe else jnp.sqrt(squares)
    return (x / (1 + norm)).reshape(len(x), -1) @ weights


@pytest.mark.parametrize("name", EVERY)
def test_entries_whose_gradient_is_not_finite_stay_and_the_others_move(name):
    weights, x, labels = rows()
    assert np.isnan(jax.grad(lambda x: by_rows(weights, x).sum())(x)).any()
    found, safe = (
        jax.jit(lambda x, safe=safe: quick(name)(lambda x: by_rows(weights, x, safe), x, labels, epsilon=0.3))(x)
        for safe in (False, True)
    )
    assert np.isfinite(found.images).all()
    wrong = np.asarray(jnp.argmax(by_rows(weights, found.images), -1)) != labels
    np.testing.assert_array_equal(found.success, wrong)
    assert abs(int(found.success.sum()) - int(safe.success.sum())) <= 3 and found.success.sum() > 8
    if name == "fgsm":
        np.testing.assert_array_equal(found.images[:28, 1], 0)
        tiny = quick(name)(lambda x: by_rows(weights, x), x, labels, epsilon=1e-6)
        assert np.isfinite(tiny.images).all() and not tiny.success.any()


@pytest.mark.parametrize("name", EVERY)
def test_every_attack_decides_ties_and_nan_predictions_as_argmax_and_isnan_do(name):
    _, x, _ = rows()
    labels = jnp.arange(len(x), dtype=jnp.int32) % 5
    tied = quick(name)(lambda x: jnp.zeros((len(x), 5), x.dtype) * x.sum(), x, labels, epsilon=0.1)
    np.testing.assert_array_equal(tied.success, labels != 0)
    undefined = quick(name)(lambda x: jnp.full((len(x), 5), jnp.nan, x.dtype) * x.sum(), x, labels, epsilon=0.1)
    assert undefined.success.all() and np.isfinite(undefined.images).all()


FEW_BITS = [(name, norm, dtype) for name in BALL for norm in ("linf", "l2", "l1") for dtype in ("bfloat16", "float16")
            if (name, norm) != ("square", "l1") and (dtype == "bfloat16" or norm == "linf")]  # fmt: skip
QUICK = [("fgsm", "l2"), ("pgd", "linf"), ("apgd", "linf"), ("square", "linf")]


@pytest.mark.parametrize(
    ("name", "norm", "dtype"),
    [
        pytest.param(*case, marks=() if case[:2] in QUICK and case[2] == "bfloat16" else pytest.mark.slow)
        for case in FEW_BITS
    ],
)
def test_images_of_few_bits_stay_in_the_ball(name, norm, dtype):
    case, epsilon = curved(), {"linf": 2 / 255, "l2": 0.05, "l1": 0.3}[norm]
    dtype = jnp.dtype(dtype)
    x = jnp.asarray(case.x, dtype)

    def logits(x):
        assert x.dtype == dtype, "the network receives images in their own dtype"
        return case.logits(x.astype(jnp.float32))

    labels = jnp.argmax(logits(x), -1).astype(jnp.int32)
    found = jax.jit(lambda x: quick(name)(logits, x, labels, epsilon=epsilon, norm=norm))(x)
    assert found.images.dtype == dtype
    delta = np.asarray(found.images, np.float64) - np.asarray(x, np.float64)
    assert (length_of(delta, norm) <= epsilon * (1 + 1e-6)).all() and (length_of(delta, norm) > 0.3 * epsilon).any()
    np.testing.assert_array_equal(found.success, np.asarray(logits(found.images)).argmax(-1) != np.asarray(labels))


@pytest.mark.parametrize("name", [*EVERY, "auto_attack"])
def test_an_empty_batch_has_an_empty_result(name):
    case = curved()
    attack = quick(name) if name in EVERY else functools.partial(auto_attack, key=KEY)
    found = attack(case.logits, jnp.asarray(case.x[:0]), jnp.asarray(case.labels[:0]), epsilon=0.1)
    assert found.images.shape == (0, *case.x.shape[1:]) and found.success.shape == (0,)


def test_a_radius_beyond_the_box_is_the_whole_box():
    case = curved()
    far = pgd(case.logits, case.x, case.labels, epsilon=np.inf, iterations=3, key=KEY)
    assert np.isfinite(far.images).all() and (far.images >= 0).all() and (far.images <= 1).all()
    traced = jax.jit(lambda epsilon: pgd(case.logits, case.x, case.labels, epsilon=epsilon, iterations=3, key=KEY))
    for nonsense in (np.nan, -1.0):
        np.testing.assert_array_equal(traced(np.float32(nonsense)).images, case.x, "a ball of radius 0")


def test_gradients_of_any_scale_give_the_same_direction():
    case = curved()
    settings = {"norm": "l2", "loss": lambda logits, labels: logits[:, 0], "iterations": 1, "step": 0.1}
    for scale in (1e-28, 1e28):
        scaled, plain = (
            pgd(
                lambda x, by=by: jnp.float32(by) * case.logits(x),
                case.x,
                case.labels,
                epsilon=0.1,
                random=False,
                **settings,
            )
            for by in (scale, 1)
        )
        np.testing.assert_allclose(scaled.images, plain.images, atol=1e-5)


WRONG = {
    "uint8 images": (lambda x, y: (np.uint8(255 * x), y, {}), "images is of type uint8; expected .*floating-point"),
    "a list": (lambda x, y: (x.tolist(), y, {}), "images is of type list; expected an array of floating-point"),
    "images of 255": (lambda x, y: (255 * x, y, {}), r"images has values from 0 to 255, but bounds is \(0.0, 1.0\)"),
    "normalised images": (lambda x, y: (4 * x - 2, y, {}), "images has values from -2 to 2, but bounds"),
    "NaN": (lambda x, y: (x * np.nan, y, {}), "images has values from nan to nan"),
    "no batch": (lambda x, y: (x.ravel(), y, {}), r"images has the shape \(1280,\); expected \[batch, ...\]"),
    "no pixels": (lambda x, y: (x[:, :0], y, {}), r"shape \(40, 0, 4, 2\); expected .* at least one entry"),
    "other labels": (lambda x, y: (x, y + 1, {}), "is 5, but logits_fn returns 5 classes; expected labels from 0 to 4"),
    "negative labels": (lambda x, y: (x, y - 9, {}), r"labels\[0\] is -\d, but logits_fn returns 5 classes"),
    "one-hot labels": (lambda x, y: (x, np.eye(5, dtype=int)[y], {}), r"labels of shape \(40, 5\) and type int64"),
    "float labels": (lambda x, y: (x, y.astype(np.float32), {}), "type float32; expected one integer class"),
    "fewer labels": (lambda x, y: (x, y[:7], {}), r"40 images and labels of shape \(7,\)"),
    "bounds in the wrong order": (
        lambda x, y: (x, y, {"bounds": (1, 0)}),
        r"bounds is \(1, 0\); expected the smallest",
    ),
    "no box": (lambda x, y: (x, y, {"bounds": (-np.inf, np.inf)}), r"bounds is \(-inf, inf\); expected"),
    "one bound": (lambda x, y: (x, y, {"bounds": 1.0}), "bounds is 1.0; expected"),
    "no draws": (lambda x, y: (x, y, {"draws": 0}), "draws is 0; expected an integer of 1 or more"),
    "another norm": (lambda x, y: (x, y, {"norm": "l3"}), "norm is l3; expected linf"),
}
BALL_ONLY = {
    "a negative radius": (
        lambda x, y: (x, y, {"epsilon": np.float32(-1)}),
        "epsilon is .*-1.*; expected a number of 0",
    ),
    "no radius": (lambda x, y: (x, y, {"epsilon": np.nan}), "epsilon is nan; expected a number of 0 or more"),
    "a text": (lambda x, y: (x, y, {"epsilon": "8/255"}), "epsilon is '8/255'; expected a number of 0 or more"),
    "radii": (lambda x, y: (x, y, {"epsilon": (0.1, 0.2)}), r"epsilon is \(0.1, 0.2\); expected a number"),
}


@pytest.mark.parametrize("name", [*EVERY, "auto_attack"])
def test_wrong_arguments_are_refused_before_anything_is_compiled(name, monkeypatch):
    case = curved()
    attack = EVERY.get(name, functools.partial(auto_attack, key=KEY))
    monkeypatch.setattr(jax.lax, "while_loop", None)
    monkeypatch.setattr(jax.lax, "fori_loop", None)
    monkeypatch.setattr(jax.lax, "scan", None)
    for given, message in (WRONG if name == "fmn" else WRONG | BALL_ONLY).values():
        x, labels, settings = given(case.x, case.labels)
        with pytest.raises(ConfigError, match=message):
            attack(case.logits, x, labels, **{"epsilon": 0.1, **settings})
    for logits_fn, message in (
        (lambda x: x, r"logits_fn returned \(40, 4, 4, 2\) for 40 images; expected an array of logits \[batch, cl"),
        (lambda x: case.logits(x)[:1], r"logits_fn returned \(1, 5\) for 40 images"),
        (lambda x: case.logits(x)[:, :1], r"\(40, 1\) for 40 images; expected .* 2 or more"),
        (lambda x: jnp.zeros((len(x), 5), int), "array of int.*; expected logits"),
        (lambda x: None, "logits_fn returned NoneType for 40 images"),
    ):
        with pytest.raises(ConfigError, match=message):
            attack(logits_fn, case.x, case.labels, epsilon=0.1)
    if name not in ("fgsm", "square", "auto_attack"):
        for iterations in (0, -1, 2.5, True, "9"):
            with pytest.raises(ConfigError, match=f"iterations is '?{iterations}'?; expected an integer of 1 or more"):
                attack(case.logits, case.x, case.labels, epsilon=0.1, iterations=iterations)


@pytest.mark.slow
def test_images_beyond_the_bounds_by_rounding_are_accepted():
    case = curved()
    x = case.x + np.float32(3e-7)
    for name in EVERY:
        found = quick(name)(case.logits, x, case.labels, epsilon=0.02)
        assert (found.images <= 1 + 5e-7).all() and np.isfinite(found.images).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(3, 7, 1), (7, 3, 2)])
def test_square_attacks_images_that_are_not_square(shape, norm):
    weights = np.random.default_rng(0).normal(size=(np.prod(shape), 3)).astype(np.float32)
    x = np.random.default_rng(1).uniform(size=(20, *shape)).astype(np.float32)
    logits = lambda x: (x - np.float32(0.5)).reshape(len(x), -1) @ weights  # noqa: E731
    labels = jnp.argmax(logits(x), -1).astype(jnp.int32)
    found = square(logits, x, labels, epsilon=0.2 if norm == "linf" else 0.6, norm=norm, queries=50, key=KEY)
    assert (length_of(found.images - x, norm) <= (0.2 if norm == "linf" else 0.6) + 1e-6).all()
    np.testing.assert_array_equal(found.success, np.asarray(logits(found.images)).argmax(-1) != np.asarray(labels))
    assert 3 < found.success.sum() < 20


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("scale", [1e-6, pytest.param(1.0, marks=pytest.mark.slow)])
def test_the_image_of_a_success_is_misclassified_also_at_a_checkpoint(norm, scale):
    # With logits close to 0, the image of the largest cross-entropy is often classified correctly.
    rng = np.random.default_rng(0)
    weights = (scale * rng.normal(size=(5, 3))).astype(np.float32)
    x = rng.uniform(size=(200, 5)).astype(np.float32)
    labels = (x @ weights).argmax(-1).astype(np.int32)
    attack = jax.jit(lambda x: apgd(lambda x: x @ weights, x, labels, epsilon=0.05, norm=norm, iterations=2, key=KEY))
    found = attack(x)
    images = np.asarray(found.images, np.float64)
    lead = images @ weights - np.take_along_axis(images @ weights, labels[:, None], 1)
    np.put_along_axis(lead, labels[:, None], -np.inf, 1)
    assert (np.asarray(found.success) <= (lead.max(1) > -1e-6 * scale)).all() and found.success.sum() > 10
