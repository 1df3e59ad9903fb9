"""The pickle reader: data that NumPy and both Pythons write comes back, and no program runs."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import subprocess
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xclf.data import DataError, read_cifar10
from xclf.data._pickles import read_pickle

IMAGES = (np.arange(2 * 3072) % 251).astype(np.uint8).reshape(2, 3072)

# As Python 2.7 writes {'data': array([[1, 2], [3, 200]], dtype=uint8), 'labels': [6, 9]}; in
# protocol 0 with 4 for 200.
PYTHON2_PROTOCOL_2 = (
    b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\n"
    b"q\x04K\x00\x85q\x05U\x01bq\x06\x87q\x07Rq\x08(K\x01K\x02K\x02\x86q\tcnumpy\ndtype\nq\n"
    b"U\x02u1q\x0bK\x00K\x01\x87q\x0cRq\r(K\x03U\x01|q\x0eNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
    b"K\x00tq\x0fb\x89U\x04\x01\x02\x03\xc8q\x10tq\x11bU\x06labelsq\x12]q\x13(K\x06K\teu."
)
PYTHON2_PROTOCOL_0 = (
    b"(dp1\nS'data'\np2\ncnumpy.core.multiarray\n_reconstruct\np3\n(cnumpy\nndarray\np4\n(I0\ntp5\n"
    b"S'b'\np6\ntp7\nRp8\n(I1\n(I2\nI2\ntp9\ncnumpy\ndtype\np10\n(S'u1'\np11\nI0\nI1\ntp12\nRp13\n"
    b"(I3\nS'|'\np14\nNNNI-1\nI-1\nI0\ntp15\nbI00\nS'\\x01\\x02\\x03\\x04'\np16\ntp17\nbsS'labels'\n"
    b"p18\n(lp19\nI6\naI9\nas."
)


def read(tmp_path: Path, data: bytes) -> dict:
    path = tmp_path / "data_batch_1"
    path.write_bytes(data)
    return read_pickle(path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("order", ["C", "F"])
def test_reads_what_pickle_writes(tmp_path, protocol, order):
    value = {
        b"data": np.asarray(IMAGES, order=order),
        "labels": [0, 9, 255, 70_000, -1, 2**70],
        "mixed": [1.5, None, True, False, "é", b"\xff", ("a", 1), (), (1, 2, 3, 4), {"k": [1]}],
        "floats": np.linspace(0, 1, 5),
        "big endian": np.arange(3, dtype=">i4"),
        "flags": np.array([True, False]),
    }
    got = read(tmp_path, pickle.dumps(value, protocol=protocol))
    assert list(got) == ["data", "labels", "mixed", "floats", "big endian", "flags"]
    np.testing.assert_array_equal(got["data"], IMAGES)
    assert got["data"].dtype == np.uint8
    assert got["labels"] == value["labels"]
    assert got["mixed"] == value["mixed"]
    for key in ("floats", "big endian", "flags"):
        np.testing.assert_array_equal(got[key], value[key])
        assert got[key].dtype == value[key].dtype


@pytest.mark.parametrize(("data", "last"), [(PYTHON2_PROTOCOL_0, 4), (PYTHON2_PROTOCOL_2, 200)])
def test_reads_python_2(tmp_path, data, last):
    assert pickle.loads(data, encoding="latin1")["labels"] == [6, 9]  # the constant is sound
    got = read(tmp_path, data)
    np.testing.assert_array_equal(got["data"], np.array([[1, 2], [3, last]], np.uint8))
    assert got["labels"] == [6, 9]


def test_names_of_both_numpy_generations(tmp_path):
    data = pickle.dumps({"a": IMAGES}, protocol=3)
    old, new = b"numpy.core.multiarray", b"numpy._core.multiarray"
    assert (old in data) != (new in data)
    for module in (old, new):
        got = read(tmp_path, data.replace(new, old).replace(old, module))
        np.testing.assert_array_equal(got["a"], IMAGES)


def test_an_array_used_twice_is_built_once(tmp_path):
    got = read(tmp_path, pickle.dumps({"a": IMAGES, "b": IMAGES}))
    assert got["a"] is got["b"]


class Call:
    """Pickles as a call of `function(*arguments)`, then optionally BUILD with `state`."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def stack_global(module: str, name: str) -> bytes:
    return short(module) + short(name) + b"\x93"


