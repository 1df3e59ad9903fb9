"""The command in an empty folder of its own."""

from __future__ import annotations

import pytest
from cli_cases import Shell


@pytest.fixture
def shell(capsys, tmp_path, monkeypatch) -> Shell:
    return Shell(capsys, tmp_path, monkeypatch)
