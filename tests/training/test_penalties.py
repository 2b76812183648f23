"""Activity penalties: which, on which layers, and their scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import configs
from sparsejax.configuration import find_differing_fields, replace
from sparsejax.data.resident import Batch
from sparsejax.errors import ConfigError
from sparsejax.models.base import Output
from sparsejax.training.checks import check_data, load_data
from sparsejax.training.config import ObjectiveConfig
from sparsejax.training.objectives import total_loss

COSTS = {
    "l1": np.abs,
    "l2": np.square,
    "cauchy": lambda a: np.log1p(a**2),
    "gaussian": lambda a: -np.exp(-(a**2)),
}


def losses(config: ObjectiveConfig):
    """Returns the loss without and with the configured penalties, the metrics, and the activations."""
    rng = np.random.default_rng(0)
    layers = {"hidden1": rng.normal(size=(4, 6)), "hidden2": rng.normal(size=(4, 2, 3, 5))}
    output = Output(jnp.zeros((4, 3)), {}, {name: jnp.asarray(h, jnp.float32) for name, h in layers.items()})
    batch = Batch(jnp.zeros((4, 1)), jnp.zeros(4, jnp.int32), jnp.arange(4))
    plain, _ = total_loss(ObjectiveConfig(), output, batch)
    penalised, (metrics, _) = total_loss(config, output, batch)
    return float(plain), float(penalised), metrics, layers


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("penalised", [None, ("hidden2",)])
@pytest.mark.parametrize("per_unit", [False, True])
def test_the_sum_over_units_is_averaged_over_the_batch(name, penalised, per_unit):
    weights = {name: 0.3}
    plain, with_penalty, metrics, layers = losses(ObjectiveConfig(**weights, penalised=penalised, per_unit=per_unit))
    chosen = [h for layer, h in layers.items() if penalised is None or layer in penalised]
    activity = sum(COSTS[name](h).sum() for h in chosen) / 4
    units = sum(h[0].size for h in chosen) if per_unit else 1
    np.testing.assert_allclose(metrics[f"{name}_activity"], activity, rtol=1e-5)
    assert with_penalty - plain == pytest.approx(0.3 * activity / units, rel=1e-4)


def test_several_penalties_add_up_and_none_costs_nothing():
    plain, both, metrics, _ = losses(ObjectiveConfig(l1=0.1, l2=0.2))
    activity = 0.1 * float(metrics["l1_activity"]) + 0.2 * float(metrics["l2_activity"])
    assert both - plain == pytest.approx(activity, rel=1e-4)
    plain, none, metrics, _ = losses(ObjectiveConfig())
    assert none == plain and not [name for name in metrics if name.endswith("activity")]


def test_weights_are_traced_and_layers_are_not():
    config = ObjectiveConfig(l1=0.1)
    assert jax.tree.leaves(config) == [0.1]
    assert find_differing_fields(config, ObjectiveConfig(l1=0.2)) == []
    assert find_differing_fields(config, ObjectiveConfig(l1=0.1, per_unit=True)) == ["per_unit"]


@pytest.mark.parametrize("fields", [{"l2": -0.1}, {"cauchy": float("nan")}, {"penalised": ()}])
def test_a_weight_or_layers_out_of_range_are_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        ObjectiveConfig(**fields)


def test_an_unknown_layer_is_named_with_those_there_are():
    digits = {"data.name": "digits", "data.train_examples": 200}
    config = replace(configs.get("mnist_l1_deep"), {"objective.penalised": ("hidden2", "hidden9"), **digits})
    with pytest.raises(ConfigError, match=r"hidden9, but .* hidden1, hidden2, hidden3"):
        check_data(config, load_data(config))
