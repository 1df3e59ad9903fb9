"""What Newton's steps of a hinge compute with: rows in principal axes, equations of pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.linalg
from scipy.sparse.csgraph import connected_components

# Share of the columns' norms below which what a direction makes of them is rounding; ratio of these
# norms up to which they are of alike size.
_RANK, _ALIKE = 4e-15, 1e6
# Share of the largest root of a weight, below which a row is light.
_LIGHT = 1e-3
#: Rows whose products with each other are kept.
MOST_IN_GRAM = 2000
# Rows of a matrix that are gathered at a time.
_BLOCK = 256


@dataclass(frozen=True)
class Basis:
    """Rows t (n, r) = u Q in the principal axes Q (D, r) of their features u (n, D).

    labels (n,) of `classes`;  share : of the weight of each, sum 1;  spectrum (r,) : share-weighted
    mean squares of t;  mask (n, C) : true classes;  bias : whether the model has biases
    """

    t: np.ndarray
    axes: np.ndarray
    labels: np.ndarray
    share: np.ndarray
    spectrum: np.ndarray
    mask: np.ndarray
    bias: bool

    @classmethod
    def of(
        cls, u: np.ndarray, labels: np.ndarray, share: np.ndarray, classes: int, bias: bool
    ) -> Basis:
        root = np.sqrt(share)[:, None]
        left, size, axes = _svd(root * u)
        # What is left of the columns where they cancel is rounding, of any size.
        kept = size > _RANK * (np.linalg.norm(root * u, axis=0) @ np.abs(axes))
        axes = axes[:, kept]
        t = left[:, kept] * size[kept] / root
        # Rows that weigh little beside others have lost their digits there.
        light = root[:, 0] < _LIGHT * root.max(initial=0.0)
        t[light] = u[light] @ axes
        return cls(t, axes, labels, share, size[kept] ** 2, _mask(labels, classes), bias)

    def labelled(self, labels: np.ndarray, classes: int) -> Basis:
        """The same rows with other labels."""
        return replace(self, labels=labels, mask=_mask(labels, classes))

    @cached_property
    def _gram(self) -> np.ndarray | None:
        return np.asarray(self.t @ self.t.T) if len(self.t) <= MOST_IN_GRAM else None

    def products(self, some: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
        """Products of `some` rows with `rows`, into `out`."""
        if self._gram is None:
            np.matmul(self.t[some], self.t[rows].T, out=out)
        else:
            np.take(self._gram[some], rows, axis=1, out=out, mode="clip")

    def spread(self, scores: np.ndarray) -> np.ndarray:
        """Scores (n, C) less that of the true class, in place."""
        scores -= np.take_along_axis(scores, self.labels[:, None], axis=1)
        return scores

    def gathered(self, a: np.ndarray) -> np.ndarray:
        """The gradient in the scores, from numbers a (n, C) of the pairs: 0 for the true class."""
        return np.where(self.mask, -a.sum(axis=1, keepdims=True), a)


def _mask(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.asarray(labels[:, None] == np.arange(classes))


class PairEquations:
    """Those of the pairs between their bounds: S (t t^T o sign sign^T) / (2 reg) S^T + mu / share,
    one for each of `rows` and `columns`, factorised.

    sign (pairs, C) : +1 at a pair's class, -1 at the true one
    """

    def __init__(self, basis: Basis, free: np.ndarray, reg: float, mu: float) -> None:
        self.basis, self.reg = basis, reg
        i, j = self.rows, self.columns = np.nonzero(free)
        every = np.arange(len(i))
        self.sign = np.zeros((len(i), free.shape[1]))
        self.sign[every, j] = 1.0
        self.sign[every, basis.labels[i]] = -1.0
        # One matrix, in blocks: it may take most of the memory that there is.
        matrix = np.empty((len(i), len(i)))
        for start in range(0, len(i), _BLOCK):
            part = slice(start, start + _BLOCK)
            basis.products(i[part], i, matrix[part])
            matrix[part] *= self.sign[part] @ self.sign.T
        matrix *= 1.0 / (2.0 * reg)
        matrix[every, every] += mu / basis.share[i]
        # Its transpose is the same, and in the order that is factorised in place.
        self.factor = scipy.linalg.cho_factor(matrix.T, overwrite_a=True, check_finite=False)

    def step(
        self, gv: np.ndarray, gb: np.ndarray, rho: float, noise: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The step of weights (C, r) and biases (C,) from their gradients.

        rho : curvature of the biases of their own;  noise (C,) : rounding of gb
        """
        basis, (i, j), sign = self.basis, (self.rows, self.columns), self.sign
        along = basis.spread(basis.t @ gv.T)[i, j] / (2.0 * self.reg)
        q = scipy.linalg.cho_solve(self.factor, np.c_[sign, along], check_finite=False)
        db = np.zeros(len(gb))
        if basis.bias:
            right = sign.T @ q[:, -1] - gb
            db = self._biases(sign.T @ q[:, :-1], right, rho, noise)
        q = q[:, :-1] @ db - q[:, -1]
        flow = np.zeros(basis.mask.shape)
        flow[i, j] = q
        return -(gv + basis.gathered(flow).T @ basis.t) / (2.0 * self.reg), db

    def _biases(
        self, matrix: np.ndarray, right: np.ndarray, rho: float, noise: np.ndarray
    ) -> np.ndarray:
        """The step of the biases. Classes that no pair links have only rho, and move far to meet
        what flows between them."""
        links = np.zeros(matrix.shape, dtype=bool)
        links[self.basis.labels[self.rows], self.columns] = True
        parts, part = connected_components(links, directed=False)
        members = (part[:, None] == np.arange(parts)).astype(float)
        flow, size = members.T @ right, members.sum(axis=0)
        matrix[np.diag_indices(len(right))] += rho
        within = np.linalg.lstsq(matrix, right - members @ (flow / size), rcond=1e-15)[0]
        flow[np.abs(flow) <= members.T @ noise] = 0.0
        step: np.ndarray = within + members @ (flow / (size * rho))
        return step


def _svd(a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(U, s, V) with a = U diag(s) V^T.

    Jacobi's method where columns differ by orders of magnitude: it is as good for the small ones.
    """
    norms = np.linalg.norm(a, axis=0)
    norms = norms[norms > 0.0]
    if not len(norms):
        return np.zeros((len(a), 0)), np.zeros(0), np.zeros((a.shape[1], 0))
    if norms.max() > _ALIKE * norms.min():
        wide = a.shape[0] < a.shape[1]
        out = scipy.linalg.lapack.dgejsv(np.asfortranarray(a.T if wide else a), joba=2)
        size, left, right, work, _, info = out
        if info == 0:
            size = size * (work[0] / work[1])
            return (right, size, left) if wide else (left, size, right)
    left, size, right = np.linalg.svd(a, full_matrices=False)
    return left, size, right.T
