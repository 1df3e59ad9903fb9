"""Tables: a model trained on named columns refuses them in another order."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from cli_cases import Shell

import xclf


@pytest.fixture
def shell(capsys, tmp_path, monkeypatch) -> Shell:
    return Shell(capsys, tmp_path, monkeypatch)


def write_table(path: Path, names: list[str], rows: np.ndarray, labels: np.ndarray) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([*names, "label"])
        table.writerows([*row, label] for row, label in zip(rows.tolist(), labels, strict=True))
    return path


def test_columns_in_another_order_are_refused(shell, tmp_path):
    rng = np.random.default_rng(5)
    rows, labels = rng.standard_normal((60, 3)), np.repeat(["x", "y", "z"], 20)
    good = write_table(tmp_path / "good.csv", ["a", "b", "c"], rows, labels)
    swapped = write_table(tmp_path / "swapped.csv", ["a", "c", "b"], rows[:, [0, 2, 1]], labels)
    shell.good("train", good, "--out", "model.safetensors")
    model = xclf.load(shell.home / "model.safetensors")
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    shell.good("evaluate", "model.safetensors", good)
    np.save(shell.home / "rows.npy", rows)
    shell.good("predict", "model.safetensors", "rows.npy", "--out", "labels.csv")
    for command in (
        ["evaluate", "model.safetensors", swapped],
        ["predict", "model.safetensors", swapped, "--out", "p.csv"],
        ["train", good, "--test", swapped],
    ):
        line = shell.fails(*command)
        assert "column 2 is 'c'" in line
        assert "'b'" in line
