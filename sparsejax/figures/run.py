"""The figures and the report of a run folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsejax.errors import ConfigError
from sparsejax.figures.drawing import Part, Shown, parts_of
from sparsejax.files import write_whole
from sparsejax.training.run_folder import RunFolder


def write_figures(folder: RunFolder, result: Mapping[str, Any], variables: Any, measures: Sequence[Part]) -> list[Path]:
    """Draws the figures of a run and writes them and the report, each file atomically.

    Args:
      folder: of the run, with its metrics.
      result: as in `result.json`.
      variables: `params` and `state` of all networks, arrays with a leading member axis.
      measures: those of the run, in the order of the report.

    Returns:
      The files written: `figures/*.png` and `report.html`.

    Raises:
      ConfigError: a measure raises an exception, or a figure's file is not in the folder `figures`.
      RunFolderError: a file cannot be written.
    """
    from sparsejax.figures.html import Picture  # imported late because matplotlib is slow
    from sparsejax.figures.report import report, setting
    from sparsejax.figures.style import png

    written, pictures = [], []
    run = Shown(result, variables, folder, [setting(member) for member in result["members"]])
    for drawing in parts_of(measures, "figures", run):
        if Path(drawing.file).name != drawing.file:
            raise ConfigError(f"A figure has the file {drawing.file!r}; expected a name without a folder: 'mine.png'.")
        image = png(drawing.draw(drawing.width))
        narrow = png(drawing.draw("column")) if drawing.width == "page" else None
        written.append(write_whole(folder.figures / drawing.file, image))
        pictures.append(Picture(drawing.title, drawing.caption, drawing.alt, image, narrow))
    written.append(write_whole(folder.report, report(result, pictures, measures).encode("utf-8", "replace")))
    return written
