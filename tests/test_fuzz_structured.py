"""A short campaign of files and run folders made by their grammar: see fuzz_structured.py."""

import collections

import pytest

from tests import fuzz_structured, hostile

COUNTS = {"pickle": 20, "idx": 10, "npz": 10, "npy": 10, "mat": 8, "wav": 10, "images": 8, "latents": 6,
          "safetensors": 6, "speech": 2, "text": 3, "tfds": 3, "load": 20, "claim": 8, "compare": 6}  # fmt: skip


def test_hostile_files_and_run_folders_are_refused_with_a_message(small_run):
    found = collections.Counter()
    for kind, count in COUNTS.items():
        for number in range(count):
            outcome = fuzz_structured.try_case(kind, number, 3, small_run / "run")
            assert outcome.said in ("read", "refused"), f"{kind} {number}: {outcome.said}"
            found[outcome.said] += 1
    assert found["read"] > 30 and found["refused"] > 30, found


def test_a_failure_is_seen(small_run, monkeypatch):
    def fail(error: BaseException):
        def work(*_):
            raise error

        return hostile.Kind(1, work)

    def slow(*_):
        fuzz_structured.time.sleep(0.2)

    kinds = {"bug": fail(KeyError("seed")), "long": fail(fuzz_structured.errors.ConfigError("x" * 5000)),
             "slow": hostile.Kind(1, slow, 0.1), "large": hostile.Kind(1, lambda *_: bytearray(2**26))}  # fmt: skip
    monkeypatch.setattr(fuzz_structured, "KINDS", kinds)
    monkeypatch.setattr(fuzz_structured, "BYTES", 2**25)
    for kind in kinds:
        said = fuzz_structured.try_case(kind, 0, 0, small_run / "run").said
        assert said not in ("read", "refused"), kind


@pytest.mark.parametrize("total", [100, 20_000])
def test_the_campaign_has_as_many_cases_as_asked(total):
    assert abs(len(fuzz_structured.cases(total)) - total) < 20
