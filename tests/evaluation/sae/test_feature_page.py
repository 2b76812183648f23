"""What latents respond to, and the page that shows it, read back from its HTML."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import ConfigError
from sparsejax.evaluation.sae.features import find_activities, find_features
from sparsejax.figures.feature_page import show_images, show_tokens, show_words, write_feature_page

RNG = np.random.default_rng(0)
X = RNG.normal(size=(103, 6)).astype(np.float32)
KERNEL = RNG.normal(size=(9, 6)).astype(np.float32)
KERNEL[4] = 0  # never active


@jax.jit
def encode(x):
    return jax.nn.relu(x @ KERNEL.T - 1)


def content(path):
    return json.loads(re.search(r'id="content">(.*?)</script>', path.read_text(), re.DOTALL)[1])


def test_statistics_are_those_of_all_codes():
    z = np.asarray(encode(X))
    found = find_features(encode, X, top=5, bins=4, batch=20)
    np.testing.assert_allclose(found.density, (z > 0).mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.mean, z.sum(0) / np.maximum((z > 0).sum(0), 1), rtol=1e-5)
    np.testing.assert_allclose(found.most, z.max(0), rtol=1e-5)
    for i in range(9):
        order = np.argsort(-z[:, i], kind="stable")[:5]
        order = np.where(z[order, i] > 0, order, -1)
        np.testing.assert_array_equal(found.rows[i], order)
        bounds = np.linspace(0, max(z[:, i].max(), 1e-9), 5)
        np.testing.assert_array_equal(found.histogram[i], np.histogram(z[z[:, i] > 0, i], bounds)[0])
    at = find_activities(encode, X, found.rows, batch=30)
    np.testing.assert_allclose(at, np.where(found.rows < 0, 0, found.values), rtol=1e-6)


def test_words(tmp_path):
    features = find_features(encode, X, top=5)
    words = [f"word{i}" for i in range(len(X))]
    effects = KERNEL @ RNG.normal(size=(6, 20)), [f"t{i}" for i in range(20)]
    path, shown = tmp_path / "a" / "page.html", show_words(features, words)
    page = write_feature_page(path, features, KERNEL, shown, title="A <b>", effects=effects)
    text, shown = page.read_text(), content(page)
    assert (
        "<h1>A &lt;b&gt;</h1>" in text and "@@" not in text and "http" not in re.sub(r"http://www.w3.org\S*", "", text)
    )
    assert [shown["shared"][k] for k, _ in shown["examples"][0]] == [f"word{i}" for i in features.rows[0]]
    assert shown["examples"][4] == [] and shown["density"][4] == 0
    cosines = KERNEL @ KERNEL[0] / np.maximum(np.linalg.norm(KERNEL, axis=1) * np.linalg.norm(KERNEL[0]), 1e-9)
    assert shown["near"][0][0][0] == int(np.argsort(-cosines)[1])
    assert len(shown["effects"][0][0]) == len(shown["effects"][0][1]) == 8


def test_tokens_are_shaded_in_their_window(tmp_path):
    windows = RNG.integers(0, 50, (10, 10)).astype(np.int32)
    features = find_features(encode, X[:100], top=3)
    shown = show_tokens(
        features, windows, [f"<{i}>" for i in range(50)], lambda rows: find_activities(encode, X[:100], rows)
    )
    page = write_feature_page(tmp_path / "page.html", features, KERNEL, shown)
    z = np.asarray(encode(X[:100]))
    for i, examples in enumerate(content(page)["examples"]):
        for j, (ids, shades, at, value) in enumerate(examples):
            row = int(features.rows[i, j])
            first, end = max(row // 10 * 10, row - 12), min((row // 10 + 1) * 10, row + 7)
            expected = [f"<{t}>" for t in windows.ravel()[first:end]]
            assert [shown.shared[k] for k in ids] == expected and at == row - first
            assert [s > "0" for s in shades] == (z[first:end, i] > 0).tolist()
            assert int(shades[at]) == np.ceil(9 * z[row, i] / z[:, i].max() - 1e-3)
            assert value == pytest.approx(z[row, i], rel=0.01)


def test_images(tmp_path):
    features = find_features(encode, X, top=2)
    images = RNG.integers(0, 256, (103, 5, 4, 1)).astype(np.uint8)
    shown = content(write_feature_page(tmp_path / "p.html", features, KERNEL, show_images(features, images)))
    assert shown["kind"] == "images" and all(uri.startswith("data:image/png;base64,") for uri in shown["shared"])


def test_4096_latents_stay_below_10_megabytes(tmp_path):
    rows = RNG.integers(0, 64_000, (4096, 12)).astype(np.int32)
    table = find_features(encode, X, top=12)
    numbers = {"density": RNG.random(4096), "mean": RNG.random(4096), "most": RNG.random(4096) + 1}
    values, histogram = RNG.random((4096, 12)), RNG.integers(0, 9999, (4096, 20))
    large = table._replace(**numbers, rows=rows, values=values, histogram=histogram)
    windows = RNG.integers(0, 2000, (1000, 64)).astype(np.int32)
    shown = show_tokens(large, windows, [f"token{i}" for i in range(2000)], lambda rows: RNG.random(rows.shape))
    page = write_feature_page(tmp_path / "p.html", large, RNG.normal(size=(4096, 64)), shown)
    assert page.stat().st_size < 10e6


def test_what_does_not_fit_is_refused(tmp_path):
    features = find_features(encode, X, top=2)
    with pytest.raises(ConfigError, match="8 rows, but there are 9 latents"):
        write_feature_page(tmp_path / "p.html", features, KERNEL[:8], show_words(features, ["a"] * 103))
    with pytest.raises(ConfigError, match="no examples"):
        find_features(encode, X[:0])
    assert jnp.all(find_features(encode, X[:2], top=5).rows[:, 2:] == -1)
