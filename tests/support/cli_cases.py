"""Small data in the formats the shell reads, and the command called inside this process."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from xclf import _array_api
from xclf.cli import run

#: Names a console must print as they are: markup, an emoji's code, an unopened tag.
NAMES = np.array(["[red]a", "b:cat:", "c [/x]"])
ROWS = 120


class Ran(NamedTuple):
    """The result of a call of the command."""

    status: int
    out: str
    err: str


class Shell:
    """Calls the command in this process, in an empty folder of its own."""

    def __init__(
        self, capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.capsys, self.home = capsys, home
        monkeypatch.chdir(home)
        # The same on a machine with a GPU: figures that are compared come from one place.
        monkeypatch.setattr(_array_api, "cuda", lambda index=0: (None, f"no cuda:{index} [here]"))

    def __call__(self, *arguments: Any) -> Ran:
        self.capsys.readouterr()
        status = run([str(argument) for argument in arguments])
        found = self.capsys.readouterr()
        assert "Traceback" not in found.out + found.err
        assert not list(self.home.rglob("*.part"))
        return Ran(status, found.out, found.err)

    def good(self, *arguments: Any) -> str:
        """Standard output of a call that ends well."""
        found = self(*arguments)
        assert found.status == 0, found.err
        return found.out

    def said(self, *arguments: Any) -> str:
        """All that a call prints that ends well, results before the rest."""
        found = self(*arguments)
        assert found.status == 0, found.err
        return found.out + found.err

    def fails(self, *arguments: Any, status: int = 2) -> str:
        """The one line of the error, without its `xclf: `, of a call that does not."""
        found = self(*arguments)
        assert found.status == status, found
        last = found.err.splitlines()[-1]
        assert last.startswith("xclf: ")
        if status == 2:
            assert found.err.count("xclf: ") == 1, found.err
        return last.removeprefix("xclf: ")


def blobs(rows: int = ROWS, features: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three classes around points on a line, not quite apart; every class has a third of them."""
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % 3
    return rng.normal(size=(rows, features)) + 2.0 * y[:, None], y


def write_npz(path: Path, **arrays: np.ndarray) -> Path:
    x, y = blobs()
    np.savez(path, **{"X": x, "y": y, **arrays})
    return path


def write_csv(path: Path, labels: Any = None, label: str = "species", seed: int = 0) -> Path:
    """Blobs as text; `labels` None leaves the label column out."""
    x, y = blobs(seed=seed)
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["a", "b", "c", "d", *([] if labels is None else [label])])
        for row, k in zip(x, y, strict=True):
            lines.writerow([*row, *([] if labels is None else [labels[k]])])
    return path
