"""The benchmarks of the GPU run without one, at tiny sizes, and hold what they find to the goals.

No time is asserted.
"""

import functools
from collections import Counter

import numpy as np
import pytest
from bench_gpu_cases import HERE, measures, results, run

from bench.__main__ import main
from bench.common import device, internals
from bench.common.measuring import optional
from bench.gpu import entries, launches, loss_grad, minibatch, rows, stream


@pytest.mark.parametrize("namespace", HERE)
def test_gpu_ceilings(namespace, tmp_path):
    found = results(tmp_path, "gpu_ceilings", namespace, "--repeats", "2")
    assert any(problem.startswith("host to device") for problem in found)
    for problem, entry in found.items():
        assert all(line["value"] > 0.0 for line in entry["measures"])
        wanted = {
            "products": {"TFLOP/s, scores", "TFLOP/s, gradient"},
            "eigenvectors": {"ms"},
            "direction": {"time / reading all pairs twice"},
        }
        assert set(measures(entry)) == wanted.get(problem.split()[0], {"GB/s"})


@pytest.mark.parametrize("namespace", HERE)
def test_gpu_loss_grad(namespace, tmp_path):
    found = results(tmp_path, "gpu_loss_grad", namespace, "--repeats", "2")
    one, several, images = found.values()
    assert "3 heads" in several["problem"]
    assert images["problem"].endswith("bytes")
    assert {"xclf", "formulas", "copy of X"} == set(images["seconds"])
    assert measures(one)["time / two reads of X at copy bandwidth"]["at_most"] == 1.4
    assert "at_most" not in measures(several)["time / two reads of X at copy bandwidth"]
    for entry in (one, several):
        times, found = entry["seconds"], measures(entry)
        ours = times["xclf"]["median_s"]
        reads = found["time / two reads of X at copy bandwidth"]["value"]
        assert reads == ours / times["copy of X"]["median_s"]
        products = found["time / its two matrix products alone"]["value"]
        assert products == ours / times["two products"]["median_s"]
        assert found["relative error of the loss"]["value"] < 1e-6
        assert 0.0 < found["relative error of the gradient"]["value"] < 1e-5
        assert "formulas" in times
        assert sum(name.startswith("xclf, chunks of") for name in times) >= 4
    assert several["seconds"]["torch"] == "is for one head"


def test_goals_are_those_of_the_shapes_they_are_set_for():
    names = ("xclf", "formulas", "copy of X", "two products", "torch")
    seconds = {name: {"median_s": 1.0} for name in names}
    for columns, precision, reads, products in (
        ((10,), None, 1.4, None),
        ((10,), "tf32", None, None),
        ((1000,), None, None, 1.2),
        ((1000,), "tf32", None, 1.5),
        ((1000, 45), None, None, None),
    ):
        entry = {"seconds": seconds}
        loss_grad._goals(entry, columns, precision)
        found = measures(entry)
        assert found["time / two reads of X at copy bandwidth"].get("at_most") == reads
        assert found["time / its two matrix products alone"].get("at_most") == products


def test_a_goal_is_reached_or_not():
    entry = {}
    entries.goal(entry, "a", 1.0, at_most=1.0)
    entries.goal(entry, "b", 1.1, at_most=1.0)
    entries.goal(entry, "c", 0.8, at_least=0.8)
    entries.goal(entry, "d", 0.7, at_least=0.8)
    entries.goal(entry, "e", 0.7)
    assert [line.get("reached") for line in entry["measures"]] == [True, False, True, False, None]


def test_a_torch_that_solves_another_problem_is_not_timed(tmp_path, monkeypatch):
    other = 2.0 * internals.REG
    right = loss_grad.loss_and_grad
    if optional("torch") is None:
        pytest.skip("torch is not installed")
    monkeypatch.setattr(loss_grad, "loss_and_grad", lambda *args: right(*args[:-1], 1e4 * other))
    words = ["gpu_loss_grad", "--quick", "--repeats", "1", "--namespace", "numpy"]
    entry = run(tmp_path, *words)["results"]["work"][0]
    assert "not the same problem" in entry["failed"]


def test_the_limit_of_chunks_is_put_back():
    before = internals._rows._DEVICE_CHUNK
    with internals.chunks_of(77):
        assert before != internals._rows._DEVICE_CHUNK == 77
    with pytest.raises(ZeroDivisionError), internals.chunks_of(77):
        _ = 1 / 0
    assert before == internals._rows._DEVICE_CHUNK


@pytest.mark.long
@pytest.mark.parametrize("namespace", HERE)
def test_gpu_minibatch(namespace, tmp_path):
    (entry,) = results(tmp_path, "gpu_minibatch", namespace, "--repeats", "2").values()
    apart = entry["figures"]["weights off NumPy's by at most"]
    timed = {name for name, one in entry["seconds"].items() if not isinstance(one, str)}
    assert set(apart) == timed
    assert max(apart.values()) < 1e-6
    torch = {"torch eager", "torch.compile"} if "torch" in HERE else set()
    assert timed == {"xclf", "xclf, step by step", "xclf, formulas", *torch}
    if torch:
        assert measures(entry)["time / torch eager"]["at_most"] == 0.4
        best = min(entry["seconds"][name]["median_s"] for name in torch)
        found = measures(entry)["time / the best torch variant"]["value"]
        assert found == entry["seconds"]["xclf"]["median_s"] / best
        assert entry["seconds"]["torch CUDA graph"] == "needs a GPU"


