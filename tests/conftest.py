"""The backends every test runs on, as fixtures.

A test that takes `backend`, `xp` or `device` runs once per backend. One that cannot be used here
skips, and says why; the environment variable XCLF_REQUIRE, a comma list of backend names
(`XCLF_REQUIRE=cupy,torch`), turns the skip of those into a failure, so that a machine bought for
its GPU cannot pass without it.
"""

from __future__ import annotations

import contextlib
import signal
from typing import Any

import numpy as np
import pretend_cupy
import pytest
from backends import Backend, required_backends, why_missing

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
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A shell's background jobs ignore Ctrl-C, and so do their children; tests send it.
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Module scope: the value holds no state, and Hypothesis may draw many examples inside one test.
@pytest.fixture(params=list(Backend), ids=str, scope="module")
def backend(request: pytest.FixtureRequest) -> Backend:
    reason = why_missing(request.param)
    if reason is not None:
        if request.param.value in required_backends():
            pytest.fail(f"XCLF_REQUIRE names {request.param}, which is missing: {reason}")
        pytest.skip(f"{request.param}: {reason}")
    return request.param


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


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> np.dtype:
    return np.dtype(request.param)
