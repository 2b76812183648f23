"""The report's HTML: sections, tables and images in one file."""

import base64
from collections.abc import Sequence
from html import escape
from typing import NamedTuple


class Picture(NamedTuple):
    """A figure of the report: PNG bytes for a wide and, if it differs, a narrow screen, and its texts."""

    title: str
    caption: str
    alt: str
    wide: bytes
    narrow: bytes | None = None


def section(title: str, content: str) -> str:
    """Returns a section with a heading."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>"


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, names: int = 1) -> str:
    """Writes a table whose first `names` columns are text and whose others are numbers, aligned to the right.

    The first column contains row headers, if there is a column of names.
    """
    kinds = ["text" if i < names else "number" for i in range(len(head))]
    top = "".join(f'<th scope="col" class="{kind}">{escape(name)}</th>' for name, kind in zip(head, kinds, strict=True))
    lines = []
    for row in rows:
        cells = [
            f'<th scope="row">{escape(cell)}</th>' if i == 0 and names else f'<td class="{kind}">{escape(cell)}</td>'
            for i, (cell, kind) in enumerate(zip(row, kinds, strict=True))
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(lines)
    return (
        f'<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0">\n<table>\n'
        f"<caption>{escape(caption)}</caption>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def image(picture: Picture) -> str:
    """Embeds an image, and a narrower version for screens below 38 em."""
    width, height = _size(picture.wide)
    size = f'width="{width // 2}" height="{height // 2}"'
    image = f'<img src="{_data_uri(picture.wide)}" alt="{escape(picture.alt)}" {size}>'
    if picture.narrow is None:
        return f'<div class="card">{image}</div>'
    source = f'<source media="(max-width: 38em)" srcset="{_data_uri(picture.narrow)}">'
    return f'<div class="card"><picture>{source}{image}</picture></div>'


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _size(png: bytes) -> tuple[int, int]:
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def escape_unbroken(value: str) -> str:
    """Escapes a value without line breaks, except in a range before its upper end."""
    return " to ".join(escape(end).replace(" ", "&nbsp;") for end in value.split(" to "))
