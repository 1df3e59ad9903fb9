"""`SweepCV` is `GridSearchCV` with another way of training: the same table, and the same rules."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from estimator_cases import blobs
from sklearn.base import BaseEstimator, TransformerMixin, clone, is_classifier
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, get_scorer, log_loss, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneGroupOut,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    cross_val_score,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sweep_cases import MOMENTUM, NAMES, NET, SOFTMAX, SVM, X, Y, assert_same_search, both

import xclf
from xclf import SoftmaxClassifier, SVMClassifier, SweepCV

REGS = {"reg": [1e-4, 1e-2, 1.0]}
# Two fits within a relative 1e-8 of the same optimum, of about 0.1, differ in their weights by no
# more than sqrt(2e-9 / reg), that is 0.005 at reg 1e-4, nearly all of it along directions that no
# score shows: in the log loss of held-out rows a fiftieth of that remains.
CLOSE = 1e-4


@pytest.mark.parametrize("estimator", [SOFTMAX, SVM, MOMENTUM, NET], ids=repr)
def test_the_same_table(estimator):
    sweep, grid = both(estimator, REGS, y=NAMES, return_train_score=True)
    assert_same_search(sweep, grid)
    assert sweep.best_score_ == grid.best_score_
    np.testing.assert_array_equal(sweep.predict(X), grid.predict(X))
    np.testing.assert_array_equal(sweep.classes_, grid.classes_)
    assert sweep.n_features_in_ == 5
    assert isinstance(sweep.refit_time_, float)
    assert sweep.best_estimator_.get_params() == grid.best_estimator_.get_params()


@pytest.mark.long
def test_the_same_winner_on_digits():
    x, y = load_digits(return_X_y=True)
    sweep, grid = both(SOFTMAX, {"reg": np.logspace(-4, 1, 6)}, x, y, scoring="neg_log_loss")
    assert_same_search(sweep, grid, CLOSE)
    assert sweep.best_score_ == pytest.approx(grid.best_score_, abs=CLOSE)


SCORINGS = [
    None,
    "accuracy",
    "neg_log_loss",
    "roc_auc_ovr",
    make_scorer(log_loss, greater_is_better=False, response_method="predict_proba"),
    ["accuracy", "f1_macro", "neg_log_loss"],
    {"hits": make_scorer(accuracy_score), "loss": "neg_log_loss"},
    lambda model, x, y: float(model.predict_proba(x)[:, 0].mean()),
    lambda model, x, y: {"norm": float((model.coef_**2).sum()), "rows": float(len(x))},
    {"own": lambda model, x, y: float(model.decision_function(x).max()), "hits": "accuracy"},
]


@pytest.mark.parametrize("scoring", SCORINGS, ids=lambda s: str(s)[:20])
def test_every_kind_of_scorer(scoring):
    """Of training rows too; the other tests are without these."""
    sweep, grid = both(MOMENTUM, REGS, scoring=scoring, refit=False, return_train_score=True)
    assert_same_search(sweep, grid, 1e-6)
    assert type(sweep.scorer_) is type(grid.scorer_)
    assert not hasattr(sweep, "best_estimator_")


def test_refit_by_name_and_by_function():
    scoring = ["accuracy", "neg_log_loss"]
    sweep, grid = both(SOFTMAX, REGS, scoring=scoring, refit="neg_log_loss")
    assert_same_search(sweep, grid, CLOSE)
    assert sweep.score(X, Y) == pytest.approx(grid.score(X, Y), abs=CLOSE)
    sweep, grid = both(SOFTMAX, REGS, scoring=scoring, refit=lambda results: 2)
    assert_same_search(sweep, grid, CLOSE)
    assert sweep.best_index_ == 2
    assert sweep.best_estimator_.reg == 1.0
    with pytest.raises(ValueError, match="refit"):
        SweepCV(SOFTMAX, REGS, scoring=scoring).fit(X, Y)


GROUPS = np.arange(90) % 5
SPLITTERS = [
    (4, {}),
    (None, {}),
    (KFold(3, shuffle=True, random_state=0), {}),
    (ShuffleSplit(3, test_size=0.3, train_size=0.4, random_state=1), {}),
    (RepeatedStratifiedKFold(n_splits=2, n_repeats=2, random_state=0), {}),
    (GroupKFold(5), {"groups": GROUPS}),
    (LeaveOneGroupOut(), {"groups": GROUPS}),
    ([(np.arange(60), np.arange(60, 90)), (np.arange(30, 90), np.arange(30))], {}),
    ([(np.arange(0, 90, 2), np.arange(1, 90, 2))] * 2, {}),
    ([(np.random.default_rng(k).integers(0, 90, 90), np.arange(k, 90, 3)) for k in (0, 1)], {}),
]


@pytest.mark.parametrize(
    "cv, fit, estimator",
    [
        pytest.param(*splitter, estimator, marks=[pytest.mark.long] * ((number + way) % 2))
        for number, splitter in enumerate(SPLITTERS)
        for way, estimator in enumerate([SOFTMAX, MOMENTUM])
    ],
    ids=lambda v: str(v)[:20],
)
def test_every_kind_of_splitter(cv, fit, estimator):
    grid = {"reg": [1e-3, 1.0]}
    sweep, grid = both(estimator, grid, cv=cv, fit=fit, scoring="neg_log_loss")
    assert_same_search(sweep, grid, CLOSE)


def test_splitters_see_the_rows():
    class ByFeature:
        def get_n_splits(self, X=None, y=None, groups=None):
            return 2

        def split(self, X, y, groups=None):
            high = X[:, 0] > np.median(X[:, 0])
            yield np.flatnonzero(high), np.flatnonzero(~high)
            yield np.flatnonzero(~high), np.flatnonzero(high)

    assert_same_search(*both(SOFTMAX, REGS, cv=ByFeature(), scoring="neg_log_loss"), CLOSE)


def test_lists_of_grids_and_masked_parameters():
    grids = [{"reg": [1e-3, 1e-1]}, {"standardize": [True], "class_weight": ["balanced", None]}]
    sweep, grid = both(SOFTMAX, grids, scoring="neg_log_loss")
    assert_same_search(sweep, grid, CLOSE)
    assert sweep.cv_results_["param_reg"].mask.tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    "estimator, standardize",
    [(SOFTMAX, True), (SVM, False), (MOMENTUM, False), (NET, True)],
    ids=repr,
)
def test_sample_weights_reach_fits_and_scorers(estimator, standardize):
    weights = np.random.default_rng(0).uniform(0.0, 2.0, 90) * (np.arange(90) % 7 > 0)
    grid = {"reg": [1e-3, 1e-1], "class_weight": [None, "balanced", {0: 5.0, 1: 1.0, 2: 2.0}]}
    estimator = clone(estimator).set_params(standardize=standardize)
    assert_same_search(*both(estimator, grid, fit={"sample_weight": weights}), 1e-12)


def test_frames_lists_and_their_names():
    frame = pd.DataFrame(X, columns=list("abcde"))
    sweep, grid = both(SOFTMAX, REGS, frame, pd.Series(NAMES), scoring="neg_log_loss")
    assert_same_search(sweep, grid, CLOSE)
    assert sweep.feature_names_in_.tolist() == list("abcde")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sweep.predict(frame)
    assert_same_search(*both(SOFTMAX, REGS, X.tolist(), NAMES.tolist(), scoring="accuracy"))


def test_a_fold_that_lacks_a_class():
    """Its models do not know the class, as single fits would not."""
    order = np.argsort(Y, kind="stable")
    scoring = ["accuracy", "f1_macro"]
    sweep, grid = both(SOFTMAX, REGS, X[order], Y[order], cv=KFold(3), scoring=scoring, refit=False)
    assert_same_search(sweep, grid, 1e-12)
    assert sweep.cv_results_["mean_test_accuracy"].max() == 0.0


def test_a_fold_with_one_class_is_a_failed_fit():
    x, y = blobs(60, 4, 2)
    order = np.argsort(y, kind="stable")
    cv = [(order[:30], order[30:]), (np.arange(40), np.arange(40, 60))]
    with pytest.warns(FitFailedWarning, match="2 fits failed out of a total of 4"):
        sweep = SweepCV(SOFTMAX, {"reg": [1e-2, 1e-1]}, cv=cv, error_score=-7.0).fit(
            x[order][np.argsort(order)], y
        )
    assert sweep.cv_results_["split0_test_score"].tolist() == [-7.0, -7.0]
    assert (sweep.cv_results_["split1_test_score"] > 0.5).all()


@pytest.mark.parametrize("estimator", [SOFTMAX, MOMENTUM, SVM], ids=repr)
def test_the_refit_is_a_fit_to_all_rows(estimator):
    """Only a full-batch softmax starts near its optimum, and ends there in fewer iterations."""
    x, y = load_digits(return_X_y=True)
    x, y = x[:600] / 16.0, y[:600]
    sweep = SweepCV(estimator, {"reg": [1e-2, 1e-1]}, cv=3).fit(x, y)
    best = sweep.best_estimator_
    alone = clone(estimator).set_params(**sweep.best_params_).fit(x, y)
    assert best.get_params() == alone.get_params()
    assert best.objective_ == pytest.approx(alone.objective_, rel=2e-6)
    if estimator is SOFTMAX:
        assert best.n_iter_ < alone.n_iter_
    else:
        np.testing.assert_array_equal(best.coef_, alone.coef_)


def test_no_labels():
    with pytest.raises(ValueError, match="requires y to be passed"):
        SweepCV(SOFTMAX, REGS, cv=KFold(3), error_score="raise").fit(X)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        SweepCV(SOFTMAX, REGS, cv=3).fit(X, Y[:50])


# --- failures --------------------------------------------------------------------------------


def test_a_candidate_that_fails_is_a_bad_score():
    with (
        pytest.warns(FitFailedWarning, match=r"(?s)3 fits failed.*reg must be a finite number"),
        pytest.warns(UserWarning, match="non-finite"),
    ):
        sweep = SweepCV(SOFTMAX, {"reg": [-1.0, 1e-2]}, cv=3).fit(X, Y)
    assert np.isnan(sweep.cv_results_["mean_test_score"][0])
    assert sweep.cv_results_["rank_test_score"].tolist() == [2, 1]
    assert sweep.best_params_ == {"reg": 1e-2}


def test_error_score_raise():
    with pytest.raises(ValueError, match="reg must be a finite number"):
        SweepCV(SOFTMAX, {"reg": [-1.0, 1e-2]}, cv=3, error_score="raise").fit(X, Y)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_rows_fail_every_fit(bad):
    x = X.copy()
    x[3, 2] = bad
    with pytest.raises(ValueError, match="All the 9 fits failed"):
        SweepCV(SOFTMAX, REGS, cv=3).fit(x, Y)


def test_unknown_parameters_and_foreign_estimators():
    with pytest.raises(ValueError, match="Invalid parameter 'penalty'"):
        SweepCV(SOFTMAX, {"penalty": ["l2"]}, cv=3).fit(X, Y)
    with pytest.raises(TypeError, match=r"LogisticRegression: use sklearn.*GridSearchCV"):
        SweepCV(LogisticRegression(), {"C": [1.0]}).fit(X, Y)
    with pytest.raises(ValueError, match=r"(?s)All the 3 fits failed.*TypeError"):
        SweepCV(SOFTMAX, {"reg": [1.0]}, cv=3).fit(X, Y, colour=3)


def test_n_jobs_says_that_it_does_nothing():
    with pytest.warns(UserWarning, match="n_jobs=2 has no effect"):
        SweepCV(SOFTMAX, REGS, cv=3, n_jobs=2).fit(X, Y)


def test_one_warning_for_all_fits_that_did_not_converge():
    with pytest.warns(ConvergenceWarning) as heard:
        SweepCV(SoftmaxClassifier(max_iter=2), REGS, cv=3, refit=False).fit(X, Y)
    (one,) = [w for w in heard if issubclass(w.category, ConvergenceWarning)]
    assert "9 of 9 fits did not converge" in str(one.message)
    assert "raise max_iter" in str(one.message)
    assert one.filename == __file__


def test_unused_parameters_warn_once():
    with pytest.warns(UserWarning, match="does not use batch_size") as heard:
        SweepCV(SoftmaxClassifier(batch_size=5), REGS, cv=3, refit=False).fit(X, Y)
    assert len(heard) == 1


# --- pipelines -------------------------------------------------------------------------------


class Counted(TransformerMixin, BaseEstimator):
    """Scales by a factor, and counts its fits."""

    fits = 0

    def __init__(self, factor=1.0):
        self.factor = factor

    def fit(self, X, y=None, sample_weight=None):
        type(self).fits += 1
        self.weight_ = None if sample_weight is None else float(np.sum(sample_weight))
        return self

    def transform(self, X):
        return X * self.factor


@pytest.mark.parametrize(
    "last", [SOFTMAX, MOMENTUM, pytest.param(SVM, marks=pytest.mark.long)], ids=repr
)
def test_pipelines(last):
    pipe = Pipeline([("scale", StandardScaler()), ("more", PolynomialFeatures(2)), ("clf", last)])
    grid = {"clf__reg": [1e-3, 1e-1], "more__degree": [1, 2], "scale__with_std": [True, False]}
    sweep, plain = both(pipe, grid, y=NAMES, return_train_score=True)
    assert_same_search(sweep, plain, 1e-12)
    np.testing.assert_array_equal(sweep.predict(X), plain.predict(X))
    np.testing.assert_array_equal(sweep.classes_, plain.classes_)


def test_first_steps_are_fitted_once_a_fold():
    Counted.fits = 0
    pipe = make_pipeline(Counted(), SOFTMAX)
    grid = {"softmaxclassifier__reg": [1e-3, 1e-2, 1e-1], "counted__factor": [1.0, 2.0]}
    SweepCV(pipe, grid, cv=4).fit(X, Y)
    assert Counted.fits == 4 * 2 + 1


def test_parameters_of_steps_reach_them():
    seen = []

    def scorer(model, x, y):
        seen.append(model[0].weight_)
        return 0.0

    weights = np.random.default_rng(0).uniform(0.5, 2.0, 90)
    pipe = make_pipeline(Counted(), SOFTMAX)
    fit = {"counted__sample_weight": weights, "softmaxclassifier__sample_weight": weights}
    grid = {"softmaxclassifier__reg": [1e-2, 1e-1]}
    sweep, plain = both(pipe, grid, scoring="neg_log_loss", fit=fit)
    assert_same_search(sweep, plain, CLOSE)
    sweep = SweepCV(pipe, grid, cv=3, scoring=scorer).fit(X, Y, **fit)
    assert sum(seen[:3]) == pytest.approx(2 * weights.sum())
    with pytest.raises(ValueError, match="does not accept the sample_weight"):
        SweepCV(pipe, grid, cv=3, error_score="raise").fit(X, Y, sample_weight=weights)


def test_a_step_that_fails_fails_its_fits_only():
    pipe = make_pipeline(PolynomialFeatures(), SOFTMAX)
    grid = {"polynomialfeatures__degree": [1, -1]}
    with pytest.warns(FitFailedWarning, match="3 fits failed"), pytest.warns(match="non-finite"):
        sweep = SweepCV(pipe, grid, cv=3).fit(X, Y)
    assert np.isnan(sweep.cv_results_["mean_test_score"]).tolist() == [False, True]


def test_the_last_step_may_be_a_parameter():
    pipe = Pipeline([("scale", StandardScaler()), ("clf", SOFTMAX)])
    grid = [{"clf": [SoftmaxClassifier(), SVMClassifier()], "clf__reg": [1e-2, 1e-1]}]
    sweep, plain = both(pipe, grid)
    np.testing.assert_array_equal(
        sweep.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"]
    )


# --- as a scikit-learn object ----------------------------------------------------------------


def test_it_delegates_what_the_model_can():
    sweep = SweepCV(SOFTMAX, REGS, cv=3).fit(X, NAMES)
    best = sweep.best_estimator_
    for name in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        np.testing.assert_array_equal(getattr(sweep, name)(X), getattr(best, name)(X))
    assert sweep.score(X, NAMES) == best.score(X, NAMES)
    assert not hasattr(SweepCV(SVM, REGS), "predict_proba")
    assert not hasattr(SweepCV(SOFTMAX, REGS), "transform")
    assert not hasattr(SweepCV(SOFTMAX, REGS, refit=False), "predict")
    assert is_classifier(sweep)


def test_clone_parameters_pickle_and_repr():
    sweep = SweepCV(SOFTMAX, REGS, cv=3, scoring="accuracy")
    names = "estimator param_grid scoring n_jobs refit cv verbose error_score return_train_score"
    assert set(sweep.get_params(deep=False)) == set(names.split())
    copy = clone(sweep).set_params(estimator__max_iter=50, cv=4)
    assert (copy.estimator.max_iter, copy.cv, sweep.cv) == (50, 4, 3)
    fitted = pickle.loads(pickle.dumps(sweep.fit(X, Y)))
    np.testing.assert_array_equal(fitted.predict(X), sweep.predict(X))
    assert "SweepCV(cv=3" in repr(sweep)
    assert xclf.SweepCV is SweepCV
    assert sweep.estimator is SOFTMAX
    assert not hasattr(SOFTMAX, "classes_")


def test_callbacks_of_scikit_learn_are_refused():
    """They would hear nothing: its own search has them, and follows one fit after the other."""
    sweep = SweepCV(SOFTMAX, REGS, cv=3)
    assert not hasattr(sweep, "set_callbacks")
    with pytest.raises(AttributeError, match="verbose=1 shows progress, and the estimator's own"):
        sweep.set_callbacks(object())
    callback = pytest.importorskip("sklearn.callback", reason="scikit-learn has none before 1.9")
    outer = GridSearchCV(sweep, {"cv": [2]}, cv=2).set_callbacks(callback.ProgressBar())
    with pytest.warns(UserWarning, match="SweepCV does not support callbacks"):
        outer.fit(X, NAMES)


def test_nested_cross_validation():
    scores = cross_val_score(SweepCV(SOFTMAX, REGS, cv=2), X, NAMES, cv=2)
    assert scores.mean() > 0.8


def test_metadata_routing():
    with sklearn.config_context(enable_metadata_routing=True):
        model = SoftmaxClassifier().set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        weights = np.random.default_rng(0).uniform(0.5, 2.0, 90)
        fit = {"sample_weight": weights, "groups": GROUPS}
        sweep, grid = both(model, REGS, cv=GroupKFold(3), fit=fit)
        assert_same_search(sweep, grid, 1e-12)
        pipe = make_pipeline(StandardScaler().set_fit_request(sample_weight=True), model)
        grids = {"softmaxclassifier__reg": [1e-2, 1e-1]}
        # Before version 1.8 no weights reach a pipeline's own score, in scikit-learn's search too.
        scorer = get_scorer("accuracy").set_score_request(sample_weight=True)
        version = tuple(int(part) for part in sklearn.__version__.split(".")[:2])
        for scoring in (scorer, None) if version >= (1, 8) else (scorer,):
            found = both(pipe, grids, fit={"sample_weight": weights}, scoring=scoring)
            assert_same_search(*found, 1e-12)
