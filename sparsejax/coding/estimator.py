"""Dictionary learning with scikit-learn's interface, by duck typing: scikit-learn need not be installed."""

import inspect
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.coding.admm import admm
from sparsejax.coding.dictionary import DictionaryState, dictionary_step, init_dictionary
from sparsejax.coding.pursuit import orthogonal_matching_pursuit
from sparsejax.functional.arguments import check_int


class DictionaryLearner:
    """Learns a dictionary from mini-batches and codes with it; a scikit-learn transformer.

    Args:
      atoms: number of atoms.
      l1: weight of the codes' absolute values while learning, and when transforming without k.
      k: transform by orthogonal matching pursuit with k atoms; None for the lasso.
      batch_size: examples per step.
      epochs: passes of `fit` over the examples.
      forget: how fast the weight of old batches decays, see `dictionary_step`.
      tolerance: of the codes' relative duality gap.
      max_iterations: of the lasso's solver for one batch.
      seed: for the initial dictionary and the order of the examples.

    Attributes:
      components_: after fitting, the atoms as rows `[atoms, inputs]` as in scikit-learn (the transpose of the
        convention in `sparsejax.coding`).
      n_features_in_: the number of inputs.
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
        k: int | None = None,
        batch_size: int = 256,
        epochs: int = 10,
        forget: float = 1.0,
        tolerance: float = 1e-3,
        max_iterations: int = 200,
        seed: int = 0,
    ):
        self.atoms = atoms
        self.l1 = l1
        self.k = k
        self.batch_size = batch_size
        self.epochs = epochs
        self.forget = forget
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.seed = seed

    def fit(self, X: Any, y: Any = None) -> "DictionaryLearner":
        """Learns a dictionary from scratch from the rows of X `[examples, inputs]`; y is ignored.

        Raises:
          ValueError: X is not a finite table of numbers, or a setting is out of range.
        """
        x = self._validate(X)
        size = min(self.batch_size, len(x))
        start, order = jax.random.split(jax.random.key(self.seed))
        state = init_dictionary(start, x, atoms=self.atoms)
        for epoch in range(self.epochs):
            chosen = jax.random.permutation(jax.random.fold_in(order, epoch), len(x))
            for first in range(0, len(x) - size + 1, size):
                state = self._step(state, x[chosen[first : first + size]])
        return self._store(state)

    def partial_fit(self, X: Any, y: Any = None) -> "DictionaryLearner":
        """Takes one step on all rows of X, starting a dictionary from them if there is none; y is ignored.

        Raises:
          ValueError: as `fit`, or X has another number of inputs than before.
        """
        if not hasattr(self, "state_"):
            x = self._validate(X)
            return self._store(self._step(init_dictionary(jax.random.key(self.seed), x, atoms=self.atoms), x))
        return self._store(self._step(self.state_, self._validate(X, self.n_features_in_)))

    def transform(self, X: Any) -> np.ndarray:
        """Codes the rows of X, `[examples, atoms]` in float32.

        Raises:
          ValueError: as `partial_fit`; scikit-learn's NotFittedError, a ValueError, if there is no dictionary yet.
        """
        self._require_fitted()
        x = self._validate(X, self.n_features_in_)
        dictionary = self.state_.dictionary
        if self.k is not None:
            return np.asarray(orthogonal_matching_pursuit(x, dictionary, k=self.k).code)
        code = admm(x, dictionary, l1=self.l1, tolerance=self.tolerance, max_iterations=5 * self.max_iterations)
        return np.asarray(code.code)

    def fit_transform(self, X: Any, y: Any = None) -> np.ndarray:
        """Fits, then codes the same rows."""
        return self.fit(X).transform(X)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Returns the reconstruction `[examples, inputs]` of codes `[examples, atoms]`."""
        self._require_fitted()
        return np.asarray(self._validate(X, self.components_.shape[0]) @ self.state_.dictionary.T)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Returns the settings by name."""
        return {name: getattr(self, name) for name in self._settings()}

    def set_params(self, **params: Any) -> "DictionaryLearner":
        """Changes settings.

        Raises:
          ValueError: there is no setting of that name.
        """
        for name, value in params.items():
            if name not in self._settings():
                raise ValueError(f"DictionaryLearner has no setting {name!r}; it has {', '.join(self._settings())}.")
            setattr(self, name, value)
        return self

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names the columns of what `transform` returns."""
        self._require_fitted()
        return np.asarray([f"dictionarylearner{i}" for i in range(self.components_.shape[0])], object)

    def __repr__(self) -> str:
        return f"DictionaryLearner({', '.join(f'{name}={value!r}' for name, value in self.get_params().items())})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "state_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(preserves_dtype=["float32"]),
            input_tags=InputTags(),
        )

    @classmethod
    def _settings(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def _validate(self, X: Any, inputs: int | None = None) -> jax.Array:
        for name in ("atoms", "batch_size", "epochs"):
            if check_int(name, getattr(self, name)) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more.")
        check_int("seed", self.seed)
        if not isinstance(self.l1, numbers.Real) or not self.l1 > 0:
            raise ValueError(f"l1 is {self.l1!r}; expected a weight above 0.")
        x = np.asarray(X, np.float32)
        if x.ndim != 2 or not x.size:
            raise ValueError(f"X has shape {x.shape}; expected a table [examples, inputs] (for one example, X[None]).")
        if not np.isfinite(x).all():
            raise ValueError("X has values that are not finite; remove or impute them first.")
        if inputs is not None and x.shape[1] != inputs:
            raise ValueError(f"X has {x.shape[1]} columns; expected {inputs}, as when fitting.")
        return jnp.asarray(x)

    def _step(self, state: DictionaryState, x: jax.Array) -> DictionaryState:
        settings = {"l1": self.l1, "forget": self.forget, "tolerance": self.tolerance}
        return _step(state, x, **settings, max_iterations=self.max_iterations)[0]

    def _store(self, state: DictionaryState) -> "DictionaryLearner":
        self.state_ = state
        self.components_ = np.asarray(state.dictionary.T)
        self.n_features_in_ = state.dictionary.shape[0]
        self.n_steps_ = int(state.steps)
        return self

    def _require_fitted(self) -> None:
        if hasattr(self, "state_"):
            return
        message = "This DictionaryLearner has no dictionary yet; call fit or partial_fit first."
        try:
            from sklearn.exceptions import NotFittedError
        except ImportError:
            raise ValueError(message) from None
        raise NotFittedError(message)


_step = jax.jit(dictionary_step, static_argnames="max_iterations")
