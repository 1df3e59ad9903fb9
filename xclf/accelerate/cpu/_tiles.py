"""The products of `compiled_products` for this processor; needs numba, imported there alone.

Both run over tiles of a few columns and a few vectors whose sums stay in registers. Loops in Python
compiled by numba are half as fast: it must expect that the arrays that a loop writes to overlap
with those it reads. So the inside of a tile is written in LLVM's vector instructions, which become
the processor's. No arithmetic in them could turn an infinity or a NaN into a number.

Tiles at an edge overlap with their neighbours.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

# Features of the processor that numba compiles for.
_FEATURES = set(cpu_target.target_context.codegen().magic_tuple()[2].split(","))
_WIDE = "+avx512f" in _FEATURES

#: Whether this is a processor that the tiles were written and measured for.
KNOWN = _WIDE or {"+avx2", "+fma"} <= _FEATURES

#: Bytes of a vector register.
VECTOR = 64 if _WIDE else 32

#: Rows of a tile of scores, and vectors of a tile of gradients. With five columns 25 of 32
#: registers are in use, or 13 of 16.
SPAN = 4 if _WIDE else 2

# Rows whose gradients are summed up one after the other, before such sums are added up: rounding
# grows with both numbers, not with their product.
_BLOCK = 256

# Bytes of rows that one tile of columns after the other is multiplied with.
_NEAR = 1 << 17

_INT, _SHORT = ir.IntType(64), ir.IntType(32)


class _Vectors:
    """Instructions on vectors of the float type `element`, written by an LLVM builder."""

    def __init__(self, context: Any, builder: Any, element: Any) -> None:
        self.builder = builder
        self.shards = 8 * VECTOR // element.bitwidth
        self.float = context.get_value_type(element)
        self.type = ir.VectorType(self.float, self.shards)
        self.suffix = f"v{self.shards}f{element.bitwidth}"
        self.align = element.bitwidth // 8
        self.zero = ir.Constant(self.type, [ir.Constant(self.float, 0.0)] * self.shards)
        self.first = ir.Constant(ir.VectorType(_SHORT, self.shards), [_SHORT(0)] * self.shards)
        self.counting = ir.Constant(
            ir.VectorType(_INT, self.shards), [_INT(k) for k in range(self.shards)]
        )

    def address(self, number: Any) -> Any:
        return self.builder.inttoptr(number, self.float.as_pointer())

    def at(self, start: Any, *steps: Any) -> Any:
        """A pointer: `start`, so many elements on."""
        for step in steps:
            start = self.builder.gep(start, [step])
        return start

    def load(self, pointer: Any) -> Any:
        vector = self.builder.load(self.builder.bitcast(pointer, self.type.as_pointer()))
        vector.align = self.align
        return vector

    def prefetch(self, pointer: Any) -> None:
        """Fetch memory into the cache that is read soon."""
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _SHORT, _SHORT, _SHORT])
        fetch = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        options = [_SHORT(0), _SHORT(3), _SHORT(1)]
        self.builder.call(fetch, [self.builder.bitcast(pointer, byte), *options])

    def store(self, vector: Any, pointer: Any) -> None:
        stored = self.builder.store(vector, self.builder.bitcast(pointer, self.type.as_pointer()))
        stored.align = self.align

    def sums(self, rows: int, columns: int) -> list[list[Any]]:
        """Variables, 0 at first; LLVM keeps them in registers."""
        return [
            [cgutils.alloca_once_value(self.builder, self.zero) for _ in range(columns)]
            for _ in range(rows)
        ]

    def accumulate(self, total: Any, a: Any, b: Any) -> None:
        """total += a * b"""
        name, kind = f"llvm.fmuladd.{self.suffix}", ir.FunctionType(self.type, [self.type] * 3)
        multiply_add = cgutils.get_or_insert_function(self.builder.module, kind, name)
        held = self.builder.load(total)
        self.builder.store(self.builder.call(multiply_add, [a, b, held]), total)

    def spread(self, number: Any) -> Any:
        """A vector of one number."""
        nothing = ir.Constant(ir.VectorType(number.type, self.shards), ir.Undefined)
        one = self.builder.insert_element(nothing, number, _SHORT(0))
        return self.builder.shuffle_vector(one, nothing, self.first)

    def last(self, vector: Any, count: Any) -> Any:
        """`vector` with 0 in all but the last `count` elements."""
        past = self.spread(self.builder.sub(_INT(self.shards), count))
        wanted = self.builder.icmp_signed(">=", self.counting, past)
        return self.builder.select(wanted, vector, self.zero)

    def total(self, vector: Any) -> Any:
        """The sum of a vector's elements."""
        name = f"llvm.vector.reduce.fadd.{self.suffix}"
        kind = ir.FunctionType(self.float, [self.float, self.type])
        reduce = cgutils.get_or_insert_function(self.builder.module, kind, name)
        start = ir.Constant(self.float, -0.0)
        return self.builder.call(reduce, [start, vector], fastmath=("reassoc",))


