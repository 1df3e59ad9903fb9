"""max_memory: what a fit needs in any case, and how much room that leaves for the rest."""

from __future__ import annotations

from typing import Any

from xclf import _xp
from xclf.objectives import Stack
from xclf.optim import LEAST_PAIRS
from xclf.rows import Room, Rows, blas_width, bytes_per_row, in_words, parse_bytes

#: Without max_memory a fit on the CPU stays within so many bytes, and this share of X, beyond X.
FREE, SHARE = 200_000_000, 10

# Vectors of the parameters' size that are alive at once, in float64: parameters, slopes,
# directions, temporaries.
_VECTORS = 12

# Passes over fewer rows at a time than this only wait.
_ROWS = 64

# Bytes a row for labels on their way to indices: sorted, permuted, inverted.
_LABELS = 32

# What the choices get in any case where nobody set a bound.
_LEAST = 16 << 20


def room_for(
    stack: Stack,
    rows: Rows,
    max_memory: Any,
    *,
    taken: int = 0,
    heads: int = 1,
    full_batch: bool = True,
    hinge: bool = False,
) -> Room:
    """The room of a fit of `heads` models to `rows` (whose own is not read).

    max_memory : the estimator's parameter; where it is None a CPU has FREE bytes and a share of X,
        and a device no bound
    taken : bytes that X itself takes of it, moved to a device

    Raises ValueError if max_memory is less than the fit needs in any case, and says what that is.
    """
    most = parse_bytes(max_memory)
    x, host = rows.x, _xp.is_host(rows.x)
    wide = rows.dtype == _xp.namespace(x).float64
    if most is None and not host:
        return Room()
    needed = _needed(stack, rows, 8 if wide else 4, heads, full_batch, hinge)
    needed += taken
    if most is None:
        size = FREE + int(x.shape[0]) * int(x.shape[1]) * x.dtype.itemsize // SHARE
        return Room(max(_LEAST, size - needed))
    if most < needed:
        raise ValueError(
            f"max_memory={max_memory!r} cannot be kept: this fit takes at least "
            f"{in_words(needed)} beyond X"
        )
    return Room(most - needed)


def _needed(
    stack: Stack, rows: Rows, itemsize: int, heads: int, full_batch: bool, hinge: bool
) -> int:
    """Bytes beyond X that no choice makes smaller."""
    n_rows, width = len(rows), heads * max(stack.widths[1:])
    workers = blas_width() if _xp.is_host(rows.x) else 1
    labels = stack.widths[-1] if rows.labels.ndim > 1 else 8
    needed = n_rows * (_LABELS + labels)
    if rows.weights is not None:
        needed += n_rows * (8 + itemsize)
    size = heads * stack.size
    if not full_batch:
        # Parameters, slopes and an update rule's state, in the dtype of the rows.
        return needed + size * (8 + _VECTORS * itemsize)
    needed += size * (8 * _VECTORS + 2 * LEAST_PAIRS * itemsize)
    # Every worker adds up sums of its own, and one or two wait to be added to the total.
    needed += size * (2 * workers + 1) * (8 + itemsize if workers > 1 else 0)
    each = bytes_per_row(rows.x, rows.dtype, width)
    if hinge:
        # Multipliers; and a certificate is computed in float64, from rows and two copies of them.
        needed += 2 * heads * n_rows * stack.widths[-1] * itemsize
        each = 3 * 8 * stack.widths[0] + 2 * each
    return needed + workers * min(_ROWS, n_rows) * each
