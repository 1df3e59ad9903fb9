"""How many heads are trained at a time."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from xclf.sweep._heads import Head
from xclf.training.full_batch import MEMORY

#: Bytes for parameters and what the solvers keep beside them, where `max_memory` says nothing.
BUDGET = 2 << 30

# Vectors of a head's size that are alive at once, beside the curvature pairs of full-batch fits:
# parameters, slopes, directions, an update rule's state, the best so far, and temporaries.
_VECTORS = 12


def heads_at_once(X: Any, head: Head) -> int:
    """Heads like `head` whose training stays within max_memory, or 2 GB; one at least.

    A full-batch head keeps up to 2 * 50 vectors of its curvature, and for the hinge a multiplier
    for each row and class; a minibatch head a dozen vectors.
    """
    budget = head.model.max_memory or BUDGET
    widths = head.model._widths(len(head.classes))
    size = sum(m * (d + 1) for d, m in pairwise(widths))
    itemsize = 8
    per_head = _VECTORS * size * itemsize
    if head.full_batch:
        per_head += 2 * MEMORY * size * itemsize
        if head.model._loss_name == "hinge":
            per_head += 2 * int(X.shape[0]) * widths[-1] * itemsize
    return int(max(1, budget // per_head))
