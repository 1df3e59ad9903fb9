"""Models in other libraries give the same scores, probabilities and labels."""

from __future__ import annotations

import json
import math
import pickle
import warnings

import numpy as np
import pytest
from estimator_cases import blobs
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import LinearSVC

import xclf
from xclf import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier, from_sklearn
from xclf.report.results import model_facts

X, Y = blobs(90, 6, 4)
X = X + 3.0
NAMES = np.array(["ash", "birch", "čempres", "дуб"])
NET = TwoLayerClassifier(hidden=7, random_state=0, max_iter=5)
MODELS = [
    SoftmaxClassifier(standardize=True),
    SoftmaxClassifier(fit_intercept=False),
    SVMClassifier(),
    NET,
    clone(NET).set_params(loss="hinge", standardize=True),
]
models = pytest.mark.parametrize("model", MODELS, ids=["softmax", "plain", "svm", "net", "hinge"])
classes = pytest.mark.parametrize("count", [2, 4])

#: A score is a sum of D products and a bias, of a net two such sums; a factor for each side's own
#: order of summation, in units of eps times the sum of the terms' sizes.
ROUNDING = 4 * (6 + 7 + 2)


def _fitted(model, count=4, dtype=np.float64, y=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return clone(model).fit(X.astype(dtype), Y % count if y is None else y)


def _scores(model, x):
    """(N, C), two classes included, with a bound of their rounding."""
    value, size = x.astype(np.float64), np.abs(x).astype(np.float64)
    for number, (w, b) in enumerate(model._layers()):
        w, b = w.astype(np.float64), b[:, 0].astype(np.float64)
        if number:
            value = np.maximum(value, 0.0)
        value, size = value @ w.T + b, size @ np.abs(w).T + np.abs(b)
    return value, ROUNDING * np.finfo(x.dtype).eps * size


@models
@classes
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_torch(model, count, dtype):
    torch = pytest.importorskip("torch")
    model, x = _fitted(model, count, dtype), X.astype(dtype)
    module = model.to_torch()
    with torch.no_grad():
        got = module(torch.from_numpy(x)).numpy()
    want, bound = _scores(model, x)
    assert got.dtype == dtype
    assert np.all(np.abs(got - want) <= bound)
    np.testing.assert_array_equal(model.classes_[got.argmax(axis=1)], model.predict(x))
    head = torch.nn.Linear(6, count) if len(model._layers()) == 1 else None
    head = head or torch.nn.Sequential(
        torch.nn.Linear(6, 7), torch.nn.ReLU(), torch.nn.Linear(7, count)
    )
    head.load_state_dict(module.state_dict())
    assert all(p.requires_grad for p in module.parameters())
    # A copy: training goes on with it, not with the model.
    before = model.predict(x)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(model.predict(x), before)


def test_a_model_of_torch_stays_where_it_is():
    torch = pytest.importorskip("torch")
    model = SoftmaxClassifier().fit(torch.from_numpy(X), torch.from_numpy(Y))
    module = model.to_torch()
    np.testing.assert_array_equal(module.weight.detach().numpy(), model.coef_.numpy())


def _run(path, x):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"X": x}), strict=True))


LABELS = {
    "numbers": np.array([3, 5, 7, 11]),
    "texts": NAMES,
    "objects": NAMES.astype(object),
    "floats": np.array([2.0, 5.0, 7.0, -1.0]),
    "flags": np.array([False, True]),
}


@models
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_onnx(model, dtype, tmp_path):
    pytest.importorskip("onnx")
    model, x = _fitted(model, dtype=dtype, y=NAMES[Y]), X.astype(dtype)
    model.to_onnx(tmp_path / "m.onnx")
    got = _run(tmp_path / "m.onnx", x)
    want, bound = _scores(model, x)
    assert np.all(np.abs(got["scores"] - want) <= bound)
    np.testing.assert_array_equal(got["label"], model.predict(x))
    assert ("probabilities" in got) is hasattr(model, "predict_proba")
    if "probabilities" in got:
        # An error e of a score changes a probability by a share of 2 e at most; exp and sum add
        # some units in the last place.
        share = 2 * bound.max(axis=1, keepdims=True) + 32 * np.finfo(dtype).eps
        p = model.predict_proba(x)
        assert np.all(np.abs(got["probabilities"] - p) <= share * p + np.finfo(dtype).tiny)
    one = _run(tmp_path / "m.onnx", x[:1])  # any number of rows
    assert one["label"].shape == (1,)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("kind", LABELS)
