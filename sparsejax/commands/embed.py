"""`sparsejax embed --run FOLDER`: computes the latents of a trained network and saves them as a data set."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsejax.commands.status import add_import, run_files, status_of
from sparsejax.errors import ConfigError

if TYPE_CHECKING:
    from sparsejax.training.run_folder import RunFolder

_DESCRIPTION = """Run a trained network on its training and test set, and save the activations of one layer as a data
set for other networks: --data.name cifar10_latents."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status: 0 success, 1 failure, 2 invalid arguments."""
    return status_of(_run, arguments, stopped="nothing was written")


def _run(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    run_files(options)

    import numpy as np

    from sparsejax.data.dataset import Split
    from sparsejax.data.folders import download_folder
    from sparsejax.data.latents import LATENTS_FILE, latents_bytes
    from sparsejax.files import write_whole
    from sparsejax.training.checks import load_data
    from sparsejax.training.environment import environment
    from sparsejax.training.restore import check_same_data, config_of, load_network, read_record
    from sparsejax.training.run_folder import RunFolder

    folder, member = RunFolder(Path(options.run)), options.member
    run_of = read_record(folder)
    description = run_of.description
    config = config_of(folder, run_of, member)
    if options.out is None and config.data.name != "cifar10":
        raise ConfigError(
            f"{folder.path} was trained on {config.data.name}, not cifar10; name the file to write with --out."
        )
    out = download_folder(LATENTS_FILE) if options.out is None else Path(options.out).absolute()
    dataset = load_data(config)
    if dataset.kind == "tokens":
        raise ConfigError(f"{folder.path} was trained on a text, {dataset.name}; latents need images or vectors.")
    layers = [layer.name for layer in config.model.layers(dataset.train.images.shape[1:])]
    if options.layer not in layers:
        raise ConfigError(f"The network in {folder.path} has no layer {options.layer!r}; it has {', '.join(layers)}.")
    check_same_data(folder, run_of, dataset)
    network = load_network(folder, member)

    def embed_split(split: Split) -> Split:
        vectors = network.run(split.images, lambda output: output.activations[options.layer])
        return Split(vectors.reshape(len(vectors), -1).astype(np.float32), split.labels)

    train, test = embed_split(dataset.train), embed_split(dataset.test)
    provenance = {
        "layer": options.layer,
        "epoch": network.epoch,
        "result": _result(folder, member),
        "classes": dataset.classes,
        **{name: description[name] for name in ("name", "data", "config")},
        "trained": {name: description.get(name) for name in ("command", "versions", "device")},
        **environment("sparsejax embed"),
    }
    write_whole(out, latents_bytes(train, test, provenance))
    print(
        f"{len(train.labels):,} + {len(test.labels):,} vectors of {train.images.shape[1]} features: {options.layer} of "
        f"{description['name']} after epoch {network.epoch}, in {out}"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sparsejax embed", description=_DESCRIPTION)
    parser.add_argument("--run", required=True, metavar="FOLDER", help="folder of the run that trained the network")
    parser.add_argument("--layer", default="latent", metavar="NAME", help="a hidden layer (default: latent)")
    parser.add_argument("--member", type=int, default=0, metavar="N", help="which network of a grid (default: 0)")
    add_import(parser)
    parser.add_argument("--out", metavar="FILE", help="the .npz file (default, for CIFAR-10 only: where "
                        "cifar10_latents is read)")  # fmt: skip
    return parser


def _result(folder: "RunFolder", member: int) -> dict[str, float] | None:
    """Returns the network's test score; None if its run is not finished."""
    from sparsejax.training.records import reading

    if not folder.result.is_file():
        return None
    with reading(folder.result):
        entry = folder.read_result()["members"][member]
    return {name: value for name, value in entry.items() if name.startswith("test_")}


if __name__ == "__main__":
    sys.exit(main())
