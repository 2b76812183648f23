"""The diagram of the modules in CONTRIBUTING.md: every arrow of the imports points downward in it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.command import ROOT

PACKAGE = ROOT / "sparsejax"


def diagram() -> list[list[str]]:
    """Returns the modules that each line of the diagram names."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- modules -->\n```text\n(.*?)```", text, re.DOTALL)
    assert block, "CONTRIBUTING.md has no diagram after <!-- modules -->"
    return [re.findall(r"^\S+|(?<=  )\w+(?:\.py|/)(?=  |$)", line) for line in block[1].splitlines()]


def rooms() -> dict[str, int]:
    """Returns the line of the diagram that each module stands in."""
    return {name.rstrip("/").removesuffix(".py"): i for i, names in enumerate(diagram()) for name in names}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Yields the modules of the package that a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "sparsejax":
            names = [node.module] if "." in node.module else [f"sparsejax.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("sparsejax.")]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name != "sparsejax.__version__")


def files() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


def test_the_diagram_names_every_module_once():
    named = [name.rstrip("/").removesuffix(".py") for names in diagram() for name in names]
    assert sorted(named) == sorted({room_of(path) for path in files()})


def test_imports_point_upward_in_the_diagram_only():
    lines, wrong = rooms(), []
    for path in files():
        own = room_of(path)
        wrong += [f"{path.relative_to(ROOT)} imports {room}" for room in imports(path)
                  if room != own and lines[room] >= lines[own]]  # fmt: skip
    assert not wrong


def test_pure_functions_import_jax_numpy_and_jaxtyping_alone():
    allowed = {"jax", "numpy", "jaxtyping", "sparsejax"}
    standard = {"collections", "dataclasses", "enum", "functools", "importlib", "inspect", "itertools", "math",
                "numbers", "operator", "os", "types", "typing"}  # fmt: skip
    linear_codes = [path for path in (PACKAGE / "coding").rglob("*.py") if path.parent.name != "estimators"]
    for path in [*(PACKAGE / "functional").rglob("*.py"), *linear_codes]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= allowed | standard, (path, names)
        assert set(imports(path)) <= {"functional", room_of(path)}, path
