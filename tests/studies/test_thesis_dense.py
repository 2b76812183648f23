"""The thesis's grids: small ones on the bundled digits, and the figures from invented measures."""

import numpy as np
import pytest

from sparsejax import studies
from sparsejax.studies.thesis import dense as thesis_dense
from sparsejax.studies.thesis import grid as thesis_grid
from sparsejax.studies.thesis.grid import KINDS, base, critical
from tests.studies.making import DIGITS, made

TINY = {**DIGITS, "data.train_examples": 100, "data.test_examples": 100, "training.epochs": 1,
        "training.batch_size": 50}  # fmt: skip
_AS_OTHERS = ("thesis/fig3_8", "thesis/fig3_10", "thesis/fig3_11")
NAMES = [name for name in studies.STUDIES if name.startswith(("thesis/fig3", "thesis/table3"))]


@pytest.fixture
def tiny(monkeypatch):
    """Makes one network of 8 units for two penalties, on few digits."""
    monkeypatch.setattr(thesis_grid, "_SHORT", TINY)
    monkeypatch.setattr(thesis_grid, "SIZES", (8,))
    monkeypatch.setattr(thesis_dense, "SIZES", (8,))
    kind = KINDS["relu1"]._replace(penalties={"small": (0.0, 0.008)})
    monkeypatch.setattr(thesis_grid, "KINDS", {"relu1": kind})


@pytest.mark.slow
def test_more_seeds_are_added_to_existing_ones(tiny, tmp_path, capsys):
    outcomes = []
    for seeds in ("1", "2"):
        outcomes.append(made("thesis/fig3_1", tmp_path, "--seeds", seeds))
    assert [outcome["seeds"] for outcome in outcomes] == [[0], [0, 1]]
    one, two = (outcome["ours"]["accuracy (%)"]["8 units"] for outcome in outcomes)
    assert one["median"][0] in (two["min"][0], two["max"][0]), "the first network is still there"
    assert two["min"] != two["max"]
    runs = sorted(path.name for path in tmp_path.glob("thesis/dense/relu1/small/runs/8/*"))
    assert runs == ["0", "1"], "the first seed was not trained again"
    assert outcomes[0]["paper"]["accuracy of a dead network (%)"] == 11.35
    capsys.readouterr()
    made("thesis/table3_1", tmp_path, "--seeds", "2")
    assert "resuming" not in capsys.readouterr().out, "the table uses the figure's networks"


def invented(config, folder, name, penalties, seeds):
    """Returns measures of the right shapes: activity falls with the penalty, the later layers are the more active."""
    rng, depth, units = np.random.default_rng(0), len(config.model.hidden), config.model.hidden[0]
    left = 1 - np.asarray(penalties)[:, None] / max(penalties)
    spread = rng.uniform(0.9, 1.0, (len(penalties), len(seeds)))
    l0 = np.stack([(i + 1) / (depth + 1) * units * left * spread for i in range(depth)], -1)
    fired = (rng.random((len(penalties), len(seeds), depth, 10, units)) < 0.5 * left[..., None, None, None]) * 0.5
    along = np.linspace(3, 1, 4) * (left * units * spread)[..., None]
    return {"accuracy": 11.35 + 80 * left * spread, "l0": l0, "l1": 2 * l0, "gini": 1 - 0.5 * l0 / units,
            "fired": fired, "l1_along": along, "epochs": np.arange(1.0, 5.0)}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in NAMES if name not in _AS_OTHERS])
def test_every_figure_and_the_table_write_a_figure_and_the_thesis_numbers(monkeypatch, tmp_path, name):
    monkeypatch.setattr(thesis_grid, "measure_penalized", invented)
    numbers = made(name, tmp_path)
    assert numbers["paper"].keys() <= numbers["ours"].keys()
    assert numbers["ours"]["penalty"][0] == 0 and numbers["seeds"] == [0, 1, 2]
    assert (tmp_path / f"{name}.png").stat().st_size > 5000
    if name in ("thesis/fig3_11", "thesis/fig3_13"):
        later = numbers["ours"]["part of the penalties at which the first layer is the least active"]
        assert set(later.values()) == {1.0}
    if name == "thesis/fig3_2":
        assert numbers["ours"]["inactive without a penalty, 8 units (%)"] == pytest.approx(52.5, abs=2.5)


def test_the_critical_penalty_is_where_the_median_falls_by_10_points():
    accuracy = np.array([[95.0, 96.0], [94.0, 20.0], [84.0, 85.0], [11.0, 11.0]])
    assert critical((0.0, 0.1, 0.2, 0.3), accuracy) == 0.1
    assert critical((0.0, 0.1, 0.2, 0.3), np.full((4, 2), 95.0)) is None


def test_the_paper_scale_is_the_thesis():
    assert len(KINDS["relu1"].penalties["paper"]) == 15 and KINDS["relu1"].penalties["paper"][-1] == 0.112
    assert len(thesis_grid.SIZES) * 15 * len(thesis_grid.SEEDS) == 1500
    config = base("paper", KINDS["relu3"], 128)
    assert config.model.hidden == (128, 128, 128)
    training = config.training
    assert (training.epochs, training.batch_size, training.optimizer, training.learning_rate) == (15, 100, "adam", 1e-3)
    assert (config.data.train_examples, config.data.normalise) == (50_000, False)
    for kind in KINDS.values():
        assert set(kind.penalties["small"]) <= set(kind.penalties["paper"])
