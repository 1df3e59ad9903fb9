"""What is minimised: the weighted mean of a data loss over rows, plus reg * sum(W^2)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from xclf._array_api import Array, namespace
from xclf._heads import take_heads
from xclf.kernels import l2
from xclf.objectives._loss import Loss, RowChunk
from xclf.objectives._network import Layer, Network
from xclf.objectives._operations import sum_last
from xclf.objectives._row_sums import RowSums


@dataclass(frozen=True)
class Objective:
    """1/W sum_i w_i L(scores(x_i), y_i) + reg * sum(weights^2), with W = sum_i w_i; biases free.

    reg : a float, or (K,) in the dtype of theta, one per head
    """

    network: Network
    loss: Loss
    reg: Any

    def batch_gradient(self, theta: Array, chunk: RowChunk, *, penalty: bool = True) -> Array:
        """Flat gradient of the objective on a minibatch, without its loss; of the data term alone
        if `penalty` is False.

        Without weights the data term is divided by the batch size n. With weights, which must come
        divided by their mean over all rows, it is 1/n sum_i w_i L_i: divided by batch size times
        mean weight, so that its expectation is the full objective's gradient.
        """
        network = self.network
        layers = network.prepared(theta, chunk.x.dtype)
        gradients = self._batch_gradients(layers, chunk)
        if penalty:
            # The penalty is on the weights in fitting coordinates, which `prepared` scales.
            plain = layers if network.scale is None else network.layers(theta)
            gradients = [
                (dw + l2(layer.w, self.reg, need_loss=False)[1], db)
                for (dw, db), layer in zip(gradients, plain, strict=True)
            ]
        return network.flatten(gradients)

    def _batch_gradients(
        self, layers: list[Layer], chunk: RowChunk
    ) -> list[tuple[Array, Array | None]]:
        weights = chunk.weights
        if weights is not None:
            weights = weights * (1.0 / chunk.x.shape[0])
        reduction = "mean" if weights is None else "sum"
        _, dscores, tape = self.network.operations.score(
            self.network,
            layers,
            self.loss,
            chunk,
            weights=weights,
            reduction=reduction,
            need_loss=False,
        )
        return self.network.backward(dscores, tape)

    @cached_property
    def penalty_rate(self) -> Any:
        """2 reg, to multiply weights (*heads, P) with."""
        rate = 2.0 * self.reg
        return rate[:, None] if getattr(rate, "ndim", 0) else rate

    def sums_at(self, theta: Array, dtype: Any) -> RowSums:
        """sum_i w_i L_i and its gradient at theta, as a function of chunks of rows in `dtype`."""
        return RowSums(self.network, self.loss, self.network.prepared(theta, dtype))

    def take_heads(self, kept: Any) -> Objective:
        """The objective of the heads that host integers `kept` name."""
        return Objective(self.network, take_heads(self.loss, kept), take_heads(self.reg, kept))

    def loss_sum(self, theta: Array, chunk: RowChunk, layers: list[Layer] | None = None) -> Array:
        """sum_i w_i L_i (*heads,), without the gradient's way back.

        layers : `Network.prepared` at theta, where that is done once for many chunks
        """
        network = self.network
        layers = layers or network.prepared(theta, chunk.x.dtype)
        losses, _, _ = network.operations.score(
            network, layers, self.loss, chunk, weights=chunk.weights
        )
        return sum_last(losses)

    def complete(
        self, theta: Array, sums: tuple[Array, Array], total: Array
    ) -> tuple[Array, Array]:
        """Objective and gradient from sums over all rows: divided by W (*heads,), penalty added."""
        gradient = sums[1] / total[..., None]
        penalty = self.network.add_penalty(theta, self.reg, gradient)
        return sums[0] / total + penalty, gradient

    def curvature_sum(
        self, theta: Array, chunk: RowChunk, layers: list[Layer] | None = None
    ) -> Array | None:
        """The loss's `curvature_sum` (*heads, C, C) at theta, over a chunk; layers as `loss_sum`
        takes them."""
        network = self.network
        scores, _ = network.apply(layers or network.prepared(theta, chunk.x.dtype), chunk.x)
        return self.loss.curvature_sum(scores, chunk)

    def penalty_mask(self, theta: Array) -> Array:
        """1 where theta holds weights, 0 where it holds biases, in its shape."""
        xp = namespace(theta)
        _, mask = self.network.penalty(xp.ones_like(theta), 0.5)
        return mask
