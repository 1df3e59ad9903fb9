"""What a fit says of itself where the penalty is tiny or none: is it an optimum, and what to do."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from xclf import SoftmaxClassifier, SVMClassifier, SweepCV, TwoLayerClassifier

#: Classes far apart, and rows that know nothing of their class.
Y = np.arange(60) % 3
X = np.random.default_rng(0).normal(size=(60, 3)) + 9.0 * np.eye(3)[Y]
MIXED = np.random.default_rng(1).normal(size=(60, 2))


def _fit(model, x=X, y=Y, **options):
    """(model, what it warned of)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(x, y, **options)
    assert all(one.category is ConvergenceWarning for one in caught)
    assert all(one.filename == __file__ for one in caught)
    return model, [str(one.message) for one in caught]


NO_PENALTY = "set reg above 0: the model separates the classes, and without a penalty larger"
RAISE_REG = (
    ", or raise reg: the model separates the classes, and only the penalty holds its weights"
)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("max_iter", [20, None])
@pytest.mark.parametrize("weighted", [False, True])
def test_separated_classes_without_a_penalty_have_no_optimum(dtype, max_iter, weighted):
    """Whatever ended the fit, rounding or the number of iterations, more would be no help."""
    weights = np.random.default_rng(1).uniform(0.0, 3.0, 60) if weighted else None
    model = SoftmaxClassifier(reg=0.0, max_iter=max_iter)
    model, (told,) = _fit(model, X.astype(dtype), sample_weight=weights)
    assert not model.converged_
    assert model.score(X.astype(dtype), Y) == 1.0
    assert "did not converge: there is no optimum at finite weights (objective" in told
    assert NO_PENALTY in told
    assert "raise" not in told
    once, twice = (_loss(model, times) for times in (1.0, 2.0))
    assert twice < once


def _loss(model, times):
    """The mean cross-entropy with so many times the weights."""
    scores = X @ model.coef_.T.astype(float) + model.intercept_
    scores *= times * 30.0 / np.abs(scores).max()  # as they are the losses would all underflow
    others = np.exp(scores - scores[np.arange(60), Y][:, None]).sum(axis=1) - 1.0
    return float(np.log1p(others).mean())


def test_a_net_without_a_penalty():
    net = TwoLayerClassifier(hidden=8, reg=0.0, solver="lbfgs", random_state=0)
    net, (told,) = _fit(net)
    assert NO_PENALTY in told
    assert not net.converged_


@pytest.mark.parametrize("cls", [SoftmaxClassifier, SVMClassifier])
def test_mixed_classes_have_an_optimum_without_a_penalty(cls):
    model, told = _fit(cls(reg=0.0), MIXED)
    assert model.converged_
    assert told == []
    assert model.score(MIXED, Y) < 1.0
    model, (told,) = _fit(cls(reg=0.0, max_iter=3), MIXED)
    assert "reached max_iter=3" in told
    assert told.endswith("raise max_iter or tol, or scale the features (standardize=True)")


def test_the_hinge_of_separated_classes_has_an_optimum_of_0():
    model, told = _fit(SVMClassifier(reg=0.0))
    assert model.converged_
    assert (model.objective_, model.dual_gap_, told) == (0.0, 0.0, [])
    assert model.score(X, Y) == 1.0


@pytest.mark.parametrize("cls", [SoftmaxClassifier, SVMClassifier])
def test_a_penalty_that_hardly_holds_the_weights(cls):
    """The advice names it beside the others where the classes are separated, and only there."""
    model, (told,) = _fit(cls(reg=1e-12, max_iter=25, tol=1e-14))
    assert not model.converged_
    assert told.endswith("scale the features (standardize=True)" + RAISE_REG)
    _, (told,) = _fit(cls(reg=1e-12, max_iter=25, tol=1e-14).set_params(max_iter=3), MIXED)
    assert told.endswith("scale the features (standardize=True)")


def test_one_row_on_the_wrong_side_is_not_separated():
    """However little it weighs: the bound counts the lightest row at the heaviest's expense."""
    y = Y.copy()
    y[0] = 1  # a row in the midst of class 0
    for weight in (1.0, 1e-3, 1e-6):
        weights = np.ones(60)
        weights[0] = weight
        model, told = _fit(SoftmaxClassifier(reg=0.0, max_iter=2000), y=y, sample_weight=weights)
        assert model.score(X, y) < 1.0
        assert not any(NO_PENALTY in one for one in told)


def test_rounding_is_not_taken_for_a_penalty_too_small():
    """Where classes are mixed and float32 ends the fit, wider data help, and reg is not named."""
    x = (MIXED + 300.0).astype(np.float32)
    _, (told,) = _fit(SoftmaxClassifier(reg=1e-9, tol=1e-12), x)
    assert "rounding left nothing to gain" in told
    assert told.endswith("or pass float64 data")


@pytest.mark.parametrize("step, reg", [(5, 0.0), (12, 1e-8)])  # of L-BFGS, of Newton's method
def test_a_fit_that_a_callback_ends_is_not_judged(step, reg):
    stop = [lambda event: event.step == step]
    model, warned = _fit(SoftmaxClassifier(reg=reg, callbacks=stop))
    assert (model.n_iter_, model.converged_, warned) == (step, False, [])


def test_a_minibatch_fit_that_runs_its_epochs_is_not_judged():
    _, told = _fit(SoftmaxClassifier(reg=0.0, solver="adam", learning_rate=1.0, max_iter=60))
    assert told == []


def test_a_figure_that_is_not_known_is_not_told():
    with np.errstate(all="ignore"):
        _, (told,) = _fit(SoftmaxClassifier(solver="sgd", learning_rate=1e300))
    assert "lower learning_rate" in told
    assert "nan" not in told


def test_a_sweep_says_it_too():
    with pytest.warns(ConvergenceWarning, match="3 of 6 fits .* no optimum at finite weights"):
        SweepCV(SoftmaxClassifier(), {"reg": [0.0, 1e-2]}, cv=3, refit=False).fit(X, Y)
