"""Calls every public function of functional/ and coding/ with arguments drawn at random, valid and not.

Each call has to end with a ValueError, a TypeError or a result that agrees with float64 NumPy (see references/).
`python -m tests.fuzz_functions --cases 10000` is the campaign of docs/reliability.md; the suite has a short one.
"""

import argparse
import collections
import inspect
import random
import sys
import time
import traceback
import types
import typing
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import AbstractArray, Bool, Float, Key, Num

from sparsejax import coding, functional
from tests.references import REFERENCES, Undefined

SIZES = {"height": (4,), "width": (5,), "kh": (1, 3), "kw": (2,), "samples": (100,), "classes": (3,),
         "frames": (4,), "bins": (129,), "rows": (2, 5), "columns": (3,), "ndim": (1,)}  # fmt: skip
ALL_ROWS = ((), (4,), (4,), (4,))
FLOATS = (np.float32, np.float32, np.float32, jnp.bfloat16, np.float64)
# What is drawn for a parameter of that name, given the draw and the function's name; others are in [0, 1).
NUMBERS: dict[str, Callable[[Any, str], Any]] = {
    "k": lambda d, f: d.rng.randint(1, max(1, d.sizes.get("n", d.sizes.get("units", d.sizes.get("atoms", 5))))),
    "axis": lambda d, f: -1,
    "window": lambda d, f: 2,
    "units": lambda d, f: d.size("units"),
    "atoms": lambda d, f: d.size("atoms"),
    "inputs": lambda d, f: d.size("inputs"),
    "classes": lambda d, f: 3,
    "n": lambda d, f: 6,
    "period": lambda d, f: d.rng.choice((1, 3, 1000)),
    "positions": lambda d, f: d.rng.choice((1, 4)),
    "steps": lambda d, f: d.rng.choice((0, 1, 2)),
    "terms": lambda d, f: d.rng.choice((1, 3)),
    "pool": lambda d, f: d.rng.choice((1, 3)),
    "pad": lambda d, f: d.rng.choice((0, 1, 2)),
    "frames": lambda d, f: d.rng.choice((0, 2, 4)),
    "bands": lambda d, f: 4,
    "n_fft": lambda d, f: 64 if f == "stft_power" else 256,
    "sigma": lambda d, f: d.rng.choice((0.2, 0.9)),
    "hop": lambda d, f: 32,
    "sample_rate": lambda d, f: 16_000,
    "epoch": lambda d, f: d.rng.choice((0, 1, 2.5, 7, 20)),
    "epochs": lambda d, f: d.rng.choice((1, 5, 10)),
    "k_min": lambda d, f: d.rng.choice((1, 3)),
    "fan_in": lambda d, f: d.rng.choice((1, 9)),
    "target": lambda d, f: 0.2,
    "promoted": lambda d, f: d.rng.choice((0.1, 0.4)),
    "keep": lambda d, f: d.rng.choice((0.2, 0.5, 1.0)),
    "density": lambda d, f: d.rng.choice((0.3, 0.5, 1.0)),
    "factor": lambda d, f: d.rng.choice((0.5, 1.0, 1.5)),
    "low": lambda d, f: 0.5,
    "high": lambda d, f: 1.5,
    "amin": lambda d, f: 1e-10,
    "top_db": lambda d, f: 80.0,
    "l1": lambda d, f: d.rng.choice((0.1, 0.5)),
    "l0": lambda d, f: 0.05,
    "max_iterations": lambda d, f: d.rng.choice((3, 200)),
    "max_searches": lambda d, f: d.rng.choice((1, 20)),
    "check_every": lambda d, f: d.rng.choice((1, 10)),
    "at_most": lambda d, f: 3,
    "sweeps": lambda d, f: 1,
    "descents": lambda d, f: 3,
    "size": lambda d, f: 2,
    "relaxation": lambda d, f: 1.8,
    "rho": lambda d, f: d.rng.choice((0.1, 1.0)),
    "penalty": lambda d, f: 0.1,
    "scale": lambda d, f: 0.3,
    "step": lambda d, f: 0.05,
    "tolerance": lambda d, f: 1e-3,
    "violation": lambda d, f: 1e-3,
    "peak": lambda d, f: d.rng.choice((1.0, 255.0)),
    "stride": lambda d, f: d.rng.choice((1, 2)),
    "batch_size": lambda d, f: 4,
    "seed": lambda d, f: 0,
    "capacity": lambda d, f: d.rng.choice((3, 40)),
    "bandwidth": lambda d, f: d.rng.choice((0.05, 1.0)),
    "decay": lambda d, f: 0.9,
}
SPOILT_NUMBERS = (-1, 0, 1, 2, 99, 0.5, -0.5, 1.0, float("nan"), float("inf"), -float("inf"), 10**30, True, "3", None,
                  [1], (1, 2), 1j, np.int64(3), np.uint8(2), np.float32(0.5), np.float16(-1), np.bool_(True),
                  np.array(2), np.array([1, 2]), np.array(0.5), jnp.float32, object())  # fmt: skip
