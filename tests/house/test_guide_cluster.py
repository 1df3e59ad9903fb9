"""The page "Rows on a cluster": its example runs, and its numbers are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import dask_cases
import pytest

import xclf
from xclf.rows import FEW, GATHERED
from xclf.rows._cluster import PATIENCE

dask_cases.need("dask.array", "distributed")
PAGE = (Path(xclf.__file__).parent / "guide" / "cluster.md").read_text(encoding="utf-8")


@pytest.mark.long
def test_the_example_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    said = capsys.readouterr().out
    assert float(said.split()[0]) > 0.95
    assert "'reg'" in said


def test_the_bounds_are_those_of_the_code():
    assert f"{FEW:,} entries" in PAGE
    assert f"{GATHERED >> 20} MB" in PAGE
    assert f"no worker for {PATIENCE:.0f} s" in PAGE
