"""Registries by name: names found in the files of a package without importing it, and objects that modules and user
files register on import.
"""

import ast
import difflib
import functools
import importlib
import importlib.util
import pkgutil
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from sparsejax.errors import ConfigError, SparsejaxError

T = TypeVar("T")
Entries = Callable[[ast.Module], Iterator[tuple[str, str]]]
"""Yields name and summary of what a file defines, given its syntax tree."""


class Registry(Mapping[str, str]):
    """Maps names to one-line summaries, in the order of files and definitions; new files are found automatically.

    Args:
      package: whose files, including subfolders, are parsed, not imported.
      what: kind of the named objects, for error messages.
      entries: yields the definitions of a file.
    """

    def __init__(self, package: str, what: str, entries: Entries):
        self._package, self._what, self._entries = package, what, entries

    def module(self, name: str) -> ModuleType:
        """Import the module that defines a name.

        Raises:
          ConfigError: the name is unknown; the message suggests similar ones.
        """
        self.check(name)
        return importlib.import_module(self._found[name][0])

    def check(self, name: str) -> None:
        """Raise a ConfigError with similar names, unless the name is known."""
        if name not in self._found:
            raise ConfigError(_unknown_message(name, self._what, self._found))

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
            found |= {name: (module, summary) for name, summary in self._entries(tree)}
        return found

    def __getitem__(self, name: str) -> str:
        return self._found[name][1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def run_file(path: str | Path) -> dict[str, Any]:
    """Run a Python file and return its globals.

    Networks, measures, attacks and data sets that it registers are then available. It can import modules next to it.

    Raises:
      ConfigError: there is no such file, or it fails.
    """
    path = Path(path).absolute()
    spec = importlib.util.spec_from_file_location(path.stem, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise ConfigError(f"There is no Python file {path}; expected the path of a file NAME.py.")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    module = importlib.util.module_from_spec(spec)
    if getattr(sys.modules.get(spec.name), "__file__", str(path)) == str(path):  # not in place of another module
        sys.modules[spec.name] = module  # inspect finds the source of its classes through it
    try:
        spec.loader.exec_module(module)
    except SparsejaxError:
        raise
    except (Exception, SystemExit) as error:
        at = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = getattr(error, "lineno", None) or (at[-1] if at else "?")
        raise ConfigError(f"{path} fails at line {line}: {type(error).__name__}: {error}. Correct the file.") from error
    return vars(module)


def check_name(name: object, decorator: str) -> None:
    """Raise a ConfigError unless a decorator got a name, as in `@register_measure("mine")`."""
    if not isinstance(name, str) or not name:
        raise ConfigError(f'{decorator} got {name!r} as a name; expected text in brackets: @{decorator}("mine").')


def summary_of(node: ast.Module | ast.FunctionDef) -> str:
    """Return the first line of a docstring, without its full stop."""
    return (ast.get_docstring(node) or "").split("\n")[0].removesuffix(".")


class Registered(Mapping[str, T], Generic[T]):
    """Maps names to objects, in the order of their `place`, and within one place of their registration.

    Every module of a package is imported before the first look-up, so a new entry only needs a new file.

    Args:
      what: kind of the named objects, for error messages.
      package: whose modules register objects.
    """

    def __init__(self, what: str, package: str):
        self._what, self._package, self._complete = what, package, False
        self._lock = threading.RLock()
        self._entries: dict[str, tuple[float, str, T]] = {}

    def add(self, name: str, thing: T, *, module: str, place: float = 100.0) -> None:
        """Register an object; it replaces one of the same name from the same module.

        Args:
          name: its name.
          thing: the object.
          module: that defines it.
          place: sorts the entries in ascending order.

        Raises:
          ConfigError: another module has registered the name.
        """
        if name in self._entries and self._entries[name][1] != module:
            raise ConfigError(
                f"The {self._what} {name!r} of {module} has the same name as one of {self._entries[name][1]}; choose "
                "another name."
            )
        self._entries[name] = (place, module, thing)

    def __getitem__(self, name: str) -> T:
        """Return an object.

        Raises:
          ConfigError: the name is unknown; the message suggests similar ones.
        """
        if name not in self._found:
            own = "To use your own, import the file that registers it first."
            raise ConfigError(f"{_unknown_message(name, self._what, self)} {own}")
        return self._entries[name][2]

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def __iter__(self) -> Iterator[str]:
        found = self._found
        return iter(sorted(found, key=lambda name: found[name][0]))

    def __len__(self) -> int:
        return len(self._found)

    @property
    def _found(self) -> dict[str, tuple[float, str, T]]:
        with self._lock:  # another thread waits for the imports
            if not self._complete:
                self._complete = True  # before the imports, which may look names up
                try:
                    package = importlib.import_module(self._package)
                    for module in sorted(found.name for found in pkgutil.iter_modules(package.__path__)):
                        if not module.startswith("_"):
                            importlib.import_module(f"{self._package}.{module}")
                except BaseException:
                    self._complete = False  # the next look-up fails for the same reason
                    raise
        return self._entries


def _unknown_message(name: str, what: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(close)}?" if close else "."
    return f"There is no {what} {name!r}{hint} Available: {', '.join(known)}."
