"""References of linear codes and dictionary learning."""

import numpy as np

from tests.references.reference import finite, need, reference, relu


def tame_problem(a):
    finite(a.x, a.dictionary, getattr(a, "code", None), getattr(a, "initial", None))


def lasso(a, code, weight):
    return squares(a, code) / 2 + weight * np.abs(code).sum(-1)


def squares(a, code):
    """Returns the squared error on the inputs that were observed, and of the elastic net."""
    seen = 1 if getattr(a, "mask", None) is None else np.asarray(a.mask)
    return np.sum(seen * (a.x - code @ a.dictionary.T) ** 2, -1) + getattr(a, "l2", 0) * np.sum(code**2, -1)


def correlate(a, code):
    """Returns the correlations of the atoms with the residual, and of the elastic net."""
    seen = 1 if getattr(a, "mask", None) is None else np.asarray(a.mask)
    return (seen * (a.x - code @ a.dictionary.T)) @ a.dictionary - a.l2 * code


def masked(draw, arguments):
    """Draws a mask that fits x."""
    x = arguments["x"]
    if arguments.get("mask") is None:
        return arguments
    shape = draw.rng.choice((np.shape(x), np.shape(x)[-1:]))
    return arguments | {"mask": draw.as_any(draw.numbers.random(shape) < 0.7)}


@reference("soft_threshold")
def _(a, y):
    finite(a.z, a.threshold)
    return np.sign(a.z) * relu(np.abs(a.z) - a.threshold)


@reference("hard_threshold")
def _(a, y):
    finite(a.z, a.threshold)
    near = np.abs(np.abs(a.z) - a.threshold) < 0.01 * (1 + abs(a.threshold))
    return np.where(near, y, np.where(np.abs(a.z) > a.threshold, a.z, 0))


@reference("lasso_objective", masked)
def _(a, y):
    tame_problem(a)
    return lasso(a, a.code, a.l1)


@reference("kkt_violation", masked)
def _(a, y):
    tame_problem(a)
    c, code = correlate(a, a.code), a.code
    on, off = np.abs(c - a.l1 * np.sign(code)), relu((c if a.nonnegative else np.abs(c)) - a.l1)
    right = np.where(code != 0, on, off).max(-1, initial=0)
    return np.where((code < 0).any(-1), np.nan, right) if a.nonnegative else right


@reference("duality_gap", masked)
def _(a, y):
    tame_problem(a)
    if a.nonnegative and (a.code < 0).any():
        assert np.isnan(y[(a.code < 0).any(-1)]).all()
        need(False)
    c = correlate(a, a.code)
    largest = (c if a.nonnegative else np.abs(c)).max(-1, initial=0)
    s = np.minimum(1, a.l1 / np.maximum(largest, 1e-30))
    # The energy of x beside zeros, minus that of x beside zeros minus s times the residual beside l2's.
    seen = 1 if a.mask is None else np.asarray(a.mask)
    residual = seen * (a.x - a.code @ a.dictionary.T)
    whole = np.sum(residual**2, -1) + a.l2 * np.sum(a.code**2, -1)
    dual = s * np.sum(seen * a.x * residual, -1) - s**2 * whole / 2
    primal = lasso(a, a.code, a.l1)
    gap = primal - dual
    scale = np.maximum(primal, 1e-3)
    right = np.where(primal > 0, gap / np.where(primal > 0, primal, 1), 0) if a.relative else gap
    np.testing.assert_allclose(y / (1 if a.relative else scale), right / (1 if a.relative else scale), atol=2e-3)


def solved(weight_of=lambda a: a.l1):
    """Asserts that a solver's code is as good as zeros, and near the minimum if it says so."""

    def of(a, y):
        tame_problem(a)
        assert y.code.shape == (*a.x.shape[:-1], a.dictionary.shape[1])
        assert y.iterations.shape == y.gap.shape == a.x.shape[:-1]
        assert np.isfinite(y.code).all()
        need(a.tolerance is not None and 0 < a.tolerance < 0.1, a.dictionary.size, np.ndim(weight_of(a)) == 0)
        need(0 <= a.l2 < 1e3)
        done, objective = y.gap <= a.tolerance, lasso(a, y.code, weight_of(a))
        # Accelerated proximal gradients in float64.
        step = 1 / (np.linalg.norm(a.dictionary, 2) ** 2 + a.l2 + 1e-9)
        code = ahead = np.zeros(y.code.shape)
        t = 1.0
        for _ in range(2000):
            z = ahead + step * correlate(a, ahead)
            size, bound = (z if a.nonnegative else np.abs(z)), step * weight_of(a)
            new = np.where(size > bound, z - bound * np.sign(z), 0)
            after = (1 + np.sqrt(1 + 4 * t * t)) / 2
            ahead, code, t = new + (t - 1) / after * (new - code), new, after
        best = lasso(a, code, weight_of(a))
        assert not a.nonnegative or y.code.min(initial=0) >= 0
        assert (objective[done] <= best[done] * (1 + a.tolerance + 1e-3) + 1e-4).all()

    return of


