"""CuPy's ElementwiseKernel on NumPy arrays: its statements, one each, are Python too."""

from __future__ import annotations

from typing import Any

import numpy as np


class PythonKernel:
    def __init__(self, taken: str, given: str, body: str, name: str) -> None:
        self.taken = [part.split()[1] for part in taken.split(", ")]
        self.given = [part.split()[1] for part in given.split(", ")]
        self.lines = [line.removeprefix("T ") for line in body.rstrip(";").split(";\n")]
        assert name.isidentifier()

    def __call__(self, *arguments: Any) -> None:
        assert len(arguments) == len(self.taken) + len(self.given)
        names = dict(zip(self.taken, arguments, strict=False)) | {"sqrt": np.sqrt}
        for line in self.lines:
            exec(line, names)
        for name, out in zip(self.given, arguments[len(self.taken) :], strict=True):
            out[...] = names[name]
