"""Fits of fewer rows than features, in the space that the rows span.

The optimum of a linear model with a penalty is W = V Q^T with the rows u_i, in fitting coordinates,
in the span of Q (D, N): with u = t Q^T its objective is that of V on the rows t (N, N), penalty
included. (Representer theorem: Kimeldorf & Wahba, 1971.) Q and t come from a QR decomposition in
float64, 4 D N^2 multiply-adds, once for all heads; every pass then takes N / D of its time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from xclf._array_api import Array, accumulator, device, from_host, has_linalg, namespace, to_host
from xclf._sparse import SparseMatrix
from xclf.objectives import Layer
from xclf.rows import Streamed
from xclf.training.problem import Problem

#: Share of the features that rows may be at most.
_FEW = 0.5
#: Passes that a fit is taken to make at least.
_PASSES = 20


@dataclass(frozen=True)
class RowSpace:
    """`inner` : the problem of V, in float64;  q : (D, N);  whole : the problem of W."""

    whole: Problem
    inner: Problem
    q: Array

    def inside(self, theta: Array) -> Array:
        """V and the biases of theta (K, P); what lies across the rows only costs penalty."""
        xp, network = namespace(theta), self.whole.objective.network
        w, b = network.layers(xp.astype(theta, self.q.dtype))[0]
        return self.inner.objective.network.flatten([(xp.matmul(w, self.q), b)])

    def outside(self, theta: Array) -> Array:
        """theta (P,) of the whole problem, in its dtype, from that of the inner one."""
        xp = namespace(theta)
        v, b = self.inner.objective.network.layers(theta)[0]
        return self.whole.objective.network.flatten([Layer(xp.matmul(v, self.q.T), b)])


def row_space(problem: Problem, heads: int) -> RowSpace | None:
    """The problem of so many heads in the space of its rows, if that is worth a decomposition."""
    rows, network = problem.rows, problem.objective.network
    n, features = len(rows), network.widths[0]
    xp = namespace(rows.x)
    wide = accumulator(xp, device(rows.x))
    if (
        not problem.linear
        or isinstance(rows.x, Streamed | SparseMatrix)
        or rows.shards
        or n > _FEW * features
        or n > _PASSES * heads * network.widths[-1] * (1.0 - n / features)
        or 8 * 4 * n * features > rows.budget.for_basis()
        or wide != xp.float64
        or not np.all(to_host(problem.objective.reg) > 0.0)
    ):
        return None
    u = network.shifted(xp.astype(rows.x, wide))
    if network.scale is not None:
        u = u / xp.astype(network.scale, wide)
    q, r = _qr(xp.matrix_transpose(u))
    inside = replace(network, widths=(n, network.widths[-1]), shift=None, scale=None)
    inner = replace(rows.widened(wide), x=xp.matrix_transpose(r), precision=None)
    return RowSpace(problem, Problem(replace(problem.objective, network=inside), inner), q)


def _qr(matrix: Array) -> tuple[Array, Array]:
    """Q and R of (D, N), on the host for a namespace without the extension `linalg`."""
    xp = namespace(matrix)
    if has_linalg(xp):
        q, r = xp.linalg.qr(matrix)
        return q, r
    q, r = np.linalg.qr(to_host(matrix))
    return from_host(q, matrix), from_host(r, matrix)
