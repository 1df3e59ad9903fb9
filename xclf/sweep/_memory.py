"""How many heads are trained at a time."""

from __future__ import annotations

from itertools import pairwise

from xclf import _xp
from xclf._xp import Array
from xclf.estimators._fitting import computing_dtype
from xclf.rows import parse_bytes
from xclf.sweep._heads import Head
from xclf.training.full_batch import MEMORY, PAIRS_FREE

#: Bytes for parameters and what the solvers keep beside them, where `max_memory` says nothing.
BUDGET = 2 << 30

# Vectors of a head's size that are alive at once, beside the curvature pairs of full-batch fits:
# parameters, slopes, directions, an update rule's state, the best so far, and temporaries.
_VECTORS = 12


def budget(head: Head) -> int:
    """Bytes that training may take beside X."""
    return parse_bytes(head.model.max_memory) or BUDGET


def heads_at_once(X: Array, head: Head) -> int:
    """Heads like `head` whose training stays within max_memory, or 2 GB; one at least.

    A full-batch head keeps up to 2 * 50 vectors of its curvature, in the dtype of the rows (what
    there is for them is shared out, so more heads would keep fewer), and for the hinge two numbers
    for each row and class; every head some vectors in float64.
    """
    widths = head.model._widths(len(head.classes))
    size = sum(m * (d + 1) for d, m in pairwise(widths))
    itemsize = 8 if computing_dtype(X) == _xp.namespace(X).float64 else 4
    if not head.full_batch:
        return max(1, budget(head) // (_VECTORS * size * itemsize))
    pairs = 2 * MEMORY * size * itemsize
    each = pairs + 8 * _VECTORS * size
    if head.model._loss_name == "hinge":
        each += 2 * int(X.shape[0]) * widths[-1] * itemsize
    return max(1, min(budget(head) // each, PAIRS_FREE // pairs))
