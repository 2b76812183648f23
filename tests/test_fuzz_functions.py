"""A short campaign over the arguments of functional/ and coding/: see fuzz_functions.py."""

import pytest

from tests.fuzz_functions import campaign, public_functions
from tests.references import REFERENCES


def test_every_public_function_has_a_reference():
    assert set(public_functions()) == set(REFERENCES)


@pytest.mark.wrong_types
@pytest.mark.parametrize("cases", [30, pytest.param(len(REFERENCES), marks=pytest.mark.slow)])
def test_every_call_ends_with_an_error_or_the_right_result(cases):
    ends = campaign(cases, seed=5)
    assert sum(counts["result"] for counts in ends.values()) >= cases / 3
    assert sum(counts["ValueError"] + counts["TypeError"] for counts in ends.values()) >= cases / 8
