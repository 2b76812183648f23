"""Command line: `python -m benchmarks [--group NAME] [--json FILE]`."""

import argparse
import difflib
import importlib
import os
import shlex
import sys
from pathlib import Path

GROUPS = {
    "accelerator": "on a GPU or TPU: selection beside a copy; a Top-K autoencoder, a CNN and grids beside PyTorch",
    "attacks": "adversarial attacks beside torchattacks and adv-lib: how many images stand, and the time",
    "autoencoder": "a training step of a noisy autoencoder beside PyTorch, and its memory by number of units",
    "codes": "codes of 2,000 patches, lasso and OMP, beside scikit-learn, SPAMS and PyTorch at equal error",
    "data": "batches from bytes to pixels, on the device and from the host, beside PyTorch with and without DataLoader",
    "ensemble": "an epoch of a network of a grid of small networks beside a PyTorch loop for each, with two data paths",
    "explain_away": "the loop in which units explain each other away, forward and backward, beside PyTorch",
    "inference": "a trained network's answers to small batches beside its dense network and PyTorch",
    "kwinners": "a k-winners layer, forward and backward, beside PyTorch and naive JAX, and what n, k and batch cost",
    "kwinners_step": "a training step of the paper's Sparse CNN-2 beside dense networks, a naive port and PyTorch",
    "sae_decode": "winners decoded by their rows beside dense products and PyTorch, and a Top-K autoencoder's step",
    "scaling": "a training step on 1 to 8 devices of this machine, and an estimate for Cloud TPU",
    "selection": "the k largest of each row beside lax.top_k, a sort, plain bisection and PyTorch",
}


def main(argv: list[str] | None = None) -> int:
    """Runs the groups, prints their tables and stores them; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--group", action="append", metavar="NAME", help="only this group (may be repeated)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="store the rows; with several groups, a file each")
    parser.add_argument("--torch-python", metavar="PATH", help="interpreter that has PyTorch")
    parser.add_argument("--list", action="store_true", help="name the groups")
    arguments = parser.parse_args(argv)
    if arguments.list:
        width = max(map(len, GROUPS))
        print("\n".join(f"{name:<{width}}  {summary}" for name, summary in GROUPS.items()))
        return 0
    groups = arguments.group or list(GROUPS)
    for name in groups:
        if name not in GROUPS:
            close = difflib.get_close_matches(name, GROUPS, n=1, cutoff=0) or list(GROUPS)
            print(f"No group {name!r}; the closest is {close[0]!r}. All: {', '.join(GROUPS)}.", file=sys.stderr)
            return 2

    # Imported this late, so that a wrong word is answered at once.
    from benchmarks import peers, rows, timing
    from sparsejax.training.devices import use_cores

    use_cores()  # as the trainer does; what is no grid runs on the first
    command = shlex.join(["python", "-m", "benchmarks", *(sys.argv[1:] if argv is None else argv)])
    python, load = peers.torch_python(arguments.torch_python), os.getloadavg()[0]
    most = timing.ceilings()
    print(f"at most {most['gflop_per_s']:,.0f} GFLOP/s (matrix product), {most['gbyte_per_s']:,.0f} GB/s (copy)")
    for name in groups:
        with peers.twin(python) as twin:
            report = importlib.import_module(f"benchmarks.{name}").measure(twin)
            versions = rows.versions() | ({"torch": twin.version} if twin and twin.version else {})
        remarks = (*report.remarks, *(() if twin else (peers.HOW_TO_GET_IT,)), *rows.load_remark(load))
        report = rows.Report(report.rows, remarks)
        print("\n".join((rows.table(report.rows), *report.remarks)), flush=True)
        if arguments.json and report.rows:
            path = arguments.json
            if len(groups) > 1:
                path = path.with_name(f"{path.stem}_{name}{path.suffix}")
            rows.write_json(path, report, command, versions, load, most)
    return 0


if __name__ == "__main__":
    sys.exit(main())
