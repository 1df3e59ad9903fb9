"""Sparse rows: a CSR matrix with the shape, dtype, namespace and device of an array.

Nothing here makes a matrix dense. Products with dense weights and gradients are those of SciPy, or
of whatever library the matrix belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xclf._array_api import Array, Namespace, device, is_host, namespace

# Features of a product with the transposed matrix that are computed, and turned, at a time.
_FEATURES = 4096


class SparseMatrix:
    """X (N, D) as canonical CSR: entries of a row in the order of their columns, each once.

    matrix : of `scipy.sparse`, or of a library with its interface
    later : of a chunk of rows, their slice: `pull` then leaves the product to whoever has all rows
    """

    ndim = 2

    def __init__(self, matrix: Any, later: slice | None = None) -> None:
        self.matrix, self.later = matrix, later
        rows, features = matrix.shape
        self.shape = (int(rows), int(features))
        self.dtype = matrix.data.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + self.nbytes

    def __getstate__(self) -> dict[str, Any]:
        # What passes over the rows keep beside them stays behind.
        return {name: getattr(self, name) for name in ("matrix", "later", "shape", "dtype")}

    def __array_namespace__(self, *, api_version: str | None = None) -> Namespace:
        return namespace(self.matrix.data)

    @property
    def device(self) -> Any:
        return device(self.matrix.data)

    @property
    def in_host_memory(self) -> bool:
        return is_host(self.matrix.data)

    @property
    def nbytes(self) -> int:
        """Bytes of the entries, their columns and the rows' places."""
        return sum(int(part.nbytes) for part in self._parts)

    @property
    def _parts(self) -> tuple[Array, Array, Array]:
        return self.matrix.data, self.matrix.indices, self.matrix.indptr

    @property
    def row_values(self) -> int:
        """Entries of a row, on average, rounded up."""
        return -(-int(self.matrix.nnz) // max(1, self.shape[0]))

    def __getitem__(self, key: tuple[slice, slice]) -> SparseMatrix:
        """`x[start:stop:step, :]`; consecutive rows are views of the entries."""
        where, columns = key
        if columns != slice(None):
            raise IndexError(f"rows are taken with all their columns, got {key}")
        start, stop, step = where.indices(self.shape[0])
        if step != 1:
            return SparseMatrix(self.matrix[start:stop:step])
        data, indices, indptr = self._parts
        ends = indptr[start : max(start, stop) + 1]
        part = slice(int(ends[0]), int(ends[-1]))
        parts = (data[part], indices[part], ends - ends[0])
        rows = type(self.matrix)(parts, shape=(max(0, stop - start), self.shape[1]))
        return SparseMatrix(rows, slice(start, max(start, stop)))

    def take(self, index: Array) -> SparseMatrix:
        """The rows numbered by integers (n,)."""
        return SparseMatrix(self.matrix[index])

    def astype(self, dtype: Any) -> SparseMatrix:
        """The same rows in that dtype; columns and places are shared."""
        if dtype == self.dtype:
            return self
        values = namespace(self.matrix.data).astype(self.matrix.data, dtype)
        return SparseMatrix(self._with(values), self.later)

    def with_values(self, values: Array) -> SparseMatrix:
        """Other entries in the same places."""
        return SparseMatrix(self._with(values))

    def _with(self, values: Array) -> Any:
        _, indices, indptr = self._parts
        return type(self.matrix)((values, indices, indptr), shape=self.shape)

    @property
    def values(self) -> Array:
        """The entries (E,), row by row."""
        return self.matrix.data

    def at_entries(self, of_columns: Array) -> Array:
        """The number of its column, of (D,), for every entry (E,)."""
        return namespace(of_columns).take(of_columns, self.matrix.indices, axis=0)

    def scaled(self, scale: Array | None) -> SparseMatrix:
        """The same rows, each column divided by its entry of `scale` (D,)."""
        return self if scale is None else self.with_values(self.values / self.at_entries(scale))

    def unit_rows(self) -> SparseMatrix:
        """The rows divided by their Euclidean norms; rows of zeros stay."""
        xp, host = namespace(self.values), self.matrix
        largest = abs(host).max(axis=1)
        largest = largest.toarray() if is_sparse(largest) else largest
        rows = self._divided(xp.reshape(largest, (-1,)))  # squares overflow and underflow
        return rows._divided(xp.sqrt(rows.row_squares()))

    def _divided(self, by: Array) -> SparseMatrix:
        xp = namespace(by)
        by = xp.where(by > 0.0, by, xp.ones_like(by))
        counts = self.matrix.indptr[1:] - self.matrix.indptr[:-1]
        return self.with_values(self.values / xp.repeat(by, counts))

    def row_squares(self) -> Array:
        """Squared norms of the rows (n,)."""
        xp = namespace(self.values)
        squares = self.with_values(self.values * self.values)
        return squares.dot(xp.ones((self.shape[1],), dtype=self.dtype, device=self.device))

    def gram(self, other: SparseMatrix | None = None) -> Array:
        """x x^T (n, n), dense."""
        return (self.matrix @ (other or self).matrix.T).toarray()

    def moment(self, weights: Array | None) -> Array:
        """x^T diag(weights) x (D, D), dense: for few features."""
        matrix = self.matrix
        right = matrix if weights is None else matrix.multiply(weights[:, None]).tocsr()
        return (matrix.T @ right).toarray()

    def dot(self, w: Array) -> Array:
        """x @ w (n, M), of w (D, M)."""
        return self.matrix @ w

    def scores(self, w: Array) -> Array:
        """w @ x^T (M, n), of weights w (M, D); fastest for those that `by_feature` has laid out."""
        xp = namespace(w)
        return xp.matrix_transpose(self.dot(xp.matrix_transpose(w)))

    def pull(self, g: Array) -> Any:
        """g @ x (M, D), of g (*heads, C, n) with M of all heads; of a chunk that is to be added to
        others, the part of it that `Pulled` keeps."""
        xp = namespace(g)
        flat = xp.matrix_transpose(xp.reshape(g, (-1, g.shape[-1])))
        if self.later is not None and self.in_host_memory:
            return Pulled(np.ascontiguousarray(flat), (*g.shape[:-1], self.shape[1]))
        product = xp.matrix_transpose(self.matrix.T @ flat)
        return xp.reshape(product, (*g.shape[:-1], self.shape[1]))

    def dense(self) -> Array:
        """The rows as an array, for small problems."""
        return self.matrix.toarray()


@dataclass
class Pulled:
    """The gradient in the scores of a chunk's rows, g (n, M), to be multiplied with those rows.

    shape : (*heads, C, D) of the product
    """

    g: np.ndarray
    shape: tuple[int, ...]


def is_sparse(value: object) -> bool:
    """Whether `value` is a sparse matrix, of `scipy.sparse` or a library with its interface."""
    return hasattr(value, "tocsr") and hasattr(value, "nnz")


def as_dtype(x: Array, dtype: Any) -> Array:
    """Rows, dense or sparse, in that dtype."""
    return x.astype(dtype) if isinstance(x, SparseMatrix) else namespace(x).astype(x, dtype)


def take_rows(x: Array, index: Array) -> Array:
    """The rows of x, dense or sparse, that integers on its device number: a copy."""
    return x.take(index) if isinstance(x, SparseMatrix) else namespace(x).take(x, index, axis=0)


def stacked_rows(parts: Sequence[Array]) -> Array:
    """The rows of several parts, dense or all sparse, one after the other."""
    if not isinstance(parts[0], SparseMatrix):
        return namespace(*parts).concat(list(parts), axis=0)
    xp, starts, shift = namespace(parts[0]), [parts[0].matrix.indptr[:1]], 0
    for part in parts:
        starts.append(part.matrix.indptr[1:] + shift)
        shift += int(part.matrix.nnz)
    values, columns = (
        xp.concat([getattr(part.matrix, name) for part in parts]) for name in ("data", "indices")
    )
    shape = (sum(part.shape[0] for part in parts), parts[0].shape[1])
    kind = type(parts[0].matrix)
    return SparseMatrix(kind((values, columns, xp.concat(starts)), shape=shape))


def by_feature(w: Array) -> Array:
    """The same weights (*heads, M, D), in memory feature by feature: as products with rows of
    few entries read them."""
    if not isinstance(w, np.ndarray):
        return w
    heads, features = w.shape[:-1], w.shape[-1]
    flat = w.reshape(-1, features)
    out = np.empty((features, len(flat)), dtype=w.dtype)
    for start in range(0, features, _FEATURES):
        part = slice(start, start + _FEATURES)
        out[part] = flat[:, part].T
    return np.moveaxis(out.reshape(features, *heads), 0, -1)
