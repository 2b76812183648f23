"""The benchmarks run: their smallest cases, without PyTorch, and the page and pictures made of what they left."""

import pytest

from benchmarks import kwinners, rows, sae_decode, timing
from benchmarks import page as speed

pytestmark = [
    pytest.mark.usefixtures("quick_compile"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.slow,
]


@pytest.fixture(autouse=True)
def as_in_a_program():
    import jax

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def checked(report):
    assert rows.table(report.rows).count("\n") >= len(report.rows)
    for row in report.rows:
        assert row.ours_ms > 0 and (row.ratio is None or row.ratio > 0)
    return {row.peer for row in report.rows}


def test_kwinners(monkeypatch):
    monkeypatch.setattr(kwinners, "SHAPES", (((4, 300), 30), ((2, 3, 3, 8), 9)))
    monkeypatch.setattr(kwinners, "HIDDEN", (50,))
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
    assert report.rows[0].details["gflop_per_s"] > 0
    drawn = speed._drawn(speed._curves([vars(row) for row in report.rows]))
    assert len(drawn.axes) == 1


def test_ceilings():
    most = timing.ceilings()
    assert most["gflop_per_s"] > 1 and most["gbyte_per_s"] > 0.1
