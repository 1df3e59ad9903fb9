"""The preconditioner of full-batch linear fits: spectrum of the data, curvature of the classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

from xclf._array_api import Array, namespace
from xclf._eigh import eigh
from xclf._heads import is_per_head, take_heads

#: A class direction without curvature (an empty active set, classes never confused) would get an
#: unbounded step: curvatures are floored at this share of the largest.
FLOOR = 1e-4


@dataclass
class SpectralPreconditioner:
    """Inverse of the Hessian's Kronecker model for a linear model with flat parameters [W | b].

        Hessian ~ A (x) S + 2 reg I,    A (C, C) mean curvature in the scores,
                                        S (D, D) covariance of the features

    With S = Q diag(lam) Q^T and A = V diag(a) V^T the inverse is diagonal in the coordinates
    V^T W Q. Features are centred by a change of variables (b' = b + W mean), under which the model
    splits into weights and biases. The rotation touches W and the gradient, never the data.

    basis (D, r) eigenvectors Q in columns; spectrum (r,) their eigenvalues; rest: what stands for
    the eigenvalues of all other directions, if r < D; mean (D,); curvature (K, C, C) or (C, C);
    reg (K,) or a float; bias: whether theta holds biases.
    """

    basis: Array
    spectrum: Array
    mean: Array
    curvature: Array
    reg: Any
    bias: bool
    rest: float = 0.0

    def __post_init__(self) -> None:
        self.refresh(self.curvature)

    def refresh(self, curvature: Array) -> None:
        """Take a new class curvature A, (K, C, C) or (C, C), symmetric positive semidefinite."""
        xp = namespace(curvature)
        values, vectors = eigh(curvature)
        top = xp.max(values, axis=-1, keepdims=True)
        values = xp.maximum(values, FLOOR * top)
        # No curvature at all (no active pair): any positive number keeps the model invertible.
        values = xp.where(values > 0.0, values, 1.0)
        self.curvature = curvature
        self._classes = vectors
        reg = self.reg
        if getattr(reg, "ndim", 0):
            reg = xp.reshape(reg, (-1, 1, 1))
        model = values[..., :, None] * self.spectrum + 2.0 * reg
        largest = xp.max(model, axis=-1, keepdims=True)
        largest = xp.where(largest > 0.0, largest, 1.0)  # no feature, or all of them constant
        # Directions without spread or penalty: their gradient is rounding, not to be blown up.
        self._scale = 1.0 / xp.maximum(model, 1e-12 * largest)
        # Outside a basis that does not span the space all directions are treated alike.
        self._outside: Any = None
        if self.basis.shape[0] > self.basis.shape[1]:
            other = values[..., :, None] * self.rest + 2.0 * reg
            self._outside = 1.0 / xp.maximum(other, 1e-12 * largest)
        self._bias_scale = 1.0 / values[..., :, None]

    def state(self) -> dict[str, Any]:
        """All it holds, for `from_state`."""
        return dict(vars(self))

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The preconditioner whose `state` this was; nothing is computed again."""
        self = cls.__new__(cls)
        vars(self).update(state)
        return self

    def keep(self, kept: Any) -> None:
        """Go on with the heads that host integers `kept` name."""
        if self.curvature.ndim < 3:
            return
        held: tuple[Any, ...] = (self.curvature, self.reg, self._classes)
        held += (self._scale, self._outside, self._bias_scale)
        # What has one entry for all heads stays.
        held = tuple(
            take_heads(part, kept) if is_per_head(part) and part.shape[0] > 1 else part
            for part in held
        )
        self.curvature, self.reg, self._classes, self._scale, self._outside, self._bias_scale = held

    def __call__(self, v: Array) -> Array:
        """Apply to v (K, P): the gradient's layout, weights (C, D) row-major, then biases (C,)."""
        xp = namespace(v)
        n_classes, n_features = self.curvature.shape[-1], self.mean.shape[0]
        size = n_classes * n_features
        heads = v.shape[:-1]
        w = xp.reshape(v[..., :size], (*heads, n_classes, n_features))
        if not self.bias:
            return xp.reshape(self._weights(w), (*heads, size))
        b = v[..., size:][..., None]
        w = self._weights(w - b * self.mean)
        turned = xp.matmul(xp.matrix_transpose(self._classes), b) * self._bias_scale
        b = xp.matmul(self._classes, turned) - xp.sum(w * self.mean, axis=-1, keepdims=True)
        return xp.concat(
            [xp.reshape(w, (*heads, size)), xp.reshape(b, (*heads, n_classes))], axis=-1
        )

    def bias_cost(self, b: Array) -> Array:
        """b^T A^-1 b (K,): twice what a Newton step in the biases alone gains, b their gradient."""
        xp = namespace(b)
        turned = xp.matmul(xp.matrix_transpose(self._classes), b[..., None])
        return xp.sum(turned * turned * self._bias_scale, axis=(-2, -1))

    def _weights(self, w: Array) -> Array:
        w = self._mix_classes(w, False)
        turned = self._rotate(w, False)
        inside = self._rotate(turned * self._scale, True)
        if self._outside is not None:
            # What is left outside may be scaled up by 1 / reg, and with it whatever rounding has
            # left inside: a second projection takes that off.
            w = w - self._rotate(turned, True)
            w = w - self._rotate(self._rotate(w, False), True)
            inside = inside + w * self._outside
        return self._mix_classes(inside, True)

    def _mix_classes(self, w: Array, back: bool) -> Array:
        """V w, or V^T w, of w (K, C, D), in the dtype of the basis: float32 is enough for a
        preconditioner, and far faster on many devices."""
        xp = namespace(w)
        vectors = xp.astype(self._classes, self.basis.dtype, copy=False)
        vectors = vectors if back else xp.matrix_transpose(vectors)
        mixed = xp.matmul(vectors, xp.astype(w, self.basis.dtype, copy=False))
        return xp.astype(mixed, w.dtype, copy=False)

    def _rotate(self, w: Array, back: bool) -> Array:
        """(K, C, D) times Q, or (K, C, r) times Q^T: one product over all heads and classes."""
        xp = namespace(w)
        basis = xp.matrix_transpose(self.basis) if back else self.basis
        flat = xp.reshape(w, (math.prod(w.shape[:-1]), w.shape[-1]))
        turned = xp.matmul(xp.astype(flat, basis.dtype, copy=False), basis)
        shape = (*w.shape[:-1], basis.shape[1])
        return xp.reshape(xp.astype(turned, w.dtype, copy=False), shape)
