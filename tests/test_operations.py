"""A sample of `operation_campaign`: a run is killed, or its calls fail, at changes of its files."""

import pytest

from tests.command import EIGHT
from tests.operation_campaign import SCENARIOS, Campaign, forks
from tests.preload import needs_preload

pytestmark = [pytest.mark.optimized, needs_preload]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    folder = tmp_path_factory.mktemp("campaign")
    with forks(folder / "forks", **EIGHT) as trial:
        yield Campaign(folder, trial)


@pytest.mark.parametrize(
    ("name", "action", "at"),
    [
        ("first", "full", 45),
        ("fresh", "kill", 20),  # while it deletes
        ("resume", "power", 43),
        *(
            pytest.param(name, action, at, marks=pytest.mark.slow)
            for name in SCENARIOS for action in ("kill", "power", "fail") for at in (5, 30, 62, 140)
        ),
    ],
)  # fmt: skip
def test_the_same_command_ends_as_if_nothing_had_happened(campaign, name, action, at):
    campaign.check(name, action, at, again=SCENARIOS[name].again if at % 2 else ())


@pytest.mark.slow
def test_the_library_counts_every_change(campaign):
    operations = campaign.count("fresh")
    named = [(int(number), name, path) for number, name, _, path in (line.split(" ", 3) for line in operations)]
    assert [number for number, *_ in named] == list(range(1, len(named) + 1))
    kinds = {"open", "write", "truncate", "fsync", "rename", "unlink", "rmdir", "mkdir"}
    assert {name for _, name, _ in named} == kinds
    assert ("rename", "/.discarded") in [(name, path) for _, name, path in named]
