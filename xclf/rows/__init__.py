"""Where rows come from, and the one loop over them."""

from xclf.rows._rows import Chunk, Rows, sum_over_rows

__all__ = ["Chunk", "Rows", "sum_over_rows"]
