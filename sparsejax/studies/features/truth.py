"""Sparse autoencoders of a world of known features: which variant finds them, at which sparsity."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array
from matplotlib.figure import Figure

from sparsejax import configs, data
from sparsejax.configuration import as_arrays, replace
from sparsejax.data.world import PUBLISHED, SMALL, world_of
from sparsejax.evaluation.sae.truth import Truth, score_truth
from sparsejax.figures import style
from sparsejax.models import Variables
from sparsejax.studies.networks import train
from sparsejax.studies.study import Outcome, Scale, study
from sparsejax.training.config import Config

SEEDS = tuple(range(5))
_KS = {"small": (3.0, 4.0, 5.0, 6.0, 8.0), "paper": (15.0, 20.0, 25.0, 30.0, 35.0)}
PAPER = {
    "BatchTopK": {"f1": 0.7316, "mcc": 0.7574, "uniqueness": 0.9837, "fvu": 1 - 0.7923},
    "Matryoshka": {"f1": 0.8793, "mcc": 0.7927, "uniqueness": 0.9987, "fvu": 1 - 0.7792},
    "JumpReLU": {"f1": 0.7317, "mcc": 0.7527, "uniqueness": 0.9885, "fvu": 1 - 0.7951},
    "ReLU + L1": {"f1": 0.5562, "mcc": 0.6039, "uniqueness": 0.8976, "fvu": 1 - 0.7654},
}
"""Of SynthSAEBench-16k at L0 = 25 (Chanin & Garriga-Alonso, 2026)."""


class Variant(NamedTuple):
    """Fields that differ from a BatchTopK network, and the field that sets the sparsity with its values."""

    fields: Mapping[str, Any]
    swept: str = "model.k"
    values: Mapping[str, tuple[float, ...]] = _KS


def variants(steps: int) -> dict[str, Variant]:
    """Returns the compared variants; `steps` is the length of their training."""
    l1 = {"small": (2.0, 4.0, 8.0, 16.0, 32.0), "paper": (4.0, 8.0, 16.0, 32.0, 64.0)}
    none = {"k": None, "activation": "relu", "decoder": "free", "penalty_steps": 0.1 * steps}
    jump = {"k": None, "activation": "jump_relu", "l0": 1.0, "l0_penalty": "quadratic", "initial_threshold": 0.5,
            "bandwidth": 0.5, "penalty_steps": 0.1 * steps}  # fmt: skip
    boost = {"boost": 2.0, "boost_hold": 0.5 * steps, "boost_fade": 0.3 * steps}
    return {
        "TopK": Variant({"activation": "top_k"}),
        "BatchTopK": Variant({}),
        "Matryoshka": Variant({"prefixes": "eighths"}),
        "JumpReLU": Variant(jump, "model.l0_target"),
        "gated": Variant({**none, "activation": "gated"}, "model.l1", l1),
        "ReLU + L1": Variant(none, "model.l1", l1),
        "BatchTopK + boost": Variant(boost),
        "LISTA": Variant({"encoder": "lista"}),
        "LCA": Variant({"encoder": "lca", "turns": 3}),
        "explaining away": Variant({"encoder": "explain_away", "turns": 1}),
    }


def base(scale: Scale) -> Config:
    """Returns the configuration of the BatchTopK network."""
    return configs.get("sae_world" if scale == "paper" else "sae_world_small")


def make(config: Config, variant: Variant, value: float) -> Config:
    """Returns a variant's configuration, with a value of its sweep."""
    fields = dict(variant.fields)
    hidden = config.model.hidden  # type: ignore[attr-defined]
    if fields.get("prefixes") == "eighths":
        fields["prefixes"] = (hidden // 16, hidden // 4)
    fields[variant.swept.removeprefix("model.")] = value
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **fields))


@study("features/truth", "sparse autoencoders of a world of known features", "Table 1", seeds=SEEDS, small=5)
def _truth(scale: Scale, folder: Path, seeds: Sequence[int]) -> Outcome:
    config = base(scale)
    world = world_of(SMALL if scale == "small" else PUBLISHED)
    moments = data.load(config.data.name)
    mean, std = (jnp.asarray(values, jnp.float32) for values in (moments.mean, moments.std))
    steps = config.training.epochs * len(moments.train.labels) // config.training.batch_size
    ours: dict[str, Any] = {}
    for name, variant in variants(steps).items():
        values = [int(v) if name == "TopK" else v for v in variant.values[scale]]
        of_variant = make(config, variant, values[0])
        trained = train(of_variant, folder, name.replace(" ", "_"), fields={variant.swept: values}, seeds=seeds)

        def score(point: int, seed: int) -> Truth:
            model = replace(of_variant, {variant.swept: values[point]}).model  # noqa: B023
            variables = trained.network(point, seed)  # noqa: B023
            encode, decode = (Partial(way, as_arrays(model), variables, mean, std) for way in (_encode, _decode))
            kernel = model.project(variables.params)["output"]["kernel"]
            return score_truth(world, jax.random.key(3), encode, decode, kernel)

        scores = [[score(i, j)._asdict() for j in range(len(seeds))] for i in range(len(values))]
        ours[name] = {"swept": variant.swept, "values": values,
                      **{key: [[one[key] for one in row] for row in scores] for key in Truth._fields}}  # fmt: skip
    return Outcome(draw_truth(ours), ours, PAPER, list(seeds))


@jax.jit
def _encode(model: Any, variables: Variables, mean: Array, std: Array, x: Array) -> Array:
    return model.encode(variables, (x - mean[None]) / std[None])


@jax.jit
def _decode(model: Any, variables: Variables, mean: Array, std: Array, z: Array) -> Array:
    return model.decode(variables, z) * std[None] + mean[None]


@style.styled
def draw_truth(ours: Mapping[str, Any], *, width: style.Width = "page") -> Figure:
    """Draws four scores against L0, a line for each variant with the spread over the seeds."""
    shown = {"f1": "F1", "mcc": "MCC", "uniqueness": "uniqueness", "fvu": "variance unexplained"}
    figure, panels = style.panels(len(shown), width=width, height=2.6, columns=2)
    for axes, (key, label) in zip(panels, shown.items(), strict=True):
        for i, (name, scores) in enumerate(ours.items()):
            x = np.mean(scores["l0"], axis=1)
            style.spread(axes, x, np.asarray(scores[key]), color=style.PALETTE[i % len(style.PALETTE)], label=name,
                         marker=style.MARKERS[i % len(style.MARKERS)])  # fmt: skip
        axes.set_xlabel("active latents (L0)")
        axes.set_ylabel(label)
        style.grid(axes)
    style.group_legend(figure, panels[0], width=width)
    return figure
