"""Damages files and command lines at random: only user errors may be raised.

`python -m tests.fuzz --cases 10000` is the campaign of docs/reliability.md; the suite has a short one.
"""

import argparse
import contextlib
import gzip
import io
import json
import pickle
import random
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.io import savemat

from sparsejax import configs, errors, experiment
from sparsejax.commands import train as launch
from sparsejax.data.arrays import read_arrays
from sparsejax.data.cifar import read_cifar_batch
from sparsejax.data.dataset import Split
from sparsejax.data.idx import read_idx
from sparsejax.data.latents import latents_bytes, read_latents
from sparsejax.data.natural_images import read_images_mat
from sparsejax.data.wav import read_clip
from sparsejax.training.log import read_metrics
from sparsejax.training.restore import read_record
from sparsejax.training.run_folder import RunFolder, describe

MEANT = (errors.ConfigError, errors.DataMissingError, errors.DataDamagedError, errors.RunFolderError,
         errors.CheckpointError)  # fmt: skip


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Returns the bytes with one to four changes: bits flipped, parts cut out, doubled, put in, or the end cut off."""
    data = bytearray(content)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 2, 4, 64, 4096)))
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at:end]
        elif kind == 2:
            data[at:at] = data[at:end]
        elif kind == 3:
            data[at:at] = rng.randbytes(end - at)
        elif kind == 4:
            data[at:end] = rng.choice((b"\0", b"\xff")) * (end - at)
        else:
            del data[at:]
    return bytes(data)


def _saved(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def _files() -> dict[str, tuple[str, bytes, Callable[[Path], object]]]:
    """Returns kind -> a file's name, its intact content, and its reader."""
    images = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28, 1)
    idx = struct.pack(">HBBIII", 0, 8, 3, 2, 28, 28) + images.tobytes()
    samples = np.arange(400, dtype="<i2").tobytes()
    form = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
    wav = (b"RIFF" + struct.pack("<I", 36 + len(samples)) + b"WAVEfmt " + struct.pack("<I", 16) + form
           + b"data" + struct.pack("<I", len(samples)) + samples)  # fmt: skip
    batch = {"data": np.zeros((2, 3072), np.uint8), "labels": [1, 2], "batch_label": "x", "filenames": ["a", "b"]}
    vectors = Split(np.ones((3, 4), np.float32), np.array([0, 1, 1], np.int32))
    latents = latents_bytes(vectors, vectors, {"data": {"name": "cifar10"}, "classes": 2})
    config = configs.get("digits_mlp")
    description = describe(
        config, name="x", seeds=[42], points=[{}], data={"name": "digits", "source": "digits", "fingerprint": "0"}
    )
    mat = _saved(lambda buffer: savemat(buffer, {"IMAGES": np.random.default_rng(0).normal(size=(8, 8, 2))}))
    lines = "".join(json.dumps({"step": i, "epoch": i, "loss": [0.1]}) + "\n" for i in range(9)).encode()

    def folder_of_arrays(path: Path) -> object:
        for part in ("train", "test"):
            for name, array in (("images", images), ("labels", np.array([0, 1]))):
                other = path.parent / f"{part}_{name}.npy"
                if other != path:
                    np.save(other, array)
        return read_arrays(path.parent)

    return {
        "idx": ("x-idx3-ubyte", idx, read_idx),
        "idx.gz": ("x-idx3-ubyte.gz", gzip.compress(idx), read_idx),
        "wav": ("clip.wav", wav, lambda path: read_clip(path, rate=16000, convert=True)),
        "mat": ("IMAGES.mat", mat, read_images_mat),
        "cifar": ("data_batch_1", pickle.dumps(batch, 3), read_cifar_batch),
        "latents": ("latents.npz", latents, read_latents),
        "npy": ("train_images.npy", _saved(lambda buffer: np.save(buffer, images)), folder_of_arrays),
        "config.json": ("config.json", json.dumps(description, default=str).encode(),
                        lambda path: read_record(RunFolder(path.parent))),
        "metrics.jsonl": ("metrics.jsonl", lines, read_metrics),
    }  # fmt: skip


