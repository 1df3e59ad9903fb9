"""What objectives are told: a data loss, and rows to evaluate it on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from xclf._array_api import Array

#: A loss kernel with its own parameters bound: (scores, labels, *, weights, reduction, axis,
#: need_loss) -> (loss, dscores).
DataLoss: TypeAlias = Callable[..., tuple[Array, Array]]


class RowChunk(Protocol):
    """Rows as an objective reads them: x (n, D), and raw, the same in a dtype that it would be
    widened from; labels, a mask (C, n) or integers (n,); weights (n,), (K, n) or None. Labels and
    weights are as the kernels take them with class axis -2."""

    @property
    def x(self) -> Array: ...
    @property
    def raw(self) -> Array: ...
    @property
    def labels(self) -> Array: ...
    @property
    def weights(self) -> Array | None: ...
