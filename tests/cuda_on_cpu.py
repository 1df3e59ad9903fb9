"""CuPy's RawKernel on NumPy arrays: the same source, compiled for the processor.

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
from types import ModuleType
from typing import Any

import numpy as np

COMPILER = shutil.which("g++")
FAULTS = ["", "threads of a block wait at different barriers", "too much shared memory"]

_HEADER = Path(__file__).with_name("cuda_on_cpu.h")
_MOST_ARGUMENTS = 64
_folder = tempfile.TemporaryDirectory(prefix="cuda_on_cpu")


@functools.cache
def _compiled(code: str, name: str, options: tuple[str, ...]) -> ctypes.CDLL:
    assert COMPILER is not None
    stem = Path(_folder.name, f"{_compiled.cache_info().misses}")
    source, library = stem.with_suffix(".cpp"), stem.with_suffix(".so")
    source.write_text(f'#include "{_HEADER}"\n{code}\nLAUNCHER({name})\n', encoding="utf-8")
    command = [COMPILER, "-O1", "-shared", "-fPIC", *options, "-o", library, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return ctypes.CDLL(str(library))


class RawKernel:
    """cupy.RawKernel; `seed` orders the threads."""

    seed = 0
    max_dynamic_shared_size_bytes = 48 << 10  # what a kernel has that did not ask for more

    def __init__(self, code: str, name: str, options: tuple[str, ...] = ()) -> None:
        self._given = code, name, options

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        *,
        shared_mem: int = 0,
    ) -> None:
        library = _compiled(*self._given)  # as CuPy does: not before it is called
        assert 1 <= grid[0] < 2**31
        assert 1 <= grid[1] < 2**16
        assert block[0] * block[1] <= 1024
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        sizes = (ctypes.c_int * _MOST_ARGUMENTS)()
        assert library.argument_sizes(sizes) == len(args), "the number of arguments"
        held = [_value(arg) for arg in args]
        for place, (value, size) in enumerate(zip(held, sizes, strict=False)):
            assert ctypes.sizeof(value) == size, f"the size of argument {place}"
        pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(value) for value in held))
        shapes = ((ctypes.c_uint * 2)(*shape) for shape in (grid, block))
        more, seed = ctypes.c_uint(shared_mem), ctypes.c_uint(self.seed)
        fault = library.launch(*shapes, more, pointers, seed)
        assert fault == 0, FAULTS[fault]


def _value(arg: Any) -> Any:
    if isinstance(arg, np.ndarray):
        return ctypes.c_void_p(arg.ctypes.data)
    assert isinstance(arg, np.generic), f"{type(arg)}: CuPy would choose a size for it"
    return ctypes.create_string_buffer(arg.tobytes(), arg.nbytes)


def cupy() -> ModuleType:
    """What `import cupy` shall find."""
    module = ModuleType("cupy")
    module.RawKernel = RawKernel
    module.asarray = np.array
    module.empty = lambda shape, dtype: np.full(shape, np.nan, dtype)
    return module
