"""What users' measures may report, and which mistakes in them are refused, with the name of the measure."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax as sj
from sparsejax import data
from sparsejax.commands import cli
from sparsejax.configuration import replace
from sparsejax.errors import ConfigError
from sparsejax.evaluation.measure import (
    MEASURES,
    as_measure,
    chosen_measures,
    register_measure,
    setting_of,
)  # fmt: skip
from sparsejax.evaluation.report import add_report
from sparsejax.experiment import Experiment, run
from sparsejax.figures.drawing import Column, Drawing, Row, parts_of
from sparsejax.figures.histograms import Histogram, histograms
from sparsejax.training.run_folder import RunFolder
from tests.evaluation.test_measures_registry import Lead, small


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
