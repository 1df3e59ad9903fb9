"""What a fit promises wherever it runs: NumPy's numbers, the same bits twice, little that is read.

On every backend that is here, so that a machine with a GPU proves it of CuPy.
"""

from __future__ import annotations

import functools
import importlib

import numpy as np
import pytest
from estimator_cases import blobs

from xclf import SoftmaxClassifier, SVMClassifier, SweepCV, TwoLayerClassifier

X, Y = blobs(100, 6, 3)
NAMES = np.asarray(["ash", "birch", "cedar"])[Y]
WEIGHTS = np.random.default_rng(3).uniform(0.5, 2.0, size=len(Y))

NET = {"hidden": 8, "random_state": 4}
STEPS = {"batch_size": 20, "max_iter": 4, "tol": 0.0, "n_iter_no_change": 99, "random_state": 1}
MINIBATCH = ("sgd", "momentum", "rmsprop", "adam")

#: Twenty steps of each: five batches an epoch, or iterations.
TRACES = {
    "softmax, lbfgs": lambda: SoftmaxClassifier(reg=1e-2, max_iter=20, tol=0.0),
    "hinge, lbfgs": lambda: SVMClassifier(reg=1e-1, max_iter=20, tol=0.0),
    "net, lbfgs": lambda: TwoLayerClassifier(solver="lbfgs", max_iter=20, tol=0.0, **NET),
    **{
        f"{cls.__name__}, {solver}": lambda cls=cls, solver=solver: cls(solver=solver, **STEPS)
        for cls in (SoftmaxClassifier, SVMClassifier)
        for solver in MINIBATCH
    },
    **{
        f"net, {loss}, {solver}": lambda loss=loss, solver=solver: TwoLayerClassifier(
            solver=solver, loss=loss, hidden=8, **STEPS
        )
        for loss in ("softmax", "hinge")
        for solver in MINIBATCH
    },
}
#: Places in TRACES of which every solver, class and loss has even and odd ones.
PLACES = {name: place + place // 4 for place, name in enumerate(TRACES)}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


#: Sums of N rows and D features are off by (N + D) u of their terms in one order and in another:
#: twenty steps, none of which amplifies.
ROUNDING = 20 * 2 * (X.shape[0] + X.shape[1]) * 2.0**-53

#: What amplifies (a line search, a kink) is measured: see `_numpys`. Three draws of the last bits
#: show a part of what another order of summation may do.
DRAWS, PART = 3, 100


@functools.cache
def _numpys(name, standardize):
    """NumPy's fit, and how far its losses and parameters move, relative, when the last two bits of
    every entry of X do."""

    def fit(x):
        return TRACES[name]().set_params(standardize=standardize).fit(x, NAMES, WEIGHTS)

    want, moved = fit(X), [ROUNDING / PART, ROUNDING / PART]
    for seed in range(DRAWS):
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=X.shape)
        got = fit(X * (1.0 + 2.0**-52 * signs))
        losses, other = (np.asarray(fitted.history_["loss"]) for fitted in (want, got))
        moved[0] = max(moved[0], np.max(np.abs(other / losses - 1.0)))
        pairs = zip(_parameters(got), _parameters(want), strict=True)
        moved[1] = max(moved[1], *(np.max(np.abs(a - b)) / np.max(np.abs(b)) for a, b in pairs))
    return want, PART * moved[0], PART * moved[1]


def _parameters(model):
    return [part for layer in model._layers() for part in layer]


@pytest.mark.usefixtures("every_problem_is_large")  # steps of Newton-CG come from float32 products
@pytest.mark.parametrize("name, standardize", [(name, at % 2 == 1) for name, at in PLACES.items()])
def test_twenty_steps_are_numpys(backend, name, standardize):
    """float64: the objective after every step and the parameters after the last. String labels and
    weights stay on the host."""
    want, of_losses, of_parameters = _numpys(name, standardize)
    got = TRACES[name]().set_params(standardize=standardize).fit(backend.asarray(X), NAMES, WEIGHTS)
    assert got.n_iter_ == want.n_iter_ >= 4
    np.testing.assert_allclose(got.history_["loss"], want.history_["loss"], rtol=of_losses)
    assert got.objective_ == pytest.approx(want.objective_, rel=of_losses)
    for a, b in zip(_parameters(got), _parameters(want), strict=True):
        atol = of_parameters * np.max(np.abs(b))
        np.testing.assert_allclose(backend.to_host(a), b, rtol=0, atol=atol)


