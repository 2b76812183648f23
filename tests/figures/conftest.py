"""A run with everything that the figures and the report can show."""

import numpy as np
import pytest


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def make_result():
    """Returns `make(members, sweep, winners, noise, **changes)`, a result as `result.json` holds it."""

    def make(networks=1, *, sweep=(), winners=True, noise=True, **changes):
        rng = np.random.default_rng(7)
        settings = sweep or (None,)
        members = [
            _member(rng, 42 + seed, strength, winners, noise) for strength in settings for seed in range(networks)
        ]
        return {
            "name": "mnist_kwinners",
            "seed": 42,
            "test_accuracy": float(np.mean([member["test_accuracy"] for member in members])),
            "layers": members[0]["layers"],
            "best": members[0]["best"],
            "dataset": "mnist",
            "source": "files",
            "notice": "",
            "training_seconds": 49.87,
            "seconds": 118.1,
            "members": members,
            "command": "python -m sparsejax.launch --config mnist_kwinners --out runs/a",
            "versions": {"python": "3.11.7", "sparsejax": None, "jax": "0.10.2"},
            "device": {"kind": "cpu", "platform": "cpu", "count": 1, "cores": 2},
            "data": {"name": "mnist", "source": "files", "train": 60000, "test": 10000, "fingerprint": "14d9c3d6"},
            "config": {"model": {"channels": [4, 6], "local": False, "dropout": None}, "training": {"epochs": 3}},
            **changes,
        }

    return make


def _member(rng, seed, strength, winners, noise):
    layers = {
        "conv1": {"units": 4 * 144, "k": 50, "k_inference": 75, "active_fraction": 0.1302, "dead_units": 27,
                  "channels": 4, "dead_channels": 1, "duty_entropy": 1764.7, "max_entropy": 1961.7},
        "hidden": {"units": 700, "k": 100, "k_inference": 150, "active_fraction": 0.2143, "dead_units": 10,
                   "duty_entropy": 331.2, "max_entropy": 414.2},
    }  # fmt: skip
    if not winners:
        for layer in layers.values():
            layer.update(k=None, k_inference=None)
            del layer["duty_entropy"], layer["max_entropy"]
    accuracy = 0.988 + 0.002 * rng.uniform(-1, 1)
    scored = {}
    if noise:
        levels = [level / 20 for level in range(11)]
        correct = [accuracy - 0.8 * level**2 for level in levels]
        scored = {"noise_score": round(10000 * sum(correct)), "noise_score_max": 110000, "noise_accuracy": correct,
                  "noise_levels": levels}  # fmt: skip
    return {
        "seed": seed,
        **({} if strength is None else {"model.boost_strength": strength}),
        "epoch": 3,
        "test_accuracy": accuracy,
        "test_loss": 0.036,
        "layers": layers,
        "best": {"epoch": 2, "test_accuracy": accuracy + 0.0011, **scored},
        **scored,
    }
