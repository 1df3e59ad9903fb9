"""The backends every test runs on, as fixtures.

A test that takes `backend`, `xp` or `device` runs once per backend. Those of a backend that cannot
be used here are not collected: a line at the end says why, and how many they are. The environment
variable XCLF_REQUIRE, a comma list of backend names (`XCLF_REQUIRE=cupy,torch`), makes each of them
a failure, so that a machine bought for its GPU cannot pass without it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import zlib
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pretend_cupy
import pytest
import threadpoolctl
from backends import ON_GPUS, Backend, required_backends, usable_or_required, why_missing

if pretend_cupy.wanted():
    pretend_cupy.install()

with contextlib.suppress(ImportError):
    from hypothesis import settings

    # The same examples everywhere, and no clock: what fails on one machine fails on every other.
    # `--hypothesis-profile explore` draws new ones.
    settings.register_profile("repeat", derandomize=True, deadline=None, database=None)
    settings.register_profile("explore", deadline=None, database=None, print_blob=True)
    settings.load_profile("repeat")


def pytest_configure(config: pytest.Config) -> None:
    required_backends()
    # Of torch, once it is imported: its threads wait for each other in small products.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if hasattr(config, "workerinput") and "OPENBLAS_NUM_THREADS" not in os.environ:
        # One of several processes of pytest-xdist, and its children.
        threadpoolctl.threadpool_limits(1)
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A shell's background jobs ignore Ctrl-C, and so do their children; tests send it.
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Modules, tests and their cases stay: no collection of garbage goes through them again.

    By its threshold, not by `gc.disable`: what is imported meanwhile may note whether it is on, to
    set that again later (dask.utils.disable_gc).
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(0)
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(*thresholds)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`-n 2`: a file in one process, where its fixtures and caches are made once.

    In the order of their names, which ends with files that take little: those with the fewest
    tests, which come last otherwise, are some of the slowest.
    """
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log) if config.getoption("dist") == "load" else None


#: Rooms of whole fits. Those to plain NumPy arrays are the other tests there, and the references
#: of these: so NumPy is the read-only one.
FITS = ("estimators", "sweep", "training")
#: Rooms where array libraries take turns.
TAKING_TURNS = (*FITS, "array_api")
#: Cases of a test in which coverage is measured.
TRACED = 4


def _backends_of(path: Path) -> list[Backend]:
    """Those that the tests of a file are collected for, NumPy first."""
    without = {Backend.NUMPY} if path.parent.name in FITS else set()
    return [each for each in usable_or_required() if each not in without]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        backends = _backends_of(metafunc.definition.path)
        # Module scope: the value holds no state, and Hypothesis may draw many examples in one test.
        metafunc.parametrize("backend", backends, ids=str, indirect=True, scope="module")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _take_turns(items)
    if config.getoption("cov_source", None) and not config.getoption("no_cov"):
        _trace_the_first(items)


def _trace_the_first(items: list[pytest.Item]) -> None:
    """Coverage, which nearly doubles the time, is measured in a few cases of a test: further ones
    run the same lines, but for some that then count as missing."""
    cases: Counter[str] = Counter()
    for item in items:
        if item.get_closest_marker("long") is None:
            test = item.nodeid.partition("[")[0]
            cases[test] += 1
            if cases[test] > TRACED:
                item.add_marker("no_cover")


def _take_turns(items: list[pytest.Item]) -> None:
    """Array libraries of the processor take turns in rooms of fits: a case runs on NumPy and on one
    other, by a checksum of its name, so that every file meets all of them. The rest is `long`."""
    for item in items:
        if item.path.parent.name not in TAKING_TURNS:
            continue
        spec = getattr(item, "callspec", None)
        backend = None if spec is None else spec.params.get("backend")
        turns = [each for each in _backends_of(item.path)[1:] if each not in ON_GPUS]
        if backend in turns:
            case = item.nodeid.replace(str(backend), "", 1)
            if backend is not turns[zlib.crc32(case.encode()) % len(turns)]:
                item.add_marker(pytest.mark.long)


@pytest.fixture(scope="module")
def backend(request: pytest.FixtureRequest) -> Backend:
    reason = why_missing(request.param)
    if reason is not None:
        pytest.fail(f"XCLF_REQUIRE names {request.param}, which is missing: {reason}")
    return request.param


_NOT_RUN = pytest.StashKey[dict[str, int]]()
"""By the line about a missing backend, its tests: as many as NumPy has."""


def pytest_collection_finish(session: pytest.Session) -> None:
    specs = ((item.path, getattr(item, "callspec", None)) for item in session.items)
    count = sum(
        spec is not None and spec.params.get("backend") is _backends_of(path)[0]
        for path, spec in specs
    )
    if count:
        missing = [each for each in Backend if each not in usable_or_required()]
        lines = {f"{each} is missing ({why_missing(each)})": count for each in missing}
        session.config.stash[_NOT_RUN] = lines


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of pytest-xdist hands its lines to the one that prints."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["not_run"] = session.config.stash.get(_NOT_RUN, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    if getattr(node, "workeroutput", None):
        node.config.stash[_NOT_RUN] = node.workeroutput.get("not_run", {})


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for line, count in config.stash.get(_NOT_RUN, {}).items():
        terminalreporter.write_line(f"{line}: {count} tests not run")


@pytest.fixture(scope="module")
def xp(backend: Backend) -> Any:
    return backend.xp


@pytest.fixture(scope="module")
def device(backend: Backend) -> Any:
    return backend.device


@pytest.fixture
def specs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The specification of every fit of an estimator, in the order of their starts."""
    from xclf.training import FitSpec, fit

    seen: list[FitSpec] = []

    def watched(spec: FitSpec, *args: Any, **options: Any) -> Any:
        seen.append(spec)
        return fit(spec, *args, **options)

    monkeypatch.setattr("xclf.estimators._fitting.fit", watched)
    return seen


@pytest.fixture
def every_problem_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes over the rows, where small problems would be solved by Newton's method."""
    monkeypatch.setattr("xclf.training._newton.MOST_PARAMETERS", 0)
    monkeypatch.setattr("xclf.training.newton_cg.MOST_ROWS", 0)
    monkeypatch.setattr("xclf.training.hinge.MOST_ROWS", 0)


@pytest.fixture(scope="module")
def shared() -> Generator[Any, None, None]:
    """A Client of a cluster of processes, for the tests of a file."""
    import dask_cases

    with dask_cases.cluster() as client:
        yield client


@pytest.fixture
def in_blocks(monkeypatch: pytest.MonkeyPatch, every_problem_is_large: None) -> None:
    """Rows in small groups, and passes over them."""
    import dask_cases

    dask_cases.small_groups(monkeypatch)


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> np.dtype:
    return np.dtype(request.param)
