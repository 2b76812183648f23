"""The figures and the page of a run folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsejax.figures import run_curves, run_layers
from sparsejax.figures.drawing import Drawing
from sparsejax.files import write_whole
from sparsejax.training.run_folder import RunFolder


def write_figures(folder: RunFolder, result: Mapping[str, Any], variables: Any) -> list[Path]:
    """Draws the figures of a run and writes them and the page, each file whole or not at all.

    Args:
      folder: the run's, with its metrics.
      result: as in `result.json`.
      variables: `params` and `state` of all networks, arrays with a leading member axis.

    Returns:
      The files written: `figures/*.png` and `report.html`.

    Raises:
      RunFolderError: a file cannot be written.
    """
    from sparsejax.figures.html import Picture  # only now: matplotlib takes its time
    from sparsejax.figures.report import report
    from sparsejax.figures.style import png

    written, pictures = [], []
    for drawing in _drawings(folder, result, variables):
        image = png(drawing.draw(drawing.width))
        narrow = png(drawing.draw("column")) if drawing.width == "page" else None
        written.append(write_whole(folder.figures / drawing.file, image))
        pictures.append(Picture(drawing.title, drawing.caption, drawing.alt, image, narrow))
    written.append(write_whole(folder.report, report(result, pictures).encode("utf-8")))
    return written


def _drawings(folder: RunFolder, result: Mapping[str, Any], variables: Any) -> list[Drawing]:
    """Returns the figures there is something to draw for, in the order of the page."""
    from sparsejax.figures.report import setting

    groups = [setting(member) for member in result["members"]]
    found = (
        run_curves.training(folder, result, groups),
        run_curves.noise(result, groups),
        run_curves.confusion(result),
        run_layers.active(result),
        run_layers.sizes(folder, result),
        run_layers.weights(folder, result),
        run_layers.duty_cycles(result, variables),
        run_layers.filters(result, variables),
    )
    return [drawing for drawing in found if drawing is not None]
