"""Files that are no model: one clear error each, and nothing in them runs."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from estimator_cases import blobs
from safetensors.numpy import save_file

import xclf
from xclf import load
from xclf._tensor_file import _digest
from xclf.estimators._files import ModelFileError

X, Y = blobs(40, 4, 3)

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
    got = load(saved)
    assert got.get_params() == want.get_params()
    np.testing.assert_array_equal(got.decision_function(X), want.decision_function(X))


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
    "memory that is no size": _set("parameters", "max_memory", to="much"),
    "memory below nothing": _set("parameters", "max_memory", to=-1),
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


def test_a_file_of_before_has_no_first_index(saved):
    told, arrays = _parts(saved)
    del told["index_base"]
    _forge(saved, told, arrays)
    assert getattr(load(saved), "_index_base", None) is None


def test_a_later_version_says_so(saved):
    told, arrays = _parts(saved)
    told["version"] = 99
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


RECORD = xclf.estimators.TrainedOn("t.csv", 40, "sha256:0", 0.2, 3, "label", "id", ("a",))


@pytest.mark.parametrize(
    "change",
    [
        *({"rows": "40"}, {"rows": True}, {"source": None}, {"fingerprint": 7}, {"more": 1}),
        *({"test_size": 2.0}, {"test_size": "0.2"}, {"seed": -1}, {"seed": 2**32}, {"seed": None}),
        *({"drop": "a"}, {"drop": [1]}, {"image_shape": [2, 2]}, {"image_shape": [2, 0, 1]}),
        *({"image_shape": "2x2"}, {"pixel_layout": "sideways"}, {"label": 3}),
    ],
)
def test_a_forged_record_of_the_training_data(saved, change):
    told, arrays = _parts(saved)
    record = json.loads(json.dumps(RECORD.describe()))
    _forge(saved, told | {"trained_on": record}, arrays)
    assert load(saved)._trained_on == RECORD
    _forge(saved, told | {"trained_on": record | change}, arrays)
    _assert_refused(saved, match="the record of the training data")


@pytest.mark.parametrize(
    "seen",
    [
        *("x", 3, {}, {"hashes": "AAAA"}, {"hashes": 3, "complete": True}),
        *({"hashes": "", "complete": True}, {"hashes": "AAAA", "complete": True}),
        {"hashes": "AAAAAAAAAAAAAAAAAAAAAA==", "complete": True},  # the same one twice
        {"hashes": "AAAAAAAAAAA=", "complete": 1},
    ],
)
def test_a_forged_sketch_of_the_training_rows(saved, seen):
    told, arrays = _parts(saved)
    record = json.loads(json.dumps(RECORD.describe()))
    without = {name: value for name, value in record.items() if name != "seen"}
    _forge(saved, told | {"trained_on": without}, arrays)  # as earlier versions wrote it
    assert load(saved)._trained_on == RECORD
    _forge(saved, told | {"trained_on": record | {"seen": seen}}, arrays)
    _assert_refused(saved)


@pytest.mark.parametrize("names", [["a"], "abc", ["a", "b", 3], {"a": 1}, 3])
def test_forged_names_of_classes(saved, names):
    told, arrays = _parts(saved)
    _forge(saved, told | {"class_names": names}, arrays)
    _assert_refused(saved)
