"""A user's network that cannot be trained is refused before anything is compiled or written, with the reason."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import data
from sparsejax.errors import ConfigError
from sparsejax.functional import top_k
from sparsejax.models import Model, Output, SparseMLP, Variables, configuration
from sparsejax.training.checks import check_data
from sparsejax.training.config import Config, TrainingConfig

IMAGES = np.zeros((20, 4, 4, 1), np.uint8)
DATASET = data.from_arrays(IMAGES, np.arange(20) % 3, IMAGES, np.arange(20) % 3)


@configuration
class Net(Model):
    k: int = 5

    def init(self, key, example):
        return Variables({"kernel": jnp.zeros((16, 8))}, {})

    def apply(self, variables, x, *, key=None, train=False, axis_name=None):
        h = top_k(x.reshape(len(x), -1) @ variables.params["kernel"], self.k)
        return self.answer(h)

    def answer(self, h):
        return Output(h, {}, {"hidden": h})


def check(net):
    check_data(Config(net, training=TrainingConfig(batch_size=5)), DATASET)


def answering(answer):
    return configuration(type("Own", (Net,), {"answer": lambda self, h: answer(h), "__annotations__": {}}))()


def test_a_network_with_activations_or_none_passes():
    check(Net())
    check(answering(lambda h: Output(h, {}, {})))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda h: h, "returns .*; expected Output"),
        (lambda h: (h, {}, {}), "returns tuple; expected Output"),
        (lambda h: "words", "A Own fails on examples"),
        (lambda h: Output(h, {}, None), "activations a dict"),
        (lambda h: Output(h.mean(0, keepdims=True), {}, {}), r"shape \(1, 8\); expected \(2, 'outputs'\)"),
        (lambda h: Output(h[:, None], {}, {}), r"shape \(2, 1, 8\); expected"),
        (lambda h: Output(h.sum(), {}, {}), r"shape \(\); expected"),
        (lambda h: Output(h, {"count": h}, {}), "returns a state of the structure"),
        (lambda h: Output(h, {}, {"hidden": h[0]}), "activations of hidden that are not an array"),
        (lambda h: Output(h[:, :2], {}, {}), "The network has 2 outputs, but .* has 3 classes"),
    ],
)
def test_what_apply_returns_is_checked(answer, said):
    with pytest.raises(ConfigError, match=said):
        check(answering(answer))


def test_a_network_that_fails_is_named_with_the_cause():
    with pytest.raises(ConfigError, match=r"A Net fails on examples \[2, 4, 4, 1\] of .*ValueError: k is 9, but a row"):
        check(Net(k=9))
    deaf = configuration(type("Deaf", (Net,), {"apply": lambda self, variables, x: None, "__annotations__": {}}))
    with pytest.raises(ConfigError, match="A Deaf fails .*TypeError.*unexpected keyword argument"):
        check(deaf())
    with pytest.raises(ConfigError, match="NotImplementedError"):
        check(configuration(type("Empty", (Model,), {"__annotations__": {}}))())


def test_a_swept_k_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="k"):
        check(SparseMLP(hidden=(8,), k=(9,), density=None, classes=3))
    assert jax.tree.leaves(SparseMLP()), "its k is a leaf"
