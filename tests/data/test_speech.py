"""Spoken words by folder, by list, by the published rule and by the digits' file names."""

import os
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.data import load
from sparsejax.data.inventory import survey
from sparsejax.data.resident import epoch_order, make_resident, normalize
from sparsejax.data.speech import DIGITS, SAMPLES, part_of, read_speech
from sparsejax.errors import ConfigError, DataDamagedError, DataMissingError
from tests.data.test_wav import wav_bytes

_REAL = Path(os.environ.get("SPARSEJAX_DATA", "/nowhere"))


def write_clip(path: Path, samples, **fields) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(wav_bytes(np.asarray(samples, "<i2").tobytes(), **fields))


@pytest.fixture
def commands(tmp_path):
    """Returns DATA/speech_commands: three words by 60 speakers, the i-th of samples i + 1, and a folder of noise."""
    folder = tmp_path / "data" / "speech_commands"
    for word in ("yes", "two", "one"):
        for i in range(60):
            write_clip(folder / word / f"{i:08x}_nohash_0.wav", np.full(10 + i, i + 1))
    write_clip(folder / "_background_noise_" / "hum.wav", [1, 2, 3])
    (folder / "README.md").write_text("no clip")
    return folder


# Speakers from the lists that come with the data set, version 0.01.
LISTED = {
    "test": "022cd682 096456f9 0c40e715 0d53e045 0ea0e2f4 1528225c af8b2f2c b11a05d2 d0faf7e4 fce96bac ffb86d3c",
    "validation": "026290a7 060cd039 099d52ad",
}


def test_the_published_rule_gives_the_published_lists():
    for part, speakers in LISTED.items():
        assert {part_of(f"{speaker}_nohash_0.wav") for speaker in speakers.split()} == {part}
    assert part_of("yes/0ff728b5_nohash_3.wav") == part_of("0ff728b5_nohash_0.wav"), "a speaker is in one part"
    parts = Counter(part_of(f"{i:08x}_nohash_0.wav") for i in range(5000))
    assert abs(parts["validation"] - 500) < 70 and abs(parts["test"] - 500) < 70


def test_word_folders_are_split_by_the_rule(commands):
    dataset = read_speech(commands, silence=0.1)
    counts = Counter(part_of(f"{i:08x}_nohash_0.wav") for i in range(60))
    assert len(dataset.test.labels) == 3 * counts["test"]
    words = 3 * counts["train"]
    assert len(dataset.train.labels) == words + round(0.1 * words)
    assert dataset.classes == 4 and dataset.train.images.dtype == np.int16
    assert dataset.train.images.shape[1] == SAMPLES
    assert "one, two, yes" in dataset.notice, "digits first, in their order"
    silent = dataset.train.labels == 3
    assert silent.sum() == round(0.1 * words) and not dataset.train.images[silent].any()
    assert set(dataset.test.labels.tolist()) == {0, 1, 2}
    for row, label in zip(dataset.train.images, dataset.train.labels, strict=True):
        assert label == 3 or ((row[: row[0] + 9] == row[0]).all() and not row[row[0] + 9 :].any())
    assert dataset.fingerprint != read_speech(commands, silence=0.2).fingerprint
    assert len(read_speech(commands, held_out="validation").test.labels) == 3 * counts["validation"]


def test_the_official_lists_are_kept(commands):
    (commands / "testing_list.txt").write_text("one/00000003_nohash_0.wav\ntwo/00000004_nohash_0.wav\nbed/x.wav\n")
    (commands / "validation_list.txt").write_text("yes/00000005_nohash_0.wav\n")
    dataset = read_speech(commands, silence=0)
    assert sorted(row[0] for row in dataset.test.images) == [4, 5]
    assert len(dataset.train.labels) == 177 and dataset.classes == 3
    assert len(read_speech(commands, words=("two", "yes"), silence=0).train.labels) == 118
    (commands / "two" / "00000004_nohash_0.wav").unlink()
    with pytest.raises(DataDamagedError, match=r"lacks 1 clips .* two/00000004_nohash_0.wav"):
        read_speech(commands)
    (commands / "validation_list.txt").unlink()
    with pytest.raises(DataDamagedError, match=r"validation_list.txt is missing"):
        read_speech(commands)


def test_where_there_is_no_test_part_the_validation_part_is_evaluated_and_said(commands):
    for path in commands.glob("*/*_nohash_0.wav"):
        if part_of(path.name) == "test":
            path.unlink()
    dataset = read_speech(commands)
    assert "from the validation part because the test part is empty" in dataset.notice
    np.testing.assert_array_equal(dataset.test.images, read_speech(commands, held_out="validation").test.images)


