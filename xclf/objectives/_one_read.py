"""Loss and slope of a linear model of few classes, summed over CuPy rows that are read once.

Two products read the rows twice, and with few classes reading is what they wait for. The kernel,
_one_read.cu, computes scores, the loss and both slopes while a row is in registers, by the formulas
of `xclf.kernels`; bytes and float16 it widens there. As with the kernel of the losses (`_fused`) it
is tried on a few rows before it is used, and if anything about it fails, one warning says why, and
two products do the work.
"""

from __future__ import annotations

import functools
import math
import numbers
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from xclf._xp import Array, library, namespace, to_host
from xclf.kernels import cross_entropy, hinge
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
from xclf.objectives._stack import Layer, Stack, cast

_trust = Trust("the CUDA kernel that reads rows once", "two products take its place")


def one_read(
    stack: Stack, layers: list[Layer], loss: DataLoss, rows: RowChunk
) -> tuple[Array, Array, Array] | None:
    """(loss (*heads,), dw (*heads, C, D), db (*heads, C)): sums over the rows in float64, slopes as
    `Stack.slopes` has them; None where the kernel does not compute this.

    layers : `Stack.prepared`;  heads : none, or a single one
    """
    if _trust.lost or len(layers) != 1 or library(namespace(rows.raw)) != "cupy":
        return None
    try:
        call = Call.of(stack, layers[0], loss, rows)
        return None if call is None else call.sums(kernel_of(call.variant, call.gpu))
    except Exception as error:  # a compiler, a driver, a file that is not there: all of it
        _trust.lose(error)
        return None


class Gpu(NamedTuple):
    """Of a device: its number, multiprocessors, and bytes of shared memory, of a block at most and
    of a multiprocessor."""

    number: int
    multiprocessors: int
    block_bytes: int
    bytes: int


@functools.cache
def _gpu(number: int) -> Gpu:
    from cupy.cuda import runtime

    names = (
        "MultiProcessorCount",
        "MaxSharedMemoryPerBlockOptin",
        "MaxSharedMemoryPerMultiprocessor",
    )
    asked = (getattr(runtime, f"cudaDevAttr{name}") for name in names)
    return Gpu(number, *(int(runtime.deviceGetAttribute(which, number)) for which in asked))


# By the features that are next to each other: runs of them, and slopes, that a thread has in
# registers at most; and warps of a block: 168 registers for each thread, or 128. So no instance
# spills (nvcc, sm_80 to sm_120), but for a few bytes where a block is one warp.
_RUNS, _SLOPES, _FEW_SLOPES = {4: 2, 1: 4}, {4: 80, 1: 60}, 40
_WARPS, _WARPS_OF_FEW = 12, 16
_REGISTERS = 1 << 16
_TILES = (4, 2)
_FEWEST_FEATURES = 256  # below, what is done once a row outweighs what is done for each feature
_ROWS_OF_A_BLOCK = 1024  # a sum in float32 is of no more
_RESERVED = 1024  # bytes of shared memory that every block takes beside what it asks for
_DATA = {"float32": "float", "float16": "Half", "uint8": "Byte"}
_MOST_CLASSES = 20


