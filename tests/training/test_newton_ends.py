"""How Newton's method of small softmax problems ends: which points are judged, and how many steps
it takes to come closer; with points and estimates that are given, and with real ones at the ends
of floating point."""

from __future__ import annotations

import math

import numpy as np
import pytest
from backends import Backend
from estimator_cases import problem_on

from xclf.objectives import Network
from xclf.training import _newton_steps
from xclf.training._newton import Newton, Point, Step, steps_in_passes

CLASSES = 3


class Given:
    """Stands for the problem: theta is the number of steps that were taken to it, the objective
    falls with each, and the estimate at theta is `squares[theta]`, that is, its last."""

    separated = -math.inf

    def __init__(self, monkeypatch, squares, converged_at=None):
        self.squares, self.converged_at, self.judged = squares, converged_at, []
        monkeypatch.setattr(_newton_steps, "_at", lambda newton, theta: self.at(theta))
        monkeypatch.setattr(_newton_steps, "_judge", lambda newton, theta, *_: self.judge(theta))
        monkeypatch.setattr(_newton_steps, "_search", lambda newton, at: at.theta + 1.0)
        monkeypatch.setattr(_newton_steps, "_corrected", lambda newton, ended, at: ended)

    def inside(self, w, b):
        return np.zeros((1, 1))

    def value(self, theta):
        return 2.0 - 1e-3 * float(theta[0, 0])

    def at(self, theta):
        square = self.squares[min(int(theta[0, 0]), len(self.squares) - 1)]
        empty = np.zeros((1, 1))
        step = Step(empty, square, 0.0, empty, empty, 0.0)
        return Point(theta, self.value(theta), empty, empty, step)

    def judge(self, theta):
        self.judged.append(int(theta[0, 0]))
        converged = int(theta[0, 0]) == self.converged_at
        empty = np.zeros((1, 1))
        ended = _newton_steps.Ended(empty, empty, self.value(theta), 0.5, converged, 0)
        return ended, self.at(theta)

    def minimise(self, watch=lambda value: False):
        start = np.zeros((1, 1)), np.zeros(1)
        return _newton_steps.minimise(self, *start, 1e-6, 1e-6, 50, watch)


def test_an_estimate_that_is_good_enough_once_limits_the_steps(monkeypatch):
    """Whatever those after it say: rounding may keep them up."""
    given = Given(monkeypatch, [1.0, 1.0, 1e-9, 1.0])
    assert given.minimise().steps == 2 + _newton_steps.LAST_STEPS
    assert given.judged == [0, *range(3, 3 + _newton_steps.LAST_STEPS)]


def test_a_point_is_judged_once(monkeypatch):
    """As it takes as long as a step: a start at the optimum, steps near it, or else the end."""
    start = Given(monkeypatch, [1.0], converged_at=0)
    assert start.minimise().converged
    assert start.judged == [0]
    last = Given(monkeypatch, [1e-9])
    last.minimise()
    assert last.judged == list(range(_newton_steps.LAST_STEPS + 1))
    stopped = Given(monkeypatch, [1.0])
    assert stopped.minimise(watch=lambda value: True).steps == 1
    assert stopped.judged == [0, 1]


def newton_of(x, y, reg=0.0):
    network = Network((x.shape[1], CLASSES))
    return Newton(problem_on(Backend.NUMPY, network, x, y, reg=reg), lambda w, b: (w, b))


RNG = np.random.default_rng(0)
Y = np.arange(30) % CLASSES
X = np.eye(CLASSES)[Y] + 0.01 * RNG.normal(size=(30, CLASSES))


def test_an_objective_of_zero_is_the_optimum():
    """Where all rows lead by more than 745 the losses are 0, as is the gradient: nothing is below,
    though the ridge of the Hessian may hide something of steps along such weights."""
    newton = newton_of(X, Y)
    far, near = (newton.inside(size * np.eye(3), np.zeros(3)) for size in (2e3, 1.0))
    ended, at = _newton_steps._judge(newton, far, 1e-6, 1e-6)
    assert at.value == 0.0
    assert at.step.square == 0.0
    assert ended.converged
    assert math.isfinite(ended.gap)
    assert not _newton_steps._judge(newton, near, 1e-6, 1e-6)[0].converged


def test_where_nothing_is_finite_there_is_no_step():
    newton = newton_of(X, Y, reg=1e-2)
    with np.errstate(all="ignore"):
        far = newton.inside(np.full((3, 3), 1e200), np.zeros(3))
        overflown = _newton_steps._at(newton, far)
        nothing = _newton_steps._at(newton, np.full((3, 4), np.nan))
    assert overflown.value == nothing.value == math.inf
    assert overflown.step is None
    assert nothing.step is None


def test_a_step_whose_square_overflows_is_none(monkeypatch):
    newton = newton_of(X, Y, reg=1e-2)
    theta = np.zeros((3, 4))
    real = newton.step
    monkeypatch.setattr(newton, "step", lambda *at: real(*at)._replace(square=math.inf))
    assert _newton_steps._at(newton, theta).step is None
    monkeypatch.setattr(newton, "step", lambda *at: None)
    assert _newton_steps._at(newton, theta).step is None
    monkeypatch.setattr(newton, "step", real)
    assert _newton_steps._at(newton, theta).step is not None


@pytest.mark.parametrize("heads", [1, 20])
def test_what_a_step_costs_in_passes(heads):
    """Of P = C (D + 1) parameters a step forms N products of P^2 and a factor of P^3; a pass takes
    two products of N P, two operations each. Both take 4e7 operations' time beside, a pass for all
    heads."""
    n, d = 2000, 30
    problem = problem_on(
        Backend.NUMPY, Network((d, CLASSES)), np.zeros((n, d)), np.arange(n) % CLASSES
    )
    p = CLASSES * (d + 1)
    want = (n * p**2 + p**3 + 4e7) / (4.0 * n * p + 4e7 / heads)
    assert steps_in_passes(problem, heads) == pytest.approx(want, rel=1e-12)
