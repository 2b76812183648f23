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
    register_measure,
    setting_of,
)  # fmt: skip
from sparsejax.evaluation.measures.noise_score import NOISE_LEVELS
from sparsejax.evaluation.report import add_report
from sparsejax.evaluation.split import make_evaluation
from sparsejax.experiment import Experiment, run
from sparsejax.figures.drawing import Column, Drawing, Row, parts_of
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


def measure_of(**own):
    """Returns a measure named `mine` with these attributes; a value that is no function is returned by the method."""
    methods = {"of_batch": lambda self, model, variables, batch: {}, "report": {}, "name": "mine"} | own
    said = {"report", "rows", "columns", "tables", "figures"}
    return type("Mine", (), {
        name: (lambda self, _, value=value: value) if name in said and not callable(value) else value
        for name, value in methods.items()
    })()  # fmt: skip


def trained(folder, *measures, **changes):
    run(Experiment("mine", (small(evaluation__measures=("accuracy",), **changes),), ({},), measures), folder)
    return json.loads(folder.result.read_text())


NUMBERS = {"half": np.float32(0.5), "three": jnp.int32(3), "list": [np.arange(2), jnp.ones(1)],
           "nan": np.float64("nan"), "array": np.array([1, 2]),
           "layers": {"hidden1": {"some": np.float16(0.5)}}}  # fmt: skip


def test_reports_may_have_numbers_and_arrays_of_numpy_and_jax_and_numbers_that_are_not_finite(tmp_path, capsys):
    measure = as_measure(
        measure_of(
            report=NUMBERS,
            rows=Row("nan", "not finite", lambda value, *_: f"{value:.2f}"),
            columns=None,
            figures=Drawing("mine.png", "Mine", "A caption.", "Text.", picture),
        )
    )
    config = small(evaluation__measures=("accuracy",), evaluation__track=("mine",))
    folder = RunFolder(tmp_path / "run")
    MEASURES.add("mine", measure, module=__name__)
    try:
        run(Experiment("mine", tuple(replace(config, {"training.seed": seed}) for seed in (1, 2)), ({}, {})), folder)
        written = folder.report.read_text()
        assert cli.main(["report", str(folder.path)]) == 0 and folder.report.read_text() == written
        assert sj.compare(folder.path)[str(folder.path)]["not finite"] == "–"
    finally:
        del MEASURES._entries["mine"]
    result = json.loads(folder.result.read_text())
    expected = {"half": 0.5, "three": 3, "list": [[0, 1], [1.0]], "nan": None, "array": [1, 2]}
    assert all({name: one[name] for name in expected} == expected for one in (result, *result["members"]))
    assert result["layers"]["hidden1"]["some"] == 0.5 and (folder.figures / "mine.png").exists()
    assert "<dt>not finite</dt><dd>–" in written and sj.load(folder.path).history["half"].tolist() == [[0.5, 0.5]]


def picture(width):
    return histograms({"a": Histogram(np.ones(2), np.arange(3.0), "a")}, columns=1, width=width)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (Lead, r"The measure Lead is a class; pass an object, Lead\(\)"),
        (measure_of(name="noise_score"), "Two measures have the name 'noise_score'; set `name`"),
        (type("MyScore", (type(MEASURES["noise_score"]),), {})(), "Two measures have the name 'noise_score'"),
        (
            measure_of(file="../escape.npz"),
            r"measure 'mine' have the file '../escape.npz'; expected the path of an .npz",
        ),
        (measure_of(file="/tmp/escape.npz"), "expected the path of an .npz file in the run folder"),
        (
            measure_of(file="units.npz"),
            "measure 'mine' have the file 'units.npz'; .* in the run folder that no other measure has",
        ),
        (measure_of(file="result.json"), "expected the path of an .npz file in the run folder"),
        (measure_of(name="../escape"), "'arrays/../escape.npz'; expected the path of an .npz file in the run folder"),
        (measure_of(misfit=lambda self, setting: 1 / 0), "`misfit` of the measure 'mine' raised ZeroDivisionError"),
    ],
)
def test_measures_that_cannot_be_chosen(measure, message):
    with pytest.raises(ConfigError, match=message):
        chosen_measures(small(), data.load("digits").limit(60, 45), (measure,))


