"""The softmax problem of the fits, its optimum, and fits under a watch."""

import json
import math
import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from bench.common import curves, data, softmax


def a_problem(reg=1e-3, best=math.nan):
    return softmax.Problem("test", *data.synthetic_images(150, 6), reg, best=best)


def test_optima_are_found_once(tmp_path, monkeypatch):
    file = tmp_path / "optima.json"
    problem = softmax.with_optimum(a_problem(), file)
    monkeypatch.setattr(softmax, "_find", lambda problem: pytest.fail("found again"))
    assert softmax.with_optimum(a_problem(), file).best == problem.best
    monkeypatch.setattr(softmax, "_find", lambda problem: {"objective": 7.0, "lower_bound": 6.0})
    assert softmax.with_optimum(a_problem(reg=2e-3), file).best == 7.0
    assert len(json.loads(file.read_text())) == 2


def test_the_lower_bound_holds_far_from_the_optimum_and_is_tight_at_it():
    problem = softmax.with_optimum(a_problem(reg=1e-2), None)
    assert problem.best * (1.0 - 1e-10) < problem.floor <= problem.best
    rng = np.random.default_rng(3)
    w, b = 0.1 * rng.standard_normal((10, 36)), rng.standard_normal(10)
    assert problem.bound(w, b) < problem.best < problem.objective(w, b)


@pytest.mark.parametrize("iterations", [1, 7, 30])
def test_the_watched_scikit_learn_is_scikit_learn(iterations):
    problem = a_problem()
    watch = curves.Watch(goal=-math.inf)
    weights, intercept = curves.scikit_learn(problem, watch, most=iterations)
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
    watch = curves.Watch(goal=1.0, cap=4.0, clock=lambda: next(ticks))
    watch.start()
    assert [watch.see(value) for value in (5.0, 0.5, 3.0, 3.0)] == [False, True, False, True]
    assert watch.ended == "goal"
    assert watch.seconds == [1.0, 2.0, 3.0, 4.0]
    watch.objectives = [5.0]
    assert watch.ended == "cap"
    watch.seconds = [3.0]
    assert watch.ended == "itself"
