"""The loss of CuPy scores in one CUDA kernel: scores are read once, and become their gradient.

A formula of `xclf.kernels` is ten launches, and most of them read and write arrays of the scores'
shape: with many classes that takes as long as the products beside it, with small batches the
launching does. The kernel, loss.cu, computes the same formulas step by step. It is compiled when
first used, and compared on a few rows with the formula on the host.
"""

from __future__ import annotations

import functools
import math
import numbers
from dataclasses import replace
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from xclf._array_api import Array, accumulator, device, loaded, namespace, to_host
from xclf.accelerate._registry import Accelerated, Accelerator, Request
from xclf.accelerate.cuda._support import attempt, missing, on_cupy
from xclf.objectives import Hinge, Layer, Loss, Network, RowChunk, Softmax, SquaredHinge, Tape

#: The losses that the kernel computes, and no subclasses of them, by their number in loss.cu.
_NUMBERS: dict[type[Loss], int] = {Softmax: 0, Hinge: 1, SquaredHinge: 2}


def score(
    network: Network,
    layers: list[Layer],
    loss: Loss,
    chunk: RowChunk,
    *,
    weights: Array | None = None,
    reduction: str = "none",
    need_loss: bool = True,
) -> tuple[Array | None, Array, Tape]:
    """`Operations.score`; the kernel adds the last biases, which saves a pass over the scores."""
    options: dict[str, Any] = {"weights": weights, "reduction": reduction, "need_loss": need_loss}
    scores, tape = network.apply(layers, chunk.x, bias=False)
    return *loss_in_place(loss, scores, chunk.labels, bias=layers[-1].b, **options), tape


def loss_in_place(
    loss: Loss,
    scores: Array,
    labels: Array,
    *,
    bias: Array | None = None,
    weights: Array | None = None,
    reduction: str = "mean",
    need_loss: bool = True,
) -> tuple[Array | None, Array]:
    """`loss(scores + bias, labels, ..., axis=-2)` by the kernel where it can, else by the formula.

    scores : (*heads, C, n) CuPy array, OVERWRITTEN with the gradient, which is returned
    bias : (*heads, C, 1) or None
    The rest, what is returned and what is raised: as the formulas have it.
    """
    call = Call.of(loss, scores, labels, bias, weights, reduction)
    if call is not None:
        losses = namespace(scores).empty(call.sums, dtype=scores.dtype) if need_loss else None
        if attempt(LOSS_KERNEL, lambda: call.launch(kernel_of(call.variant), losses)):
            return _reduced(losses, reduction), scores
    scores = scores if bias is None else scores + bias
    return loss(scores, labels, weights=weights, reduction=reduction, axis=-2, need_loss=need_loss)


def _reduced(losses: Array | None, reduction: str) -> Array | None:
    if losses is None or reduction == "none":
        return losses
    xp = namespace(losses)
    wide = accumulator(xp, device(losses))
    return xp.astype(xp.sum(losses, axis=-1, dtype=wide), losses.dtype)


class Tile(NamedTuple):
    """How a block of threads shares its rows and classes; see loss.cu."""

    rows: int
    groups: int
    keep: int
    blocks: int


# By the most classes. With these no instance spills registers from sm_75 to sm_120, but for two of
# the largest float32 tile (softmax 8 bytes on sm_80, squared hinge up to 84). Where blocks share
# the multiprocessor, one reads while another computes.
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
_MOST_OF_A_MASK = 64  # `Rows` has masks for no more classes
_MOST_HEADS, _MOST_BLOCKS = 65535, 2**31 - 1  # of a grid, by CUDA
_NULL = np.uintp(0)


class Variant(NamedTuple):
    """What a kernel is compiled for."""

    dtype: str
    loss: type[Loss]
    is_mask: bool
    tile: Tile

    @classmethod
    def of(cls, dtype: str, loss: type[Loss], is_mask: bool, classes: int) -> Variant | None:
        """The variant for so many classes, or None."""
        if loss not in _NUMBERS or (is_mask and classes > _MOST_OF_A_MASK):
            return None
        tiles = _TILES.get(dtype, {})
        tile = next((tile for most, tile in tiles.items() if classes <= most), None)
        return None if tile is None else cls(dtype, loss, is_mask, tile)

    @property
    def options(self) -> tuple[str, ...]:
        """For the compiler."""
        macros = {
            "REAL": "float" if self.dtype == "float32" else "double",
            "LOSS": _NUMBERS[self.loss],
            "MASK": int(self.is_mask),
            **{name.upper(): value for name, value in self.tile._asdict().items()},
        }
        return ("-std=c++17", *(f"-DXCLF_{name}={value}" for name, value in macros.items()))


