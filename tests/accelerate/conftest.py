"""Fixtures of the tests of accelerators."""

from __future__ import annotations

import pytest
from device_accelerators import _fresh_accelerators, cupy, pretended

from xclf.accelerate import VARIABLE, _registry

__all__ = ["_fresh_accelerators", "cupy", "pretended", "switched_on"]


@pytest.fixture
def switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerators as they are without any setting, whatever this run of the tests sets."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(_registry, "_choice", None)
