"""A model file, for the tests of what is written and of what is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from estimator_cases import blobs

from xclf import SoftmaxClassifier


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.fixture
def saved(path: Path) -> Path:
    SoftmaxClassifier().fit(*blobs(40, 4, 3)).save(path)
    return path
