"""A configuration is restored exactly from config.json, for every network."""

import dataclasses

import pytest

from sparsejax import configs
from sparsejax.errors import RunFolderError
from sparsejax.training.restore import read_record
from sparsejax.training.run_folder import RunFolder, describe


@pytest.mark.parametrize("name", configs.CONFIGS)
def test_every_named_configuration_is_restored(tmp_path, name):
    config, folder = configs.get(name), RunFolder(tmp_path / "run")
    points = [{"training.learning_rate": 0.5}, {"training.learning_rate": 0.25}]
    folder.claim(
        describe(
            config, name=name, seeds=[3, 4], points=points, data={"name": "none", "source": "none", "fingerprint": "0"}
        )
    )
    description, networks = read_record(folder)
    assert description["name"] == name
    assert networks == tuple(
        dataclasses.replace(config, training=dataclasses.replace(config.training, seed=seed, learning_rate=rate))
        for seed, rate in ((3, 0.5), (4, 0.25))
    )
    assert type(networks[0].model) is type(config.model)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"seeds": [1], "points": [{}], "config": {"model": {}}}'])
def test_invalid_configurations_are_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(RunFolderError, match=r"config\.json cannot be read"):
        read_record(RunFolder(tmp_path))
