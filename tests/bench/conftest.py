"""What every test of the benchmarks runs with."""

import pytest

from bench.common.measuring import optional


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
