"""Draws arguments of attacks and of the robustness report at random; results agree with NumPy in float64.

`python -m tests.fuzz_attacks --cases 8000` is the campaign of docs/reliability.md; the suite has a short one. Every
case ends with a ValueError, a TypeError, or images in the ball and the bounds whose success is that of a linear network
computed in float64, and possible: no image is misclassified beyond the largest lead that ball and box allow.
"""

import argparse
import collections
import functools
import math
import random
import sys
import time
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.evaluation.attacks import apgd, apgd_dlr, apgd_targeted, fab_targeted, fgsm, fmn, pgd, square
from sparsejax.evaluation.robustness import robustness_report

ATTACKS = {"fgsm": fgsm, "pgd": pgd, "apgd": apgd, "apgd_dlr": apgd_dlr, "apgd_targeted": apgd_targeted,
           "fab_targeted": fab_targeted, "square": square, "fmn": fmn}  # fmt: skip
SHAPES = {(2, 2, 1): 2, (3, 4, 2): 5, (5,): 3}
"""Shape of an image -> number of classes."""
STEPS = {"square": "queries", "fgsm": None}
OTHERS = (None, True, "0.1", "", b"x", (), (0.1,), [0.1, 0.2], {}, object(), math.nan, -math.inf, -1, 1j, 10**30)


def linear(weights, bias, x):
    """Returns logits in at least float32."""
    wide = x if x.dtype == weights.dtype else x.astype(weights.dtype)
    return wide.reshape(x.shape[0], -1) @ weights + bias[None]


def draw(rng: random.Random) -> dict[str, Any]:
    """Returns the arguments of a case: those of a valid one, of which up to two are replaced."""
    shape = rng.choice(list(SHAPES))
    classes, numbers = SHAPES[shape], np.random.default_rng(rng.randrange(2**32))
    bounds = rng.choice([(0.0, 1.0), (0, 1), (-1.0, 3.0), (0, 255), (-1e-3, 1e-3)])
    count = rng.choice([0, 3, 3, 3])
    x = numbers.uniform(*bounds, (count, *shape))
    x = rng.choice([x, np.round(x), np.full_like(x, bounds[0]), np.where(x > np.mean(bounds), bounds[1], x)])
    dtypes = ["float32"] * 5 + ["float16", "bfloat16"] + ["float64"] * jax.config.read("jax_enable_x64")
    case = {
        "x": np.clip(x, *bounds).astype(jnp.dtype(rng.choice(dtypes))),
        "labels": numbers.integers(0, classes, count).astype(rng.choice(["int32", "uint8", "int64", "int8"])),
        "epsilon": rng.choice([0, 1e-6, 0.03, 0.3, 1, 3.0, 1e4, math.inf]) * (bounds[1] - bounds[0]),
        "norm": rng.choice(["linf", "l2", "l1"]),
        "bounds": bounds,
        "draws": None,
        "key": jax.random.key(rng.randrange(100)),
        "steps": 2,
        "network": (numbers.normal(size=(math.prod(shape), classes)) * rng.choice([0, 1e-6, 1, 30]),
                    numbers.normal(size=classes) * rng.choice([0, 1])),
    }  # fmt: skip
    for name in rng.sample(sorted(case), rng.choice([0, 0, 0, 1, 1, 2])):
        case[name] = _replaced(rng, numbers, name, case)
    return case


def _replaced(rng: random.Random, numbers: np.random.Generator, name: str, case: dict[str, Any]) -> Any:
    x, labels = case["x"], case["labels"]
    if name == "network":
        return rng.choice([case["network"][:1], None, "network"])
    if name == "x" and isinstance(x, np.ndarray):
        return rng.choice([x.astype(np.uint8), x.astype(np.int32), x.astype(bool), x + 1j, x * np.nan, x + 1e3, -x,
                           x[..., :0], x.reshape(-1), x[None], x + np.float32(2e-7), x.tolist(), jnp.asarray(x),
                           x.astype(object), np.where(numbers.random(x.shape) < 0.1, np.inf, x), None])  # fmt: skip
    if name == "labels" and isinstance(labels, np.ndarray):
        return rng.choice([labels + 5, -labels - 1, labels.astype(float), np.eye(5)[labels % 5], labels[:-1],
                           labels.tolist(), labels.astype(bool), labels.astype(str), jnp.asarray(labels), 0, None,
                           labels.astype(np.uint64) + np.uint64(2**40)])  # fmt: skip
    if name == "norm":
        return rng.choice(["l0", "L2", 2, np.inf, None, np.linalg.norm])
    if name == "bounds":
        return rng.choice([(1, 0), (0, 0), (0,), (0, 1, 2), "01", None, 1.0, (math.nan, 1), (-math.inf, math.inf),
                           (np.float32(0), np.float32(1)), [0, 1], (jnp.float32(0), 1), ("0", "1")])  # fmt: skip
    if name == "steps":
        return rng.choice([0, -3, 2.0, 2.5, True, "2", None, np.int64(3), np.float32(2)])
    if name == "draws":
        return rng.choice([0, -1, 2.5, True, "2", np.int32(2)])
    if name == "epsilon":
        return rng.choice(
            [*OTHERS, np.float32(0.1), np.float64(0.1), jnp.float32(0.1), np.array(0.1), np.array([0.1, 0.2])]
        )
    return rng.choice([None, 0, "key", jax.random.PRNGKey(3)])


