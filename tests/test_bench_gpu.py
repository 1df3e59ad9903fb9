"""The GPU's benchmarks run without one, at tiny sizes, and go on where they were. No time is
asserted."""

import json

import numpy as np
import pytest

from bench import (
    _device,
    _gpu,
    _gpu_data,
    _measure,
    gpu_fit,
    gpu_loss_grad,
    gpu_minibatch,
    gpu_stream,
    gpu_sweep,
)
from bench.__main__ import main
from xclf.objectives import _fused
from xclf.rows import _rows


def run(tmp_path, *words):
    target = tmp_path / "out.json"
    assert main([*words, "--json", str(target)]) == 0
    return json.loads(target.read_text())


HERE = ["numpy"] + (["torch"] if _measure.optional("torch") is not None else [])


def results(tmp_path, name, namespace, *more):
    """Entries by problem; those in TF32, which needs a GPU, must say so and are left out."""
    words = [name, "--quick", "--namespace", namespace, *more]
    found = run(tmp_path, *words)["results"]
    assert found["device"]["gpu"] is False
    kept = {}
    for entry in found["work"]:
        if "tf32" in entry["problem"]:
            assert "needs a CUDA GPU" in entry["failed"]
            continue
        assert "failed" not in entry, entry
        kept[entry["problem"]] = entry
    assert kept
    return kept


def measures(entry):
    return {line["measure"]: line for line in entry["measures"]}


@pytest.mark.parametrize("namespace", HERE)
def test_gpu_ceilings(namespace, tmp_path):
    found = results(tmp_path, "gpu_ceilings", namespace, "--repeats", "2")
    assert any(problem.startswith("host to device") for problem in found)
    for problem, entry in found.items():
        assert all(line["value"] > 0.0 for line in entry["measures"])
        wanted = {"TFLOP/s, scores", "TFLOP/s, slope"} if "products" in problem else {"GB/s"}
        assert set(measures(entry)) == wanted


@pytest.mark.parametrize("namespace", HERE)
def test_gpu_loss_grad(namespace, tmp_path):
    found = results(tmp_path, "gpu_loss_grad", namespace, "--repeats", "2")
    one, several = found.values()
    assert "3 heads" in several["problem"]
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
        assert {"xclf, formula", "xclf, launch by launch"} <= set(times)
        assert sum(name.startswith("xclf, chunks of") for name in times) >= 4
    assert several["seconds"]["torch"] == "is for one head"


def test_goals_are_those_of_the_shapes_they_are_set_for():
    seconds = {name: {"median_s": 1.0} for name in ("xclf", "copy of X", "two products", "torch")}
    for columns, precision, reads, products in (
        ((10,), None, 1.4, None),
        ((10,), "tf32", None, None),
        ((1000,), None, None, 1.2),
        ((1000,), "tf32", None, 1.5),
        ((1000, 45), None, None, None),
    ):
        entry = {"seconds": seconds}
        gpu_loss_grad._goals(entry, columns, precision)
        found = measures(entry)
        assert found["time / two reads of X at copy bandwidth"].get("at_most") == reads
        assert found["time / its two matrix products alone"].get("at_most") == products


def test_a_goal_is_reached_or_not():
    entry = {}
    _gpu.goal(entry, "a", 1.0, at_most=1.0)
    _gpu.goal(entry, "b", 1.1, at_most=1.0)
    _gpu.goal(entry, "c", 0.8, at_least=0.8)
    _gpu.goal(entry, "d", 0.7, at_least=0.8)
    _gpu.goal(entry, "e", 0.7)
    assert [line.get("reached") for line in entry["measures"]] == [True, False, True, False, None]


def test_a_torch_that_solves_another_problem_is_not_timed(tmp_path, monkeypatch):
    other = 2.0 * _gpu.REG
    right = gpu_loss_grad.loss_and_grad
    if _measure.optional("torch") is None:
        pytest.skip("torch is not installed")
    monkeypatch.setattr(
        gpu_loss_grad, "loss_and_grad", lambda *args: right(*args[:-1], 1e4 * other)
    )
    words = ["gpu_loss_grad", "--quick", "--repeats", "1", "--namespace", "numpy"]
    entry = run(tmp_path, *words)["results"]["work"][0]
    assert "not the same problem" in entry["failed"]


def test_switches_are_put_back():
    before = _rows._DEVICE_CHUNK
    with gpu_loss_grad._chunks_of(77):
        assert before != _rows._DEVICE_CHUNK == 77
    assert before == _rows._DEVICE_CHUNK
    assert not _fused._trust.lost
    with _gpu.formulas():
        assert _fused._trust.lost
    assert not _fused._trust.lost
    with pytest.raises(ZeroDivisionError), _gpu.formulas():
        _ = 1 / 0
    assert not _fused._trust.lost


