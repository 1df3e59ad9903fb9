"""Fixtures of the tests of accelerators."""

from device_accelerators import _fresh_accelerators, cupy, pretended

__all__ = ["_fresh_accelerators", "cupy", "pretended"]
