"""Rows in blocks, for tests: small groups, and a cluster of processes."""

from __future__ import annotations

import gc
import importlib
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from backends import required_backends

NAME = "dask"


def need(*modules: str) -> None:
    """Skip where Dask, or a part of it, is missing; fail where XCLF_REQUIRE names it."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            if NAME in required_backends():
                pytest.fail(f"XCLF_REQUIRE names dask, and {module} is missing: {error}")
            pytest.skip(f"{module} is not installed", allow_module_level=True)


def small_groups(monkeypatch: pytest.MonkeyPatch, size: int = 1 << 12) -> None:
    """Groups of `size` bytes, and no collection so small that it comes to this process."""
    monkeypatch.setattr("xclf.estimators._collections.FEW", 0)
    monkeypatch.setattr("xclf.rows._blocks._GROUP", size)
    monkeypatch.setattr("xclf.rows._blocks._FEW_GROUPS", 1)


def within_gaps(one: Any, other: Any) -> None:
    """Two fits of a convex problem are as near to each other as both have proved to be to the
    optimum; 1e-12 is for the rounding of the objectives themselves."""
    bound = one.dual_gap_ + other.dual_gap_ + 1e-12 * other.objective_
    assert one.converged_
    assert other.converged_
    assert abs(one.objective_ - other.objective_) <= bound


def bytes_per_row(
    work: Callable[..., Any], sizes: tuple[int, int, int], most: int = 1 << 30
) -> float:
    """Bytes that this process holds at the peak for each further row, by the last two sizes: the
    first sets up what stays.

    work : takes X (N, 4) float32, labels (N, 2) and weights (N,), collections
    most : rows of a block
    """
    import dask.array as da

    peaks = []
    for rows in sizes:
        each = min(rows // 4, most)
        noise = da.random.default_rng(0).normal(size=(rows, 4), chunks=(each, 4))
        y = (noise[:, :2] > 0).astype("int64")
        weights = da.random.default_rng(1).uniform(size=rows, chunks=each)
        # Messages of Dask are in cycles, which wait for a full collection; how often one comes
        # depends on how many objects a process holds: those that are there do not count.
        for step in (gc.collect, gc.freeze, gc.collect):
            step()
        if rows > sizes[0]:
            tracemalloc.start()
        work(noise.astype("float32"), y, weights)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        gc.unfreeze()
    return (peaks[2] - peaks[1]) / (sizes[2] - sizes[1])


@contextmanager
def cluster(workers: int = 2, **options: Any) -> Iterator[Any]:
    """A Client of a cluster of processes, one thread each."""
    import distributed

    options = {"threads_per_worker": 1, "dashboard_address": ":0"} | options
    with (
        distributed.LocalCluster(n_workers=workers, **options) as own,
        distributed.Client(own) as client,
    ):
        yield client


def arrays(model: Any) -> list[np.ndarray]:
    """The fitted arrays of a model."""
    if hasattr(model, "weights_"):
        return [np.asarray(value) for value in model.weights_.values()]
    return [np.asarray(model.coef_), np.asarray(model.intercept_)]
