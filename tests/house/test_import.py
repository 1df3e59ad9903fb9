"""`import xclf` is light: no GPU library, and nothing that only some commands need."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest

import xclf

#: Extras, backends, and what the shell alone uses.
HEAVY = [
    "cupy",
    "cupyx",
    "torch",
    "jax",
    "dask",
    "llvmlite",
    "tensorflow",
    "array_api_strict",
    "pandas",
    "polars",
    "pyarrow",
    "onnx",
    "onnxruntime",
    "matplotlib",
    "PIL",
    "typer",
    "rich",
    "click",
    "pytest",
    "hypothesis",
    "mpmath",
]

SKLEARN = "import sklearn.model_selection, sklearn.metrics"


@functools.cache
def _loaded_after(statement: str) -> set[str]:
    """Top-level modules of a fresh interpreter, those that it starts with left out.

    A test environment may start with some (coverage, for one): only what comes on top counts.
    """
    code = (
        "import sys; before = set(sys.modules); "
        f"{statement}; "
        "print(*sorted({m.partition('.')[0] for m in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import xclf", "import xclf.cs231n, xclf.data"])
def test_no_heavy_library_comes_with_it(statement):
    # scikit-learn loads some of these itself where they are installed; that is its own affair.
    extra = _loaded_after(statement) - _loaded_after(SKLEARN)
    assert not extra & set(HEAVY), sorted(extra & set(HEAVY))
    assert "xclf" in extra


def test_it_adds_few_libraries_to_scikit_learn():
    """The time of an import is that of its libraries: these are all there are."""
    extra = _loaded_after("import xclf") - _loaded_after(SKLEARN)
    libraries = extra - set(sys.stdlib_module_names) - {"xclf"}
    assert {name for name in libraries if not name.startswith("_")} <= {
        "array_api_compat",
        "safetensors",
        "threadpoolctl",
    }


def test_the_public_names_are_exact():
    """Whatever this package defines and shows is in __all__, and the other way round."""
    own = {
        name
        for name, value in vars(xclf).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("xclf.")
    }
    assert own <= set(xclf.__all__)
    lazy = {"ProbeInterrupted", "ProbeResult", "probe"}
    assert set(xclf.__all__) - own == {"__version__", "kernels"} | lazy
    assert xclf.__all__ == sorted(xclf.__all__)
    for name in xclf.__all__:
        assert getattr(xclf, name) is not None
