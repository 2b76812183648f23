"""Checkpoints are restored by the names of their arrays."""

import errno
import os
import shutil
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from sparsejax.errors import CheckpointError, ConfigError
from sparsejax.training import checkpoints
from sparsejax.training.checkpoints import find_steps, open_checkpoints, restore
from sparsejax.training.named import by_name, difference, fill


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            {"encoder": 2, "aux": 3},
            r"has \['decoder'\], which the network lacks; it lacks \['aux'\], which",
        ),
        ({"encoder": 2}, r"it has \['decoder'\], which the network lacks\. Use"),
        ({"encoder": 2, "decoder": 3, "more": 3}, r"it lacks \['more'\], which the network has\. Use"),
        ({"encoder": 2, "decoder": 4}, r"\['decoder'\] is float32 \[3\] where float32 \[4\] is expected"),
    ],
)
def test_a_checkpoint_is_restored_by_name(tmp_path, other, said):
    def arrays(**sizes):
        return {name: np.full(size, size, np.float32) for name, size in sizes.items()}

    with open_checkpoints(tmp_path / "c", keep=1) as saved:
        saved.save(1, arrays(encoder=2, decoder=3), score=0.0)
    with open_checkpoints(tmp_path / "c", keep=1) as saved:
        with pytest.raises(CheckpointError, match=said):
            saved.restore(arrays(**other))
        with pytest.raises(CheckpointError, match=r"decoder'\] is float32 \[3\] where float16 \[3\] is expected"):
            saved.restore(arrays(encoder=2) | {"decoder": np.zeros(3, np.float16)})


def test_the_state_of_another_optimizer_is_refused(tmp_path):
    params = {"w": jnp.ones(3), "v": jnp.ones(3)}
    sgd, adam = (init(params) for init in (optax.trace(0.9).init, optax.scale_by_rms().init))
    assert [leaf.shape for leaf in jax.tree.leaves(sgd)] == [leaf.shape for leaf in jax.tree.leaves(adam)]
    with open_checkpoints(tmp_path / "c", keep=1) as saved:
        saved.save(1, sgd, score=0.0)
    with (
        open_checkpoints(tmp_path / "c", keep=1) as saved,
        pytest.raises(CheckpointError, match=r"has \.trace\['v'\], \.trace\['w'\].* lacks \.nu\['v'\], \.nu"),
    ):
        saved.restore(adam)


def test_keys_are_filled_and_compared_as_their_data():
    tree = {"key": jax.random.key(3), "w": jnp.ones(2)}
    arrays = by_name(tree)
    assert difference(arrays, jax.eval_shape(lambda: tree)) == "" and arrays["['key']"].dtype == jnp.uint32
    np.testing.assert_array_equal(jax.random.key_data(fill(tree, arrays)["key"]), arrays["['key']"])


def test_two_arrays_of_one_name_are_refused():
    tree = {"a.b": np.zeros(1), "a": {"b": np.ones(1)}}
    assert len(by_name(tree)) == 2
    with pytest.raises(ConfigError, match="Two arrays of the network have the name a.b"):
        by_name(tree, lambda path: jax.tree_util.keystr(path, simple=True, separator="."))


def arrays_of(step: int) -> dict[str, np.ndarray]:
    whole = np.full((100, 100), step, np.float32)
    return {"w": whole, "half": np.full(3, step, jnp.bfloat16), "none": np.zeros((0, 2), np.int32)}


def test_the_two_newest_and_the_best_stay_also_across_restarts(tmp_path):
    for start in range(0, 30, 3):
        with open_checkpoints(tmp_path / "c", keep=2) as saved:
            for step in range(start + 1, start + 4):  # as if stopped within an epoch after each third
                saved.save(step, arrays_of(step), score=-float("inf") if step % 3 == 0 else 1 / abs(step - 7.1))
        best = min((s for s in range(1, start + 4) if s % 3), key=lambda step: abs(step - 7.1))
        assert saved.steps() == sorted({best, start + 2, start + 3})
        assert len(list((tmp_path / "c").iterdir())) <= 3


