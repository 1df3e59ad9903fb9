"""Losses on CuPy arrays in one kernel: scores are read once, and their gradient takes their place.

A formula of `xclf.kernels` is ten launches, and most of them read and write arrays of the scores'
shape: with many classes that takes as long as the products beside it, with small batches the
launching does. The kernel, _loss.cu, computes the same formulas step by step. It is compiled when
first used, and tried on a few rows against the formula on the host: if it does not compile, does
not start or is wrong, one warning says why, and the formulas are used for the rest of the process.
"""

from __future__ import annotations

import functools
import math
import numbers
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from xclf.objectives._cuda import (
    NULL,
    Trust,
    labels_arguments,
    margin_of,
    options_of,
    source_of,
    strides_of,
)
from xclf.objectives._protocols import DataLoss, RowChunk

from xclf._array_api import Array, accumulator, device, library, namespace, to_host
from xclf.kernels import cross_entropy, hinge
from xclf.objectives._network import Layer, Network, Tape


def scored(
    network: Network,
    layers: list[Layer],
    loss: DataLoss,
    rows: RowChunk,
    *,
    weights: Array | None = None,
    reduction: str = "none",
    need_loss: bool = True,
) -> tuple[Array | None, Array, Tape]:
    """(losses, dscores, tape): `loss` of the scores that `Network.apply` gives, with class axis -2.

    layers : `Network.prepared`;  weights, reduction, need_loss : as the kernels of losses take them
    """
    options: dict[str, Any] = {"weights": weights, "reduction": reduction, "need_loss": need_loss}
    if not _applies(loss, rows.x):
        scores, tape = network.apply(layers, rows.x)
        losses, dscores = loss(scores, rows.labels, axis=-2, **options)
        return losses, dscores, tape
    # The kernel adds the biases: that saves reading and writing the scores once more.
    scores, tape = network.apply(layers, rows.x, bias=False)
    losses, dscores = fused(loss, scores, rows.labels, bias=layers[-1].b, **options)
    return losses, dscores, tape


def fused(
    loss: DataLoss,
    scores: Array,
    labels: Array,
    *,
    bias: Array | None = None,
    weights: Array | None = None,
    reduction: str = "mean",
    need_loss: bool = True,
) -> tuple[Array | None, Array]:
    """`loss(scores + bias, labels, ..., axis=-2)` by the kernel where it can, else by the formula.

    loss : `cross_entropy`, or `hinge` with its margin bound
    scores : (*heads, C, n) CuPy array, OVERWRITTEN with the gradient, which is returned
    bias : (*heads, C, 1) or None
    The rest, what is returned and what is raised: as the formulas have it.
    """
    if not _trust.lost:
        call = Call.of(loss, scores, labels, bias, weights, reduction)
        if call is not None:
            losses = namespace(scores).empty(call.sums, dtype=scores.dtype) if need_loss else None
            try:
                call.launch(kernel_of(call.variant), losses)
            except Exception as error:  # a compiler, a driver, a file that is not there: all of it
                _trust.disable(error)
            else:
                return _reduced(losses, reduction), scores
    scores = scores if bias is None else scores + bias
    options: dict[str, Any] = {"weights": weights, "reduction": reduction, "need_loss": need_loss}
    return loss(scores, labels, axis=-2, **options)


def _applies(loss: DataLoss, x: Array) -> bool:
    """Whether rows x are where the kernel runs, and the loss is one that it computes."""
    return not _trust.lost and margin_of(loss) is not None and library(namespace(x)) == "cupy"


def _reduced(losses: Array | None, reduction: str) -> Array | None:
    if losses is None or reduction == "none":
        return losses
    xp = namespace(losses)
    wide = accumulator(xp, device(losses))
    return xp.astype(xp.sum(losses, axis=-1, dtype=wide), losses.dtype)


_trust = Trust("the CUDA kernel of the losses", "CuPy's own operations take its place")


class Tile(NamedTuple):
    """How a block of threads shares its rows and classes; see _loss.cu."""

    rows: int
    groups: int
    keep: int
    blocks: int


# By the most classes. With these no instance spills registers (sm_75 to sm_120), and where blocks
# share the multiprocessor, one's reading goes on beside another's arithmetic.
_TILES = {
    "float32": {
        16: Tile(128, 1, 16, 8),
        64: Tile(32, 8, 8, 4),
        256: Tile(32, 16, 16, 2),
        1024: Tile(16, 32, 32, 2),
    },
    "float64": {
        16: Tile(128, 1, 16, 5),
        64: Tile(32, 8, 8, 3),
        256: Tile(32, 16, 16, 1),
        1024: Tile(8, 64, 16, 1),
    },
}
_ENDLESS = Tile(32, 16, 0, 2)
_MOST_OF_A_MASK = 64  # reading a mask takes registers too, and so large ones are rare

_REALS = {"float32": "float", "float64": "double"}
_MOST_HEADS, _MOST_BLOCKS = 65535, 2**31 - 1  # of a grid: what CUDA allows


class Variant(NamedTuple):
    """What one compiled kernel is made for."""

    dtype: str
    is_hinge: bool
    is_mask: bool
    tile: Tile

    @classmethod
    def of(cls, dtype: str, is_hinge: bool, is_mask: bool, classes: int) -> Variant:
        """The variant for so many classes."""
        tiles = _TILES[dtype]
        most = next((most for most in tiles if classes <= most), 0)
        if is_mask and most > _MOST_OF_A_MASK:
            most = 0
        return cls(dtype, is_hinge, is_mask, tiles.get(most, _ENDLESS))

    @property
    def options(self) -> tuple[str, ...]:
        """What the compiler is told."""
        macros = {
            "REAL": _REALS[self.dtype],
            "HINGE": int(self.is_hinge),
            "MASK": int(self.is_mask),
            **{name.upper(): value for name, value in self.tile._asdict().items()},
        }
        return options_of(macros)


