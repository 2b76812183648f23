"""The cases of `fuzz_structured`: what reads each kind of hostile files, and the hostile commands."""

import contextlib
import dataclasses
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from sparsejax import configs, data, errors, experiment
from sparsejax.api import load
from sparsejax.commands import cli, embed, reproduce
from sparsejax.commands import train as launch
from sparsejax.data import __main__ as data_command
from sparsejax.data.arrays import read_path
from sparsejax.data.cifar import read_cifar_batch
from sparsejax.data.idx import read_idx
from sparsejax.data.latents import read_latents
from sparsejax.data.natural_images import read_images_mat
from sparsejax.data.speech import read_speech
from sparsejax.data.text import read_text
from sparsejax.data.tfds_source import is_prepared, read_tfds
from sparsejax.data.wav import read_clip
from sparsejax.training.log import MetricsLog
from sparsejax.training.run_folder import RunFolder
from tests import grammar
from tests.grammar import Source


class Kind(NamedTuple):
    """A kind of cases: how many of 10,000 are of it, what one does in an empty folder, given a run folder, and its
    seconds at most.
    """

    share: int
    work: Callable[[Source, Path, Path], Any]
    seconds: float = 10


def file_kind(share: int, name: str, make: Callable[[Source], bytes], read: Callable[[Path], Any]) -> Kind:
    """Returns the kind of cases that write one file and read it."""

    def work(rng: Source, folder: Path, _: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make(rng))
        read(path)

    return Kind(share, work)


def _images(rng: Source, folder: Path, _: Path) -> None:
    for name in ("a/x.png", "a/y.png", "b/z.png")[: rng.choice((1, 2, 3, 3))]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(grammar.image(rng))
    read_path(folder, 0.5)


def _arrays(rng: Source, folder: Path, _: Path) -> None:
    good = grammar.arrays(rng)
    for name in good:
        if rng.random() < 0.95:
            (folder / f"{name}.npy").write_bytes(grammar.npy(rng, good[name]))
    read_path(folder, rng.choice((None, None, 0.5)))


def _speech(rng: Source, folder: Path, _: Path) -> None:
    for word in ("yes", "no", rng.part("up", "_x", "zero", "é" * 60)):
        (folder / word).mkdir()
        for i in range(rng.part(30, 0, 1)):
            clip = rng.part(GOOD_WAV, grammar.wav(rng))
            (folder / word / f"{i:x}_nohash_0.wav").write_bytes(clip)
    for name in ("testing_list.txt", "validation_list.txt"):
        lists = (b"yes/0_nohash_0.wav\n", b"", b"\xff\xfe", b"x/y\n" * 50_000, b"../../etc/passwd", bytes(99))
        if content := rng.part(b"", *lists):
            (folder / name).write_bytes(content)
    words, silence = rng.part(None, ("yes", "no"), ("a/b",), ()), rng.part(0.1, 0, -1, 1e9, float("nan"))
    read_speech(folder, convert=rng.part(True, False), words=words, silence=silence)


def _text(rng: Source, folder: Path, _: Path) -> None:
    for part in ("train", "valid", "test"):
        content = rng.part(
            b"the cat sat .\n" * 99, b"\xff\xfe", b"", b" \n\n", b"\0" * 99, "é💥\n".encode() * 99, b"a" * 10**6,
            bytes(range(256)), b"a b " * 10**5, rng.randbytes(999),
        )  # fmt: skip
        (folder / f"{part}.txt").write_bytes(content)
    unit = rng.part("words", "characters", "x")
    text = read_text(folder, name="it", unit=unit, vocabulary=rng.part(None, 2, 10, 2**31, 1, -1))
    data.text.windows(text, rng.part(3, 2, 128, 2**31 - 1, 0, -5))


def _tfds(rng: Source, folder: Path, _: Path) -> None:
    version = folder / "mnist" / rng.choice(("3.0.1", "²", "1" * 200))
    version.mkdir(parents=True)
    info = {"fileFormat": "array_record", "name": "mnist", "version": "3.0.1", "moduleName": "x", "splits": [
        {"name": word, "shardLengths": ["2"], "numBytes": "9", "filepathTemplate": "{DATASET}-{SPLIT}"}
        for word in ("train", "test")]}  # fmt: skip
    (version / "dataset_info.json").write_bytes(grammar.mutate_json(info, rng))
    features = {"pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict", "featuresDict": {
        "features": {"image": {"pythonClassName": "tensorflow_datasets.core.features.image_feature.Image", "image": {
            "shape": {"dimensions": ["28", "28", "1"]}, "dtype": "uint8", "encodingFormat": "png"}}}}}  # fmt: skip
    (version / "features.json").write_bytes(grammar.mutate_json(features, rng))
    for word in ("train", "test"):
        (version / f"mnist-{word}").write_bytes(rng.payload(300))
    (is_prepared if rng.random() < 0.8 else read_tfds)("mnist", folder)


