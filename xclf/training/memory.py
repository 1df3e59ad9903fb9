"""Memory planning: the least that a fit needs, the budget for its choices, and how many heads are
trained at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from xclf import _array_api
from xclf._array_api import Array
from xclf._sparse import SparseMatrix
from xclf.objectives import Network
from xclf.optim import LEAST_PAIRS
from xclf.rows import (
    BLOCK,
    MASK_CLASSES,
    MemoryBudget,
    Streamed,
    blas_width,
    bytes_per_row,
    in_words,
    parse_bytes,
)
from xclf.training._score_space import COPIES, FEW, PAIRS, holds_copies
from xclf.training.lbfgs_fit import MEMORY, PAIRS_FREE
from xclf.training.minibatch import probe_rows

#: Without max_memory a fit on the CPU stays within so many bytes, and this share of X, beyond X; of
#: sparse X, which takes little itself, COPIES of it.
FREE, SHARE = 200_000_000, 10

# Vectors of the parameters' size that are alive at once, in float64: parameters, gradients,
# directions, temporaries.
_VECTORS = 12

# Rows of the smallest chunk: passes over fewer at a time are all overhead.
_ROWS = 64

# Bytes a row for labels on their way to indices: sorted, permuted, inverted.
_LABELS = 32

# Bytes a row for the order of an epoch on its way to a device: in one piece, pinned, and there.
_ORDER = 24

# Columns past which a product with sparse rows runs no faster per column, and out of caches.
_COLUMNS = 128

# The least budget for a fit's choices without max_memory.
_LEAST = 16 << 20

#: Bytes for the heads that are trained together, without max_memory.
TOGETHER = 2 << 30


@dataclass(frozen=True)
class FitShape:
    """The properties of a fit that its memory depends on.

    weight_vectors : vectors of row weights, 0 without any
    label_sets : heads share so many sets of labels, one if all have the same
    multipliers : whether the method keeps a number for each class of each row
    widens : whether it also passes over the rows in float64
    batch, held_out : of a minibatch fit, the rows of a batch, and the share of rows that is held
        out; batch 0 stands for a full-batch fit
    drawn : of a minibatch fit, the rows that it is about, where those are not all
    standardize : whether features get mean 0 and deviation 1
    penalised : whether every head has a penalty, as the space of the scores asks for
    """

    network: Network
    x: Array
    dtype: Any
    weight_vectors: int = 0
    label_sets: int = 1
    multipliers: bool = False
    widens: bool = False
    batch: int = 0
    held_out: float = 0.0
    drawn: int | None = None
    standardize: bool = False
    penalised: bool = True

    @property
    def itemsize(self) -> int:
        return 8 if self.dtype == _array_api.namespace(self.x).float64 else 4

    def needed(self, heads: int) -> int:
        """Least bytes of a fit of so many heads beyond X, whatever is chosen."""
        x, widths, itemsize = self.x, self.network.widths, self.itemsize
        n_rows, width = int(x.shape[0]), heads * max(widths[1:])
        workers, labels, needed = self._workers(), self._label(), self._beside_rows()
        size = heads * (self.network.size if self.batch else self._vector)
        if self.batch:
            # Parameters, gradients and an update rule's state, in the dtype of the rows.
            needed += size * (8 + _VECTORS * itemsize)
            needed += 0 if _array_api.is_host(x) else n_rows * _ORDER
            needed += self._copies() * (row_bytes(x) + labels + self.weight_vectors * itemsize)
            # A minibatch, or a pass, the last of which is in float64: the buffers of one serve the
            # other.
            batch, labelled = self._row_of_batch(width), self._labels_of(heads)
            wide = 0 if itemsize == 8 else 8 * (2 * _values(x) + 6 * width)
            batch, each = batch + labelled, max(batch, wide) + labelled
            passed = workers * min(_ROWS, n_rows) * each
            return needed + max(min(self.batch, n_rows) * batch, passed)
        needed += size * (8 * _VECTORS + 2 * LEAST_PAIRS * itemsize)
        # Every worker adds up sums of its own, and one or two wait to be added to the total.
        if isinstance(x, SparseMatrix):
            # Weights by feature, the sum, and gradients in the scores of a block of rows.
            needed += heads * self.network.size * (16 + itemsize)
            needed += 2 * min(BLOCK, n_rows) * width * itemsize
        else:
            needed += size * (2 * workers + 1) * (8 + itemsize if workers > 1 else 0)
        each = bytes_per_row(x, self.dtype, width) + self._labels_of(heads)
        if self.multipliers:
            # Multipliers, and again while heads that float32 cannot finish go on in float64, which
            # takes weights along.
            needed += 8 * n_rows * (heads * widths[-1] + self.weight_vectors)
            needed += n_rows * heads * widths[-1] * (itemsize if itemsize == 4 else 8)
        if self.widens:  # a certificate is computed in float64, from rows and two copies
            each = 3 * 8 * _values(x) + 2 * each
        return needed + workers * min(_ROWS, n_rows) * each

    def needed_before(self) -> int:
        """Bytes for the moments of all features, before the fit allocates anything."""
        if not self.standardize:
            return 0
        each = bytes_per_row(self.x, self.dtype, self.network.widths[0])
        return self._beside_rows() + self._workers() * min(_ROWS, int(self.x.shape[0])) * each

    @property
    def _vector(self) -> int:
        """Numbers of a head in the vectors of a full-batch method."""
        if self.in_scores:
            return 2 * (len(self.x) + 1) * self.network.widths[1]
        return self.network.size

    @property
    def in_scores(self) -> bool:
        """Whether the fit is in the space of the scores, where there is memory for that."""
        x, widths = self.x, self.network.widths
        certified = self.widens and self.penalised and len(widths) == 2
        wide = isinstance(x, SparseMatrix) and len(x) <= FEW * widths[0]
        return certified and wide and x.in_host_memory and hasattr(x, "matrix")

    def _workers(self) -> int:
        return blas_width() if _array_api.is_host(self.x) else 1

    def _label(self) -> int:
        """Bytes for the labels of a row: a mask of few classes, integers of many or of several."""
        masked = self.label_sets == 1 and self.network.widths[-1] <= MASK_CLASSES
        return self.network.widths[-1] if masked else 8 * self.label_sets

    def _labels_of(self, heads: int) -> int:
        """Bytes for a row of a chunk, whose labels are those of each head."""
        return 0 if self.label_sets == 1 else 2 * 8 * heads

    def _beside_rows(self) -> int:
        """Bytes for the labels and weights of all rows."""
        return int(self.x.shape[0]) * (
            _LABELS + self._label() + self.weight_vectors * (8 + self.itemsize)
        )

    def _row_of_batch(self, width: int) -> int:
        """Bytes of one row of a minibatch: as gathered, widened and centred, all at once."""
        x, features = self.x, self.network.widths[0]
        each = bytes_per_row(x, self.dtype, width)  # with one copy of them
        if isinstance(x, SparseMatrix):
            return each + row_bytes(x)
        if x.dtype != self.dtype and not isinstance(x, Streamed):
            each += features * _itemsize(x)
        return each + (features * self.itemsize if self.standardize and self.network.bias else 0)

    def _copies(self) -> int:
        """Rows that a minibatch fit copies: those of its watched sample and those held out.
        Streamed rows stay where they are."""
        if isinstance(self.x, Streamed):
            return 0
        total = int(self.x.shape[0])
        count = total if self.drawn is None else self.drawn
        held = math.ceil(count * self.held_out)
        watched = probe_rows(count - held)
        # All rows are watched as they are, unless there are some that are not trained on.
        return held + (watched if watched < total or self.weight_vectors else 0)

    def heads_within(self, most: int, levels: int = 1, beside: int = 0) -> int:
        """Heads, at least one, that fit into `most` bytes with all their curvature pairs, within
        the bound of those.

        levels : of a path that they go along, one after another, with the pairs of one
        beside : bytes that are shared by the heads of so many levels
        """
        shared = self.needed(0)
        each = self.needed(1) - shared
        if self.batch:
            return max(1, (most - shared) // each)
        pair = 2 * self._vector * self.itemsize
        pairs = MEMORY if self._vector == self.network.size else PAIRS
        each += ((pairs - LEAST_PAIRS) * pair + beside) // levels
        within = min((most - shared) // each, levels * PAIRS_FREE // (pairs * pair))
        if isinstance(self.x, SparseMatrix):
            within = min(within, _COLUMNS // self.network.widths[-1])
        return max(1, within)


def memory_budget(
    shape: FitShape, max_memory: Any, *, taken: int = 0, heads: int = 1
) -> MemoryBudget:
    """The memory budget of a fit of `heads` models of a shape.

    max_memory : the estimator's parameter; where it is None a CPU has FREE bytes and a share of X,
        and a device no bound
    taken : bytes that X itself takes of it, moved to a device

    Raises ValueError if max_memory is less than the fit needs in any case, and says what that is.
    """
    most, x = parse_bytes(max_memory), shape.x
    if most is None and not _array_api.is_host(x):
        return MemoryBudget()
    needed = shape.needed(heads) + taken
    if most is None:
        if isinstance(x, SparseMatrix):
            return MemoryBudget(max(_LEAST, FREE - needed) + COPIES * x.nbytes)
        size = FREE + int(x.shape[0]) * int(x.shape[1]) * x.dtype.itemsize // SHARE
        return MemoryBudget(max(_LEAST, size - needed))
    if shape.in_scores and not holds_copies(x, most - needed):
        shape = replace(shape, penalised=False)  # too little for the space of the scores
        needed = shape.needed(heads) + taken
    least = max(needed, shape.needed_before() + taken)
    if most < least:
        raise ValueError(
            f"max_memory={max_memory!r} cannot be kept: this fit takes at least "
            f"{in_words(least)} beyond X"
        )
    return MemoryBudget(most - needed)


def row_bytes(x: Array) -> int:
    """Bytes of a row as X has it."""
    if isinstance(x, SparseMatrix):
        return -(-x.nbytes // max(1, len(x)))
    return int(x.shape[1]) * _itemsize(x)


def _values(x: Array) -> int:
    """Numbers of a row, with their columns where rows are sparse."""
    return 3 * x.row_values if isinstance(x, SparseMatrix) else int(x.shape[1])


def _itemsize(x: Array) -> int:
    """Bytes of an entry; a dtype of the standard need not have `itemsize`."""
    return int(getattr(x.dtype, "itemsize", 8))


def count_label_sets(labels: Array, tasks: Array | None) -> int:
    """T for label sets (T, N), 1 for labels that all heads have."""
    return 1 if tasks is None else int(labels.shape[0])


def count_weight_vectors(weights: Array | None) -> int:
    """One for weights (N,), G for (G, N), 0 for none."""
    return 0 if weights is None else math.prod(weights.shape[:-1])
