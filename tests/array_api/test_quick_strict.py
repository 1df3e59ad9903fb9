"""array-api-strict refuses what it is there to refuse, quickened too."""

from __future__ import annotations

import numpy as np
import pytest

strict = pytest.importorskip("array_api_strict")
from backends import Backend  # noqa: E402

DEVICE = strict.Device("device1")


@pytest.fixture
def x():
    return Backend.STRICT.asarray(np.arange(6.0).reshape(2, 3))


def test_the_namespace_and_its_dtypes(x):
    assert x.__array_namespace__() is strict
    assert strict.get_array_api_strict_flags()["enabled_extensions"] == ()
    for name in ("float32", "float64", "int64", "bool", "complex64"):
        made = strict.ones(2, dtype=getattr(strict, name), device=DEVICE)
        assert made.dtype is getattr(strict, name)
        assert made.dtype == getattr(strict, name)
    with pytest.raises(TypeError, match="does not support the dtype 'float16'"):
        strict.asarray(np.zeros(2, np.float16))


@pytest.mark.parametrize("key", [1.0, "a", True, np.arange(2), (0,), (0, 4), (0, [1])], ids=repr)
def test_what_is_no_index(x, key):
    with pytest.raises(IndexError):
        x[key]


def test_what_is_one(x):
    assert float(x[1, 2]) == float(x[np.int64(1), -1]) == 5.0
    assert x[None, :, 1:].shape == (1, 2, 2)
    assert float(x[strict.asarray(1, device=DEVICE), 0]) == 3.0


def test_kinds_of_numbers_and_devices_do_not_mix(x):
    whole = strict.astype(x, strict.int64)
    for operation in (
        lambda: x + whole,
        lambda: x & x,
        lambda: whole + 1.5,
        lambda: strict.sin(whole),
        lambda: x.__iadd__(np.ones(3)),
    ):
        with pytest.raises(TypeError):
            operation()
    with pytest.raises(ValueError, match="two different devices"):
        x + strict.ones(3)
