"""Where rows come from, and the one loop over them."""

from xclf.rows._lanes import PerRow
from xclf.rows._precision import PRECISIONS, products
from xclf.rows._room import Room, in_words, parse_bytes
from xclf.rows._rows import MASK_CLASSES, Chunk, Rows, bytes_per_row, map_rows, sum_over_rows
from xclf.rows._stream import Split, Streamed, split
from xclf.rows._threads import blas_threads, blas_width, in_threads, own_threads

__all__ = [
    "MASK_CLASSES",
    "PRECISIONS",
    "Chunk",
    "PerRow",
    "Room",
    "Rows",
    "Split",
    "Streamed",
    "blas_threads",
    "blas_width",
    "bytes_per_row",
    "in_threads",
    "in_words",
    "map_rows",
    "own_threads",
    "parse_bytes",
    "products",
    "split",
    "sum_over_rows",
]
