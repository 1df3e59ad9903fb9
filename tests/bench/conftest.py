"""A switch of accelerators for the benchmarks' tests, where the library has none."""

import pytest
from bench_gpu_cases import Switch

import xclf


@pytest.fixture(autouse=True)
def _switch(monkeypatch):
    if not hasattr(xclf, "accelerators"):
        monkeypatch.setattr(xclf, "accelerators", Switch(), raising=False)