def test_words_are_chosen_and_missing_ones_named(commands):
    dataset = read_speech(commands, words=("yes", "one"), silence=0)
    assert dataset.classes == 2
    assert Counter(dataset.train.labels.tolist()).keys() == {0, 1}
    with pytest.raises(DataMissingError, match=r"no folder for three, cat; it has one, two, yes"):
        read_speech(commands, words=("one", "three", "cat"))
    with pytest.raises(ConfigError, match="silence is -1"):
        read_speech(commands, silence=-1)


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (b"RIFF", DataDamagedError, "does not start"),
        (b"", DataDamagedError, "empty"),
        (wav_bytes(b"\1\0" * 8, channels=2), ConfigError, "2 channels"),
        (wav_bytes(b"\1\0" * 8, rate=8000), ConfigError, "8000 Hz"),
    ],
)
def test_a_clip_that_cannot_be_used_is_named(commands, content, error, said):
    bad = commands / "one" / "00000001_nohash_9.wav"
    bad.write_bytes(content)
    with pytest.raises(error, match=said) as caught:
        read_speech(commands)
    assert str(bad) in str(caught.value)
    if error is ConfigError:
        assert len(read_speech(commands, convert=True, silence=0).train.labels) > 100


def test_spoken_digits_by_their_own_rule(tmp_path):
    folder = tmp_path / "spoken_digits"
    for digit in range(10):
        for number in (0, 4, 5, 12):
            write_clip(folder / f"{digit}_theo_{number}.wav", np.full(2000 * (digit + 1), 1000), rate=8000)
    dataset = read_speech(folder, name="spoken_digits", silence=0.1)
    assert (len(dataset.train.labels), len(dataset.test.labels), dataset.classes) == (22, 20, 11)
    assert dataset.notice == ""
    for row, label in zip(dataset.test.images, dataset.test.labels, strict=True):
        lasts = np.flatnonzero(row)[-1]  # in 16 kHz, and at most a second
        assert abs(lasts - min(4000 * (label + 1), SAMPLES)) < 50
    assert read_speech(folder, name="spoken_digits", words=("three",), silence=0).classes == 1
    with pytest.raises(DataMissingError, match="no clips of yes"):
        read_speech(folder, name="spoken_digits", words=("yes",))
    with pytest.raises(ConfigError, match="8000 Hz"):
        read_speech(folder, name="spoken_digits", convert=False)
    write_clip(folder / "ten_theo_1.wav", [1, 2])
    with pytest.raises(DataDamagedError, match=r"ten_theo_1.wav is not named"):
        read_speech(folder, name="spoken_digits")


def test_load_survey_and_missing_data(commands, monkeypatch):
    with pytest.raises(DataMissingError, match="SPARSEJAX_DATA/spoken_digits and .* is in neither"):
        load("spoken_digits")
    monkeypatch.setenv("SPARSEJAX_DATA", str(commands.parent))
    said = []
    assert load("speech_commands", say=said.append).classes == 4
    assert "one, two, yes" in said[0]
    places = {(place.name, place.found) for place in survey() if place.found}
    assert ("speech_commands", "180 clips") in places


def test_waveforms_on_the_device_are_scaled_to_one(commands):
    dataset = read_speech(commands).limit(20, 5)
    data = make_resident(dataset, dataset.train)
    x = normalize(data, data.images)
    assert x.dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(x) * 32768, dataset.train.images)


def test_a_balanced_epoch_shows_every_class_equally_often():
    labels = np.array([0] * 50 + [2] * 10 + [5] * 36, np.int32)
    key = jax.random.key(3)
    order = jax.jit(lambda epoch: epoch_order(key, epoch, 96, 8, jnp.asarray(labels)))
    assert order(1).shape == (12, 8)
    flat, other = (np.asarray(order(epoch)).ravel() for epoch in (1, 2))
    counts = Counter(labels[flat].tolist())
    assert counts == {0: 32, 2: 32, 5: 32}
    times = Counter(flat.tolist())
    assert {times[i] for i in range(50)} == {0, 1}, "of a large class no example comes twice"
    assert {times[i] for i in range(50, 60)} == {3, 4}, "of a small one each comes as often, to one"
    assert (other != flat).mean() > 0.9
    assert set(other.tolist()) != set(flat.tolist())
    half = labels[flat[:48]]
    assert 8 < (half == 0).sum() < 24, "classes are mixed"
    plain = jax.jit(lambda epoch: epoch_order(key, epoch, 96, 8))(1)
    assert sorted(plain.ravel().tolist()) == list(range(96))


@pytest.mark.skipif(not (_REAL / "speech_commands").is_dir(), reason="SPARSEJAX_DATA has no speech_commands")
def test_the_real_words():
    dataset = read_speech(_REAL / "speech_commands", words=("zero", "one"))
    assert dataset.classes == 3 and len(dataset.test.labels) >= 80
    spoken = dataset.train.images[dataset.train.labels < 2].astype(float)
    assert 0.005 < np.sqrt((spoken**2).mean()) / 32768 < 0.3
    assert set(DIGITS) > {"zero", "one"}