class Call(NamedTuple):
    """A launch of the kernel, all but where the losses go."""

    variant: Variant
    grid: tuple[int, int]
    arguments: tuple[Any, ...]
    sums: tuple[int, ...]

    @classmethod
    def of(
        cls,
        loss: DataLoss,
        scores: Array,
        labels: Array,
        bias: Array | None,
        weights: Array | None,
        reduction: str,
    ) -> Call | None:
        """What computes this, or None where the kernel does not: the formula then does, or says
        what is wrong."""
        margin, dtype = margin_of(loss), str(scores.dtype)
        if (
            margin is None
            or dtype not in _REALS
            or scores.ndim not in (2, 3)
            or not scores.flags.c_contiguous
            or not scores.size
            or (reduction == "mean" and weights is not None)
        ):
            return None
        *heads, classes, rows = map(int, scores.shape)
        number = scores.dtype.type
        places = (
            labels_arguments(labels, classes, rows),
            _bias(bias, scores),
            _weights(weights, scores),
            _margins(margin, scores),
        )
        if reduction not in ("mean", "sum", "none") or None in places:
            return None
        variant = Variant.of(dtype, loss is not cross_entropy, labels.ndim == 2, classes)
        grid = (-(-rows // variant.tile.rows), math.prod(heads))
        if grid[0] > _MOST_BLOCKS or grid[1] > _MOST_HEADS:
            return None
        of_labels, of_bias, of_weights, of_margins = places
        factor = number(1.0 / rows if reduction == "mean" else 1.0)
        sizes = (np.int64(classes), np.int64(rows))
        arguments = (scores, *sizes, *of_labels, *of_bias, *of_weights, factor, *of_margins)
        return cls(variant, grid, arguments, (*heads, rows))

    def launch(self, kernel: Any, losses: Array | None) -> None:
        tile = self.variant.tile
        where = NULL if losses is None else losses
        kernel(self.grid, (tile.rows, tile.groups), (*self.arguments, where))


def _bias(bias: Array | None, scores: Array) -> Any:
    if bias is None:
        return NULL, np.int64(0)
    if bias.shape != (*scores.shape[:-1], 1) or bias.dtype != scores.dtype:
        return None
    *of_heads, of_classes, _ = strides_of(bias)
    if of_classes != 1 and bias.shape[-2] != 1:
        return None
    return bias, of_heads[0] if of_heads else np.int64(0)


def _weights(weights: Array | None, scores: Array) -> Any:
    if weights is None:
        return NULL, np.int64(0), np.int64(0)
    shape = tuple(scores.shape)
    if weights.dtype != scores.dtype or weights.shape not in (shape[-1:], shape[:-2] + shape[-1:]):
        return None
    return weights, *([np.int64(0)] * (2 - weights.ndim)), *strides_of(weights)


def _margins(margin: Any, scores: Array) -> Any:
    number = scores.dtype.type
    if isinstance(margin, numbers.Real):
        return NULL, number(margin)
    if margin.ndim != 1 or margin.shape != scores.shape[:-2] or margin.dtype != scores.dtype:
        return None
    if not margin.flags.c_contiguous:
        return None
    return margin, number(0.0)


@functools.cache
def kernel_of(variant: Variant) -> Any:
    """The kernel as CuPy compiles it, tried out. Raises whatever is raised, RuntimeError if it is
    wrong."""
    import cupy

    kernel = cupy.RawKernel(source_of("_loss.cu"), "xclf_loss", variant.options)
    _try_out(kernel, variant, cupy)
    return kernel


def _try_out(kernel: Any, variant: Variant, cupy: Any) -> None:
    """A few rows of two heads against the formula on the host; RuntimeError where they differ.

    What is off by more than rounding is wrong altogether: the bounds need not be tight.
    """
    tile, dtype = variant.tile, np.dtype(variant.dtype)
    classes, rows = max(1, tile.groups * (tile.keep or 33) - 1), tile.rows + 1
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(2, classes, rows)).astype(dtype)
    labels = rng.integers(classes, size=rows)
    weights, bias = (rng.random(size).astype(dtype) for size in ((2, rows), (2, classes, 1)))
    loss: Any = partial(hinge, margin=0.5) if variant.is_hinge else cross_entropy
    if variant.is_mask:
        labels = np.arange(classes)[:, None] == labels
    options: dict[str, Any] = {"weights": weights, "reduction": "none"}
    want = loss(scores + bias, labels, axis=-2, **options)
    got = cupy.asarray(scores), cupy.asarray(labels), cupy.asarray(bias), cupy.asarray(weights)
    losses = cupy.empty((2, rows), dtype=dtype)
    call = Call.of(loss, *got, "none")
    assert call is not None
    call._replace(variant=variant).launch(kernel, losses)
    bound = math.sqrt(np.finfo(dtype).eps) / 10
    for name, found, expected in zip(("losses", "gradients"), (losses, got[0]), want, strict=True):
        error = np.max(np.abs(to_host(found) - expected)) / np.max(np.abs(expected))
        if not error <= bound:
            raise RuntimeError(f"{name} of {variant} are off by {error:.2g} of the largest")
