"""Robust accuracy and time compared with torchattacks and adv-lib, on one network and the same images."""

import functools
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import Twin
from benchmarks.rows import Report, Row, row
from benchmarks.timing import Timing
from sparsejax import configs
from sparsejax.configuration import replace
from sparsejax.data import load
from sparsejax.evaluation.attacks import apgd, apgd_targeted, fab_targeted, fmn, pgd, square
from sparsejax.evaluation.attacks.ensemble import Attack, by_target, ensemble, survivors_of
from sparsejax.evaluation.attacks.geometry import Norm, length
from sparsejax.experiment import Experiment, run
from sparsejax.functional import unit_norm
from sparsejax.models import HebbianVGG, Variables
from sparsejax.training.run_folder import RunFolder

GROUP = "attacks"
IMAGES, QUERIES, ITERATIONS = 128, 1000, 300
RADII: dict[Norm, float] = {"linf": 2 / 255, "l2": 0.25}
_NORMS: tuple[Norm, ...] = ("l0", "l1", "l2", "linf")
_TRAINED = {
    "data.train_examples": 10_000,
    "data.test_examples": 1_000,
    "training.epochs": 3,
    "training.lr_decay_at": None,
    "devices.transform": "jit",  # a single network cannot use one device per core
}


def measure(twin: Twin | None) -> Report:
    """Attacks the first images that a narrow VGG classifies correctly; compilation is not timed."""
    model, variables = _network()
    data = load("cifar10")
    mean, std = (jnp.asarray(moment, jnp.float32).reshape(1, 1, 1, -1) for moment in (data.mean, data.std))

    def logits(x: jax.Array) -> jax.Array:
        return model.apply(variables, (x - mean) / std).prediction

    images, labels = data.test.images[:1000].astype(np.float32) / 255, data.test.labels[:1000].astype(np.int32)
    answers = jax.jit(logits)
    right = np.flatnonzero(np.argmax(answers(images), -1) == labels)[:IMAGES]
    images, labels = images[right], labels[right]
    theirs = {} if twin is None else _peer(twin, model, variables, data, images, labels)
    rows = []
    for norm, epsilon in RADII.items():
        for name, attacks in _attacks(logits, norm, epsilon).items():
            found, seconds = _attacked(attacks, images, labels)
            stands = np.argmax(answers(found), -1) == labels
            far = float(length(jnp.asarray(found - images), norm).max())
            beyond = max(far - epsilon, found.max() - 1, -found.min(), 0)
            details = {"ours_robust": float(stands.mean()), "ours_beyond_ball_and_box": float(beyond)}
            rows.append(_row(f"{name} {norm}", "torchattacks", seconds, details, theirs))
    for norm in _NORMS:
        nearest = jax.jit(lambda x, y, norm=norm: fmn(logits, x, y, norm=norm, iterations=ITERATIONS).distance)
        program = nearest.lower(images, labels).compile()
        distance, seconds = _timed(lambda program=program: np.asarray(program(images, labels)))
        details = _distances("ours", distance)
        if "distances" in (other := theirs.get(f"fmn {norm}", {})):
            far = np.asarray(other["distances"])
            # Image by image, because the median of 128 is noisy.
            details |= _distances("peer", far) | {"median_ratio": float(np.nanmedian(distance / far))}
        rows.append(_row(f"fmn {norm}", "adv-lib", seconds, details, theirs))
    remark = (
        f"{len(images)} images that a narrow VGG gets right; robust is the part that stands, within 2/255 in linf and "
        "0.25 in l2. Ours compute only on examples not yet mistaken. Each attack runs once, after it is compiled."
    )
    versions = theirs.get("versions", {}).get("versions", {})
    peers = (f"Peers: {', '.join(f'{name} {version}' for name, version in versions.items())}.",) if versions else ()
    return Report(tuple(rows), (remark, *peers))


def _network() -> tuple[HebbianVGG, Variables]:
    config = replace(configs.get("cifar_vgg_small"), _TRAINED)
    with tempfile.TemporaryDirectory() as folder:
        finished = run(Experiment("attacked", (config,), ({},)), RunFolder(Path(folder) / "run"))
    assert isinstance(config.model, HebbianVGG)
    return config.model, Variables(*jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), tuple(finished.variables)))


def _attacks(logits: Callable, norm: Norm, epsilon: float) -> dict[str, list[Attack]]:
    common: dict[str, Any] = {"epsilon": epsilon, "norm": norm}

    def of(function: Callable, **settings: Any) -> Callable:
        return jax.jit(lambda x, y, key, **own: function(logits, x, y, key=key, **common, **settings, **own))

    return {
        "pgd": [of(pgd)],
        "apgd_ce": [of(apgd)],
        "apgd_t": by_target(of(apgd_targeted), 10),
        "fab_t": by_target(of(fab_targeted), 10),
        "square": [of(square, queries=QUERIES)],
        "auto_attack": ensemble(logits, classes=10, **common),
    }


def _attacked(attacks: list[Attack], images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns adversarial images, robust ones clean, and the seconds."""
    key, wrong = jax.random.key(0), (labels + 1) % 10
    for attack in attacks:  # compiles for all batch sizes; misclassified images end immediately
        for size in (len(images) // share for share in (1, 2, 4, 8, 16, 32)):
            jax.block_until_ready(attack(jnp.asarray(images[:size]), jnp.asarray(wrong[:size]), key))
    call = functools.partial(survivors_of, attacks, images, labels, key=key, batch_size=len(images))
    (found, _), seconds = _timed(call)
    return found, seconds


def _distances(whose: str, distance: np.ndarray) -> dict[str, float]:
    return {f"{whose}_median": float(np.median(distance)), f"{whose}_success": float(np.isfinite(distance).mean())}


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started


def _row(case: str, peer: str, seconds: float, details: dict[str, float], theirs: dict[str, dict[str, Any]]) -> Row:
    other = theirs.get(case, {})
    details |= {"peer_robust": other["robust"]} if "robust" in other else {}
    timing = Timing(*(2 * [1e3 * other["seconds"]])) if "seconds" in other else None
    return row(GROUP, case, Timing(1e3 * seconds, 1e3 * seconds), peer, timing, target=1.0, details=details)


def _peer(twin: Twin, model: HebbianVGG, variables: Variables, data: Any, images: np.ndarray, labels: np.ndarray):
    """Runs the published attacks in PyTorch: case -> results."""
    params, state = variables
    names = [layer.name for layer in model.layers(images.shape[1:])]
    arrays: dict[str, Any] = {"names": names, "pooled": [], "mean": np.float32(data.mean), "std": np.float32(data.std)}
    kept = list(model.widths)
    arrays["pooled"] = [kept[i + 1 : i + 2] == [0] for i, width in enumerate(kept) if width]
    for name in names:
        arrays[f"{name}/kernel"] = np.asarray(unit_norm(params[name]["kernel"])).transpose(3, 2, 0, 1)
        arrays |= {f"{name}/{part}": np.asarray(leaf) for part, leaf in (*state[name].items(),
                                                                        *params[f"{name}_norm"].items())}  # fmt: skip
    arrays |= {f"output/{part}": np.asarray(leaf) for part, leaf in params["output"].items()}
    arrays |= {"images": images.transpose(0, 3, 1, 2), "labels": labels, "queries": QUERIES, "iterations": ITERATIONS}
    script = Path(__file__).with_name("attack_peer.py")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problem.npz"
        np.savez(path, **arrays, **RADII)
        ended = subprocess.run([twin.python, str(script), str(path)], stdout=subprocess.PIPE, text=True, check=False)
    answers = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    return {answer["case"]: answer for answer in answers}
