"""The training step: its inputs to a network."""

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.configuration import configuration, replace
from sparsejax.data.resident import Batch
from sparsejax.models.base import Model, Output, Variables
from sparsejax.training.config import Config, TrainingConfig
from sparsejax.training.state import init_state
from sparsejax.training.step import step

EXAMPLES = 8


@configuration
class Listener(Model):
    """A linear network that keeps, as its state, a number drawn from each example's key."""

    def init(self, key, example):
        return Variables({"kernel": jnp.ones((4, 3), jnp.float32)}, {"drawn": jnp.zeros(EXAMPLES, jnp.float32)})

    def apply(self, variables, x, *, key=None, train=False, axis_name=None):
        drawn = jax.vmap(lambda key: jax.random.uniform(key, dtype=jnp.float32))(key)
        return Output(x @ variables.params["kernel"], {"drawn": drawn}, {})


CONFIG = Config(Listener(), training=TrainingConfig(epochs=2, batch_size=EXAMPLES, learning_rate=0.1))


@jax.jit
def drawn(seed, rows):
    """Returns the random number of each example in each of three steps."""
    config = replace(CONFIG, {"training.seed": seed})
    batch = Batch(np.ones((EXAMPLES, 4), np.float32), np.zeros(EXAMPLES, np.int32), rows)

    def stepped(state, _):
        state, _ = step(state, batch, config, steps=10)
        return state, state.variables.state["drawn"]

    return jax.lax.scan(stepped, init_state(config, batch.images), length=3)[1]


def test_every_example_of_every_step_of_every_network_has_its_own_key():
    rows = np.arange(EXAMPLES)
    first, other = (np.asarray(drawn(seed, rows)) for seed in (0, 1))
    assert len(np.unique([first, other])) == 2 * 3 * EXAMPLES
    # Keys are those of the rows of the whole batch, wherever they are computed.
    np.testing.assert_array_equal(np.asarray(drawn(0, rows[::-1].copy()))[:, ::-1], first)
