"""What a data loss is to the rest of the library: one record, which answers for itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple, Protocol, Self

from xclf._array_api import Array, to_host


class RowChunk(Protocol):
    """Rows as an objective reads them: x (n, D), and raw, the same in the dtype that it is kept in;
    labels, a mask (C, n), or integers (n,) or (K, n); weights (n,), (K, n) or None. Labels and
    weights are as the kernels take them with class axis -2."""

    @property
    def x(self) -> Array: ...
    @property
    def raw(self) -> Array: ...
    @property
    def labels(self) -> Array: ...
    @property
    def weights(self) -> Array | None: ...


class FullBatch(NamedTuple):
    """How a loss is minimised over all rows at a time.

    method : name of the method in `xclf.training.METHODS`
    max_iter : default number of its iterations
    tol32, tol64 : default tolerance for data computed in float32, in float64
    """

    method: str
    max_iter: int
    tol32: float
    tol64: float


@dataclass(frozen=True)
class Loss(ABC):
    """A data loss L(s, y) of a row's scores s and its class y, with its parameters bound.

    The fields of a subclass are its parameters: numbers, or arrays (K,) with one for each head.
    Estimators have a parameter of the same name.

    name : as estimators, model files and the shell spell it
    full_batch : how it is minimised over all rows
    probabilistic : whether the softmax of the scores estimates class probabilities
    attained : whether classes that can be separated have an optimum at finite weights without a
        penalty
    curved : whether `curvature_sum` says anything, for a preconditioner
    """

    name: ClassVar[str]
    full_batch: ClassVar[FullBatch]
    probabilistic: ClassVar[bool]
    attained: ClassVar[bool]
    curved: ClassVar[bool]

    def __init_subclass__(cls) -> None:
        for answer in ("name", "full_batch", "probabilistic", "attained", "curved"):
            if not hasattr(cls, answer):
                raise TypeError(f"the loss {cls.__name__} must say what its {answer} is")

    def to_host(self) -> Self:
        """The same loss, with its parameters on the host."""
        own = {field.name: to_host(getattr(self, field.name)) for field in fields(self)}
        return replace(self, **own)

    @abstractmethod
    def __call__(
        self,
        scores: Array,
        labels: Array,
        *,
        weights: Array | None = None,
        reduction: str = "mean",
        axis: int = -1,
        need_loss: bool = True,
    ) -> tuple[Array | None, Array]:
        """(loss, dscores), as the kernels of `xclf.kernels` return them."""

    @abstractmethod
    def error_cost(self) -> Any:
        """The least loss of a row whose own class does not have the largest score: a number, or
        (K,) where a parameter is."""

    @abstractmethod
    def lead_bound(self, loss: Any) -> Any:
        """The most by which another class's score leads a row's own, on average over rows, where
        the mean loss of these is `loss`: arrays that broadcast against (K,)."""

    @abstractmethod
    def rate_limit(self, classes: int) -> Any:
        """The largest default learning rate of a linear model whose features have the second moment
        1 in every direction: a number, or (K,); infinite where larger rates do no harm."""

    @abstractmethod
    def curvature_sum(self, scores: Array, chunk: RowChunk) -> Array | None:
        """sum_i w_i H_i (*heads, C, C), with H_i the Hessian of L in the scores (*heads, C, n), or
        a positive semidefinite stand-in, which may be zero; None of a loss that is not curved."""


class Smooth(ABC):
    """How large the gradient of a continuously differentiable loss is, which certificates need, and
    its Hessian in the scores, which Newton's method needs: it is computed once from the gradient
    `dscores` (*heads, C, n) of each row's own loss, and used for many products."""

    @abstractmethod
    def curvature(self, dscores: Array, mask: Array) -> Array:
        """Numbers (*heads, C, n) that stand for the Hessians H_i, generalised ones at a kink of the
        gradient; mask : True at the true class, (C, n) or (K, C, n)."""

    @abstractmethod
    def curvature_product(self, curvature: Array, mask: Array, v: Array) -> Array:
        """H_i v_i of every row, (*heads, C, n) as v."""

    @abstractmethod
    def curvature_total(self, curvature: Array, mask: Array, weights: Array | None) -> Array:
        """sum_i w_i H_i, (*heads, C, C); weights (n,), (K, n) or None."""

    @abstractmethod
    def gradient_bound(self, loss: Any, classes: int) -> Any:
        """The most of |dL/ds|_1, on average over rows whose mean loss is `loss`."""

    @abstractmethod
    def curvature_bound(self, loss: Any, classes: int) -> Any:
        """The most that dL/ds changes by in the same norm, on average over such rows, for each unit
        that differences of scores change by."""
