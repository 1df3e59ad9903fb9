"""Probes whose labels, shares and folds stay on a cluster: those of rows in memory."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import dask_cases
import numpy as np
import pytest
from estimator_cases import blobs
from pairwise import named

import xclf
from xclf.probes import _parts

dask_cases.need("dask.array", "distributed")
import dask.array as da  # noqa: E402

pytestmark = pytest.mark.usefixtures("in_blocks")

X, Y = blobs(300, 6, 3)
NAMES = np.array(["b", "c", "a"])[Y]
COLUMNS = np.stack([Y == 0, Y > 0, X[:, 0] > 0], axis=1).astype(np.int64)
OTHER = blobs(90, 6, 3, seed=5)
GRID = {"reg": [1e-2, 1e-1, 1.0], "seed": 3}


def lazy(x, y):
    return da.from_array(x, chunks=(70, 4)), da.from_array(y, chunks=(50, *y.shape[1:]))


def facts(results):
    """What rows in blocks and rows in memory have alike, to the digits that two optima share:
    probabilities of these differ by less than 1e-6 at the estimators' tolerance."""
    names = ("protocol", "search", "metrics", "confusion", "calibration", "per_class", "few_shot")
    kept = {name: results[name] for name in (*names, "tasks") if name in results}
    data = [{k: v for k, v in own.items() if k != "fingerprint"} for own in results["data"]]
    return rounded(kept | {"data": data})


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(own) for key, own in value.items()}
    if isinstance(value, list):
        return [rounded(own) for own in value]
    return pytest.approx(value, rel=1e-4, abs=1e-5) if isinstance(value, float) else value


CASES = {
    "shares": (NAMES, {"val": 0.3, "top_k": 2}),
    "folds": (NAMES, {"folds": 3, "class_weight": "balanced"}),
    "few-shot": (NAMES, {"shots": [2, 5], "tries": 3, "test": 0.3}),
    "precision": (Y, {"metric": "average_precision", "normalize": True}),
    "tasks": (COLUMNS, {"metric": "mean_per_class", "val": 0.3}),
    "tasks, folds": (COLUMNS, {"folds": 3, "shots": [2], "tries": 2, "class_weight": "balanced"}),
    "no test": (NAMES, {"test": 0, "estimator": "svm", "tol": 1e-4, "reg": [1e-1, 1.0]}),
}


@named(("y", "options"), CASES, "shares", "tasks, folds")
def test_a_probe_is_that_of_rows_in_memory(shared, monkeypatch, y, options):
    here = xclf.probe((X, y), **GRID | options)
    monkeypatch.setattr(_parts, "computed", None)  # labels cannot come to this process
    there = xclf.probe(lazy(X, y), **GRID | options)
    assert rounded_back(facts(there.results)) == facts(here.results)
    seen = [own.model._trained_on.seen for own in (there, here)]
    np.testing.assert_array_equal(seen[0].hashes, seen[1].hashes)


def rounded_back(value):
    """Plain values of `rounded` ones, to compare with these."""
    if isinstance(value, dict):
        return {key: rounded_back(own) for key, own in value.items()}
    if isinstance(value, list):
        return [rounded_back(own) for own in value]
    return getattr(value, "expected", value)