def _weights(path: Path) -> None:
    import jax

    from sparsejax.interop import load_weights
    from sparsejax.models.base import Variables

    load_weights(path, Variables({"a": jax.ShapeDtypeStruct((2, 3), "float32")}, {}))


def _changed_run(rng: Source, folder: Path, run: Path) -> Path:
    """Copies a run without its figures, with one or more of its files changed."""
    copy = folder / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("figures", "tensorboard", "checkpoints", "report.html"))
    (copy / "checkpoints").symlink_to(run / "checkpoints")
    for name in rng.sample(("config.json", "result.json", "metrics.jsonl"), rng.choice((1, 1, 1, 2))):
        path, kind = copy / name, rng.random()
        if kind < 0.03:
            path.unlink()
        elif kind < 0.05:
            path.unlink()
            path.mkdir()
        elif kind < 0.08:
            path.write_bytes(
                rng.choice((b"", b"null", b"[]", b"{}", b"0", b'"x"', b"[" * 10**5, b"\xff\xfe", bytes(99)))
            )
        elif name == "metrics.jsonl":
            lines = path.read_bytes().splitlines()
            for at in rng.sample(range(len(lines)), min(len(lines), rng.choice((1, 1, 3)))):
                lines[at] = grammar.mutate_json(json.loads(lines[at]), rng)
            path.write_bytes(b"\n".join(lines))
        else:
            path.write_bytes(grammar.mutate_json(json.loads(path.read_bytes()), rng))
    return copy


def _load(rng: Source, folder: Path, run: Path) -> None:
    loaded = load(_changed_run(rng, folder, run))
    repr(loaded)
    actions = [lambda: loaded.history, lambda: loaded.result, lambda: loaded.history]
    actions += [loaded.plot.curves, loaded.network] * (rng.random() < 0.02)
    for action in actions:
        with contextlib.suppress(errors.SparsejaxError):
            action()
    rng.choice(actions)()


def _claim(rng: Source, folder: Path, run: Path) -> None:
    """Resumes as far as training: claims the folder and rewrites the metrics."""
    changed = RunFolder(_changed_run(rng, folder, run))
    with changed.hold():
        changed.claim(json.loads((run / "config.json").read_text()))
    log = MetricsLog(changed.metrics, folder / "tensorboard", resumed_step=rng.choice((1, 3, 10**6)), quiet=False)
    log.close()


