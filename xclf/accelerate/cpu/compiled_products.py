"""The two products of a linear model over rows, W X^T and E X, compiled by numba.

BLAS packs its operands as large products want it. With ten columns that is most of its work:
compiled tiles reach three times its speed there on rows in cache, twice with all that a pass takes.
They need numba (`pip install 'xclf[fast]'`). BLAS stays where numba is missing, for many columns,
on processors without AVX2, and where a pass is too short to wait for a compiler.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from xclf.accelerate._registry import Accelerated, Accelerator, Request
from xclf.accelerate.cpu.products import BLAS, InPlaceSums, Products

# Columns, heads times classes, up to which tiles are faster than BLAS, by the bytes of a register;
# and where OpenBLAS uses registers half as wide as the processor's, as it does on those that are
# younger than itself.
_MOST_COLUMNS = {32: 15, 64: 45}
_MOST_COLUMNS_TWICE_AS_WIDE = 1024
_HALF_WIDTH = {"Haswell", "Zen"}

# Multiply-adds of one product over all rows for which a compiler is worth waiting for: a second or
# more for the first fit, and half of one in later processes, which read the code from disk. Some
# thirty passes of this size save as much.
_WORTH_COMPILING = 200_000_000

# Columns of a tile.
_TILES = (5, 4, 3, 2)


@dataclass(frozen=True)
class CompiledProducts(Products):
    """The products by tiles of so many columns; by BLAS for rows that are not contiguous, or fewer
    than a tile has. `out` is contiguous; there are no fewer columns and features than in a tile."""

    tiles: Any
    columns: int

    def scores(self, w: np.ndarray, x: np.ndarray, out: np.ndarray) -> None:
        if not self._takes(x) or not x.dtype == w.dtype == out.dtype:
            super().scores(w, x, out)
            return
        w = np.ascontiguousarray(w)
        self.tiles.scores(_address(w), _address(x), x.shape[1], out, (0,) * self.columns)

    def gradient(self, e: np.ndarray, x: np.ndarray) -> np.ndarray:
        if not self._takes(x) or x.dtype != e.dtype:
            return super().gradient(e, x)
        e, dw = np.ascontiguousarray(e), np.empty((len(e), x.shape[1]), dtype=e.dtype)
        self.tiles.gradient(e, _address(x), dw, (0,) * self.columns)
        return dw

    def _takes(self, x: np.ndarray) -> bool:
        return len(x) >= self.tiles.SPAN and x.flags.c_contiguous and x.flags.aligned


def _address(a: np.ndarray) -> int:
    # As a number: numba would compile once more for arrays that are read-only.
    return int(a.ctypes.data)


@dataclass(frozen=True)
class CompiledChoice:
    """Chooses the products of a pass: compiled ones where they are faster, else BLAS.

    n_rows : of a pass over all rows: few are not worth waiting for a compiler
    """

    n_rows: int

    def __call__(self, w: np.ndarray) -> Products:
        """The products with w (*heads, C, D).

        A function of shapes and the dtype alone, in one environment: so are the bits of a pass over
        rows that are contiguous, or that are not.
        """
        columns, features = math.prod(w.shape[:-1]), w.shape[-1]
        if columns * features * self.n_rows < _WORTH_COMPILING:
            return BLAS
        tiles = _module() if columns <= _MOST_COLUMNS_TWICE_AS_WIDE else None
        if tiles is None or columns > _most_columns(tiles.VECTOR):
            return BLAS
        if features < tiles.SPAN * tiles.VECTOR // w.dtype.itemsize:
            return BLAS
        compiled = CompiledProducts(tiles, tile_columns(columns))
        return compiled if _works(compiled, w.dtype) else BLAS


def missing() -> str | None:
    """Why there are no compiled products here, None if there are."""
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed: python -m pip install numba"
    return None if _module() is not None else "numba does not know this processor, or this NumPy"


def accelerate(chosen: Accelerated, request: Request) -> Accelerated:
    """Put compiled products into the in-place sums, where those take part."""
    own: dict[str, Any] = {}
    for name in ("row_sums", "proximal_sums"):
        sums = getattr(chosen.operations, name)
        if isinstance(sums, InPlaceSums):
            own[name] = replace(sums, products=CompiledChoice(request.n_rows))
    return chosen._replace(operations=replace(chosen.operations, **own))


COMPILED_PRODUCTS = Accelerator(
    "compiled_products",
    "the products of in_place_sums for few columns, by numba (pip install 'xclf[fast]')",
    default=True,
    missing=missing,
    accelerate=accelerate,
    needs="in_place_sums",
)


def tile_columns(columns: int) -> int:
    """Columns of a tile: few tiles, and few columns computed twice."""
    fits = [m for m in _TILES if m <= columns]
    return min(fits, key=lambda m: -(-columns // m) * (m + 1))


@functools.cache
def _module() -> Any | None:
    """The module of tiles, where numba is installed and knows this processor."""
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        from numba import config

        from xclf.accelerate.cpu import _tiles
    except ImportError:
        return None  # a numba that is not for this NumPy, and may have come with something else
    except Exception as error:
        _warn(error)
        return None
    return _tiles if _tiles.KNOWN and not config.DISABLE_JIT else None


@functools.cache
def _most_columns(vector: int) -> int:
    """Columns up to which tiles of registers of so many bytes are used."""
    libraries = [lib for lib in threadpool_info() if lib["user_api"] == "blas"]
    halves = {lib.get("architecture") for lib in libraries} <= _HALF_WIDTH
    wide = vector == 64 and halves and bool(libraries)
    return _MOST_COLUMNS_TWICE_AS_WIDE if wide else _MOST_COLUMNS[vector]


@functools.cache
def _works(compiled: CompiledProducts, dtype: np.dtype) -> bool:
    """Compiles the products, and tries them on small integers, which are exact."""
    columns, rows, features = compiled.columns + 1, 2 * compiled.tiles.SPAN + 1, 131
    x = (np.arange(rows * features) % 7 - 3.0).astype(dtype).reshape(rows, features)
    w = (np.arange(columns * features) % 5 - 2.0).astype(dtype).reshape(columns, features)
    out = np.empty((columns, rows), dtype=dtype)
    try:
        compiled.scores(w, x, out)
        dw = compiled.gradient(out, x)
        right = np.array_equal(out, w @ x.T) and np.array_equal(dw, out @ x)
    except Exception as error:
        _warn(error)
        return False
    if not right:
        _warn("wrong products")
    return right


def _warn(error: object) -> None:
    warnings.warn(
        f"numba is installed but does not work here, NumPy multiplies instead: {error}",
        RuntimeWarning,
        stacklevel=2,
    )
