"""A table as a figure, in the style of a paper."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from sparsejax.figures import style


@style.styled
def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, names: int = 1, width: style.Width = "page") -> Figure:
    """Draws a table between three rules: the first `names` columns aligned left, the others right.

    Args:
      head: names of the columns; may contain a line break.
      rows: one text per column.
      names: columns of text.
      width: of the figure.

    Raises:
      ValueError: a row has another number of columns.
    """
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"A row has {len(row)} columns, {row}, but the table has {len(head)}.")
    lines = 1 + max(name.count("\n") for name in head)
    height = 0.19 * (len(rows) + lines) + 0.15
    figure, (axes,) = style.panels(1, width=width, height=height, columns=1)
    # Columns as wide as their longest text, with gaps between them.
    widest = [max(len(part) for text in (name, *(row[i] for row in rows)) for part in text.split("\n"))
              for i, name in enumerate(head)]  # fmt: skip
    total = sum(widest) + 2 * (len(widest) - 1)
    edges, at = [], 0
    for i, letters in enumerate(widest):
        edges.append((at if i < names else at + letters) / total)
        at += letters + 2
    axes.axis("off")
    axes.set_xlim(0, 1)
    axes.set_ylim(len(rows) + 0.2, -lines - 0.2)
    for i, x in enumerate(edges):
        side = "left" if i < names else "right"
        axes.text(x, -0.38, head[i], ha=side, va="baseline", fontweight="bold", fontsize=7, linespacing=1.1)
        for j, row in enumerate(rows):
            axes.text(x, j + 0.5, row[i], ha=side, va="center", fontsize=7)
    for y, thick in ((-lines - 0.2, 0.9), (0, 0.5), (len(rows) + 0.2, 0.9)):
        axes.plot([0, 1], [y, y], color=style.INK, linewidth=thick, clip_on=False)
    return figure
