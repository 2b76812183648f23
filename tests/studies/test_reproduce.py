"""`python -m sparsejax.reproduce`: its messages, and shared parts of studies."""

import numpy as np
import pytest

from sparsejax import studies
from sparsejax.commands.reproduce import main
from sparsejax.studies.study import spearman


def test_invalid_arguments_list_the_available_studies(capsys):
    assert main(["noise/fig22"]) == 2
    assert "noise/fig2" in capsys.readouterr().err
    assert main([]) == 2
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(studies.STUDIES)
    assert main(["noise/fig2", "--scale", "huge"]) == 2
    capsys.readouterr()
    assert main(["dense/fig5", "--seeds", "11"]) == 2 and "from 1 to 10" in capsys.readouterr().err
    assert main(["noise/fig2", "--seeds", "2"]) == 2 and "omit the option" in capsys.readouterr().err


def test_a_study_says_where_it_is_from_and_whether_it_takes_seeds():
    for name, shows in studies.STUDIES.items():
        assert bool(studies.get(name).seeds) == shows.endswith("; --seeds N"), name
    for name, place in (("thesis/fig4_10", "Fig. 4.10"), ("dense/table1", "Table 1"), ("noise/fig6", "Fig. 6, left")):
        assert studies.get(name).source.endswith(f", {place}")


def test_spearman_is_the_correlation_of_ranks():
    scipy = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(5):
        x, y = rng.integers(0, 6, (2, 20))
        assert spearman(x, y) == pytest.approx(scipy.spearmanr(x, y)[0])
