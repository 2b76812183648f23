"""The papers' figures and tables: one folder per paper, with its own figures and measures.

A file lists what it reproduces, by name, in `SUMMARIES` and `STUDIES`. A name is PAPER/FIGURE; PAPER is one of noise,
emergence, hah, thesis, dense. The scoreboard is of all of them.
"""

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sparsejax.registry import Registry

if TYPE_CHECKING:
    from sparsejax.studies.study import Study


def _studies(tree: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SUMMARIES":
            yield from ast.literal_eval(node.value).items()


STUDIES = Registry("sparsejax.studies", "study", _studies)
"""Name -> summary."""


def get(name: str) -> "Study":
    """Return a study by name.

    Raises:
      ConfigError: the name is unknown; the message suggests similar ones.
    """
    return STUDIES.module(name).STUDIES[name]
