"""Where rows come from, and the one loop over them."""

from xclf.rows._rows import MASK_CLASSES, Chunk, Rows, map_rows, sum_over_rows
from xclf.rows._threads import blas_threads

__all__ = ["MASK_CLASSES", "Chunk", "Rows", "blas_threads", "map_rows", "sum_over_rows"]
