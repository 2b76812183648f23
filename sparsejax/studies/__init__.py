"""The papers' figures and tables: one folder per paper, with its own figures and measures.

What a file reproduces are its functions decorated by `study`. A name is PAPER/FIGURE; PAPER is one of noise,
emergence, hah, thesis, dense. The scoreboard is of all of them.
"""

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

import sparsejax.figures  # noqa: F401  before any module imports matplotlib
from sparsejax.registry import Registry

if TYPE_CHECKING:
    from sparsejax.studies.study import Study


def _studies(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        for call in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "study":
                name, shows = map(ast.literal_eval, call.args[:2])
                yield name, shows + "; --seeds N" * any(keyword.arg == "seeds" for keyword in call.keywords)


STUDIES = Registry("sparsejax.studies", "study", _studies)
"""Name -> summary."""


def get(name: str) -> "Study":
    """Return a study by name.

    Raises:
      ConfigError: the name is unknown; the message suggests similar ones.
    """
    STUDIES.module(name)
    from sparsejax.studies.study import MADE

    return MADE[name]
