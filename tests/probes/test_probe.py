"""`probe` is the loop that it stands for: fits of every candidate, the choice, the refit."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from probe_cases import GRID, TEST, TRAIN, VAL, WIDE, clouds
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold

import xclf
from xclf.probes import ProbeInterrupted, Protocol
from xclf.probes import _plan as plans


def single(C, x, y, kind=xclf.SoftmaxClassifier):
    return kind(reg=1.0 / (2.0 * C * len(y))).fit(x, y)


def scores(result):
    return [point["score"] for point in result.search["points"]]


@pytest.mark.parametrize("kind", ["softmax", "svm"])
def test_given_rows(kind):
    result = xclf.probe(TRAIN, VAL, TEST, C=GRID, estimator=kind)
    models = [single(C, *TRAIN, kind=plans.ESTIMATORS[kind]) for C in GRID]
    want = [model.score(*VAL) for model in models]
    assert scores(result) == want
    best = int(np.argmax(want))
    assert (result.search["chosen"], result.chosen) == (best, GRID[best])
    x, y = (np.concatenate(parts) for parts in zip(TRAIN, VAL, strict=True))
    again = single(GRID[best], x, y, plans.ESTIMATORS[kind])
    # Both are within the solvers' promise of one optimum: 1e-6 of it.
    assert result.model.objective_ == pytest.approx(again.objective_, rel=2e-6)
    assert result.model.reg == again.reg
    assert not result.model.warm_start
    assert [row["data"] for row in result.metrics] == ["validation", "test"]
    assert result.accuracy == result.metrics[1]["accuracy"] == again.score(*TEST)
    assert result.metrics[0]["accuracy"] == want[best]  # by the model that has not seen them


def test_shares_are_held_out():
    result = xclf.probe(TRAIN, C=GRID)
    rows = {entry["role"]: entry["rows"] for entry in result.results["data"]}
    assert rows == {"test": 30, "validation": 12, "train": 108}
    assert result.model.converged_
    none = xclf.probe(TRAIN, 0.5, 0, C=GRID)
    rows = {entry["role"]: entry["rows"] for entry in none.results["data"]}
    assert rows == {"validation": 75, "train": 75}
    assert [row["data"] for row in none.metrics] == ["validation"]


def test_folds():
    result = xclf.probe(TRAIN, test=TEST, C=GRID, folds=3)
    x, y = TRAIN
    splits = list(StratifiedKFold(3, shuffle=True, random_state=0).split(x, y))
    want = [[single(C, x[a], y[a]).score(x[b], y[b]) for a, b in splits] for C in GRID]
    np.testing.assert_allclose(scores(result), np.mean(want, axis=1), atol=1e-12)
    spread = [point["std"] for point in result.search["points"]]
    np.testing.assert_allclose(spread, np.std(want, axis=1), atol=1e-12)
    again = single(result.chosen, x, y)
    assert result.model.objective_ == pytest.approx(again.objective_, rel=2e-6)


@pytest.mark.parametrize("grid", ["C", "reg"])
def test_of_equal_candidates_the_strongest_penalty_is_chosen(grid):
    x, y = clouds(60, 5, 0)
    x = x + 100.0 * np.eye(3, 5)[y]  # apart: every candidate is right
    result = xclf.probe((x, y), (x, y), (x, y), **{grid: [1e-2, 1.0, 1e-1]})
    values = [point["value"] for point in result.search["points"]]
    assert values == [1e-2, 1e-1, 1.0]
    assert result.chosen == {"C": 1e-2, "reg": 1.0}[grid]


def test_mean_per_class_is_what_it_says():
    x, y = VAL
    few = np.flatnonzero((y != 2) | (np.arange(len(y)) % 15 == 2))
    val = (x[few], y[few])
    result = xclf.probe(TRAIN, val, TEST, C=GRID, metric="mean_per_class")
    want = []
    for C in GRID:
        right = single(C, *TRAIN).predict(val[0]) == val[1]
        want.append(np.mean([right[val[1] == k].mean() for k in range(3)]))
    np.testing.assert_allclose(scores(result), want, atol=1e-12)


def test_a_protocol_is_one_record(monkeypatch):
    mine = Protocol("mine", "two", "here", "reg", (1e-3, 1e-2), refit=False)
    monkeypatch.setitem(plans.PROTOCOLS, "mine", mine)
    result = xclf.probe(TRAIN, VAL, TEST, protocol="mine")
    assert result.protocol == "mine"
    own = xclf.SoftmaxClassifier(reg=result.chosen).fit(*TRAIN)
    assert result.model.objective_ == pytest.approx(own.objective_, rel=2e-6)


def test_options_of_the_rows():
    x, y = TRAIN
    result = xclf.probe(TRAIN, VAL, TEST, C=[1.0], normalize=True, fit_intercept=False)
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, VAL[0], TEST[0])]
    own = xclf.SoftmaxClassifier(reg=1.0 / (2.0 * len(y)), fit_intercept=False).fit(unit[0], y)
    assert scores(result) == [own.score(unit[1], VAL[1])]
    assert not result.model.intercept_.any()
    scale = 10.0 ** np.arange(5)
    scaled = [(scale * a, b) for a, b in (TRAIN, VAL, TEST)]
    same = [xclf.probe(*parts, C=GRID, standardize=True) for parts in (scaled, (TRAIN, VAL, TEST))]
    assert scores(same[0]) == scores(same[1])


def test_feature_sets():
    rng = np.random.default_rng(0)
    sets = {
        name: [(a + noise * rng.standard_normal(a.shape), b) for a, b in (TRAIN, VAL, TEST)]
        for name, noise in (("first", 3.0), ("middle", 0.0), ("last", 1.0))
    }
    train, val, test = ({k: v[i] for k, v in sets.items()} for i in range(3))
    result = xclf.probe(train, val, test, C=GRID)
    layers = result.layers
    assert [point["name"] for point in layers["points"]] == list(sets)
    for point in layers["points"]:
        alone = xclf.probe(*sets[point["name"]], C=GRID)
        assert (point["score"], point["chosen"]) == (max(scores(alone)), alone.chosen)
        assert point["test"] == alone.accuracy
    assert layers["points"][layers["best"]]["score"] == max(scores(result))
    best = list(sets)[layers["best"]]
    assert result.accuracy == xclf.probe(*sets[best], C=GRID).accuracy
    listed = xclf.probe(list(train.values()), 0.2, list(test.values()), C=GRID)
    assert [point["name"] for point in listed.layers["points"]] == ["layer 0", "layer 1", "layer 2"]


def test_several_test_sets():
    other = (-TEST[0], TEST[1])
    result = xclf.probe(TRAIN, VAL, {"clean": TEST, "negative": other}, C=GRID)
    assert [row["data"] for row in result.metrics] == ["validation", "clean", "negative"]
    assert result.accuracy == result.metrics[1]["accuracy"] == result.model.score(*TEST)
    assert result.metrics[2]["accuracy"] == result.model.score(*other)


def test_files(tmp_path):
    for name, (x, y) in {"train": TRAIN, "val": VAL, "test": TEST}.items():
        np.save(tmp_path / f"{name}.npy", x)
        np.save(tmp_path / f"{name}-y.npy", y)
        np.save(tmp_path / f"{name}-layer-0.npy", x[:, :3])
        np.save(tmp_path / f"{name}-layer-1.npy", x)

    def source(name, rows):
        return f"{tmp_path}/{name}{rows}.npy,{tmp_path}/{name}-y.npy"

    result = xclf.probe(*(source(name, "") for name in ("train", "val", "test")), C=GRID)
    assert scores(result) == scores(xclf.probe(TRAIN, VAL, TEST, C=GRID))
    layers = xclf.probe(*(source(name, "-layer-*") for name in ("train", "val", "test")), C=GRID)
    names = [point["name"] for point in layers.layers["points"]]
    assert names == ["train-layer-0", "train-layer-1"]
    assert layers.layers["points"][1]["score"] == max(scores(result))


def test_names_of_classes():
    names = np.asarray(["ash", "birch", "cedar"])
    parts = [(x, names[y]) for x, y in (TRAIN, VAL, TEST)]
    result = xclf.probe(*parts, C=GRID)
    assert result.results["class_names"] == names.tolist()
    assert result.accuracy == xclf.probe(TRAIN, VAL, TEST, C=GRID).accuracy


def test_every_backend(backend):
    want = xclf.probe(*WIDE, C=GRID, shots=[2], tries=2, folds=None)
    parts = [(backend.asarray(x), y) for x, y in WIDE]
    got = xclf.probe(*parts, C=GRID, shots=[2], tries=2, normalize=False)
    assert scores(got) == scores(want)
    assert got.few_shot == want.few_shot
    assert type(got.model.coef_) is type(parts[0][0])
    shares = xclf.probe(parts[0], C=GRID, normalize=True)
    assert scores(shares) == scores(xclf.probe(WIDE[0], C=GRID, normalize=True))


@pytest.mark.parametrize(
    "parts, words",
    [
        ((TRAIN, (VAL[0][:, :4], VAL[1])), "validation has 4 features a row, train 5"),
        ((TRAIN, VAL, (TEST[0], TEST[1] + 1)), r"test holds labels that train lacks: \[3\]"),
        ((TRAIN, VAL, (TEST[0], TEST[1].astype(str))), "test holds labels that train lacks"),
        (((TRAIN[0], TRAIN[1], 1),), r"train: expected \(X, y\), got a tuple of 3"),
        (((TRAIN[0], TRAIN[1][:-1]),), "train: X has 150 rows but y has 149 labels"),
        ((TRAIN, (VAL[0] * np.nan, VAL[1])), "validation: Input X contains NaN at row 0, column 0"),
        (((TRAIN[0], 0 * TRAIN[1]),), "at least two classes"),
        (([TRAIN, TRAIN], VAL), "train holds 2 feature sets.*val needs as many.*got one"),
        (([TRAIN, TRAIN], [VAL, VAL], [TEST]), "test needs as many.*got 1"),
        (("no/such/*.npy,y.npy",), "no file is named so"),
    ],
)
def test_bad_rows(parts, words):
    with pytest.raises(ValueError, match=words):
        xclf.probe(*parts, C=GRID)


def test_what_is_shown():
    result = xclf.probe(TRAIN, VAL, TEST, C=GRID, shots=[1], tries=2)
    text = repr(result)
    for words in ("protocol grid", "validation: 3 of 3 values", "chosen", "95 % interval"):
        assert words in text
    assert f"{result.accuracy:.4f}" in text
    html = result._repr_html_()
    assert html.startswith("<pre")
    assert "<script" not in html
    copied = result.to_dict()
    assert json.loads(json.dumps(copied, allow_nan=False)) == result.results
    copied["metrics"].clear()
    assert result.metrics


def test_one_warning_for_fits_that_did_not_converge():
    with pytest.warns(ConvergenceWarning, match="7 fits did not converge; the first") as caught:
        result = xclf.probe(*WIDE, C=[1e2, 1e3, 1e4], folds=None, max_iter=2, shots=[3], tries=1)
    assert len(caught) == 1
    assert not any(point["converged"] for point in result.search["points"])


def stop_at(number):
    """(a callback in the place of Ctrl-C at event `number`, the events so far). A function: clones
    of an estimator share it."""
    seen = []

    def callback(event):
        seen.append(event)
        if len(seen) == number:
            raise KeyboardInterrupt

    return callback, seen


@pytest.mark.parametrize("share", [0.02, 0.5])
@pytest.mark.parametrize("columns", [1, 2])
def test_ctrl_c_before_the_last_fold(columns, share):
    """Candidates are compared over the folds that are done."""
    x, y = TRAIN
    y = y if columns == 1 else np.stack([y, (y + 1) % 5], axis=1)
    options = {"C": np.geomspace(0.1, 100.0, 6), "folds": 3, "standardize": True}
    callback, seen = stop_at(0)
    xclf.probe((x, y), test=0, callbacks=[callback], **options)
    stop, _ = stop_at(max(1, math.floor(share * len(seen))))
    with pytest.raises(ProbeInterrupted) as caught:
        xclf.probe((x, y), test=0, callbacks=[stop], **options)
    result = caught.value.result
    assert result.interrupted
    assert result.search["data"] in ("1 of 3 folds", "2 of 3 folds")
    known = [score for score in scores(result) if score is not None]
    assert result.search["points"][result.search["chosen"]]["score"] == max(known)
    assert result.model.predict(x).shape == y.shape


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_ctrl_c_keeps_the_best_so_far(share, tmp_path):
    options = {"shots": [1, 4], "tries": 2}
    callback, seen = stop_at(0)
    xclf.probe(TRAIN, VAL, TEST, C=GRID, callbacks=[callback], **options)
    stop, _ = stop_at(max(1, math.floor(share * len(seen))))
    with pytest.raises(ProbeInterrupted) as caught:
        xclf.probe(TRAIN, VAL, TEST, C=GRID, callbacks=[stop], out=tmp_path / "out", **options)
    result = caught.value.result
    assert result.interrupted
    assert result.accuracy > 0.4
    assert result.search["points"][result.search["chosen"]]["score"] == max(
        score for score in scores(result) if score is not None
    )
    kept = json.loads((tmp_path / "out" / "results.json").read_text())
    assert kept["interrupted"] is True
    model = xclf.load(tmp_path / "out" / "model.safetensors")
    assert model.score(*TEST) == result.accuracy


def test_files_that_are_not_there_are_said_before_the_first_set_is_fitted(tmp_path, monkeypatch):
    """Rows or labels, of any set; a pattern, or a pair of files that are there, is none of them."""
    rng = np.random.default_rng(0)
    y = np.arange(30) % 3
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(30, 2)) + y[:, None])
    np.save(tmp_path / "y.npy", y)
    monkeypatch.chdir(tmp_path)
    there = ["a.npy,y.npy", "b.npy,y.npy"]
    assert len(xclf.probe(there, reg=[1e-2]).layers["points"]) == 2
    monkeypatch.setattr("xclf.probes._parts.load", None)
    for missing in ("c.npy,y.npy", "b.npy,z.npy", "c.npz", "c*.npz"):
        with pytest.raises(xclf.data.DataError, match="no such file or folder"):
            xclf.probe([there[0], missing], reg=[1e-2])
