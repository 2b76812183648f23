"""Streamed data: the files, the same run as with resident data, an exact position, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from sparsejax import configs, data
from sparsejax.commands.train import main
from sparsejax.data.dataset import Split
from sparsejax.data.streaming import read_chunks
from sparsejax.errors import DataDamagedError, DataMissingError
from tests.command import ONE, ROOT, environment, without_figures
from tests.test_processes import assert_close, finished, several

pytest.importorskip("grain")
FEW = ["--config", "digits_mlp", "--training.epochs", "3", "--training.batch-size", "40",
       "--training.first-epoch-batch-size", "None", "--data.name", "arrays", "--model.dropout", "0.2",
       "--evaluation.measures", "accuracy", "activity", "weights", "macs"]  # fmt: skip


def written(where: Path) -> Path:
    """Writes digits as arrays."""
    digits = data.load("digits").limit(400, 60)
    where.mkdir(parents=True)
    for part in ("train", "test"):
        for name, array in getattr(digits, part)._asdict().items():
            np.save(where / f"{part}_{name}.npy", array)
    return where


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Returns a folder of digits as arrays, which nobody may change."""
    return written(tmp_path_factory.mktemp("data") / "arrays")


@pytest.fixture
def folder(arrays, monkeypatch):
    """Makes $SPARSEJAX_DATA point to the digits."""
    monkeypatch.setenv("SPARSEJAX_DATA", str(arrays.parent))
    return arrays


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """Returns a function that gives the folder of a run with these words, which is run once."""
    runs = {}

    def run(*words: str) -> Path:
        if words not in runs:
            where = tmp_path_factory.mktemp("run")
            run_to(where, *words)
            runs[words] = where
        return runs[words]

    return run


def run_to(where: Path, *words: str, status: int = 0) -> None:
    with without_figures():
        assert main([*FEW, *words, "--out", str(where)]) == status


def members(where: Path) -> list:
    return json.loads((where / "result.json").read_text())["members"]


def test_user_arrays_are_memory_mapped(folder):
    dataset = data.load("arrays")
    assert isinstance(dataset.train.images, np.memmap) and dataset.classes == 10
    digits = data.load("digits").limit(400, 60)
    assert dataset.fingerprint == digits.fingerprint
    np.testing.assert_array_equal(dataset.test.images, digits.test.images)


def test_chunks_follow_the_order_and_take_their_columns():
    images = np.arange(40 * 3).reshape(40, 3).astype(np.float32)
    order = np.random.default_rng(0).permutation(40).reshape(10, 4)
    chunks = list(read_chunks(Split(images, np.arange(40, dtype=np.int32)), order, length=2, columns=slice(1, 3)))
    assert len(chunks) == 5
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in chunks]), order[:, 1:3])
    np.testing.assert_array_equal(np.concatenate([x for x, _ in chunks]), images[order[:, 1:3]])


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize(
    "words",
    [ONE, ["--devices.data", "4"], ["--devices.transform", "pmap", "--devices.data", "2"],
     ["--training.order-seed", "3", "--seeds", "2", *ONE, "--data.balanced"]],
    ids=["one device", "four devices", "pmap", "two networks of one order"],
)  # fmt: skip
def test_streamed_data_give_the_numbers_of_resident_data(folder, finished_run, words):
    streamed, resident = finished_run(*words, "--data.streaming"), finished_run(*words)
    assert members(streamed) == members(resident)
    assert json.loads((streamed / "result.json").read_text())["test_accuracy"] > 0.5
    lines = [[{k: v for k, v in json.loads(line).items() if k != "time"} for line in (where / "metrics.jsonl").open()]
             for where in (streamed, resident)]  # fmt: skip
    assert lines[0] == lines[1]


@pytest.mark.slow
@pytest.mark.optimized
def test_a_stream_stopped_within_an_epoch_resumes_at_its_position(folder, finished_run, tmp_path, monkeypatch):
    from sparsejax.training import checkpoints

    words = [*ONE, "--data.streaming", "--training.checkpoint-every", "2"]
    whole = finished_run(*ONE, "--data.streaming")
    save, saves = checkpoints.Checkpoints.save, []

    def save_and_stop(self, step, tree, *, score):
        save(self, step, tree, score=score)
        saves.append(step)
        if step == 14:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "save", save_and_stop)
        run_to(tmp_path / "parts", *words, status=130)
    assert saves[-1] == 14, "within the second epoch of 10 steps"
    run_to(tmp_path / "parts", *words)
    assert members(tmp_path / "parts") == members(whole)


@pytest.mark.slow
@pytest.mark.optimized
def test_every_process_reads_its_own_rows(folder, finished_run, tmp_path, monkeypatch):
    settings = environment(SPARSEJAX_DATA=str(folder.parent))
    monkeypatch.setattr("tests.test_processes.environment", lambda: settings)
    assert str(ROOT) in settings["PYTHONPATH"]
    finished(several(2, 2, *FEW, "--data.streaming", "--out", tmp_path / "two"))
    assert_close(tmp_path / "two", finished_run(*ONE))


def test_what_cannot_be_streamed_is_refused(tmp_path, monkeypatch, capsys):
    folder = written(tmp_path / "data" / "arrays")
    monkeypatch.setenv("SPARSEJAX_DATA", str(folder.parent))
    assert main([*FEW, "--data.streaming", "--seeds", "2", "--out", str(tmp_path / "run")]) == 2
    assert "set one order with --training.order-seed 0" in capsys.readouterr().err
    np.save(folder / "train_labels.npy", np.zeros((400, 1)))
    with pytest.raises(DataDamagedError, match=r"train_labels.npy holds float64 \[400, 1\]; expected"):
        data.load("arrays")
    np.save(folder / "train_labels.npy", np.zeros(30, int))
    with pytest.raises(DataDamagedError, match=r"there are 400 images and 30 labels"):
        data.load("arrays")
    (folder / "test_images.npy").write_bytes(b"no array")
    with pytest.raises(DataDamagedError, match=r"test_images.npy is not a readable array"):
        data.load("arrays")
    (folder / "test_images.npy").unlink()
    with pytest.raises(DataMissingError, match=r"test_images.npy is missing; expected"):
        data.load("arrays")
    assert not configs.get("digits_mlp").data.streaming