def start_like_the_code(d, a):
    """Lets solvers start from a code of the same type."""
    return a


for _name in ("ista", "fista", "admm"):
    reference(_name, masked)(solved())


@reference("lca", masked)
def _(a, y):
    tame_problem(a)
    assert y.code.shape == (*a.x.shape[:-1], a.dictionary.shape[1]) and y.gap.shape == a.x.shape[:-1]
    need(a.threshold == "soft", a.step is None)
    solved()(a, y)


@reference("matching_pursuit")
def _(a, y):
    tame_problem(a)
    energy = np.sum(a.x**2, -1)
    left = np.sum((a.x - y.code @ a.dictionary.T) ** 2, -1)
    started = energy if a.initial is None else np.sum((a.x - a.initial @ a.dictionary.T) ** 2, -1)
    assert (left <= started * 1.001 + 1e-5).all(), "the residual grew"
    assert a.initial is not None or ((y.code != 0).sum(-1) <= a.k).all()
    np.testing.assert_allclose(y.gap, left / np.where(energy > 0, energy, 1), rtol=1e-2, atol=1e-4)


def bounded(draw, arguments):
    """Gives at least one limit of the pursuit."""
    none = arguments.get("k") is None and arguments.get("tolerance") is None
    return masked(draw, arguments) | {"at_most": 3, "error": None} | ({"k": 1} if none else {})


@reference("orthogonal_matching_pursuit", bounded)
def _(a, y):
    tame_problem(a)
    assert ((y.code != 0).sum(-1) <= (3 if a.k is None else max(0, a.k))).all()
    seen = 1 if a.mask is None else np.asarray(a.mask)
    energy, left = np.sum(seen * a.x**2, -1), np.sum(seen * (a.x - y.code @ a.dictionary.T) ** 2, -1)
    assert (left <= energy * 1.001 + 1e-5).all()
    np.testing.assert_allclose(y.gap, left / np.where(energy > 0, energy, 1), rtol=1e-2, atol=1e-4)


@reference("sparse_set")
def _(a, y):
    tame_problem(a)

    def objective(code):
        return np.sum((a.x - code @ a.dictionary.T) ** 2, -1) / 2 + float(a.l0) * (code != 0).sum(-1)

    start = np.zeros(y.code.shape) if a.initial is None else a.initial
    before = objective(start)
    assert (objective(y.code) <= before * 1.01 + 1e-4).all()


@reference("init_dictionary")
def _(a, y):
    finite(a.x)
    assert y.dictionary.shape == (a.x.shape[1], a.atoms) and y.steps == 0
    need(a.x.shape[1])
    np.testing.assert_allclose(np.linalg.norm(y.dictionary, axis=0), 1, rtol=1e-4)
    assert not y.codes.any() and not y.products.any() and not y.skipped
    assert not a.nonnegative_atoms or y.dictionary.min() >= 0


def one_solver(draw, arguments):
    """Gives either l1 or k, of which exactly one is needed."""
    one = draw.rng.choice(("l1", "k"))
    numbers = {"l1": 0.1, "k": 1}
    return arguments | {name: numbers[name] if name == one else None for name in numbers}


def learnt(a, new, code):
    """Asserts that the statistics are those of the batch; a replaced atom has none."""
    assert new.dictionary.shape == a.state.dictionary.shape
    assert np.isfinite(new.dictionary).all() and new.steps == a.state.steps + 1 and new.skipped == a.state.skipped
    need(np.isfinite(a.forget) and 0 <= a.forget < 10)
    keep = 0 if a.state.steps == 0 else (1 - 1 / new.steps) ** a.forget
    codes = keep * a.state.codes + code.T @ code / len(a.x)
    begun = np.diagonal(new.codes) == 0
    codes = np.where(begun[:, None] | begun, 0, codes)
    np.testing.assert_allclose(new.codes, codes, rtol=1e-3, atol=1e-4 * max(1, np.abs(codes).max(initial=0)))
    assert not a.nonnegative_atoms or new.dictionary.min(initial=0) >= 0


