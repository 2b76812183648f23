"""Command line: `python -m benchmarks [--group NAME] [--json FILE]`."""

import argparse
import ast
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from sparsejax.errors import ConfigError
from sparsejax.registry import Registry, summary_of
from sparsejax.terminal import plain_output


def _groups(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "GROUP":
            yield ast.literal_eval(node.value), summary_of(tree)


GROUPS = Registry("benchmarks", "group", _groups)
"""Name -> what it measures: every file here that has a `GROUP`, and a function `measure`."""


def main(argv: list[str] | None = None) -> int:
    """Runs the groups, prints their tables and stores them; returns the exit status."""
    with plain_output():
        return _run(argv)


def _run(argv: list[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--group", action="append", metavar="NAME", help="only this group (may be repeated)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="store the rows; one file per group if several")
    parser.add_argument("--torch-python", metavar="PATH", help="interpreter that has PyTorch")
    parser.add_argument("--list", action="store_true", help="list the groups")
    arguments = parser.parse_args(argv)
    if arguments.list:
        width = max(map(len, GROUPS))
        print("\n".join(f"{name:<{width}}  {summary}" for name, summary in GROUPS.items()))
        return 0
    groups = arguments.group or list(GROUPS)
    try:
        for name in groups:
            GROUPS.check(name)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    # Imported late, so that argument errors are reported immediately.
    from benchmarks import peers, rows, timing
    from sparsejax.training.devices import use_cores

    use_cores()  # as the trainer does; single networks run on the first
    command = shlex.join(["python", "-m", "benchmarks", *(sys.argv[1:] if argv is None else argv)])
    python = peers.torch_python(arguments.torch_python)
    most = timing.ceilings()
    print(f"at most {most['gflop_per_s']:,.0f} GFLOP/s (matrix product), {most['gbyte_per_s']:,.0f} GB/s (copy)")
    for name in groups:
        busy = rows.busy_cores()
        with peers.twin(python) as twin:
            report = GROUPS.module(name).measure(twin)
            versions = rows.versions() | ({"torch": twin.version} if twin and twin.version else {})
        remarks = (*report.remarks, *(() if twin else (peers.HOW_TO_GET_IT,)), *rows.load_remark(busy))
        report = rows.Report(report.rows, remarks)
        print("\n".join((rows.table(report.rows), *report.remarks)), flush=True)
        if arguments.json and report.rows:
            path = arguments.json
            if len(groups) > 1:
                path = path.with_name(f"{path.stem}_{name}{path.suffix}")
            rows.write_json(path, report, command, versions, busy, most)
    return 0


if __name__ == "__main__":
    sys.exit(main())
