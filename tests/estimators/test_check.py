"""scikit-learn's own checks, and its tools around the three classifiers."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from estimator_cases import CLASSES, LOSSES_OF, MINIBATCH, blobs, small, with_loss
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    check_classifier_multioutput,
    check_classifiers_classes,
    check_classifiers_train,
    check_fit_idempotent,
    parametrize_with_checks,
)

from xclf import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier
from xclf.optim import SOLVERS

X, Y = blobs(60, 5, 3)
NAMES = np.array(["ash", "birch", "cedar"])[Y]


def _small(cls, loss, solver):
    """A model whose minibatch fits take few epochs."""
    model = with_loss(cls, loss, solver=solver)
    if cls is TwoLayerClassifier:
        model.set_params(hidden=16)
    if solver in MINIBATCH:
        model.set_params(batch_size=16, learning_rate=0.02, max_iter=40)
    return model


#: All checks: every class.
CHECKED = [
    SoftmaxClassifier(),
    SVMClassifier(),
    # With a penalty: without one, scores of raw counts grow until two probabilities round to 1.
    TwoLayerClassifier(hidden=16, max_iter=60, learning_rate=0.01, reg=1e-2),
]
#: And every other loss, and solver; minibatches are parts of the few rows.
OTHERS = [
    _small(SVMClassifier, "hinge", "adam").set_params(max_iter=25),
    TwoLayerClassifier(),
    _small(SoftmaxClassifier, "softmax", "nesterov").set_params(learning_rate=0.005),
    _small(SoftmaxClassifier, "softmax", "rmsprop"),
    # Weights against repeated rows to 1e-7: closer than the default tolerance brings two fits.
    _small(SVMClassifier, "squared_hinge", "lbfgs").set_params(tol=1e-12),
    _small(TwoLayerClassifier, "hinge", "momentum"),
    _small(TwoLayerClassifier, "squared_hinge", "sgd"),
]
#: The checks that train: every loss of every class, each with another solver; and all of both.
ROTATED = [
    _small(*chosen, solver)
    for chosen, solver in zip(LOSSES_OF, itertools.cycle(SOLVERS), strict=False)
]
EVERY = [_small(cls, loss, solver) for cls, loss in LOSSES_OF for solver in SOLVERS]
TRAINING_CHECKS = [check_classifiers_train, check_classifiers_classes, check_fit_idempotent]


def _expected(estimator):
    """The one failure that a true minibatch method may have; all others see 30 rows as a batch. And
    that of a model whose scores of raw counts are so large that two probabilities round to 1."""
    if estimator.batch_size is None:
        if type(estimator) is not SoftmaxClassifier:
            return {}
        reason = "ranks of scores and of probabilities differ where two of these are 1.0"
        return {"check_classifier_multioutput": reason}
    reason = "a repeated row falls into other minibatches than a weighted one"
    kinds = ("dense", "sparse")
    return {f"check_sample_weight_equivalence_on_{kind}_data": reason for kind in kinds}


# check_array_api_input skips itself without SCIPY_ARRAY_API; some checks fit one row or constant
# features, at which a warning is right. Both are scikit-learn's business here.
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(CHECKED, expected_failed_checks=_expected)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(OTHERS, expected_failed_checks=_expected)
def test_scikit_learn_checks_of_other_losses_and_solvers(estimator, check):
    check(estimator)


def test_scikit_learns_check_of_multi_label_indicators():
    """Of scores that no probability of 1.0 stands for."""
    check_classifier_multioutput("SoftmaxClassifier", SoftmaxClassifier(reg=1e-3))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", ROTATED, ids=repr)
def test_scikit_learns_check_of_repeated_fits(estimator):
    check_fit_idempotent(type(estimator).__name__, clone(estimator))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", EVERY, ids=repr)
@pytest.mark.parametrize("check", TRAINING_CHECKS, ids=lambda check: check.__name__)
def test_scikit_learn_checks_of_training(estimator, check):
    check(type(estimator).__name__, clone(estimator))


@pytest.mark.parametrize("cls", CLASSES)
def test_pipelines_and_cross_validation(cls):
    pipeline = make_pipeline(StandardScaler(), small(cls))
    assert is_classifier(pipeline)
    assert cross_val_score(pipeline, X, NAMES, cv=3).mean() > 0.8
    assert set(cross_val_predict(small(cls), X, NAMES, cv=3)) == set(NAMES)
    pipeline.fit(X, NAMES)
    np.testing.assert_array_equal(pipeline[:-1].transform(X).shape, X.shape)
    assert pipeline.score(X, NAMES) > 0.8


@pytest.mark.parametrize("cls", CLASSES)
def test_grid_search(cls):
    grid = {"reg": [1e-4, 1e-1], "standardize": [False, True]}
    search = GridSearchCV(small(cls), grid, cv=3, error_score="raise").fit(X, NAMES)
    assert search.best_score_ > 0.8
    assert search.best_estimator_.reg in grid["reg"]
    np.testing.assert_array_equal(search.predict(X), search.best_estimator_.predict(X))


@pytest.mark.parametrize("cls", CLASSES)
def test_calibration(cls):
    model = CalibratedClassifierCV(small(cls), cv=3).fit(X, NAMES)
    p = model.predict_proba(X)
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    assert model.score(X, NAMES) > 0.8


@pytest.mark.parametrize("scoring", ["accuracy", "neg_log_loss", "roc_auc_ovr", "f1_macro"])
def test_scorers(scoring):
    scores = cross_val_score(SoftmaxClassifier(), X, Y, cv=3, scoring=scoring)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("cls", CLASSES)
def test_clone_copies_parameters_only(cls):
    model = small(cls, reg=0.5, class_weight={0: 2.0, 1: 1.0, 2: 1.0}).fit(X, Y)
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "classes_")
    assert copy.class_weight is not model.class_weight


@pytest.mark.parametrize("cls", CLASSES)
def test_pickles_predict_the_same_and_go_on(cls):
    model = small(cls, solver="adam", random_state=1)
    for _ in range(2):
        model.partial_fit(X, NAMES, classes=np.unique(NAMES))
    other = pickle.loads(pickle.dumps(model))
    scores = model.decision_function(X)
    np.testing.assert_array_equal(other.decision_function(X), scores)
    assert other.get_params() == model.get_params()
    model.partial_fit(X, NAMES)
    other.partial_fit(X, NAMES)  # with the generator and the rule's state of the first
    np.testing.assert_array_equal(other.decision_function(X), model.decision_function(X))
    assert not np.array_equal(scores, model.decision_function(X))


@pytest.mark.parametrize("cls", CLASSES)
def test_fit_returns_the_model_and_leaves_parameters_alone(cls):
    model = small(cls)
    before = model.get_params()
    assert model.fit(X, Y) is model
    assert model.get_params() == before
    assert model.partial_fit(X, Y) is model
    assert model.get_params() == before


def test_set_params_reaches_every_parameter():
    for cls in CLASSES:
        model = cls()
        for name, value in cls().get_params().items():
            model.set_params(**{name: value})
        with pytest.raises(ValueError, match="Invalid parameter"):
            model.set_params(penalty="l1")


def test_the_repr_shows_what_was_changed():
    assert repr(SoftmaxClassifier(reg=0.5)) == "SoftmaxClassifier(reg=0.5)"
    assert "hidden=7" in repr(TwoLayerClassifier(7))
