"""The objective of many heads in the coordinates of rotated rows, and a descent of Newton's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xclf._array_api import Array, device, namespace, to_host
from xclf._eigh import eigh
from xclf._heads import take_heads, take_run
from xclf.objectives import Objective, true_mask
from xclf.optim.spectral import FLOOR
from xclf.training._rotated_rows import RotatedRows
from xclf.training.problem import Problem

#: The fields of `Terms` that are of the rows.
OF_ROWS = ("z", "spectrum", "far", "units", "narrow")

#: Iterations of conjugate gradients for a step at most.
MOST_PRODUCTS = 100

# Share of the heads of a product that must have ended before they leave it: to leave copies what
# the others keep.
_LEAVING = 0.25


@dataclass(frozen=True)
class Terms:
    """The objective of some heads in the coordinates of rotated rows: parameters are (k, C, m).

    z, spectrum : as `RotatedRows` has them, or (k, N, m) and (k, 1, m), where each head has rows of
        its own
    rank, far : r, and 1 + the largest entry of the centre, () or (k, 1)
    mask : True at the true class, (C, N) or (k, C, N)
    share : each row's share of the weights, (N,), (k, N), or a number for all rows
    penalty : 2 reg of every parameter, (k, 1, m) or (1, 1, m)
    units : the columns' root mean squares, (m,) or (k, 1, m);  narrow : z / units in float32, for
        products with the Hessian: a step is known to a third, so that more digits would be wasted
    """

    loss: Any
    z: Array
    spectrum: Array
    rank: int
    far: Array
    mask: Array
    share: Any
    penalty: Array
    units: Array
    narrow: Array

    def _back(self, u: Array, z: Array) -> Array:
        """(k, C, m): u (k, C, N), each row times its share, times the rows."""
        if isinstance(self.share, float):
            return _times(u, z) * self.share
        share = namespace(u).astype(self.share, u.dtype, copy=False)
        return _times(u * share[..., None, :], z)

    def value(self, v: Array) -> tuple[Array, Array]:
        """(objective (k,), dscores (k, C, N) of each row's own loss)."""
        xp = namespace(v)
        scores = _times(v, xp.matrix_transpose(self.z))
        losses, dscores = self.loss(scores, self.mask, reduction="none", axis=-2)
        mean = xp.sum(losses * self.share, axis=-1)
        return mean + 0.5 * xp.sum(self.penalty * v * v, axis=(-2, -1)), dscores

    def gradient(self, v: Array, dscores: Array) -> Array:
        """(k, C, m) at v, where the losses have the gradient `dscores`."""
        return self._back(dscores, self.z) + self.penalty * v

    def curvature(self, dscores: Array) -> Array:
        """The losses' curvature."""
        return self.loss.curvature(dscores, self.mask)

    def hessian_product(self, curvature: Array, v: Array) -> Array:
        """H v (k, C, m)."""
        xp = namespace(v)
        along = v * self.units
        size = xp.max(xp.abs(along), axis=(-2, -1), keepdims=True)
        size = xp.where(size > 0.0, size, 1.0)
        scores = _times(
            xp.astype(along / size, self.narrow.dtype), xp.matrix_transpose(self.narrow)
        )
        moved = self._back(self.loss.curvature_product(curvature, self.mask, scores), self.narrow)
        return xp.astype(moved, v.dtype) * (size * self.units) + self.penalty * v

    def preconditioner(self, curvature: Array) -> Preconditioner:
        """The inverse of the Hessian's model, with the mean curvature of the losses."""
        xp, weights, spectrum = namespace(curvature), None, self.spectrum
        if not isinstance(self.share, float):
            weights = xp.astype(self.share, curvature.dtype, copy=False)
        total = self.loss.curvature_total(curvature, self.mask, weights)
        total = xp.astype(total, spectrum.dtype)
        total = total * self.share if weights is None else total
        values, classes = eigh(xp.where(xp.isfinite(total), total, 0.0))
        values = xp.maximum(values, FLOOR * values[..., -1:])
        values = xp.where(values > 0.0, values, 1.0)
        model = values[..., None] * spectrum + self.penalty
        return Preconditioner(classes, 1.0 / xp.where(model > 0.0, model, 1.0))

    def norm(self, grad: Array) -> Array:
        """(k,): the largest class's norm, at most, that a gradient (k, C, m) has in theta."""
        xp, rank = namespace(grad), self.rank
        norm = xp.sqrt(xp.sum(grad[..., :rank] ** 2, axis=-1))
        if int(grad.shape[-1]) > rank:
            norm = norm + self.far * xp.abs(grad[..., rank])
        return xp.max(norm, axis=-1)

    def at_zero(self, heads: int) -> tuple[Array, Array]:
        """(k,) each: objective and norm of the gradient at zero weights."""
        xp, z = namespace(self.penalty), self.z
        shape = (heads, int(self.mask.shape[-2]), int(z.shape[-1]))
        zero = xp.zeros(shape, dtype=z.dtype, device=device(z))
        value, dscores = self.value(zero)
        return value, self.norm(self.gradient(zero, dscores))

    def take_heads(self, kept: np.ndarray) -> Terms:
        """Those of the heads that host integers `kept` name."""
        mask = take_heads(self.mask, kept) if self.mask.ndim > 2 else self.mask
        own = getattr(self.share, "ndim", 0) > 1
        penalty = take_heads(self.penalty, kept) if self.penalty.shape[0] > 1 else self.penalty
        share = take_heads(self.share, kept) if own else self.share
        loss = take_heads(self.loss, kept)
        taken = replace(self, loss=loss, mask=mask, share=share, penalty=penalty)
        if self.narrow.ndim < 3:
            return taken
        own = [getattr(self, name) for name in OF_ROWS]
        return replace(taken, **dict(zip(OF_ROWS, take_run(own, kept), strict=True)))


@dataclass(frozen=True)
class Preconditioner:
    """classes (k, C, C) eigenvectors of the class curvature; scale (k, C, m)."""

    classes: Array
    scale: Array

    def __call__(self, v: Array) -> Array:
        xp = namespace(v)
        turned = xp.matmul(xp.matrix_transpose(self.classes), v)
        return xp.matmul(self.classes, turned * self.scale)


def terms_of(problem: Problem, rotated: RotatedRows) -> Terms:
    """Of all heads of a linear problem."""
    rows, objective = problem.rows, problem.objective
    chunk, z, spectrum = rows.chunk(slice(0, len(rows))), rotated.z, rotated.spectrum
    xp = namespace(z)
    share: Any = 1.0 / len(rows)
    if chunk.weights is not None:
        weights = xp.astype(chunk.weights, z.dtype, copy=False)
        share = weights / xp.sum(weights, axis=-1, keepdims=True)
    mask = true_mask(chunk.labels, objective.network.widths[-1])
    units = xp.sqrt(xp.where(spectrum > 0.0, spectrum, 1.0))
    return Terms(
        loss=objective.loss,
        z=z,
        spectrum=spectrum,
        rank=rotated.rank,
        far=1.0 + xp.max(xp.abs(rotated.centre)),
        mask=mask,
        share=share,
        penalty=penalty_of(objective, z),
        units=units,
        narrow=xp.astype(z / units, xp.float32),
    )


def penalty_of(objective: Objective, z: Array) -> Array:
    """2 reg of every parameter, (k, 1, m) or (1, 1, m)."""
    xp = namespace(z)
    penalized = xp.ones((1, 1, int(z.shape[-1])), dtype=z.dtype, device=device(z))
    if objective.network.bias:
        penalized = xp.concat([penalized[..., 1:], xp.zeros_like(penalized[..., :1])], axis=-1)
    rate = objective.penalty_rate
    rate = rate[..., None] if getattr(rate, "ndim", 0) else rate
    return rate * penalized


def _times(u: Array, matrix: Array) -> Array:
    """(k, C, q): u (k, C, p) times a matrix (p, q), in one product, or those of all heads."""
    xp, (k, c, p) = namespace(u), u.shape
    if matrix.ndim > 2:
        return xp.matmul(u, matrix)
    return xp.reshape(xp.matmul(xp.reshape(u, (k * c, p)), matrix), (k, c, matrix.shape[1]))


def descend(
    terms: Terms, curvature: Array, precondition: Preconditioner, grad: Array, least: np.ndarray
) -> tuple[Array, np.ndarray]:
    """Steps d (k, C, m) with H d = -grad, nearly; and host (k,), the products that each took.

    curvature : of the loss, where the gradient is `grad`
    least : host (k,), what may remain of r . precondition(r), r = H d + grad
    Source: Nocedal & Wright (2006), algorithm 5.3.
    """
    xp = namespace(grad)
    number, ended = np.arange(len(least)), [grad[:0, ...]] * len(least)
    products = np.zeros(len(least))
    x, r = xp.zeros_like(grad), -grad
    d = z = precondition(r)
    rz = dots(r, z)
    for count in range(1, MOST_PRODUCTS + 1):
        moved = terms.hessian_product(curvature, d)
        bent = dots(d, moved)
        length = xp.where(bent > 0.0, rz / xp.where(bent > 0.0, bent, 1.0), 0.0)[:, None, None]
        x, r = x + length * d, r - length * moved
        z = precondition(r)
        was, rz = rz, dots(r, z)
        going = np.asarray(to_host(rz)) > least
        products[number[going]] = count
        if not going.any() or count == MOST_PRODUCTS:
            break
        if np.mean(going) <= 1.0 - _LEAVING:
            for k in np.flatnonzero(~going).tolist():
                ended[number[k]] = x[k : k + 1, ...]
            kept = np.flatnonzero(going)
            parts = (terms, curvature, precondition, x, r, z, d, rz, was, number, least)
            terms, curvature, precondition, x, r, z, d, rz, was, number, least = take_heads(
                parts, kept
            )
        d = z + xp.where(was > 0.0, rz / xp.where(was > 0.0, was, 1.0), 0.0)[:, None, None] * d
    for k, place in enumerate(number.tolist()):
        ended[place] = x[k : k + 1, ...]
    return xp.concat(ended, axis=0), products + 1.0


def dots(a: Array, b: Array) -> Array:
    """(k,): a . b of each head."""
    return namespace(a).sum(a * b, axis=(-2, -1))
