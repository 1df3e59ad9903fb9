"""The models as one thing: affine layers with ReLU between them, on one flat parameter vector."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from xclf._array_api import Array, device, namespace
from xclf._sparse import SparseMatrix, by_feature
from xclf.kernels import affine, affine_grad, l2
from xclf.objectives._operations import FORMULAS, Operations


class Layer(NamedTuple):
    """Views of one layer: w (*heads, M, D), and b (*heads, M, 1) or None."""

    w: Array
    b: Array | None


class Tape(NamedTuple):
    """What `forward` keeps for `backward`: each layer, and what went into it, features first;
    sparse rows as they are."""

    layers: list[Layer]
    inputs: list[Array]


@dataclass(frozen=True)
class Network:
    """A linear model (D, C) or a net (D, H, C): widths from features to classes.

    Parameters are one vector theta (*heads, P), P = `size`: per layer the weights (M, D) row-major,
    then the biases (M,) unless bias is False. Rows of weights are rows of `coef_`.

    sparse : whether rows are: prepared weights then lie in memory as products with them read them
    shift, scale : (D,) or None. With them the first layer sees (x - shift) / scale, without a copy
    of x: its weights are mapped to raw coordinates, and gradients back. Without biases only the
    scale applies, since a shift needs one.
    """

    widths: tuple[int, ...]
    bias: bool = True
    shift: Array | None = None
    scale: Array | None = None
    operations: Operations = FORMULAS
    sparse: bool = False

    @property
    def size(self) -> int:
        """P, the number of parameters of one head."""
        pairs = zip(self.widths[:-1], self.widths[1:], strict=True)
        return sum(m * (d + self.bias) for d, m in pairs)

    def layers(self, theta: Array) -> list[Layer]:
        """Views of theta, layer by layer, in fitting coordinates."""
        xp = namespace(theta)
        heads = theta.shape[:-1]
        out = []
        start = 0
        for d, m in zip(self.widths[:-1], self.widths[1:], strict=True):
            w = xp.reshape(theta[..., start : start + m * d], (*heads, m, d))
            start += m * d
            b = None
            if self.bias:
                b = theta[..., start : start + m, None]
                start += m
            out.append(Layer(w, b))
        return out

    def flatten(self, layers: list[tuple[Array, Array | None]]) -> Array:
        """One vector (*heads, P) from per-layer (w, b); b (*heads, M) or (*heads, M, 1)."""
        xp = namespace(layers[0][0])
        heads = layers[0][0].shape[:-2]
        parts = []
        for w, b in layers:
            parts.append(xp.reshape(w, (*heads, w.shape[-2] * w.shape[-1])))
            if self.bias:
                assert b is not None
                parts.append(b if b.ndim == len(heads) + 1 else b[..., 0])
        return xp.concat(parts, axis=-1) if len(parts) > 1 else parts[0]

    def raw(self, layers: list[Layer]) -> list[Layer]:
        """The same layers acting on raw rows: `shift` and `scale` folded into the first."""
        if self.scale is None:
            return layers
        w, b = layers[0]
        xp = namespace(w)
        w = w / self.scale
        if b is not None and self.shift is not None:
            b = b - xp.sum(w * self.shift, axis=-1, keepdims=True)
        return [Layer(w, b), *layers[1:]]

    def fitting(self, layers: list[Layer]) -> list[Layer]:
        """The inverse of `raw`: layers that act on raw rows, in fitting coordinates."""
        if self.scale is None:
            return layers
        w, b = layers[0]
        xp = namespace(w)
        if b is not None and self.shift is not None:
            b = b + xp.sum(w * self.shift, axis=-1, keepdims=True)
        return [Layer(w * self.scale, b), *layers[1:]]

    def prepared(self, theta: Array, dtype: Any) -> list[Layer]:
        """Layers as `apply` takes them: in the dtype of the rows, the scale folded in."""
        layers = self.layers(theta)
        if self.scale is not None:
            layers = [Layer(layers[0].w / self.scale, layers[0].b), *layers[1:]]
        layers = [Layer(cast(w, dtype), cast(b, dtype)) for w, b in layers]
        return [Layer(by_feature(layers[0].w), layers[0].b), *layers[1:]] if self.sparse else layers

    def shifted(self, x: Array) -> Array:
        """Rows less the shift: in cache, and not folded into the bias, where two large products
        would cancel, and float32 has no digits to lose."""
        if self.scale is None or self.shift is None or not self.bias:
            return x
        return x - cast(self.shift, x.dtype)

    def forward(self, theta: Array, x: Array) -> tuple[Array, Tape]:
        """Scores (*heads, C, n) of rows x (n, D), class axis -2, in the dtype of x."""
        return self.apply(self.prepared(theta, x.dtype), x)

    def apply(self, layers: list[Layer], x: Array, *, bias: bool = True) -> tuple[Array, Tape]:
        """`forward` with layers that are `prepared` already; the last one's biases are left out of
        the scores if `bias` is False."""
        xp = namespace(x)
        if not bias:
            layers = [*layers[:-1], layers[-1]._replace(b=None)]
        x = self.shifted(x)
        inputs = [x if isinstance(x, SparseMatrix) else xp.matrix_transpose(x)]
        # All heads read the same rows: their first layers are one product.
        w, b = stacked(xp, *layers[0])
        if len(layers) == 1:
            out = _affine(inputs[0], w, b)
            return _unstacked(xp, out, layers[0].w), Tape(layers, inputs)
        hidden = self.operations.hidden
        if isinstance(x, SparseMatrix):
            out = x.scores(w)
        else:
            # Rows first, seen from the other side: OpenBLAS shares that out better among threads.
            out = xp.matrix_transpose(affine(x, xp.matrix_transpose(w), None))
        inputs.append(_unstacked(xp, hidden(out, b), layers[0].w))
        for layer in layers[1:-1]:
            inputs.append(hidden(affine(inputs[-1], layer.w, None, axis=-2), layer.b))
        last = layers[-1]
        return affine(inputs[-1], last.w, last.b, axis=-2), Tape(layers, inputs)

    def backward(self, dscores: Array, tape: Tape) -> list[tuple[Array, Array | None]]:
        """Gradients (dw, db) of every layer in fitting coordinates, given that of the scores."""
        return self.unscaled(self.gradients(dscores, tape))

    def gradients(self, dscores: Array, tape: Tape) -> list[tuple[Array, Array | None]]:
        """`backward` before the scale is taken into account, which may wait until all is summed."""
        xp = namespace(dscores)
        gradients: list[tuple[Array, Array | None]] = []
        dout = dscores
        for layer, x in zip(reversed(tape.layers[1:]), reversed(tape.inputs[1:]), strict=True):
            dx, dw, db = affine_grad(dout, x, layer.w, axis=-2)
            gradients.append((dw, db))
            dout = self.operations.hidden_grad(dx, x)
        w = tape.layers[0].w
        if isinstance(tape.inputs[0], SparseMatrix):
            gradients.append((tape.inputs[0].pull(dout), xp.sum(dout, axis=-1)))
            return gradients[::-1]
        flat = dout if w.ndim == 2 else xp.reshape(dout, (-1, dout.shape[-1]))
        _, dw, db = affine_grad(flat, tape.inputs[0], w, need_dx=False, axis=-2)
        if w.ndim > 2:
            dw, db = xp.reshape(dw, w.shape), xp.reshape(db, w.shape[:-1])
        gradients.append((dw, db))
        return gradients[::-1]

    def unscaled(
        self, gradients: list[tuple[Array, Array | None]]
    ) -> list[tuple[Array, Array | None]]:
        """The first layer's gradient in fitting coordinates."""
        if self.scale is None:
            return gradients
        dw, db = gradients[0]
        return [(dw / cast(self.scale, dw.dtype), db), *gradients[1:]]

    def penalty(self, theta: Array, reg: Any) -> tuple[Array, Array]:
        """reg times the sum of squared weights, biases free: value (*heads,) and flat gradient."""
        gradient = namespace(theta).zeros_like(theta)
        return self.add_penalty(theta, reg, gradient), gradient

    def add_penalty(self, theta: Array, reg: Any, gradient: Array) -> Array:
        """The value of `penalty`, whose gradient is added to `gradient` in place: each may be as
        large as X."""
        xp, start = namespace(theta), 0
        if theta.ndim > 1 and not getattr(reg, "ndim", 0):
            reg = xp.full(theta.shape[:-1], reg, dtype=theta.dtype, device=device(theta))
        value: Array = 0.0
        for w, b in self.layers(theta):
            loss, dw = l2(w, reg)
            value, size = value + loss, w.shape[-2] * w.shape[-1]
            gradient[..., start : start + size] += xp.reshape(dw, (*dw.shape[:-2], size))
            start += size if b is None else size + w.shape[-2]
        return value


def cast(a: Array | None, dtype: Any) -> Array | None:
    """In that dtype; None stays None."""
    return a if a is None or a.dtype == dtype else namespace(a).astype(a, dtype)


def stacked(xp: Any, w: Array, b: Array | None) -> tuple[Array, Array | None]:
    """(K, M, D) as (K*M, D), and the biases with it; one head as it is."""
    if w.ndim == 2:
        return w, b
    rows = math.prod(w.shape[:-1])
    return (
        xp.reshape(w, (rows, w.shape[-1])),
        None if b is None else xp.reshape(b, (rows, 1)),
    )


def _affine(x: Array, w: Array, b: Array | None) -> Array:
    """w x + b, of features first, or of sparse rows."""
    if not isinstance(x, SparseMatrix):
        return affine(x, w, b, axis=-2)
    out = x.scores(w)
    return out if b is None else out + b


def _unstacked(xp: Any, out: Array, w: Array) -> Array:
    return out if w.ndim == 2 else xp.reshape(out, (*w.shape[:-1], out.shape[-1]))
