"""Types of the public surface: names of solvers and losses, rows and arrays.

A test holds the names against the records that they stand for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Solver: TypeAlias = Literal["auto", "lbfgs", "sgd", "momentum", "nesterov", "rmsprop", "adam"]
Loss: TypeAlias = Literal["softmax", "hinge", "squared_hinge"]
MarginLoss: TypeAlias = Literal["hinge", "squared_hinge"]
LrSchedule: TypeAlias = Literal["constant", "cosine", "exponential"]
Precision: TypeAlias = Literal["tf32"]
ClassWeight: TypeAlias = Literal["balanced"] | Mapping[Any, float]
RandomState: TypeAlias = int | np.random.Generator | np.random.RandomState
#: "auto", "cpu", "cuda", "cuda:1", "cuda:all", or several GPUs.
Device: TypeAlias = str | Sequence[str]

#: Of rows of an array library; results are of the same.
A = TypeVar("A")


class Frame(Protocol):
    """A data frame, which counts as NumPy."""

    @property
    def columns(self) -> Any:
        """The names of the columns."""

    def to_numpy(self) -> Any:
        """The values."""


#: What counts as NumPy.
HostRows: TypeAlias = NDArray[Any] | Sequence[Any] | Frame


class AnyArray(Protocol):
    """An array of any Array API library: what fitted arrays are, wherever they are."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extent along each axis."""

    @property
    def ndim(self) -> int:
        """The number of its axes."""

    @property
    def dtype(self) -> Any:
        """The type of its values."""

    @property
    def T(self) -> Any:  # noqa: N802
        """Transposed."""

    def __array_namespace__(self, *, api_version: Any = None) -> Any: ...
    def __array__(self) -> NDArray[Any]: ...
    def __getitem__(self, key: Any, /) -> Any: ...
    def __len__(self) -> int: ...
    def __add__(self, other: Any, /) -> Any: ...
    def __sub__(self, other: Any, /) -> Any: ...
    def __mul__(self, other: Any, /) -> Any: ...
    def __rmul__(self, other: Any, /) -> Any: ...
    def __truediv__(self, other: Any, /) -> Any: ...
    def __pow__(self, other: Any, /) -> Any: ...
    def __neg__(self) -> Any: ...
    def __abs__(self) -> Any: ...
    def __matmul__(self, other: Any, /) -> Any: ...
    def __rmatmul__(self, other: Any, /) -> Any: ...