@pytest.mark.parametrize("saves", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_checkpoints_are_read_while_a_run_replaces_them(tmp_path, saves):
    ended, said = threading.Event(), []

    def read():
        while not ended.is_set():
            try:
                restored = restore(tmp_path / "c", arrays_of(0))
            except CheckpointError as error:
                said.append(str(error))
                return
            if restored is not None:
                said.append((restored.tree["w"] == restored.step).all())

    reader = threading.Thread(target=read)
    reader.start()
    with open_checkpoints(tmp_path / "c", keep=1) as saved:
        for step in range(1, saves):
            saved.save(step, arrays_of(step), score=0.0)
    ended.set()
    reader.join()
    assert len(said) > saves / 10 and all(entry is np.True_ for entry in said), said


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, os.strerror(errno.EIO)), ValueError("pread: Input/output error [")]
)
def test_what_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch, error):
    with open_checkpoints(tmp_path / "c", keep=1) as saved:
        saved.save(3, arrays_of(3), score=0.0)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(ocp.Checkpointer, "restore", fail)
    with pytest.raises(CheckpointError, match="step 3 .* cannot be read: Input/output error. Repeat"):
        restore(tmp_path / "c", arrays_of(0))


def test_checkpoints_that_are_always_replaced_meanwhile(tmp_path, monkeypatch):
    with open_checkpoints(tmp_path / "c", keep=1) as saved:
        saved.save(3, arrays_of(3), score=0.0)

    def replace(path):
        path.rename(path.with_name(str(int(path.name) + 1)))
        raise ValueError("manifest.ocdbt is missing")

    monkeypatch.setattr(checkpoints, "read_folder", replace)
    with pytest.raises(CheckpointError, match="replaced its checkpoints faster than they could be read"):
        restore(tmp_path / "c", arrays_of(0))


def test_every_flipped_bit_is_noticed_or_harmless(tmp_path):
    with open_checkpoints(tmp_path / "c", keep=1) as saved:
        saved.save(3, {"w": np.arange(50, dtype=np.float32), "k": jax.random.key(3)}, score=0.5)
    files, refused = sorted(path for path in (tmp_path / "c" / "3").rglob("*") if path.is_file()), 0
    contents = {path: path.read_bytes() for path in files}
    like = {"w": np.zeros(50, np.float32), "k": jax.random.key(0)}
    places = [(path, bit) for path in files for bit in range(8 * len(contents[path]))]
    for place in np.random.default_rng(0).choice(len(places), 30, replace=False):
        path, bit = places[place]
        damaged = bytearray(contents[path])
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        try:
            tree = restore(tmp_path / "c", like).tree
        except CheckpointError as error:
            assert "is damaged" in str(error) or "another network" in str(error)
            refused += 1
        else:
            np.testing.assert_array_equal(tree["w"], np.arange(50))
            assert (jax.random.key_data(tree["k"]) == jax.random.key_data(jax.random.key(3))).all()
        path.write_bytes(contents[path])
    assert refused > 2


def test_a_checkpoint_is_on_disk_before_another_is_removed(tmp_path, monkeypatch):
    """After a loss of power, a checkpoint has its name and its contents, or the older one is still there."""
    done: list[tuple[str, Path]] = []

    def recorded(name, call):
        def called(target, *rest, **options):
            path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)
            done.append((name, Path(path)))
            return call(target, *rest, **options)

        return called

    folder = tmp_path / "c"
    with open_checkpoints(folder, keep=1) as saved:
        saved.save(1, arrays_of(1), score=0.0)
        saved.wait()
        for name in ("fsync", "rename"):
            monkeypatch.setattr(os, name, recorded(name, getattr(os, name)))
        saved.save(2, arrays_of(2), score=1.0)
    temporary = folder / f".2.{os.getpid()}"
    complete = done.index(("rename", temporary))
    assert done[complete + 1 :] == [("fsync", folder), ("rename", folder / "1")]
    written = {temporary / path.relative_to(folder / "2") for path in (folder / "2").rglob("*")} | {temporary}
    assert written <= {path for name, path in done[:complete] if name == "fsync"}


@pytest.mark.parametrize("damage", [None, "flipped", "gone"])
def test_checkpoints_of_earlier_versions_are_read_and_replaced(tmp_path, damage):
    tree = {"w": np.arange(2000, dtype=np.float32), "half": np.ones(3, jnp.bfloat16), "n": np.int32(4)}
    with open_checkpoints(tmp_path / "c", keep=9) as saved:
        for step in (1, 2):
            saved.save(step, tree, score=0.0)
    for path in find_steps(tmp_path / "c").values():
        shutil.rmtree(path / "details")
    with open_checkpoints(tmp_path / "c", keep=2) as saved:
        assert saved.steps() == [1, 2]
        if damage:
            for file in (tmp_path / "c" / "2" / "tree" / "ocdbt.process_0" / "d").iterdir():
                file.unlink() if damage == "gone" else file.write_bytes(bytes(b ^ 255 for b in file.read_bytes()))
            with pytest.raises(CheckpointError, match=r"step 2 .* is damaged: .*--resume-step 1 resumes"):
                saved.restore(tree)
        restored = saved.restore(tree, 1 if damage else None)
        for name, leaf in restored.tree.items():
            np.testing.assert_array_equal(leaf, tree[name])
        assert saved.steps() == ([1] if damage else [1, 2])
        for step in (3, 4):
            saved.save(step, tree, score=0.0)
    assert [path.name for path in sorted((tmp_path / "c").iterdir())] == ["3", "4"]


