"""`python -m sparsejax.launch --config NAME`: train a named experiment, or a grid of it."""

import argparse
import contextlib
import io
import itertools
import math
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsejax import __version__, configs
from sparsejax.commands.status import add_import, run_files, status_of
from sparsejax.errors import ConfigError
from sparsejax.terminal import lasting_output

if TYPE_CHECKING:
    from sparsejax.training.config import Config

    Members = tuple[tuple[Config, ...], tuple[dict[str, Any], ...]]

_DESCRIPTION = """Train a named experiment. Every field of a configuration can be overridden, e.g.
--training.epochs 3; --config NAME --help lists them all. Run the same command on the same folder to resume."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status: 0 success, 1 failure, 2 invalid arguments."""
    try:
        status = status_of(_run, arguments)
    except Exception:
        if not _is_one_of_several():
            raise
        traceback.print_exc()
        status = 1
    if status and _is_one_of_several():
        from sparsejax.training.processes import leave

        leave(status)
    return status


def _is_one_of_several() -> bool:
    """Returns whether this is one of several processes, without importing JAX."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1


def _run(arguments: list[str]) -> int:
    options, overrides = _parser().parse_known_args(arguments)
    if options.list:
        width = max(map(len, configs.CONFIGS))
        for name, summary in configs.CONFIGS.items():
            print(f"{name:<{width}}  {summary}")
        return 0
    run_files(options)
    if options.config is None:
        if not {"-h", "--help"} & set(overrides):
            raise ConfigError(f"Pass a configuration with --config: one of {', '.join(configs.CONFIGS)}.")
        _parser().print_help()
        return 0
    is_file = options.config.endswith(".py")
    if not is_file and options.config not in configs.CONFIGS:
        configs.get(options.config)  # suggests similar names before any slow import
    if options.seeds < 1:
        raise ConfigError(f"--seeds is {options.seeds}; expected the number of networks to train, 1 or more.")
    if is_file:
        from sparsejax.api import config_from_file

        given, name = config_from_file(options.config), Path(options.config).stem
    else:
        given, name = configs.get(options.config), options.config
    base = _override(options.config, given, overrides)
    members = _members(options.config, base, options.sweep, options.seeds)

    if options.rehearse is not None:
        return _rehearse(name, members, options.rehearse)
    settings = (options.coordinator, options.processes, options.process)
    if options.distributed or any(setting is not None for setting in settings):
        from sparsejax.training import processes

        processes.join(*settings)
    else:
        from sparsejax.training.devices import use_cores

        use_cores(base.devices.devices_for(len(members[0])))
    from sparsejax.experiment import Experiment, run
    from sparsejax.training.processes import is_first
    from sparsejax.training.run_folder import RunFolder

    folder = RunFolder(f"runs/{name}" if options.out is None else options.out)
    experiment = Experiment(name, *members)
    with lasting_output():
        result, _ = run(experiment, folder, fresh=options.fresh, resume_step=options.resume_step)
        if is_first():
            from sparsejax.evaluation.measure import measures_of

            print(*_closing_lines(result, measures_of(result), folder.path), sep="\n")
    return 0


def _rehearse(name: str, members: "Members", topology: str) -> int:
    """Prints what the training needs on a TPU, without training."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # otherwise JAX looks for TPU devices once libtpu is installed
    from sparsejax.commands.rehearse import lines_of, rehearse
    from sparsejax.experiment import Experiment

    experiment = Experiment(name, *members)
    for line in lines_of(rehearse(experiment, topology), experiment, topology):
        print(line)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sparsejax.launch", description=_DESCRIPTION, add_help=False, allow_abbrev=False
    )
    parser.add_argument(
        "--config", metavar="NAME", help="the experiment, or a Python file that defines `config`; --list shows all"
    )
    add_import(parser)
    parser.add_argument("--out", metavar="DIR", help="run folder (default: runs/NAME)")
    parser.add_argument("--seeds", type=_integer, default=1, metavar="N", help="train N networks, of successive seeds")
    parser.add_argument(
        "--sweep", action="append", default=[], metavar="FIELD=VALUES",
        help="train one network per value, a,b,c or start:stop:step; several make a grid",
    )  # fmt: skip
    parser.add_argument("--fresh", action="store_true", help="replace an earlier run in the folder")
    parser.add_argument(
        "--resume-step", type=_integer, metavar="STEP", help="resume from this checkpoint instead of the latest"
    )
    parser.add_argument(
        "--rehearse", metavar="TPU",
        help="compile for TPU chips such as v5e:2x4, without them and without training: does it fit their memory?",
    )  # fmt: skip
    parser.add_argument(
        "--distributed", action="store_true",
        help="run as one of several processes, detected from the environment (Cloud TPU, SLURM, JAX_PROCESS_ID...)",
    )  # fmt: skip
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="address of the first of several processes")
    parser.add_argument("--processes", type=_integer, metavar="N", help="their number")
    parser.add_argument("--process", type=_integer, metavar="I", help="index of this process, from 0")
    parser.add_argument("--list", action="store_true", help="list the named experiments")
    parser.add_argument("--version", action="version", version=f"sparsejax {__version__}")
    return parser


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _override(name: str, config: "Config", overrides: Sequence[str]) -> "Config":
    """Returns the configuration with typed overrides; on an error tyro suggests a fix and exits with status 2."""
    import tyro

    from sparsejax.training.schema import RENAMED

    for part, names in RENAMED.items():
        for old, new in names.items():
            before, now = (f"--{part}.{field.replace('_', '-')}" for field in (old, new))
            if before in (word.partition("=")[0].replace("_", "-") for word in overrides):
                raise ConfigError(f"{before} is the name of an option in version 0.1; it is now {now}.")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                tyro.conf.AvoidSubcommands[type(config)],
                default=config,
                args=list(overrides),
                prog=f"python -m sparsejax.launch --config {name}",
                description="Fields of the configuration. Other options: " + _parser().format_usage(),
            )
    except SystemExit as stop:
        error: BaseException | None = stop
        while error is not None:  # tyro wraps errors raised by a configuration; the original message is clearer
            if isinstance(error, ConfigError):
                raise error from None
            error = error.__cause__ or error.__context__
        sys.stderr.write(complaint.getvalue())
        raise


