"""CSV as programs write it: encodings, separators, headers, and how much of it there may be."""

from __future__ import annotations

import gzip
import sys

import numpy as np
import pytest
from data_cases import refused

import xclf.data._csv
from xclf.data import load


@pytest.fixture(params=["pyarrow", "pandas"], autouse=True)
def engine(request, monkeypatch) -> str:
    if request.param == "pandas":
        monkeypatch.setitem(sys.modules, "pyarrow.csv", None)
    return request.param


@pytest.fixture
def write(tmp_path):
    def write(text: str, encoding: str = "utf-8", name: str = "a.csv"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return write


@pytest.mark.parametrize(
    ("text", "encoding", "message"),
    [
        ("a,label\n1,caf\xe9\n2,th\xe9\n", "latin-1", "not UTF-8 text.*, perhaps Latin-1; .*iconv"),
        ("\xe9,label\n1,x\n", "latin-1", r"not UTF-8 text \(byte 0xe9\), perhaps Latin-1; .*iconv"),
        ("a,b,label\n1,caf\xe9,3\n", "latin-1", "not UTF-8 text.*, perhaps Latin-1; .*iconv"),
        ("a,label\n1,x\n", "utf-16", "is UTF-16 text; save it as UTF-8"),
        ("a,label\n1,x\n", "utf-16-be", "is UTF-16 text; save it as UTF-8"),
        ("a;label\n1,5;x\n", "utf-8", "columns are separated by ';'; save it with commas"),
        ("a\tlabel\n1\tx\n", "utf-8", "columns are separated by tabs"),
        ("a|label\n1|x\n", "utf-8", "columns are separated by '|'"),
        ("5.1,3.5,setosa\n4.9,3.0,setosa\n", "utf-8", r"no header line: .*numbers \(5.1, 3.5"),
        ("7,0,0,12\n2,0,0,9\n", "utf-8", "no header line: .*names of the columns first"),
        ("a,a,label\n1,2,3\n", "utf-8", "several columns have the same name: a"),
        ("a, a,label\n1,2,3\n", "utf-8", "several columns have the same name: a"),
    ],
)
def test_the_cause_and_what_to_do(write, text, encoding, message):
    refused(write(text, encoding), message)


def test_tabs_in_name_only(write):
    refused(write("a,label\n1,x\n", name="a.tsv"), "columns are separated by commas")


def test_spaces_after_commas_and_a_comma_at_every_end(write):
    data = load(write("a, b, label,\n1, 2, cat,\n3, 4, dog,\n"))
    assert data.feature_names == ("a", "b")
    np.testing.assert_array_equal(data.x, [[1, 2], [3, 4]])
    assert data.y.tolist() == ["cat", "dog"]


def test_a_comma_at_the_end_of_all_lines_but_the_first(write, engine):
    path = write("a,b,label\n1,2,3,\n4,5,6,\n")
    if engine == "pyarrow":
        refused(path, "Expected 3 columns, got 4.*no comma at its end")
    else:
        assert load(path).y.tolist() == [3, 6]
    refused(write("a,b,label\n1,2,3\n4,5,6,7\n"), "as many values as the first has names")


def test_a_mark_of_utf_8_is_no_part_of_a_name(write):
    assert load(write("a,label\n1,x\n", "utf-8-sig")).feature_names == ("a",)


def test_columns_called_by_numbers_that_count_up(write):
    data = load(write("0,1,label\n5,6,x\n"))
    assert data.feature_names == ("0", "1")
    assert load(write("0,1,2\n5,6,9\n"), label="2").y.tolist() == [9]


def test_a_class_called_na(write, engine):
    path = write('a,label\n1,"NA"\n2,DE\n3,"null"\n')
    if engine == "pyarrow":
        assert load(path).y.tolist() == ["NA", "DE", "null"]
    refused(write("a,label\n1,NA\n2,DE\n"), 'a class that is called NA needs quotes: "NA"')


def test_labels_that_do_not_fit(write):
    refused(write("a,label\n1,18446744073709551616\n2,2\n"), "labels do not fit 64-bit integers")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_memory_is_bounded_before_the_text_is_read(write, monkeypatch, pack):
    path = write("a,b,label\n" + "0,0,1\n" * 1000)
    path.write_bytes(pack(path.read_bytes()))
    assert load(path, max_memory=24_000).x.shape == (1000, 2)
    monkeypatch.setattr(xclf.data._csv, "_read", None)
    message = r"1,000 rows of 3 columns: 23.4 KiB in memory, more than max_memory = 23.4 KiB"
    refused(path, message, max_memory=23_999)
    path.write_bytes(pack(b"a,label\n1," + b"x" * 100_000 + b"\n"))
    refused(path, "1 row of 2 columns: 24.4 KiB", max_memory=10_000)


class Counted(str):
    """A name that counts how often it is compared or hashed."""

    __slots__ = ()
    times = 0

    def __eq__(self, other: object) -> bool:
        Counted.times += 1
        return str.__eq__(self, other)

    def __hash__(self) -> int:
        Counted.times += 1
        return str.__hash__(self)


def test_many_columns_take_operations_in_proportion(write, monkeypatch):
    """A count of each name among all would compare all pairs."""
    header = xclf.data._csv._header
    monkeypatch.setattr(xclf.data._csv, "_header", lambda *a: [Counted(n) for n in header(*a)])
    counts = []
    for columns in (100, 400):
        Counted.times = 0
        names = ",".join([*(f"c{k}" for k in range(columns)), "label"])
        path = write(f"{names}\n{'7,' * columns}1\n")
        assert load(path).x.shape == (1, columns)
        counts.append(Counted.times)
    assert counts[0] < 100 * 20
    assert counts[1] < 4.5 * counts[0]
