"""Numbers of NumPy are numbers: every public function treats them as Python's, with the same results and errors."""

import inspect
import random

import jax
import numpy as np
import pytest

from sparsejax import linen, models, nnx
from tests.fuzz_functions import Draw, alternatives, public_functions
from tests.references import REFERENCES

pytestmark = pytest.mark.wrong_types  # annotations name Python's numbers

FUNCTIONS = public_functions()
KINDS = {int: (np.int64, np.int32, np.uint8), float: (np.float64, np.float32)}
WRONG = {int: (-1, 99), float: (-1.0, float("nan"))}


def parameters_of(name, kind):
    """Returns the parameters of a function that are numbers of a kind."""
    of = {key: alternatives(one.annotation) for key, one in inspect.signature(FUNCTIONS[name]).parameters.items()}
    return [key for key, expected in of.items() if kind in expected and not (kind is int and float in expected)]


def valid_arguments(name, kind):
    """Returns arguments with which the function runs, all numbers of the kind being Python's."""
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    for seed in range(50):
        draw = Draw(random.Random(seed))
        drawn = {key: draw.argument(one.annotation, key, name, wild=False) for key, one in parameters.items()}
        drawn = REFERENCES[name].prepare(draw, drawn)
        given = [key for key in parameters_of(name, kind) if drawn[key] is not None and not np.ndim(drawn[key])]
        drawn |= {key: kind(drawn[key]) for key in given}
        if given and not isinstance(ending(name, drawn), str):
            return drawn, given
    raise AssertionError(f"no valid arguments of {name}")


def ending(name, arguments):
    """Returns what the call returns, or its error as a string."""
    try:
        return FUNCTIONS[name](**arguments)
    except (ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


def alike(one, other):
    if isinstance(one, str) or isinstance(other, str):
        assert one == other
    else:
        jax.tree.map(np.testing.assert_array_equal, one, other)
        types = [[np.asarray(leaf).dtype for leaf in jax.tree.leaves(result)] for result in (one, other)]
        assert types[0] == types[1]


CASES = [(name, kind) for name in FUNCTIONS for kind in KINDS if parameters_of(name, kind)]


@pytest.mark.parametrize(("name", "kind"), CASES, ids=[f"{name}-{kind.__name__}" for name, kind in CASES])
def test_functions_take_numbers_of_numpy(name, kind):
    arguments, given = valid_arguments(name, kind)
    expected = ending(name, arguments)
    for key in given:
        for numpys in KINDS[kind]:
            if kind is int and not np.iinfo(numpys).min <= arguments[key] <= np.iinfo(numpys).max:
                continue
            exact = numpys(arguments[key])
            python = expected if exact == arguments[key] else ending(name, arguments | {key: kind(exact)})
            alike(ending(name, arguments | {key: exact}), python)
        for value in WRONG[kind]:
            alike(ending(name, arguments | {key: KINDS[kind][0](value)}), ending(name, arguments | {key: value}))


X = np.random.default_rng(0).standard_normal((4, 6, 6, 8)).astype(np.float32)
N = np.int64


@pytest.mark.parametrize(
    "make",
    [
        lambda n: linen.TopK(n(3)),
        lambda n: linen.KWinners2d(n(3), period=n(7)),
        lambda n: linen.SparseDense(n(5), density=0.5),
        lambda n: linen.SparseConv(n(5), (n(3), n(3)), density=0.5),
    ],
)
def test_linen_layers_take_integers_of_numpy(make):
    def run(n):
        layer, key = make(n), jax.random.key(0)
        train = {"train": False} if isinstance(layer, linen.KWinners) else {}
        return layer.init_with_output(key, X, **train)[0]

    np.testing.assert_array_equal(run(N), run(int))


@pytest.mark.parametrize(
    "make",
    [
        lambda n, rngs: nnx.TopK(n(3)),
        lambda n, rngs: nnx.KWinners(n(8), k=n(3), period=n(7)),
        lambda n, rngs: nnx.SparseDense(n(8), n(5), density=0.5, rngs=rngs),
        lambda n, rngs: nnx.SparseConv(n(8), n(5), (n(3), n(3)), density=0.5, rngs=rngs),
    ],
)
def test_nnx_layers_take_integers_of_numpy(make):
    from flax import nnx as flax

    x = X[:, 0, 0] if "KWinners" in str(type(make(int, flax.Rngs(0)))) else X
    np.testing.assert_array_equal(make(N, flax.Rngs(0))(x), make(int, flax.Rngs(0))(x))


def test_networks_take_integers_of_numpy():
    ours = models.SparseMLP(hidden=(N(20),), k=(N(3),), classes=N(4), period=N(9))
    assert ours == models.SparseMLP(hidden=(20,), k=(3,), classes=4, period=9)
    params = ours.init(jax.random.key(0), X).params
    assert params["hidden1"]["kernel"].shape == (288, 20) and params["output"]["kernel"].shape == (20, 4)
