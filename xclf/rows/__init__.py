"""Where rows come from, and the one loop over them."""

from xclf.rows._fingerprint import fingerprint
from xclf.rows._memory_budget import MemoryBudget, in_words, parse_bytes
from xclf.rows._precision import PRECISIONS, product_precision
from xclf.rows._rows import MASK_CLASSES, Chunk, Rows, bytes_per_row, map_rows, sum_over_rows
from xclf.rows._shards import PerRow
from xclf.rows._stream import Sharded, Streamed, sent_sparse, shard_rows
from xclf.rows._sums import BLOCK
from xclf.rows._threads import blas_threads, blas_width, in_threads, own_threads

__all__ = [
    "BLOCK",
    "MASK_CLASSES",
    "PRECISIONS",
    "Chunk",
    "MemoryBudget",
    "PerRow",
    "Rows",
    "Sharded",
    "Streamed",
    "blas_threads",
    "blas_width",
    "bytes_per_row",
    "fingerprint",
    "in_threads",
    "in_words",
    "map_rows",
    "own_threads",
    "parse_bytes",
    "product_precision",
    "sent_sparse",
    "shard_rows",
    "sum_over_rows",
]
