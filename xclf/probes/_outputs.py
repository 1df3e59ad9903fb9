"""The folder of a probe's results, written file by file, each whole or not at all."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xclf._atomic_write import atomic_write, check_writable
from xclf.estimators import BaseClassifier
from xclf.report.page import write_page
from xclf.report.table_files import write_table

RESULTS, MODEL, PAGE = "results.json", "model.safetensors", "report.html"

# Endings of names that are meant to be files.
_FILES = {".html", ".htm", ".json", ".safetensors", ".csv", ".parquet", ".npy", ".png", ".pdf"}


def check_folder(path: Path) -> None:
    """ValueError for what is neither the name of a new folder nor that of an earlier probe, and
    OSError for one that cannot be written."""
    if (path.suffix.lower() in _FILES or str(path) == "-") and not path.exists():
        raise ValueError(
            f"out={str(path)!r} is the name of a file: give that of a folder, which will hold "
            f"{PAGE}, {RESULTS}, {MODEL} and predictions"
        )
    if path.exists() and not path.is_dir():
        raise ValueError(f"out={str(path)!r} is no folder: give the name of a new one")
    if path.is_dir() and any(path.iterdir()) and not (path / RESULTS).is_file():
        raise ValueError(
            f"out={str(path)!r} holds files and no {RESULTS}: give the name of a new folder"
        )
    there = path.resolve() if path.is_dir() else path.resolve().parent
    if not there.is_dir():
        raise ValueError(f"out={str(path)!r}: there is no folder {there}")
    check_writable(there / RESULTS)


def write_folder(
    path: Path,
    results: Mapping[str, Any],
    model: BaseClassifier,
    predictions: Iterable[Mapping[str, np.ndarray]],
) -> list[Path]:
    """Write results, model, predictions and page; returns the paths.

    `results.json` comes last: where it is, the others belong to it.
    """
    path.mkdir(exist_ok=True)
    (path / RESULTS).unlink(missing_ok=True)
    model.save(path / MODEL)
    table = path / f"predictions.{'parquet' if _has_pyarrow() else 'csv'}"
    write_table(table, predictions)
    write_page(dict(results), path / PAGE)
    with atomic_write(path / RESULTS) as part:
        part.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return [path / PAGE, path / RESULTS, path / MODEL, table]


def _has_pyarrow() -> bool:
    return importlib.util.find_spec("pyarrow") is not None