TYPES = (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint32, np.bool_, np.complex64, np.float64, np.float16)
WILD = (np.nan, np.inf, -np.inf, 1e-40, -1e-45, 1e30, -3e38, -0.0, 0.0, 1.0)


class Draw:
    """Draws the arguments of one call; axes of one name have one size."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.numbers = np.random.default_rng(rng.randrange(2**32))
        self.dtype = np.dtype(rng.choice(FLOATS))
        self.sizes: dict[str, int] = {}
        self.rows: dict[str, tuple[int, ...]] = {}
        self.empty = rng.random() < 0.05

    def size(self, name: str) -> int:
        if name.isdigit():
            return int(name)
        batch = name in ("batch", "examples", "points")
        drawn = self.rng.choice(SIZES.get(name, (4,) if batch else (5, 5, 5, 8, 1)))
        return self.sizes.setdefault(name, 0 if batch and self.empty else drawn)

    def shape(self, axes: str) -> tuple[int, ...]:
        shape: tuple[int, ...] = ()
        for axis in axes.replace("#", "").split():
            if axis.startswith("*"):
                shape += self.rows.setdefault(axis, (0,) if self.empty else self.rng.choice(ALL_ROWS))
            else:
                shape += (self.size(axis),)
        return shape

    def values(self, shape: tuple[int, ...], *, wild: bool) -> np.ndarray:
        x = self.numbers.standard_normal(shape)
        kind = self.rng.randrange(6)
        if kind == 1:
            x = np.round(x)
        elif kind == 2:
            x = np.zeros(shape)
        elif kind == 3:
            x = np.full(shape, self.rng.choice((1.0, -2.0)))
        elif kind == 4 and wild:
            x = np.where(self.numbers.random(shape) < 0.3, self.numbers.choice(WILD, shape), x)
        with np.errstate(over="ignore"):
            return np.asarray(x).astype(self.dtype)

    def array(self, annotation: Any, name: str, *, wild: bool) -> Any:
        shape = self.shape(annotation.dim_str)
        if annotation.dtype is Key:
            return jax.random.split(jax.random.key(self.rng.randrange(99)), shape)
        if annotation.dtype is Bool:
            return self.as_any(self.numbers.random(shape) < 0.5)
        if annotation.dtype not in (Float, Num):
            low, high = (0, 3) if name in ("labels", "predictions") else (1, 2)
            return self.as_any(self.numbers.integers(low, high, shape).astype(np.int32))
        if name in ("p", "duty_cycle", "accuracy", "index", "confusion"):
            return self.as_any(self.numbers.random(shape).astype(np.float32))
        x = self.values(shape, wild=wild)
        return self.as_any(np.abs(x) if name in ("power", "gain") else np.sort(x) if name == "edges" else x)

    def array_of(self, shape: tuple[int, ...]) -> Any:
        return self.as_any(self.values(shape, wild=False))

    def as_any(self, x: np.ndarray) -> Any:
        return x if self.rng.random() < 0.2 else jnp.asarray(x)

    def argument(self, annotation: Any, name: str, function: str, *, wild: bool) -> Any:
        expected = alternatives(annotation)
        arrays = [one for one in expected if isinstance(one, type) and issubclass(one, AbstractArray)]
        if name == "key":
            return jax.random.key(self.rng.randrange(99))
        if type(None) in expected and self.rng.random() < 0.5:
            return None
        if float in expected or int in expected:
            number = NUMBERS.get(name, lambda d, f: d.rng.choice((0.0, 0.3, 0.9)))(self, function)
            whole = float not in expected
            kinds = [lambda v: v, lambda v: v, np.int64 if whole else np.float32, np.asarray]
            kinds += [lambda v: jnp.asarray(v, jnp.int32 if whole else jnp.float32)] if arrays else []
            return self.rng.choice(kinds)(number)
        for one in expected:
            if typing.get_origin(one) is Literal:
                return self.rng.choice(typing.get_args(one))
            if typing.get_origin(one) is tuple:
                return (0.0, 1.0) if float in typing.get_args(one) else self.rng.choice(((3, 4), (2, 2, 1, 5)))
            if isinstance(one, type) and issubclass(one, tuple):
                return self.record(one, function)
        if arrays:
            return self.array(self.rng.choice(arrays), name, wild=wild)
        return {bool: self.rng.random() < 0.5, str: None}.get(expected[0], jnp.tanh)

    def record(self, kind: Any, function: str) -> Any:
        if kind is functional.SparseCode:
            units, rows = self.size("units"), self.shape("*batch")
            k = self.rng.randint(1, units)
            places = np.sort(self.numbers.permuted(np.tile(np.arange(units), (*rows, 1)), axis=-1)[..., :k], axis=-1)
            known = self.rng.choice((units, None))
            return kind(jnp.asarray(self.values((*rows, k), wild=False)), jnp.asarray(places, jnp.int32), known)
        if kind is functional.RaggedCode:
            batch, units = self.size("batch"), self.size("units")
            capacity, most = self.rng.choice((3, 8)), batch * units
            places = np.sort(self.numbers.permutation(most)[: min(capacity, most)])
            empty = capacity - len(places)
            rows, of = (
                np.append(part, [end] * empty) for part, end in zip(divmod(places, units), (batch, units), strict=True)
            )
            values = np.append(self.values((len(places),), wild=False), np.zeros(empty)).astype(self.dtype)
            arrays = (jnp.asarray(values), jnp.asarray(rows, jnp.int32), jnp.asarray(of, jnp.int32))
            return kind(*arrays, jnp.int32(len(places)), batch, units)
        hints = typing.get_type_hints(kind)
        if kind is functional.BoostState:
            return kind(jnp.asarray(self.numbers.random(self.size(self.units(function))), jnp.float32),
                        jnp.float32(self.rng.choice((0, 3, 2000))))  # fmt: skip
        self.dtype = np.dtype(np.float32)
        parts = {name: jnp.asarray(np.abs(self.values(self.shape(hints[name].dim_str), wild=False)) + 0.1)
                 for name in kind._fields}  # fmt: skip
        counts = {name: jnp.int32(self.rng.choice((0, 3))) for name in ("steps", "skipped") if name in parts}
        return kind(**parts | counts)

    def units(self, function: str) -> str:
        return "channels" if function == "k_winners_2d" else "units"

    def spoilt(self, value: Any, annotation: Any, name: str) -> Any:
        """Returns another value for an argument, which may or may not be valid."""
        if not isinstance(value, (jax.Array, np.ndarray)) or np.ndim(value) == 0:
            if typing.get_origin(annotation) is Literal:
                return self.rng.choice((*typing.get_args(annotation), "frist", "", 1, None))
            if isinstance(value, tuple):
                bad = ((), (3,), (0, 2), (-1, 2), (2.5, 3), ("a", "b"), (3, 4, 5), [2, 3], 7, None, (True, 2), {"a": 1})
                return self.rng.choice(bad)
            return self.rng.choice((*SPOILT_NUMBERS, jnp.float32(0.3), jnp.int32(2), jnp.array([1, 2])))
        kind = self.rng.randrange(8)
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) or kind == 0:
            return self.rng.choice(
                (None, "x", 3, 0.5, [1.0, 2.0], np.array(["a"]), value[None], value[:0], {}, object())
            )
        if kind == 1:
            return value[None] if self.rng.random() < 0.5 else value[0] if len(value) else value
        if kind == 2:
            return jnp.swapaxes(value, 0, -1)
        if kind == 3:
            return jnp.concatenate([value, value[:1]], axis=0)
        if kind == 4:
            return value[..., : self.rng.randrange(value.shape[-1] + 1)]
        if kind == 5:
            return np.zeros((0, *value.shape[1:]), value.dtype)
        with np.errstate(all="ignore"):
            typed = np.asarray(np.real(np.asarray(value)).astype(np.float32)).astype(self.rng.choice(TYPES))
        return jnp.asarray(typed) if self.rng.random() < 0.7 else typed


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """Returns the members of a union, or the annotation alone."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def public_functions() -> dict[str, Callable[..., Any]]:
    """Returns name -> function, for everything that can be called in functional and coding and their namespaces."""
    found: dict[str, Callable[..., Any]] = {}
    for module in (functional, coding):
        found |= {name: getattr(module, name) for name in module.__all__ if inspect.isfunction(getattr(module, name))}
    for module in (functional.measures, functional.penalties, functional.augmentation):
        own = {name: one for name, one in vars(module).items() if inspect.isfunction(one) and not name.startswith("_")}
        prefix = module.__name__.split(".")[-1]
        found |= {f"{prefix}.{name}": one for name, one in own.items()
                  if inspect.unwrap(one).__module__ == module.__name__ and name not in functional.__all__}  # fmt: skip
    return found | {"DictionaryLearner": references_learner}