def test_names_of_passed_measures_are_distinct_but_a_registered_class_may_be_passed():
    dataset = data.load("digits").limit(60, 45)
    with pytest.raises(ConfigError, match="Two measures have the name 'lead'"):
        chosen_measures(small(), dataset, (Lead(), Lead()))
    own = type(MEASURES["noise_score"])()
    own.examples = 7
    assert {m.name: m.examples for m in chosen_measures(small(), dataset, (own,))}["noise_score"] == 7


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (
            {"of_batch": lambda *_: jnp.zeros(2) @ jnp.zeros(3)},
            "`of_batch` of the measure 'mine' raised TypeError: dot",
        ),
        ({"of_batch": lambda *_: "text"}, "`of_batch` of the measure 'mine' raised"),
        ({"versions": 2, "version": lambda *_: {}["x"]}, "`version` of the measure 'mine' raised KeyError: 'x'"),
        ({"track": lambda *_: {}["x"]}, "`track` of the measure 'mine' raised KeyError: 'x'. Correct it and repeat"),
        ({"track": lambda *_: {"test_loss": jnp.zeros(())}}, "measure 'mine' reports test_loss, which .* already"),
    ],
)
def test_measures_are_traced_before_training(own, message, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(ConfigError, match=message):
        trained(folder, measure_of(**own), evaluation__track=("mine",))
    assert not folder.metrics.exists() or not folder.metrics.read_text()


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (None, "`report` of the measure 'mine' returned None; expected a dictionary"),
        (0.5, "`report` of the measure 'mine' returned 0.5; expected a dictionary"),
        ({"layers": [1]}, "expected a dictionary, such as"),
        (
            {"layers": {"hidden9": {}}},
            "returned {} for the layer 'hidden9'; expected .* one of the layers hidden1",
        ),
        ({"layers": {"hidden1": 3}}, "returned 3 for the layer 'hidden1'; expected a dictionary"),
        ({"layers": {"hidden1": {"units": 3}}}, "The measure 'mine' reports units, which the run or another measure"),
        ({"test_accuracy": 1.0}, "The measure 'mine' reports test_accuracy, which the run or another measure"),
        ({"name": "me"}, "The measure 'mine' reports name, which the run or another measure"),
        ({"a.b": 1}, "The measure 'mine' reports a.b; expected keys without a dot"),
        ({"odd": object()}, "returned .*, which result.json cannot store .*; expected numbers, text, arrays"),
        (lambda self, sums: {}["x"], "`report` of the measure 'mine' raised KeyError: 'x'"),
    ],
)
def test_reports_that_are_refused(report, message):
    measure = as_measure(measure_of(report=report)).bind(setting_of(small(), data.load("digits").limit(60, 45)))
    with pytest.raises(ConfigError, match=message):
        add_report({"test_accuracy": 0.9, "layers": {"hidden1": {"units": 256}}}, measure, {})


@pytest.mark.parametrize(
    ("method", "made", "message"),
    [
        ("rows", lambda self, result: result["x"], "`rows` of the measure 'mine' raised KeyError: 'x'"),
        ("rows", 3, "`rows` of the measure 'mine' raised TypeError"),
        ("rows", ["mine"], "`rows` of the measure 'mine' returned 'mine'; expected a list of Row"),
        (
            "rows",
            [Row("mind", "mine")],
            "key 'mind', for which the networks have 'nothing'; expected the key of a number",
        ),
        (
            "rows",
            [Row("list", "mine")],
            r"key 'list', for which the networks have \[1, 2\]; expected the key of a number",
        ),
        ("rows", [Row("mine", "mine", at_best=True)], "'nothing' after the best epoch; .* Set `at_best = True`"),
        ("columns", [Row("mine", "mine")], "`columns` of the measure 'mine' returned Row.*; expected a list of Column"),
        ("figures", lambda self, shown: 1 / 0, "`figures` of the measure 'mine' raised ZeroDivisionError"),
    ],
)
def test_parts_of_the_report_that_are_refused(method, made, message):
    result = {"members": [{"mine": 1.0, "list": [1, 2], "best": {"epoch": 1}}]}
    with pytest.raises(ConfigError, match=message):
        parts_of([as_measure(measure_of(**{method: made}))], method, result)


def test_parts_that_cannot_be_formatted_name_their_measure():
    measure = as_measure(measure_of(columns=Column("Mine", lambda layer: layer["mine"])))
    (column,) = parts_of([measure], "columns", {})
    with pytest.raises(ConfigError, match="`columns` of the measure 'mine' raised KeyError: 'mine'"):
        column.cell({})


def test_names_are_texts_in_tuples():
    with pytest.raises(ConfigError, match=r'register_measure got <class .*expected text.*@register_measure\("mine"\)'):
        register_measure(Lead)
    with pytest.raises(ConfigError, match="class of the measure 'mine', called without arguments, raised TypeError"):
        register_measure("mine")(type("Needs", (), {"__init__": lambda self, argument: None}))
    with pytest.raises(ConfigError, match=r"evaluation.measures is 'accuracy'; expected a tuple such as \('acc"):
        small(evaluation__measures="accuracy")
    with pytest.raises(ConfigError, match=r"evaluation.track is 'activity'; expected a tuple such as \('act"):
        small(evaluation__track="activity")
    for measures in ("accuracy", Lead()):
        with pytest.raises(ConfigError, match=r"measures is .*; expected a list of names and objects"):
            sj.train("digits_mlp", measures=measures)


def test_arrays_have_no_objects(tmp_path):
    with pytest.raises(ConfigError, match="`arrays` of the measure 'mine' raised TypeError: odd has Python objects"):
        trained(RunFolder(tmp_path / "run"), measure_of(arrays=lambda self, sums: {"odd": [None, 1]}))


def test_figures_stay_in_their_folder(tmp_path):
    escaping = measure_of(figures=Drawing("../mine.png", "Mine", "A caption.", "Text.", picture))
    with pytest.raises(ConfigError, match=r"A figure has the file '../mine.png'; expected a name without a folder"):
        trained(RunFolder(tmp_path / "run"), escaping)
