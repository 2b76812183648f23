"""Dictionary learning from mini-batches as a transformer of scikit-learn."""

import functools
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.coding.dictionary import DictionaryState, init_dictionary, update_dictionary
from sparsejax.coding.estimators.coder import Coder, check_width, read_array, read_table, warn_unfinished
from sparsejax.coding.estimators.settings import Coding, check_coding, check_count, check_flag, check_number

_LEARN_WITH = ("lasso", "pursuit")


class DictionaryLearner(Coder):
    """Learns a dictionary from mini-batches and codes with it; a scikit-learn transformer.

    Codes are of the type of X, float32 or, with `jax_enable_x64`, float64; anything else becomes float32, or float64
    with `jax_enable_x64`. The dictionary is of the type of the X that it was learned from.

    Args:
      atoms: number of atoms.
      l1: weight of the codes' absolute values, for the lasso.
      l2: weight of half their squared length (elastic net), for the lasso.
      nonnegative: codes of 0 or more, for the lasso.
      k: transform by orthogonal matching pursuit with at most k atoms. The lasso codes if k, omp_tolerance and
        omp_error are None.
      omp_tolerance: end the pursuit of an example when this fraction of its energy is left.
      omp_error: end the pursuit of an example when this squared error is left.
      learn_with: "lasso" learns from the lasso's codes, also if `transform` pursues; "pursuit" from those of
        orthogonal matching pursuit, with the limits of `transform`.
      nonnegative_atoms: learn atoms without negative entries, as of non-negative matrix factorization.
      dict_init: atoms to start from `[atoms, inputs]`, scaled down to length 1 where they are longer; None for
        examples.
      batch_size: examples per step. The shuffled epochs make one sequence, of which a step takes the next examples.
      epochs: largest number of passes of `fit` over the examples.
      stop_tolerance: end `fit` when the mean objective of an epoch has not fallen by this fraction of the best before
        for `patience` epochs; None for all epochs.
      patience: see `stop_tolerance`.
      forget: how fast the weight of old batches decays, see `update_dictionary`.
      tolerance: largest relative duality gap of the lasso's codes.
      max_iterations: of the lasso's solver for one batch of `fit`; `transform` takes up to five times as many.
      seed: for the initial dictionary and the order of the examples, an integer, 0 or more.
      verbose: print the progress of each epoch to stderr.

    Attributes:
      components_: after fitting, the atoms as rows `[atoms, inputs]` as in scikit-learn (the transpose of the
        convention in `sparsejax.coding`).
      error_: of `fit`, the mean objective in each epoch, of codes with the dictionary before each step: of the lasso,
        or half the squared error of a pursuit.
      n_features_in_: the number of inputs.
      feature_names_in_: the names of the columns, if X is a DataFrame.
      n_iter_: the number of epochs of `fit`.
      n_steps_: batches seen.
      state_: DictionaryState.

    Examples:
      >>> x = np.random.default_rng(0).standard_normal((200, 16))
      >>> DictionaryLearner(atoms=24, l1=0.5, epochs=2).fit_transform(x).shape
      (200, 24)
    """

    def __init__(
        self,
        atoms: int = 100,
        *,
        l1: float = 1.0,
        l2: float = 0.0,
        nonnegative: bool = False,
        k: int | None = None,
        omp_tolerance: float | None = None,
        omp_error: float | None = None,
        learn_with: str = "lasso",
        nonnegative_atoms: bool = False,
        dict_init: Any = None,
        batch_size: int = 256,
        epochs: int = 10,
        stop_tolerance: float | None = None,
        patience: int = 1,
        forget: float = 1.0,
        tolerance: float = 1e-3,
        max_iterations: int = 200,
        seed: int = 0,
        verbose: bool = False,
    ):
        self.atoms = atoms
        self.l1 = l1
        self.l2 = l2
        self.nonnegative = nonnegative
        self.k = k
        self.omp_tolerance = omp_tolerance
        self.omp_error = omp_error
        self.learn_with = learn_with
        self.nonnegative_atoms = nonnegative_atoms
        self.dict_init = dict_init
        self.batch_size = batch_size
        self.epochs = epochs
        self.stop_tolerance = stop_tolerance
        self.patience = patience
        self.forget = forget
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.seed = seed
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> "DictionaryLearner":
        """Learns a dictionary from scratch from the rows of X `[examples, inputs]`; y is ignored.

        Warns with scikit-learn's `ConvergenceWarning` if codes of the last epoch have not reached `tolerance`.

        Raises:
          ValueError: X is not a finite table of numbers, or a setting is out of range.
        """
        how = self._check()
        x = read_table(self, X, reset=True)
        draw = np.random.default_rng(int(self.seed))
        state, size, errors = self._start(x, draw), min(int(self.batch_size), len(x)), []
        best, unimproved, epoch = np.inf, 0, _Epoch()
        for batches in _epochs(draw, len(x), size, int(self.epochs)):
            epoch = _Epoch()
            for rows in batches:
                state, found = self._step(state, x[rows], how)
                epoch = epoch.plus(found, len(rows))
            errors.append(epoch.error)
            self._report(errors, epoch)
            improved = self.stop_tolerance is None or epoch.error < best * (1 - self.stop_tolerance)
            best, unimproved = min(best, epoch.error), 0 if improved else unimproved + 1
            if unimproved == self.patience:
                break
        warn_unfinished(epoch.unfinished, epoch.codes, epoch.worst, "in the last epoch of DictionaryLearner.fit", how)
        self.error_, self.n_iter_ = np.asarray(errors), len(errors)
        return self._store(state)

    def partial_fit(self, X: Any, y: Any = None) -> "DictionaryLearner":
        """Takes one step on all rows of X, starting a dictionary from them if there is none; y is ignored.

        Raises:
          ValueError: as `fit`, or X has another number of inputs than before.
        """
        how, first = self._check(), not hasattr(self, "state_")
        x = read_table(self, X, reset=first)
        before = self._start(x, np.random.default_rng(int(self.seed))) if first else self.state_
        state, found = self._step(before, x, how)
        count, worst = int(found.unfinished), float(found.worst)
        warn_unfinished(count, len(x), worst, "of DictionaryLearner.partial_fit", how)
        return self._store(state)

    def _check(self) -> Coding:
        """Checks all settings; returns those of the codes while learning."""
        for name in ("atoms", "batch_size", "epochs", "patience"):
            check_count(name, getattr(self, name))
        check_count("seed", self.seed, least=0)
        check_number("forget", self.forget)
        for name in ("nonnegative_atoms", "verbose"):
            check_flag(name, getattr(self, name))
        if self.stop_tolerance is not None:
            check_number("stop_tolerance", self.stop_tolerance)
        if self.learn_with not in _LEARN_WITH:
            raise ValueError(f"learn_with is {self.learn_with!r}; expected {' or '.join(map(repr, _LEARN_WITH))}.")
        self._coding()
        return check_coding(self.get_params(deep=False), pursuit=self.learn_with == "pursuit")

    def _start(self, x: np.ndarray, draw: np.random.Generator) -> DictionaryState:
        settings = {"atoms": int(self.atoms), "nonnegative_atoms": bool(self.nonnegative_atoms)}
        some = x[draw.permutation(len(x))[: int(self.atoms)]]
        state = _init(jax.random.key(int(self.seed)), some, **settings)
        if self.dict_init is None:
            return state
        given = read_array(self.dict_init, "dict_init").astype(x.dtype)
        check_width(x, given)
        if len(given) != self.atoms:
            raise ValueError(f"dict_init has {len(given)} rows; expected one for each of the {self.atoms} atoms.")
        if self.nonnegative_atoms and given.min() < 0:
            raise ValueError(
                f"dict_init has an entry {given.min():g}, but nonnegative_atoms is True; expected entries of 0 or more."
            )
        given = given / np.maximum(np.linalg.norm(given, axis=1, keepdims=True), 1)
        return state._replace(dictionary=jnp.asarray(given.T))

    def _step(self, state: DictionaryState, x: np.ndarray, how: Coding) -> tuple[DictionaryState, "_Found"]:
        fixed, numbers = how.split()
        settings = {"fixed": fixed, "nonnegative_atoms": bool(self.nonnegative_atoms)}
        return _step(state, x, float(self.forget), numbers, **settings)

    def _report(self, errors: list[float], epoch: "_Epoch") -> None:
        if self.verbose:
            change = f" ({errors[-1] / errors[-2] - 1:+.2%})" if len(errors) > 1 and errors[-2] else ""
            done = f"{1 - epoch.unfinished / epoch.codes:.0%} of the codes converged"
            line = (
                f"DictionaryLearner: epoch {len(errors)} of {self.epochs}, objective {errors[-1]:.6g}{change}, {done}"
            )
            print(line, file=sys.stderr, flush=True)

    def _store(self, state: DictionaryState) -> "DictionaryLearner":
        self.state_ = state
        self.components_ = np.asarray(state.dictionary.T)
        self.n_steps_ = int(state.steps)
        return self

    def _atoms(self) -> np.ndarray:
        return self.components_

    def _coding(self) -> Coding:
        how = super()._coding()
        return how._replace(max_iterations=5 * how.max_iterations)


