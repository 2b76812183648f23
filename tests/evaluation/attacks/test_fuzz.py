"""A short campaign of random arguments of attacks: see tests/fuzz_attacks.py."""

import random

import pytest

from tests.fuzz_attacks import ATTACKS, fuzz


@pytest.mark.parametrize("cases", [20, pytest.param(60, marks=pytest.mark.slow)])
def test_attacks_refuse_their_arguments_or_agree_with_numpy(cases):
    ended = fuzz(cases, random.Random(3))
    assert set(ended) <= {*ATTACKS, "robustness_report"}
    assert sum(counts["result"] for counts in ended.values()) > cases / 6
    assert sum(counts["ConfigError"] for counts in ended.values()) > cases / 6