@named(["y"], {"names": [NAMES], "tasks": [COLUMNS]}, "tasks")
def test_parts_of_their_own_and_predictions(shared, monkeypatch, tmp_path, y):
    """Training rows in blocks, validation rows in memory, test rows in blocks, of fewer classes."""
    monkeypatch.setattr("xclf.probes._outputs._has_pyarrow", lambda: False)
    monkeypatch.setattr("xclf.rows._block_judged._JUDGED", 500)  # some rows at a time
    val, some = (X[:90] + 0.1, y[:90]), np.flatnonzero(Y > 0)
    test = X[some], y[some]
    here = xclf.probe((X, y), val=val, test=test, out=tmp_path / "here", **GRID)
    there = xclf.probe(lazy(X, y), val=val, test=lazy(*test), out=tmp_path / "there", **GRID)
    assert rounded_back(facts(there.results)) == facts(here.results)
    tables = [
        list(csv.reader((tmp_path / name / "predictions.csv").read_text().splitlines()))
        for name in ("there", "here")
    ]
    assert tables[0][0] == tables[1][0]
    for one, other in zip(*tables, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a == b or float(a) == pytest.approx(float(b), rel=1e-4, abs=1e-5)


def test_labels_of_arrays(shared):
    """They are sent to their rows."""
    here, there = (xclf.probe((own, NAMES), **GRID) for own in (X, lazy(X, Y)[0]))
    assert rounded_back(facts(there.results)) == facts(here.results)


@pytest.mark.long
def test_draws_that_are_many_rows_stay_in_blocks(shared, monkeypatch):
    options = GRID | {"shots": [5], "tries": 3}
    here = xclf.probe((X, NAMES), **options)
    monkeypatch.setattr("xclf.probes._block_part.GATHERED", 0)
    there = xclf.probe(lazy(X, NAMES), **options)
    assert rounded_back(facts(there.results)) == facts(here.results)


def test_average_precision_is_left_out_of_many_rows(shared, monkeypatch):
    monkeypatch.setattr("xclf.probes._measure.GATHERED", 0)
    there = xclf.probe(lazy(X, NAMES), **GRID)
    assert "average_precision" not in there.metrics[0]
    assert there.metrics[0]["accuracy"] > 0.9


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*fits did not converge")
def test_minibatches(shared):
    """Of rows in blocks they are other ones, of the same rows."""
    options = {"learning_rate": [1e-2, 1e-1], "max_iter": 20, "seed": 0}
    there = xclf.probe(lazy(X, NAMES), **options)
    assert there.accuracy > 0.9
    assert there.results["data"][0]["rows"] == 216


@pytest.mark.long
def test_one_class_alone(shared):
    with pytest.raises(ValueError, match="y must hold at least two classes"):
        xclf.probe(lazy(X, np.zeros(300)), **GRID)
    with pytest.raises(ValueError, match="test holds labels that train lacks"):
        xclf.probe(lazy(X, Y), test=lazy(X, Y + 1), **GRID)
    result = xclf.probe(lazy(X, Y), test=lazy(X[Y == 1], Y[Y == 1]), **GRID)
    assert result.accuracy == xclf.probe((X, Y), test=(X[Y == 1], Y[Y == 1]), **GRID).accuracy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val": 0.005}, "cannot hold out 0.005 of 240 rows for validation, stratified: 2 rows"),
        ({"folds": 101}, "folds=101 needs 101 rows of every class"),
        ({"shots": [200]}, "200 shots needs 200 rows of every class"),
    ],
)
def test_too_few_rows(shared, options, message):
    with pytest.raises(ValueError, match=message):
        xclf.probe(lazy(X, Y), **GRID | options)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*fits did not converge")
@pytest.mark.parametrize("options", [{}, {"folds": 2}, {"shots": [2], "tries": 2}], ids=str)
def test_the_memory_of_this_process_does_not_grow_with_the_rows(
    shared, monkeypatch, tmp_path, options
):
    """A number of each would be 8 bytes a row, and this is a third of it, as for fits."""
    for room in ("rows._block_rows", "rows._block_shares", "probes._measure"):
        monkeypatch.setattr(f"xclf.{room}.GATHERED", 1 << 14)
    options = {"reg": [1e-1], "seed": 0, "max_iter": 1, "tol": 1.0, **options}

    def probed(x, y, weights):
        monkeypatch.setattr("xclf.rows._blocks._GROUP", x.nbytes // 4)
        xclf.probe((x, y[:, 0]), **options)

    page = (Path(xclf.__file__).parent / "guide" / "cluster.md").read_text(encoding="utf-8")
    assert re.search(r"`probe`.* holds nothing\s+for each row", page)
    assert dask_cases.bytes_per_row(probed, (20_000, 40_000, 240_000)) < 2.5
