"""The rounds of an augmented Lagrangian: when multipliers move, when a gap is certified, when a
head ends, leaves the batch, or gets a better preconditioner."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from backends import Backend
from estimator_cases import blobs, problem_on

from xclf.objectives import Network
from xclf.training import Monitor, _smoothed_hinge, augmented_lagrangian, preconditioner
from xclf.training._hinge_heads import HingeHeads
from xclf.training._settle import ROUNDING
from xclf.training._stages import STOPPED
from xclf.training.augmented_lagrangian import _AugmentedLagrangianFit as Fit
from xclf.training.augmented_lagrangian import fit_augmented_lagrangian
from xclf.training.lbfgs_fit import KINK

D, C, TOL = 30, 3, 1e-3


def hinge_problem(reg=1e-2, n=60):
    x, y = blobs(n, D, C, seed=2)
    return problem_on(Backend.NUMPY, Network((D, C)), x, y, loss="hinge", reg=reg)


def fit_of(problem, tol=TOL):
    theta = np.zeros((1, problem.objective.network.size))
    monitor = Monitor((), "iteration", 1000)
    return fit_augmented_lagrangian(problem, theta, tol=tol, max_iter=1000, monitor=monitor)[0]


def test_an_inner_solve_ends_with_a_fifth_of_the_gap_of_its_own(monkeypatch):
    """Of the multipliers' share, or of what a certificate is to prove if that is more."""
    seen, ends = [], []
    estimated, move = Fit.estimated_gap, Fit._move

    def watch_gap(self, at):
        slack, residual = estimated(self, at)
        wanted = self.heads.certify_at * np.abs(at.value)
        seen.append((float(slack[0]), float(residual[0]), float(wanted[0])))
        return slack, residual

    def watch_move(self, solved, tight):
        ends.append(bool(tight[0]))
        return move(self, solved, tight)

    monkeypatch.setattr(Fit, "estimated_gap", watch_gap)
    monkeypatch.setattr(Fit, "_move", watch_move)
    assert fit_of(hinge_problem(), 1e-2).converged
    seen = seen[: len(ends)]  # the last, of the end, moves nothing
    assert ends == [residual <= 0.2 * max(slack, wanted) for slack, residual, wanted in seen]
    # For some it was the multipliers' share that is larger.
    assert any(
        end and residual > 0.2 * wanted
        for end, (_, residual, wanted) in zip(ends, seen, strict=True)
    )


CASES = {
    # name: (gap, dual, wait, solved, ended, least_gap, certify_at), certified?
    "the estimate is small enough": ((0.9e-3, 0.0, 0, False, False, 1.0, 1e-3), True),
    "but not for one that was wrong before": ((0.9e-3, 0.0, 0, False, False, 1.0, 3e-4), False),
    "but not of one that has ended": ((0.9e-3, 0.0, 0, False, True, 1.0, 1e-3), False),
    "the best bound is good enough": ((1e-2, 1 - 0.9e-3, 0, False, False, 1.0, 1e-3), True),
    "but one has just failed": ((1e-2, 1 - 0.9e-3, 3, False, False, 1.0, 1e-3), False),
    "the best bound is not good enough": ((1e-2, 1 - 1.1e-3, 0, False, False, 1.0, 1e-3), False),
    "a round ends near the goal": ((2.9e-3, 0.9, 9, True, False, 1.0, 1e-3), True),
    "but it has not ended": ((2.9e-3, 0.9, 9, False, False, 1.0, 1e-3), False),
    "but not that near": ((3.1e-3, 0.9, 9, True, False, 1.0, 1e-3), False),
    "but proves hardly more": ((2.9e-3, 1 - 3.1e-3, 9, True, False, 1.0, 1e-3), False),
    "the best round, at rounding": ((0.9e-9, 1 - 1e-9, 9, True, False, 1e-9, 1e-12), True),
    "not the best round": ((0.9e-9, 1 - 1e-9, 9, True, False, 0.8e-9, 1e-12), False),
}


@pytest.mark.parametrize("name", CASES)
def test_when_a_gap_is_certified(name):
    given, want = CASES[name]
    gap, dual, wait, solved, ended, least, at = (np.asarray([each]) for each in given)
    asked = []
    heads = SimpleNamespace(dual=dual, wait=wait, ended=ended, least_gap=least, certify_at=at)
    some = np.asarray([True])
    fit = SimpleNamespace(tol=TOL, heads=heads, _certifiable=some, _certified=~some)
    fit._certify = lambda which: asked.append(bool(which[0]))
    Fit._certify_where_due(fit, solved, np.asarray([1.0]), gap)
    assert asked == [want]


def test_an_estimate_that_was_wrong_must_say_more():
    """Three were small enough; one of them is proven, one has no certificate."""
    at = np.full(4, TOL)
    numbers = {"dual": 0.0, "wait": 9, "ended": False, "least_gap": 1.0}
    heads = SimpleNamespace(certify_at=at, **{k: np.full(4, v) for k, v in numbers.items()})
    fit = SimpleNamespace(tol=TOL, heads=heads, _certify=lambda which: None)
    fit._certifiable = np.asarray([True, True, False, True])
    fit._certified = np.asarray([False, True, False, False])
    gap = np.asarray([0.5, 0.5, 0.5, 2.0]) * TOL
    Fit._certify_where_due(fit, np.zeros(4, dtype=bool), np.ones(4), gap)
    assert (heads.certify_at < TOL).tolist() == [True, False, False, False]
    assert (heads.certify_at > 0.0).all()


