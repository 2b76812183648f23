"""Runs a study as its command does, and checks its files."""

import inspect
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from sparsejax.commands.reproduce import main
from sparsejax.evaluation.robustness import robustness_report

DIGITS = {"data.name": "digits", "devices.transform": "jit"}
"""Settings of a small network: bundled data, and one device, to avoid compiling for eight."""


def even_report(logits_fn, images, labels, **settings):
    """Returns the form of `robustness_report`, which has its own tests, with the clean accuracy throughout."""
    inspect.signature(robustness_report).bind(logits_fn, images, labels, **settings)
    accuracy = float(np.mean(np.argmax(jax.jit(logits_fn)(images), -1) == labels))
    attacks, norms = settings["attacks"], settings.get("balls", ("linf", "l2"))
    attacked = {norm: dict.fromkeys([*(attacks if isinstance(attacks, tuple) else attacks[norm]), "all"], accuracy)
                for norm in norms}  # fmt: skip
    noise = {kind: dict.fromkeys(scales, accuracy) for kind, scales in settings["noise"].items()}
    return {"clean": accuracy, "noise": noise, "minimal": dict.fromkeys(settings["minimal"], 0.5), **attacked}


def made(name: str, out: Path, *options: str) -> dict[str, Any]:
    """Runs a study; checks that it writes a figure and its numbers, and returns these."""
    assert main([name, "--out", str(out), *options]) == 0
    numbers = json.loads((out / f"{name}.json").read_text())
    assert numbers.keys() >= {"paper", "ours", "scale", "seeds", "device", "command", "versions", "source"}
    assert numbers["scale"] == "small" and numbers["seconds"] >= 0
    assert numbers["ours"] and numbers["seeds"]
    picture = Image.open(out / f"{name}.png").convert("RGB")
    assert min(picture.size) > 40 and len(picture.getcolors(picture.width * picture.height)) > 10
    return numbers