@pytest.mark.parametrize("namespace", HERE)
def test_gpu_minibatch(namespace, tmp_path):
    (entry,) = results(tmp_path, "gpu_minibatch", namespace, "--repeats", "2").values()
    apart = entry["figures"]["weights off NumPy's by at most"]
    timed = {name for name, one in entry["seconds"].items() if not isinstance(one, str)}
    assert set(apart) == timed
    assert max(apart.values()) < 1e-6
    torch = {"torch eager", "torch.compile"} if "torch" in HERE else set()
    assert timed == {"xclf", "xclf, step by step", *torch}
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
    gpu_minibatch._goals(entry, batch)
    found = {name: line["at_most"] for name, line in measures(entry).items() if "at_most" in line}
    assert found == most


def test_another_step_is_not_timed():
    race, exact = gpu_minibatch.Race(), np.zeros((2, 3))
    race.add("xclf", lambda: (list, exact), exact)
    race.add("other", lambda: (list, exact + 1e-3), exact)
    race.add("broken", lambda: 1 / 0, exact)
    assert race.calls["xclf"] is list
    assert race.calls["other"] == "not the same step: 0.001 off"
    assert race.calls["broken"].startswith("ZeroDivisionError")
    with pytest.raises(ZeroDivisionError):
        race.add("xclf", lambda: 1 / 0, exact)


def test_peers_that_fail_leave_their_reason_and_the_rest_is_timed():
    calls = {"xclf": list, "peer": lambda: 1 / 0, "whole": list}
    found = _device.measure(_device.Device("numpy"), calls, 2, 10, whole=("whole",))
    assert found["peer"] == "ZeroDivisionError: division by zero"
    assert found["whole"]["repeats"] == 2
    with pytest.raises(ZeroDivisionError):
        _device.measure(_device.Device("numpy"), {"xclf": lambda: 1 / 0}, 2)


@pytest.mark.parametrize("namespace", HERE)
def test_gpu_facts_hold(namespace, tmp_path):
    found = results(tmp_path, "gpu_facts", namespace)
    assert len(found) == 7
    for problem, entry in found.items():
        for line in entry["measures"]:
            assert line["reached"], (problem, line)


def test_gpu_facts_see_what_differs():
    class Model:
        objective_, n_iter_, intercept_ = 1.0, 1, np.zeros(2)

        def fit(self, x, y):
            self.coef_ = np.full((2, 2), self.n_iter_ / 3.0)
            self.n_iter_ += 1

    from bench import gpu_facts

    entry = {}
    gpu_facts._twice(entry, Model(), None, None)
    assert entry["measures"][0]["reached"] is False


@pytest.mark.parametrize("namespace", HERE)
def test_gpu_fit_meets_its_goal(namespace, tmp_path, capsys):
    words = ["gpu_fit", "--quick", "--turns", "2", "--namespace", namespace, "--cap", "1000"]
    words += ["--strength", "0.1", "--state", str(tmp_path)]
    found = run(tmp_path, *words)
    assert "--state STATE" in found["command"]
    assert str(tmp_path) not in json.dumps(found)
    (entry,) = found["results"]["work"]
    assert "failed" not in entry, entry
    assert entry["optimum"]["ended"] == "converged"
    assert 0.0 <= entry["optimum"]["bound_of_relative_gap_in_the_weights"] < 1e-6
    assert entry["optimum"]["largest_slope_of_a_bias"] < 1e-6
    for name, some in entry["runs"].items():
        if isinstance(some, str):
            assert (name, some) == ("torch LBFGS", "not installed")
            continue
        assert len(some) == 2
        for one in some:
            assert one["ended_by"] == "goal"
            assert one["final_gap"] == pytest.approx(one["watched_gap"], abs=1e-5)
            assert -1e-6 < one["final_gap"] < 1.1e-4
    assert ("measures" in entry) == isinstance(entry["runs"]["torch LBFGS"], list)
    capsys.readouterr()
    run(tmp_path, *words)
    assert "finding the optimum" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["gpu_fit", "gpu_sweep"])
def test_tf32_without_a_gpu_leaves_the_reason(name, tmp_path):
    words = [name, "--quick", "--namespace", "numpy", "--precision", "tf32"]
    (entry,) = run(tmp_path, *words)["results"]["work"]
    assert "needs a CUDA GPU" in entry["failed"]


def test_a_peer_that_cannot_run_leaves_its_reason(tmp_path, monkeypatch):
    def no_room(*_):
        raise MemoryError("no room\nfor this")

    monkeypatch.setattr(gpu_fit, "torch_place", lambda place: (None, "", None))
    monkeypatch.setattr(gpu_fit, "_torch", no_room)
    words = ["gpu_fit", "--quick", "--turns", "1", "--namespace", "numpy"]
    (entry,) = run(tmp_path, *words)["results"]["work"]
    assert entry["seconds"]["torch LBFGS"] == "MemoryError: no room"
    assert "measures" not in entry
    assert entry["runs"]["xclf"][0]["ended_by"] == "goal"


