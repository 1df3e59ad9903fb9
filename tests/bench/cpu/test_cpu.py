"""The benchmarks run, at tiny sizes, and record what made their numbers. No time is asserted."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from bench import _curves, _data, _hinge, _measure, _softmax, fit, minibatch
from bench.__main__ import NAMES, main

ROOT = Path(__file__).resolve().parents[2]


def run(tmp_path, *words):
    target = tmp_path / "out.json"
    assert main([*words, "--json", str(target)]) == 0
    return json.loads(target.read_text())


@pytest.mark.parametrize("name", ["loss_grad", "minibatch"])
def test_a_benchmark_runs_and_is_recorded(name, tmp_path, capsys):
    found = run(tmp_path, name, "--quick", "--repeats", "2")
    assert "xclf" in capsys.readouterr().out
    assert found["command"] == f"python -m bench {name} --quick --repeats 2 --json JSON"
    assert {"python", "numpy", "scikit-learn", "xclf"} <= set(found["versions"])
    assert {"cpu", "cores", "memory_gib", "load_average"} <= set(found["machine"])
    for entry in found["results"]:
        assert entry["seconds"]["xclf"]["repeats"] == 2
        assert entry["seconds"]["scikit-learn"]["ratio"] > 0.0
    assert str(tmp_path) not in json.dumps(found)


@pytest.fixture
def rows(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "rows.npz"
    np.savez(path, X=rng.integers(0, 255, (120, 12)).astype(np.uint8), y=rng.integers(0, 3, 120))
    return str(path)


GIVEN = [
    ["minibatch", "--repeats", "1"],
    ["loss_grad", "--repeats", "1"],
    ["fit", "--problems", "data", "--reg", "1e-2", "--hinge-reg", "1e-2", "--epochs", "2"],
    ["sweep", "--repeats", "1", "--values", "3", "--peer-fits", "1"],
]


@pytest.mark.parametrize("words", GIVEN, ids=lambda words: words[0])
def test_given_data(words, rows, tmp_path):
    found = run(tmp_path, *words, "--data", rows, "--quick")
    assert "--data DATA" in found["command"]
    assert "120 x 12" in json.dumps(found["results"])
    assert str(tmp_path) not in json.dumps(found)


def test_missing_data_is_one_line(capsys):
    assert main(["minibatch", "--data", "nowhere.npz", "--quick"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_one_thread(tmp_path):
    found = run(tmp_path, "minibatch", "--quick", "--repeats", "1", "--one-thread")
    assert found["results"][0]["threads"] == "one thread"


@pytest.mark.parametrize("words", [["nonsense"], [], ["fit", "--nonsense"]])
def test_wrong_usage_exits_with_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    if words == ["nonsense"]:
        said = capsys.readouterr().err
        assert "unknown benchmark 'nonsense'" in said
        assert "loss_grad, minibatch, fit" in said


def test_without_torch_its_column_says_so(tmp_path, monkeypatch, capsys):
    real = _measure.optional
    monkeypatch.setattr(minibatch, "optional", lambda name: None if name == "torch" else real(name))
    found = run(tmp_path, "minibatch", "--quick", "--repeats", "1", "--batches", "32")
    assert found["results"][0]["seconds"]["torch"] == "not installed"
    assert "not installed" in capsys.readouterr().out


def test_turns_are_taken_and_medians_compared():
    calls = []
    slow, fast = (lambda name=name: calls.append(name) for name in ("slow", "fast"))
    seconds = _measure.alternate({"xclf": fast, "other": slow, "gone": "not installed"}, 4)
    assert set(seconds) == {"xclf", "other"}
    rounds = ["fast", "slow", "slow", "fast"]
    assert calls == ["fast", "slow", *rounds, *rounds]
    found = _measure.summarise({"xclf": [1.0, 2.0, 3.0], "other": [4.0, 4.0, 2.0]})
    assert found["other"]["ratio"] == 0.5
    assert found["other"]["median_of_ratios"] == 0.5
    assert found["xclf"]["median_s"] == 2.0


def test_every_name_is_a_module_with_the_two_functions():
    for module, _ in NAMES.values():
        path = ROOT / (module.replace(".", "/") + ".py")
        text = path.read_text()
        assert "def run(args" in text
        assert "def add_arguments(parser" in text


def a_problem(reg=1e-3, best=math.nan):
    return _softmax.Problem("test", *_data.images(150, 6), reg, best=best)


def test_fit_follows_every_contender_to_the_goal(tmp_path):
    picture, optima = tmp_path / "curves.png", tmp_path / "optima.json"
    words = ["fit", "--quick", "--parts", "softmax", "--problems", "embeddings", "--reg", "1e-2"]
    words += ["--times", "1000", "--torch-times", "1000", "--optima", str(optima)]
    found = run(tmp_path, *words, "--plot", str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")
    (entry,) = found["results"]["softmax"]
    assert 0.0 <= entry["certified_relative_gap"] < 1e-10
    assert {"xclf", "scikit-learn"} <= set(entry["contenders"])
    for name, one in entry["contenders"].items():
        if isinstance(one, str):
            assert (name, one) == ("torch", "not installed")
            continue
        assert one["ended_by"] == "goal"
        assert one["final_gap"] == pytest.approx(one["watched_gap"], abs=1e-5)  # float32 watched
        seconds = [point[0] for point in one["curve"]]
        assert seconds == sorted(seconds)
    (known,) = json.loads(optima.read_text()).values()
    assert known["objective"] == entry["objective"]
    assert str(tmp_path) not in json.dumps(found)


def test_optima_are_found_once(tmp_path, monkeypatch):
    file = tmp_path / "optima.json"
    problem = _softmax.with_optimum(a_problem(), file)
    monkeypatch.setattr(_softmax, "_find", lambda problem: pytest.fail("found again"))
    assert _softmax.with_optimum(a_problem(), file).best == problem.best
    monkeypatch.setattr(_softmax, "_find", lambda problem: {"objective": 7.0, "lower_bound": 6.0})
    assert _softmax.with_optimum(a_problem(reg=2e-3), file).best == 7.0
    assert len(json.loads(file.read_text())) == 2


def test_the_lower_bound_holds_far_from_the_optimum_and_is_tight_at_it():
    problem = _softmax.with_optimum(a_problem(reg=1e-2), None)
    assert problem.best * (1.0 - 1e-10) < problem.floor <= problem.best
    rng = np.random.default_rng(3)
    w, b = 0.1 * rng.standard_normal((10, 36)), rng.standard_normal(10)
    assert problem.bound(w, b) < problem.best < problem.objective(w, b)


@pytest.mark.parametrize("iterations", [1, 7, 30])
def test_the_watched_scikit_learn_is_scikit_learn(iterations):
    problem = a_problem()
    watch = _curves.Watch(goal=-math.inf)
    weights, intercept = _curves.scikit_learn(problem, watch, most=iterations)
    strength = 1.0 / (2.0 * problem.reg * len(problem.x))
    model = LogisticRegression(C=strength, tol=1e-14, max_iter=iterations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(problem.x, problem.y)
    np.testing.assert_array_equal(model.coef_, weights.astype(model.coef_.dtype))
    np.testing.assert_array_equal(model.intercept_, intercept.astype(model.intercept_.dtype))
    assert len(watch.objectives) == iterations
    assert watch.objectives[-1] == pytest.approx(
        problem.objective(weights, intercept), rel=1e-5
    )  # it computes in float32


def test_a_watch_ends_a_fit_at_the_goal_or_when_its_time_is_up():
    ticks = iter([10.0, 11.0, 12.0, 13.0, 14.0])
    watch = _curves.Watch(goal=1.0, cap=4.0, clock=lambda: next(ticks))
    watch.start()
    assert [watch.see(value) for value in (5.0, 0.5, 3.0, 3.0)] == [False, True, False, True]
    assert watch.ended == "goal"
    assert watch.seconds == [1.0, 2.0, 3.0, 4.0]
    watch.objectives = [5.0]
    assert watch.ended == "cap"
    watch.seconds = [3.0]
    assert watch.ended == "itself"


@pytest.mark.parametrize("ended, reached", [("goal", True), ("cap", True), ("goal", False)])
def test_ratios_of_peers(ended, reached):
    entry = {"watched_s": 8.0, "ended_by": ended}
    fit._set_ratio(entry, [1.0, 3.0], reached)
    if not reached:  # no ratio to a fit that did not get there
        assert "times_xclf" not in entry
        return
    assert entry["times_xclf"] == 4.0
    assert entry["times_xclf_is_a_lower_bound"] is (ended == "cap")


def test_a_peer_that_ended_by_itself_has_no_ratio():
    entry = {"watched_s": 8.0, "watched_gap": 2e-3, "ended_by": "itself"}
    fit._set_ratio(entry, [1.0], True)
    assert "times_xclf" not in entry
    assert fit._cell(entry) == "never, 8.00 at 2e-03"


def test_hinge_part(tmp_path):
    found = run(tmp_path, "fit", "--quick", "--parts", "hinge", "--hinge-reg", "1e-2")
    (exact,) = found["results"]["hinge"]["exact"]
    assert exact["xclf"]["converged"]
    assert exact["crammer_singer"]["finished"]
    assert exact["crammer_singer"]["accuracy"] > 0.5
    (sgd,) = found["results"]["hinge"]["sgd"]
    assert sgd["xclf"]["objective"] < sgd["sgd"]["objective"]


def test_liblinear_is_ended_when_its_time_is_up():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2000, 50)).astype(np.float32), rng.integers(0, 10, 2000)
    found = _hinge.crammer_singer(x, y, 1e-6, 0.01)
    assert found == {"seconds": 0.01, "finished": False}


def test_sweep(tmp_path):
    picture = tmp_path / "sweep.png"
    words = ["sweep", "--quick", "--repeats", "1", "--values", "5", "--sklearn-values", "3"]
    found = run(tmp_path, *words, "--peer-fits", "2", "--plot", str(picture))["results"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    values = found["values"]
    assert len(values["xclf_objectives"]) == 5
    assert [one["place"] for one in values["scikit_learn"]] == [0, 2, 4]
    assert values["scikit_learn_s_is_interpolated"]
    assert values["largest_relative_excess_of_xclf"] < 1e-6
    assert found["cv"]["heads"] == 15
    assert found["pass"]["share_of_products"] > 0.0
    minibatch_part = found["minibatch"]
    assert minibatch_part["fits"] == 52
    assert minibatch_part["one by one"]["fits_timed"] == 2
    # One fit and the same fit among 52 differ by float32's rounding of some hundred steps.
    assert minibatch_part["largest_relative_difference_to_single_fits"] < 1e-3


@pytest.mark.parametrize("words", [["sweep", "--parts", "pass"], ["fit", "--optima-only"]])
def test_nothing_to_draw_is_one_line(words, tmp_path, capsys):
    picture = tmp_path / "nothing.png"
    quick = ["--quick", "--reg", "1e-2"] if words[0] == "fit" else ["--quick", "--repeats", "1"]
    assert main([*words, *quick, "--plot", str(picture)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"bench {words[0]}: --plot")
    assert not picture.exists()


def test_images_are_centred_and_repeat():
    x, y = _data.images(300, 12)
    again, _ = _data.images(300, 12)
    assert x.shape == (300, 144)
    assert x.dtype == np.float32
    assert set(y.tolist()) == set(range(10))
    np.testing.assert_allclose(x.mean(axis=0), 0.0, atol=1e-6)
    np.testing.assert_array_equal(x, again)