@reference("dictionary_step", one_solver)
def _(a, y):
    finite(a.x, *a.state)
    new, code = y
    assert code.code.shape == (len(a.x), new.codes.shape[0])
    if not len(a.x):
        return a.state, None
    learnt(a, new, code.code)


@reference("update_dictionary")
def _(a, y):
    finite(a.x, a.code, *a.state)
    if not len(a.x):
        return a.state
    learnt(a, y, a.code)


@reference("init_sparsenet")
def _(a, y):
    need(np.isfinite(a.variance_goal))
    np.testing.assert_allclose(np.linalg.norm(y.dictionary, axis=0), 1, rtol=1e-4)
    np.testing.assert_allclose(y.variance, a.variance_goal, rtol=1e-4)
    return None, np.ones(a.atoms), None


_SPARSENESS = {"cauchy": lambda x: np.log1p(x**2), "l1": np.abs, "gaussian": lambda x: 1 - np.exp(-(x**2))}


def sparsenet(a, code):
    return np.sum((a.x - code @ a.dictionary.T) ** 2, -1) / 2 + a.penalty * _SPARSENESS[a.sparseness](
        code / a.scale
    ).sum(-1)


@reference("sparsenet_objective")
def _(a, y):
    tame_problem(a)
    return sparsenet(a, a.code)


@reference("sparsenet_code")
def _(a, y):
    tame_problem(a)
    assert y.code.shape == (*a.x.shape[:-1], a.dictionary.shape[1]) and np.isfinite(y.code).all()
    need(a.initial is not None, a.sparseness != "l1")
    assert (sparsenet(a, y.code) <= sparsenet(a, a.initial) * 1.001 + 1e-4).all()


@reference("sparsenet_step")
def _(a, y):
    finite(a.x, *a.state)
    new, metrics = y
    assert new.dictionary.shape == a.state.dictionary.shape
    if not len(a.x):
        return a.state, (0.0, 0.0)
    need(*(np.isfinite(v) and 0 < v < 2 for v in (a.learning_rate, a.variance_goal, a.variance_rate, a.gain_exponent)))
    assert np.isfinite(new.dictionary).all() and metrics.error >= 0


@reference("DictionaryLearner", may_refuse=True)
def _(a, y):
    assert y.shape == (len(a.x), a.atoms) and np.isfinite(y).all()


@reference("group_lasso", lambda d, a: masked(d, a) | {"groups": np.arange(a["dictionary"].shape[1]) // 2, "l1": 0.2})
def _(a, y):
    tame_problem(a)
    assert y.code.shape == (*a.x.shape[:-1], a.dictionary.shape[1]) and np.isfinite(y.code).all()
    need(a.tolerance is not None, a.dictionary.size)

    def objective(code):
        lengths = np.sqrt(code**2 @ (np.asarray(a.groups)[:, None] == np.arange(max(a.groups) + 1)))
        return lasso(a, code, 0) + a.l1 * lengths.sum(-1)

    need(0 <= a.l2 < 1e3)
    assert (objective(y.code)[y.converged] <= objective(np.zeros(y.code.shape))[y.converged] * 1.01 + 1e-4).all()


@reference("lasso_path", lambda d, a: a | {"l1": np.float32([0.5, 0.1])})
def _(a, y):
    tame_problem(a)
    assert y.code.shape == (2, *a.x.shape[:-1], a.dictionary.shape[1]) and np.isfinite(y.code).all()
    need(a.l2 == 0, 0 < a.tolerance < 0.1, a.dictionary.size)
    for code, done, l1 in zip(y.code, y.converged, a.l1, strict=True):
        better = lasso(a, code, l1) <= lasso(a, np.zeros(code.shape), l1) * (1 + a.tolerance) + 1e-4
        assert better[done].all()


@reference("code_within_l1", lambda d, a: a | {"radius": 0.5})
def _(a, y):
    tame_problem(a)
    assert y.code.shape == (*a.x.shape[:-1], a.dictionary.shape[1]) and np.isfinite(y.code).all()
    assert (np.abs(y.code).sum(-1) <= a.radius * 1.001).all()
    assert not a.nonnegative or y.code.min(initial=0) >= 0


@reference("code_within_error", lambda d, a: a | {"error": 0.5})
def _(a, y):
    tame_problem(a)
    assert y.code.shape == (*a.x.shape[:-1], a.dictionary.shape[1]) and np.isfinite(y.code).all()
    left = np.sum((a.x - y.code @ a.dictionary.T) ** 2, -1)
    assert (left[y.converged] <= a.error * 1.001 + 1e-4).all()
