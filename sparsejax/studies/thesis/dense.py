"""Fully connected networks with penalised activity: figures 3.1 to 3.13 and table 3.1 of the thesis.

At the paper's scale a figure of one hidden layer is 5 sizes x 15 penalties x 20 seeds: 1,500 networks. All studies
share their networks: those of figure 3.1 are also those of 3.2 to 3.7.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from sparsejax.figures.table import table
from sparsejax.functional.measures import gini_weighted_accuracy
from sparsejax.studies.study import Outcome, Scale, spearman, study
from sparsejax.studies.thesis.grid import KINDS, SEEDS, SIZES, Grid, critical, seed_statistics, train_grid
from sparsejax.studies.thesis.penalty_figure import against_penalty, along_epochs, firing, firing_by_class

# L1 activity of unregularised networks, mean and standard deviation over 20.
TABLE3_1 = {8: (46.08, 3.53), 32: (78.23, 3.71), 64: (113.49, 5.75), 128: (157.77, 7.54), 256: (220.54, 9.69)}
BEST_WEIGHTED = {8: 0.032, 32: 0.032, 64: 0.024, 128: 0.016, 256: 0.008}


def _outcome(figure: Any, grid: Grid, ours: dict[str, Any], paper: dict[str, Any]) -> Outcome:
    return Outcome(figure, {"penalty": list(grid.penalties), **ours}, paper, list(grid.seeds))


@study("thesis/fig3_1", "accuracy against the penalty on the activity, five sizes", seeds=SEEDS, small=3, name="relu1")
@study("thesis/fig3_8", "accuracy against the penalty, sigmoid units", seeds=SEEDS, small=3, name="sigmoid1")
@study("thesis/fig3_10", "accuracy against the penalty, two hidden layers", seeds=SEEDS, small=3, name="relu2")
@study("thesis/fig3_12", "accuracy against the penalty, three hidden layers", seeds=SEEDS, small=3, name="relu3")
def _accuracy(scale: Scale, folder: Path, seeds: Sequence[int], name: str) -> Outcome:
    grid = train_grid(name, scale, folder, seeds)
    accuracy = grid.each(lambda measures: measures["accuracy"])
    figure = against_penalty(grid.penalties, {"": accuracy}, label="test accuracy (%)")
    criticals = {size: critical(grid.penalties, values) for size, values in accuracy.items()}
    order = [np.inf if value is None else value for value in criticals.values()]
    least = min(values.min() for values in accuracy.values())
    ours: dict[str, Any] = {
        "median accuracy (%), no penalty": {size: float(np.median(v[0])) for size, v in accuracy.items()},
        "critical penalty (median 10 points down)": criticals,
        "critical penalty falls with size": bool(order == sorted(order, reverse=True) and order[0] > order[-1]),
        "accuracy (%)": {size: seed_statistics(values) for size, values in accuracy.items()},
    }
    paper: dict[str, Any] = {"critical penalty falls with size": KINDS[name].activation == "relu"}
    if KINDS[name].activation == "relu":
        silent = [(m["l0"].sum(-1) == 0) for m in grid.sizes.values()]
        dead = np.concatenate([v[s] for v, s in zip(accuracy.values(), silent, strict=True)])
        ours |= {"accuracy of a dead network (%)": sorted({round(float(value), 2) for value in dead}),
                 "dead networks": len(dead), "least accuracy (%)": float(least)}  # fmt: skip
        paper |= {"accuracy of a dead network (%)": 11.35, "least accuracy (%)": 11.35}
    if name == "relu1":
        ours["points lost at 0.008"] = {
            size: round(float(np.median(v[0]) - np.median(v[grid.at(0.008)])), 2) for size, v in accuracy.items()
        }
        paper["points lost at 0.008"] = "little to no drop"
    return _outcome(figure, grid, ours, paper)


@study("thesis/fig3_2", "active units of an image against the penalty", seeds=SEEDS, small=3)
def _fig3_2(scale: Scale, folder: Path, seeds: Sequence[int]) -> Outcome:
    grid = train_grid("relu1", scale, folder, seeds)
    active = grid.each(lambda measures: measures["l0"][..., 0])
    figure = against_penalty(
        grid.penalties, {"": active}, label="active units per image", spread="deviation", compressed=True
    )
    at = grid.at(0.008)
    first, last = (1 - grid.sizes[units]["l0"][0].mean() / units for units in (SIZES[0], SIZES[-1]))
    ours = {
        "active units at 0.008": {size: round(float(v[at].mean()), 2) for size, v in active.items()},
        "below 8 at 0.008 at every size": bool(all(v[at].mean() < 8 for v in active.values())),
        f"inactive without a penalty, {SIZES[0]} units (%)": round(100 * float(first), 1),
        f"inactive without a penalty, {SIZES[-1]} units (%)": round(100 * float(last), 1),
        "active units": {size: seed_statistics(values) for size, values in active.items()},
    }
    paper = {
        "below 8 at 0.008 at every size": True,
        "inactive without a penalty, 8 units (%)": "around 14",
        "inactive without a penalty, 256 units (%)": "almost 50",
    }
    return _outcome(figure, grid, ours, paper)


_UNITS, _SHOWN = 64, (0.0, 0.008, 0.04, 0.08)


def _firing_counts(scale: Scale, folder: Path, seeds: Sequence[int]) -> tuple[Grid, dict[str, np.ndarray]]:
    """Returns how often units of the first network of 64 units were active, `[classes, units]`, for four penalties."""
    grid = train_grid("relu1", scale, folder, seeds, (_UNITS,))
    fired = grid.sizes[_UNITS]["fired"][:, 0, 0]
    return grid, {f"λ = {penalty:g}": fired[grid.at(penalty)] for penalty in _SHOWN}


@study("thesis/fig3_3", "how often each of 64 units is active, for four penalties", seeds=SEEDS, small=3)
def _fig3_3(scale: Scale, folder: Path, seeds: Sequence[int]) -> Outcome:
    grid, fired = _firing_counts(scale, folder, seeds)
    counts = {name: 1000 * values.mean(0) for name, values in fired.items()}
    figure = firing(counts, images=1000)
    living = (grid.sizes[_UNITS]["fired"][:, :, 0] > 0).any(-2).sum(-1)
    selective = {name: float(values[values > 0].mean()) if values.any() else 0.0 for name, values in counts.items()}
    ours = {
        "units never active": {name: int((values == 0).sum()) for name, values in counts.items()},
        "images (of 1,000) a living unit is active for": {k: round(v, 1) for k, v in selective.items()},
        "living units, mean over the networks": living.mean(1).round(2).tolist(),
    }
    paper = {"units never active": {"λ = 0": 2, "λ = 0.08": 61}}
    return _outcome(figure, grid, ours, paper)


@study("thesis/fig3_4", "how often each of 64 units is active for every digit", seeds=SEEDS, small=3)
def _fig3_4(scale: Scale, folder: Path, seeds: Sequence[int]) -> Outcome:
    grid, fired = _firing_counts(scale, folder, seeds)
    # The thesis shows 100 images of each digit; we use all of them, with a threshold of once in 100.
    counts = {name: (values >= 0.01).sum(1) for name, values in fired.items()}
    ours = {"units active at least once for a digit, least and most": {
        name: [int(values.min()), int(values.max())] for name, values in counts.items()
    }}  # fmt: skip
    paper = {"units active at least once for a digit, least and most": {"λ = 0": [60, 62], "λ = 0.04": [13, 16]}}
    return _outcome(firing_by_class(fired), grid, ours, paper)


@study("thesis/fig3_5", "summed activity of an image against the penalty", seeds=SEEDS, small=3)
def _fig3_5(scale: Scale, folder: Path, seeds: Sequence[int]) -> Outcome:
    grid = train_grid("relu1", scale, folder, seeds)
    activity = grid.each(lambda measures: measures["l1"][..., 0])
    figure = against_penalty(
        grid.penalties, {"": activity}, label="ℓ1 activity per image", spread="deviation", compressed=True
    )
    means = {size: values.mean(1) for size, values in activity.items()}
    at = grid.at(0.04)
    ours = {
        "rank correlation with the penalty": {
            size: round(spearman(np.asarray(grid.penalties), values), 3) for size, values in means.items()
        },
        "size with the most activity at 0.04": max(means, key=lambda size: means[size][at]),
        "size with the least activity at 0.04": min(means, key=lambda size: means[size][at]),
        "l1 activity": {size: seed_statistics(values, 3) for size, values in activity.items()},
    }
    paper = {
        "size with the most activity at 0.04": f"{SIZES[0]} units",
        "size with the least activity at 0.04": f"{SIZES[-1]} units",
    }
    return _outcome(figure, grid, ours, paper)


@study("thesis/table3_1", "summed activity without a penalty", seeds=SEEDS, small=3)
def _table3_1(scale: Scale, folder: Path, seeds: Sequence[int]) -> Outcome:
    grid = train_grid("relu1", scale, folder, seeds)
    ours = {str(units): [round(float(f(m["l1"][0, :, 0])), 2) for f in (np.mean, np.std)]
            for units, m in grid.sizes.items()}  # fmt: skip
    paper = {str(units): list(TABLE3_1[units]) for units in SIZES}
    rows = [[size, *("{:.2f} ± {:.2f}".format(*entry) for entry in (values, paper[size]))]
            for size, values in ours.items()]  # fmt: skip
    figure = table(("hidden units", "ℓ1 activity, ours", "thesis"), rows, width="column")
    return _outcome(figure, grid, ours, paper)


_SILENT = 0.1  # lower bound for drawing, because the axis is logarithmic


@study("thesis/fig3_6", "summed activity over training", seeds=SEEDS, small=3)
def _fig3_6(scale: Scale, folder: Path, seeds: Sequence[int]) -> Outcome:
    grid = train_grid("relu1", scale, folder, seeds)
    shown = [penalty for penalty in (0.0, 0.016, 0.04, 0.112) if penalty in grid.penalties]
    first = next(iter(grid.sizes.values()))
    panels = {f"λ = {penalty:g}": {size: values[grid.at(penalty)].T
                                   for size, values in grid.each(lambda measures: measures["l1_along"]).items()}
              for penalty in shown}  # fmt: skip
    drawn = {name: {size: np.maximum(values, _SILENT) for size, values in sizes.items()}
             for name, sizes in panels.items()}  # fmt: skip
    figure = along_epochs(first["epochs"], drawn, label="ℓ1 activity per image")
    early = {name: {size: round(float(np.median(v[0])), 2) for size, v in sizes.items()}
             for name, sizes in panels.items()}  # fmt: skip
    late = {name: {size: round(float(np.median(v[-1])), 2) for size, v in sizes.items()}
            for name, sizes in panels.items()}  # fmt: skip
    largest = f"{SIZES[-1]} units"
    ours = {
        "the largest network is the most active at first": {k: max(v, key=v.__getitem__) == largest
                                                            for k, v in early.items()},
        "activity over the first steps": early,
        "activity over the last steps": late,
    }  # fmt: skip
    paper = {"the largest network is the most active at first": dict.fromkeys(panels, True)}
    return _outcome(figure, grid, ours, paper)


@study("thesis/fig3_7", "accuracy times Gini index, and the best penalty", seeds=SEEDS, small=3)
def _fig3_7(scale: Scale, folder: Path, seeds: Sequence[int]) -> Outcome:
    grid = train_grid("relu1", scale, folder, seeds)
    weighted = grid.each(
        lambda m: np.asarray(gini_weighted_accuracy(jnp.asarray(m["accuracy"]), jnp.asarray(m["gini"][..., 0])))
    )
    figure = against_penalty(
        grid.penalties, {"": {size: values[:, None] for size, values in weighted.items()}},
        label="accuracy × Gini index (%)", spread="deviation", width="column",
    )  # fmt: skip
    best = {size: grid.penalties[int(values.argmax())] for size, values in weighted.items()}
    ours = {"best penalty": best, "accuracy x gini (%)": {k: v.round(2).tolist() for k, v in weighted.items()}}
    paper = {"best penalty": {f"{units} units": BEST_WEIGHTED[units] for units in SIZES}}
    return _outcome(figure, grid, ours, paper)


@study("thesis/fig3_9", "Gini index against the penalty, sigmoid units", seeds=SEEDS, small=3)
def _fig3_9(scale: Scale, folder: Path, seeds: Sequence[int]) -> Outcome:
    grid = train_grid("sigmoid1", scale, folder, seeds)
    gini = grid.each(lambda measures: measures["gini"][..., 0])
    figure = against_penalty(grid.penalties, {"": gini}, label="Gini index", spread="deviation", width="column")
    ours = {
        "part of the units active, least over all networks": float(
            min(measures["l0"].min() / units for units, measures in grid.sizes.items())
        ),
        "gini": {size: seed_statistics(values, 3) for size, values in gini.items()},
    }
    return _outcome(figure, grid, ours, {"part of the units active, least over all networks": 1.0})


@study("thesis/fig3_11", "active units of each of two layers", seeds=SEEDS, small=3, name="relu2")
@study("thesis/fig3_13", "active units of each of three layers", seeds=SEEDS, small=3, name="relu3")
def _by_layer(scale: Scale, folder: Path, seeds: Sequence[int], name: str) -> Outcome:
    grid = train_grid(name, scale, folder, seeds)
    depth, skipped = KINDS[name].depth, 1 if name == "relu3" else 0  # the thesis omits no penalty in 3.13
    panels = {
        f"{units} units": {f"layer {i + 1}": measures["l0"][skipped:, :, i] for i in range(depth)}
        for units, measures in grid.sizes.items()
    }
    figure = against_penalty(
        grid.penalties[skipped:], panels, label="active units per image", spread="deviation", compressed=True
    )
    means = {size: np.stack([values.mean(1) for values in layers.values()]) for size, layers in panels.items()}
    later = {}
    for size, values in means.items():
        alive = values.max(0) > 0.01  # a dead network's unit may still respond to one image in a thousand
        later[size] = round(float(np.mean((values[0] < values[1:].min(0))[alive])), 2)
    ours = {
        "part of the penalties at which the first layer is the least active": later,
        "active units": {size: {layer: seed_statistics(v) for layer, v in panels[size].items()} for size in panels},
    }
    return _outcome(figure, grid, ours, {"part of the penalties at which the first layer is the least active":
                                         dict.fromkeys(panels, 1.0)})  # fmt: skip
