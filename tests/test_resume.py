"""A run that is stopped anywhere and started again ends as if it had never stopped."""

import random
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from sparsejax.commands.train import main
from sparsejax.training import checkpoints
from tests.command import launch
from tests.kill_campaign import RUN, assert_same_run, killed


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments_it_ends_bit_equal(uninterrupted, tmp_path, seed):
    rng, folder = random.Random(seed), tmp_path / "run"
    assert sum(killed(folder, rng, lines=120) for _ in range(3)) >= 1
    final = launch(*RUN, "--training.checkpoint-every", 10, "--out", folder)
    assert final.returncode == 0, final.stderr
    assert "going on from the checkpoint of step" in final.stdout
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
def test_stopped_within_an_epoch_it_goes_on_from_there(uninterrupted, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    saves = []
    save = checkpoints.Checkpoints.save

    def save_and_stop(self, step, tree, *, score):
        save(self, step, tree, score=score)
        saves.append(step)
        if len(saves) == 33:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.Checkpoints, "save", save_and_stop)
    # Tests have eight devices; the run to compare with had one, and other sums round otherwise.
    arguments = [*RUN, "--devices.transform", "jit", "--training.checkpoint-every", "5", "--out", str(folder)]
    assert main(arguments) == 130
    assert saves[-1] % 25 != 0, "the checkpoint should lie within an epoch"
    monkeypatch.undo()
    assert main(arguments) == 0
    assert_same_run(folder, uninterrupted)


def damaged_copy(folder: Path, target: Path) -> tuple[Path, list[int]]:
    """Flips one bit in the largest array file of the latest checkpoint of a copy."""
    import shutil

    shutil.copytree(folder, target)
    steps = sorted(int(path.name) for path in (target / "checkpoints").iterdir() if path.name.isdigit())
    files = [path for path in (target / "checkpoints" / str(steps[-1]) / "tree").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    return target, steps


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused_by_name_until_another_is_asked_for(uninterrupted, tmp_path):
    folder, steps = damaged_copy(uninterrupted, tmp_path / "run")
    refused = launch(*RUN, "--out", folder)
    assert refused.returncode == 1
    assert f"checkpoint of step {steps[-1]}" in refused.stderr
    assert "is damaged" in refused.stderr
    assert f"--resume-step {steps[-2]}" in refused.stderr
    assert "Traceback" not in refused.stderr
    resumed = launch(*RUN, "--out", folder, "--resume-step", steps[-2])
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(folder, uninterrupted)


def test_checkpoints_keep_keys_and_types_and_refuse_other_networks(tmp_path):
    tree = {"key": jax.random.key(3), "w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.int32(4)}
    with checkpoints.opened(tmp_path / "c", keep=2) as saved:
        assert saved.restore(tree) is None
        for step in (1, 2, 3, 4):
            saved.save(step, tree | {"n": np.int32(step)}, score=1.0 if step == 1 else 0.5)
    with checkpoints.opened(tmp_path / "c", keep=2) as saved:
        assert saved.steps() == [1, 3, 4], "the two latest and the best"
        restored = saved.restore(tree)
        assert restored.step == 4
        assert restored.tree["n"] == 4
        np.testing.assert_array_equal(restored.tree["w"], tree["w"])
        assert jax.random.key_data(restored.tree["key"]).tolist() == jax.random.key_data(tree["key"]).tolist()
        with pytest.raises(checkpoints.CheckpointError, match="of another network"):
            saved.restore(tree | {"w": np.zeros((3, 2), np.float32)})
        with pytest.raises(checkpoints.CheckpointError, match=r"no checkpoint of step 2 .* there are \[1, 3, 4\]"):
            saved.restore(tree, 2)
        assert saved.restore(tree, 3).tree["n"] == 3
        assert saved.steps() == [1, 3]


def test_reads_that_end_after_a_failed_one_print_nothing(tmp_path, capfd):
    tree = {f"w{i}": np.random.default_rng(i).standard_normal((100, 100)).astype(np.float32) for i in range(20)}
    hook = sys.unraisablehook
    with checkpoints.opened(tmp_path / "c", keep=2) as saved:
        saved.save(1, tree, score=1.0)
    with checkpoints.opened(tmp_path / "c", keep=2) as saved:
        assert saved.restore(tree).step == 1
    assert sys.unraisablehook is hook
    for path in (tmp_path / "c/1/tree/ocdbt.process_0/d").iterdir():
        path.write_bytes(bytes(byte ^ 255 for byte in path.read_bytes()))
    with checkpoints.opened(tmp_path / "c", keep=2) as saved, pytest.raises(checkpoints.CheckpointError):
        saved.restore(tree)
    assert "Traceback" not in capfd.readouterr().err