def references_learner(x: Float[np.ndarray, "examples inputs"], atoms: int, l1: float, k: int | None, batch_size: int,
                       epochs: int, seed: int):  # fmt: skip
    """Fits a DictionaryLearner; returns it and the codes."""
    learner = coding.DictionaryLearner(atoms, l1=l1, k=k, batch_size=batch_size, epochs=epochs, seed=seed)
    return learner.fit_transform(x)


def to_numpy(value: Any) -> Any:
    """Returns the argument or result with float64 arrays and Python numbers."""
    if isinstance(value, functional.SparseCode):
        return functional.SparseCode(to_numpy(value.values), to_numpy(value.indices), value.units)
    if isinstance(value, functional.RaggedCode):
        return functional.RaggedCode(*map(to_numpy, tuple(value)), value.batch, value.n)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(to_numpy, value))
    if isinstance(value, tuple):
        return tuple(map(to_numpy, value))
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return value
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        array = np.asarray(value)
        if array.dtype == np.float64 and array.ndim and not jax.config.read("jax_enable_x64"):
            with np.errstate(over="ignore"):
                array = array.astype(np.float32)
        floating = jnp.issubdtype(array.dtype, jnp.floating)
        array = array.astype(np.float64) if floating else array.astype(np.int64) if array.dtype.kind in "iu" else array
        return array[()]
    return float(value) if type(value) is int and abs(value) >= 2**31 else value


