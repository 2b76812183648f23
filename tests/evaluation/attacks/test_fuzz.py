"""A short campaign of random arguments of attacks: see tests/fuzz_attacks.py."""

import random

from tests.fuzz_attacks import ATTACKS, fuzz


def test_attacks_refuse_their_arguments_or_agree_with_numpy():
    ended = fuzz(60, random.Random(3))
    assert set(ended) <= {*ATTACKS, "robustness_report"}
    assert sum(counts["result"] for counts in ended.values()) > 10
    assert sum(counts["ConfigError"] for counts in ended.values()) > 10
