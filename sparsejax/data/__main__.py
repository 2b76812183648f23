"""python -m sparsejax.data: lists and downloads data sets, and prepares MNIST for TFDS."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from sparsejax.data.download import download
from sparsejax.data.folders import download_folder, tfds_folder
from sparsejax.data.inventory import survey, table
from sparsejax.data.registry import entry, obtain
from sparsejax.data.tfds_source import is_prepared, prepare_tfds
from sparsejax.errors import SparsejaxError, shorten
from sparsejax.registry import run_file
from sparsejax.terminal import plain_output


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns 0, 1 when the data is missing or damaged, 2 when the command is invalid."""
    with plain_output():
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    try:
        match options.command:
            case "list":
                for file in options.files:
                    run_file(file)
                print(table(survey()))
            case "download":
                for name in options.names or ["mnist"]:
                    _download(name)
            case "prepare-tfds":
                _prepare(options.data_dir)
    except SparsejaxError as error:
        print(f"error: {shorten(str(error), 2000)}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("stopped; nothing incomplete was kept", file=sys.stderr)
        return 130
    return 0


def _download(name: str) -> None:
    """Downloads a data set, unless it is complete."""
    found = entry(name, "download")
    place, wanted = download_folder(found.place), found.download
    if wanted and not (wanted.packed and found.is_whole(place) and wanted.is_proven(place)):
        download(wanted, place, title=found.title, how=found.how)
    print(f"{found.title} is in {place}.")


def _prepare(data_dir: str | None) -> None:
    """Prepares MNIST for TFDS, unless it is prepared there."""
    folder = tfds_folder(data_dir)
    if is_prepared("mnist", folder):
        print(f"MNIST is already prepared for TFDS in {folder / 'mnist'}.")
        return
    mnist = dataclasses.replace(entry("mnist"), substitute=False, tfds="")
    dataset = obtain(mnist, mnist.read, "auto", print, {})
    count = len(dataset.train.labels) + len(dataset.test.labels)
    print(f"Writing {count:,} images to {folder} (about {count / 8000:.0f} s)")
    print(f"MNIST is prepared for TFDS in {prepare_tfds(dataset, folder)}")
    if folder != tfds_folder():
        print(f"To use it: export TFDS_DATA_DIR={folder.absolute()}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sparsejax.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="list the data that is found, with path and size")
    listing.add_argument(
        "--import", action="append", default=[], metavar="FILE", dest="files",
        help="run a Python file first, to register data sets; repeatable",
    )  # fmt: skip
    fetch = commands.add_parser("download", help="download data sets and verify their checksums")
    fetch.add_argument("names", nargs="*", metavar="NAME", help="which, as `list` names them (default: mnist)")
    prepare = commands.add_parser("prepare-tfds", help="write MNIST as TFDS prepares it, without TensorFlow")
    prepare.add_argument("--data-dir", metavar="D", help="TFDS's folder (default: $TFDS_DATA_DIR)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