class Call(NamedTuple):
    """A launch of the kernel: all arguments but the losses, whose shape is `sums`."""

    variant: Variant
    grid: tuple[int, int]
    arguments: tuple[Any, ...]
    sums: tuple[int, ...]

    @classmethod
    def of(
        cls,
        loss: Loss,
        scores: Array,
        labels: Array,
        bias: Array | None,
        weights: Array | None,
        reduction: str,
    ) -> Call | None:
        """The launch, or None where the kernel cannot compute this: layouts that it does not read,
        and all that the formula raises an error for."""
        if not 2 <= scores.ndim <= 3 or not scores.flags.c_contiguous or not scores.size:
            return None
        *heads, classes, rows = map(int, scores.shape)
        number = scores.dtype.type
        variant = Variant.of(scores.dtype.name, type(loss), labels.ndim == 2, classes)
        parts = (
            _labels(labels, classes, rows),
            _bias(bias, scores),
            _weights(weights, scores),
            _margin(getattr(loss, "margin", 0.0), scores),
        )
        grid = (-(-rows // (variant.tile.rows if variant else 1)), math.prod(heads))
        unweighted_mean = reduction == "mean" and weights is None
        if (
            variant is None
            or None in parts
            or not (unweighted_mean or reduction in ("sum", "none"))
            or grid[0] > _MOST_BLOCKS
            or grid[1] > _MOST_HEADS
        ):
            return None
        of_labels, of_bias, of_weights, of_margin = parts
        factor = number(1.0 / rows if reduction == "mean" else 1.0)
        sizes = (np.int64(classes), np.int64(rows))
        arguments = (scores, *sizes, *of_labels, *of_bias, *of_weights, factor, *of_margin)
        return cls(variant, grid, arguments, (*heads, rows))

    def launch(self, kernel: Any, losses: Array | None) -> None:
        tile = self.variant.tile
        out = _NULL if losses is None else losses
        kernel(self.grid, (tile.rows, tile.groups), (*self.arguments, out))


def _strides(a: Array) -> list[np.int64]:
    return [np.int64(stride // a.dtype.itemsize) for stride in a.strides]


def _labels(labels: Array, classes: int, rows: int) -> Any:
    if labels.shape == (rows,) and labels.dtype == np.int64:
        return labels, np.int64(0), *_strides(labels)
    if labels.shape == (classes, rows) and labels.dtype == np.bool_:
        return labels, *_strides(labels)
    return None


def _bias(bias: Array | None, scores: Array) -> Any:
    if bias is None:
        return _NULL, np.int64(0)
    if bias.shape != (*scores.shape[:-1], 1) or bias.dtype != scores.dtype:
        return None
    *of_heads, of_classes, _ = _strides(bias)
    if of_classes != 1 and bias.shape[-2] != 1:
        return None
    return bias, of_heads[0] if of_heads else np.int64(0)


def _weights(weights: Array | None, scores: Array) -> Any:
    if weights is None:
        return _NULL, np.int64(0), np.int64(0)
    shape = tuple(scores.shape)
    if weights.dtype != scores.dtype or weights.shape not in (shape[-1:], shape[:-2] + shape[-1:]):
        return None
    return weights, *([np.int64(0)] * (2 - weights.ndim)), *_strides(weights)


def _margin(margin: Any, scores: Array) -> Any:
    number = scores.dtype.type
    if isinstance(margin, numbers.Real):
        return _NULL, number(margin)
    if margin.ndim != 1 or margin.shape != scores.shape[:-2] or margin.dtype != scores.dtype:
        return None
    return (margin, number(0.0)) if margin.flags.c_contiguous else None


@functools.cache
def kernel_of(variant: Variant) -> Any:
    """The kernel as CuPy compiles it, tried out. Raises RuntimeError if it is wrong, and whatever
    CuPy raises."""
    cupy: Any = loaded("cupy")
    source = resources.files(__package__).joinpath("loss.cu").read_text(encoding="utf-8")
    kernel = cupy.RawKernel(source, "xclf_loss", variant.options)
    _try_out(kernel, variant, cupy)
    return kernel


def _try_out(kernel: Any, variant: Variant, cupy: Any) -> None:
    """Compare a few rows of two heads with the formula on the host; RuntimeError if they differ.

    A fault is off by far more than rounding: the bounds need not be tight.
    """
    tile, dtype = variant.tile, np.dtype(variant.dtype)
    classes, rows = max(1, tile.groups * tile.keep - 1), tile.rows + 1
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(2, classes, rows)).astype(dtype)
    labels = rng.integers(classes, size=rows)
    weights, bias = (rng.random(size).astype(dtype) for size in ((2, rows), (2, classes, 1)))
    loss = variant.loss()
    if variant.is_mask:
        labels = np.arange(classes)[:, None] == labels
    want = loss(scores + bias, labels, weights=weights, reduction="none", axis=-2)
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


def accelerate(chosen: Accelerated, request: Request) -> Accelerated:
    """The kernel, for CuPy rows and the losses that it computes."""
    if not on_cupy(request) or request.label_sets:
        return chosen
    dtype, classes = np.dtype(request.dtype).name, request.network.widths[-1]
    if Variant.of(dtype, type(request.loss), False, classes) is None:
        return chosen
    return chosen._replace(operations=replace(chosen.operations, score=score))


LOSS_KERNEL = Accelerator(
    "cuda_loss_kernel",
    "softmax and hinge losses of CuPy scores, up to 1024 classes; no result of a device yet",
    default=False,
    missing=missing,
    accelerate=accelerate,
)
