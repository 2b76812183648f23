"""The outputs of a run: metrics that survive a kill, and events and a terminal whose failure does not end it."""

import errno
import io
import json
import os
import subprocess
import sys
import warnings

import pytest

from sparsejax.errors import RunFolderError, SparsejaxWarning
from sparsejax.terminal import lasting_output
from sparsejax.training import records
from sparsejax.training.events import Events
from sparsejax.training.log import MetricsLog, Terminal, read_metrics
from tests.command import ROOT, environment


def lines(*steps: int) -> str:
    return "".join(json.dumps({"step": step, "epoch": 0.5, "loss": [0.5]}) + "\n" for step in steps)


@pytest.mark.parametrize(
    ("text", "steps", "damaged"),
    [
        (lines(1, 2, 3), [1, 2, 3], None),
        (lines(1, 2) + '{"step": 3, "lo', [1, 2], None),  # a kill
        (lines(1) + '{"step": 2, "lo\n' + lines(3, 4), [1, 3, 4], "line 2;"),
        (lines(1) + "\0" * 40 + "\n[]\n" + lines(3), [1, 3], "lines 2, 3;"),
        ("".join("{\n" for _ in range(9)) + lines(7), [7], "lines 1, 2, 3, 4, 5 and 4 more;"),
    ],
    ids=["whole", "truncated by a kill", "one damaged", "two damaged", "many damaged"],
)
def test_lines_that_are_damaged_are_named_and_the_others_used(tmp_path, text, steps, damaged):
    (tmp_path / "metrics.jsonl").write_text(text)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == steps
    assert [str(warning.message) for warning in told] == (
        [f"{tmp_path}/metrics.jsonl is damaged in {damaged} the others are used."] if damaged else []
    )


def test_a_line_of_any_length_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_LONGEST", 100)
    long = ["x" * 99, "x" * 100, "x" * 350, lines(3).strip() + " " * 200]
    (tmp_path / "metrics.jsonl").write_text(lines(1) + "\n".join(long) + "\n" + lines(2) + "x" * 300)
    with pytest.warns(SparsejaxWarning, match="damaged in lines 2, 3, 4, 5; the others"):
        assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
    (tmp_path / "config.json").write_text("[" + " " * 100 + "]")
    with pytest.raises(ValueError, match="it has more than 100 bytes"):
        records.read_json(tmp_path / "config.json", list)


def test_the_history_is_there_at_every_moment_of_a_resume(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines(1, 2, 3, 4))

    def killed(*_):
        raise KeyboardInterrupt

    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, call, killed)
            MetricsLog(path, tmp_path / "tensorboard", resumed_step=2)
        assert path.read_text() == lines(1, 2, 3, 4)
    resumed = MetricsLog(path, tmp_path / "tensorboard", resumed_step=2)
    resumed.write(3, 0.5, {"loss": [0.25]})
    resumed.close()
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3]


def test_a_line_that_cannot_be_written_stops_the_run(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", resumed_step=0)
    assert log._file is not None
    os.dup2(os.open("/dev/full", os.O_WRONLY), log._file.fileno())
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl cannot be written: No space left on device\. Complete"):
        log.write(1, 0.5, {"loss": [1.0]})
    log.close()


def test_a_folder_that_is_moved_stops_the_run(tmp_path):
    log = MetricsLog(tmp_path / "run" / "metrics.jsonl", tmp_path / "run" / "tensorboard", resumed_step=0)
    log.sync()
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(RunFolderError, match="metrics.jsonl no longer exists: the run folder was moved"):
        log.sync()
    log.close()
    assert not (tmp_path / "run").exists()


def test_events_that_cannot_be_written_end_with_one_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.warns(SparsejaxWarning, match="cannot be written to .*file: File exists. The run continues"):
        events = Events(tmp_path / "file", resumed_step=0)
    with warnings.catch_warnings(action="error"):
        events.write(1, {"loss": [1.0]})
        events.sync()
        events.close()
    events = Events(tmp_path / "events", resumed_step=3)
    events.write(4, {"loss": [float("nan")], "epoch": 0.5})

    def fail(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.warns(SparsejaxWarning, match="Input/output error") as told:
        for step in (4, 5):
            events.sync()
            events.write(step, {"loss": 1.0})
    assert len(told) == 1


class Leaving(io.StringIO):
    """A stream whose reader leaves after the first line."""

    encoding = "ascii"

    def write(self, text: str) -> int:
        if self.getvalue():
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        return super().write(text)


def test_a_run_whose_reader_leaves_continues_with_one_warning(monkeypatch):
    stream = Leaving()
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.warns(SparsejaxWarning, match="ended .Broken pipe.; the run continues") as told, lasting_output():
        terminal = Terminal(10, 0)
        for _ in range(3):
            terminal.say("loss 0.1 ± 0.2 → 0")
        print("closing", flush=True)
    assert len(told) == 1 and stream.getvalue() == "loss 0.1 +/- 0.2 -> 0\n" and sys.stdout is stream


@pytest.mark.parametrize(
    ("redirection", "warns"),
    [("> /dev/full", 1), (">&-", 0), ("| head -1", 1), ("> /dev/full 2>&1", 0), (">&- 2>&-", 0)],
)
def test_a_command_continues_without_its_output(tmp_path, redirection, warns):
    work = (
        "from sparsejax.terminal import lasting_output, plain_output, complain\n"
        "import sys, time\n"
        "with plain_output(), lasting_output():\n"
        "    for i in range(20): print('a line', flush=True); time.sleep(0.01)\n"
        f"    print(open('{tmp_path}/ended', 'w').fileno() > 2, file=open('{tmp_path}/said', 'w'))\n"
        "complain('error: none')"
    )
    (tmp_path / "work.py").write_text(work)
    command = f"set -o pipefail; '{sys.executable}' '{tmp_path}/work.py' {redirection}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment(), cwd=ROOT)
    assert ended.returncode == 0 and (tmp_path / "said").read_text() == "True\n"
    assert ended.stderr.count("warning: The output ended") == warns and "Traceback" not in ended.stderr
