"""A short campaign of damaged files and invalid commands: see fuzz.py."""

import random

from tests.fuzz import fuzz_commands, fuzz_files


def test_damaged_files_are_refused_with_a_message(tmp_path):
    refused = fuzz_files(40, tmp_path, random.Random(1))
    assert refused.pop("metrics.jsonl") == 0, "what cannot be read of a log is left out"
    assert all(count >= 10 for kind, count in refused.items() if kind not in ("npy", "cifar", "mat")), refused


def test_invalid_commands_are_refused_and_write_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    statuses = fuzz_commands(30, tmp_path, random.Random(1))
    assert statuses[2] >= 10