def in_dict(value: bytes) -> bytes:
    """A pickle of {"data": value}, the value given in instructions."""
    return b"\x80\x04}" + short("data") + value + b"s."


def programs(canary: str) -> dict[str, bytes]:
    """Pickles that would write the file `canary` if anything in them ran."""
    touch = f"touch {canary}"
    write = f"open({canary!r}, 'w').close()"
    quoted = b"S" + repr(touch).encode() + b"\n"
    array = pickle.dumps({"data": IMAGES}, protocol=2)
    return {
        "os.system": pickle.dumps({"data": Call(os.system, touch)}),
        "os.system, protocol 0": pickle.dumps(Call(os.system, touch), protocol=0),
        "eval": pickle.dumps({"data": Call(eval, write)}),
        "exec": pickle.dumps({"data": Call(exec, write)}),
        "open": pickle.dumps(Call(io.open, canary, "w")),
        "subprocess": pickle.dumps({"data": Call(subprocess.Popen, ["touch", canary])}),
        "deep inside": pickle.dumps({"data": [1, {"a": [(Call(os.system, touch), 2)]}]}),
        "as an array's bytes": array.replace(b"cnumpy\ndtype\n", b"cos\nsystem\n"),
        "as an array's class": array.replace(b"cnumpy\nndarray\n", b"cos\nsystem\n"),
        "instruction INST": b"(" + quoted + b"ios\nsystem\n.",
        "instruction OBJ": b"(cos\nsystem\n" + quoted + b"o.",
        "instruction NEWOBJ": b"\x80\x02cos\nsystem\n(" + quoted + b"t\x81.",
        "instruction NEWOBJ_EX": b"\x80\x04cos\nsystem\n(" + quoted + b"t}\x92.",
        "extension registry": b"\x80\x02\x82\x01" + b"(" + quoted + b"tR.",
        "persistent id": b"P" + touch.encode() + b"\n.",
        "binary persistent id": quoted + b"Q.",
        "network global": in_dict(stack_global("os", "system") + short(touch) + b"\x85R"),
        "dotted name": in_dict(stack_global("numpy", "f2py.os.system") + short(touch) + b"\x85R"),
        "dotted name in ndarray": in_dict(stack_global("numpy", "ndarray.tofile")),
        "name split elsewhere": in_dict(stack_global("numpy.core", "multiarray _reconstruct")),
        "numpy runstring": in_dict(
            stack_global("numpy.testing._private.utils", "runstring") + short(write) + b"}\x86R"
        ),
        "numpy load": in_dict(stack_global("numpy", "load") + short(canary) + b"\x85R"),
        "numpy fromfile": in_dict(
            stack_global("numpy._core.multiarray", "fromfile") + short(canary) + b"\x85R"
        ),
        "numpy memmap": in_dict(
            stack_global("numpy", "memmap") + short(canary) + short("u1") + short("w+") + b"\x87R"
        ),
        "codecs open": in_dict(
            stack_global("_codecs", "open") + short(canary) + short("w") + b"\x86R"
        ),
        "codecs lookup by encode": in_dict(
            stack_global("_codecs", "encode") + short(touch) + short("unicode_escape") + b"\x86R"
        ),
        "setstate of a class": b"\x80\x02cnumpy\nndarray\n}" + short("a") + quoted + b"sb.",
        "setstate of a list": b"\x80\x02]}b.",
        "setstate of a dict": b"\x80\x02}}b.",
        "global as a value called": b"\x80\x02cnumpy\nndarray\n" + quoted + b"\x85R.",
        "set": pickle.dumps({"data": {1, 2}}, protocol=4),
    }


@pytest.mark.parametrize("name", programs(""))
def test_no_program_runs(tmp_path, name):
    canary = tmp_path / "canary"
    with pytest.raises(DataError) as caught:
        read(tmp_path, programs(str(canary))[name])
    assert not canary.exists()
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "data_batch_1") in str(caught.value)


def test_the_programs_would_run_elsewhere(tmp_path):
    """The canary of these tests is sound: Python's own unpickler does run the simplest program."""
    canary = tmp_path / "canary"
    pickle.loads(programs(str(canary))["os.system"])
    assert canary.exists()


