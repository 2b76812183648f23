"""The studies of Hebbian/anti-Hebbian networks: from few digits, sharing networks and what was measured of them."""

import dataclasses

import pytest

from sparsejax.configuration import replace
from sparsejax.data import load
from sparsejax.evaluation.robustness import robustness_report
from sparsejax.studies import attacked
from sparsejax.studies.hebbian import cifar as hebbian_cifar
from tests.studies.making import DIGITS, made

_FEW = {**DIGITS, "data.train_examples": 100, "data.test_examples": 20, "training.epochs": 1,
        "training.batch_size": 25, "training.lr_decay_at": None}  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    """Makes small networks of few digits, weakly attacked; returns how often one was attacked."""
    whole, times = hebbian_cifar.base, []

    def report(*arguments, **settings):
        times.append(1)
        weak = {"attacks": {"linf": ("fgsm",)}, "minimal_iterations": 3, "noise_draws": 1}
        return robustness_report(*arguments, **{**settings, **weak})

    def base(scale, label):
        config = whole(scale, label)
        hebbian = min(config.model.hebbian, 2)
        model = dataclasses.replace(config.model, widths=(6, 0, 8, 0, 6), hebbian=hebbian, alphas=(0.1,) * hebbian)
        return replace(config, {"model": model, **_FEW})

    monkeypatch.setattr(hebbian_cifar, "base", base)
    monkeypatch.setattr(hebbian_cifar, "NORMS", {"l2": "ℓ2"})
    monkeypatch.setattr(hebbian_cifar, "NOISE", (0.0, 0.1))
    monkeypatch.setattr(attacked, "load", lambda name: load("digits"))
    monkeypatch.setattr(hebbian_cifar, "_IMAGES", {"small": (16, 8)})
    monkeypatch.setattr(attacked, "robustness_report", report)
    return times


@pytest.mark.slow
def test_tables_and_figures_share_networks_and_reports(tiny, opened_once, tmp_path):
    numbers = {name: made(f"hah/{name}", tmp_path) for name in ("table1", "table2", "fig2", "fig3", "fig4", "fig5")}
    runs = {path.parts[-3] for path in tmp_path.glob("hah/cifar/small/runs/*/*/result.json")}
    assert runs == {"standard", "HaH", "no_HaH_cost", "batch_norm", "no_threshold"} and len(tiny) == 5
    table = numbers["table1"]
    assert table["paper"]["HaH"] == [87.3, 64.0, 21.5, 27.6] and len(table["ours"]["HaH"]) == 4
    assert numbers["table2"]["ours"]["HaH"] == table["ours"]["HaH"]
    assert all(0 <= value <= 100 for value in table["ours"]["standard"])
    assert len(numbers["fig3"]["ours"]["HaH"]) == 3 and len(numbers["fig2"]["ours"]["HaH"]) == 2
    assert numbers["fig4"]["ours"]["standard"][0] == pytest.approx(table["ours"]["standard"][0] / 100)
    assert set(numbers["fig5"]["ours"]["HaH"]) == {"l2"}


def test_the_small_networks_are_the_papers_in_kind():
    for label, (name, _) in hebbian_cifar.PAPER.items():
        small, paper = (hebbian_cifar.base(scale, label).model for scale in ("small", "paper"))
        assert (small.norm, small.threshold, small.keep) == (paper.norm, paper.threshold, paper.keep), name
        assert small.alphas == paper.alphas[: small.hebbian] and small.hebbian == min(4, paper.hebbian)
    assert not any(hebbian_cifar.base("small", "no HaH cost").model.alphas)
    assert hebbian_cifar.base("paper", "HaH").training.lr_decay_at == (60, 80)
