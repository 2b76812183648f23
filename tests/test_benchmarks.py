"""The benchmarks run: their smallest cases, without PyTorch, and the page and figures from their results."""

import jax
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import (
    accelerator,
    data,
    dictionaries,
    ensemble,
    explain_away,
    inference,
    kwinners,
    rows,
    sae_decode,
    timing,
)
from benchmarks import page as speed
from sparsejax.models import SparseCNN, SparseMLP

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.slow,
]


TIMED = (accelerator, data, dictionaries, ensemble, explain_away, inference, kwinners, sae_decode, timing)


@pytest.fixture(autouse=True)
def once(monkeypatch):
    """Runs every case once, for two steps, with the promotions of a user's program."""
    round_robin, in_scan = timing.round_robin, timing.in_scan
    for module in TIMED:
        monkeypatch.setattr(module, "round_robin", lambda runs, *_, **__: round_robin(runs, repetitions=1, warm_up=0))
        for name, value in (("in_scan", lambda *given, steps: in_scan(*given, steps=2)), ("CALLS", 1)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def checked(report):
    assert rows.table(report.rows).count("\n") >= len(report.rows)
    for row in report.rows:
        assert row.ours_ms > 0 and (row.ratio is None or row.ratio > 0)
    return {row.peer for row in report.rows}


def test_kwinners(monkeypatch):
    monkeypatch.setattr(kwinners, "SHAPES", (((4, 300), 30), ((8, 12, 12, 16), 200)))
    monkeypatch.setattr(kwinners, "HIDDEN", (50,))
    monkeypatch.setattr(kwinners, "FIXED", {"batch": 4, "units": 500, "k": 20})
    placed = kwinners._placed_anew
    monkeypatch.setattr(kwinners, "_placed_anew", lambda *given: placed(*given, places=1))
    for name in ("UNITS", "WINNERS", "BATCHES"):
        monkeypatch.setattr(kwinners, name, (2_000,) if name == "UNITS" else (3,))
    assert checked(kwinners.measure(None)) == {
        "PyTorch",
        kwinners.SCATTER,
        "lax.top_k",
        kwinners.SORTED,
        "ReLU instead",
    }


def test_sae_decode(monkeypatch):
    monkeypatch.setattr(sae_decode, "SHAPES", ((2, 16, 200, 3),))
    monkeypatch.setattr(sae_decode, "CROSSOVER", (2, 16, 200))
    monkeypatch.setattr(sae_decode, "WINNERS", (3, 100))
    monkeypatch.setattr(sae_decode, "STEPS", {(64, 256, 200, 3): 2})
    monkeypatch.setattr(sae_decode, "EXAMPLES", 128)
    report = sae_decode.measure(None)
    assert checked(report) == {"PyTorch", "dense product", "our dense products"}
    assert report.rows[0].details.keys() >= {"gflop_per_s", "gbyte_per_s"}
    drawn = speed._drawn(speed._curves([vars(row) for row in report.rows]))
    assert len(drawn.axes) == 1


def test_inference(monkeypatch):
    networks = {"MLP": SparseMLP(hidden=(40, 30), k=(8, 5)), "CNN": SparseCNN(channels=(4, 6), conv_k=(20, 6))}
    for name, value in {"NETWORKS": networks, "BATCHES": (1,), "CROSSOVER": 50, "DENSITIES": (0.1,)}.items():
        monkeypatch.setattr(inference, name, value)
    assert checked(inference.measure(None)) == {"`apply`", "our dense network", "PyTorch, sparse", "PyTorch, dense",
                                                "dense product"}  # fmt: skip


def test_explain_away(monkeypatch):
    monkeypatch.setattr(explain_away, "UNITS", (50,))
    monkeypatch.setattr(explain_away, "TURNS", (2,))
    assert checked(explain_away.measure(None)) == {"PyTorch"}


def test_dictionaries(monkeypatch):
    small = {"TRAINING": 500, "TEST": 50, "SIZE": 6, "ATOMS": 20, "BATCH": 50, "K": 3, "SECONDS": 0.5, "SIDE": 32,
             "MAPS": 3, "ATOM": 4, "ITERATIONS": (5,)}  # fmt: skip
    for name, value in small.items():
        monkeypatch.setattr(dictionaries, name, value)
    report = dictionaries.measure(None)
    peers = checked(report)
    assert {peer.split(",")[0].split(" (")[0] for peer in peers} == {dictionaries.PEER, "sporco ConvBPDN"}
    assert all(row.details["ours_objective"] > 0 for row in report.rows if "ours_error" not in row.details)


def test_a_curve_is_read_at_times_and_values():
    curve = dictionaries.Curve(np.array([1.0, 2.0, 4.0]), np.array([9.0, 5.0, 3.0]))
    assert [curve.reach(value) for value in (9, 5, 4, 1)] == [1, 2, 4, float("inf")]
    assert [curve.at(seconds) for seconds in (0.5, 1, 3.9, 99)] == [9, 9, 5, 3]


def test_data(monkeypatch):
    monkeypatch.setattr(data, "SETS", {"small": ((200, 8, 8, 3), 16)})
    monkeypatch.setattr(data, "STEPS", 8)
    assert checked(data.measure(None)) == {data.RESIDENT, data.LOADER}


def test_accelerator(monkeypatch):
    tiny = {"SELECTIONS": ((8, 300, 30),), "TURNS": 3, "AUTOENCODER": (16, 256, 200, 3), "STEPS": 2, "MNIST": 128,
            "NETWORKS": {8: (8,), 16: (8, 4)}, "REPETITIONS": 1}  # fmt: skip
    for module, sizes in ((accelerator, tiny), (ensemble, {"EXAMPLES": 200, "BATCH": 20, "STEPS": 2})):
        for name, value in sizes.items():
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(accelerator, "accelerated", lambda: True)
    report = accelerator.measure(None)
    assert checked(report) == {"copy", "lax.top_k", "torch.topk", "torch.kthvalue", "PyTorch", "ours, float32"}
    epochs = [row for row in report.rows if "epochs_per_s" in row.details]
    assert [row.details["epochs_per_s"] for row in epochs] == pytest.approx([1e3 / row.ours_ms for row in epochs], 1e-3)
    whole = next(row for row in report.rows if "16 networks" in row.case)
    assert f"{accelerator.EPOCHS * whole.ours_ms / 6e4:.3g} (ours)" in " ".join(report.remarks)


def test_accelerator_on_a_cpu(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("SPARSEJAX_TORCH_PYTHON", raising=False)
    report = accelerator.measure(None)
    assert not report.rows and "no accelerator" in report.remarks[0]
    assert command.main(["--group", "accelerator", "--json", str(tmp_path / "gpu.json")]) == 0
    assert report.remarks[0] in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_rates_are_work_over_the_median():
    assert timing.Timing(2.0, 1.0, flops=8e6, bytes=6e6).rates() == {"gflop_per_s": 4.0, "gbyte_per_s": 3.0}
    assert timing.Timing(2.0, 1.0).rates() == {}


def test_ceilings():
    most = timing.ceilings()
    assert most["gflop_per_s"] > 1 and most["gbyte_per_s"] > 0.1
