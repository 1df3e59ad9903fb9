"""Model files: what was saved comes back, and a write that fails leaves the old file."""

from __future__ import annotations

import os

import numpy as np
import pytest
from estimator_cases import CLASSES, blobs, small
from helpers import assert_same_kind
from sklearn.exceptions import NotFittedError

import xclf
from xclf import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier, load

X, Y = blobs(40, 4, 3)
classes_ = pytest.mark.parametrize("cls", CLASSES)


def _arrays(model):
    if hasattr(model, "weights_"):
        return model.weights_
    return {"coef_": model.coef_, "intercept_": model.intercept_}


def _assert_same_model(got, want):
    assert type(got) is type(want)
    assert got.get_params() == want.get_params()
    np.testing.assert_array_equal(got.classes_, want.classes_)
    assert got.classes_.dtype == want.classes_.dtype
    for key, array in _arrays(want).items():
        np.testing.assert_array_equal(_arrays(got)[key], array)
        assert _arrays(got)[key].dtype == array.dtype
    for name in ("n_iter_", "objective_", "converged_", "n_features_in_"):
        assert getattr(got, name) == getattr(want, name)
        assert type(getattr(got, name)) is type(getattr(want, name))
    np.testing.assert_equal(got.history_, want.history_)  # NaN equals NaN here
    assert got.loss_curve_ == want.loss_curve_


