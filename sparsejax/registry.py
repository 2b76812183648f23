"""Names that are found in the files of a package, before anything of it is imported."""

import ast
import difflib
import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

from sparsejax.errors import ConfigError

Entries = Callable[[ast.Module, str], Iterator[tuple[str, str]]]
"""Yields name and summary of what a file defines, given its syntax tree and the name of its module."""


class Registry(Mapping[str, str]):
    """Maps names to one-line summaries, in the order of files and of definitions; a new file is found by itself.

    Args:
      package: whose files are read, with those of its folders; they are parsed, not imported.
      what: what a name stands for, for error messages.
      entries: what a file defines.
    """

    def __init__(self, package: str, what: str, entries: Entries):
        self._package, self._what, self._entries = package, what, entries

    def module(self, name: str) -> ModuleType:
        """Import the module that defines a name.

        Raises:
          ConfigError: the name is unknown; the closest ones are given.
        """
        self.check(name)
        return importlib.import_module(self._found[name][0])

    def check(self, name: str) -> None:
        """Raise a ConfigError that gives the closest names, unless the name is known."""
        if name not in self._found:
            close = difflib.get_close_matches(name, self._found, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(close)}? " if close else ""
            raise ConfigError(f"There is no {self._what} {name!r}; {hint}There are: {', '.join(self._found)}.")

    @functools.cached_property
    def _found(self) -> dict[str, tuple[str, str]]:
        spec = importlib.util.find_spec(self._package)
        assert spec is not None and spec.submodule_search_locations
        root = Path(spec.submodule_search_locations[0])
        found = {}
        for path in sorted(root.rglob("*.py")):
            if path.stem.startswith("_"):
                continue
            module = ".".join((self._package, *path.relative_to(root).with_suffix("").parts))
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found |= {name: (module, summary) for name, summary in self._entries(tree, module)}
        return found

    def __getitem__(self, name: str) -> str:
        """Return the summary of a name."""
        return self._found[name][1]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._found)

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._found)


def summary_of(node: ast.Module | ast.FunctionDef) -> str:
    """Return the first line of a docstring, without its full stop."""
    return (ast.get_docstring(node) or "").split("\n")[0].removesuffix(".")
