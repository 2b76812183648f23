"""Figures of whole networks: training, noise, confusion; None if there is nothing to draw."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparsejax.data import DATA
from sparsejax.figures.drawing import Drawing, average_note, range_note
from sparsejax.training.log import read_metrics
from sparsejax.training.run_folder import RunFolder


def training(folder: RunFolder, result: Mapping[str, Any], groups: Sequence[str]) -> Drawing | None:
    """Draws the metrics, if the run has any."""
    from sparsejax.figures.curves import curves_of, training_curves

    curves = curves_of(read_metrics(folder.metrics, len(result["members"])))
    if not curves.keys() & {"loss", "test_loss", "accuracy", "test_accuracy"}:
        return None
    if "test_accuracy" in result:
        drawn, final = "loss and accuracy", f"accuracy ends at {100 * result['test_accuracy']:.2f} %"
        cut = "; the axis omits the initial steep rise of the training accuracy"
    else:
        drawn, final, cut = "loss", f"loss ends at {result['test_loss']:.5f}", ""
    return Drawing(
        "training.png",
        "Training",
        f"{drawn.replace('loss', 'Loss (logarithmic)')} against epochs, in training and on the test set{cut}."
        + range_note(result),
        f"Line charts of {drawn} against epochs, for training and test data. The test {final}{average_note(result)}.",
        lambda width: training_curves(curves, groups=groups, width=width),
    )


def noise(result: Mapping[str, Any], groups: Sequence[str]) -> Drawing | None:
    """Draws accuracy under noise, if it was measured."""
    from sparsejax.figures.noise import noise_curve

    members = result["members"]
    if "noise_accuracy" not in members[0]:
        return None
    levels, accuracy = (
        members[0]["noise_levels"],
        np.array([member["noise_accuracy"] for member in members], float),
    )
    scores = [member["noise_score"] for member in members]
    first, last = accuracy[:, 0].mean(), accuracy[:, -1].mean()
    name = (result.get("config") or {}).get("data", {}).get("name")
    speech = name in DATA and DATA[name].kind == "clips"
    what = "each clip is blended with white noise" if speech else "a fraction of the pixels is replaced by noise"
    label = "white noise (%)" if speech else "pixels replaced by noise (%)"
    return Drawing(
        "noise.png",
        "Robustness to noise",
        f"Test accuracy when {what}, after the last epoch; the noise score "
        "counts correct classifications over all levels." + range_note(result),
        f"Line chart: test accuracy changes from {100 * first:.1f} % without noise to {100 * last:.1f} % with "
        f"{100 * levels[-1]:.0f} % {'of white noise' if speech else 'of the pixels replaced'}{average_note(result)}.",
        lambda width: noise_curve(levels, accuracy, scores=scores, groups=groups, label=label, width=width),
        "column",
    )


def confusion(result: Mapping[str, Any]) -> Drawing | None:
    """Draws the confusion matrix, if it was measured."""
    from sparsejax.figures.classes import confusion_map

    if "confusion" not in result:
        return None
    confusion = np.asarray(result["confusion"], float)
    wrong = np.where(np.eye(len(confusion), dtype=bool), 0, confusion)
    row, column = np.unravel_index(wrong.argmax(), wrong.shape)
    return Drawing(
        "confusion.png",
        "Confusion matrix",
        "Rows are labels of test examples, columns predictions after the last epoch; numbers are percentages "
        "of the row, and cells without a number are below half a per cent."
        + (" All networks together." if len(result["members"]) > 1 else ""),
        f"Heat map of a confusion matrix of {len(confusion)} classes; the most frequent error predicts for class {row} "
        f"{column}.",
        lambda width: confusion_map(confusion, width=width),
        "column",
    )
