"""Running a user's files; errors name the line."""

import inspect
import random
import sys

import pytest

from sparsejax.errors import ConfigError
from sparsejax.registry import run_file


def test_a_file_is_run_and_the_source_of_its_classes_is_found(tmp_path):
    path = tmp_path / "my_classes.py"
    path.write_text("class Mine:\n    size = 3\n")
    assert run_file(path)["Mine"].size == 3
    path.write_text("class Mine:\n    size = 4\n")
    mine = run_file(path)["Mine"]
    assert mine.size == 4 and inspect.getsourcefile(mine) == str(path) and sys.modules["my_classes"].Mine is mine


def test_a_file_named_like_a_module_does_not_replace_it(tmp_path):
    (tmp_path / "random.py").write_text("x = 3\n")
    assert run_file(tmp_path / "random.py")["x"] == 3
    assert sys.modules["random"] is random


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ny = x +\n", "fails at line 2: SyntaxError"),
        ("import no_such_module\n", "fails at line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def f():\n    return 1 / 0\n\nf()\n", "fails at line 2: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)\n", "fails at line 2: SystemExit: 3"),
        ("\0", "fails at line"),
    ],
)
def test_a_file_that_fails_is_refused_with_its_line(tmp_path, text, said):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigError, match=said):
        run_file(tmp_path / "mine.py")


def test_paths_other_than_python_files_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("x = 1\n")
    for path in (tmp_path, tmp_path / "notes.txt", tmp_path / "none.py"):
        with pytest.raises(ConfigError, match="There is no Python file"):
            run_file(path)