def reason(linear=True, certifiable=True, certified=False, stopped=False, near=False, **given):
    numbers = {"value": 1.0, "rounds": 0, "least_gap": 0.1, "n_iter": 5} | given
    one = {name: np.asarray([each]) for name, each in numbers.items()}
    heads = SimpleNamespace(**one)
    fit = SimpleNamespace(heads=heads, max_iter=100, passes=20)
    fit.whole, fit.lbfgs = SimpleNamespace(linear=linear), SimpleNamespace(noise=1e-8)
    fit._certifiable, fit._certified = np.asarray([certifiable]), np.asarray([certified])
    at = SimpleNamespace(value=one["value"], extra=np.asarray([[0.0, 0.0, 0.0, 1.0]]))
    return str(Fit._reasons(fit, at, np.asarray([near]), stopped)[0])


def test_reasons_to_end():
    assert reason() == ""
    assert reason(certified=True) == "converged"
    assert reason(near=True) == ""  # an estimate where there is a certificate
    assert reason(certifiable=False, near=True) == "converged"
    assert reason(stopped=True) == STOPPED
    assert reason(n_iter=100) == "reached max_iter=100"
    assert reason(value=math.nan, certified=True) == "the objective is not finite"


def test_rounds_without_a_smaller_gap_end_a_fit():
    """Sooner where the gap is so small that rounding may hide what is left of it: the root of an
    objective's rounding, here 1e-4. Far from there progress need not be monotone."""
    few, many = augmented_lagrangian._PATIENCE, augmented_lagrangian._HARD
    assert few < many
    for rounds in (few, many - 1):
        assert reason(rounds=rounds, least_gap=0.9e-4) == ROUNDING
        assert reason(rounds=rounds, least_gap=1.1e-4) == ""
    assert reason(rounds=many, least_gap=1.1e-4) == ROUNDING
    assert reason(rounds=few, certifiable=False) == ROUNDING
    assert reason(rounds=few, certifiable=False, linear=False) == KINK
    assert reason(rounds=few - 1, least_gap=0.9e-4) == ""


@pytest.mark.parametrize("ending, leaves", [(1, False), (2, True), (5, True), (16, False)])
def test_heads_leave_the_batch_once_they_are_enough(monkeypatch, ending, leaves):
    """An eighth of it: to leave copies what the others keep. Where none stays nothing is copied."""
    number, theta, kept = np.arange(16), np.zeros((16, 2)), []
    heads = HingeHeads.at_start(theta, theta, TOL, number, 0 * number, *np.ones((3, 16)))
    whole = hinge_problem()
    keeper = SimpleNamespace(keep=lambda staying: kept.append(staying.tolist()))
    fit = SimpleNamespace(heads=heads, whole=SimpleNamespace(linear=False), results=[None] * 16)
    fit.inner = SimpleNamespace(keep=keeper.keep, problem=whole)
    fit.lbfgs, fit._result = keeper, lambda k, why: (k, why)
    monkeypatch.setattr(augmented_lagrangian, "widest", lambda problem: whole)
    staying = Fit.end(fit, np.where(number < ending, "converged", ""))
    rest = list(range(ending, 16))
    assert kept == ([rest, rest] if leaves else [])
    assert staying.tolist() == (rest if leaves else list(range(16)))
    assert fit.heads.number.tolist() == staying.tolist()
    assert [one[0] for one in fit.results if one] == list(range(ending))


@pytest.mark.parametrize("why, narrow", [(ROUNDING, True), (ROUNDING, False), ("converged", True)])
def test_heads_that_float32_cannot_finish_wait_for_wider_products(monkeypatch, why, narrow):
    theta = np.zeros((1, 2))
    number = np.zeros(1, dtype=int)
    heads = HingeHeads.at_start(theta, theta, TOL, number, number, *np.ones((3, 1)))
    whole = hinge_problem()
    rows = SimpleNamespace(dtype=np.dtype("float32" if narrow else "float64"))
    fit = SimpleNamespace(heads=heads, whole=SimpleNamespace(linear=False), results=[None])
    fit.inner = SimpleNamespace(problem=SimpleNamespace(rows=rows), smoothing=np.ones(1))
    fit.inner.anchor_of = lambda k: "anchor"
    fit.lbfgs, fit.waiting = SimpleNamespace(at=SimpleNamespace(theta=theta)), []
    fit._result = lambda k, why: (k, why)
    monkeypatch.setattr(augmented_lagrangian, "widest", lambda problem: whole)
    Fit.end(fit, np.asarray([why]))
    assert [one[0] for one in fit.waiting] == [0] * (why == ROUNDING and narrow)


def test_a_fit_that_is_far_from_its_goal_gets_all_directions(monkeypatch):
    """Once it has gone on for a third of what these take, in passes."""
    monkeypatch.setattr(preconditioner, "RANK", 8)
    monkeypatch.setattr(preconditioner, "_SPARE", 4)
    monkeypatch.setattr(_smoothed_hinge, "_AT_ONCE", 10)
    monkeypatch.setattr(_smoothed_hinge, "passes_for_a_full_basis", lambda *_: 30.0)
    seen, real = [], _smoothed_hinge.SmoothedHinge.use_full_eigenbasis

    def watched(self):
        before = self.precondition.basis.shape
        real(self)
        seen.append((before, self.precondition.basis.shape, self.full_basis_at))

    monkeypatch.setattr(_smoothed_hinge.SmoothedHinge, "use_full_eigenbasis", watched)
    steps, advance = [], augmented_lagrangian.LBFGS.advance

    def step(self):
        steps.append((len(seen), self.precondition.basis.shape[1]))
        return advance(self)

    monkeypatch.setattr(augmented_lagrangian.LBFGS, "advance", step)
    assert fit_of(hinge_problem()).converged
    assert seen == [((D, 8), (D, D), math.inf)]
    assert [basis for made, basis in steps] == [D if made else 8 for made, _ in steps]
    assert [made for made, _ in steps].index(1) == 10
