"""Measures by name: users' own in results, report and history; in one compiled pass; omitted for old runs."""

import json
import runpy
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax as sj
from sparsejax import configs, data
from sparsejax.commands import cli
from sparsejax.configuration import as_arrays, replace, stack
from sparsejax.data.resident import make_resident
from sparsejax.errors import ConfigError
from sparsejax.evaluation.measure import (
    MEASURES,
    as_measure,
    chosen_measures,
    measures_of,
    setting_of,
)  # fmt: skip
from sparsejax.evaluation.measures.noise_score import NOISE_LEVELS
from sparsejax.evaluation.split import make_evaluation
from sparsejax.experiment import Experiment, run
from sparsejax.figures.drawing import Drawing, Row
from sparsejax.figures.histograms import Histogram, histograms
from sparsejax.training.config import CLEAN_MEASURES, DEFAULT_MEASURES, DevicesConfig
from sparsejax.training.devices import gather_members, place, put_members, put_shared, transform
from sparsejax.training.run_folder import RunFolder
from sparsejax.training.schema import from_json, to_json
from tests.command import ROOT

FEW = {"data.train_examples": 60, "data.test_examples": 45, "training.epochs": 1, "training.batch_size": 20,
       "training.first_epoch_batch_size": None, "evaluation.batch_size": 20, "devices.transform": "jit"}  # fmt: skip


def small(**changes):
    return replace(configs.get("digits_mlp"), FEW | {name.replace("__", "."): value for name, value in changes.items()})


class Lead:
    """A measure without a base class: the margin of the largest logit, with a row, a figure and an array."""

    def __init__(self):
        self.traced = 0

    def of_batch(self, model, variables, batch):
        self.traced += 1
        best, second = jnp.moveaxis(jax.lax.top_k(batch.output.prediction, 2)[0], -1, 0)
        return {"lead": batch.sum(best - second), "examples": jnp.sum(batch.counted.astype(jnp.int32))}

    def report(self, sums):
        assert sums["examples"] == 45, "rows that fill up the last batch do not count"
        return {"lead": float(sums["lead"]) / int(sums["examples"])}

    def arrays(self, sums):
        return {"leads": sums["lead"]}

    def rows(self, result):
        return [Row("lead", "lead of the winner", note="in logits")]

    def figures(self, run):
        with np.load(run.folder.arrays / "lead.npz") as arrays:
            counts, edges = np.histogram(arrays["leads"], 3)
        panel = {"leads": Histogram(counts, edges, "lead")}
        return [Drawing("lead.png", "Leads", "By how much.", "A histogram.",
                        lambda width: histograms(panel, columns=1, width=width), "column"), None]  # fmt: skip


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Returns the folder of two networks that are measured by an object of the user's, and that object."""
    config, lead = small(evaluation__measures=("accuracy", "activity"), evaluation__track=("lead",)), Lead()
    pair = tuple(replace(config, {"training.seed": seed}) for seed in (1, 2))
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "grid")
    run(Experiment("grid", pair, ({}, {}), (lead,)), folder)
    return folder, lead


def test_an_own_measure_is_in_results_report_and_history(grid):
    folder, _ = grid
    result, page = json.loads(folder.result.read_text()), folder.report.read_text()
    leads = [member["lead"] for member in result["members"]]
    assert result["measures"] == ["accuracy", "activity", "lead"] and len(set(leads)) == 2
    assert result["lead"] == pytest.approx(np.mean(leads)) and result["lead_std"] == pytest.approx(np.std(leads))
    assert sorted(path.name for path in folder.figures.glob("lead*")) == ["lead.png"]
    assert all(words in page for words in ("lead of the winner", "in logits", "Lead of the winner", "By how much."))
    with np.load(folder.arrays / "lead.npz") as arrays:
        np.testing.assert_allclose(arrays["leads"], np.array(leads) * 45, rtol=1e-6)
    np.testing.assert_allclose(sj.load(folder.path).history["lead"][-1], leads, rtol=1e-6)


def test_all_measures_of_all_networks_are_one_compiled_pass(grid):
    _, lead = grid
    assert lead.traced == 2, "once in the pass after every epoch, once in that at the end"


