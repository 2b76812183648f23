"""`python -m sparsejax.reproduce NAME`: reproduce a figure or table of a paper, with its number next to ours."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sparsejax import studies
from sparsejax.commands.status import status_of
from sparsejax.errors import ConfigError
from sparsejax.terminal import lasting_output

_DESCRIPTION = """Reproduce a figure or table of a paper. Writes DIR/NAME.png and DIR/NAME.json, and the networks to
folders next to them, which other figures reuse. Run the same command again to resume."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status: 0 success, 1 failure, 2 invalid arguments."""
    return status_of(_run, arguments)


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m sparsejax.reproduce", description=_DESCRIPTION)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the study; --list shows all")
    parser.add_argument("--scale", choices=("small", "paper"), default="small",
                        help="small: minutes on two cores; paper: the published size")  # fmt: skip
    parser.add_argument("--seeds", type=int, metavar="N",
                        help="number of seeds, if the study supports it; more extend the existing ones")  # fmt: skip
    parser.add_argument("--out", default="reproduced", metavar="DIR", help="output folder (default: reproduced)")
    parser.add_argument("--list", action="store_true", help="list the studies")
    options = parser.parse_args(arguments)
    if options.list:
        width = max(map(len, studies.STUDIES))
        for name, summary in studies.STUDIES.items():
            print(f"{name:<{width}}  {summary}")
        return 0
    if options.name is None:
        raise ConfigError(f"Pass the name of a study: one of {', '.join(studies.STUDIES)}.")
    if options.name not in studies.STUDIES:
        studies.get(options.name)  # suggests similar names before any slow import

    from sparsejax.training.devices import use_cores

    use_cores()
    from sparsejax.figures.style import png
    from sparsejax.files import write_whole
    from sparsejax.training.environment import environment
    from sparsejax.training.run_folder import RunFolder

    study, out = studies.get(options.name), Path(options.out).absolute()
    folder = out / options.name / options.scale
    started = time.perf_counter()
    _check_seeds(options.name, options.seeds, study.seeds)
    with lasting_output():
        outcome = study.make(options.scale, folder, options.seeds)
    picture = write_whole(out / f"{options.name}.png", png(outcome.figure))
    numbers = out / f"{options.name}.json"
    RunFolder(folder).write(
        numbers,
        {
            "name": options.name,
            "source": study.source,
            "paper": outcome.paper,
            "ours": outcome.ours,
            "scale": options.scale,
            "seeds": outcome.seeds,
            "seconds": round(time.perf_counter() - started),  # of this call; existing networks are not retrained
            **environment("python -m sparsejax.reproduce"),
        },
    )
    print(f"\n{options.name}: {study.source}")
    for key, value in outcome.ours.items():
        paper = f"   (paper: {_format(outcome.paper[key])})" if key in outcome.paper else ""
        if isinstance(value, dict) and all(isinstance(row, dict) for row in value.values()):  # a table, row by row
            print(f"  {key}:{paper}")
            for name, row in value.items():
                print(f"    {name}: {_format(row)}")
        else:
            print(f"  {key}: {_format(value)}{paper}")
    print(f"{picture}\n{numbers}")
    return 0


def _check_seeds(name: str, chosen: int | None, most: int) -> None:
    if chosen is not None and not most:
        raise ConfigError(f"--seeds is {chosen}, but the seeds of {name} are fixed; omit the option.")
    if chosen is not None and not 1 <= chosen <= most:
        raise ConfigError(f"--seeds is {chosen}; expected a number from 1 to {most}, those of the paper.")


def _format(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return " ".join(map(_format, value))
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_format(item)}" for name, item in value.items())
    return str(value)


if __name__ == "__main__":
    sys.exit(main())