@functools.cache
def _program(name: str, settings: tuple[tuple[str, Any], ...]) -> Any:
    def run(network, x, labels, key, epsilon):
        ball = {} if name == "fmn" else {"epsilon": epsilon}
        return ATTACKS[name](network, x, labels, key=key, **ball, **dict(settings))

    return jax.jit(run)


def attack(name: str, case: dict[str, Any]) -> str:
    """Runs an attack; returns the kind of error, or "result" if it agrees with NumPy.

    Raises:
      AssertionError: it does not.
    """
    x, labels, key = case["x"], case["labels"], case["key"]
    steps = STEPS.get(name, "iterations")
    settings = {"norm": case["norm"], "bounds": case["bounds"], "draws": case["draws"]}
    settings |= {steps: case["steps"]} if steps else {}
    ball = {} if name == "fmn" else {"epsilon": case["epsilon"]}
    try:
        network = _network(case)
        jax.eval_shape(lambda: ATTACKS[name](network, x, labels, key=key, **ball, **settings))
    except (ValueError, TypeError) as error:
        assert len(str(error)) > 20, repr(error)
        return type(error).__name__
    settings["bounds"] = low, high = tuple(float(bound) for bound in case["bounds"])
    epsilon = math.inf if name == "fmn" else float(case["epsilon"])
    program = _program(name, tuple(settings.items()))
    found = jax.tree.map(np.asarray, program(network, x, jnp.asarray(labels), key, epsilon))
    _agree(case, np.asarray(x, np.float64), found, epsilon, low, high)
    if name == "fmn":
        moved = _length(found.images.astype(np.float64) - np.asarray(x, np.float64), case["norm"])
        right = np.isclose(found.distance, moved, rtol=1e-3, atol=1e-6 * (high - low) * x[:1].size)
        assert np.where(found.success, right, np.isinf(found.distance)).all(), (found.distance, moved)
    return "result"


def _network(case: dict[str, Any]) -> Any:
    if not isinstance(case["network"], tuple):
        return case["network"]
    wide = jnp.float64 if jax.config.read("jax_enable_x64") else jnp.float32
    arrays = [jnp.asarray(array, wide) for array in case["network"]]
    return jax.tree_util.Partial(linear if case["draws"] is None else _with_key, *arrays)


def _with_key(weights, bias, x, key):
    return linear(weights, bias, x)


def _length(delta: np.ndarray, norm: str) -> np.ndarray:
    order = {"linf": np.inf, "l2": 2, "l1": 1, "l0": 0}[norm]
    return np.array([np.linalg.norm(each.ravel(), order) for each in delta]).reshape(len(delta))


def _agree(case: dict[str, Any], x: np.ndarray, found: Any, epsilon: float, low: float, high: float) -> None:
    weights, bias = case["network"]
    images, labels, norm = found.images.astype(np.float64), np.asarray(case["labels"]).astype(int), case["norm"]
    assert found.images.dtype == np.asarray(case["x"]).dtype and images.shape == x.shape and np.isfinite(images).all()
    rounding = 4e-7 * max(abs(low), abs(high))
    assert (images >= np.minimum(x, low) - rounding).all() and (images <= np.maximum(x, high) + rounding).all()
    size = x[:1].size
    slack = {"linf": 1, "l2": math.sqrt(size), "l1": size, "l0": 0}[norm] * rounding
    assert (_length(images - x, norm) <= epsilon * (1 + 1e-5) + slack).all(), "in the ball"
    for image, clean, label, success in zip(images, x, labels, found.success, strict=True):
        logits = image.ravel() @ weights + bias
        lead = np.delete(logits, label).max() - logits[label]
        unsure = 1e-5 * (np.abs(image.ravel()) @ np.abs(weights).max(1) + np.abs(bias).max())
        assert success == (lead > 0) or abs(lead) <= unsure, (success, lead)
        if success and lead > unsure:
            before = clean.ravel() @ weights + bias
            slopes = (weights - weights[:, [label]]).T
            gains = [_most(slope, clean, epsilon, norm, low, high) for slope in slopes]
            reachable = np.delete(before - before[label] + gains, label).max()
            assert reachable >= lead - 10 * unsure - 1e-3 * abs(lead), (reachable, lead)


