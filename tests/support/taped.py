"""Work that is recorded and replayed, as a CUDA graph records that of a GPU.

What a tape holds is what was computed, from which memory and into which: a replay reads what is
there by then. So a number that was read once, or an array that was made anew outside, shows.
`Blas` is cuBLAS on memory of the host: column-major products, by address.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_recording: list[list[Callable[[], None]]] = []


@contextmanager
def tape() -> Iterator[list[Callable[[], None]]]:
    """What is noted meanwhile; call each to compute it again."""
    held: list[Callable[[], None]] = []
    _recording.append(held)
    try:
        yield held
    finally:
        _recording.remove(held)


def note(work: Callable[[], Any], out: np.ndarray | None) -> None:
    """Put down work whose result goes to `out`, or that writes where it should by itself."""

    def again() -> None:
        value = work()
        if out is not None:
            out[...] = value

    for held in _recording:
        held.append(again)


# ruff: noqa: N802 (the names are cuBLAS's)
class Blas:
    """The functions of cuBLAS that are called here, on the host; their work can be taped."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.mode: int | None = None
        self.workspace: tuple[int, int] | None = None

    def cublasCreate_v2(self, handle):
        handle._obj.value = 7
        return 0

    def cublasDestroy_v2(self, handle):
        assert handle.value == 7
        self.calls.append("destroy")
        return 0

    def cublasSetStream_v2(self, handle, stream):
        self.stream, self.workspace = stream.value, None
        return 0

    def cublasSetWorkspace_v2(self, handle, address, size):
        self.workspace = address.value, size.value
        return 0

    def cublasSetMathMode(self, handle, mode):
        self.mode = mode.value
        return 0

    def cublasSgemm_v2(self, *given):
        return self._gemm(np.float32, ctypes.c_float, 1, *self._spread(given))

    def cublasDgemm_v2(self, *given):
        return self._gemm(np.float64, ctypes.c_double, 1, *self._spread(given))

    def cublasSgemmStridedBatched(self, *given):
        return self._gemm(np.float32, ctypes.c_float, given[-1].value, *given[:-1])

    def cublasDgemmStridedBatched(self, *given):
        return self._gemm(np.float64, ctypes.c_double, given[-1].value, *given[:-1])

    @staticmethod
    def _spread(given):
        """The arguments of one product as those of a batch of one."""
        head, (a, lda, b, ldb, beta, c, ldc) = given[:7], given[7:]
        none = ctypes.c_longlong(0)
        return (*head, a, lda, none, b, ldb, none, beta, c, ldc, none)

    def _gemm(self, dtype, number, count, handle, ta, tb, m, n, k, alpha, *rest):
        """C = op(A) op(B), all by columns; A, B, C each by address, leading dimension, stride."""
        assert self.workspace is not None
        assert handle.value == 7
        a, b, beta, c = rest[:3], rest[3:6], rest[6], rest[7:]
        for scalar, value in ((alpha, 1.0), (beta, 0.0)):
            assert isinstance(scalar._obj, number)
            assert scalar._obj.value == value
        sizes = [size.value for size in (m, n, k)]
        transposed = [bool(ta.value), bool(tb.value)]
        views = self._views(dtype, count, sizes, transposed, (a, b, c))
        self.calls.append(f"{np.dtype(dtype).name} x {count}")

        def work():
            left, right, _ = views
            return np.stack([left(h) @ right(h) for h in range(count)])

        def write(values):
            for h in range(count):
                views[2](h)[...] = values[h]

        write(work())
        for held in _recording:
            held.append(lambda: write(work()))
        return 0

    @staticmethod
    def _views(dtype, count, sizes, transposed, operands):
        m, n, k = sizes
        shapes = [(m, k), (k, n), (m, n)]
        found = []
        for (address, leading, stride), shape, turn in zip(
            operands, shapes, [*transposed, False], strict=True
        ):
            rows, columns = shape[::-1] if turn else shape
            assert leading.value >= max(1, rows), "leading dimension"
            assert address.value

            def view(
                h,
                at=address.value,
                ld=leading.value,
                step=stride.value,
                r=rows,
                c=columns,
                turn=turn,
            ):
                start = at + h * step * np.dtype(dtype).itemsize
                size = ld * (c - 1) + r
                memory = (ctypes.c_char * (size * np.dtype(dtype).itemsize)).from_address(start)
                flat = np.frombuffer(memory, dtype)
                size = np.dtype(dtype).itemsize
                matrix = np.lib.stride_tricks.as_strided(flat, (r, c), (size, ld * size))
                return matrix.T if turn else matrix

            found.append(view)
        return found