def tolerance(arguments: dict[str, Any], got: np.ndarray) -> float:
    """Returns the relative error that the least precise type explains."""
    types = [one.dtype for one in jax.tree.leaves((arguments, got)) if hasattr(one, "dtype")]
    widths = [jnp.finfo(one).eps for one in types if jnp.issubdtype(one, jnp.floating)]
    return 40 * float(max([*widths, jnp.finfo(jnp.float32).eps]))


def compare(got: Any, expected: Any, arguments: dict[str, Any], where: str = "result") -> None:
    """Compares a result with the reference.

    Raises:
      AssertionError: they differ.
    """
    if isinstance(expected, tuple):
        assert isinstance(got, tuple) and len(got) == len(expected), (where, type(got))
        for i, (one, other) in enumerate(zip(got, expected, strict=True)):
            compare(one, other, arguments, f"{where}[{i}]")
    elif expected is not None:
        got = np.asarray(got)
        error = tolerance(arguments, got)
        got, expected = np.asarray(to_numpy(got), np.float64), np.asarray(expected, np.float64)
        assert got.shape == expected.shape, f"{where} has shape {got.shape}; expected {expected.shape}"
        finite = np.abs(expected[np.isfinite(expected)])
        scale = max(1e-3, finite.max(initial=0.0))
        np.testing.assert_allclose(got, expected, rtol=error, atol=error * scale, err_msg=where)


