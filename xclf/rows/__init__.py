"""Where rows come from, and the one loop over them."""

from xclf.rows._rows import MASK_CLASSES, Chunk, Rows, map_rows, sum_over_rows

__all__ = ["MASK_CLASSES", "Chunk", "Rows", "map_rows", "sum_over_rows"]