def test_an_optimum_that_was_not_found_is_not_raced_to(tmp_path):
    words = ["gpu_fit", "--quick", "--namespace", "numpy", "--optimum-cap", "0"]
    (entry,) = run(tmp_path, *words, "--state", str(tmp_path))["results"]["work"]
    assert "see --optimum-cap" in entry["failed"]
    assert not (tmp_path / "gpu_optima.json").exists()


@pytest.mark.parametrize("theirs", ["goal", "cap"])
def test_share_of_torch(theirs):
    def compared(ours, gap=1e-4):
        runs = {
            "xclf": [{"ended_by": ours, "final_gap": gap}],
            "torch LBFGS": [{"ended_by": theirs, "final_gap": 1e-4}],
        }
        seconds = _measure.summarise({"xclf": [1.0], "torch LBFGS": [4.0]})
        entry = {"runs": runs, "seconds": seconds}
        gpu_fit._compare(entry)
        return entry

    (line,) = compared("goal")["measures"]
    assert (line["value"], line["at_most"]) == (0.25, 0.33)
    assert line["measure"].endswith("to the same gap") == (theirs == "goal")
    # Without the goal, or where float64 does not confirm it, nothing is claimed.
    for entry in (compared("cap"), compared("goal", 3e-4)):
        assert "measures" not in entry
        assert "ratio" not in entry["seconds"]["torch LBFGS"]


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
    place = _device.Device("numpy")
    host = gpu_stream.host_rows(place, 300, 7, dtype)
    y, w = gpu_stream._labels(300, 4), np.random.default_rng(0).standard_normal((4, 7)) / 9.0
    streamed = gpu_stream.pass_over(place, gpu_stream.streamed(place, host), y, w)()
    resident = gpu_stream.resident(place, host, y, w)()
    for one, other in zip(streamed, resident, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("namespace", HERE)
def test_gpu_sweep_goes_on_where_it_was(namespace, tmp_path, capsys):
    words = ["gpu_sweep", "--quick", "--namespace", namespace]
    (whole,) = run(tmp_path, *words)["results"]["work"]
    assert whole["finished"]
    assert all(head["converged"] for head in whole["heads"])
    assert "minutes in float32" in capsys.readouterr().out
    for head in whole["heads"]:
        assert head["objective_float64"] == pytest.approx(head["objective"], rel=1e-5)
        assert head["bound_of_relative_gap"] >= 0.0
    # Where regularisation is strong the bound proves what the library estimated.
    assert whole["heads"][0]["bound_of_relative_gap"] < 1e-4
    parts = [*words, "--state", str(tmp_path), "--call-passes", "6"]
    for call in range(1, 40):
        (part,) = run(tmp_path, *parts)["results"]["work"]
        assert len(part["calls"]) == call
        assert part["passes"] == sum(one["passes"] for one in part["calls"])
        if part["finished"]:
            break
        assert any(head["reason"] == "goes on in the next call" for head in part["heads"])
    assert part["finished"]
    assert call > 1
    for one, other in zip(whole["heads"], part["heads"], strict=True):
        assert one["reg"] == other["reg"]
        assert other["converged"]
        assert other["objective"] == pytest.approx(one["objective"], rel=2e-4)
    # One more call has nothing to do; another sweep is not mixed with this one.
    (again,) = run(tmp_path, *parts)["results"]["work"]
    assert again == part
    capsys.readouterr()
    assert main([*parts, "--rows", "300"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_gpu_sweep_ends_at_its_passes(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_sweep, "_MOST", 3)
    words = ["gpu_sweep", "--quick", "--namespace", "numpy", "--state", str(tmp_path)]
    (entry,) = run(tmp_path, *words)["results"]["work"]
    assert entry["finished"]
    assert entry["passes"] >= 3
    assert {head["reason"] for head in entry["heads"]} <= {"3 passes", "converged"}
    assert "3 passes" in {head["reason"] for head in entry["heads"]}


def test_the_power_law_is_made_from_seeds(monkeypatch):
    place = _device.Device("numpy")
    data = _gpu_data.power_law(place, 500, 20, 5)
    again = _gpu_data.power_law(place, 500, 20, 5)
    np.testing.assert_array_equal(data.x, again.x)
    np.testing.assert_array_equal(data.y, again.y)
    assert set(data.y.tolist()) == set(range(5))
    values = np.linalg.eigvalsh(np.cov(data.x.T))[::-1]
    slope = np.polyfit(np.log(np.arange(1, 21)), np.log(values), 1)[0]
    assert -2.6 < slope < -1.6  # spread falls as 1 / j, variance as its square
    monkeypatch.setattr(_gpu_data, "_CHUNK", 100)
    chunks = _gpu_data.power_law(place, 500, 20, 5).x
    assert len(np.unique(chunks, axis=0)) == 500  # every chunk has a seed of its own


@pytest.mark.skipif(_measure.optional("cupy") is not None, reason="CuPy is there")
def test_without_cupy_one_clear_line(capsys):
    assert main(["gpu_ceilings", "--quick"]) == 2
    error = capsys.readouterr().err
    assert "cupy is not installed" in error
    assert len(error.splitlines()) == 1
