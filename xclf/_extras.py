"""Optional libraries: what to install where one is missing."""

from __future__ import annotations

#: The extra of xclf that brings a library, by the library's name in messages.
EXTRAS = {
    "pyarrow": "tables",
    "h5py": "hdf5",
    "torch": "torch",
    "onnx": "onnx",
    "matplotlib": "plot",
    "Dask": "dask",
}


def needs(what: str, library: str) -> str:
    """The message of something that needs a library: it has 'pip install' and the extra."""
    return f"{what} needs {library}: {install(EXTRAS[library])}"


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'xclf[{extra}]'"