class Variant(NamedTuple):
    """What one compiled kernel is made for; see _one_read.cu."""

    data: str
    is_hinge: bool
    is_mask: bool
    classes: int
    width: int
    runs: int
    warps: int
    tile: int

    @classmethod
    def of(
        cls, data: str, is_hinge: bool, is_mask: bool, shape: tuple[int, int], width: int, gpu: Gpu
    ) -> Variant | None:
        """The variant for (classes, features), so many of these next to each other; None where a
        multiprocessor has no room for it."""
        classes, features = shape
        if not 2 <= classes <= _MOST_CLASSES or features < _FEWEST_FEATURES:
            return None
        runs = min(_RUNS[width], _SLOPES[width] // (classes * width))
        warps = -(-features // (32 * runs * width))
        for tile in _TILES:
            made = cls(data, is_hinge, is_mask, classes, width, runs, warps, tile)
            fits = made.shared + made.fixed <= gpu.block_bytes
            if fits and warps <= (_WARPS_OF_FEW if made.is_small else _WARPS):
                return made
        return None

    @property
    def threads(self) -> int:
        return 32 * self.warps

    @property
    def is_small(self) -> bool:
        """Whether 128 registers a thread suffice."""
        return self.width > 1 and self.classes * self.runs * self.width <= _FEW_SLOPES

    @property
    def fixed(self) -> int:
        """Bytes of shared memory that the source declares, and some."""
        slopes = 16 * self.tile * -(-self.classes // 4)
        return 4 * self.warps * self.classes * (self.tile + 1) + slopes + 8 * self.warps + 64

    @property
    def shared(self) -> int:
        """Bytes of W and of two tiles of rows."""
        each = 4 * self.classes + 2 * self.tile * np.dtype(self.data).itemsize
        return self.threads * self.runs * self.width * each

    @property
    def blocks(self) -> int:
        """Blocks of a multiprocessor whose registers suffice."""
        # A single warp finds the slopes of a whole tile, and holds more for it.
        few = self.is_small and self.warps > 1
        return max(1, _REGISTERS // (self.threads * (128 if few else 168)))

    @property
    def options(self) -> tuple[str, ...]:
        """What the compiler is told."""
        names = ("classes", "width", "runs", "warps", "tile", "blocks")
        macros = {
            "HINGE": int(self.is_hinge),
            "MASK": int(self.is_mask),
            "DATA": _DATA[self.data],
            **{name.upper(): getattr(self, name) for name in names},
        }
        return options_of(macros)

    def grid(self, rows: int, gpu: Gpu) -> int:
        """Blocks of a launch: as many as there is room for, or a multiple of it."""
        each = min(self.blocks, gpu.bytes // (self.shared + self.fixed + _RESERVED)) or 1
        resident = gpu.multiprocessors * each
        return resident * max(1, math.ceil(rows / (resident * _ROWS_OF_A_BLOCK)))


class Call(NamedTuple):
    """A launch of the kernel, all but where its results go."""

    variant: Variant
    gpu: Gpu
    grid: int
    arguments: tuple[Any, ...]
    features: int
    heads: tuple[int, ...]

    @classmethod
    def of(cls, stack: Stack, layer: Layer, loss: DataLoss, rows: RowChunk) -> Call | None:
        """What computes this, or None where the kernel does not, or where it is not worth it."""
        x, w, margin = rows.raw, layer.w, margin_of(loss)
        *heads, classes, features = map(int, w.shape)
        data = str(x.dtype)
        if (
            not isinstance(margin, numbers.Real)
            or math.prod(heads) != 1
            or w.dtype != np.float32
            or data not in _DATA
            or not w.flags.c_contiguous
            or x.strides[1] != x.dtype.itemsize
            or x.strides[0] % x.dtype.itemsize
        ):
            return None
        labels = labels_arguments(rows.labels, classes, int(x.shape[0]))
        weights, bias = _weights(rows.weights, int(x.shape[0])), _bias(layer)
        if labels is None or weights is None or bias is None:
            return None
        shift = None
        if stack.scale is not None and stack.shift is not None and stack.bias:
            shift = cast(stack.shift, w.dtype)
        gpu = _gpu(int(x.device.id))
        width = 4 if _by_fours(x, w, shift) else 1
        is_mask = rows.labels.ndim == 2
        shape = classes, features
        variant = Variant.of(data, loss is not cross_entropy, is_mask, shape, width, gpu)
        if variant is None:
            return None
        grid = variant.grid(int(x.shape[0]), gpu)
        # Every block's slopes are written and read once more: an eighth of the rows at most.
        if 8 * grid * classes > x.shape[0]:
            return None
        arguments = (
            *(x, np.int64(x.strides[0] // x.dtype.itemsize), np.int64(x.shape[0])),
            *(np.int32(features), w, NULL if shift is None else shift),
            *(bias, *labels, *weights, np.float32(margin)),
        )
        return cls(variant, gpu, grid, arguments, features, tuple(heads))

    def sums(self, kernel: Any) -> tuple[Array, Array, Array]:
        """Launch it, and add up what its blocks have come to."""
        xp, classes = namespace(self.arguments[0]), self.variant.classes
        size = classes * self.features
        slopes = xp.empty((self.grid, size + classes), dtype=xp.float32)
        losses = xp.empty((self.grid,), dtype=xp.float64)
        block, shared = (self.variant.threads, 1), self.variant.shared
        kernel((self.grid, 1), block, (*self.arguments, slopes, losses), shared_mem=shared)
        total = xp.sum(slopes, axis=0, dtype=xp.float64)
        return (
            xp.reshape(xp.sum(losses), self.heads),
            xp.reshape(total[:size], (*self.heads, classes, self.features)),
            xp.reshape(total[size:], (*self.heads, classes)),
        )


def _bias(layer: Layer) -> Any:
    if layer.b is None:
        return NULL
    together = layer.b.shape[-2] == 1 or strides_of(layer.b)[-2] == 1
    return layer.b if together and layer.b.dtype == np.float32 else None


def _weights(weights: Array | None, rows: int) -> Any:
    if weights is None:
        return NULL, np.int64(0)
    if weights.dtype != np.float32 or weights.size != rows:
        return None
    return weights, strides_of(weights)[-1]


def _by_fours(x: Array, *others: Array | None) -> bool:
    """Whether four features next to each other are one aligned piece of memory, in all rows."""
    whole = 4 * x.dtype.itemsize
    if x.shape[1] % 4 or x.data.ptr % whole or x.strides[0] % whole:
        return False
    return all(a is None or a.data.ptr % 16 == 0 for a in others)


@functools.cache
def kernel_of(variant: Variant, gpu: Gpu) -> Any:
    """The kernel as CuPy compiles it, tried out on that device. Raises whatever is raised,
    RuntimeError if it is wrong."""
    import cupy

    kernel = cupy.RawKernel(source_of("_one_read.cu"), "xclf_one_read", variant.options)
    kernel.max_dynamic_shared_size_bytes = variant.shared
    _try_out(kernel, variant, gpu, cupy)
    return kernel


def _try_out(kernel: Any, variant: Variant, gpu: Gpu, cupy: Any) -> None:
    """A few rows against the formula on the host; RuntimeError where they differ.

    What is off by more than rounding is wrong altogether: the bounds need not be tight.
    """
    capacity = variant.threads * variant.runs * variant.width
    features, rows = capacity - variant.width * (capacity > 4), 5 * variant.tile + 1
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, size=(rows, features)).astype(variant.data)
    w, shift, bias, weights = (
        rng.normal(size=size).astype(np.float32) / scale
        for size, scale in (
            ((variant.classes, features), 3.0 * math.sqrt(features)),
            ((features,), 1.0),
            ((variant.classes, 1), 1.0),
            ((rows,), 1.0),
        )
    )
    labels = rng.integers(variant.classes, size=rows)
    if variant.is_mask:
        labels = np.arange(variant.classes)[:, None] == labels
    loss: Any = partial(hinge, margin=0.5) if variant.is_hinge else cross_entropy
    centred = x.astype(np.float64) - shift
    scores = w.astype(np.float64) @ centred.T + bias
    value, slope = loss(
        scores, labels, weights=weights.astype(np.float64), reduction="sum", axis=-2
    )
    want = value, slope @ centred, slope.sum(axis=1)
    given = [cupy.asarray(a) for a in (x, w, shift, bias, labels, weights)]
    line = np.int64(features), np.int64(rows), np.int32(features)
    of_labels = labels_arguments(given[4], variant.classes, rows)
    beside = (*of_labels, *_weights(given[5], rows), np.float32(0.5))
    arguments = (given[0], *line, *given[1:4], *beside)
    got = Call(variant, gpu, 2, arguments, features, ()).sums(kernel)
    bound = math.sqrt(np.finfo(np.float32).eps) / 10
    for name, found, expected in zip(("loss", "slope", "bias slope"), got, want, strict=True):
        error = np.max(np.abs(to_host(found) - expected)) / np.max(np.abs(expected))
        if not error <= bound:
            raise RuntimeError(f"{name} of {variant} is off by {error:.2g} of the largest")
