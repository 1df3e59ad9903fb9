"""The guide's page: its example runs, and it has every protocol as its record has it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import xclf
from xclf.probes import PROTOCOLS

PAGE = (Path(xclf.__file__).parent / "guide" / "probe.md").read_text(encoding="utf-8")


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code, {})
    assert "95 % interval" in capsys.readouterr().out
    assert (tmp_path / "probe.safetensors").is_file()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_has_a_row(name):
    protocol = PROTOCOLS[name]
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*)$", PAGE, re.MULTILINE))
    assert rows[name].startswith("the same") or str(len(protocol.values)) in rows[name]
    assert protocol.source.partition("(")[0] in rows[name]  # the authors
    assert re.search(r"\(\d{4}\)", protocol.source).group() in rows[name]
