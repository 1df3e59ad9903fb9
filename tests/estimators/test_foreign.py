"""Parameters of other libraries: what to write here, and that the conversions are right."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from estimator_cases import CLASSES, blobs
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import xclf
from xclf.estimators import HINTS

X, Y = blobs(40, 4, 3)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("name", HINTS)
def test_every_way_to_pass_one(cls, name):
    assert name not in cls().get_params()
    with pytest.raises(TypeError, match=f"there is no parameter {name}: "):
        cls(**{name: 1})
    with pytest.raises(ValueError, match=f"Invalid parameter '{name}' for {cls.__name__}: "):
        cls().set_params(**{name: 1})


def test_others_are_the_errors_of_python_and_scikit_learn():
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        xclf.SoftmaxClassifier(colour=1)
    with pytest.raises(ValueError, match="Invalid parameter 'colour'"):
        xclf.SoftmaxClassifier().set_params(colour=1)


def test_grids_and_pipelines():
    with pytest.raises(ValueError, match="Invalid parameter 'C'"):
        xclf.SweepCV(xclf.SoftmaxClassifier(), {"C": [1.0]}).fit(X, Y)
    with pytest.raises(ValueError, match="Invalid parameter 'C'"):
        make_pipeline(xclf.SVMClassifier()).set_params(svmclassifier__C=1.0)


def test_names_of_others_have_hints():
    with pytest.raises(AttributeError, match="'LogisticRegression'; its counterpart is Softmax"):
        xclf.LogisticRegression  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute 'Forest'$"):
        xclf.Forest  # noqa: B018
    with pytest.raises(ValueError, match="got 'saga': 'auto' takes the place of scikit-learn's"):
        xclf.SoftmaxClassifier(solver="saga").fit(X, Y)


def test_a_scaler_before_the_fit_is_standardize():
    """The conversion of the guide: a pipeline with a StandardScaler."""
    C, scales = 0.3, np.arange(1.0, 1.0 + X.shape[1])
    logistic = LogisticRegression(C=C, tol=1e-10, max_iter=10_000)
    theirs = make_pipeline(StandardScaler(), logistic).fit(X * scales, Y)
    ours = xclf.SoftmaxClassifier(reg=1 / (2 * C * len(X)), standardize=True).fit(X * scales, Y)
    # |W - W*|^2 <= gap / reg, with a gap of 1e-8 of the objective, in units of deviations.
    bound = 2 * np.sqrt(1e-8 * ours.objective_ / ours.reg)
    there = theirs[-1].coef_ / theirs[0].scale_
    assert np.max(np.abs(ours.coef_ - there) * theirs[0].scale_) <= bound


def test_the_constructor_is_as_it_was():
    signature = inspect.signature(xclf.SoftmaxClassifier)
    assert list(signature.parameters)[:2] == ["reg", "fit_intercept"]
    assert signature.parameters["reg"].annotation is float
    assert clone(xclf.SVMClassifier(margin=2.0)).margin == 2.0


@pytest.mark.parametrize("classes", [2, 3])
def test_the_conversion_of_c(classes):
    """scikit-learn's optimum at C is the one here at the reg that the hint gives."""
    x, y = X[classes > Y], Y[classes > Y]
    C = 0.3
    reg = eval(HINTS["C"].partition("reg = ")[2].partition(",")[0], {"C": C, "n": len(x)})
    if classes == 2:
        reg = eval(HINTS["C"].rpartition("classes ")[2], {"C": C, "n": len(x)})
    theirs = LogisticRegression(C=C, tol=1e-10, max_iter=10_000).fit(x, y)
    ours = xclf.SoftmaxClassifier(reg=reg).fit(x, y)
    # Strong convexity: |W - W*|^2 <= gap / reg, with a gap of 1e-8 of the objective; twice for two.
    bound = 2 * np.sqrt(1e-8 * ours.objective_ / reg)
    assert np.max(np.abs(ours.coef_ - theirs.coef_)) <= bound
