"""Eigenvectors of symmetric matrices, on every library, by the solver that is fastest there."""

from __future__ import annotations

import numpy as np

from xclf._array_api import Array, Namespace, from_host, namespace, to_host

# Rows of a NumPy matrix above which LAPACK's evr driver is used, and above which in place; rows of
# the matrices of a stack up to which they are solved on the host.
_EVR, _IN_PLACE, _STACK_ON_HOST = 256, 1024, 64


def eigh(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors of symmetric (D, D) or (K, D, D), in its namespace and device.

    On the host: matrices of a namespace without the standard's optional extension `linalg`, and
    stacks with D <= 64, for which a GPU's solver would be called once a matrix. A NumPy matrix of
    more than 1024 rows is overwritten.
    """
    xp, size = namespace(matrix), matrix.shape[-1]
    if not has_linalg(xp) or (matrix.ndim > 2 and size <= _STACK_ON_HOST):
        values, vectors = np.linalg.eigh(to_host(matrix))
        return from_host(values, matrix), from_host(vectors, matrix)
    if matrix.ndim > 2:  # CuPy's batched solver is made for a few dozen rows
        pairs = [eigh(matrix[k, ...]) for k in range(matrix.shape[0])]
        return xp.stack([pair[0] for pair in pairs]), xp.stack([pair[1] for pair in pairs])
    if isinstance(matrix, np.ndarray) and size > _EVR:
        # As fast as NumPy's driver, with half the memory. In place it needs columns in order, which
        # are the rows of a symmetric matrix.
        import scipy.linalg

        own = matrix if size > _IN_PLACE else matrix.copy()
        values, vectors = scipy.linalg.eigh(
            own.T, driver="evr", overwrite_a=True, check_finite=False
        )
        return values, vectors
    values, vectors = xp.linalg.eigh(matrix)
    return values, vectors


def has_linalg(xp: Namespace) -> bool:
    """Whether a namespace has the standard's optional extension `linalg`."""
    try:
        return callable(xp.linalg.eigh)
    except (AttributeError, RuntimeError):  # array-api-strict raises for one that is switched off
        return False
