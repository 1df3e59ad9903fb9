"""CSV through both libraries and Parquet: label columns, types, and tables that cannot be used."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_cases import refused

from xclf.data import load

TEXT = "width,height,species\n1.5,2,cat\n3,4,dog\n5,6,cat\n"


@pytest.fixture(params=["pyarrow", "pandas", "python"])
def engine(request, monkeypatch) -> str:
    """The library that reads CSV; the tests hold for all."""
    if request.param != "pyarrow":
        monkeypatch.setitem(sys.modules, "pyarrow.csv", None)
    if request.param == "python":
        monkeypatch.setattr("xclf.data._csv.library", lambda name: None)
    return request.param


def write(tmp_path: Path, text: str, name: str = "a.csv") -> Path:
    path = tmp_path / name
    content = text.encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.tsv.gz", "A.CSV"])
def test_csv(tmp_path, engine, name):
    text = TEXT.replace(",", "\t") if ".tsv" in name else TEXT
    data = load(write(tmp_path, text, name), label="species")
    np.testing.assert_array_equal(data.x, [[1.5, 2], [3, 4], [5, 6]])
    assert data.x.dtype == np.float64
    assert data.x.flags.c_contiguous
    assert data.y.tolist() == ["cat", "dog", "cat"]
    assert data.y.dtype.kind == "U"
    assert data.feature_names == ("width", "height")
    assert data.test is data.class_names is data.image_shape is None


def test_gz_goes_by_content(tmp_path, engine):
    path = tmp_path / "a.csv"
    path.write_bytes(gzip.compress(TEXT.encode()))
    assert len(load(path, label="species").y) == 3


@pytest.mark.parametrize("name", ["label", "target", "y", "class", "Class", "LABEL"])
def test_label_by_its_usual_names(tmp_path, engine, name):
    data = load(write(tmp_path, f"a,{name},b\n1,7,2\n3,8,4\n"))
    np.testing.assert_array_equal(data.y, [7, 8])
    assert data.y.dtype == np.int64
    assert data.feature_names == ("a", "b")


def test_label_that_must_be_named(tmp_path, engine):
    path = write(tmp_path, TEXT)
    assert "columns: width, height, species" in refused(path, "which column is the label")
    assert "columns: width" in refused(path, "no column 'specie'", label="specie")
    path = write(tmp_path, "a,target,y\n1,2,3\n")
    refused(path, "target, y could each be the label")
    np.testing.assert_array_equal(load(path, label="y").x, [[1, 2]])


def test_rows_without_labels(tmp_path, engine):
    data = load(write(tmp_path, "a,b\n1,2\n"), need_labels=False)
    assert data.y is None
    np.testing.assert_array_equal(data.x, [[1, 2]])
    assert load(write(tmp_path, "a,label\n1,2\n"), need_labels=False).y.tolist() == [2]


def test_pixels_stay_bytes(tmp_path, engine):
    assert load(write(tmp_path, "label,p0,p1\n1,0,255\n2,3,4\n")).x.dtype == np.uint8
    assert load(write(tmp_path, "label,p0,p1\n1,0,256\n2,3,4\n")).x.dtype == np.int64
    assert load(write(tmp_path, "label,p0,p1\n1,-1,255\n2,3,4\n")).x.dtype == np.int64
    assert load(write(tmp_path, "label,p0,p1\n1,0.5,255\n2,3,4\n")).x.dtype == np.float64
    data = load(write(tmp_path, "label,a,b\n1,True,3\n2,False,4\n"))
    np.testing.assert_array_equal(data.x, np.array([[1, 3], [0, 4]], np.uint8))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "2"], [1, 2]),
        (["1.0", "2.0"], [1, 2]),
        (["True", "False"], ["True", "False"]),
        (["true", "true"], ["true", "true"]),
        (["01", "02"], ["01", "02"]),
        (["1", "007"], ["1", "007"]),
        (["-1", "0"], [-1, 0]),
        (["1.0", "2"], [1, 2]),
        (["1e2", "+3"], [100, 3]),
        (["-", "e5"], ["-", "e5"]),
        (["a b", "é"], ["a b", "é"]),
        (["1", "b"], ["1", "b"]),
        (["None", "none"], ["None", "none"]),
    ],
)
def test_labels(tmp_path, engine, values, expected):
    data = load(write(tmp_path, "a,label\n" + "".join(f"3,{value}\n" for value in values)))
    assert data.y.tolist() == expected


@pytest.mark.parametrize("gap", ["", "NA", "NaN", "null"])
def test_missing_values(tmp_path, engine, gap):
    path = write(tmp_path, f"a,b,label\n1,2,x\n3,4,{gap}\n5,6,{gap}\n")
    refused(path, r"column label: 2 missing labels, the first in row 2;")
    refused(write(tmp_path, f"a,label\n1,1\n3,{gap}\n"), "label 2 is missing")
    refused(write(tmp_path, f"a,b,label\n1,2,x\n{gap},4,y\n"), r"missing in a \(.* of a in row 2")
    refused(write(tmp_path, f"a,b,label\n1,{gap},x\n3,{gap},y\n"), r"missing in b \(.* in row 1")
    refused(write(tmp_path, f"a,b,label\n1,True,x\n3,{gap},y\n"), r"missing in b \(.*row 2")


def test_columns_that_are_no_numbers(tmp_path, engine):
    path = write(tmp_path, "a,city,label,sort\n1,Bonn,x,q\n2,Ulm,y,r\n")
    text = refused(path, r"not numbers: city, sort \(row 1 of city holds 'Bonn'\)")
    assert "name one as the label" in text
    lines = "".join(f"{k},{k}.5,x\n" for k in range(3)) + "3,1.2.3,y\n4,,x\n"
    refused(write(tmp_path, "a,b,label\n" + lines), r"not numbers: b \(row 4 of b holds '1.2.3'\)")
    refused(write(tmp_path, "a,label\n1,0.5\n2,0.7\n"), "labels are fractions")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("a,b,label\n", "no rows; columns: a, b, label"),
        ("label\n1\n2\n", "no column besides the label"),
        ("a,b,label\n1,2,3\n1,2,3,4\n", "a.csv"),
        ("a,b,label\n1,2,3,4\n", "a.csv"),
        ("\n", "a.csv"),
    ],
)
def test_broken_csv(tmp_path, engine, text, message):
    refused(write(tmp_path, text), message)


def test_broken_gz(tmp_path, engine):
    path = write(tmp_path, TEXT, "a.csv.gz")
    path.write_bytes(path.read_bytes()[:-5])
    refused(path, "a.csv.gz: damaged, cut short")


def test_binary_called_csv(tmp_path, engine):
    path = tmp_path / "a.csv"
    path.write_bytes(bytes(range(256)) * 4)
    refused(path, "a.csv")


def test_the_row_index_of_pandas_is_left_out(tmp_path, engine):
    frame = pd.DataFrame({"a": [1, 2], "label": ["x", "y"]}, index=[5, 9])
    frame.to_csv(tmp_path / "a.csv")
    assert load(tmp_path / "a.csv").feature_names == ("a",)
    frame.to_parquet(tmp_path / "a.parquet")
    data = load(tmp_path / "a.parquet")
    assert data.feature_names == ("a",)
    assert data.y.tolist() == ["x", "y"]


def test_columns_of_one_name_and_very_many(tmp_path):
    refused(write(tmp_path, "a,a,label\n1,2,3\n"), "several columns have the same name: a")
    names = [*(f"c{k}" for k in range(3000)), "label"]  # a comparison of all pairs takes seconds
    table = ",".join(names) + "\n" + ",".join(["7"] * 3001) + "\n"
    assert load(write(tmp_path, table)).x.shape == (1, 3000)


def test_libraries_that_are_not_installed(tmp_path, monkeypatch):
    for name in ("pyarrow", "pyarrow.csv", "pyarrow.parquet", "pandas"):
        monkeypatch.setitem(sys.modules, name, None)
    assert load(write(tmp_path, TEXT), label="species").x.shape == (3, 2)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    refused(tmp_path / "a.parquet", r"Parquet needs pyarrow: pip install 'xclf\[tables\]'")


COLUMNS = {"a": np.arange(3, dtype=np.float32), "b": np.array([1, 2, 3], np.float32)}


@pytest.mark.parametrize("writer", ["pandas", "polars", "pyarrow"])
def test_parquet(tmp_path, writer):
    path = tmp_path / "a.parquet"
    columns = {**COLUMNS, "label": ["x", "y", "x"]}
    if writer == "pandas":
        pd.DataFrame(columns).to_parquet(path)
    elif writer == "polars":
        pl = pytest.importorskip("polars")
        pl.DataFrame(columns).write_parquet(path)
    else:
        pq.write_table(pa.table(columns), path)
    data = load(path)
    np.testing.assert_array_equal(data.x, np.c_[COLUMNS["a"], COLUMNS["b"]])
    assert data.x.dtype == np.float32
    assert data.y.tolist() == ["x", "y", "x"]
    assert data.feature_names == ("a", "b")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pa.array(["x", "y", "x"]).dictionary_encode(), ["x", "y", "x"]),
        (pa.array([7, 8, 7]).dictionary_encode(), [7, 8, 7]),
        (pa.array([7, 8, 7], pa.uint8()), [7, 8, 7]),
        (pa.array([True, False, True]), [1, 0, 1]),
        (pa.array(["x", "y", "x"], pa.large_string()), ["x", "y", "x"]),
        (pa.array([7.0, 8.0, 7.0]), [7, 8, 7]),
    ],
)
def test_parquet_labels(tmp_path, labels, expected):
    pq.write_table(pa.table({**COLUMNS, "kind": labels}), tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet", label="kind").y.tolist() == expected


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array(["x", None, "x"]), "column label: 1 missing label, the first in row 2"),
        (pa.array([1, None, 2]), "label 2 is missing"),
        (pa.array([True, None, False]), "1 missing label"),
        (pa.array([b"x", b"y", b"z"]), "all integers or all strings"),
        (pa.array([[1], [2], [3]]), "all integers or all strings"),
        (pa.array([1, 2, 3], pa.timestamp("s")), "integers or strings"),
    ],
)
def test_parquet_labels_that_cannot_be_used(tmp_path, column, message):
    pq.write_table(pa.table({**COLUMNS, "label": column}), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", message)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 2, 3], pa.timestamp("s")),
        pa.array([{"k": 1}, {"k": 2}, {"k": 3}]),
        pa.array(["1", "2", "3"]).dictionary_encode(),
    ],
)
def test_parquet_columns_that_are_no_numbers(tmp_path, column):
    pq.write_table(pa.table({**COLUMNS, "odd": column, "y": [1, 2, 3]}), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", r"not numbers: odd \(row 1 of odd holds")


def test_broken_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({**COLUMNS, "label": [1, 2, 3]}), path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 29):
        path.write_bytes(whole[:length])
        refused(path, "a.parquet")
    pq.write_table(pa.table({"a": pa.array([], pa.int64()), "label": pa.array([])}), path)
    refused(path, "no rows; columns: a, label")
    pq.write_table(pa.table({}), path)
    refused(path, "no rows; columns: none")


IDS = "id,width,species\n" + "".join(f"0{k},{k % 7}.5,{'ab'[k % 2]}\n" for k in range(12))


def test_columns_that_are_no_features(tmp_path, engine):
    path = write(tmp_path, IDS)
    data = load(path, label="species", id="id")
    assert data.feature_names == ("width",)
    assert data.ids.tolist() == [f"0{k}" for k in range(12)]  # as written
    dropped = load(path, label="species", drop="id")
    assert (dropped.feature_names, dropped.ids) == (("width",), None)
    assert load(path, label="id", drop=["species"]).feature_names == ("width",)
    refused(path, "no column 'ID'; columns: id, width, species", label="species", id="ID")
    refused(path, "no column besides the label", label="species", drop=["id", "width"])
    refused(path, "drop them .*in the shell --drop", label="id")
    np.save(tmp_path / "x.npy", np.ones((2, 2)))
    refused(tmp_path / "x.npy", "its columns have no names", need_labels=False, drop="id")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "species", "id": "species"}, r"both label= .* and id= .*--id\) name the column"),
        ({"label": "species", "drop": "species"}, r"both label= .* and drop= .* column 'species'"),
        ({"label": "species", "id": "id", "drop": ["id"]}, r"both id= .* and drop= .* 'id'"),
        ({"label": ["species", "species"]}, r"label= .* names twice the column 'species'"),
    ],
)
def test_a_column_has_one_use(tmp_path, options, message):
    refused(write(tmp_path, IDS), message, **options)


def test_the_first_line_may_be_a_row(tmp_path, engine):
    """Whole numbers that count up are names that pandas writes, or a row."""
    path = write(tmp_path, "1,2,5\n1,3,4\n")
    refused(path, "columns: 1, 2, 5; if its first line is a row, put a line with the names")
    refused(path, "no column 'kind'; .*if its first line is a row", label="kind")
    assert load(path, label="5").feature_names == ("1", "2")
    assert "first line" not in refused(write(tmp_path, "a,b,5\n1,3,4\n"), "is the label")


def test_columns_that_a_table_may_lack(tmp_path, engine):
    path = write(tmp_path, IDS)
    options = {"label": "kind", "drop": ["species", "other"], "id": "key", "missing_ok": True}
    data = load(path, need_labels=False, **options)
    assert (data.feature_names, data.y, data.ids) == (("id", "width"), None, None)
    refused(path, "no column 'kind'", **options)


def test_ids_of_several_files(tmp_path):
    for name in ("a.csv", "b.csv"):
        write(tmp_path, IDS, name)
    data = load(tmp_path / "*.csv", label="species", id="id")
    assert data.ids.tolist() == 2 * [f"0{k}" for k in range(12)]


@pytest.mark.parametrize(
    ("name", "values", "looks"),
    [
        ("id", [3, 1, 7, 2, 9, 8, 20, 21, 22, 40], True),
        ("customerId", [3, 1, 7, 2, 9, 8, 20, 21, 22, 40], True),
        ("grid", [3, 1, 7, 2, 9, 8, 20, 21, 22, 40], False),
        ("width", range(100, 110), True),  # it counts rows
        ("width", range(10, 0, -1), True),
        ("width", [1.5 + k for k in range(10)], True),
        ("id", [1, 1, 2, 3, 4, 5, 6, 7, 9, 11], False),
        ("id", [0.5, 1, 7, 2, 9, 8, 20, 21, 22, 40], False),
        ("id", range(9), False),  # by chance, perhaps
        ("width", range(0, 20, 2), False),
    ],
)
def test_columns_that_look_like_ids(tmp_path, engine, name, values, looks):
    lines = "".join(f"{value},{k % 3},{k % 2}\n" for k, value in enumerate(values))
    data = load(write(tmp_path, f"{name},b,label\n{lines}"))
    assert data.id_like == ((name,) if looks else ())