@classes
def test_onnx_labels(kind, count, tmp_path):
    pytest.importorskip("onnx")
    labels = LABELS[kind]
    model = _fitted(SoftmaxClassifier(), y=labels[Y % min(count, len(labels))])
    model.to_onnx(tmp_path / "m.onnx")
    got = _run(tmp_path / "m.onnx", X)["label"]
    assert got.tolist() == model.predict(X).tolist()


def test_onnx_refuses(tmp_path):
    pytest.importorskip("onnx")
    dates = np.array(["2020-01-01", "2020-01-02"], dtype="M8[D]")[Y % 2]
    model = SoftmaxClassifier().fit(X, dates)
    with pytest.raises(ValueError, match=r"labels of dtype datetime64\[D\] have no equivalent"):
        model.to_onnx(tmp_path / "m.onnx")
    with pytest.raises(NotFittedError):
        SoftmaxClassifier().to_onnx(tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("library, method", [("onnx", "to_onnx"), ("torch", "to_torch")])
def test_a_missing_library_is_named(library, method, tmp_path, monkeypatch):
    import sys

    model = _fitted(SoftmaxClassifier())
    monkeypatch.setitem(sys.modules, library, None)
    arguments = [tmp_path / "m.onnx"] if library == "onnx" else []
    with pytest.raises(ImportError, match=rf"needs {library}: pip install 'xclf\[{library}\]'"):
        getattr(model, method)(*arguments)


SKLEARN = [
    LogisticRegression(C=3.0),
    LogisticRegression(fit_intercept=False),
    LinearSVC(multi_class="crammer_singer", random_state=0),
    LinearSVC(random_state=0),
    SGDClassifier(random_state=0),
    SGDClassifier(loss="squared_hinge", random_state=0),
    MLPClassifier((7,), random_state=0, max_iter=20),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", SKLEARN, ids=lambda one: type(one).__name__)
@classes
@pytest.mark.parametrize("names", [False, True])
def test_from_sklearn_and_back(estimator, count, names, tmp_path):
    y = NAMES[Y % count] if names else Y % count
    theirs = clone(estimator).fit(X, y)
    ours = from_sklearn(theirs)
    for model in (ours, ours.to_sklearn()):
        np.testing.assert_array_equal(model.predict(X), theirs.predict(X))
        if hasattr(theirs, "predict_proba"):
            # Sums of 6 products each, and exp of what they are off by; 1 - p for two classes.
            np.testing.assert_allclose(
                model.predict_proba(X), theirs.predict_proba(X), rtol=1e-11, atol=1e-15
            )
        elif hasattr(model, "decision_function"):
            want = theirs.decision_function(X)
            np.testing.assert_allclose(model.decision_function(X), want, rtol=1e-9, atol=1e-9)
    ours.save(tmp_path / "m")
    np.testing.assert_array_equal(xclf.load(tmp_path / "m").predict(X), theirs.predict(X))
    assert not ours.converged_
    assert repr(ours.to_sklearn())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(C=7.0, tol=1e-3, max_iter=50, class_weight="balanced"),
        LinearSVC(C=7.0),
        SGDClassifier(alpha=0.01, random_state=0),
        SGDClassifier(loss="squared_hinge", random_state=0),
        MLPClassifier((7,), alpha=0.3, max_iter=20, random_state=0),
    ],
    ids=lambda one: f"{type(one).__name__} {getattr(one, 'loss', '')}",
)
def test_the_way_back_keeps_the_class_and_its_parameters(estimator):
    theirs = clone(estimator).fit(X, Y)
    ours = from_sklearn(theirs)
    back = pickle.loads(pickle.dumps(ours)).to_sklearn()
    assert type(back) is type(theirs)
    assert repr(back.get_params()) == repr(theirs.get_params())
    np.testing.assert_array_equal(back.predict(X), theirs.predict(X))
    back.fit(X, Y)  # as any estimator
    # What was trained here since is no longer the other's.
    ours.set_params(reg=0.5)
    assert getattr(ours.to_sklearn(), "C", None) != 7.0
    ours.set_params(max_iter=2).fit(X, Y)
    assert type(ours.to_sklearn()) in (LogisticRegression, LinearSVC, MLPClassifier)
    assert getattr(ours.to_sklearn(), "C", None) != 7.0