def _most(slope: np.ndarray, clean: np.ndarray, epsilon: float, norm: str, low: float, high: float) -> float:
    """Returns the largest increase of a linear function within ball and box."""
    slack = 4e-7 * max(abs(low), abs(high))
    room = np.maximum(np.where(slope > 0, high - clean.ravel(), clean.ravel() - low), 0) + slack
    rate, epsilon = np.abs(slope), min(epsilon * (1 + 1e-5), 1e9) + slack
    if norm == "linf":
        return float(rate @ np.minimum(epsilon, room))
    order = np.argsort(-rate if norm == "l1" else -rate * room)
    if norm == "l0":
        return float((rate * room)[order][: int(min(epsilon, rate.size))].sum())
    if norm == "l1":
        before = np.cumsum(room[order]) - room[order]
        return float(rate[order] @ np.clip(epsilon + slack * rate.size - before, 0, room[order]))
    least, most = 0.0, 1e12 / max(rate.max(), 1e-12)
    for _ in range(200):
        level = (least + most) / 2
        inside = np.linalg.norm(np.minimum(level * rate, room)) <= epsilon + slack * math.sqrt(rate.size)
        least, most = (level, most) if inside else (least, level)
    return float(rate @ np.minimum(most * rate, room))


REPORT: dict[str, list[Any]] = {
    "noise": [{}, {"gaussian": 0.1}, {"laplace": (0.0, 0.2)}, {"salt_and_pepper": 0.3}, {"gaussian": -1}, {"pink": 1},
              {"uniform": "a"}, 0.1, "gaussian", {"salt_and_pepper": 2}, {None: 1}],
    "noise_draws": [1, 2, 0, -1, 1.5, True, None],
    "balls": [{}, {"linf": 0.1}, {"l2": (0.1, 0.5)}, {"l2": []}, {"l0": 1}, {"l3": 1}, {"linf": -1}, {"linf": None},
              {"linf": "x"}, 0.1, "linf", {"linf": math.inf}, {"linf": {}}, {2: 0.1}],
    "attacks": [None, (), ("fgsm",), ["pgd"], "pgd", ("nothing",), {"linf": ("fgsm",)}, {"l9": ()}, (3,), 3, (None,),
                ("fgsm", "fgsm"), ("apgd_t",), ("square",), (fgsm,), ([],), {"linf": None}],
    "autoattack": [False],
    "minimal": [(), ("l2",), ["l0"], "l2", ("l3",), 3, None, (None,)],
    "minimal_iterations": [1, 3, 0, 2.5, None, "3"],
    "attacked": [None, 1, 2, 100, 0, -1, 1.5, True, "1"],
    "batch_size": [2, 250, 0, -1, 2.5, None, "2"],
}  # fmt: skip


def report(case: dict[str, Any], rng: random.Random) -> str:
    """Makes a robustness report; returns the kind of error, or "result" if its accuracies are possible."""
    settings = {
        "balls": {"linf": 0.1},
        "attacks": ("fgsm",),
        "noise": {},
        "bounds": case["bounds"],
        "draws": case["draws"],
    }
    for name in rng.sample(sorted(REPORT), rng.choice([0, 1, 1, 2])):
        settings[name] = rng.choice(REPORT[name])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = robustness_report(_network(case), case["x"], case["labels"], key=case["key"], **settings)
    except (ValueError, TypeError) as error:
        assert len(str(error)) > 20, repr(error)
        return type(error).__name__
    weights, bias = case["network"]
    x, labels = np.asarray(case["x"], np.float64), np.asarray(case["labels"]).astype(int)
    logits = x.reshape(len(x), -1) @ weights + bias
    ranked = np.sort(logits, axis=-1)
    if (ranked[:, -1] - ranked[:, -2] > 1e-5 * np.abs(logits).max(-1)).all():
        assert math.isclose(found["clean"], np.mean(logits.argmax(-1) == labels), abs_tol=1e-9), found
    flat = [value for path, value in jax.tree_util.tree_leaves_with_path(found) if "minimal" not in str(path[0])]
    assert all(value >= 0 for value in flat) and set(found) >= {"clean", "noise", "minimal", "not_found"}
    return "result"


def fuzz(cases: int, rng: random.Random, *, reports: float = 0.1) -> dict[str, collections.Counter]:
    """Runs `cases` cases; returns how each target's ended.

    Raises:
      AssertionError: a case ends with another error, or a wrong result.
    """
    ended: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for number in range(cases):
        if number % 400 == 399:  # Linux allows a process 65,530 mapped regions, of which each program takes several
            _program.cache_clear()
            jax.clear_caches()
        name = "robustness_report" if rng.random() < reports else rng.choice(list(ATTACKS))
        case = draw(rng)
        try:
            ended[name][report(case, rng) if name == "robustness_report" else attack(name, case)] += 1
        except Exception as error:
            shown = {
                key: (value.dtype, value.shape) if isinstance(value, np.ndarray) else value
                for key, value in case.items()
            }
            raise AssertionError(f"case {number}, {name}: {shown}: {type(error).__name__}: {error}") from error
    return dict(ended)


def main() -> int:
    """Runs the campaign."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.perf_counter()
    ended = fuzz(options.cases, random.Random(options.seed))
    for name, counts in sorted(ended.items()):
        print(f"{name:20}", dict(sorted(counts.items())))
    print(f"{options.cases} cases in {time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
