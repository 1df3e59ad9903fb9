"""Devices that the tests can have: array-api-strict's device1 and device2 play two GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Backend

from xclf import _xp


@pytest.fixture
def gpus() -> Iterator[Any]:
    """`device="gpu"`, and "gpu2", stand for these; yields the namespace."""
    xp = Backend.STRICT.xp
    _xp.SPOTS.update({"gpu": (xp, xp.Device("device1")), "gpu2": (xp, xp.Device("device2"))})
    yield xp
    _xp.SPOTS.clear()
