"""What is minimised: the weighted mean of a data loss over rows, plus reg * sum(W^2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from xclf._array_api import Array, device, from_host, is_host, namespace
from xclf.kernels import cross_entropy, hinge, l2
from xclf.objectives._compiled import products
from xclf.objectives._fused import scored
from xclf.objectives._host import HostSoftmaxSums, batch_gradients
from xclf.objectives._network import Layer, Network
from xclf.objectives._protocols import DataLoss, RowChunk
from xclf.objectives._proximal import true_mask
from xclf.objectives._sums import RowSums, sum_last

LOSSES = ("softmax", "hinge")


def data_loss(name: str, margin: Any = 1.0) -> DataLoss:
    """The kernel of a named loss: "softmax" or "hinge" (with its margin)."""
    if name == "softmax":
        return cross_entropy
    if name == "hinge":
        return partial(hinge, margin=margin)
    raise ValueError(f"loss must be one of {LOSSES}, got {name!r}")


@dataclass(frozen=True)
class Objective:
    """1/W sum_i w_i L(scores(x_i), y_i) + reg * sum(weights^2), with W = sum_i w_i; biases free.

    reg : a float, or (K,) in the dtype of theta, one per head
    """

    network: Network
    loss: DataLoss
    reg: Any

    def batch_gradient(
        self, theta: Array, rows: RowChunk, *, penalty: bool = True, total: int = 0
    ) -> Array:
        """Flat gradient of the objective on a minibatch, loss not computed; of its data term alone
        if `penalty` is False.

        Without weights the data term is divided by the batch size n. With weights, which must come
        divided by their mean over all rows, it is 1/n sum_i w_i L_i: divided by batch size times
        mean weight, so that its expectation is the full objective's gradient.

        total : rows of an epoch, where the caller has a thread of its own, which BLAS is not to
            share out: what is worth preparing for them on NumPy
        """
        prepared = self.network.prepared(theta, rows.x.dtype)
        gradients: list[tuple[Array, Array | None]]
        if total and is_host(theta) and len(prepared) == 1 and self.loss is cross_entropy:
            gradients = batch_gradients(self.network, prepared, rows, total)
        else:
            gradients = self._batch_gradients(prepared, rows)
        if not penalty:
            return self.network.flatten(gradients)
        layers = self.network.layers(theta) if self.network.scale is not None else prepared
        return self.network.flatten(
            [
                (dw + l2(layer.w, self.reg, need_loss=False)[1], db)
                for (dw, db), layer in zip(gradients, layers, strict=True)
            ]
        )

    def add_penalty(self, theta: np.ndarray, gradient: np.ndarray) -> None:
        """Add the penalty's gradient at theta to `gradient`, NumPy arrays, in place."""
        rate = 2.0 * self.reg
        if getattr(rate, "ndim", 0):
            rate = rate[:, None]
        for where in self.network.weights:
            gradient[..., where] += rate * theta[..., where]

    def _batch_gradients(
        self, prepared: list[Layer], rows: RowChunk
    ) -> list[tuple[Array, Array | None]]:
        weights = rows.weights
        if weights is not None:
            weights = weights * (1.0 / rows.x.shape[0])
        reduction = "mean" if weights is None else "sum"
        options: dict[str, Any] = {"weights": weights, "reduction": reduction}
        _, dscores, tape = scored(
            self.network, prepared, self.loss, rows, need_loss=False, **options
        )
        return self.network.backward(dscores, tape)

    def sums_at(self, theta: Array, dtype: Any, rows: int = 0) -> RowSums:
        """sum_i w_i L_i and its gradient at theta, as a function of chunks of rows in `dtype`.

        rows : of all chunks, if known: what is worth preparing for them
        """
        layers = self.network.prepared(theta, dtype)
        if is_host(theta) and len(layers) == 1 and self.loss is cross_entropy:
            return HostSoftmaxSums(self.network, self.loss, layers, products(layers[0].w, rows))
        return RowSums(self.network, self.loss, layers)

    def keep(self, kept: np.ndarray) -> Objective:
        """The objective of the heads that host integers `kept` name."""
        loss: Any = self.loss
        margin = loss.keywords.get("margin") if isinstance(loss, partial) else None
        if getattr(margin, "ndim", 0):
            loss = data_loss("hinge", take_heads(margin, kept))
        return replace(self, loss=loss, reg=take_heads(self.reg, kept))

    def loss_sum(self, theta: Array, rows: RowChunk) -> Array:
        """sum_i w_i L_i (*heads,), without the gradient's way back."""
        prepared = self.network.prepared(theta, rows.x.dtype)
        losses, _, _ = scored(self.network, prepared, self.loss, rows, weights=rows.weights)
        return sum_last(losses)

    def complete(
        self, theta: Array, sums: tuple[Array, Array], total: Array
    ) -> tuple[Array, Array]:
        """Objective and gradient from sums over all rows: divided by W (*heads,), penalty added."""
        penalty, dpenalty = self.network.penalty(theta, self.reg)
        gradient = sums[1] / total[..., None]
        gradient += dpenalty  # in place: it may be as large as X
        return sums[0] / total + penalty, gradient

    def curvature_sum(self, theta: Array, rows: RowChunk) -> Array:
        """sum_i w_i (diag(p_i) - p_i p_i^T), (*heads, C, C): softmax's curvature in the scores."""
        prepared = self.network.prepared(theta, rows.x.dtype)
        _, dscores, _ = scored(
            self.network, prepared, cross_entropy, rows, reduction="sum", need_loss=False
        )
        xp = namespace(dscores)
        mask = true_mask(rows.labels, dscores.shape[-2])
        p = xp.where(mask, 1.0 + dscores, dscores)
        weighted = p if rows.weights is None else p * rows.weights[..., None, :]
        square = xp.matmul(weighted, xp.matrix_transpose(p))
        return _diagonal(xp, xp.sum(weighted, axis=-1)) - square


def _diagonal(xp: Any, values: Array) -> Array:
    """(..., C, C) with `values` (..., C) on the diagonal."""
    eye = xp.eye(values.shape[-1], dtype=values.dtype, device=device(values))
    return values[..., :, None] * eye


def take_heads(value: Any, kept: np.ndarray) -> Any:
    """Of an array of one line per head those that host integers name; a number is the same for
    all."""
    if not getattr(value, "ndim", 0):
        return value
    return namespace(value).take(value, from_host(kept, value), axis=0)
