"""`sparsejax.train`, `load` and `compare`: their arguments, the run, and their errors."""

import itertools
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax as sj
from sparsejax import experiment
from sparsejax.errors import ConfigError, RunFolderError
from sparsejax.functional import top_k
from sparsejax.models import Model, Output, Variables, configuration, traced
from tests.command import environment

FEW = {"training.epochs": 2, "train_examples": 200, "test_examples": 60, "data": "digits"}


@configuration
class Net(Model):
    """One hidden layer of Top-K, which declares nothing but `init` and `apply`."""

    units: int = 30
    k: int = traced(10)

    def init(self, key, example):
        shape = (example[0].size, self.units)
        keys = jax.random.split(key)
        params = {"in": jax.random.normal(keys[0], shape) / shape[0] ** 0.5,
                  "out": jax.random.normal(keys[1], (self.units, 10)) / self.units**0.5}  # fmt: skip
        return Variables(params, {})

    def apply(self, variables, x, *, key=None, train=False, axis_name=None):
        h = top_k(x.reshape(x.shape[0], -1) @ variables.params["in"], self.k)
        return Output(h @ variables.params["out"], {}, {"hidden": h})


@pytest.fixture(autouse=True)
def as_in_a_program():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A grid of own networks."""
    out = tmp_path_factory.mktemp("runs") / "net"
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return sj.train(Net(), sweep={"model.k": [5, 20]}, learning_rate=0.1, out=out, **FEW)


def test_an_own_network_trains_as_a_grid_and_loads(grid):
    members = grid.result["members"]
    assert [member["model.k"] for member in members] == [5, 20]
    assert all(member["layers"]["hidden"]["units"] == 30 for member in members)
    assert grid.history["loss"].shape == grid.history["test_accuracy"].shape == (2, 2)
    assert (np.diff(grid.history["loss"], axis=0) < 0).all()
    again, images = sj.load(grid.folder.path), sj.data.load("digits").test.images[:60]
    for member, k in enumerate((5, 20)):
        network = again.network(member)
        assert (np.count_nonzero(network.activations(images)["hidden"], axis=1) == k).all()
        labels = sj.data.load("digits").test.labels[:60]
        accuracy = np.mean(network.predict(images).argmax(-1) == labels)
        assert accuracy == pytest.approx(members[member]["test_accuracy"])
    assert repr(again).startswith("Run(") and "2 networks" in repr(again)
    assert set(sj.compare(grid, again)) == {str(grid.folder.path)}


def test_figures_are_matplotlibs(grid):
    assert grid.plot.curves().axes
    with pytest.raises(ConfigError, match="no layer of k-winners"):
        grid.plot.duty_cycles()


def test_a_notebook_is_told_to_show_figures(grid, monkeypatch):
    shell, told = object(), []
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    tools = SimpleNamespace(select_figure_formats=lambda *given: told.append(given))
    monkeypatch.setitem(sys.modules, "IPython.core.pylabtools", tools)
    sj.load(grid.folder.path)
    assert told == [(shell, {"png"})]


def test_the_same_call_resumes_and_more_epochs_extend(grid, tmp_path):
    import shutil

    fields = {"units": 30, "k": 10, "boost_strength": 1.5, "__annotations__": {"boost_strength": float}}
    another = configuration(type("Net", (Model,), {"__module__": "elsewhere", **fields}))  # of the same name
    assert another().boost_strength == 1.5
    folder = tmp_path / "copy"
    shutil.copytree(grid.folder.path, folder)
    longer = sj.train(Net(), sweep={"model.k": [5, 20]}, learning_rate=0.1, out=folder, **{**FEW, "training.epochs": 3})
    assert longer.history["loss"].shape == (3, 2)
    np.testing.assert_array_equal(longer.history["loss"][:2], grid.history["loss"])
    whole = sj.train(Net(), sweep={"model.k": [5, 20]}, learning_rate=0.1, out=tmp_path / "whole",
                     **{**FEW, "training.epochs": 3})  # fmt: skip
    np.testing.assert_allclose(longer.history["loss"], whole.history["loss"], rtol=1e-5)
    with pytest.raises(RunFolderError, match=r"training\.learning_rate \(was 0\.1, now 0\.2\)"):
        sj.train(Net(), sweep={"model.k": [5, 20]}, learning_rate=0.2, out=folder, **FEW)
    with pytest.raises(RunFolderError, match="training.epochs"):
        sj.train(Net(), sweep={"model.k": [5, 20]}, learning_rate=0.1, out=folder, **FEW)


def test_arrays_from_python(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 6, 6, 1), np.uint8)
    labels = (images.mean((1, 2, 3)) > 127).astype(np.int32)
    run = sj.train(Net(k=5), data=(images[:40], labels[:40], images[40:], labels[40:]), epochs=2, batch_size=10,
                   out=tmp_path / "arrays")  # fmt: skip
    assert run.network().predict(images).shape == (60, 10)
    assert sj.load(tmp_path / "arrays").network().example_shape == (6, 6, 1)


def test_a_file_that_defines_config(tmp_path, monkeypatch):
    from sparsejax.commands.train import main

    (tmp_path / "mine.py").write_text(
        "import sparsejax as sj\n"
        "config = sj.Config(sj.models.SparseMLP(hidden=(20,), k=(5,)), sj.DataConfig('digits', train_examples=100,"
        " test_examples=20), sj.TrainingConfig(epochs=1, batch_size=20))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["--config", "mine.py", "--training.epochs", "2"]) == 0
    run = sj.load("runs/mine")
    assert run.configs[0].training.epochs == 2 and run.result["name"] == "mine"
    (tmp_path / "mine.py").write_text("config = 3\n")
    assert main(["--config", "mine.py"]) == 2
    assert main(["--config", "none.py"]) == 2


ARRAYS = (np.zeros((40, 6, 6), np.uint8), np.arange(40) % 10, np.zeros((20, 6, 6), np.uint8), np.arange(20) % 10)


@pytest.mark.parametrize(
    ("what", "settings", "said"),
    [
        ("digits_mlp", {"epoch": 3}, "did you mean .*epochs"),
        ("digits_mlp", {"training.epochs": 0}, "training.epochs is 0"),
        ("digits_mpl", {}, "did you mean digits_mlp"),
        ("digits_mlp", {"seeds": 0}, "seeds is 0"),
        ("digits_mlp", {"seeds": "3"}, "seeds is '3'"),
        ("digits_mlp", {"seeds": 1.5}, "seeds is 1.5"),
        ("digits_mlp", {"sweep": {"training.batch_size": [10, 20]}}, "training.batch_size changes the shape"),
        ("digits_mlp", {"sweep": {"lr": 0.1}}, "no field 'lr'"),
        ("digits_mlp", {"sweep": {"seed": itertools.count()}}, "make 10,001 networks; expected 10,000 at most"),
        ("digits_mlp", {"sweep": {"seed": range(200), "boost_strength": range(200)}}, "make 40,000 networks"),
        ("digits_mlp", {"sweep": {"seed": [1, 2]}, "seeds": 10**12}, "make 2,000,000,000,000 networks"),
        ("digits_mlp", {"sweep": {"learning_rate": 0.1}}, r"sweep has 0\.1 for learning_rate; expected fields and"),
        ("digits_mlp", {"sweep": {"learning_rate": []}}, r"sweep has \[\] for learning_rate"),
        ("digits_mlp", {"sweep": ["learning_rate"]}, r"sweep is \['learning_rate'\]; expected fields"),
        ("digits_mlp", {"sweep": {"seed": [1], "training.seed": [2]}}, r"names training\.seed twice"),
        ("digits_mlp", {"measures": "accuracy"}, "measures is 'accuracy'"),
        ("digits_mlp", {"out": 3}, "The run folder is 3"),
        ("digits_mlp", {"optimizer": "adamw"}, "training.optimizer is 'adamw'; expected 'sgd' or 'adam' or 'rmsprop'"),
        ("digits_mlp", {"epochs": "2"}, "training.epochs is '2'; expected an integer"),
        ("digits_mlp", {"learning_rate": [0.1]}, r"training\.learning_rate is \(0\.1,\); expected a finite number"),
        ("digits_mlp", {"model.k": 10}, r"model\.k is 10; expected a tuple such as \(10,\), each entry None or an int"),
        (Net(), {}, "pass data="),
        (Net(), {"data": "digits", "objective.kind": "reconstruction"}, "10 outputs, but digits has 784 numbers"),
        (Net(), {"data": "digits", "sweep": {"k": [1.0, 2.0]}}, r"model\.k is 1\.0; expected an integer"),
        (Net(), {"data": "digits", "sweep": {"k": [5, 500]}}, "A Net does not fit digits: k is 500"),
        (Net(k=jnp.arange(2)), {"data": "digits"}, r"model\.k is an array of shape \(2,\), which cannot be written"),
        (Net(k=len), {"data": "digits"}, "model.k is <built-in function len>, which cannot be written"),
        (Net(), {"data": 5}, "data is an object of the type int; expected the name"),
        (Net(), {"data": (ARRAYS[0],) * 7}, "data has 7 arrays; expected the name"),
        (Net(), {"data": "digits", "data.path": "mine.npz"}, "data.path is 'mine.npz', but data= is passed"),
        (Net(), {"data": ARRAYS, "train_examples": 41}, "41 train examples were requested, but there are 40"),
        (Net(), {"data": sj.data.from_arrays(*ARRAYS), "test_examples": 21}, "21 test examples were requested"),
        (Net(), {"data": sj.data.from_arrays(*ARRAYS), "test_fraction": 0.5}, "a Dataset has its own test set"),
    ],
)
def test_invalid_runs_are_refused(what, settings, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        sj.train(what, **{"out": tmp_path / "run", **settings})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: sj.TrainingConfig(epochs=1.5), r"training\.epochs is 1\.5; expected an integer"),
        (lambda: sj.TrainingConfig(epochs=None), "training.epochs is None; expected an integer"),
        (
            lambda: sj.TrainingConfig(epochs=np.arange(2)),
            r"training\.epochs is an array of shape \(2,\); expected an int",
        ),
        (lambda: sj.TrainingConfig(batch_size="16"), "training.batch_size is '16'; expected an integer"),
        (
            lambda: sj.TrainingConfig(learning_rate="0.1"),
            r"training\.learning_rate is '0\.1'; expected a finite number",
        ),
        (lambda: sj.TrainingConfig(learning_rate=True), "training.learning_rate is True; expected a finite number"),
        (lambda: sj.TrainingConfig(precision="fp16"), "training.precision is 'fp16'; expected 'float32' or 'bfloat16'"),
        (lambda: sj.TrainingConfig(lr_decay_at=3), r"expected None or a tuple such as \(3,\), each entry an integer"),
        (lambda: sj.DataConfig(streaming=1), "data.streaming is 1; expected True or False"),
        (lambda: sj.models.SparseMLP(k=(1.0,)), r"model\.k is \(1\.0,\); expected a tuple"),
        (lambda: sj.Config(3), "model is 3; expected a network"),
        (lambda: sj.Config(Net(), "digits"), "data is 'digits'; expected an instance of DataConfig"),
        (lambda: sj.load(3), "The run folder is 3"),
    ],
)
def test_values_of_another_type_are_refused(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.fixture
def given(monkeypatch):
    """The experiments that `sj.train` would run."""
    found = []

    def reached(made, *_, **__):
        found.append(made)
        raise ConfigError("all checks passed")

    monkeypatch.setattr(experiment, "run", reached)
    return found


@pytest.mark.parametrize(
    ("settings", "seeds"),
    [
        ({"seed": 3, "model.k": (5,)}, [3]),
        ({"sweep": {"seed": [1, 2, 3]}}, [1, 2, 3]),
        ({"sweep": {"training.seed": np.array([1, 7])}, "seeds": np.int64(2)}, [1, 2, 7, 8]),
    ],
)
def test_points_have_their_own_seeds(settings, seeds, given):
    with pytest.raises(ConfigError, match="all checks passed"):
        sj.train("digits_mlp", **settings)
    assert given[0].seeds == seeds


def test_scalars_of_numpy_and_jax_become_numbers_that_can_be_written(given):
    numbers = {"epochs": np.int64(3), "learning_rate": jnp.float32(0.5), "batch_size": jnp.int32(8)}
    with pytest.raises(ConfigError, match="all checks passed"):
        sj.train(Net(k=jnp.int32(4)), data="digits", sweep={"momentum": np.float32([0, 0.5])}, **numbers)
    config = given[0].configs[1]
    assert config.model.k == 4 and type(config.model.k) is int
    found = [getattr(config.training, name) for name in (*numbers, "momentum")]
    assert found == [3, 0.5, 8, 0.5] and list(map(type, found)) == [int, float, int, float]
    assert given[0].points == ({"training.momentum": 0.0}, {"training.momentum": 0.5})


def test_a_refused_call_with_fresh_keeps_the_finished_run(grid):
    class Failing:
        def of_batch(self, model, variables, batch):
            raise ConfigError("the measure fails")

        def report(self, sums): ...

    class Unbound(Failing):
        def bind(self, setting):
            raise ConfigError("the measure fails")

    before = {path: path.read_bytes() for path in grid.folder.path.rglob("*") if path.is_file()}
    for what, measures, said in (
        (Net(k=jnp.float32(2)), (), "model.k is 2.0"),
        (Net(k=len), (), "model.k is <built-in function len>"),
        (Net(), [Failing()], "the measure fails"),
        (Net(), [Unbound()], "the measure fails"),
    ):
        with pytest.raises(ConfigError, match=said):
            sj.train(what, out=grid.folder.path, fresh=True, measures=measures, **FEW)
    assert {path: path.read_bytes() for path in grid.folder.path.rglob("*") if path.is_file()} == before


def test_a_path_is_data_to_read(tmp_path, given):
    with pytest.raises(ConfigError, match="all checks passed"):
        sj.train(Net(), data=tmp_path / "mine.npz")
    with pytest.raises(ConfigError, match="all checks passed"):
        sj.train("digits_mlp", **{"data.path": tmp_path / "mine.npz"})
    assert [made.config.data.path for made in given] == [str(tmp_path / "mine.npz")] * 2


def test_requests_of_a_run_that_do_not_fit(grid, tmp_path):
    import shutil

    network = grid.network(np.int64(1))
    assert network.predict(np.zeros((0, 28, 28, 1), np.uint8)).shape == (0, 10)
    for wrong in ("a", 1.0, 2, -1):
        with pytest.raises(ConfigError, match="expected a number from 0 to 1"):
            grid.network(wrong)
    run = sj.load(shutil.copytree(grid.folder.path, tmp_path / "run"))
    run.folder.metrics.unlink()
    with pytest.raises(ConfigError, match="has no metrics"):
        run.plot.curves()
    run.folder.result.write_text("{}")
    assert "cannot be read" in repr(run)
    with pytest.raises(RunFolderError, match=r"result\.json cannot be read"):
        sj.compare(run)


def test_every_public_name_is_imported_on_first_use():
    code = (
        "import sys, sparsejax as sj\n"
        "assert 'jax' not in sys.modules\n"
        "for name in sj.__all__: getattr(sj, name)\n"
        "assert sj.functional.top_k and sj.nnx.KWinners and sj.linen.KWinners\n"
        "try: sj.nothing\n"
        "except AttributeError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert "module 'sparsejax' has no attribute 'nothing'" in done.stdout


def test_configurations_are_pytrees():
    net = Net(k=3)
    assert jax.tree.leaves(net) == [3] and jax.tree.map(lambda k: k + 1, net) == Net(k=4)
    many = jax.vmap(lambda net: net.k * jnp.int32(2))(Net(k=jnp.arange(3)))
    np.testing.assert_array_equal(many, [0, 2, 4])
