"""Converts formulas in docstrings from Sphinx's syntax to the site's Markdown."""

import re
import textwrap
from typing import Any

import griffe

_INLINE = re.compile(r":math:`([^`]+)`")
_BLOCK = re.compile(r"^( *)\.\. math::(.*(?:\n\1 +\S.*)*)", re.MULTILINE)


class Math(griffe.Extension):
    """Rewrites every docstring once it is loaded."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrites `:math:` and `.. math::`."""
        if obj.docstring is not None:
            obj.docstring.value = _BLOCK.sub(_block, _INLINE.sub(r"$\1$", obj.docstring.value))


def _block(found: "re.Match[str]") -> str:
    indent, formula = found[1], " ".join(textwrap.dedent(found[2]).split())
    return f"{indent}$${formula}$$"