def fuzz_files(cases: int, where: Path, rng: random.Random) -> dict[str, int]:
    """Reads `cases` damaged files of every kind; returns how many of each were refused.

    Raises:
      AssertionError: an intact file is refused, or a damaged one raises something other than a user error.
    """
    refused = {}
    for kind, (name, content, read) in _files().items():
        path = where / kind.replace(".", "_") / name
        path.parent.mkdir()
        path.write_bytes(content)
        read(path)
        refused[kind] = 0
        for case in range(cases):
            bad = damaged(content, rng)
            path.unlink()  # what was read before may still be mapped
            path.write_bytes(bad)
            try:
                read(path)
            except MEANT as error:
                refused[kind] += 1
                assert len(str(error)) > 40 and "\n" not in str(error), f"{kind}, case {case}: {error}"
            except Exception as error:
                kept = Path(tempfile.gettempdir()) / f"{kind}_{case}"
                kept.write_bytes(bad)
                raise AssertionError(f"{kind}, case {case}, kept as {kept}: {type(error).__name__}: {error}") from error
    return refused


_WORDS = [
    "--config", "digits_mlp", "mnist_kwinners", "--out", "--seeds", "--sweep", "--fresh", "--list", "--help", "-h",
    "--resume-step", "--training.epochs", "--training.learning-rate",
    "--model.hidden", "--model.k", "--model.density", "--data.name", "--data.streaming", "--devices.data", "--",
    "training.seed=1:9:2", "model.density=0.1,0.3", "model.density=", "=", "a=b=c", "training.epochs=1,2", "::", "nan",
    "inf", "-1", "0", "3", "1e400", "0.5", "None", "True", "(", "()", "(1, 2)", "8 8", "💥", "\x00", "", " ",
    "a" * 3000, "--training.epochs=2", "--model.hidden.0", "--training.seed", "99999999999999999999",
    "--objective.l1", "--evaluation.measures", "accuracy",
]  # fmt: skip


def fuzz_commands(cases: int, where: Path, rng: random.Random) -> dict[int, int]:
    """Runs `launch` with `cases` random command lines, without training; returns the count of each status.

    Raises:
      AssertionError: there is a traceback, or a file was written.
    """
    statuses: dict[int, int] = {}
    train = experiment.run

    def checked(trained, folder, **options):  # everything before compilation, then stop
        from sparsejax.training.checks import check_data, load_data

        check_data(trained.config, load_data(trained.config), len(trained.configs))
        raise errors.RunFolderError("All checks passed; a real run would start here and write its folder.")

    experiment.run = checked
    try:
        for case in range(cases):
            words = [rng.choice(_WORDS) for _ in range(rng.randrange(1, 8))]
            words = ["--config", "digits_mlp", "--data.name", "digits", *words] if rng.random() < 0.7 else words
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                try:
                    status = launch.main(words)
                except BaseException as error:
                    raise AssertionError(f"case {case}: {words}: {type(error).__name__}: {error}") from error
            assert status in (0, 1, 2), (words, status)
            assert "Traceback" not in said.getvalue(), (words, said.getvalue())
            statuses[status] = statuses.get(status, 0) + 1
            assert not any(where.iterdir()), (words, list(where.iterdir()))
    finally:
        experiment.run = train
    return statuses


def main() -> int:
    """Runs the campaign: nine tenths of the cases on files, the rest on command lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30,) * 2)  # limits excessive allocations
    rng, began = random.Random(options.seed), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        where = Path(folder)
        statuses = fuzz_commands(options.cases // 10, where, rng)
        kinds = len(_files())
        refused = fuzz_files(-(-options.cases * 9 // 10 // kinds), where, rng)
    print(f"{options.cases} cases in {time.perf_counter() - began:.0f} s; of each kind refused: {refused}; statuses of "
          f"commands: {statuses}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