def run_case(name: str, function: Callable[..., Any], rng: random.Random) -> str:
    """Draws one call; returns "result", "ValueError" or "TypeError", with "JAX's" before an error of JAX.

    Raises:
      AssertionError: the call ended otherwise, or with a wrong result.
    """
    draw, wild = Draw(rng), rng.random() < 0.3
    parameters = inspect.signature(function).parameters
    arguments = {
        key: draw.argument(one.annotation, key, name, wild=wild)
        for key, one in parameters.items()
        if one.default is inspect.Parameter.empty or rng.random() < 0.6 or key in ("n_fft", "bands", "pool")
    }
    arguments = REFERENCES[name].prepare(draw, arguments)
    spoilt = rng.random() < 0.5
    if spoilt:
        for key in rng.sample(sorted(arguments), min(len(arguments), rng.choice((1, 1, 2)))):
            if not callable(arguments[key]) and key != "axis_name":
                arguments[key] = draw.spoilt(arguments[key], parameters[key].annotation, key)
    shown = Shown(arguments)
    try:
        result = function(**arguments)
    except (ValueError, TypeError) as error:
        if not spoilt and not REFERENCES[name].may_refuse:
            raise AssertionError(f"{name} refused valid arguments: {error}\n{shown}") from error
        frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        kind = "TypeError" if isinstance(error, TypeError) else "ValueError"
        ours = "sparsejax" in frames[-1] or frames[-1].endswith("contextlib.py")
        if not ours:
            FOREIGN[f"{name}: {str(error).splitlines()[0][:150]}"] += 1
        return kind if ours else f"JAX's {kind}"
    except Exception as error:
        raise AssertionError(f"{name} raised {type(error).__name__}: {error}\n{shown}") from error
    try:
        known = dict(
            {key: one.default for key, one in parameters.items() if one.default is not inspect.Parameter.empty}
            | arguments
        )
        with np.errstate(all="ignore"):
            expected = REFERENCES[name].reference(
                types.SimpleNamespace(**{key: to_numpy(value) for key, value in known.items()}), to_numpy(result)
            )
            compare(result, expected, arguments)
    except Undefined:
        return "undefined"
    except Exception as error:
        raise AssertionError(f"{name} is wrong: {type(error).__name__}: {error}\n{shown}\n{result}") from error
    return "result"


class Shown:
    """Prints arguments briefly, and only if they are needed."""

    def __init__(self, arguments: dict[str, Any]):
        self.arguments = arguments

    def __str__(self) -> str:
        with np.printoptions(threshold=8, edgeitems=3, precision=4):
            return ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())


FOREIGN: collections.Counter[str] = collections.Counter()


def campaign(cases: int, seed: int, *, keep_going: bool = False) -> dict[str, collections.Counter[str]]:
    """Draws that many calls, in turn of every function; returns how they ended.

    Raises:
      AssertionError: one ended otherwise than it should.
    """
    functions, ends = public_functions(), collections.defaultdict(collections.Counter)
    names = list(functions)
    for case in range(cases):
        if case % 1000 == 999:  # Linux allows a process 65,530 mapped regions, of which each program takes several
            jax.clear_caches()
        name = names[case % len(names)]
        try:
            ends[name][run_case(name, functions[name], random.Random(seed * 10_000_000 + case))] += 1
        except AssertionError as error:
            if not keep_going:
                raise AssertionError(f"case {case}, seed {seed}: {error}") from error
            ends[name]["fault"] += 1
            print(f"case {case}: {str(error)[:1500]}\n", flush=True)
    return dict(ends)


def main() -> int:
    """Runs the campaign and prints how the calls of each function ended."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_disable_most_optimizations", True)  # halves the time of a compilation
    began = time.perf_counter()
    ends = campaign(options.cases, options.seed, keep_going=True)
    for name, counts in ends.items():
        print(f"{name:32s}", ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    for message, count in FOREIGN.most_common(40):
        print(f"  {count} x {message}")
    faults = sum(counts["fault"] for counts in ends.values())
    print(f"{options.cases} cases in {time.perf_counter() - began:.0f} s, {faults} faults; "
          f"x64 {jax.config.read('jax_enable_x64')}")  # fmt: skip
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
