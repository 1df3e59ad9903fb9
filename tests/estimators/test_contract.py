"""Fitted attributes, binary models, probabilities, what each class does not have."""

from __future__ import annotations

import doctest
import inspect
import math

import numpy as np
import pytest
from estimator_cases import CLASSES, blobs, layers_of, objective_of, scores_of, small
from helpers import exact_cross_entropy
from scipy.special import log_softmax, softmax
from sklearn.exceptions import NotFittedError

import xclf
from xclf import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier

X, Y = blobs(60, 5, 3)
TWO = (Y == 1).astype(int)
classes_ = pytest.mark.parametrize("cls", CLASSES)
linear_ = pytest.mark.parametrize("cls", [SoftmaxClassifier, SVMClassifier])
MORE = [
    lambda: SoftmaxClassifier(solver="adam", max_iter=3, random_state=0),
    lambda: SVMClassifier(margin=2.0, standardize=True),
    lambda: TwoLayerClassifier(8, loss="hinge", max_iter=3, random_state=0),
    lambda: TwoLayerClassifier(8, solver="lbfgs", tol=0.1, random_state=0),
    lambda: SoftmaxClassifier(fit_intercept=False),
    lambda: TwoLayerClassifier(
        8, fit_intercept=False, standardize=True, max_iter=3, random_state=0
    ),
]


@classes_
@pytest.mark.parametrize("c", [2, 3])
def test_shapes(cls, c):
    y = TWO if c == 2 else Y
    model = small(cls).fit(X, y)
    rows = 1 if c == 2 else c
    if cls is TwoLayerClassifier:
        want = {"w1": (5, 8), "b1": (8,), "w2": (8, c), "b2": (c,)}
        assert {key: a.shape for key, a in model.weights_.items()} == want
    else:
        assert model.coef_.shape == (rows, 5)
        assert model.intercept_.shape == (rows,)
    assert model.classes_.shape == (c,)
    assert model.n_features_in_ == 5
    assert model.decision_function(X).shape == ((60,) if c == 2 else (60, 3))
    assert model.predict(X).shape == (60,)
    if hasattr(model, "predict_proba"):
        assert model.predict_proba(X).shape == (60, c)


@pytest.mark.parametrize("place", range(len(MORE)))
def test_scores_are_those_of_the_attributes(place):
    for y in (Y, TWO):
        model = MORE[place]().fit(X, y)
        scores = scores_of(model, X)
        got = model.decision_function(X)
        want = scores[:, 1] - scores[:, 0] if y is TWO else scores
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(model.predict(X), model.classes_[scores.argmax(axis=1)])
        assert model.score(X, y) == np.mean(model.predict(X) == y)


@linear_
def test_two_classes_are_the_difference(cls):
    """coef_ (1, D) = w1 - w0: scores X @ coef_.T + intercept_ > 0 mean the second class."""
    model = cls(reg=1e-2).fit(X, TWO)
    d = model.decision_function(X)
    np.testing.assert_allclose(d, X @ model.coef_[0] + model.intercept_[0], rtol=1e-12)
    np.testing.assert_array_equal(model.predict(X), (d > 0).astype(int))
    if cls is SoftmaxClassifier:
        p = 1 / (1 + np.exp(-d))
        np.testing.assert_allclose(model.predict_proba(X)[:, 1], p, rtol=1e-12)
    # The penalty of the two halves, +-w/2 each: half of |w|^2.
    assert objective_of(model, X, TWO) == pytest.approx(model.objective_, rel=1e-9)


@linear_
def test_swapping_two_classes_changes_the_sign(cls):
    one, other = (cls(reg=1e-2, tol=1e-9).fit(X, y) for y in (TWO, 1 - TWO))
    np.testing.assert_allclose(one.coef_, -other.coef_, atol=1e-4)


@classes_
def test_without_intercept_biases_are_zero(cls):
    model = small(cls, fit_intercept=False).fit(X, Y)
    for _, b in layers_of(model):
        assert not np.any(b)
        assert b.dtype == np.float64
    zero = model.decision_function(np.zeros((1, 5)))
    np.testing.assert_array_equal(zero, np.zeros((1, 3)))


