"""Parameters of other libraries: what to write here, and that the conversions are right."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from estimator_cases import CLASSES, blobs
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

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
