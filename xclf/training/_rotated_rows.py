"""The rows of a linear problem in the eigenbasis of their second moment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xclf._array_api import Array, accumulator, device, from_host, namespace, to_host
from xclf._eigh import eigh, has_linalg
from xclf._sparse import SparseMatrix
from xclf.objectives import Layer, Network
from xclf.rows import Rows, Streamed
from xclf.training.preconditioner import check_overflow, may_be_dense, shared_weights
from xclf.training.problem import Problem

# Directions up to which a rotation takes next to no time, and multiply-adds in the time that an
# iteration of L-BFGS takes beside its pass: some 5 ms.
_SMALL, _BESIDE = 256, 5e7


@dataclass(frozen=True)
class RotatedRows:
    """Rows u_i, in fitting coordinates, as z_i = Q^T (u_i - centre), with a 1 for the biases.

    Q (D, r) is orthonormal and spans all rows, r = min(N, D): the optimum of a linear model with a
    penalty is W = V Q^T, with the penalty of V (representer theorem: Kimeldorf & Wahba, 1971), and
    the second moment of z is diagonal.

    network : the model's;  z : (N, m) float64, m = r + 1 with biases
    spectrum : (m,), mean squares of z;  q : (D, r);  centre : (D,)
    """

    network: Network
    z: Array
    spectrum: Array
    q: Array
    centre: Array

    @property
    def rank(self) -> int:
        """r."""
        return int(self.q.shape[1])

    def inside(self, theta: Array) -> Array:
        """(K, C, m) of theta (K, P); what lies across the rows only costs penalty."""
        xp = namespace(theta)
        w, b = self.network.layers(xp.astype(theta, self.q.dtype, copy=False))[0]
        v = xp.matmul(w, self.q)
        if b is None:
            return v
        return xp.concat([v, b + xp.sum(w * self.centre, axis=-1, keepdims=True)], axis=-1)

    def outside(self, v: Array) -> Array:
        """theta (K, P) of v (K, C, m)."""
        xp, rank = namespace(v), self.rank
        w = xp.matmul(v[..., :rank], xp.matrix_transpose(self.q))
        if not self.network.bias:
            return self.network.flatten([Layer(w, None)])
        b = v[..., rank:] - xp.sum(w * self.centre, axis=-1, keepdims=True)
        return self.network.flatten([Layer(w, b)])


def rotated_rows(problem: Problem) -> RotatedRows:
    """Of a linear problem whose rows are an array, or a small sparse matrix, on one device that has
    float64.

    Fewer rows than features are brought into their own span first, by a QR decomposition.
    Raises ValueError if squares of X overflow.
    """
    rows, network = problem.rows, problem.objective.network
    xp = namespace(rows.x)
    x = rows.x.dense() if isinstance(rows.x, SparseMatrix) else rows.x
    u = network.shifted(xp.astype(x, accumulator(xp, device(rows.x))))
    if network.scale is not None:
        u = u / xp.astype(network.scale, u.dtype)
    share = _share(rows, u)
    centre = xp.sum(u * share, axis=0) if network.bias else xp.zeros_like(u[0, :])
    u = u - centre if network.bias else u
    span = None
    if u.shape[0] < u.shape[1]:
        span, r = _qr(xp.matrix_transpose(u))
        u = xp.matrix_transpose(r)
    moment = xp.matmul(xp.matrix_transpose(u), u * share)
    check_overflow(moment)
    spectrum, q = eigh(moment)
    z, spectrum = xp.matmul(u, q), xp.maximum(spectrum, 0.0)
    if network.bias:
        z = xp.concat([z, xp.ones_like(z[:, :1])], axis=1)
        spectrum = xp.concat([spectrum, xp.ones_like(spectrum[:1])])
    return RotatedRows(network, z, spectrum, q if span is None else xp.matmul(span, q), centre)


def can_rotate(problem: Problem) -> bool:
    """Whether the rows can be rotated in memory, to float64."""
    rows, network = problem.rows, problem.objective.network
    xp, n = namespace(rows.x), len(rows)
    away = isinstance(rows.x, Streamed) or rows.shards or rows.in_blocks
    if not problem.linear or away or not may_be_dense(rows):
        return False
    d, r = network.widths[0], min(n, network.widths[0])
    return (
        8 * (3 * n * d + d * r + 2 * r * r) <= rows.budget.for_basis()
        and accumulator(xp, device(rows.x)) == xp.float64
    )


def rotation_in_passes(problem: Problem, heads: int) -> float:
    """What a rotation costs, in iterations of L-BFGS for so many heads; 0 if it takes next to no
    time."""
    n, (d, c) = len(problem.rows), problem.objective.network.widths
    r = min(n, d)
    if r <= _SMALL:
        return 0.0
    return (4.0 * n * d * r + 10.0 * r**3) / (4.0 * heads * n * d * c + _BESIDE)


def _share(rows: Rows, like: Array) -> Array:
    """(N, 1): each row's share of the weights, of all heads together."""
    xp, weights = namespace(like), shared_weights(rows).weights
    if weights is None:
        return xp.full((len(rows), 1), 1.0 / len(rows), dtype=like.dtype, device=device(like))
    weights = xp.astype(weights, like.dtype)
    return (weights / xp.sum(weights))[:, None]


def _qr(matrix: Array) -> tuple[Array, Array]:
    """Q and R of (D, N), on the host for a namespace without the extension `linalg`."""
    xp = namespace(matrix)
    if has_linalg(xp):
        q, r = xp.linalg.qr(matrix)
        return q, r
    q, r = np.linalg.qr(to_host(matrix))
    return from_host(q, matrix), from_host(r, matrix)