class _Found(NamedTuple):
    """The mean objective of a batch, the number of codes that have not converged, and their largest gap."""

    objective: jax.Array
    unfinished: jax.Array
    worst: jax.Array


class _Epoch(NamedTuple):
    """Sums over the batches of an epoch; numbers stay on the device until they are read."""

    total: Any = 0.0
    count: Any = 0
    largest: Any = 0.0
    codes: int = 0

    def plus(self, found: _Found, codes: int) -> "_Epoch":
        total, count = self.total + found.objective * codes, self.count + found.unfinished
        return _Epoch(total, count, jnp.maximum(self.largest, found.worst), self.codes + codes)

    @property
    def error(self) -> float:
        return float(self.total) / self.codes

    @property
    def unfinished(self) -> int:
        return int(self.count)

    @property
    def worst(self) -> float:
        return float(self.largest)


def _epochs(draw: np.random.Generator, examples: int, size: int, epochs: int) -> Iterator[list[np.ndarray]]:
    """Yields the batches that begin in each epoch, as indices of examples.

    All batches are of one size, which one program serves, and none of the examples is dropped: what an epoch leaves
    over is followed by the first examples of the next one.
    """
    left = np.zeros(0, int)
    for epoch in range(epochs):
        left = np.concatenate([left, draw.permutation(examples)])
        if epoch == epochs - 1 and (missing := -len(left) % size):
            left = np.concatenate([left, draw.permutation(examples)[:missing]])
        whole = len(left) // size
        yield list(left[: whole * size].reshape(whole, size))
        left = left[whole * size :]


_init = jax.jit(init_dictionary, static_argnames=("atoms", "nonnegative_atoms"))


@functools.partial(jax.jit, static_argnames=("fixed", "nonnegative_atoms"))
def _step(
    state: DictionaryState, x: Any, forget: Any, numbers: Any, *, fixed: Any, nonnegative_atoms: bool
) -> tuple[DictionaryState, _Found]:
    how = Coding(*fixed, *numbers)
    x = x.astype(state.dictionary.dtype)
    code = how.solve(x, state.dictionary)
    error = jnp.mean(how.objective(x, state.dictionary, code.code))
    new = update_dictionary(state, x, code.code, forget=forget, nonnegative_atoms=nonnegative_atoms)
    return new, _Found(error, *how.unfinished(code))