def test_what_others_have_put_next_to_checkpoints_stays(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    with open_checkpoints(tmp_path / "c", keep=2) as saved:
        saved.save(1, arrays_of(1), score=0.0)
    (tmp_path / "c" / "1").rename(elsewhere)
    (tmp_path / "c" / "1").symlink_to(elsewhere)
    others = (".git/objects", ".snapshot", "7", "20300101", ".5.x", "5.orbax")
    for name in others:
        (tmp_path / "c" / name).mkdir(parents=True)
        (tmp_path / "c" / name / "notes.txt").write_text("mine")
    (tmp_path / "c" / "99").write_text("mine")
    (tmp_path / "c" / "98").symlink_to("98")
    for name in (".removed/tree", ".3.77/tree", "3.orbax-checkpoint-tmp/tree", ".3.77.orbax-checkpoint-tmp"):
        (tmp_path / "c" / name).mkdir(parents=True)
    with open_checkpoints(tmp_path / "c", keep=2) as saved:
        assert saved.steps() == [1] and restore(tmp_path / "c", arrays_of(0)).step == 1
        for step in (2, 3, 4):
            (tmp_path / "c" / ".removed").write_text("of a program that was killed")
            saved.save(step, arrays_of(step), score=float(step))
    assert {path.name for path in (tmp_path / "c").iterdir()} == (
        {"3", "4", "98", "99"} | {name.partition("/")[0] for name in others}
    )
    assert all((tmp_path / "c" / name / "notes.txt").exists() for name in others) and (elsewhere / "tree").exists()


DETAILS = {
    "many digits": ('{"score": ' + "9" * 401 + ', "empty": {}}', "of more than 64 bits"),
    "deep": ("[" * 100_000, "nested more than 32 levels"),
    "a large array": ('{"score": 1.0, "empty": {"0001x": [[300000000000], "float32"]}}', "checksum of 0001"),
    "another form": ('{"score": "1", "empty": []}', "expected an integer or a number or null"),
}


@pytest.mark.parametrize("name", DETAILS)
def test_details_of_another_program_are_damage(tmp_path, name):
    text, said = DETAILS[name]
    with open_checkpoints(tmp_path / "c", keep=2) as saved:
        saved.save(1, arrays_of(1), score=1.0)
    (tmp_path / "c" / "1" / "details" / "metadata").write_text(text)
    with pytest.raises(CheckpointError, match=f"step 1 .* is damaged: .*{said}"):
        restore(tmp_path / "c", arrays_of(0))
    with open_checkpoints(tmp_path / "c", keep=2) as saved:
        saved.save(2, arrays_of(2), score=-5.0)
    assert len(find_steps(tmp_path / "c")) == 2


@pytest.mark.parametrize("name", ["tree/_METADATA", "checksums/metadata", "details/metadata"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    with open_checkpoints(tmp_path / "c", keep=2) as saved:
        saved.save(1, arrays_of(1), score=1.0)
    (tmp_path / "c" / "1" / name).unlink()
    os.mkfifo(tmp_path / "c" / "1" / name)
    with pytest.raises(CheckpointError, match="is damaged: metadata is not|is damaged: _METADATA is not"):
        restore(tmp_path / "c", arrays_of(0))
    with open_checkpoints(tmp_path / "c", keep=2) as saved:
        saved.save(2, arrays_of(2), score=-5.0)


def test_several_runs_of_one_process_write_at_once(tmp_path):
    said: list[object] = []

    def run(name: str):
        try:
            with open_checkpoints(tmp_path / name, keep=1) as saved:
                for step in range(1, 4):
                    saved.save(step, arrays_of(step), score=0.0)
                    saved.wait()
                    said.append(restore(tmp_path / name, arrays_of(0)).step)
        except Exception as error:
            said.append(error)

    threads = [threading.Thread(target=run, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, said)) == sorted("123" * 3)


def test_what_a_killed_process_left_is_removed_at_the_end(tmp_path):
    with open_checkpoints(tmp_path / "c", keep=9) as saved:
        for step in range(1, 6):
            saved.save(step, arrays_of(step), score=-abs(step - 2.0))
    with open_checkpoints(tmp_path / "c", keep=2) as saved:
        assert saved.restore(arrays_of(0), 5).step == 5
    assert [*find_steps(tmp_path / "c")] == [2, 4, 5]