def test_a_page_is_drawn_again_without_measures_that_are_not_registered(grid, capsys):
    folder, _ = grid
    assert cli.main(["report", str(folder.path)]) == 0
    page = folder.report.read_text()
    assert "lead of the winner" not in page and "Active units" in page


FILE = """
import jax.numpy as jnp
from sparsejax import configs
from sparsejax.evaluation import Measure, register_measure
from sparsejax.figures.drawing import Column

@register_measure("half_bright")
class HalfBright(Measure):
    versions = 2

    def version(self, batch, index):
        return batch._replace(images=batch.images * jnp.where(index == 0, 1.0, 0.5))

    def of_batch(self, model, variables, batch):
        hits = jnp.argmax(batch.output.prediction, -1) == batch.labels
        return batch.sum(hits.astype(jnp.float32))

    def report(self, sums):
        both = [float(total) / self.setting.examples for total in sums]
        return {"bright": both, "layers": {layer.name: {"half": both[1]} for layer in self.setting.layers}}

    def columns(self, result):
        return [Column("Half <bright>", lambda layer: f"{layer['half']:.3f}", "Half is half as bright.")]
"""


def test_runs_of_version_1_are_drawn_again_without_the_measures_they_lack(tmp_path):
    shutil.copytree(ROOT / "tests/runs_0_1/mlp", tmp_path / "mlp")
    MEASURES.add("lead", as_measure(Lead(), "lead"), module=__name__)
    try:
        assert cli.main(["report", str(tmp_path / "mlp")]) == 0
    finally:
        del MEASURES._entries["lead"]
    page = (tmp_path / "mlp/report.html").read_text()
    assert "lead of the winner" not in page and all(words in page for words in ("noise score", "Dead units", "Entropy"))
    figures = {path.stem for path in (tmp_path / "mlp/figures").iterdir()}
    assert figures == {"training", "noise", "active_fraction", "duty_cycles", "filters"}


def test_a_measure_from_a_users_file(tmp_path: Path):
    (tmp_path / "mine.py").write_text(FILE)
    runpy.run_path(str(tmp_path / "mine.py"), run_name="mine")
    folder = RunFolder(tmp_path / "run")
    run(Experiment("mine", (small(evaluation__measures=("half_bright",)),), ({},)), folder)
    result, page = json.loads(folder.result.read_text()), folder.report.read_text()
    assert result["measures"] == ["accuracy", "half_bright"], "the best network is chosen on its accuracy"
    assert result["bright"][0] == pytest.approx(result["test_accuracy"])
    assert result["layers"]["hidden1"]["half"] == result["bright"][1] and result["layers"]["hidden1"]["units"] == 256
    assert "Half &lt;bright&gt;" in page and "Half is half as bright." in page
    runpy.run_path(str(tmp_path / "mine.py"), run_name="mine")  # the same file again replaces it
    with pytest.raises(ConfigError, match=r"'half_bright' of other has the same name as one of mine"):
        runpy.run_path(str(tmp_path / "mine.py"), run_name="other")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shard_map", "pmap"])