def test_the_penalty_is_the_same_with_the_number_of_rows():
    """The optimum of one is that of the other."""
    x, y = load_digits(return_X_y=True)
    x = x[:400] / 16.0
    for count in (10, 2):
        labels = y[:400] % count
        theirs = LogisticRegression(C=2.5, tol=1e-10, max_iter=5000).fit(x, labels)
        ours = from_sklearn(theirs, rows=400)
        fitted = clone(ours).fit(x, labels)
        np.testing.assert_allclose(fitted.coef_, theirs.coef_, atol=1e-4)
        assert float(ours.to_sklearn(rows=400).C) == pytest.approx(2.5, rel=1e-14)
    steps = SGDClassifier(alpha=0.02, random_state=0).fit(X, Y)
    assert from_sklearn(steps, rows=90).to_sklearn(rows=90).alpha == pytest.approx(0.02)
    net = MLPClassifier((5,), alpha=0.3, max_iter=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net.fit(X, Y)
    assert from_sklearn(net, rows=90).reg == pytest.approx(0.5 * 0.3 / 90)
    assert from_sklearn(net, rows=90).to_sklearn(rows=90).alpha == pytest.approx(0.3)


@pytest.mark.filterwarnings("ignore:.*penalty:FutureWarning", "ignore:.*converge")
def test_a_penalty_that_is_not_known_is_no_number(tmp_path):
    """C alone says nothing of `reg`, nor does another norm; alpha of SGDClassifier is 2 reg."""
    theirs = LogisticRegression(C=2.5).fit(X, Y)
    ours = from_sklearn(theirs)
    assert math.isnan(ours.get_params()["reg"])
    with pytest.raises(ValueError, match="reg must be a finite number >= 0, got nan"):
        clone(ours).fit(X, Y)
    assert ours.to_sklearn(rows=90).C == 2.5
    ours.save(tmp_path / "m.safetensors")
    back = xclf.load(tmp_path / "m.safetensors")
    assert math.isnan(back.reg)
    assert back.to_sklearn(rows=90).C == 1.0  # its default
    json.dumps(model_facts(back), allow_nan=False)
    one = SGDClassifier(alpha=0.02, max_iter=3)
    assert from_sklearn(one.fit(X, Y)).reg == 0.01
    assert math.isnan(from_sklearn(one.set_params(penalty="l1").fit(X, Y), rows=90).reg)
    assert from_sklearn(one.set_params(penalty=None).fit(X, Y)).reg == 0.0
    sparse = LogisticRegression(l1_ratio=0.5, solver="saga", max_iter=3).fit(X, Y)
    assert math.isnan(from_sklearn(sparse, rows=90).reg)
    assert from_sklearn(LogisticRegression(C=math.inf, max_iter=3).fit(X, Y)).reg == 0.0
    squares = LinearSVC(C=2.0).fit(X, Y)
    assert from_sklearn(squares, rows=90).reg == pytest.approx(0.5 / (2.0 * 90))


def test_it_goes_on_with_what_came():
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=5000).fit(X, Y)
    model = from_sklearn(theirs, rows=90).set_params(warm_start=True)
    cold = clone(model).fit(X, Y)
    assert model.fit(X, Y).n_iter_ < cold.n_iter_
    assert model.converged_


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "estimator, error, says",
    [
        (RidgeClassifier(), TypeError, "got RidgeClassifier"),
        (SGDClassifier(loss="log_loss"), ValueError, "equivalent here for more than two classes"),
        (SGDClassifier(loss="modified_huber"), ValueError, "'modified_huber' has no equivalent"),
        (MLPClassifier((5, 5), max_iter=2), ValueError, "this MLPClassifier has 2 with relu"),
        (MLPClassifier((5,), activation="tanh", max_iter=2), ValueError, "has 1 with tanh"),
    ],
)
def test_what_has_no_equivalent(estimator, error, says):
    estimator.fit(X, Y)
    with pytest.raises(error, match=says):
        from_sklearn(estimator)


@pytest.mark.parametrize("method", ["to_torch", "to_sklearn", "to_onnx"])
def test_several_tasks_are_several_models(method, tmp_path):
    model = SoftmaxClassifier().fit(X, np.stack([Y, Y % 2], axis=1))
    arguments = [tmp_path / "m.onnx"] if method == "to_onnx" else []
    with pytest.raises(ValueError, match="take each of its estimators_"):
        getattr(model, method)(*arguments)
    assert model.estimators_[1].to_sklearn().predict(X).shape == (90,)


@pytest.mark.filterwarnings("ignore")
def test_what_is_not_fitted_and_several_labels():
    with pytest.raises(NotFittedError):
        from_sklearn(LogisticRegression())
    several = MLPClassifier((5,), max_iter=300).fit(X, np.eye(4, dtype=int)[Y])
    with pytest.raises(ValueError, match="several labels"):
        from_sklearn(several)
    with pytest.raises(ValueError, match="MLPClassifier has no loss like 'hinge'"):
        _fitted(MODELS[-1]).to_sklearn()