def array_of(dtype: str, shape: bytes, data: bytes, byte_order: bytes = b"U\x01|") -> bytes:
    """An array in protocol 2 instructions, with parts of one's own choice."""
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01" + shape + b"cnumpy\ndtype\n" + short(dtype) + b"K\x00K\x01\x87R"
        b"(K\x03" + byte_order + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + data + b"tb"
    )


PAIR = b"K\x01K\x02\x86"  # the shape (1, 2)
HUGE = b"\x8a\x06" + (2**40).to_bytes(6, "little")
BROKEN_ARRAYS = {
    "object dtype": array_of("O8", PAIR, b"](K\x01K\x02e"),
    "record dtype": array_of("V2", PAIR, b"U\x04abcd"),
    "string dtype": array_of("S2", PAIR, b"U\x04abcd"),
    "dtype expression": array_of("u1,O", PAIR, b"U\x02ab"),
    "byte order": array_of("u1", PAIR, b"U\x02ab", b"U\x01?"),
    "byte order list": array_of("u1", PAIR, b"U\x02ab", b"]"),
    "too few bytes": array_of("u1", PAIR, b"U\x01a"),
    "too many bytes": array_of("u1", PAIR, b"U\x03abc"),
    "shape huge": array_of("u1", HUGE + b"\x85", b"U\x02ab"),
    "shape negative": array_of("u1", b"J\xff\xff\xff\xff\x85", b"U\x02ab"),
    "shape overflow": array_of("u1", HUGE * 3 + b"\x87", b"U\x02ab"),
    "shape of floats": array_of("u1", b"F2.0\n\x85", b"U\x02ab"),
    "shape a list": array_of("u1", b"](K\x02e", b"U\x02ab"),
    "shape too long": array_of("u1", b"(" + b"K\x01" * 100_000 + b"t", b"U\x01a"),
    "data a list": array_of("u1", PAIR, b"](K\x01K\x02e"),
    "data an array": array_of("u1", PAIR, array_of("u1", PAIR, b"U\x02ab")),
    "never built": b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
    + HUGE
    + b"\x85U\x01b\x87R",
    "ndarray called": b"cnumpy\nndarray\n" + HUGE + b"\x85\x85R",
    "subclass": b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nmemmap\nK\x00\x85U\x01b\x87R",
    "dtype of a dict": b"cnumpy\ndtype\n}\x85R",
    "dtype without byte order": b"cnumpy\ndtype\nU\x02u1\x85R(K\x03tb",
    "array of two parts": b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b"
    b"\x87R(K\x01K\x01tb",
    "frombuffer of an object": b"cnumpy.core.numeric\n_frombuffer\n(]cnumpy\ndtype\nU\x02u1\x85R"
    b"K\x01\x85U\x01Ct" + b"R",
}


def test_an_array_of_such_parts_is_read(tmp_path):
    """What the broken ones below are variations of."""
    got = read(tmp_path, in_dict(array_of("u1", PAIR, b"U\x02ab")))
    np.testing.assert_array_equal(got["data"], [[97, 98]])


