"""The checks of a device hold without one, at tiny sizes, and see what is wrong."""

import signal

import numpy as np
import pytest
from bench_gpu_cases import HERE, measures, results, run

from bench.common.device import Device
from bench.gpu import checks


@pytest.mark.long
@pytest.mark.parametrize("namespace", HERE)
def test_checks_hold(namespace, tmp_path):
    found = results(tmp_path, "gpu_checks", namespace)
    assert list(found) == list(checks.CHECKS)
    for problem, entry in found.items():
        for line in entry["measures"]:
            assert line["reached"], (problem, line)


def test_some_checks_alone(tmp_path):
    words = ["gpu_checks", "--quick", "--namespace", "numpy", "--only", "many_bytes", "small_pool"]
    work = run(tmp_path, *words)["results"]["work"]
    assert [entry["problem"] for entry in work] == ["many_bytes", "small_pool"]


@pytest.fixture
def setup():
    return checks.Setup(Device("numpy"), quick=True)


def not_reached(entry):
    return {line["measure"] for line in entry["measures"] if not line["reached"]}


def drifting(fits):
    """Parameters that every fit shifts by a last bit."""
    count = iter(range(1000))

    def fitted(model, x, y):
        return fits(model, x, y) + 1e-3 * next(count)

    return fitted


@pytest.mark.parametrize(
    "check", ["fits_as_numpy", "fits_repeat", "recorded_as_plain", "interrupted"]
)
def test_fits_that_differ_are_seen(check, setup, monkeypatch):
    monkeypatch.setattr(checks, "fitted", drifting(checks.fitted))
    assert not_reached(checks.CHECKS[check](setup))


def test_memory_that_is_kept_is_seen(setup, monkeypatch):
    free = iter([10 << 30, 9 << 30, 9 << 30, 9 << 30])
    monkeypatch.setattr(setup.device, "free_bytes", lambda: next(free))
    assert not_reached(checks.memory_returns(setup)) == {"bytes kept by 2 fits, softmax by adam"}


def test_a_stale_pass_is_seen(setup, monkeypatch):
    """Every pass over streamed rows but the first gives other numbers."""
    right = checks.pass_over

    def pass_over(*args):
        call, count = right(*args), iter(range(100))
        return lambda: [part + float(next(count) > 1) for part in call()]

    monkeypatch.setattr(checks, "pass_over", pass_over)
    assert "entries that differ when streamed again" in not_reached(
        checks.streamed_as_resident(setup)
    )


def test_rows_past_the_last_bit_that_are_others_are_seen(setup, monkeypatch):
    right = checks.softmax_problem

    def softmax_problem(x, *args, **settings):
        other = x.copy()
        if len(x) == setup.sizes["bytes"][0]:
            other[-100:] = x[:100]
        return right(other, *args, **settings)

    monkeypatch.setattr(checks, "softmax_problem", softmax_problem)
    assert "values that differ in the last rows" in not_reached(checks.many_bytes(setup))


def test_ctrl_c_stops_a_call_and_its_handler_is_put_back():
    before = signal.getsignal(signal.SIGINT)

    def busy():
        while True:
            pass

    assert checks._interrupt(busy, 0.01)
    assert not checks._interrupt(lambda: None, 60.0)
    assert signal.getsignal(signal.SIGINT) is before


def test_differences_are_shares_of_the_largest_entry():
    entry = {}
    checks.apart(entry, "it", np.array([1.0, -4.0]), np.array([1.0, -5.0]), 0.1)
    line = measures(entry)["it"]
    assert (line["value"], line["reached"]) == (0.2, False)
