"""What every test of the benchmarks runs with."""

import pytest
from bench_gpu_cases import Switch

import xclf
from bench.common.measuring import optional


@pytest.fixture(autouse=True)
def _switch(monkeypatch):
    """A switch of accelerators, where the library has none."""
    if not hasattr(xclf, "accelerators"):
        monkeypatch.setattr(xclf, "accelerators", Switch(), raising=False)


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """Tiny products on one thread of torch: several would wait for each other on a busy machine."""
    torch = optional("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