@pytest.mark.parametrize(
    "name, dtype", [(name, ("float32", "float64")[at % 2]) for name, at in PLACES.items()]
)
def test_the_same_seed_gives_the_same_bits(backend, name, dtype):
    x = backend.asarray(X, dtype)
    first, second = (TRACES[name]().fit(x, NAMES) for _ in range(2))
    assert first.history_["loss"] == second.history_["loss"]
    assert first.objective_ == second.objective_
    for one, other in zip(first._layers(), second._layers(), strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(backend.to_host(a), backend.to_host(b))


FULL = {
    "softmax": lambda: SoftmaxClassifier(reg=1e-2, tol=1e-9),
    "hinge": lambda: SVMClassifier(reg=1e-1, tol=1e-10),
    "net": lambda: TwoLayerClassifier(reg=1e-2, max_iter=40, **NET),
}


@functools.cache
def _whole_on_numpy(name):
    want = FULL[name]().fit(X, NAMES, WEIGHTS)
    return want.converged_, want.objective_


@pytest.mark.parametrize("name", FULL)
def test_a_whole_fit_has_numpys_objective(backend, name):
    converged, objective = _whole_on_numpy(name)
    got = FULL[name]().fit(backend.asarray(X), NAMES, WEIGHTS)
    assert got.converged_ == converged
    assert got.objective_ == pytest.approx(objective, rel=1e-10)


@pytest.mark.parametrize("solver", ["lbfgs", "momentum"])
def test_a_sweep_gives_the_same_bits_too(backend, solver):
    x = backend.asarray(X)
    model = SoftmaxClassifier(solver=solver, random_state=0, max_iter=15)
    grid = {"reg": [1e-1, 1e-2, 1e-3]}
    first, second = (SweepCV(model, grid, cv=2).fit(x, Y) for _ in range(2))
    np.testing.assert_array_equal(
        first.cv_results_["mean_test_score"], second.cv_results_["mean_test_score"]
    )
    assert first.best_params_ == second.best_params_
    a, b = (backend.to_host(search.best_estimator_.coef_) for search in (first, second))
    np.testing.assert_array_equal(a, b)


@pytest.fixture
def read(monkeypatch):
    """The sizes of what was copied to the host by whatever runs once a step or an iteration."""
    sizes = []
    for name in (
        "optim.lbfgs",
        "training.minibatch",
        "training.full_batch",
        "training.augmented_lagrangian",
    ):
        module = importlib.import_module(f"xclf.{name}")
        plain = module.to_host

        def watched(array, plain=plain):
            host = plain(array)
            sizes.append(host.size)
            return host

        monkeypatch.setattr(module, "to_host", watched)
    return sizes


@pytest.mark.usefixtures("every_problem_is_large")
@pytest.mark.parametrize("cls", [SoftmaxClassifier, SVMClassifier])
def test_what_an_iteration_reads_is_a_few_numbers(backend, cls, read):
    """A full-batch fit copies once an evaluation, eight numbers at most, whatever the size of X."""
    cls(max_iter=20, tol=0.0, reg=1e-2).fit(backend.asarray(X), Y)
    assert len(read) >= 20
    assert len(read) <= 40  # line searches evaluate again now and then
    assert max(read) <= 8


def test_what_an_epoch_reads_is_one_number(backend, read):
    """And its steps nothing."""
    fits = []
    for batch_size in (5, 50):
        read.clear()
        SoftmaxClassifier(solver="sgd", **STEPS | {"batch_size": batch_size}).fit(
            backend.asarray(X), Y
        )
        fits.append(list(read))
    assert fits[0] == fits[1]
    assert len(fits[0]) <= 4 + 2  # the start, and the objective of all rows
    assert max(fits[0]) == 1
