"""Each protocol is what its source says, and is converted as scikit-learn's C is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from probe_cases import TEST, TRAIN, VAL
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

import xclf
from xclf.probes import PROTOCOLS, Protocol
from xclf.probes._plan import make_plan


def plan_of(protocol="dinov2", estimator="softmax", **parameters):
    grids = {"C": None, "reg": None, "learning_rate": None}
    return make_plan(protocol, estimator, grids, 0, parameters)


@pytest.mark.parametrize(
    "name, count, first, last", [("dinov2", 45, -6, 5), ("simclr", 45, -6, 5), ("clip", 97, -6, 6)]
)
def test_values_of_c(name, count, first, last):
    protocol = PROTOCOLS[name]
    powers = np.log10(protocol.values)
    assert (protocol.parameter, len(powers), protocol.refit) == ("C", count, True)
    np.testing.assert_allclose(powers, np.linspace(first, last, count), atol=1e-12)
    model = plan_of(name).candidate(1.0, 100, 3)
    assert (model.solver, model.max_iter) == ("lbfgs", 1000)
    assert protocol.source
    assert str(count) in protocol.text


def test_clip_has_eight_values_a_decade():
    powers = np.log10(PROTOCOLS["clip"].values)
    np.testing.assert_allclose(np.diff(powers), 1.0 / 8.0, atol=1e-12)
    for power in (-6, -4, -2, 0, 2, 4, 6):  # where the original's search begins
        assert np.isclose(powers, power).any()


@pytest.mark.parametrize("rows", [50, 1000, 40_000])
def test_dinov2_linear(rows):
    protocol = PROTOCOLS["dinov2-linear"]
    assert len(protocol.values) == 13
    assert (protocol.values[0], protocol.values[-1], protocol.refit) == (1e-5, 0.1, False)
    model = plan_of("dinov2-linear").candidate(0.1, rows, 3)
    assert (model.solver, model.lr_schedule, model.reg) == ("momentum", "cosine", 0.0)
    assert model.momentum in (None, 0.9)  # None: the rule's default, 0.9
    batch = min(128, rows)
    assert model.learning_rate == pytest.approx(0.1 * batch / 256)
    steps = math.ceil(rows / 128)
    assert abs(model.max_iter * steps - 12_500) <= steps / 2
    assert model.n_iter_no_change > model.max_iter  # runs to its end


def test_dinov2_linear_is_a_plain_fit():
    shrunk = Protocol(**{**vars(PROTOCOLS["dinov2-linear"]), "name": "short", "steps": 40})
    PROTOCOLS["short"] = shrunk
    try:
        result = xclf.probe(TRAIN, VAL, TEST, protocol="short")
    finally:
        del PROTOCOLS["short"]
    own = xclf.SoftmaxClassifier(
        reg=0.0,
        solver="momentum",
        momentum=0.9,
        lr_schedule="cosine",
        batch_size=128,
        learning_rate=result.chosen * 128 / 256,
        max_iter=20,  # two minibatches an epoch
        tol=0.0,
        n_iter_no_change=21,
        random_state=0,
    ).fit(*TRAIN)
    # 13 heads in one product and a head alone differ by rounding, which 40 steps do not amplify.
    np.testing.assert_allclose(result.model.coef_, own.coef_, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("C", [1e-2, 1.0])
def test_c_is_scikit_learns(classes, C):
    x, y = TRAIN
    x, y = x[y < classes], y[y < classes]
    model = plan_of(tol=1e-12).candidate(C, len(y), classes).fit(x, y)
    peer = LogisticRegression(C=C, tol=1e-10, max_iter=1000).fit(x, y)
    # |W - W*|^2 <= (F(W) - F*) / reg, of strong convexity 2 reg; with two classes |w|^2 is 2 |W|^2.
    gaps = [model.dual_gap_, objective(peer, model, x, y) - model.objective_ + model.dual_gap_]
    bound = sum(math.sqrt(2.0 * max(gap, 0.0) / model.reg) for gap in gaps)
    assert np.linalg.norm(model.coef_ - peer.coef_) <= bound
    other = plan_of(tol=1e-12).candidate(1.5 * C, len(y), classes).fit(x, y)
    assert np.linalg.norm(other.coef_ - peer.coef_) > bound  # which tells values apart


def objective(peer, model, x, y):
    """The softmax objective of scikit-learn's parameters at the reg of a model."""
    w, b = peer.coef_, peer.intercept_
    if len(w) == 1:
        w, b = np.concatenate([-0.5 * w, 0.5 * w]), np.concatenate([-0.5 * b, 0.5 * b])
    s = x @ w.T + b
    return np.mean(logsumexp(s, axis=1) - s[np.arange(len(y)), y]) + model.reg * np.sum(w**2)


def test_what_the_user_sets_is_kept():
    model = plan_of(max_iter=7, tol=0.1).candidate(1.0, 100, 3)
    assert (model.max_iter, model.tol, model.solver) == (7, 0.1, "lbfgs")
    given = plan_of(estimator=xclf.SVMClassifier(loss="squared_hinge", margin=2.0))
    model = given.candidate(1.0, 100, 3)
    assert (model.loss, model.margin, model.reg) == ("squared_hinge", 2.0, 1.0 / 200.0)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"protocol": "dino"}, "protocol must be one of dinov2, simclr, clip, dinov2-linear"),
        ({"estimator": "forest"}, "estimator must be one of softmax, svm, two-layer"),
        ({"C": [1.0], "reg": [1.0]}, "give one of C, reg, learning_rate"),
        ({"C": [0.0]}, "C must be above 0"),
        ({"C": [float("nan")]}, "C must be finite"),
        ({"metric": "f1"}, "metric must be one of accuracy, mean_per_class, average_precision"),
        ({"folds": 1}, "folds must be a whole number, 2 or more"),
        ({"val": 0.0}, "val=0 leaves no rows"),
        ({"val": 0.2, "folds": 3}, "give one of them"),
        ({"val": 1.5}, "a share in"),
        ({"shots": [0]}, "shots must be whole numbers"),
        ({"shots": [2], "tries": 0}, "tries must be a whole number"),
        ({"tol": -1.0}, "tol must be"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        xclf.probe(TRAIN, **options)


def test_an_unknown_parameter():
    with pytest.raises(TypeError, match="'penalty', which is neither its own parameter nor"):
        xclf.probe(TRAIN, penalty="l2")