def _command(main: Callable[[list[str]], int], *words: object) -> None:
    """Runs a command; its status and what it says must be those of a user error, or of success."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = main([str(word) for word in words])
    assert status in (0, 1, 2) and "Traceback" not in said.getvalue(), (status, said.getvalue()[-500:])
    if status:
        lines = [line for line in said.getvalue().splitlines() if line.startswith("error: ")]
        raise errors.SparsejaxError(lines[0] if len(lines) == 1 else "usage: several lines are meant here")


def _compare(rng: Source, folder: Path, run: Path) -> None:
    more = ["--out", folder / "x.png"] if rng.random() < 0.03 else []
    _command(cli.main, "compare", run, _changed_run(rng, folder, run), *more)


def _report(rng: Source, folder: Path, run: Path) -> None:
    _command(cli.main, "report", _changed_run(rng, folder, run))


def _embed(rng: Source, folder: Path, run: Path) -> None:
    words = ["--run", _changed_run(rng, folder, run), "--layer", rng.choice(("hidden1", "hidden1", "latent", "")),
             "--member", rng.choice((0, 0, -1, 10**30)), "--out", folder / "x.npz"]  # fmt: skip
    _command(embed.main, *words)


def _fields(config: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


_NUMBERS = (
    "0", "1", "2", "3", "-1", "0.5", "1e-30", "1e30", "1e39", "1e308", "1e400", "nan", "inf", "-inf", "255", "256",
    "257", "1000", "65536", "1000000", "2147483647", "2147483648", "4294967296", "9223372036854775807", "1" + "0" * 30,
    "9" * 5000, "1_000", "0x10", "²", "١", "None", "True", "", "()", "(1,)", "[]", "a", "1 2 3", "mnist", "all",
)  # fmt: skip
_OPTIONS = ("--seeds", "--resume-step", "--processes", "--process", "--coordinator", "--rehearse", "--sweep")
_HOMES = ("", "~nosuchuser", "/nonexistent", "/dev/null", "~", ".", "\udcff", "a" * 5000)


def _extreme_words(rng: Source, name: str, most: int) -> list[str]:
    """Returns options of `launch` with extreme values of fields, sweeps, counts and processes."""
    fields, words = list(_fields(configs.get(name))), []
    for _ in range(rng.randrange(1, most + 1)):
        field, kind = rng.choice(fields), rng.random()
        if kind < 0.7:
            words += [f"--{field.replace('_', '-')}", *(rng.choice(_NUMBERS).split() or [""])]
        elif kind < 0.85:
            values = rng.choice((",", ":")).join(rng.choice(_NUMBERS) for _ in range(rng.choice((1, 2, 3, 3))))
            words += ["--sweep", f"{field}={values}"]
        else:
            words += [rng.choice(_OPTIONS), rng.choice(_NUMBERS)]
    return words


def _launch(rng: Source, folder: Path, run: Path) -> None:
    """Runs `launch` up to its first compilation."""
    name = rng.choice(("digits_mlp", rng.choice(list(configs.CONFIGS))))
    words = ["--config", name, "--out", folder / "run"] + ["--data.name", "digits"] * (rng.random() < 0.7)
    changes = {"SPARSEJAX_DATA": rng.choice(_HOMES), "TFDS_DATA_DIR": rng.choice(_HOMES),
               "JAX_NUM_PROCESSES": rng.choice(_NUMBERS), "JAX_PROCESS_ID": rng.choice(_NUMBERS),
               "JAX_COORDINATOR_ADDRESS": rng.choice(("x", "a:0", "::", "é:1"))}  # fmt: skip
    with _environment({key: value for key, value in changes.items() if rng.random() < 0.1}), _checks_only():
        _command(launch.main, *words, *_extreme_words(rng, name, 3))


def _train(rng: Source, folder: Path, run: Path) -> None:
    """Runs `launch` to its end, of two networks on few images."""
    words = ["--config", "digits_mlp", "--out", folder / "run", "--data.train-examples", "70", "--data.test-examples",
             "9", "--training.epochs", "1", "--training.first-epoch-batch-size", "None"]  # fmt: skip
    with (
        _environment({}),
        mock.patch("sparsejax.experiment.write_figures"),
        mock.patch("jax.distributed.initialize", _join),
    ):
        _command(launch.main, *words, *_extreme_words(rng, "digits_mlp", 1))


def _other_command(rng: Source, folder: Path, run: Path) -> None:
    main, *words = rng.choice((
        (reproduce.main, rng.choice(("noise", "x", "../x", "", "x" * 5000))),
        (reproduce.main, "noise/fig2", "--seeds", rng.choice(("0", "-1", "²", "9" * 30, "9" * 5000, "nan"))),
        (data_command.main, "list"),
        (data_command.main, "download", rng.choice(_NUMBERS)),
        (cli.main, rng.choice(_NUMBERS)),
        (cli.main, "compare", *([run] * rng.choice((1, 2, 9)))),
        (cli.main, "compare", rng.choice(_HOMES)),
        (cli.main, "report", rng.choice(("", "/", folder, "\0"))),
        (cli.main, "completion", rng.choice(_NUMBERS)),
        (embed.main, "--run", rng.choice(("", folder, "/dev/null"))),
    ))  # fmt: skip
    homes = {name: rng.choice(_HOMES) for name in ("SPARSEJAX_DATA", "TFDS_DATA_DIR") if rng.random() < 0.5}
    with _environment(homes | {"HOME": rng.choice(("/none", str(folder)))}):
        _command(main, *words)


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update({"SPARSEJAX_OFFLINE": "1"} | changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _checks_only() -> Iterator[None]:
    """Lets a run end before it compiles anything."""
    from sparsejax.evaluation.measure import chosen_measures
    from sparsejax.training.checks import load_data
    from sparsejax.training.prepare import prepare

    def check(trained: Any, folder: Any, **options: Any) -> Any:
        dataset = load_data(trained.config)
        prepare(trained.configs, dataset)
        chosen_measures(trained.config, dataset)
        raise SystemExit(0)

    with mock.patch.object(experiment, "run", check), mock.patch("jax.distributed.initialize", _join):
        yield


def _join(*settings: Any, **options: Any) -> None:
    raise errors.RunFolderError("All settings passed; a real run would join the other processes here.")


GOOD_WAV = b"RIFF\x34\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data\x10\0\0\0" + bytes(16)

KINDS = {
    "pickle": file_kind(1800, "data_batch_1", grammar.pickled, read_cifar_batch),
    "idx": file_kind(900, "x-idx3-ubyte", grammar.idx, read_idx),
    "npz": file_kind(800, "x.npz", lambda rng: grammar.npz(rng, grammar.arrays(rng)),
                     read_path),
    "npy": Kind(900, _arrays),
    "mat": file_kind(500, "x.mat", grammar.mat, read_images_mat),
    "wav": file_kind(900, "x.wav", grammar.wav, lambda path: read_clip(path, rate=16_000, convert=True)),
    "images": Kind(700, _images),
    "latents": file_kind(400, "x.npz", grammar.latents, read_latents),
    "safetensors": file_kind(300, "x.safetensors", grammar.safetensors, _weights),
    "speech": Kind(150, _speech),
    "text": Kind(200, _text),
    "tfds": Kind(250, _tfds),
    "load": Kind(900, _load),
    "claim": Kind(600, _claim),
    "compare": Kind(450, _compare),
    "report": Kind(60, _report),
    "embed": Kind(60, _embed),
    "launch": Kind(800, _launch),
    "train": Kind(20, _train, 60),
    "other commands": Kind(150, _other_command),
}  # fmt: skip
