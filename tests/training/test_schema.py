"""The class of the network of a `config.json`, and errors for missing classes."""

import sys

import pytest

from sparsejax.errors import ConfigError
from sparsejax.models import Model, SparseMLP, configuration
from sparsejax.training.config import Config
from sparsejax.training.schema import from_json, to_json


def net(module, **fields):
    made = type("Net", (Model,), {"__module__": module, "__annotations__": dict.fromkeys(fields, int), **fields})
    return configuration(made)


def read(fields, module):
    return from_json({"config": fields, "schema": 2, "module": module})


def test_among_classes_of_one_name_the_recorded_module_then_the_fields_decide():
    first, other = net("first", units=3), net("other", units=4, k=2)
    fields = to_json(Config(first(units=7)))
    assert type(read(fields, "first").model) is first
    assert read(fields, "other").model == other(units=7)
    again = net("first", units=5)  # the same cell of a notebook once more
    assert type(read(fields, "first").model) is again
    assert type(read(to_json(Config(other())), "moved").model) is other, "the only one that has k"


def test_a_module_of_sparsejax_is_imported_and_no_other(tmp_path, monkeypatch):
    fields = to_json(Config(SparseMLP()))
    sys.modules.pop("sparsejax.configs.thesis", None)
    assert read(fields, "sparsejax.configs.thesis").model == SparseMLP()
    assert "sparsejax.configs.thesis" in sys.modules
    (tmp_path / "evil.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    assert read(fields, "sparsejax.no.such").model == SparseMLP()
    with pytest.raises(ConfigError, match="a SparseMLP of evil, which is not imported"):  # nor does ours stand in
        read(fields, "evil")


def test_an_undefined_class_is_named_with_its_module():
    fields = to_json(Config(SparseMLP()))
    fields["model"]["class"] = "Unheard"
    with pytest.raises(ConfigError, match=r"a Unheard of mine, which is not imported; .*--import FILE\.py"):
        read(fields, "mine")