def _members(name: str, base: "Config", sweeps: Sequence[str], seeds: int) -> "Members":
    """Returns configuration and swept values of every network: each point of the grid with each seed."""
    from sparsejax.configuration import field_of
    from sparsejax.experiment import check_count, members_of

    parsed = [_parse_sweep(sweep) for sweep in sweeps]
    for field, _ in parsed:
        if [other for other, _ in parsed].count(field) > 1:
            raise ConfigError(f"--sweep names {field} twice; pass all of its values in one, --sweep {field}=a,b,c.")
    check_count(math.prod(len(values) for _, values in parsed) * seeds)
    grid = [[(field, value) for value in values] for field, values in parsed]
    points = []
    for point in itertools.product(*grid):
        words = [word for field, value in point for word in (f"--{field.replace('_', '-')}", value)]
        config = _override(name, base, words) if words else base
        points.append({field: field_of(config, field) for field, _ in point})
    return members_of(base, points, seeds)


def _parse_sweep(text: str) -> tuple[str, list[str]]:
    """Splits `FIELD=a,b,c` or `FIELD=start:stop:step`, including the stop.

    Raises:
      ConfigError: it has neither form, or a range has no values or too many.
    """
    from sparsejax.training.config import MOST_MEMBERS

    field, equals, values = text.partition("=")
    expected = "expected FIELD=a,b,c or FIELD=start:stop:step, such as --sweep model.boost_strength=0:2:0.5"
    if not equals or not field or not values:
        raise ConfigError(f"--sweep {text!r} is invalid; {expected}.")
    field = field.replace("-", "_")
    if ":" not in values:
        return field, values.split(",")
    try:
        start, stop, step = map(float, values.split(":"))
        intervals = (stop - start) / step
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"--sweep {text!r} has an invalid range; {expected}.") from None
    if not math.isfinite(intervals) or not math.isfinite(start):
        raise ConfigError(f"--sweep {text!r} has a range of no finite length; {expected}.")
    if intervals < -1e-9:
        raise ConfigError(f"--sweep {text!r} is an empty range; {expected}.")
    count = math.floor(intervals + 1e-9) + 1
    if count > MOST_MEMBERS:
        raise ConfigError(f"--sweep {text!r} has {count:,} values; expected {MOST_MEMBERS:,} at most.")
    return field, [f"{start + i * step:.10g}" for i in range(count)]


def _closing_lines(result: dict[str, Any], measures: Sequence[Any], folder: Path) -> list[str]:
    """Returns the summary printed at the end: the measures' values for networks and layers."""
    from sparsejax.figures.report import columns_of, headline
    from sparsejax.figures.words import count

    lines = [(label, f"{value}  {note}" if note else value) for label, value, note in headline(result, measures)]
    columns = columns_of(result, measures)
    for name, layer in result["layers"].items():
        winners = [f"{count(layer['k'])} winners ({count(layer['k_inference'])} at inference)"] if layer["k"] else []
        told = [f"{column.label.lower()} {column.cell(layer)}" for column in columns]
        lines.append((name, ", ".join([f"{count(layer['units'])} units", *winners, *told])))
    width = max(len(label) for label, _ in lines)
    ending = [f"NOTE: {result['notice']}"] if result["notice"] else []
    ending.append(f"{result['seconds']:.0f} s; figures and report: {folder}/report.html")
    return ["", *(f"{label:<{width}}  {text}" for label, text in lines), *ending]


if __name__ == "__main__":
    sys.exit(main())
