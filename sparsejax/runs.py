"""A run from Python: its results, its history, its networks and its figures."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsejax.errors import ConfigError, RunFolderError
from sparsejax.evaluation.measure import measures_of
from sparsejax.figures.curves import curves_of, training_curves
from sparsejax.figures.drawing import parts_of
from sparsejax.figures.words import plain, several
from sparsejax.training.config import Config
from sparsejax.training.log import read_metrics
from sparsejax.training.records import reading
from sparsejax.training.restore import TrainedNetwork, config_of, load_network, load_state, read_record
from sparsejax.training.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Run:
    """A run folder, from `sparsejax.train` or `sparsejax.load`. It does not need the data.

    Attributes:
      folder: the paths of the run's files.
      configs: the configuration of every network.
      plot: methods that draw figures of the run.
    """

    def __init__(self, path: str | Path):
        self.folder = RunFolder(path)
        self.configs: tuple[Config, ...] = read_record(self.folder).configs
        self.plot = Plots(self)

    @property
    def result(self) -> dict[str, Any]:
        """The contents of `result.json`.

        Raises:
          RunFolderError: the run is not finished, or the file is damaged.
        """
        return self.folder.read_result()

    @property
    def history(self) -> dict[str, np.ndarray]:
        """Every logged quantity by name, `[epochs, members]`: means over an epoch, NaN where it was not logged."""
        members, longest = len(self.configs), self.configs[0].training.epochs
        lines = [line for line in read_metrics(self.folder.metrics, members) if line["epoch"] <= longest]
        epochs = max((int(np.ceil(line["epoch"])) for line in lines), default=0)
        rows: dict[str, dict[int, list[list[float]]]] = {}
        for line in lines:
            epoch = max(int(np.ceil(line["epoch"])), 1) - 1
            for name, values in line.items():
                if isinstance(values, list):
                    row = [np.nan if value is None else value for value in values]
                    rows.setdefault(name, {}).setdefault(epoch, []).append(row)
        means = {name: np.full((epochs, members), np.nan) for name in rows}
        for name, by_epoch in rows.items():
            for epoch, found in by_epoch.items():
                means[name][epoch] = np.mean(found, axis=0)
        return means

    def network(self, member: int = 0) -> TrainedNetwork:
        """Return a network after the last epoch; `member` is the index of a network of a grid.

        Raises:
          ConfigError: there is no such network.
          CheckpointError: there is no checkpoint, or it is damaged.
        """
        return load_network(self.folder, member)

    def __repr__(self) -> str:
        """Return one line about the run."""
        networks = f"{len(self.configs)} network{'s' if len(self.configs) > 1 else ''}"
        if not self.folder.result.exists():
            return f"Run({str(self.folder.path)!r}: {networks}, not finished)"
        try:
            result = self.result
        except RunFolderError:
            return f"Run({str(self.folder.path)!r}: {networks}, result.json cannot be read)"
        score = next(name for name in ("test_accuracy", "test_loss") if name in result)
        return f"Run({str(self.folder.path)!r}: {networks}, {score.replace('_', ' ')} {plain(result[score])})"


class Plots:
    """Figures of a run, as matplotlib figures."""

    def __init__(self, run: Run):
        self._run = run
        _show_figures_in_notebooks()

    def curves(self) -> "Figure":
        """Draw loss and accuracy against epochs, in training and on the test set."""
        curves = curves_of(read_metrics(self._run.folder.metrics, len(self._run.configs)))
        return training_curves(curves) if curves else self._draw(lambda _: None, "metrics")

    def receptive_fields(self, member: int = 0) -> "Figure":
        """Draw the weights of the first layer of a network as images."""
        from sparsejax.figures.run_layers import filters

        run_of = read_record(self._run.folder)
        config_of(self._run.folder, run_of, member)  # refuses an unknown member
        one = _member(load_state(self._run.folder, run_of).variables, member)
        return self._draw(
            lambda result: filters({**result, "members": [result["members"][member]]}, one), "images to show"
        )

    def duty_cycles(self) -> "Figure":
        """Draw how often the units of each k-winners layer win."""
        from sparsejax.figures.run_layers import duty_cycles

        state = load_state(self._run.folder, read_record(self._run.folder))
        return self._draw(lambda result: duty_cycles(result, state.variables), "layer of k-winners")

    def noise(self) -> "Figure":
        """Draw the test accuracy against the level of noise."""
        from sparsejax.figures.run_curves import noise

        return self._draw(lambda result: noise(result, [""] * len(self._run.configs)), "noise score")

    def _draw(self, make: Callable[[dict[str, Any]], Any], what: str) -> "Figure":
        with reading(self._run.folder.result):
            drawing = make(self._run.result)
            if drawing is None:
                raise ConfigError(f"The run in {self._run.folder.path} has no {what}, so there is nothing to draw.")
            return drawing.draw(drawing.width)


def _show_figures_in_notebooks() -> None:
    """Tell a notebook to show a figure as a picture: it knows how only after its own backend has been loaded."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        importlib.import_module("IPython.core.pylabtools").select_figure_formats(shell, {"png"})


def _member(variables: Any, member: int) -> Any:
    import jax

    return jax.tree.map(lambda leaf: leaf[member : member + 1], variables)


def row_of(folder: RunFolder) -> dict[str, str]:
    """Returns a run's column of a table, by measure: means over its networks, with their standard deviation.

    Raises:
      RunFolderError: its run is not finished, or its result cannot be read.
    """
    result = folder.read_result()
    with reading(folder.result):
        return _row(result)


def _row(result: dict[str, Any]) -> dict[str, str]:
    several_networks, layers = len(result["members"]) > 1, result["layers"].values()

    def said(name: str, factor: float, form: str, entry: dict[str, Any] = result) -> str:
        if entry[name] is None:  # not finite
            return plain(None)
        std = entry.get(f"{name}_std") if several_networks else None
        spread = "" if std is None else f" ± {factor * std:{form}}"
        return f"{factor * entry[name]:{form}}{spread}"

    row = {"networks": str(len(result["members"]))}
    if "test_accuracy" in result:
        row["accuracy (%)"] = said("test_accuracy", 100, ".2f")
        row["best (%)"] = said("test_accuracy", 100, ".2f", result["best"])
    row["loss"] = said("test_loss", 1, ".4f")
    if "noise_score" in result:
        row["noise score (%)"] = said("noise_score", 100 / result["noise_score_max"], ".2f")
    if all("dead_units" in layer for layer in layers):
        row["active (%)"] = ", ".join(f"{100 * layer['active_fraction']:.1f}" for layer in layers)
        row["dead"] = ", ".join(f"{layer['dead_units']:g}" for layer in layers)
    for shown in parts_of(measures_of(result), "rows", result):
        if shown.key not in ("test_accuracy", "test_loss", "noise_score"):
            row[shown.label] = several([member[shown.key] for member in result["members"]], False, shown.form)
    return row | {"seconds": f"{result['training_seconds']:,.0f}"}
