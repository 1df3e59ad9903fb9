"""array-api-strict in less than half of the time, with the answers and errors that it has."""

from __future__ import annotations

import importlib
from typing import Any


class _HasIndex(type):
    def __instancecheck__(cls, value: object) -> bool:
        return hasattr(type(value), "__index__")


class _Index(metaclass=_HasIndex):
    """`typing.SupportsIndex`, whose own check reads the attributes of the protocol every time."""


def quicken(strict: Any) -> None:
    """Look up what array-api-strict searches for whenever it makes, indexes or adds arrays.

    Fits make a million arrays: each compared its dtype with a list of all of them, and read the
    attributes of a protocol for each index. Another release may have other private names: it is
    slower then, and no test fails.
    """
    try:
        arrays = importlib.import_module("array_api_strict._array_object")
        dtypes = importlib.import_module("array_api_strict._dtypes")
        own = {dtype._np_dtype: dtype for dtype in arrays._all_dtypes}
        make, array_namespace = arrays.DType, arrays.Array.__array_namespace__
        kinds = dtypes._dtype_categories
        assert arrays.SupportsIndex is not None
    except (ImportError, AttributeError):
        return

    def namespace_of(array: Any, /, *, api_version: str | None = None) -> Any:
        return strict if api_version is None else array_namespace(array, api_version=api_version)

    arrays.SupportsIndex = _Index
    arrays.DType = lambda dtype: own.get(dtype) or make(dtype)
    arrays._all_dtypes = frozenset(own.values())
    arrays.Array.__array_namespace__ = namespace_of
    kinds.update({name: frozenset(kind) for name, kind in kinds.items()})
