"""Whether few latents tell a concept: k-sparse probing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from sparsejax.errors import ConfigError


def probe(
    train: Any, train_labels: Any, test: Any, test_labels: Any, *, ks: Sequence[int] = (1, 2, 5, 16)
) -> dict[int, np.ndarray]:
    """Return the balanced accuracy of logistic regressions on the k latents that tell a class best.

    Latents are chosen by the difference of their mean activities in and outside of the class, on the training set.

    Args:
      train: codes `[examples, latents]`.
      train_labels: classes `[examples]`, integers.
      test: codes of the test set.
      test_labels: its classes.
      ks: numbers of latents.

    Returns:
      k -> accuracy of each class against the rest, `[classes]`: the mean of the fractions that are right in and outside
      of the class, .5 by chance.

    Raises:
      ConfigError: there are not so many latents, or the test set has a class that the training set lacks.

    References:
      Gurnee et al., Finding Neurons in a Haystack: Case Studies with Sparse Probing, 2023, section 3; SAEBench, 2025.
    """
    z, held_out, y, right = (np.asarray(one) for one in (train, test, train_labels, test_labels))
    if not ks or min(ks) < 1 or max(ks) > z.shape[1]:
        raise ConfigError(f"ks is {tuple(ks)}; expected numbers of latents from 1 to {z.shape[1]}.")
    classes = np.unique(y)
    if not np.isin(right, classes).all() or len(classes) < 2:
        raise ConfigError("The test set has a class that the training set lacks, or there is only one class.")
    found: dict[int, list[float]] = {k: [] for k in ks}
    for one in classes:
        mine = y == one
        order = np.argsort(-np.abs(z[mine].mean(0) - z[~mine].mean(0)), kind="stable")
        for k in ks:
            few = order[:k]
            model = make_pipeline(MaxAbsScaler(), LogisticRegression(class_weight="balanced", max_iter=500))
            model.fit(z[:, few], mine)
            said, true = model.predict(held_out[:, few]), right == one
            found[k].append(float(((said & true).sum() / max(1, true.sum()) +
                                   (~said & ~true).sum() / max(1, (~true).sum())) / 2))  # fmt: skip
    return {k: np.asarray(values) for k, values in found.items()}
