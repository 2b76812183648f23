"""Checkpoints are restored by the names of their arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.errors import CheckpointError, ConfigError
from sparsejax.training.checkpoints import open_checkpoints
from sparsejax.training.named import by_name, difference, fill


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            {"encoder": 2, "aux": 3},
            r"has \['decoder'\], which the network lacks; it lacks \['aux'\], which",
        ),
        ({"encoder": 2}, r"it has \['decoder'\], which the network lacks\. Use"),
        ({"encoder": 2, "decoder": 3, "more": 3}, r"it lacks \['more'\], which the network has\. Use"),
        ({"encoder": 2, "decoder": 4}, r"\['decoder'\] is float32 \[3\] where float32 \[4\] is expected"),
    ],
)
def test_a_checkpoint_is_restored_by_name(tmp_path, other, said):
    def arrays(**sizes):
        return {name: np.full(size, size, np.float32) for name, size in sizes.items()}

    with open_checkpoints(tmp_path / "c", keep=1) as saved:
        saved.save(1, arrays(encoder=2, decoder=3), score=0.0)
    with open_checkpoints(tmp_path / "c", keep=1) as saved:
        with pytest.raises(CheckpointError, match=said):
            saved.restore(arrays(**other))
        with pytest.raises(CheckpointError, match=r"decoder'\] is float32 \[3\] where float16 \[3\] is expected"):
            saved.restore(arrays(encoder=2) | {"decoder": np.zeros(3, np.float16)})


def test_the_state_of_another_optimizer_is_refused(tmp_path):
    params = {"w": jnp.ones(3), "v": jnp.ones(3)}
    sgd, adam = (init(params) for init in (optax.trace(0.9).init, optax.scale_by_rms().init))
    assert [leaf.shape for leaf in jax.tree.leaves(sgd)] == [leaf.shape for leaf in jax.tree.leaves(adam)]
    with open_checkpoints(tmp_path / "c", keep=1) as saved:
        saved.save(1, sgd, score=0.0)
    with (
        open_checkpoints(tmp_path / "c", keep=1) as saved,
        pytest.raises(CheckpointError, match=r"has \.trace\['v'\], \.trace\['w'\].* lacks \.nu\['v'\], \.nu"),
    ):
        saved.restore(adam)


def test_keys_are_filled_and_compared_as_their_data():
    tree = {"key": jax.random.key(3), "w": jnp.ones(2)}
    arrays = by_name(tree)
    assert difference(arrays, jax.eval_shape(lambda: tree)) == "" and arrays["['key']"].dtype == jnp.uint32
    np.testing.assert_array_equal(jax.random.key_data(fill(tree, arrays)["key"]), arrays["['key']"])


def test_two_arrays_of_one_name_are_refused():
    tree = {"a.b": np.zeros(1), "a": {"b": np.ones(1)}}
    assert len(by_name(tree)) == 2
    with pytest.raises(ConfigError, match="Two arrays of the network have the name a.b"):
        by_name(tree, lambda path: jax.tree_util.keystr(path, simple=True, separator="."))
