"""A browser for tests of pages."""

from __future__ import annotations

from collections.abc import Iterator

import chromium
import pytest
from backends import required_backends


@pytest.fixture(scope="session")
def browser() -> Iterator[chromium.Chromium]:
    """A headless Chromium; without one the test is skipped, or fails if XCLF_REQUIRE names it."""
    if chromium.program() is None:
        if chromium.NAME in required_backends():
            pytest.fail("XCLF_REQUIRE names chromium, which is not installed")
        pytest.skip("chromium is not installed")
    with chromium.running() as found:
        yield found
