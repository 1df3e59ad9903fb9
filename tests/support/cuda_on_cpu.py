"""CuPy's RawKernel and ElementwiseKernel on NumPy arrays: the same source, compiled for the
processor.

`cuda_on_cpu.h` says how. Arguments are checked as no GPU would: their number and the size of each.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

COMPILER = shutil.which("g++")
_COMMAND = [COMPILER, "-std=c++17", "-O1", "-fPIC"]
FAULTS = ["", "threads of a block wait at different barriers", "too much shared memory"]

_HEADER = Path(__file__).with_name("cuda_on_cpu.h")
_MOST_ARGUMENTS = 64
_folder = tempfile.TemporaryDirectory(prefix="cuda_on_cpu")


@functools.cache
def _precompile_header() -> None:
    """In the folder of the sources: it is half of the work of each."""
    header = Path(shutil.copy(_HEADER, _folder.name))
    made = header.with_suffix(".h.gch")
    subprocess.run([*_COMMAND, "-x", "c++-header", header, "-o", made], check=True)


@functools.cache
def _compiled(code: str, options: tuple[str, ...]) -> ctypes.CDLL:
    assert COMPILER is not None
    _precompile_header()
    stem = Path(_folder.name, f"{_compiled.cache_info().misses}")
    source, library = stem.with_suffix(".cpp"), stem.with_suffix(".so")
    source.write_text(code, encoding="utf-8")
    command = [*_COMMAND, "-shared", *options, "-o", library, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return ctypes.CDLL(str(library))


class RawKernel:
    """cupy.RawKernel; `seed` orders the threads."""

    seed = 0

    def __init__(self, code: str, name: str, options: tuple[str, ...] = ()) -> None:
        self._given = f'#include "{_HEADER.name}"\n{code}\nLAUNCHER({name})\n', options

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any]) -> None:
        library = _compiled(*self._given)  # as CuPy does: not before it is called
        assert 1 <= grid[0] < 2**31
        assert 1 <= grid[1] < 2**16
        assert block[0] * block[1] <= 1024
        sizes = (ctypes.c_int * _MOST_ARGUMENTS)()
        assert library.argument_sizes(sizes) == len(args), "the number of arguments"
        held = [_value(arg) for arg in args]
        for place, (value, size) in enumerate(zip(held, sizes, strict=False)):
            assert ctypes.sizeof(value) == size, f"the size of argument {place}"
        pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(value) for value in held))
        shapes = ((ctypes.c_uint * 2)(*shape) for shape in (grid, block))
        fault = library.launch(*shapes, pointers, ctypes.c_uint(self.seed))
        assert fault == 0, FAULTS[fault]


class ElementwiseKernel:
    """cupy.ElementwiseKernel of parameters `T x`, whose results are given."""

    def __init__(self, taken: str, given: str, body: str, name: str) -> None:
        assert name.isidentifier()
        ins, outs = (
            [part.removeprefix("T ") for part in text.split(", ")] for text in (taken, given)
        )
        self.count, first = len(ins), len(ins)
        lines = [f"T {own} = a[{place}][i];" for place, own in enumerate(ins)]
        lines += [f"T {own};" for own in outs] + [body]
        lines += [f"a[{first + place}][i] = {own};" for place, own in enumerate(outs)]
        self.loop = "for (std::ptrdiff_t i = 0; i < n; ++i) {\n" + "\n".join(lines) + "\n}"

    def __call__(self, *arguments: Any) -> None:
        outs = arguments[self.count :]
        dtype, shape = outs[0].dtype, outs[0].shape
        for value in arguments:
            assert not isinstance(value, np.ndarray) or value.dtype == dtype, "T is one type"
        held = [np.array(np.broadcast_to(value, shape), dtype, order="C") for value in arguments]
        real = {"float32": "float", "float64": "double"}[str(dtype)]
        code = "#include <cmath>\n#include <cstddef>\nusing std::sqrt;\n"
        code += f'extern "C" void run(long n, {real}** a) {{ using T = {real};\n{self.loop}\n}}\n'
        pointers = (ctypes.c_void_p * len(held))(*(a.ctypes.data for a in held))
        _compiled(code, ("-Wall", "-Werror")).run(ctypes.c_long(outs[0].size), pointers)
        for out, value in zip(outs, held[self.count :], strict=True):
            out[...] = value


def _value(arg: Any) -> Any:
    if isinstance(arg, np.ndarray):
        return ctypes.c_void_p(arg.ctypes.data)
    assert isinstance(arg, np.generic), f"{type(arg)}: CuPy would choose a size for it"
    return ctypes.create_string_buffer(arg.tobytes(), arg.nbytes)
