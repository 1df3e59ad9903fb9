"""Parquet columns of lists and decimals, several files as one, Arrow files, bounds on memory."""

from __future__ import annotations

import decimal
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from data_cases import refused

from xclf.data import DataError, _csv, _parquet, load

EMBEDDINGS = np.arange(12, dtype=np.float32).reshape(4, 3)
LISTS = {
    "list": pa.array(EMBEDDINGS.tolist(), pa.list_(pa.float32())),
    "large": pa.array(EMBEDDINGS.tolist(), pa.large_list(pa.float32())),
    "fixed": pa.array(EMBEDDINGS.tolist(), pa.list_(pa.float32(), 3)),
    "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(EMBEDDINGS),
}


@pytest.mark.parametrize("kind", LISTS)
def test_embeddings_are_as_many_columns(tmp_path, kind):
    table = pa.table({"id": [0.5, 1, 2, 3], "emb": LISTS[kind], "label": list("abab")})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    data = load(tmp_path / "a.parquet")
    np.testing.assert_array_equal(data.x, np.c_[[0.5, 1, 2, 3], EMBEDDINGS])
    assert data.feature_names == ("id", "emb[0]", "emb[1]", "emb[2]")
    alone = table.drop_columns("id").slice(1)
    pq.write_table(alone, tmp_path / "a.parquet")
    data = load(tmp_path / "a.parquet")
    assert data.x.dtype == np.float32
    np.testing.assert_array_equal(data.x, EMBEDDINGS[1:])


@pytest.mark.parametrize("kind", ["list", "fixed"])
def test_embeddings_in_parts(tmp_path, kind, monkeypatch):
    """Of several files, row groups and dtypes; the rows are in the array that was read into."""
    monkeypatch.setattr(_parquet, "_BATCH", 1)
    types = {"list": [pa.list_(pa.float32()), pa.list_(pa.float64())]}
    first, second = types.get(kind, [pa.list_(pa.float32(), 3)] * 2)
    for number, own in enumerate((first, second)):
        column = pa.array((EMBEDDINGS + number).tolist(), own)
        table = pa.table({"label": list("abac"), "emb": column})
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=3)
    data = load(tmp_path)
    assert data.x.dtype == (np.float64 if kind == "list" else np.float32)
    np.testing.assert_array_equal(data.x, np.concatenate([EMBEDDINGS, EMBEDDINGS + 1]))
    assert "".join(data.y) == "abacabac"
    short = pa.table({"label": ["a"], "emb": pa.array([[1.0]], pa.list_(pa.float32()))})
    pq.write_table(short, tmp_path / "2.parquet")
    refused(tmp_path, "column emb: its lists are missing or of different lengths")