@pytest.mark.parametrize(
    ("batch", "most"),
    [
        (200, {"time / torch eager": 0.4, "time / torch CUDA graph": 1.0}),
        (4096, {"time / the best torch variant": 1.0}),
    ],
)
def test_what_a_step_is_held_to(batch, most):
    peers = ("torch eager", "torch.compile", "torch CUDA graph")
    seconds = {name: {"median_s": 1.0} for name in ("xclf", *peers)}
    entry = {"seconds": {**seconds, "torch.compile in a CUDA graph": "why"}}
    minibatch._goals(entry, batch)
    found = {name: line["at_most"] for name, line in measures(entry).items() if "at_most" in line}
    assert found == most


def test_another_step_is_not_timed():
    race, exact = minibatch.Race(), np.zeros((2, 3))
    race.add("xclf", lambda: (list, exact), exact)
    race.add("other", lambda: (list, exact + 1e-3), exact)
    race.add("broken", lambda: 1 / 0, exact)
    assert race.calls["xclf"] is list
    assert race.calls["other"] == "not the same step: 0.001 off"
    assert race.calls["broken"].startswith("ZeroDivisionError")
    with pytest.raises(ZeroDivisionError):
        race.add("xclf", lambda: 1 / 0, exact)


def test_peers_that_fail_leave_their_reason_and_the_rest_is_timed():
    counts = {"xclf": 0, "whole": 0}

    def count(name):
        counts[name] += 1

    calls = {name: functools.partial(count, name) for name in counts}
    calls["peer"] = lambda: 1 / 0
    found = device.measure(device.Device("numpy"), calls, 2, 10, whole=("whole",))
    assert found["peer"] == "ZeroDivisionError: division by zero"
    assert found["whole"]["repeats"] == 2
    # Once to warm up and twice timed, ten steps each; and once more to see that a peer runs.
    assert counts == {"xclf": 30, "whole": 4}
    with pytest.raises(ZeroDivisionError):
        device.measure(device.Device("numpy"), {"xclf": lambda: 1 / 0}, 2)


@pytest.mark.parametrize("namespace", HERE)
@pytest.mark.parametrize("name", ["gpu_heads", "gpu_stream"])
def test_gpu_heads_and_streams(name, namespace, tmp_path):
    for entry in results(tmp_path, name, namespace, "--repeats", "2").values():
        times = {key: one["median_s"] for key, one in entry["seconds"].items()}
        assert all(one["repeats"] == 2 for one in entry["seconds"].values())
        line = entry["measures"][0]
        if name == "gpu_heads":
            assert line["measure"] == "ratio of step times"
            assert (line["value"], line["at_most"]) == (times["xclf"] / times["one head"], 4.0)
            continue
        limit = times[entry["limited_by"]]
        assert limit == max(times["resident"], times["pinned copy"])
        assert line["measure"].startswith("share of")
        assert (line["value"], line["at_least"]) == (limit / times["xclf"], 0.8)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_streamed_and_resident_passes_are_the_same_pass(dtype):
    here = device.Device("numpy")
    host = rows.host_rows(here, 300, 7, dtype)
    y, w = rows.host_labels(300, 4), np.random.default_rng(0).standard_normal((4, 7)) / 9.0
    streamed = rows.pass_over(here, rows.streamed(here, host), y, w)()
    resident = stream.resident(here, host, y, w)()
    for one, other in zip(streamed, resident, strict=True):
        # float32 sums over 300 rows, in another order: 300 u of the sums of absolute values.
        np.testing.assert_allclose(one, other, rtol=0.0, atol=2e-5 * np.abs(other).max())


@pytest.mark.skipif(optional("cupy") is not None, reason="CuPy is there")
def test_without_cupy_one_clear_line(capsys):
    assert main(["gpu_ceilings", "--quick"]) == 2
    error = capsys.readouterr().err
    assert "cupy is not installed" in error
    assert len(error.splitlines()) == 1


# --- launches ----------------------------------------------------------------------------------


def test_launches_without_a_profiler_say_so(tmp_path):
    found = results(tmp_path, "gpu_launches", "numpy")
    assert len(found) == 4
    assert {entry["figures"]["counts"] for entry in found.values()} == {"needs a torch with CUDA"}


def test_launches_are_counted_by_kind_over_what_the_shorter_fit_has(monkeypatch):
    events = [
        {"cat": "kernel", "name": "sgemm"},
        {"cat": "gpu_memcpy", "name": "Memcpy DtoH (Device -> Pinned)"},
        {"cat": "gpu_memset", "name": "Memset (Device)"},
        {"cat": "cpu_op", "name": "aten::mm"},
        {"name": "process_name"},
    ]
    kinds = [launches._kind(event) for event in events]
    assert kinds == ["kernel", "Memcpy DtoH", "Memset (Device)", None, None]
    monkeypatch.setattr(launches, "count", lambda call: call())
    entry = {}
    launches._add(entry, lambda: Counter(kernel=70), 20, lambda: Counter(kernel=30))
    assert measures(entry)["kernel"]["value"] == 2.0
