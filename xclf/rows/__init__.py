"""Where rows come from, and the one loop over them."""

from xclf.rows._block_folds import (
    BlockFolds,
    Subset,
    SubsetRows,
    class_counts,
    consecutive_folds,
    given_folds,
    labels_at,
    labels_of,
    stratified_folds,
    subsets_joined,
)
from xclf.rows._block_judged import Judged, count_guesses, map_pieces
from xclf.rows._block_rows import BlockRows, parts_of
from xclf.rows._block_shares import Drawing
from xclf.rows._block_tasks import join_blocks
from xclf.rows._blocks import (
    FEW,
    GATHERED,
    MANY,
    BlockColumn,
    Blocks,
    BlockWeights,
    Engine,
    SparseBlocks,
    group_blocks,
    own_labels,
    plain,
)
from xclf.rows._cluster import ClusterEngine
from xclf.rows._fingerprint import fingerprint
from xclf.rows._local_blocks import LocalEngine, Source
from xclf.rows._map_rows import map_rows
from xclf.rows._mapped import is_mapped, off_file
from xclf.rows._memory_budget import MemoryBudget, in_words, parse_bytes
from xclf.rows._precision import PRECISIONS, product_precision
from xclf.rows._rows import MASK_CLASSES, Chunk, Rows, bytes_per_row, sum_over_rows
from xclf.rows._shards import PerRow
from xclf.rows._sketch import RowSketch, row_hashes
from xclf.rows._stream import Sharded, Streamed, sent_sparse, shard_rows, slices
from xclf.rows._sums import BLOCK, feature_parts, keeps_columns
from xclf.rows._threads import blas_threads, blas_width, in_threads, own_threads

__all__ = [
    "BLOCK",
    "FEW",
    "GATHERED",
    "MANY",
    "MASK_CLASSES",
    "PRECISIONS",
    "BlockColumn",
    "BlockFolds",
    "BlockRows",
    "BlockWeights",
    "Blocks",
    "Chunk",
    "ClusterEngine",
    "Drawing",
    "Engine",
    "Judged",
    "LocalEngine",
    "MemoryBudget",
    "PerRow",
    "RowSketch",
    "Rows",
    "Sharded",
    "Source",
    "SparseBlocks",
    "Streamed",
    "Subset",
    "SubsetRows",
    "blas_threads",
    "blas_width",
    "bytes_per_row",
    "class_counts",
    "consecutive_folds",
    "count_guesses",
    "feature_parts",
    "fingerprint",
    "given_folds",
    "group_blocks",
    "in_threads",
    "in_words",
    "is_mapped",
    "join_blocks",
    "keeps_columns",
    "labels_at",
    "labels_of",
    "map_pieces",
    "map_rows",
    "off_file",
    "own_labels",
    "own_threads",
    "parse_bytes",
    "parts_of",
    "plain",
    "product_precision",
    "row_hashes",
    "sent_sparse",
    "shard_rows",
    "slices",
    "stratified_folds",
    "subsets_joined",
    "sum_over_rows",
]