@intrinsic
def _scores_tile(
    typing: Any, w: Any, x: Any, features: Any, out: Any, column: Any, row: Any, tile: Any
) -> Any:
    """out[c, i] = sum_d w[c, d] x[i, d] for the columns and rows of a tile that starts there.

    w, x : addresses of (columns, features) and (rows, features), at least a vector of features
    out : (columns, rows)
    tile : a tuple as long as the tile has columns
    """
    signature = types.void(w, x, features, out, column, row, tile)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vectors = _Vectors(context, builder, out.dtype)
        w, x, features, out_, column, row, _ = args
        to = context.make_array(out)(context, builder, out_)
        rows = builder.extract_value(to.shape, 1)
        lines = [builder.add(column, _INT(m)) for m in range(len(tile))]
        places = [builder.add(row, _INT(r)) for r in range(SPAN)]
        w, x = vectors.address(w), vectors.address(x)
        ws = [vectors.at(w, builder.mul(line, features)) for line in lines]
        xs = [vectors.at(x, builder.mul(place, features)) for place in places]
        sums = vectors.sums(len(lines), SPAN)
        ahead = builder.mul(features, _INT(SPAN))

        def step(at: Any, seen: Any) -> None:
            held = [seen(vectors.load(vectors.at(start, at))) for start in xs]
            if not _WIDE:
                # Two rows side by side are too few for the processor to see what comes next: this
                # doubles the speed on rows from memory. With four it only takes registers.
                for start in xs:
                    vectors.prefetch(vectors.at(start, at, ahead))
            for start, line in zip(ws, sums, strict=True):
                weights = seen(vectors.load(vectors.at(start, at)))
                for total, part in zip(line, held, strict=True):
                    vectors.accumulate(total, weights, part)

        rest = builder.and_(features, _INT(vectors.shards - 1))
        whole = builder.sub(features, rest)
        with cgutils.for_range_slice(builder, _INT(0), whole, _INT(vectors.shards)) as (at, _):
            step(at, lambda vector: vector)
        with builder.if_then(builder.icmp_signed(">", rest, _INT(0))):
            end = builder.sub(features, _INT(vectors.shards))
            step(end, lambda vector: vectors.last(vector, rest))
        for line, totals in zip(lines, sums, strict=True):
            for place, total in zip(places, totals, strict=True):
                target = vectors.at(to.data, builder.mul(line, rows), place)
                builder.store(vectors.total(builder.load(total)), target)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _gradient_tile(
    typing: Any,
    e: Any,
    x: Any,
    dw: Any,
    column: Any,
    feature: Any,
    first: Any,
    stop: Any,
    done: Any,
    tile: Any,
) -> Any:
    """dw[c, d] = sum_i e[c, i] x[i, d] over rows first <= i < stop, for the columns and features of
    a tile that starts there; added to what is in dw unless `first` is 0.

    done : so many of the columns are left as they are
    e, dw : (columns, rows) and (columns, features);  x : the address of (rows, features)
    """
    signature = types.void(e, x, dw, column, feature, first, stop, done, tile)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vectors = _Vectors(context, builder, dw.dtype)
        e_, x, dw_, column, feature, first, stop, done, _ = args
        gradients = context.make_array(e)(context, builder, e_)
        to = context.make_array(dw)(context, builder, dw_)
        rows = builder.extract_value(gradients.shape, 1)
        features = builder.extract_value(to.shape, 1)
        lines = [builder.add(column, _INT(m)) for m in range(len(tile))]
        steps = [_INT(k * vectors.shards) for k in range(SPAN)]
        es = [vectors.at(gradients.data, builder.mul(line, rows)) for line in lines]
        x = vectors.at(vectors.address(x), feature)
        sums = vectors.sums(len(lines), SPAN)
        with cgutils.for_range_slice(builder, first, stop, _INT(1)) as (i, _):
            start = vectors.at(x, builder.mul(i, features))
            held = [vectors.load(vectors.at(start, step)) for step in steps]
            for line, totals in zip(es, sums, strict=True):
                factor = vectors.spread(builder.load(vectors.at(line, i)))
                for total, part in zip(totals, held, strict=True):
                    vectors.accumulate(total, factor, part)
        one = vectors.spread(ir.Constant(vectors.float, 1.0))
        more = builder.icmp_signed(">", first, _INT(0))
        for m, (line, totals) in enumerate(zip(lines, sums, strict=True)):
            start = vectors.at(to.data, builder.mul(line, features), feature)
            targets = [vectors.at(start, step) for step in steps]
            with builder.if_then(builder.icmp_signed("<=", done, _INT(m))):
                with builder.if_then(more):
                    for total, target in zip(totals, targets, strict=True):
                        vectors.accumulate(total, one, vectors.load(target))
                for total, target in zip(totals, targets, strict=True):
                    vectors.store(builder.load(total), target)
        return context.get_dummy_value()

    return signature, generate


def _compiled(function: Any) -> Any:
    """Compiled when first called, and kept on disk where numba finds a folder to write to."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)


@_compiled
def scores(w: Any, x: Any, features: Any, out: Any, tile: Any) -> None:
    """out[c, i] = sum_d w[c, d] x[i, d]; no fewer columns than a tile has, nor rows than SPAN."""
    columns, rows = out.shape
    block = max(1, _NEAR // (SPAN * features * out.itemsize)) * SPAN
    for start in range(0, rows, block):
        for c in range(0, columns, len(tile)):
            column = min(c, columns - len(tile))
            for i in range(start, min(start + block, rows), SPAN):
                _scores_tile(w, x, features, out, column, min(i, rows - SPAN), tile)


@_compiled
def gradient(e: Any, x: Any, dw: Any, tile: Any) -> None:
    """dw[c, d] = sum_i e[c, i] x[i, d]; no fewer columns or features than a tile has."""
    columns, features = dw.shape
    rows = e.shape[1]
    width = SPAN * VECTOR // dw.itemsize
    for d in range(0, features, width):
        feature = min(d, features - width)
        for first in range(0, rows, _BLOCK):
            stop = min(first + _BLOCK, rows)
            for c in range(0, columns, len(tile)):
                column = min(c, columns - len(tile))
                _gradient_tile(e, x, dw, column, feature, first, stop, c - column, tile)