def test_a_pass_over_several_devices_counts_the_same(kind):
    dataset, config = data.load("digits").limit(None, 45), small()
    measures = [measure.bind(setting_of(config, dataset)) for measure in chosen_measures(config, dataset)]
    members = 1 if kind == "pmap" else 2
    configs_of = [replace(config, {"training.seed": seed}) for seed in range(members)]
    keys = jax.random.split(jax.random.key(1), members)
    variables = jax.vmap(lambda key: config.model.init(key, jnp.zeros((1, 28, 28, 1))))(keys)

    def sums(devices):
        placement = place(devices, members, {20})
        spread = {"axis_name": placement.axis_name, "shards": placement.shards}
        evaluate = transform(make_evaluation(measures, examples=45, batch_size=20, **spread), placement)
        networks = put_members((variables, stack(configs_of), jnp.zeros(members)), placement)
        return gather_members(evaluate(*networks, put_shared(make_resident(dataset, dataset.test), placement)), members)

    one = sums(DevicesConfig("jit"))
    several = sums(DevicesConfig(kind, data=4))
    for expected, found in zip(*map(jax.tree.leaves, (one, several)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_activity_is_measured_as_evaluated_without_own_noise_and_on_noisy_images():
    dataset = data.load("digits").limit(None, 45)
    config = replace(configs.get("mnist_noise"), {"data.name": "digits", "model.hidden": 20, "model.sigma": 0.5,
                                                   "evaluation.batch_size": 20})  # fmt: skip
    names = ("activity", "clean_activity", "noisy_activity")
    setting = setting_of(config, dataset)
    variables = config.model.init(jax.random.key(1), jnp.zeros((1, 28, 28, 1)))
    measures = [MEASURES[name].bind(setting) for name in names]
    test = make_resident(dataset, dataset.test, normalise=False)
    evaluate = jax.jit(make_evaluation(measures, examples=45, batch_size=20))
    sums = evaluate(variables, as_arrays(config), jnp.float32(0), test)
    said = {m.name: m.report(jax.tree.map(np.asarray, sums[m.name]))["layers"]["hidden"] for m in measures}
    pixels = jnp.asarray(dataset.test.images / np.float32(255))
    clean = float(jnp.mean(config.model.apply(variables, pixels).activations["hidden"] > 0))
    assert said["clean_activity"]["clean_active_fraction"] == pytest.approx(clean)
    assert said["noisy_activity"]["noisy_active_fraction"][0] == pytest.approx(clean), "the first level is no noise"
    assert len(said["noisy_activity"]["noisy_active_fraction"]) == len(NOISE_LEVELS)
    assert said["activity"]["active_fraction"] != pytest.approx(clean, rel=1e-3)


def test_defaults_that_do_not_fit_are_left_out_and_others_refused():
    dataset = data.load("digits").limit(60, 45)
    assert [m.name for m in chosen_measures(small(), dataset)] == [n for n in MEASURES if n in DEFAULT_MEASURES]
    autoencoder = replace(configs.get("mnist_noise"), {"data.name": "digits", "evaluation.measures": DEFAULT_MEASURES})
    assert {m.name for m in chosen_measures(autoencoder, dataset)} == set(CLEAN_MEASURES)
    with pytest.raises(ConfigError, match="has implicit_terms, but the implicit terms are known in closed form"):
        chosen_measures(small(evaluation__track=("implicit_terms",)), dataset)
    with pytest.raises(ConfigError, match="no measure 'acuracy'; did you mean accuracy.*noise_score.*import the file"):
        chosen_measures(small(evaluation__measures=("acuracy",)), dataset)
    with pytest.raises(ConfigError, match="has no report, which a measure needs"):
        as_measure(type("Half", (), {"of_batch": lambda *_: None})())


@pytest.mark.parametrize(
    ("old", "measures", "track"),
    [
        ({}, DEFAULT_MEASURES, ()),
        ({"noise": False, "track": True}, CLEAN_MEASURES, ("activity", "weights")),
        ({"detail": True, "implicit_examples": 20}, (*DEFAULT_MEASURES, "detail"), ("implicit_terms",)),
    ],
)
def test_switches_of_version_1_become_measures(old, measures, track):
    fields = to_json(small())
    del fields["evaluation"]["measures"], fields["evaluation"]["track"], fields["evaluation"]["implicit_examples"]
    fields["evaluation"] |= old
    evaluation = from_json(json.loads(json.dumps({"config": fields}))).evaluation
    assert (evaluation.measures, evaluation.track) == (measures, track)
    assert evaluation.implicit_examples == old.get("implicit_examples", 200)


def test_results_of_version_1_name_no_measures_but_show_them(make_result_of_1):
    assert [m.name for m in measures_of(make_result_of_1(noise=True, detail=False))] == [
        name for name in MEASURES if name in DEFAULT_MEASURES
    ]
    names = {m.name for m in measures_of(make_result_of_1(noise=False, detail=True))}
    assert names == {*CLEAN_MEASURES, "detail"}


@pytest.fixture
def make_result_of_1():
    def make(noise, detail):
        layer = {"units": 3, "active_fraction": 0.5, "dead_units": 0} | ({"gini": 0.1} if detail else {})
        return {"members": [{"layers": {"a": layer}} | ({"noise_score": 3} if noise else {})]}

    return make
