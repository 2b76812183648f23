"""Named experiments: every function without arguments in a file of this folder that returns a Config."""

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sparsejax.registry import Registry, summary_of

if TYPE_CHECKING:
    from sparsejax.training.config import Config


def _configs(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_") or ast.unparse(node.args):
            continue
        if node.returns is not None and ast.unparse(node.returns) == "Config":
            yield node.name, summary_of(node)


CONFIGS = Registry("sparsejax.configs", "configuration", _configs)
"""Name -> summary. Numbers are the paper's: test accuracy, noise score of 110,000."""


def get(name: str) -> "Config":
    """Return a named configuration.

    Raises:
      ConfigError: the name is unknown; the message suggests similar ones.
    """
    return getattr(CONFIGS.module(name), name)()