# --- probabilities ---------------------------------------------------------------------------


@pytest.mark.parametrize("y", [Y, TWO], ids=["three", "two"])
@pytest.mark.parametrize("cls", [SoftmaxClassifier, TwoLayerClassifier])
def test_probabilities_are_the_softmax_of_the_scores(cls, y):
    model = small(cls).fit(X, y)
    scores = scores_of(model, X)
    np.testing.assert_allclose(model.predict_proba(X), softmax(scores, axis=1), rtol=1e-11)
    np.testing.assert_allclose(
        model.predict_log_proba(X), log_softmax(scores, axis=1), rtol=1e-11, atol=1e-15
    )
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1.0, rtol=1e-14)
    np.testing.assert_array_equal(
        model.predict(X), model.classes_[model.predict_proba(X).argmax(axis=1)]
    )


@pytest.mark.parametrize("lead", [40.0, 300.0, 1e4])
def test_log_probabilities_close_to_zero_and_one(lead):
    """log p = -4e-18 for a lead of 40, not 0; and -1e4 for the loser, not -inf."""
    model = SoftmaxClassifier().fit(X, Y)
    model.coef_ = np.zeros((3, 5))
    model.intercept_ = np.array([lead, 0.0, -1.0])
    got = model.predict_log_proba(X[:1])[0]
    scores = np.tile(model.intercept_, (3, 1))
    want, _ = exact_cross_entropy(scores, np.arange(3))
    np.testing.assert_allclose(got, -want, rtol=1e-14, atol=1e-320)
    p = model.predict_proba(X[:1])[0]
    np.testing.assert_allclose(p, np.exp(-want), rtol=1e-11, atol=1e-320)
    assert np.all(got < 0) or lead > 745  # below the smallest number it is -0


def test_scores_of_ten_thousand_do_not_overflow():
    model = SoftmaxClassifier().fit(X, Y)
    model.coef_ = 1e4 * model.coef_
    assert np.isfinite(model.predict_log_proba(X)).all()
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1.0)


PROBABILITY = ("predict_proba", "predict_log_proba")


@pytest.mark.parametrize("name", PROBABILITY)
def test_the_hinge_has_no_probabilities(name):
    assert not hasattr(SVMClassifier(), name)
    assert not hasattr(SVMClassifier().fit(X, Y), name)
    assert not hasattr(TwoLayerClassifier(loss="hinge"), name)
    net = TwoLayerClassifier(loss="hinge")
    with pytest.raises(AttributeError) as caught:
        getattr(net, name)
    told = f"{caught.value} {caught.value.__cause__}"
    assert "probabilities need loss='softmax'" in told
    assert hasattr(TwoLayerClassifier(), name)
    assert hasattr(SoftmaxClassifier(), name)


# --- results ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        *MORE,
        SoftmaxClassifier,
        SVMClassifier,
        lambda: TwoLayerClassifier(8, max_iter=3, random_state=0),
    ],
)
def test_results(make):
    model = make().fit(X, Y)
    assert isinstance(model.n_iter_, int)
    assert model.n_iter_ >= 1
    assert type(model.converged_) is bool
    assert type(model.objective_) is float
    assert set(model.history_) == {"loss", "val_loss", "val_accuracy", "seconds"}
    assert {len(v) for v in model.history_.values()} == {model.n_iter_}
    assert all(type(v) is float for values in model.history_.values() for v in values)
    assert model.loss_curve_ == model.history_["loss"]
    assert model.history_["seconds"] == sorted(model.history_["seconds"])
    if not model.standardize and getattr(model, "margin", 1.0) == 1.0:
        assert objective_of(model, X, Y) == pytest.approx(model.objective_, rel=1e-9)