@pytest.mark.parametrize("name", BROKEN_ARRAYS)
def test_only_arrays_of_numbers_are_built(tmp_path, name):
    """Each as the pixels of a batch, where an array that was never filled in is refused at last."""
    batch = in_dict(BROKEN_ARRAYS[name])[:-1] + short("labels") + b"]s."
    for part in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"):
        (tmp_path / part).touch()
    (tmp_path / "test_batch").write_bytes(batch)  # read first
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="test_batch: "):
            read_cifar10(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def doubled(levels: int) -> bytes:
    """A tuple of two references to a tuple of two references ...: 2**levels leaves to walk."""
    return b"K\x01" + b"2\x86".replace(b"2", b"q\x00h\x00") * levels


BOMBS = {
    "hash of doubled tuples": b"}" + doubled(60) + b"K\x01s.",
    "hash of deep tuples": b"}" + b"K\x01" + b"\x85" * 100_000 + b"K\x01s.",
    "deep lists": b"]" * 100_000 + b"a" * 99_999 + b".",
    "deep tuples": b")" + b"\x85" * 100_000 + b".",
    "doubled tuples as result": doubled(60) + b".",
    "list in itself": b"]q\x00h\x00a.",
    "memo number": b"K\x01r\xff\xff\xff\x7f.",
    "memo number in text": b"K\x01p" + b"9" * 4000 + b"\n.",
    "memo number negative": b"K\x01p-1\n.",
    "announced bytearray": b"\x96" + struct.pack("<Q", 2**40) + b"ab.",
    "announced bytes": b"\x8e" + struct.pack("<Q", 2**62) + b"ab.",
    "announced string": b"\x8d" + struct.pack("<Q", 2**40) + b"ab.",
    "announced frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"K\x01.",
    "announced long": b"\x8b\xff\xff\xff\x7fab.",
    "long of many digits": b"L" + b"9" * 1_000_000 + b"L\n.",
    "encoded many times": b"(X"
    + struct.pack("<I", 100_000)
    + b"a" * 100_000
    + b"q\x00c_codecs\nencode\nq\x01"
    + b"h\x01h\x00\x8c\x06latin1\x86R" * 20_000
    + b"l.",
    "too many instructions": b"(" + b"N" * 1_000_000 + b"l.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_memory_and_time_stay_in_proportion(tmp_path, monkeypatch, name):
    monkeypatch.setattr("xclf.data._pickles._MAX_STEPS", 500_000)  # of 4 million, which take long
    start = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(
            DataError, match="instructions" if "too many" in name else "data_batch_1: "
        ):
            read(tmp_path, BOMBS[name])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 500e6
    assert time.perf_counter() - start < 60


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"not a pickle at all", "not a complete pickle"),
        (pickle.dumps({"data": IMAGES})[:-100], "not a complete pickle"),
        (pickle.dumps({"data": IMAGES})[:-1], "not a complete pickle"),
        (PYTHON2_PROTOCOL_0.replace(b"x04", b"xc8"), "not ASCII in protocol 0"),
        (b"\x80\x04\x8c\x01\xff.", "damaged"),
        (pickle.dumps([1, 2]), "holds a list"),
        (pickle.dumps(IMAGES), "holds a ndarray"),
        (b".", "does not end with one value"),
        (b"K\x01K\x02.", "does not end with one value"),
        (b"(K\x01.", "does not end with one value"),
        (b"\x85.", "does not define"),
        (b"(\x85.", "does not define"),
        (b"(q\x00.", "does not define"),
        (b"h\x07.", "does not define"),
        (b"t.", "did not open"),
        (b"K\x01K\x02a.", "appends to a int"),
        (b"K\x01K\x02K\x03s.", "sets an item of a int"),
        (b"}(K\x01u.", "sets an item of a dict"),
        (b"}K\x01K\x02s.", "int as dictionary key"),
        (b"(K\x01K\x02d.", "int as dictionary key"),
        (b"K\x01K\x02\x93.", "without a name"),
        (b"K\x01K\x02R.", "without arguments"),
        (b"c_codecs\nencode\nK\x01\x85R.", "builds no array"),
        (b"cos\nsystem\n.", "asks for os.system"),
        (b"c\x1b[2J\nsystem\n.", "asks for"),
        (b"c" + b"x" * 10_000 + b"\nsystem\n.", "asks for xxx"),
    ],
)
def test_broken_pickles(tmp_path, data, message):
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, data)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 400


def test_too_large_is_refused_unread(tmp_path):
    path = tmp_path / "data_batch_1"
    with path.open("wb") as file:
        file.truncate(2**30 + 1)  # sparse: takes no space
    with pytest.raises(DataError, match="too large"):
        read_pickle(path)


VALID = [
    PYTHON2_PROTOCOL_0,
    PYTHON2_PROTOCOL_2,
    pickle.dumps({b"data": IMAGES[:, :4], "labels": [1, 2], "n": [b"x", 1.5, None]}, protocol=4),
    pickle.dumps({b"data": IMAGES[:, :4], "labels": [1, 2], "n": [b"x", 1.5, None]}, protocol=2),
    pickle.dumps({"data": IMAGES[:, :4]}, protocol=5),
]


@settings(max_examples=300)
@given(data=st.data())
def test_damage_is_a_data_error_or_harmless(tmp_path_factory, data):
    base = bytearray(data.draw(st.sampled_from(VALID)))
    for _ in range(data.draw(st.integers(1, 4))):
        base[data.draw(st.integers(0, len(base) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(base)
    with contextlib.suppress(DataError):
        assert type(read_pickle(path)) is dict
