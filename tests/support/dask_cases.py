"""Rows in blocks, for tests: small groups, and a cluster of processes."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
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