@classes_
def test_standardised_fits_take_raw_rows(cls):
    """The fit sees (x - mean) / scale; the model does not, and is that of explicit rows."""
    x = X * np.array([1.0, 100.0, 0.01, 1.0, 5.0]) + np.array([0.0, 1e3, 1.0, -5.0, 2.0])
    mean, scale = x.mean(axis=0), x.std(axis=0)
    options = {"random_state": 0, "reg": 1e-2}
    model = small(cls, standardize=True, **options).fit(x, Y)
    plain = small(cls, **options).fit((x - mean) / scale, Y)
    assert model.objective_ == pytest.approx(plain.objective_, rel=1e-6)
    np.testing.assert_allclose(
        model.decision_function(x), plain.decision_function((x - mean) / scale), atol=1e-2
    )


@linear_
def test_standardised_with_weights_and_without_intercept(cls):
    w = np.random.default_rng(0).uniform(size=60)
    mean = w @ X / w.sum()
    scale = np.sqrt(w @ (X - mean) ** 2 / w.sum())
    for intercept in (True, False):
        options = {"fit_intercept": intercept, "reg": 1e-2}
        z = (X - mean) / scale if intercept else X / scale
        model = cls(standardize=True, **options).fit(X, Y, sample_weight=w)
        plain = cls(**options).fit(z, Y, sample_weight=w)
        assert model.objective_ == pytest.approx(plain.objective_, rel=1e-6)


@classes_
@pytest.mark.parametrize(
    "use",
    [
        lambda model: model.predict(X),
        lambda model: model.decision_function(X),
        lambda model: model.score(X, Y),
        lambda model: model.save("nowhere.safetensors"),
        lambda model: model.loss_curve_,
        lambda model: model.to_namespace(np),
    ],
)
def test_before_fit_there_is_nothing(cls, use):
    with pytest.raises(NotFittedError):
        use(cls())


# --- signatures and documentation ------------------------------------------------------------

COMMON = {
    "reg": 1e-4,
    "fit_intercept": True,
    "standardize": False,
    "solver": "auto",
    "max_iter": None,
    "tol": None,
    "batch_size": None,
    "learning_rate": None,
    "momentum": None,
    "lr_schedule": None,
    "class_weight": None,
    "early_stopping": False,
    "validation_fraction": None,
    "n_iter_no_change": None,
    "warm_start": False,
    "random_state": None,
    "callbacks": None,
    "verbose": 0,
    "device": None,
    "precision": None,
    "max_memory": None,
}
OWN = {
    SoftmaxClassifier: {},
    SVMClassifier: {"loss": "hinge", "margin": 1.0},
    TwoLayerClassifier: {"hidden": 100, "loss": "softmax"},
}


@classes_
def test_parameters_and_defaults(cls):
    assert cls().get_params() == COMMON | OWN[cls]
    positional = ["hidden", "reg"] if cls is TwoLayerClassifier else ["reg"]
    kinds = inspect.signature(cls).parameters.values()
    assert [p.name for p in kinds if p.kind is p.POSITIONAL_OR_KEYWORD] == positional


@classes_
def test_every_public_method_is_documented(cls):
    assert cls.__doc__
    for name in ("fit", "partial_fit", "predict", "decision_function", "score", "save"):
        assert getattr(cls, name).__doc__


def test_prediction_works_in_bounded_chunks(monkeypatch):
    """A thousand rows in chunks of 64: no product sees more of them."""
    model = small(TwoLayerClassifier).fit(X, Y)
    seen = []
    from xclf.objectives import Network

    apply = Network.apply
    monkeypatch.setattr("xclf.rows._rows._HOST_CHUNK", 1)
    monkeypatch.setattr(
        Network, "apply", lambda self, layers, x: seen.append(len(x)) or apply(self, layers, x)
    )
    model.predict(np.tile(X, (17, 1)))
    assert sum(seen) == 1020
    assert max(seen) == 64
    assert math.ceil(1020 / 64) == len(seen)


@pytest.mark.parametrize("name", ["SoftmaxClassifier", "TwoLayerClassifier", "SweepCV"])
def test_the_example_of_the_docstring(name):
    found = doctest.DocTestFinder(recurse=False).find(getattr(xclf, name), name)
    assert sum(len(one.examples) for one in found) >= 3
    for one in found:
        assert doctest.DocTestRunner(verbose=False).run(one).failed == 0
