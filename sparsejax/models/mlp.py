"""Fully connected networks with k-winners and sparse weights."""

import math

from sparsejax.configuration import configuration, traced
from sparsejax.models.base import expect
from sparsejax.models.network import SparseNetwork, Stage


@configuration
class SparseMLP(SparseNetwork):
    """Hidden layers with sparse weights and k-winners; inputs of any shape are flattened.

    References:
      Ahmad & Scheinkman, How Can We Be So Dense?, 2019, section 3.
    """

    _winners = ("k",)

    hidden: tuple[int, ...] = (700,)
    """Units of each hidden layer."""
    k: tuple[int | None, ...] = traced((100,))
    """Winners of each hidden layer; None for ReLU."""

    def check(self) -> None:
        super().check()
        expect("model.hidden", self.hidden, "one or more positive numbers", min(self.hidden, default=0) > 0)
        one_each = f"one entry for each of the {len(self.hidden)} hidden layers"
        expect("model.k", self.k, one_each, len(self.k) == len(self.hidden))
        for i, (units, k) in enumerate(zip(self.hidden, self.k, strict=True)):
            expect(f"model.k[{i}]", k, f"None or a number of winners from 1 to {units}", k is None or 1 <= k <= units)

    def stages(self, example_shape: tuple[int, ...]) -> list[Stage]:
        """Describes the hidden layers."""
        inputs = (math.prod(example_shape), *self.hidden[:-1])
        layers = zip(inputs, self.hidden, self.k, strict=True)
        return [Stage(f"hidden{i + 1}", (fan_in, n), k, self.density) for i, (fan_in, n, k) in enumerate(layers)]