MODELS = {
    "softmax": (SoftmaxClassifier, {"reg": 0.5}),
    "softmax weights by int": (SoftmaxClassifier, {"class_weight": {0: 2.0, 1: 1.0, 2: 0.5}}),
    "svm balanced": (SVMClassifier, {"class_weight": "balanced", "margin": 2.0}),
    "svm early": (
        SVMClassifier,
        {"solver": "sgd", "early_stopping": True, "max_iter": 3, "validation_fraction": 0.3},
    ),
    "net": (TwoLayerClassifier, {"loss": "hinge", "lr_schedule": "cosine", "warm_start": True}),
    "no intercept": (SoftmaxClassifier, {"fit_intercept": False, "tol": 1e-3, "max_iter": 77}),
    "NumPy numbers": (SoftmaxClassifier, {"reg": np.float64(0.5), "max_iter": np.int64(99)}),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip(name, dtype, path):
    cls, parameters = MODELS[name]
    model = small(cls, **parameters).fit(X.astype(dtype), Y)
    model.save(path)
    other = load(path)
    _assert_same_model(other, model)
    x = X.astype(dtype)
    np.testing.assert_array_equal(other.decision_function(x), model.decision_function(x))
    other.save(path)
    _assert_same_model(load(str(path)), model)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


LABELS = {
    "strings": np.array(["ash", "birch", "cédre \u2603"]),
    "objects": np.array(["ash", "birch", "cedar"], dtype=object),
    "negative": np.array([-7, 0, 5]),
    "floats": np.array([-1.0, 0.0, 3.0]),
    "uint8": np.array([3, 7, 250], dtype=np.uint8),
    "days": np.array(["1969-07-20", "1989-11-09", "2024-02-29"], dtype="datetime64[D]"),
    "microseconds": np.array([-3, 5, 2**50], dtype="datetime64[us]"),
    "durations": np.array([5, 7, 60], dtype="timedelta64[m]"),
    "huge": np.array([-(2**62), 0, 2**62]),
}


@classes_
@pytest.mark.parametrize("name", LABELS)
def test_labels_come_back(cls, name, path):
    y = LABELS[name][Y]
    keys = list(LABELS[name]) if LABELS[name].dtype.kind in "Mm" else LABELS[name].tolist()
    weights = dict(zip(keys, [1.0, 2.0, 3.0], strict=True))
    model = small(cls, class_weight=weights).fit(X, y)
    model.save(path)
    other = load(path)
    _assert_same_model(other, model)
    assert other.class_weight == {keys[0]: 1.0, keys[1]: 2.0, keys[2]: 3.0}
    np.testing.assert_array_equal(other.predict(X), model.predict(X))


@classes_
@pytest.mark.parametrize("values", [[False, True], ["no", "yes"], [0, 1]], ids=str)
def test_two_classes(cls, values, path):
    model = small(cls).fit(X, np.array(values)[Y % 2])
    model.save(path)
    _assert_same_model(load(path), model)


@classes_
def test_feature_names_are_checked_after_loading(cls, path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b", "c", "d"])
    model = small(cls).fit(frame, Y)
    model.save(path)
    other = load(path)
    assert other.feature_names_in_.tolist() == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(other.predict(frame), model.predict(frame))
    with pytest.raises(ValueError, match="same order"):
        other.predict(frame[["b", "a", "c", "d"]])
    small(cls).fit(X, Y).save(path)
    assert not hasattr(load(path), "feature_names_in_")


def test_the_first_index_of_svmlight_files(path):
    model = SoftmaxClassifier().fit(X, Y)
    model.save(path)
    assert getattr(load(path), "_index_base", None) is None
    for base in (0, 1):
        model._index_base = base
        model.save(path)
        assert load(path)._index_base == base


@classes_
def test_from_any_backend_to_any_backend(backend, cls, tmp_path):
    path = tmp_path / "model"
    x = backend.asarray(X)
    model = small(cls, random_state=0).fit(x, Y)
    model.save(path)
    other = load(path, like=x)
    for key, array in _arrays(other).items():
        assert_same_kind(array, x)
        np.testing.assert_array_equal(backend.to_host(array), backend.to_host(_arrays(model)[key]))
    np.testing.assert_array_equal(
        backend.to_host(other.decision_function(x)), backend.to_host(model.decision_function(x))
    )
    here = load(path)
    assert isinstance(here.predict(X), np.ndarray)


def test_a_loaded_model_goes_on(path):
    model = small(SoftmaxClassifier, solver="adam", random_state=0)
    model.partial_fit(X, Y, classes=[0, 1, 2])
    model.save(path)
    other = load(path)
    other.partial_fit(X, Y)
    assert other.n_iter_ == 2
    assert len(other.history_["loss"]) == 2
    assert other.set_params(warm_start=True).fit(X, Y).score(X, Y) > 0.5


def test_what_a_file_cannot_hold(path):
    model = SoftmaxClassifier(callbacks=[print], random_state=np.random.default_rng(0))
    model.set_params(callbacks=[lambda event: None]).fit(X, Y)
    with pytest.warns(UserWarning, match="random_state is a generator") as caught:
        model.save(path)
    assert caught[0].filename == __file__
    other = load(path)
    assert other.random_state is None
    assert other.callbacks is None
    assert model.callbacks is not None
    model.set_params(random_state=7).save(path)
    assert load(path).random_state == 7


def test_labels_that_cannot_be_saved(path):
    model = SoftmaxClassifier().fit(X, Y)
    model.classes_ = np.array([frozenset({1}), frozenset({2}), None], dtype=object)
    with pytest.raises(ValueError, match="neither strings nor numbers"):
        model.save(path)
    model.classes_ = np.array([1j, 2j, 3j])
    with pytest.raises(ValueError, match="complex128 cannot be saved: train on numbers or strings"):
        model.save(path)
    assert not path.exists()


@pytest.mark.parametrize("name", ["m.pkl", "m.npz", "m.safetensors.gz", "m-0.5.csv"])
def test_a_name_that_says_something_else_is_refused(tmp_path, name):
    model = SoftmaxClassifier().fit(X, Y)
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(ValueError, match=f"must end in .safetensors, got '{name}'"):
        model.save(tmp_path / name)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(name, b"mine")]


@pytest.mark.parametrize("name", ["m", "m-0.5", "reg1.5e-3", "m.v2", "m.SAFETENSORS"])
def test_a_name_that_says_nothing_else_will_do(tmp_path, name):
    model = SoftmaxClassifier().fit(X, Y)
    model.save(tmp_path / name)
    _assert_same_model(xclf.load(tmp_path / name), model)


def test_an_unfitted_model_is_not_saved(path):
    with pytest.raises(NotFittedError):
        SoftmaxClassifier().save(path)
    assert not path.exists()


# --- writing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=repr)
def test_a_write_that_fails_leaves_the_old_file(saved, monkeypatch, error):
    before = saved.read_bytes()

    def fail(handle):
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(error)):
        SVMClassifier().fit(X, Y).save(saved)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        SoftmaxClassifier().fit(X, Y).save(tmp_path / "nowhere" / "model.safetensors")
