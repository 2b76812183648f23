"""Transformers that code with a dictionary: what they share, and `SparseCoder`, whose dictionary is given."""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from sparsejax.coding.estimators.settings import Coding, check_coding
from sparsejax.coding.problem import Code

# Small coefficients, to which the duality gap is insensitive, are as exact as by default in `admm`.
_VIOLATION = 5e-4


class Coder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """`transform` and `inverse_transform` with the atoms that `_atoms` returns and the settings of `check_coding`."""

    def transform(self, X: Any) -> Any:
        """Codes the rows of X.

        Warns with scikit-learn's `ConvergenceWarning` if codes have not reached `tolerance`.

        Args:
          X: a table `[examples, inputs]`: an array, a list of rows, or a DataFrame.

        Returns:
          The codes `[examples, atoms]`: an array of the type that the class describes, or what `set_output` asks for.

        Raises:
          ValueError: X is not a finite table of the right width, its columns have other names than those of `fit`, or a
            setting is out of range; NotFittedError, a ValueError, before `fit`.
        """
        check_is_fitted(self)
        how = self._coding()
        x = read_table(self, X, reset=False)
        atoms = self._atoms()
        check_width(x, atoms)
        fixed, numbers = how.split()
        code, count, worst = _transform(jnp.asarray(_pad(x)), jnp.asarray(atoms.T), numbers, fixed=fixed)
        when = f"of {type(self).__name__}.transform"
        warn_unfinished(int(count), len(x), float(worst), when, how, stacklevel=4)  # scikit-learn wraps `transform`
        return np.asarray(code.code)[: len(x)]

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Returns the reconstruction `[examples, inputs]` of codes `[examples, atoms]`.

        Raises:
          ValueError: X is not a finite table of codes; NotFittedError, a ValueError, before `fit`.
        """
        check_is_fitted(self)
        code, atoms = read_array(X, "X"), self._atoms()
        if code.shape[1] != len(atoms):
            raise ValueError(f"X has {code.shape[1]} columns; expected one for each of the {len(atoms)} atoms.")
        return code @ atoms.astype(code.dtype)

    def _atoms(self) -> np.ndarray:
        """Returns the dictionary as rows `[atoms, inputs]`."""
        raise NotImplementedError

    def _coding(self) -> Coding:
        return check_coding(self.get_params(deep=False))

    @property
    def _n_features_out(self) -> int:
        return len(self._atoms())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = [np.dtype(one).name for one in float_types()]
        return tags


class SparseCoder(Coder):
    """Codes with a dictionary that is given; a scikit-learn transformer.

    Codes are of the type of X, float32 or, with `jax_enable_x64`, float64; anything else becomes float32, or float64
    with `jax_enable_x64`.

    Args:
      dictionary: the atoms as rows `[atoms, inputs]`, as in scikit-learn (the transpose of the convention in
        `sparsejax.coding`), of any norm.
      l1: weight of the codes' absolute values, for the lasso.
      l2: weight of half their squared length (elastic net), for the lasso.
      nonnegative: codes of 0 or more, for the lasso.
      k: code by orthogonal matching pursuit with at most k atoms. The lasso codes if k, omp_tolerance and omp_error are
        None.
      omp_tolerance: end the pursuit of an example when this fraction of its energy is left.
      omp_error: end the pursuit of an example when this squared error is left.
      tolerance: largest relative duality gap of the lasso's codes.
      max_iterations: of the lasso's solver.

    Examples:
      >>> SparseCoder(np.eye(3), l1=0.5).fit_transform([[2.0, 0.0, -1.0]]).tolist()
      [[1.5, 0.0, -0.5]]
    """

    def __init__(
        self,
        dictionary: Any,
        *,
        l1: float = 1.0,
        l2: float = 0.0,
        nonnegative: bool = False,
        k: int | None = None,
        omp_tolerance: float | None = None,
        omp_error: float | None = None,
        tolerance: float = 1e-3,
        max_iterations: int = 1000,
    ):
        self.dictionary = dictionary
        self.l1 = l1
        self.l2 = l2
        self.nonnegative = nonnegative
        self.k = k
        self.omp_tolerance = omp_tolerance
        self.omp_error = omp_error
        self.tolerance = tolerance
        self.max_iterations = max_iterations

    def fit(self, X: Any, y: Any = None) -> "SparseCoder":
        """Checks the settings, and the width and names of the columns of X `[examples, inputs]`; y is ignored.

        `transform` needs no `fit`.

        Raises:
          ValueError: X is not a finite table of the dictionary's width, or a setting is out of range.
        """
        self._coding()
        check_width(read_table(self, X, reset=True), self._atoms())
        return self

    def _atoms(self) -> np.ndarray:
        return read_array(self.dictionary, "dictionary")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


def float_types() -> list[type[np.floating]]:
    """Returns the types of floats that are kept; scikit-learn converts anything else to the first."""
    return [np.float64, np.float32] if jax.config.read("jax_enable_x64") else [np.float32]


def read_table(estimator: BaseEstimator, X: Any, *, reset: bool) -> np.ndarray:
    """Returns a table as floats, and records its columns in the estimator, or compares them with those recorded."""
    validate: Any = validate_data  # without types in scikit-learn
    return validate(estimator, X, reset=reset, dtype=float_types())


def read_array(array: Any, name: str) -> np.ndarray:
    """Returns an array of two axes as floats."""
    check: Any = check_array
    return check(array, dtype=float_types(), input_name=name)


def check_width(x: np.ndarray, atoms: np.ndarray) -> None:
    """Checks that rows fit a dictionary of rows.

    Raises:
      ValueError: they have other numbers of inputs.
    """
    if x.shape[1] != atoms.shape[1]:
        raise ValueError(
            f"X has {x.shape[1]} columns, but the atoms have {atoms.shape[1]} inputs; expected the same "
            "number, as rows of X and atoms are of one kind."
        )


def warn_unfinished(count: int, codes: int, worst: float, when: str, how: Coding, *, stacklevel: int = 3) -> None:
    """Warns that codes have not converged, if any."""
    if count:
        warnings.warn(how.describe(count, codes, worst, when), ConvergenceWarning, stacklevel=stacklevel)


def _pad(x: np.ndarray) -> np.ndarray:
    """Returns x with rows of zeros, up to an eighth of them, so that tables of similar sizes share a program."""
    unit = max(8, 1 << (len(x).bit_length() - 4 if len(x) >= 16 else 0))
    return np.pad(x, ((0, -len(x) % unit), (0, 0)))


@functools.partial(jax.jit, static_argnames="fixed")
def _transform(x: Any, dictionary: Any, numbers: Any, *, fixed: Any) -> tuple[Code, Any, Any]:
    how = Coding(*fixed, *numbers)
    code = how.solve(x, dictionary, violation=_VIOLATION)
    return code, *how.unfinished(code)
