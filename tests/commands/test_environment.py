"""Commands in unusual environments: other encodings, backends, terminals, platforms, and no home folder."""

import contextlib
import io
import os
import pwd
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from benchmarks.__main__ import main as benchmark
from sparsejax import data, terminal
from sparsejax.commands import cli, reproduce
from sparsejax.commands.status import status_of
from sparsejax.commands.train import main
from sparsejax.data.__main__ import main as list_data
from sparsejax.data.folders import data_root, download_folder, tfds_folder, user_cache
from sparsejax.errors import DataMissingError, SparsejaxWarning
from sparsejax.figures import _is_usable
from sparsejax.training.log import Terminal
from sparsejax.training.run_folder import RunFolder
from tests.command import ROOT, environment, launch


@contextlib.contextmanager
def ascii_output():
    """Replaces the standard output by one that encodes ASCII only, as in a batch job; yields what was written."""
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="ascii", errors="strict", write_through=True)
    with contextlib.redirect_stdout(stream):
        yield written
        assert stream.errors == "strict", "restored"
    stream.detach()  # otherwise it closes what it wrote to


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (main, ["--list"]),
        (main, ["--help"]),
        (main, ["--config", "cifar_hebbian", "--help"]),
        (reproduce.main, ["--list"]),
        (reproduce.main, ["--help"]),
        (cli.main, ["list"]),
        (cli.main, ["embed", "--help"]),
        (cli.main, ["completion", "bash"]),
        (list_data, ["list"]),
        (benchmark, ["--list"]),
    ],
)
def test_commands_print_in_ascii(command, words, capfd):
    with ascii_output() as written:
        assert command(words) == 0
    assert written.getvalue() and "Traceback" not in capfd.readouterr().err


def test_runs_are_shown_in_ascii(small_run, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "0")
    with ascii_output() as written:
        assert cli.main(["compare", str(small_run / "run"), "--out", str(tmp_path / "é.png")]) == 0
    lines = written.getvalue().decode().splitlines()
    assert any("| accuracy (%)" in line for line in lines) and lines[-1].endswith("/e.png")
    with ascii_output() as written:  # as from Python, where nothing has changed the stream
        Terminal(1, 0).say("98.1 ± 0.2 of 28 × 28")
        assert data.load("mnist", "digits").name == "digits"
    assert b"98.1 +/- 0.2 of 28 x 28" in written.getvalue() and b"enlarged to 28 x 28" in written.getvalue()


def test_names_that_are_no_text_in_this_locale(small_run, tmp_path, capfd):
    """Python decodes the bytes of é as two surrogates in an ASCII locale."""
    assert main(["--config", "digits_mlp", "--out", str(tmp_path / "r\udcc3\udca9")]) == 2
    assert "r\\udcc3\\udca9' is not text in this locale" in capfd.readouterr().err and not list(tmp_path.iterdir())
    folder = RunFolder(shutil.copytree(small_run / "run", tmp_path / "run"))
    folder.write(folder.result, folder.read_result() | {"name": "r\udcc3\udca9"})
    assert cli.main(["report", str(folder.path)]) == 0
    assert "<title>r??" in folder.report.read_text(encoding="utf-8")


def test_letters_have_ascii_forms():
    assert terminal.encodable("σ ≤ 3 · 10³, café — 中", "ascii") == "sigma <= 3 * 103, cafe - ?"
    assert terminal.encodable("± é 中 \udcff", "latin1") == "± é ? ?" and terminal.encodable("±", None) == "±"


def test_a_warning_is_one_line(capfd):
    def warn(_: list[str]) -> int:
        warnings.warn("no locks", SparsejaxWarning, stacklevel=1)
        warnings.warn("of another package", UserWarning, stacklevel=1)
        return 0

    with warnings.catch_warnings(action="always"):
        warnings.showwarning = lambda *place: sys.stderr.write(warnings.formatwarning(*place[:4]))
        assert status_of(warn, []) == 0
    said = capfd.readouterr().err
    assert said.startswith("warning: no locks\n") and "test_environment.py" in said.partition("\n")[2]


def test_a_closed_output_is_no_failure(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["--list"]) == 0
    terminal.say("nothing")


@pytest.mark.parametrize("backend", ["module://absent_notebook.backend_inline", "nonsense"])
def test_figures_need_no_backend(backend):
    program = """
from sparsejax.studies.study import Outcome
from sparsejax.figures import noise, style
assert style.png(noise.noise_curve([0, 0.5], [1, 0.5])).startswith(b"\\x89PNG")
import matplotlib.pyplot as plt
assert plt.get_backend().lower() == "agg"
"""
    subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment(MPLBACKEND=backend), check=True, timeout=300
    )


def test_backends_that_are_there_are_kept():
    assert all(map(_is_usable, ("agg", "Agg", "SVG", "TkAgg", "module://matplotlib.backends.backend_agg")))


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """Is a user without a home folder or an entry in the system's table of users; returns the temporary folder."""

    def unknown(*_):
        raise KeyError("no such user")

    for variable in ("HOME", "XDG_CACHE_HOME", "SPARSEJAX_DATA", "TFDS_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setenv("SPARSEJAX_OFFLINE", "1")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_a_home_folder_data_are_looked_for_in_a_temporary_one(homeless):
    for folder in (user_cache(), tfds_folder(), download_folder("mnist")):
        assert folder.is_relative_to(homeless) and f"sparsejax-{os.getuid()}" in folder.parts and not folder.exists()
    assert data.load("mnist", say=lambda line: None).name == "digits"
    assert list_data(["list"]) == 0 and not list(homeless.iterdir())


@pytest.mark.parametrize("value", ["~nosuchuser", "~nosuchuser/data", "~"])
def test_unknown_home_folders_are_named(homeless, monkeypatch, value):
    def refuse(what):
        return pytest.raises(
            DataMissingError, match=f"{what} is '{value}', but the home folder of that user is unknown"
        )

    monkeypatch.setenv("SPARSEJAX_DATA", value)
    with refuse("SPARSEJAX_DATA"):
        data_root()
    with refuse("data.path"):
        data.load(path=value)
    with refuse("TFDS's folder"):
        tfds_folder(value)
    monkeypatch.setenv("SPARSEJAX_DATA", "")
    assert data_root() is None


def test_a_platform_that_is_not_there_is_named(tmp_path):
    refused = launch("--config", "digits_mlp", "--out", tmp_path / "run", JAX_PLATFORMS="nonsense")
    assert refused.returncode == 2 and not Path(tmp_path / "run").exists()
    assert refused.stderr.startswith("error: JAX finds no devices: ") and "Traceback" not in refused.stderr
    assert "JAX_PLATFORMS is 'nonsense'; unset it, name an available platform" in refused.stderr
