"""Sparse rows from files: .npz as `scipy.sparse.save_npz` writes them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import scipy.sparse

from xclf._sparse_input import canonical
from xclf.data._dataset import DataError, SparseArray

#: Members of such an archive, by the format that it names.
_PARTS = {"csr": ("indices", "indptr"), "csc": ("indices", "indptr"), "coo": ("row", "col")}


def is_sparse_archive(names: Collection[str]) -> bool:
    """Whether these are the members of a sparse matrix."""
    return {"format", "shape", "data"} <= set(names)


def sparse_rows(
    path: Path, names: Collection[str], member: Callable[[str], np.ndarray]
) -> SparseArray:
    """The matrix of an archive as canonical CSR.

    member : the array of that name
    """
    kind = member("format").reshape(-1)[:1].tolist()
    form = kind[0].decode("ascii", "replace") if kind and isinstance(kind[0], bytes) else kind[:1]
    form = form if isinstance(form, str) else str(form[0]) if form else ""
    if form not in _PARTS or not set(_PARTS[form]) <= set(names):
        raise DataError(
            f"{path}: holds a sparse matrix of the format {form!r}; save X.tocsr() instead"
        )
    shape = tuple(int(size) for size in member("shape").reshape(-1).tolist())
    data, first, second = (np.asarray(member(name)) for name in ("data", *_PARTS[form]))
    try:
        if form == "coo":
            matrix = scipy.sparse.coo_array((data, (first, second)), shape=shape)
        else:
            kinds = {"csr": scipy.sparse.csr_array, "csc": scipy.sparse.csc_array}
            matrix = kinds[form]((data, first, second), shape=shape)
        rows: SparseArray = canonical(matrix).matrix
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    return rows
