"""scikit-learn's own checks of a sweep."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks
from sweep_cases import NET

from xclf import SoftmaxClassifier, SweepCV

CHECKED = {"param_grid": {"reg": [1e-3, 1e-1]}, "cv": 2, "error_score": "raise"}


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([SweepCV(SoftmaxClassifier(), **CHECKED)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([SweepCV(NET, **CHECKED)])
def test_scikit_learn_checks_of_minibatches(estimator, check):
    check(estimator)
