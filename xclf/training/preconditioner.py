"""Building the spectral preconditioner of a linear model from its rows."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from xclf._array_api import Array, from_host, namespace, to_host
from xclf._eigh import eigh
from xclf._sparse import SparseMatrix
from xclf.objectives import Network, true_index
from xclf.optim import SpectralPreconditioner
from xclf.rows import BlockRows, Chunk, Rows, sum_over_rows
from xclf.training.problem import column_moments, covariance

#: Past these sizes a full eigenbasis, of features or of classes, is not worth its memory.
MAX_BASIS, MAX_CLASSES = 4096, 1024

#: Leading directions of a partial basis, and how many more it draws to find them well. Where
#: there is no room for so many there may be fewer; for less than the fewest, no basis at all.
RANK, _SPARE = 256, 16
_FEWEST = 8

# Bytes while a basis is made, for each entry: of the (D, D) second moment in float64, its sum and
# its eigenvectors; the same in float32; of the (D, r) leading directions, a handful of copies.
_FULL_BYTES, _NARROW_BYTES, _LEADING_BYTES = 20, 12, 40

# A full basis shows its worth in the directions of little spread, which few rows see wrongly. With
# 8 rows a feature CIFAR-10 takes as many iterations as with all, with 2 three times as many.
_ROWS_PER_FEATURE, _ROWS_PER_DIRECTION = 8, 32

# A sample is to have half of each class's share, where that are so many rows or more.
_RARE = 32

# A full basis of r directions costs about 10 r^3 operations, a pass over the rows 4 N D K C slower
# ones: 4 r^3 of those. Up to this many passes it is made at once: it saves more on any problem that
# needs it. A dearer one waits until the fit has shown, by half as many passes, that it is no easy
# one: 5000 rows of CIFAR-10 at reg 1e-3 are done with the leading directions by then.
AT_ONCE, _SMALL = 100, 256
# Fewer rows than features: the basis comes from the rows' Gram matrix, with a centred copy of X.
_MOST_COPIED = 256 << 20
# Entries, zeros included, of sparse rows that are made dense, and what an entry of a sparse product
# takes beside one of a dense product.
_DENSE, _SPARSE_COST = 1 << 20, 10


class Spectrum(NamedTuple):
    """The second moment of the features about `centre`, as far as it is known.

    values (r,) and basis (D, r): eigenpairs; rest: the mean eigenvalue of all other directions
    """

    values: Array
    basis: Array
    rest: float


def passes_for_a_full_basis(rows: Rows, network: Network, heads: int) -> float:
    """What it costs, in passes over the rows; infinite where it does not fit."""
    n_rows, (n_features, n_classes) = len(rows), network.widths
    size = min(n_rows, n_features)
    wide = n_rows < n_features
    if isinstance(rows.x, SparseMatrix):
        if wide and not may_be_dense(rows):
            return float("inf")
        n_features = min(n_features, _SPARSE_COST * rows.x.row_values)
    copied = 8 * n_rows * n_features if wide else 0
    if size > MAX_BASIS or copied > _MOST_COPIED:
        return float("inf")
    # Of a wide problem the copy and the basis that comes from it.
    needed = 2 * copied + (_FULL_BYTES if wide else _NARROW_BYTES) * size * size
    if needed > rows.budget.for_basis():
        return float("inf")
    if size <= _SMALL:
        return 0.0
    return size**3 / (1.0 * n_rows * n_features * n_classes * heads)


def spectral_preconditioner(
    network: Network, rows: Rows, reg: Any, curvature: Array, full: bool | None = None
) -> SpectralPreconditioner | None:
    """The preconditioner for `network`, a linear model, with class curvature (C, C) or (K, C, C);
    None where there is no room for one.

    full : whether to see all directions of the features or the leading ones; by default what is
        cheap. Either is estimated from a sample of the rows.
    Raises ValueError if squares of X overflow.
    """
    xp = namespace(rows.x)
    rows = shared_weights(rows)
    if full is None:
        full = passes_for_a_full_basis(rows, network, 1) <= AT_ONCE
    n_features = network.widths[0]
    rank = 0 if full else _rank(rows, n_features)
    if not full and rank < min(_FEWEST, RANK):
        return None
    rows = sample(rows, _ROWS_PER_FEATURE * n_features if full else _ROWS_PER_DIRECTION * RANK)
    mean, variance = column_moments(rows)
    if not bool(xp.all(xp.isfinite(variance))):
        raise ValueError("X holds values so large that their squares overflow: scale X")
    centre = mean if network.bias else xp.zeros_like(mean)
    if not full and min(len(rows), n_features) > rank + _SPARE:
        second = variance + (mean - centre) ** 2
        found = _leading(rows, centre, network.scale, second, rank)
    elif len(rows) < n_features:
        found = _thin(rows, centre, network.scale)
    else:
        if _FULL_BYTES * n_features**2 > rows.budget.for_basis():
            rows = _narrowed(rows)
        found = _full(rows, centre, network.scale)
    if network.scale is not None and network.shift is not None and network.bias:
        centre = (centre - network.shift) / network.scale
    return SpectralPreconditioner(
        xp.astype(found.basis, rows.dtype, copy=False),
        # Rounding leaves eigenvalues a little below zero where X has no spread at all.
        xp.maximum(found.values, 0.0),
        centre,
        curvature,
        reg,
        network.bias,
        found.rest,
    )


def _rank(rows: Rows, n_features: int) -> int:
    """Leading directions for which there is budget, at most RANK."""
    budget = rows.budget.for_basis()
    spare = len(rows) - _SPARE - 1
    rank = int(min(RANK, budget / (_LEADING_BYTES * n_features) - _SPARE))
    # None for the copy that few rows would ask for.
    if 16 * len(rows) * n_features > budget or not may_be_dense(rows):
        rank = min(rank, spare)
    return rank


def may_be_dense(rows: Rows) -> bool:
    """Whether rows are dense, or so few that they may be made so."""
    return not isinstance(rows.x, SparseMatrix) or len(rows) * rows.x.shape[1] <= _DENSE


def _full(rows: Rows, centre: Array, scale: Array | None) -> Spectrum:
    second = covariance(rows, centre)
    if scale is not None:
        second /= scale[:, None] * scale
    check_overflow(second)
    # Half the memory and the time; what float32 loses are directions that reg outweighs.
    second = namespace(second).astype(second, rows.dtype, copy=False)
    values, vectors = eigh(second)
    return Spectrum(namespace(values).astype(values, centre.dtype, copy=False), vectors, 0.0)


def _leading(rows: Rows, centre: Array, scale: Array | None, second: Array, rank: int) -> Spectrum:
    """The leading `rank` eigenpairs by a randomised range finder with one power iteration.

    second : (D,) the diagonal of the second moment, whose sum tells what the others amount to.
    Source: Halko, Martinsson & Tropp (2011), algorithms 4.4 and 5.3.
    """
    xp = namespace(rows.x)
    total = rows.total_weight()
    middle = xp.astype(centre, rows.dtype, copy=False)
    factor = None if scale is None else xp.astype(1.0 / scale, rows.dtype, copy=False)[:, None]

    def moment(basis: Array) -> Array:
        """The second moment times basis (D, r)."""
        inside = xp.astype(basis, rows.dtype, copy=False)
        inside = inside if factor is None else inside * factor
        products = partial(_moment, middle, inside)
        (found,) = sum_over_rows(products, rows, int(basis.shape[1]), serial=True)
        found /= total
        if factor is not None:
            found *= xp.astype(factor, found.dtype, copy=False)
        return found

    shape = (int(centre.shape[0]), rank + _SPARE)
    start = from_host(np.random.default_rng(0).standard_normal(shape), rows.x, rows.dtype)
    basis = _orthonormal(moment(start))
    del start
    basis = _orthonormal(moment(basis))
    values, vectors = eigh(_symmetric(xp.matmul(xp.matrix_transpose(basis), moment(basis))))
    values, vectors = values[-rank:], vectors[:, -rank:]
    trace = xp.sum(second if scale is None else second / scale**2)
    others = max(1, int(centre.shape[0]) - rank)
    rest = max(0.0, float(trace - xp.sum(values)) / others)
    return Spectrum(values, xp.matmul(basis, vectors), rest)


def _moment(middle: Array, inside: Array, chunk: Chunk) -> tuple[Array]:
    """(X - middle)^T diag(w) (X - middle) times inside (D, r), over a chunk."""
    if isinstance(chunk.x, SparseMatrix):
        return _sparse_moment(middle, inside, chunk)
    centred, xp = chunk.x - middle, namespace(chunk.x)
    scores = xp.matmul(centred, inside)
    if chunk.weights is not None:
        scores = scores * chunk.weights[:, None]
    return (xp.matmul(xp.matrix_transpose(centred), scores),)


def _sparse_moment(middle: Array, inside: Array, chunk: Chunk) -> tuple[Array]:
    x, xp = chunk.x, namespace(inside)
    scores = x.dot(inside) - xp.matmul(middle, inside)
    if chunk.weights is not None:
        scores = scores * chunk.weights[:, None]
    product = x.with_values(x.values).pull(xp.matrix_transpose(scores))
    return (xp.matrix_transpose(product) - middle[:, None] * xp.sum(scores, axis=0),)


def _thin(rows: Rows, centre: Array, scale: Array | None) -> Spectrum:
    """All eigenpairs there are from fewer rows than features.

    With A the weighted, centred rows, A A^T = U diag(lam) U^T gives A^T A the eigenvalues lam and
    the eigenvectors A^T U / sqrt(lam).
    """
    xp = namespace(rows.x)
    x = rows.x.dense() if isinstance(rows.x, SparseMatrix) else rows.x[:, :]
    a = xp.astype(x, centre.dtype, copy=False) - centre
    if scale is not None:
        a = a / scale
    share = xp.ones_like(a[:, 0]) if rows.weights is None else rows.weights
    share = xp.astype(share, a.dtype, copy=False)
    a = a * xp.sqrt(share / xp.sum(share))[:, None]
    gram = xp.matmul(a, xp.matrix_transpose(a))
    check_overflow(gram)
    values, vectors = eigh(gram)
    # Directions at rounding level are left out: the rest of the space has spectrum 0.
    keep = int(xp.sum(xp.astype(values > 1e-10 * values[-1], xp.int64)))
    keep = max(keep, 1)
    values, vectors = values[-keep:], vectors[:, -keep:]
    basis = xp.matmul(xp.matrix_transpose(a), vectors) / xp.sqrt(xp.maximum(values, 1e-300))
    return Spectrum(values, basis, 0.0)


def _orthonormal(columns: Array) -> Array:
    """An orthonormal basis of the columns' span; twice, since one round leaves rounding's share.

    From the eigenvectors of the Gram matrix: `qr` is not in the standard's core.
    """
    xp = namespace(columns)
    for _ in range(2):
        columns = columns / xp.sqrt(xp.maximum(xp.sum(columns * columns, axis=0), 1e-300))
        values, vectors = eigh(_symmetric(xp.matmul(xp.matrix_transpose(columns), columns)))
        floor = 1e-14 * float(values[-1])
        columns = xp.matmul(columns, vectors) / xp.sqrt(xp.maximum(values, floor))
    return columns


def _symmetric(matrix: Array) -> Array:
    return 0.5 * (matrix + namespace(matrix).matrix_transpose(matrix))


def check_overflow(matrix: Array) -> None:
    """ValueError if a matrix of products of X is not finite."""
    xp = namespace(matrix)
    if not bool(xp.all(xp.isfinite(matrix))):
        raise ValueError("X holds values so large that their products overflow: scale X")


def shared_weights(rows: Rows) -> Rows:
    """Rows with one weight each, for all heads: the mean of what the heads give them."""
    if isinstance(rows, BlockRows):
        return rows.shared_weights()
    if rows.weights is None or rows.weights.ndim == 1:
        return rows
    xp = namespace(rows.x)
    mean = xp.mean(rows.weights / xp.sum(rows.weights, axis=-1, keepdims=True), axis=0)
    return replace(rows, weights=mean * float(len(rows)), heads=None)


def _narrowed(rows: Rows) -> Rows:
    """Rows whose products run in float32."""
    xp = namespace(rows.x)
    weights = None if rows.weights is None else xp.astype(rows.weights, xp.float32, copy=False)
    return replace(rows, weights=weights, dtype=xp.float32)


def sample(rows: Rows, most: int) -> Rows:
    """Every k-th row, so that at least `most` remain, and fewer than twice as many where weights
    and labels allow: rows that are left out, or those of a class, may come every k-th too, and a
    sample without them tells nothing."""
    if isinstance(rows, BlockRows):
        return rows.sample(most)
    # Kept with the rows: labels and weights come to the host once, not at every refresh.
    strides: dict[int, int] = rows.__dict__.setdefault("strides", {})
    if most not in strides:
        strides[most] = _fair_stride(rows, max(1, len(rows) // most))
    return rows if strides[most] < 2 else rows.every(strides[most])


def _fair_stride(rows: Rows, stride: int) -> int:
    """The largest stride up to `stride` whose rows have their share of each class and weight."""
    if stride < 2:
        return stride
    index = to_host(true_index(rows.labels))
    classes, weighted = [index] if rows.tasks is None else list(index), []
    if rows.weights is not None:
        weighted = [line > 0.0 for line in np.atleast_2d(to_host(rows.weights))]
    while stride > 1 and not (
        all(_is_fair(kinds, stride, _RARE) for kinds in classes)
        and all(_is_fair(kinds, stride, 0) for kinds in weighted)
    ):
        stride -= 1
    return stride


def _is_fair(kinds: np.ndarray, stride: int, rare: int) -> bool:
    """Whether every `stride`-th row has half the share of each kind that all rows have, of those
    of which there should be `rare` or more."""
    counts = np.bincount(kinds)
    some = np.bincount(kinds[::stride], minlength=len(counts))
    expected = counts / stride
    return bool(np.all((some >= 0.5 * expected) | (expected < rare)))
