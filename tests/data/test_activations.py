"""Activations as data: memory and shards, their types and moments, blocks of shuffled order, and what is refused."""

import json

import jax
import numpy as np
import pytest

from sparsejax import data
from sparsejax.data.activations import make_activations, read_activations, read_sites, write_activations
from sparsejax.data.block_order import BlockOrder
from sparsejax.data.resident import make_resident, normalize
from sparsejax.errors import ConfigError, DataDamagedError

RNG = np.random.default_rng(0)
TRAIN = {"a": RNG.normal(2, 3, (50, 4)).astype(np.float32), "b": RNG.normal(0, 0.1, (50, 2)).astype(np.float32)}
TEST = {"a": RNG.normal(2, 3, (11, 4)).astype(np.float32), "b": RNG.normal(0, 0.1, (11, 2)).astype(np.float32)}


def batches(split, size=7):
    """Yields a split in batches, the last one smaller."""
    count = len(next(iter(split.values())))
    for first in range(0, count, size):
        yield {site: part[first : first + size] for site, part in split.items()}


def test_training_examples_are_centred_and_each_site_is_scaled():
    dataset = make_activations(TRAIN, TEST)
    resident = make_resident(dataset, dataset.train)
    x = np.asarray(normalize(resident, resident.images))
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
    for site, part, width in (("a", x[:, :4], 4), ("b", x[:, 4:], 2)):
        scale = np.sqrt(np.mean(TRAIN[site] ** 2))  # mean |x|² is the width before centring
        np.testing.assert_allclose(part, (TRAIN[site] - TRAIN[site].mean(0)) / scale, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(np.mean(np.sum((TRAIN[site] / scale) ** 2, axis=1)), width, rtol=1e-5)


@pytest.mark.parametrize("stored, error", [("float32", 0), ("float16", 1e-3), ("bfloat16", 1e-2)])
def test_shards_hold_what_memory_does(tmp_path, stored, error):
    memory = make_activations(TRAIN, TEST)
    write_activations(tmp_path / "x", batches(TRAIN), batches(TEST), stored=stored, shard_rows=16)
    shards = data.load(path=tmp_path / "x")
    assert read_sites(tmp_path / "x") == {"a": 4, "b": 2}
    assert sorted(p.name for p in (tmp_path / "x").glob("train*")) == [f"train-{i:05}.npy" for i in range(4)]
    for mine, theirs in zip((*shards.train[:1], *shards.test[:1]), (*memory.train[:1], *memory.test[:1]), strict=True):
        np.testing.assert_allclose(np.asarray(mine), theirs, rtol=error, atol=error * 0.01)
        order = np.random.default_rng(1).integers(0, len(theirs), (3, 5))
        np.testing.assert_array_equal(mine[order], np.asarray(mine)[order])
        np.testing.assert_array_equal(np.asarray(mine[4:9]), np.asarray(mine)[4:9])
    np.testing.assert_allclose(shards.mean, memory.mean, atol=2 * error)
    assert shards.kind == "vectors" and len(shards.train.labels) == 50


def test_bfloat16_is_rounded_to_the_nearest():
    from sparsejax.data.shards import as_float32, to_stored

    x = np.float32(RNG.normal(size=1000))
    np.testing.assert_array_equal(as_float32(to_stored(x, "bfloat16"), "bfloat16"),
                                  np.asarray(jax.numpy.asarray(x).astype("bfloat16"), np.float32))  # fmt: skip


def test_the_fingerprint_names_the_numbers(tmp_path):
    folders = [write_activations(tmp_path / str(i), batches(TRAIN), batches(TEST), shard_rows=i) for i in (16, 21)]
    other = {**TRAIN, "b": TRAIN["b"] + 1}
    folders.append(write_activations(tmp_path / "other", batches(other), batches(TEST)))
    prints = [read_activations(folder).fingerprint for folder in folders]
    assert prints[0] == prints[1] != prints[2]
    assert read_activations(folders[0]).limit(20).fingerprint != prints[0]


def test_unfinished_damaged_and_wrong_folders_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="2 of 7 examples"):
        spoilt = {**TRAIN, "a": np.where(np.arange(50)[:, None] < 2, np.nan, TRAIN["a"])}
        write_activations(tmp_path / "nan", batches(spoilt), batches(TEST))
    assert not (tmp_path / "nan" / "activations.json").exists()
    with pytest.raises(ConfigError, match="too large for float16"):
        write_activations(tmp_path / "big", batches({"a": 1e6 * TRAIN["a"]}), batches(TEST))
    folder = write_activations(tmp_path / "x", batches(TRAIN), batches(TEST), shard_rows=16)
    with pytest.raises(ConfigError, match="is not empty"):
        write_activations(folder, batches(TRAIN), batches(TEST))
    with pytest.raises(ConfigError, match="has its own test set"):
        data.load(path=folder, test_fraction=0.1)
    np.save(folder / "train-00001.npy", np.zeros((3, 6), np.float16))
    with pytest.raises(DataDamagedError, match="train-00001.npy holds float16"):
        np.asarray(read_activations(folder).train.images)
    (folder / "train-00001.npy").unlink()
    with pytest.raises(DataDamagedError, match=r"train-00001.npy is missing"):
        read_activations(folder)
    for text in ("[", "[]", json.dumps({"sites": {"a": "x"}})):
        (folder / "activations.json").write_text(text)
        with pytest.raises(DataDamagedError, match="activations.json is damaged"):
            read_activations(folder)
    with pytest.raises(ConfigError, match="expected the same in the same order"):
        make_activations(TRAIN, {"a": TEST["a"]})


def test_the_order_of_blocks_is_a_permutation_that_needs_only_the_step():
    for examples, batch, block in ((50, 8, 16), (64, 16, 16), (13, 13, 64), (100, 7, 10)):
        order = BlockOrder((3, 4), 2, examples, batch, block)
        whole = order[0 : len(order), :]
        assert whole.shape == (-(-examples // batch), batch)
        assert sorted(whole.ravel()[:examples]) == list(range(examples))
        np.testing.assert_array_equal(whole.ravel()[examples:], whole.ravel()[: whole.size - examples])
        for first, end in ((0, 1), (len(order) // 2, len(order))):
            again = BlockOrder((3, 4), 2, examples, batch, block)[first:end, 2:5]
            np.testing.assert_array_equal(again, whole[first:end, 2:5])
        if examples > batch:
            assert (BlockOrder((3, 4), 3, examples, batch, block)[0:1, :] != whole[:1]).any()


def test_rows_of_a_block_stay_together():
    order = BlockOrder((0,), 0, 1024, 64, 256)[0:16, :]
    assert all(len(np.unique(row // 256)) == 1 for row in order.reshape(4, 256))