def test_images_as_lists_of_lists(tmp_path):
    images = np.arange(12).reshape(3, 2, 2)
    pq.write_table(pa.table({"px": pa.array(images.tolist()), "y": [0, 1, 0]}), tmp_path / "a.pq")
    data = load(tmp_path / "a.pq")
    assert data.x.dtype == np.uint8
    np.testing.assert_array_equal(data.x, images.reshape(3, 4))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1.0], [2.0, 3.0]], "column emb: its lists are missing or of different lengths"),
        ([[1.0, 2.0], None], "column emb: its lists are missing or of different lengths"),
        ([[1.0, 2.0], [3.0, None]], "column emb: values are missing in its lists"),
        ([["a"], ["b"]], "column emb: its lists hold string, not numbers"),
    ],
)
def test_lists_that_are_no_rows(tmp_path, values, message):
    pq.write_table(pa.table({"emb": pa.array(values), "label": [0, 1]}), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", message)


def test_decimals(tmp_path):
    prices = pa.array([decimal.Decimal("1.25"), decimal.Decimal("-3.50")])
    pq.write_table(pa.table({"price": prices, "label": [0, 1]}), tmp_path / "a.parquet")
    np.testing.assert_array_equal(load(tmp_path / "a.parquet").x, [[1.25], [-3.5]])
    classes = pa.array([decimal.Decimal(7), decimal.Decimal(8)])
    pq.write_table(pa.table({"a": [1.5, 2.5], "label": classes}), tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet").y.tolist() == [7, 8]


@pytest.fixture
def shards(tmp_path):
    """A folder of three files, whose rows are numbered; dictionaries of labels differ."""
    for number in range(3):
        rows = np.arange(2) + 2 * number
        table = pa.table({"a": rows * 1.0, "label": [f"c{k % 4}" for k in rows]})
        pq.write_table(table, tmp_path / f"part-{number:05}.parquet")
    return tmp_path


@pytest.mark.parametrize("pattern", ["", "*.parquet", "part-*"])
def test_several_files_are_one_table(shards, pattern):
    data = load(f"{shards}/{pattern}")
    assert data.x.ravel().tolist() == [0, 1, 2, 3, 4, 5]
    assert data.y.tolist() == ["c0", "c1", "c2", "c3", "c0", "c1"]
    assert load(f"{shards}/part-0000[12]*").x.ravel().tolist() == [2, 3, 4, 5]


def test_train_and_test_files(shards):
    for old, new in enumerate(("train-0", "test-0", "validation-0")):
        (shards / f"part-{old:05}.parquet").rename(shards / f"{new}.parquet")
    data = load(shards)
    assert data.x.ravel().tolist() == [0, 1]
    assert data.test.x.ravel().tolist() == [2, 3]


def test_files_that_are_no_table_together(shards):
    pq.write_table(pa.table({"b": [1.0], "label": ["c0"]}), shards / "z.parquet")
    refused(shards, r"z.parquet: has other columns \(b, label\) than part-00000.parquet \(a, label")
    (shards / "a.csv").write_text("a,label\n1,2\n")
    refused(f"{shards}/*", "z.parquet: has 1 column, .*a.csv 1, or other names")
    refused(f"{shards}/*.npy", "no such file")


@pytest.mark.parametrize("suffix", [".feather", ".arrow"])
@pytest.mark.parametrize("compression", ["uncompressed", "lz4"])
def test_arrow_files(tmp_path, suffix, compression):
    table = pa.table({"emb": LISTS["fixed"], "label": list("abab")})
    path = tmp_path / f"a{suffix}"
    pa.feather.write_feather(table, path, compression=compression, chunksize=3)
    data = load(path)
    np.testing.assert_array_equal(data.x, EMBEDDINGS)
    assert data.y.tolist() == list("abab")
    refused(path, "more than max_memory = 20 bytes", max_memory=20)
    with pa.ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table)
    np.testing.assert_array_equal(load(path).x, EMBEDDINGS)
    path.write_bytes(path.read_bytes()[:-40])
    refused(path, "damaged, cut short")
    path.write_bytes(b"nonsense" * 9)
    refused(path, "a.(feather|arrow): ")


@pytest.mark.parametrize("offsets", [[0, 2**31 - 9, 6], [0, 2**30, 0], [0, -5, 6]])
def test_arrow_strings_that_lie_outside_of_the_file(tmp_path, offsets):
    """Arrow reads what offsets say, unless it is made to check them: past the end of the file."""
    buffers = [None, pa.py_buffer(np.array(offsets, np.int32)), pa.py_buffer(b"catdog")]
    labels = pa.Array.from_buffers(pa.string(), 2, buffers)
    batch = pa.record_batch([pa.array([1.0, 2.0]), labels], names=["a", "label"])
    path = tmp_path / "a.arrow"
    with pa.ipc.new_file(path, batch.schema) as file:
        file.write_batch(batch)
    refused(path, "a.arrow: damaged.*[Oo]ffset")


def test_a_small_parquet_file_that_expands(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    table = pa.table({**{f"c{k}": np.zeros(10_000) for k in range(60)}, "label": ["x"] * 10_000})
    pq.write_table(table, path)
    assert path.stat().st_size < 60_000
    monkeypatch.setattr(pq, "read_table", None)  # the file is refused by what it says of itself
    text = refused(path, "10,000 rows: 4.6 MiB in memory, more than max_memory", max_memory="2MB")
    assert "use fewer rows or files" in text
    monkeypatch.undo()
    assert load(path, max_memory="5MB").x.shape == (10_000, 60)
    pq.write_table(table, tmp_path / "b.parquet")
    refused(tmp_path, "its files up to b.parquet: 9.2 MiB in memory", max_memory="6MB")


def test_long_labels_that_expand(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": np.arange(1000), "label": ["x" * 1000] * 1000}), path)
    assert path.stat().st_size < 30_000
    refused(path, "column label: 3.8 MiB in memory", max_memory="1MB")


COUNTED = []  # what was allocated in a pool must not outlive it


@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_many_columns_of_numbers_are_in_memory_twice_at_most(tmp_path, monkeypatch, name):
    """As the file's table and as rows: of Parquet, whose columns are read some at a time, once."""
    rows, wide = 2000, 300
    x = np.random.default_rng(0).standard_normal((rows, wide))
    columns = {f"f{k}": x[:, k] for k in range(wide)} | {"label": np.arange(rows) % 3}
    if name == "a.csv":
        pyarrow.csv.write_csv(pa.table(columns), tmp_path / name)
    else:
        pq.write_table(pa.table(columns), tmp_path / name)
    monkeypatch.setattr(_parquet, "_BATCH", 1 << 18)
    monkeypatch.setattr(_csv, "_HEAD", 1 << 16)
    monkeypatch.setattr(_csv, "_BLOCK", 1 << 18)
    kept = pa.default_memory_pool()
    COUNTED.append(counted := pa.proxy_memory_pool(kept))
    pa.set_memory_pool(counted)
    tracemalloc.start()
    try:
        data = load(tmp_path / name)
        arrays, table = tracemalloc.get_traced_memory()[1], counted.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(kept)
    np.testing.assert_array_equal(data.x, x)
    # Beside the rows: a column, names, and blocks of text or columns.
    assert arrays < 1.2 * x.nbytes
    assert table < (1.3 if name == "a.csv" else 0.4) * x.nbytes


LATER = {
    "fractions": ("1", "2.5"),
    "text": ("1", "x1"),
    "nothing at first": ("", "3"),
    "truth": ("true", "7"),
    "whole": ("200", "255"),
    "dates": ("2020-01-01", "2020-01-02"),
}


@pytest.mark.parametrize("kind", list(LATER))
def test_types_that_the_first_lines_do_not_show(tmp_path, monkeypatch, kind):
    first, last = LATER[kind]
    lines = [f"{first},{k % 2},a" for k in range(9)] + [f"{last},3,b"]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["odd,even,label", *lines]) + "\n")
    found = []
    for head in (40, 1 << 20):
        monkeypatch.setattr(_csv, "_HEAD", head)
        try:
            data = load(path)
            found.append((data.x.dtype.str, data.x.tolist(), data.y.tolist()))
        except DataError as error:
            found.append(str(error))
    assert found[0] == found[1]
