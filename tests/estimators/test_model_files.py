"""Model files: what was saved comes back; anything else is one clear error, and runs nothing."""

from __future__ import annotations

import json
import os
import struct

import numpy as np
import pytest
from estimator_cases import CLASSES, blobs, small
from helpers import assert_same_kind
from safetensors.numpy import save_file
from sklearn.exceptions import NotFittedError

import xclf
from xclf import SoftmaxClassifier, SVMClassifier, TwoLayerClassifier, load
from xclf.estimators._files import ModelFileError, _digest

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


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


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


def test_a_file_of_before_has_no_first_index(saved):
    told, arrays = _parts(saved)
    del told["index_base"]
    _forge(saved, told, arrays)
    assert getattr(load(saved), "_index_base", None) is None


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


@pytest.fixture
def saved(path):
    SoftmaxClassifier().fit(X, Y).save(path)
    return path


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


# --- reading what is not a model -------------------------------------------------------------


def _assert_refused(path, *, match=None):
    with pytest.raises(ModelFileError, match=match) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert isinstance(caught.value, ValueError)
    return message


def test_cut_at_every_seventh_byte(saved):
    data = saved.read_bytes()
    for length in range(0, len(data), 7):  # header, text and arrays alike
        saved.write_bytes(data[:length])
        _assert_refused(saved)
    saved.write_bytes(data + b"\0")
    _assert_refused(saved)


def test_single_flipped_bytes(saved):
    data = saved.read_bytes()
    for place in range(0, len(data), 5):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        saved.write_bytes(bytes(changed))
        _assert_refused(saved)


def test_files_that_are_something_else(path):
    for data in (b"", b"\0", b"not a model", b"\x80\x04K\x01.", b"PK\x03\x04" + b"\0" * 99):
        path.write_bytes(data)
        _assert_refused(path, match="not an xclf model file, or was cut short")
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")  # a header of an exabyte
    _assert_refused(path, match="not an xclf model file")


def test_safetensors_of_others(path):
    for metadata in (None, {"format": "pt"}, {"format": "xclf-model"}, {"xclf": "{}"}):
        save_file({"coef_": np.zeros((2, 2))}, path, metadata=metadata)
        _assert_refused(path, match="a safetensors file, but not an xclf model")


def test_nothing_there(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(FileNotFoundError, match="no model file at"):
            load(path)


# --- forged files: the digest is right, the content is not -------------------------------------


def _parts(path):
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["xclf"]), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118


def _forge(path, told, arrays):
    body = told if isinstance(told, str) else json.dumps(told, sort_keys=True)
    metadata = {"format": "xclf-model", "xclf": body, "sha256": _digest(body, arrays)}
    save_file(arrays, path, metadata=metadata)


def test_a_forgery_without_changes_is_read(saved):
    want = load(saved)
    _forge(saved, *_parts(saved))
    _assert_same_model(load(saved), want)


def _set(*keys, to):
    def change(told, arrays):
        for key in keys[:-1]:
            told = told[key]
        told[keys[-1]] = to

    return change


def _drop(*keys):
    def change(told, arrays):
        for key in keys[:-1]:
            told = told[key]
        del told[keys[-1]]

    return change


def _array(name, value):
    def change(told, arrays):
        if value is None:
            del arrays[name]
        else:
            arrays[name] = value

    return change


FORGERIES = {
    "class of Python": _set("class", to="os.system"),
    "class of this package": _set("class", to="load"),
    "class of the base": _set("class", to="BaseClassifier"),
    "dunder class": _set("class", to="__class__"),
    "class is a list": _set("class", to=["SoftmaxClassifier"]),
    "unknown parameter": _set("parameters", "penalty", to="l1"),
    "dunder parameter": _set("parameters", "__class__", to="x"),
    "parameters are a list": _set("parameters", to=[1]),
    "class weight without labels": _set("parameters", "class_weight", to={"weights": [1.0]}),
    "object dtype of NumPy code": _set("classes", "dtype", to="V8"),
    "unknown dtype": _set("classes", "dtype", to="import os"),
    "fewer classes": _set("classes", "values", to=[0, 1]),
    "classes of text": _set("classes", "values", to=["a", "b", "c"]),
    "another first index": _set("index_base", to=2),
    "first index is text": _set("index_base", to="0"),
    "strings of a terabyte": _set("classes", "dtype", to=f"<U{2**38}"),
    "strings of a gigabyte": _set("classes", to={"dtype": f"<U{2**28}", "values": list("abc")}),
    "dates without numbers": _set("classes", to={"dtype": "<M8[D]", "values": list("abc")}),
    "no classes": _drop("classes"),
    "no parameters": _drop("parameters"),
    "no results": _drop("results"),
    "no history": _drop("results", "history_"),
    "no version": _drop("version"),
    "version is text": _set("version", to="one"),
    "features": _set("results", "n_features_in_", to=7),
    "features are text": _set("results", "n_features_in_", to="4"),
    "no coefficients": _array("coef_", None),
    "no intercept": _array("intercept_", None),
    "another shape": _array("coef_", np.zeros((3, 9))),
    "one dimension": _array("coef_", np.zeros(12)),
    "intercept of two": _array("intercept_", np.zeros(2)),
    "intercept without dimensions": _array("intercept_", np.zeros(())),
    "whole numbers": _array("coef_", np.zeros((3, 4), dtype=np.int64)),
    "mixed widths": _array("intercept_", np.zeros(3, dtype=np.float32)),
    "labels beyond the dtype": _set("classes", "values", to=[0, 1, 2**80]),
    "intercept of two dimensions": _array("intercept_", np.zeros((3, 1))),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_one_clear_error(saved, name):
    told, arrays = _parts(saved)
    FORGERIES[name](told, arrays)
    _forge(saved, told, arrays)
    _assert_refused(saved)


@pytest.mark.parametrize("body", ["", "null", "[]", "3", '"text"', "{", "NaN", "[" * 2000])
def test_a_forged_text_that_is_no_description(saved, body):
    _, arrays = _parts(saved)
    _forge(saved, body, arrays)
    _assert_refused(saved)


def test_a_later_version_says_so(saved):
    told, arrays = _parts(saved)
    told["version"] += 1
    told["versions"]["xclf"] = "99.0"
    _forge(saved, told, arrays)
    _assert_refused(saved, match=r"written by a later xclf \(99.0\): update xclf")


def test_hostile_parameters_are_inert(saved):
    """Text stays text: nothing is evaluated, imported or opened; a fit refuses it."""
    told, arrays = _parts(saved)
    told["parameters"]["solver"] = "__import__('os').abort()"
    _forge(saved, told, arrays)
    model = load(saved)
    assert model.solver == "__import__('os').abort()"
    with pytest.raises(ValueError, match="solver must be one of"):
        model.fit(X, Y)


def test_the_file_is_plain_safetensors(saved):
    """Any reader of the format can have the arrays and the text."""
    told, arrays = _parts(saved)
    assert told["class"] == "SoftmaxClassifier"
    assert told["versions"]["xclf"] == xclf.__version__
    assert set(arrays) == {"coef_", "intercept_"}
    assert b"pickle" not in saved.read_bytes()
