"""Lanes: every example takes the steps it would take alone, whatever the number of lanes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.evaluation.attacks import apgd, pgd, square
from sparsejax.evaluation.attacks import lanes as lanes_module
from sparsejax.evaluation.attacks.lanes import count_lanes, run_in_lanes
from tests.evaluation.attacks.networks import curved

NEEDED = np.array([3, 1, 9, 2, 2, 50, 1, 4, 7, 1], np.int32)
"""Steps until an example is done."""


def count_down(needed, taken, i, turn):
    del turn
    return taken + 1, i + 1 >= needed


@pytest.mark.parametrize("lanes", [1, 3, 4, 10, 99, None])
def test_every_example_takes_its_steps(lanes):
    waiting = NEEDED != 7
    run = jax.jit(lambda needed: run_in_lanes(count_down, needed, 0 * needed, waiting, iterations=10, lanes=lanes))
    states, steps = run(NEEDED)
    expected = np.where(waiting, np.minimum(NEEDED, 10), 0)
    np.testing.assert_array_equal(states, expected)
    np.testing.assert_array_equal(steps, expected)


def test_an_example_that_is_done_gives_its_lane_to_the_next():
    def last_turn(needed, last, i, turn):
        return jnp.full_like(last, turn), i + 1 >= needed

    needed = jnp.asarray(NEEDED)
    last, _ = run_in_lanes(last_turn, needed, 0 * needed, needed > 0, iterations=10, lanes=4)
    assert int(last.max()) + 1 <= np.minimum(NEEDED, 10).sum() / 4 + 10


def test_nothing_waits():
    empty = jnp.zeros(0, jnp.int32)
    states, steps = run_in_lanes(count_down, empty, empty, empty > 0, iterations=3)
    assert states.shape == steps.shape == (0,)
    needed = jnp.asarray(NEEDED)
    states, steps = run_in_lanes(count_down, needed, needed, needed > 99, iterations=3)
    np.testing.assert_array_equal(states, NEEDED)
    assert not steps.any()


def test_lanes_are_an_eighth_of_a_batch_on_a_cpu(monkeypatch):
    assert [count_lanes(count) for count in (1, 4, 30, 128)] == [1, 4, 4, 16]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert count_lanes(128) == 128


@pytest.mark.parametrize(("attack", "settings"), [(pgd, {"random": False}), (apgd, {"iterations": 20})])
def test_attacks_find_the_same_with_any_number_of_lanes(attack, settings, monkeypatch):
    case, results = curved(), []
    for lanes in (3, 40):
        monkeypatch.setattr(lanes_module, "count_lanes", lambda count, lanes=lanes: lanes)
        found = attack(case.logits, case.x, case.labels, epsilon=0.02, key=jax.random.key(0), **settings)
        results.append(found)
    np.testing.assert_array_equal(results[0].success, results[1].success)
    np.testing.assert_allclose(results[0].images, results[1].images, atol=1e-5)


def test_square_computes_no_gradients():
    case = curved()

    @jax.custom_vjp
    def logits(x):
        return case.logits(x)

    def refuse(x):
        raise AssertionError("a gradient is computed")

    logits.defvjp(refuse, refuse)
    found = square(logits, case.x, case.labels, epsilon=0.02, queries=5, key=jax.random.key(0))
    assert found.success[2]
