"""`sparsejax train|reproduce|embed|list|report|compare|completion`: all commands under one name."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sparsejax import configs, studies
from sparsejax.commands import embed, reproduce
from sparsejax.commands import train as launch
from sparsejax.commands.status import add_import, run_files, status_of
from sparsejax.errors import ConfigError, RunFolderError
from sparsejax.terminal import console_width, encodable

_ABOUT = {
    "train": "train a named experiment, or a grid of it (as python -m sparsejax.launch)",
    "reproduce": "reproduce a figure or table of a paper (as python -m sparsejax.reproduce)",
    "embed": "compute the latents of a trained network",
    "list": "list the experiments and the studies",
    "report": "redraw the figures and the report of a run",
    "compare": "compare several runs in one table and one figure",
    "completion": "print the completion of bash, zsh or fish",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status: 0 success, 1 failure, 2 invalid arguments."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    passed_on = {"train": launch.main, "reproduce": reproduce.main, "embed": embed.main}
    if words and words[0].startswith("-") and words[0] not in ("-h", "--help"):
        words = ["train", *words]  # `sparsejax --config NAME`
    if words and words[0] in passed_on:
        return passed_on[words[0]](words[1:])
    return status_of(_run, words)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        width = max(map(len, _ABOUT))
        print("Usage: sparsejax COMMAND ...\n")
        print("\n".join(f"  {name:<{width}}  {about}" for name, about in _ABOUT.items()))
        return 0
    commands: dict[str, Callable[[list[str]], None]] = {
        "list": _list, "report": _report, "compare": _compare, "completion": _completion,
    }  # fmt: skip
    if words[0] not in commands:
        raise ConfigError(f"There is no command {words[0]!r}; there are {', '.join(_ABOUT)}.")
    commands[words[0]](words[1:])
    return 0


def _list(words: list[str]) -> None:
    _parser("list").parse_args(words)
    for title, table in (("Experiments", configs.CONFIGS), ("Studies", studies.STUDIES)):
        width = max(map(len, table))
        print(f"{title}:", *(f"  {name:<{width}}  {about}" for name, about in table.items()), sep="\n")


def _report(words: list[str]) -> None:
    parser = _parser("report")
    parser.add_argument("run", metavar="RUN", help="a run folder")
    add_import(parser)
    options = parser.parse_args(words)
    run_files(options)

    from sparsejax.evaluation.measure import measures_of
    from sparsejax.figures.run import write_figures
    from sparsejax.training.records import reading
    from sparsejax.training.restore import load_state, read_record
    from sparsejax.training.run_folder import RunFolder

    folder = RunFolder(Path(options.run))
    run_of = read_record(folder)
    result = folder.read_result()
    with folder.hold():
        state = load_state(folder, run_of)
        with reading(folder.result):
            paths = write_figures(folder, result, state.variables, measures_of(result))
    print(*paths, sep="\n")


def _compare(words: list[str]) -> None:
    parser = _parser("compare")
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folders")
    parser.add_argument("--out", metavar="FILE", help="also draw their curves to this PNG file")
    add_import(parser)
    options = parser.parse_args(words)
    run_files(options)
    paths = [Path(run) for run in options.runs]
    from sparsejax.runs import row_of
    from sparsejax.training.run_folder import RunFolder

    rows = {_name(path, paths): row_of(RunFolder(path)) for path in paths}

    from rich.console import Console
    from rich.table import Column, Table

    table = Table("", *(Column(name, justify="right", overflow="fold") for name in rows))
    console = Console(width=console_width())
    for measure in dict.fromkeys(measure for row in rows.values() for measure in row):
        table.add_row(measure, *(encodable(row.get(measure, ""), console.encoding) for row in rows.values()))
    console.print(table)
    if options.out:
        print(_draw(dict(zip(rows, paths, strict=True)), Path(options.out)))


def _draw(runs: dict[str, Path], out: Path) -> Path:
    """Draws the test scores of all runs over training, one colour per run."""
    import numpy as np

    from sparsejax.figures.curves import curves_of, training_curves
    from sparsejax.figures.style import png
    from sparsejax.files import write_whole
    from sparsejax.training.log import read_metrics

    epochs: dict[str, dict[str, Any]] = {name: curves_of(read_metrics(path / "metrics.jsonl"))
                                         for name, path in runs.items()}  # fmt: skip
    without = [str(path) for name, path in runs.items() if "test_loss" not in epochs[name]]
    if without:
        raise RunFolderError(
            f"{without[0]} has no scores in metrics.jsonl, or cannot be read; omit --out, or this run."
        )
    kind = "test_accuracy" if all("test_accuracy" in curves for curves in epochs.values()) else "test_loss"
    curves = {name: found[kind] for name, found in epochs.items()}
    longest = max(curves.values(), key=lambda curve: len(curve.epochs)).epochs

    def pad(curve: Any) -> np.ndarray:
        """Pads a shorter run with NaN after its last epoch."""
        values = np.full((len(longest), curve.values.shape[1]), np.nan)
        values[: len(curve.values)] = curve.values
        return values

    together = np.concatenate([pad(curve) for curve in curves.values()], axis=1)
    groups = [name for name, curve in curves.items() for _ in range(curve.values.shape[1])]
    first = next(iter(curves.values()))._replace(epochs=longest, values=together)
    return write_whole(out.absolute(), png(training_curves({kind: first}, groups=groups)))


def _completion(words: list[str]) -> None:
    parser = _parser("completion")
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    shell = parser.parse_args(words).shell
    commands, names, figures = (" ".join(table) for table in (_ABOUT, configs.CONFIGS, studies.STUDIES))
    if shell == "fish":
        print(f"complete -c sparsejax -n __fish_use_subcommand -f -a '{commands}'\n"
              f"complete -c sparsejax -n '__fish_seen_subcommand_from train' -l config -x -a '{names}'\n"
              f"complete -c sparsejax -n '__fish_seen_subcommand_from reproduce' -f -a '{figures}'")  # fmt: skip
        return
    print(
        ("autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else "")
        + f"""_sparsejax() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" choices=""
  case "$before" in
    sparsejax) choices="{commands}" ;;
    --config) choices="{names}" ;;
    reproduce) choices="{figures}" ;;
  esac
  if [ -n "$choices" ]; then
    COMPREPLY=($(compgen -W "$choices" -- "$word"))
  else
    COMPREPLY=($(compgen -f -- "$word"))
  fi
}}
complete -o filenames -F _sparsejax sparsejax"""
    )


def _parser(command: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"sparsejax {command}", description=_ABOUT[command], allow_abbrev=False)


def _name(path: Path, among: Sequence[Path]) -> str:
    """Returns the folder's name, or its whole path if the name is not unique."""
    alike = [other for other in among if other.name == path.name]
    return path.name if len(alike) == 1 else str(path)


if __name__ == "__main__":
    sys.exit(main())
