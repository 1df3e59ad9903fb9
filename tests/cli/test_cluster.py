"""--dask and --workers: DATA in blocks, with the results of DATA in memory."""

from __future__ import annotations

import json

import dask_cases
import numpy as np
import pytest
from estimator_cases import blobs
from sklearn.datasets import dump_svmlight_file

dask_cases.need("dask.array", "distributed")
import distributed  # noqa: E402

X, Y = blobs(240, 5, 3)


@pytest.fixture(scope="module")
def address():
    options = {"processes": False, "protocol": "tcp", "dashboard_address": ":0"}
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, **options) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def shards(tmp_path, monkeypatch):
    dask_cases.small_groups(monkeypatch)
    for k in range(3):
        np.savez(tmp_path / f"part{k}.npz", X=X[k::3], y=Y[k::3])
    return f"{tmp_path}/*.npz"


def test_train_and_predict(shell, shards, address, tmp_path):
    model, words = tmp_path / "m.safetensors", ("train", shards, "--reg", "1e-1", "--json")
    there = json.loads(shell.good(*words, "--out", model, "--dask", address))
    here = json.loads(shell.good(*words))
    assert there["objective"] == pytest.approx(here["objective"], rel=0.2)  # others are held out
    assert there["train_rows"] == here["train_rows"]
    words = ("predict", model, shards, "--proba", "--out")
    for name, more in (("a.csv", ("--dask", address)), ("b.csv", ())):
        shell.good(*words, tmp_path / name, *more)
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()


def test_sweep_and_probe(shell, shards, address):
    grid = ("--reg", "1e-2,1e-1", "--json", "--dask", address)
    sweep = json.loads(shell.good("sweep", shards, *grid))
    assert [row["parameters"]["reg"] for row in sweep["search"]["candidates"]] == [1e-2, 1e-1]
    probe = json.loads(shell.good("probe", shards, *grid))
    assert len(probe["search"]["points"]) == 2


@pytest.mark.long
@pytest.mark.parametrize("command, tried", [("sweep", "candidates"), ("probe", "points")])
def test_sweep_and_probe_start_workers(shell, shards, command, tried):
    """Of a cluster of their own, which ends with them."""
    words = (command, shards, "--reg", "1e-2,1e-1", "--json", "--workers", "1")
    assert len(json.loads(shell.good(*words))["search"][tried]) == 2


def test_sparse_files_and_ids(shell, address, tmp_path, monkeypatch):
    """Sparse rows stay sparse on the workers; `evaluate` knows the rows of the training again."""
    dask_cases.small_groups(monkeypatch)
    x = np.where(np.random.default_rng(0).random(X.shape) < 0.3, 0.0, X)
    for k in range(3):
        dump_svmlight_file(x[k::3], Y[k::3], str(tmp_path / f"p{k}.svmlight"))
        rows = [f"r{k}.{i},{','.join(map(str, row))}" for i, row in enumerate(X[k::3].tolist())]
        (tmp_path / f"p{k}.csv").write_text("\n".join(["name,a,b,c,d,e", *rows]))
    files, model, there = f"{tmp_path}/*.svmlight", tmp_path / "m.safetensors", ("--dask", address)
    shell.good("train", files, "--reg", "1e-1", "--out", model, *there)
    measured = json.loads(shell.good("evaluate", model, files, "--json"))
    assert measured["rows"] == 48, "those that the training held out, a fifth"
    shell.good("predict", model, files, "--out", tmp_path / "a.csv", *there)
    shell.good("predict", model, files, "--out", tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    words = ("predict", model, f"{tmp_path}/p*.csv", "--id", "name", "--out")
    for name, more in (("c.csv", there), ("d.csv", ())):
        shell.good(*words, tmp_path / name, *more)
    said = (tmp_path / "c.csv").read_text()
    assert said == (tmp_path / "d.csv").read_text()
    assert len(said.splitlines()) == 1 + len(X)


def test_backends_names_the_cluster(shell, address):
    said = shell.good("backends", "--dask", address)
    assert f"Dask cluster at {address}: 1 workers, 1 threads" in said


def test_wrong_clusters_are_one_line(shell, shards, address, monkeypatch):
    monkeypatch.setattr("xclf.cli._cluster._PATIENCE", 0.3)
    for words, message in (
        (("--dask", address, "--workers", "2"), "give one of them"),
        (("--dask", "tcp://127.0.0.1:1"), "--dask tcp://127.0.0.1:1: no scheduler answers there"),
        (("--dask", address, "--mirror"), "--mirror needs rows in memory"),
    ):
        assert message in shell.fails("train", shards, *words)
