"""L-BFGS on all rows, preconditioned for linear models: heads on their way until each ends."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from xclf._array_api import Array, device, free_memory, namespace, to_host
from xclf._heads import take_heads
from xclf._sparse import SparseMatrix
from xclf.objectives import Smooth
from xclf.optim import LBFGS, Iterate, Memory, SpectralPreconditioner, ValueAndGrad, memory_size
from xclf.training._score_space import PAIRS, ScoreSpace, Swap
from xclf.training._settle import CONVERGED, ROUNDING, SLOW, promise
from xclf.training._stages import STOPPED, MethodStage, method_stage, results_of, trees_of
from xclf.training._tolerance import IDLE, Tolerance, rounding
from xclf.training.events import FitResult, Monitor
from xclf.training.preconditioner import (
    AT_ONCE,
    MAX_CLASSES,
    passes_for_a_full_basis,
    sample,
    spectral_preconditioner,
)
from xclf.training.problem import Problem

#: Curvature pairs kept; more of them were the main lever on weakly regularised problems.
MEMORY = 50

#: Bytes that they may take in all, beside a twentieth of X.
PAIRS_FREE = 1 << 30

#: Iterations at which the class curvature is measured again; it settles as the fit does.
REFRESH = frozenset({5, 10, 20, 40, 80, 160})

#: Rows that the class curvature is measured on: the mean of a C x C matrix over so many for each of
#: C classes, and no fewer than the second figure.
CURVATURE_ROWS = (256, 16384)

#: As `AT_ONCE`, for fits one after another that share a basis.
AT_ONCE_FOR_MANY = 300

#: Why a line search may find no further step.
KINK = "no further descent along the gradient: a kink of the net, or rounding"

#: Share of the batch that must have ended before those heads leave it: to leave copies what all the
#: others keep, to stay costs their share of the passes.
LEAVING = 0.125


def minimise_lbfgs(
    problem: Problem | ScoreSpace,
    theta: Array,
    tol: float,
    max_iter: int,
    monitor: Monitor,
    slow_at: float = math.inf,
    common: Common | None = None,
) -> list[FitResult]:
    """L-BFGS alone, which gives up after `slow_at` iterations.

    common : of fits to the same rows one after another
    """
    with method_stage(monitor, "L-BFGS", theta) as stage:
        if stage.results is not None:
            return stage.results
        fit = _LBFGSFit(problem, theta, tol, max_iter, monitor, slow_at, stage, common)
        del theta  # the start is not needed any more, and may be as large as X
        try:
            fit.run()
        except KeyboardInterrupt:
            fit.end(np.full(len(fit.alive), "interrupted"))
        return stage.finish([result for result in fit.results if result is not None])


# What `_LBFGSFit` has numbers and host arrays of.
_STATE = ("full_basis_at", "start_norm", "alive", "steps", "n_iter", "idle", "best", "ended")


class _LBFGSFit:
    """K heads on their way: `alive` are the original numbers of those still in the batch, `ended`
    says which of them only wait to leave it."""

    def __init__(
        self,
        problem: Problem | ScoreSpace,
        theta: Array,
        tol: float,
        max_iter: int,
        monitor: Monitor,
        slow_at: float,
        stage: MethodStage,
        common: Common | None,
    ) -> None:
        xp, heads = namespace(theta), int(theta.shape[0])
        self.problem, self.max_iter, self.monitor = problem, max_iter, monitor
        noise = rounding(problem.rows.dtype, xp, problem.rows.precision)
        # Half of what is put to the proof afterwards, which is larger by rounding and the biases.
        self.goal = Tolerance(tol, noise, gap=0.5 * promise(tol))
        self.slow_at, self.stage = slow_at, stage
        if stage.saved is not None:
            self._restore(stage.saved)
            return
        self.precondition, self.full_basis_at = _precondition(problem, theta, common)
        self.lbfgs = LBFGS(
            _evaluation(problem, self.precondition),
            theta,
            memory=pairs_for(problem, theta),
            precondition=self.precondition,
            noise=self.goal.noise,
        )
        self.start_norm = _start_norm(problem, theta, self.lbfgs.at, common)
        self.alive, self.steps = np.arange(heads), 0
        self.n_iter, self.idle = np.zeros(heads, dtype=int), np.zeros(heads, dtype=int)
        self.best = np.full(heads, math.inf)
        self.ended = np.zeros(heads, dtype=bool)
        self.results: list[FitResult | None] = [None] * heads

    def state(self) -> dict[str, Any]:
        """All that `_restore` needs beside the problem."""
        own = {name: getattr(self, name) for name in _STATE}
        made = None if self.precondition is None else self.precondition.state()
        return own | {
            "results": trees_of(self.results),
            "lbfgs": self.lbfgs.state(),
            "precondition": made,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        for name in _STATE:
            setattr(self, name, state[name])
        self.results = results_of(state["results"])
        if len(self.alive) < len(self.results):
            self.problem = self.problem.take_heads(self.alive)
        made = state["precondition"]
        kind = Swap if isinstance(self.problem, ScoreSpace) else SpectralPreconditioner
        self.precondition = None if made is None else kind.from_state(made)
        self.lbfgs = LBFGS.from_state(
            _evaluation(self.problem, self.precondition),
            state["lbfgs"],
            memory=Memory(MEMORY, self.problem.rows.dtype),
            precondition=self.precondition,
            noise=self.goal.noise,
        )

    def run(self) -> None:
        """Until every head has a reason to end."""
        at = self.lbfgs.at
        while True:
            self.end(self._reasons(at))
            if self.ended.all():
                return
            at = self.lbfgs.advance()
            self._count(at)
            if not (at.moved & ~self.ended).any():
                continue
            self.steps = step = self.steps + 1
            seen = min(step, self.monitor.total)  # a head that searched longer ends later
            lowest = float(np.min(at.value[~self.ended]))
            if self.monitor.record(seen, lowest, heads=int(np.sum(~self.ended))):
                self.end(np.full(len(self.alive), STOPPED))
                return
            if step in REFRESH or step == self.full_basis_at:
                self._refresh(at.theta, step == self.full_basis_at)
            self.stage.offer(self.state)

    def _refresh(self, theta: Array, full: bool) -> None:
        """Measure the class curvature again; and see all directions of the features, if `full`."""
        if isinstance(self.problem, ScoreSpace) or self.precondition is None:
            return
        curvature = curvature_at(self.problem, theta)
        if full:
            objective, rows = self.problem.objective, self.problem.rows
            self.precondition = spectral_preconditioner(
                objective.network, rows, objective.reg, curvature, full=True
            )
            self.lbfgs.precondition = self.precondition
        elif isinstance(self.precondition, SpectralPreconditioner):
            self.precondition.refresh(curvature)

    def end(self, reasons: np.ndarray) -> None:
        """Write down the heads that have a reason to end, and go on without them."""
        ending = np.flatnonzero((reasons != "") & ~self.ended)
        if not len(ending):
            return
        at = self.lbfgs.at
        xp = namespace(at.theta)
        met = self.goal.met(at, self.start_norm, self.idle)
        for k in ending.tolist():
            self.results[self.alive[k]] = FitResult(
                # A copy: a view would keep all heads of this iteration.
                theta=xp.asarray(at.theta[k, :], copy=True),
                n_iter=max(int(self.n_iter[k]), 1),
                objective=float(at.value[k]),
                converged=bool(met[k]),
                reason=str(reasons[k]),
                grad_norm=float(at.grad_norm[k]),
                interrupted=reasons[k] == "interrupted",
            )
        self.ended[ending] = True
        kept = np.flatnonzero(~self.ended)
        if len(kept) and len(kept) <= (1.0 - LEAVING) * len(self.alive):
            state = (self.alive, self.n_iter, self.idle, self.best, self.start_norm, self.ended)
            self.alive, self.n_iter, self.idle, *rest = take_heads(state, kept)
            self.best, self.start_norm, self.ended = rest
            self.problem = self.problem.take_heads(kept)
            self.lbfgs.value_and_grad = _evaluation(self.problem, self.precondition)
            self.lbfgs.keep(kept)

    def _count(self, at: Iterate) -> None:
        moved, noise = at.moved, self.goal.noise
        fell = moved & (at.value < self.best - noise * np.abs(at.value))
        self.n_iter = self.n_iter + moved
        self.best = np.where(fell, at.value, self.best)
        self.idle = np.where(fell, 0, self.idle + moved)

    def _reasons(self, at: Iterate) -> np.ndarray:
        """(K,) strings: why each head ends; empty for those that go on."""
        return np.select(
            [
                self.goal.met(at, self.start_norm, self.idle),
                self.n_iter >= self.max_iter,
                self.n_iter >= self.slow_at,
                at.stalled,
                self.idle >= IDLE,
                ~np.isfinite(at.value),
            ],
            [
                CONVERGED,
                f"reached max_iter={self.max_iter}",
                SLOW,
                ROUNDING if self.problem.linear else KINK,
                ROUNDING,
                "the objective is not finite",
            ],
            "",
        )


def pairs_for(problem: Problem | ScoreSpace, theta: Array) -> Memory:
    """Memory for the curvature pairs of theta (K, P), as many as a share of X's size allows.

    Pairs are kept in the dtype of the rows: they carry no more digits.
    """
    heads, size = int(theta.shape[0]), int(theta.shape[1])
    rows = problem.rows
    itemsize = 8 if rows.dtype == namespace(rows.x).float64 else 4
    values = rows.x.row_values if isinstance(rows.x, SparseMatrix) else int(rows.x.shape[1])
    budget = PAIRS_FREE + len(rows) * values * itemsize // 20
    free = free_memory(namespace(rows.x), device(rows.x))
    if free is not None:  # a device's own: a quarter of it
        budget = max(budget, free // 4)
    budget = rows.budget.for_pairs(budget)
    most = PAIRS if isinstance(problem, ScoreSpace) else MEMORY
    return Memory(memory_size(heads, size, itemsize, budget, most), rows.dtype)


def _evaluation(
    problem: Problem | ScoreSpace, precondition: SpectralPreconditioner | Swap | None
) -> ValueAndGrad:
    """What L-BFGS evaluates: with a bound on the distance to the optimum where there is one, as
    `_softmax_gap.py` has it but for the biases. It is met on the way, in the dtype of the rows, or
    has to be in float64 afterwards."""
    objective = problem.objective
    bounded = isinstance(objective.loss, Smooth) and np.all(to_host(objective.reg) > 0.0)
    spectral = isinstance(precondition, SpectralPreconditioner)
    if isinstance(problem, ScoreSpace) or not bounded or not spectral:
        return problem.value_and_grad
    network, centre = objective.network, precondition.mean  # type: ignore[union-attr]
    rate = 2.0 * objective.penalty_rate
    rate = rate[:, 0] if getattr(rate, "ndim", 0) else rate

    def evaluate(theta: Array) -> tuple[Array, ...]:
        value, grad = problem.value_and_grad(theta)
        layer = network.layers(grad)[0]
        w = layer.w if layer.b is None else layer.w - layer.b * centre
        return value, grad, namespace(w).sum(w * w, axis=(-2, -1)) / rate

    return evaluate


class Common:
    """What fits to the same rows one after another have in common, made where the first needs it.

    problem : of all their heads;  first : those of the first fit, whose places the heads of those
        after it have: the same numbers come out whichever fit asks first
    basis : a preconditioner whose basis serves all
    start_norm : the gradient's max-norm at zero weights, of the heads `first`: it has no reg in it
    """

    def __init__(self, problem: Problem | ScoreSpace, first: np.ndarray) -> None:
        self.problem, self.first = problem, first
        self.basis: SpectralPreconditioner | None = None
        self.start_norm: np.ndarray | None = None


def _precondition(
    problem: Problem | ScoreSpace, theta: Array, common: Common | None
) -> tuple[SpectralPreconditioner | Swap | None, float]:
    """The preconditioner to begin with, and the iteration at which to see all directions."""
    if isinstance(problem, ScoreSpace):
        return problem.preconditioner(theta), math.inf
    network, reg = problem.objective.network, problem.objective.reg
    curved = problem.linear and problem.objective.loss.curved
    if not curved or network.widths[1] > MAX_CLASSES:
        return None, math.inf
    curvature = curvature_at(problem, theta)
    if common is not None and common.basis is not None:
        return replace(common.basis, curvature=curvature, reg=reg), math.inf
    rows, heads = problem.rows, int(theta.shape[0])
    if common is not None:
        rows, heads = common.problem.rows, len(common.first)
    cost = passes_for_a_full_basis(rows, network, heads)
    full = cost <= (AT_ONCE if common is None else AT_ONCE_FOR_MANY)
    made = spectral_preconditioner(network, rows, reg, curvature, full=full)
    if common is not None:
        common.basis = made
    return made, math.inf if full or common or math.isinf(cost) else float(round(cost / 2))


def curvature_at(problem: Problem, theta: Array) -> Array:
    """The class curvature on a sample of the rows: on all of them it costs as much as a pass."""
    each, least = CURVATURE_ROWS
    most = max(each * problem.objective.network.widths[-1], least)
    return replace(problem, rows=sample(problem.rows, most)).curvature(theta)


def _start_norm(
    problem: Problem | ScoreSpace, theta: Array, at: Iterate, common: Common | None
) -> np.ndarray:
    """Max-norm of the gradient at zero weights; of a net, where zero is a saddle, at the start."""
    if common is not None:
        if common.start_norm is None:
            first = common.problem.take_heads(common.first)
            xp, shape = namespace(theta), (len(common.first), int(theta.shape[1]))
            zeros = xp.zeros(shape, dtype=theta.dtype, device=device(theta))
            common.start_norm = _norm_at(first, zeros)
        return common.start_norm[: int(theta.shape[0])]
    xp = namespace(theta)
    if len(problem.objective.network.widths) > 2 or not bool(xp.any(theta != 0.0)):
        return at.grad_norm
    return _norm_at(problem, xp.zeros_like(theta))


def _norm_at(problem: Problem | ScoreSpace, theta: Array) -> np.ndarray:
    grad = problem.value_and_grad(theta)[1]
    return np.asarray(to_host(namespace(grad).max(abs(grad), axis=-1)), dtype=np.float64)
