"""The one engine: a specification of K fits to the same rows goes in, K results come out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from xclf._array_api import Array, to_host
from xclf._sparse import SparseMatrix
from xclf.accelerate import Request, select
from xclf.objectives import Hinge, Loss, Network, Objective, Softmax, SquaredHinge
from xclf.optim import Solver, State
from xclf.rows import BlockRows, Rows, blas_threads, own_threads
from xclf.training.events import FitResult, Monitor
from xclf.training.full_batch import fit_certified, fit_lbfgs
from xclf.training.hinge import fit_hinge, fit_squared_hinge
from xclf.training.minibatch import fit_minibatch
from xclf.training.problem import Problem
from xclf.training.steps import MinibatchPlan


class Method(NamedTuple):
    """A way to minimise over all rows at a time.

    fit : (problem, theta (K, P), tol=, max_iter=, monitor=) -> K results
    multipliers : whether it keeps a number for each class of each row and head
    widens : whether it also passes over the rows in float64, to certify what it reached
    losses : those that it minimises; None for all that are continuously differentiable
    along_paths : whether heads that differ by reg alone are fitted one after another
    draws : whether heads that share few rows are computed together, see `_draws.py`
    """

    fit: Callable[..., list[FitResult]]
    multipliers: bool = False
    widens: bool = False
    losses: tuple[type[Loss], ...] | None = None
    along_paths: bool = False
    draws: bool = False


#: Full-batch methods by the name that `Loss.full_batch` gives.
METHODS = {
    "lbfgs": Method(fit_lbfgs),
    "certified_lbfgs": Method(
        fit_certified, widens=True, losses=(Softmax,), along_paths=True, draws=True
    ),
    "hinge": Method(fit_hinge, multipliers=True, widens=True, losses=(Hinge,)),
    "squared_hinge": Method(
        fit_squared_hinge, widens=True, losses=(SquaredHinge,), along_paths=True
    ),
}


def method_of(loss: Loss) -> Method:
    """The full-batch method that a loss names. Raises TypeError for one that is not for it."""
    name = loss.full_batch.method
    method = METHODS.get(name)
    if method is None:
        raise TypeError(f"the loss {loss.name} names {name!r}, which is none of {tuple(METHODS)}")
    if method.losses is not None and not isinstance(loss, method.losses):
        kinds = ", ".join(kind.name for kind in method.losses)
        raise TypeError(f"the method {name!r} is for {kinds} only, not for the loss {loss.name}")
    return method


@dataclass(frozen=True)
class FitSpec:
    """K fits to the same rows: everything but where they start.

    heads : K;  network, loss, reg : the objective; parameters of the loss and reg are numbers, or
        (K,)
    rows : X, labels, weights; heads may have label sets and weights of their own, see `Rows`
    solver, tol, max_iter : the method, its tolerance, and its most iterations
    plan : of a minibatch solver, whose learning rate and rule may hold (K, 1)
    train, validation : of a minibatch solver, host numbers of the rows to train on (None: all) and
        the rows that are held out (None: none)
    measure_all : of a minibatch solver, whether objectives are those of all rows in the end
    """

    heads: int
    network: Network
    loss: Loss
    reg: Any
    rows: Rows
    solver: Solver
    tol: float
    max_iter: int
    plan: MinibatchPlan | None = None
    train: np.ndarray | None = None
    validation: Rows | None = None
    measure_all: bool = True

    @property
    def largest_product(self) -> int:
        """Multiply-adds of the largest product of a chunk or a minibatch of one head."""
        widths = self.network.widths
        rows = len(self.rows)
        size = self.rows.chunk_rows(max(widths[1:])) if self.plan is None else self.plan.batch_size
        if isinstance(self.rows.x, SparseMatrix):
            widths = (self.rows.x.row_values, *widths[1:])
        return min(rows, size) * max(d * m for d, m in pairwise(widths))

    def request(self) -> Request:
        """The fit as accelerators see it."""
        n_rows, steps = len(self.rows), 0
        x: Any = self.rows.x
        if isinstance(self.rows, BlockRows):
            x = x.kind
            if self.plan is not None and not isinstance(x, SparseMatrix):
                x = to_host(x)  # where batches of blocks are
        if self.plan is not None:
            trained = n_rows if self.train is None else len(self.train)
            steps = self.plan.epochs * (trained // self.plan.batch_size)
        return Request(
            x=x,
            dtype=self.rows.dtype,
            network=self.network,
            loss=self.loss,
            n_rows=n_rows,
            rule=None if self.plan is None else self.plan.rule,
            steps=steps,
            bounded=self.rows.budget.size is not None,
            label_sets=self.rows.tasks is not None,
        )


def fit(
    spec: FitSpec,
    start: Callable[[], Array],
    monitor: Monitor,
    rng: np.random.Generator,
    *,
    state: State | None = None,
) -> list[FitResult]:
    """Fit K heads from the parameters (K, P) that `start` returns, in fitting coordinates; one
    result a head. (A function: they may be as large as X, and nothing holds them beside the fit.)

    rng : draws minibatches;  state : an update rule's, to go on with
    """
    chosen = select(spec.request())
    network = replace(spec.network, operations=chosen.operations)
    problem = Problem(Objective(network, spec.loss, spec.reg), spec.rows)
    # Many heads: work that is not split by rows runs head by head, in small products.
    threads = own_threads() if spec.heads > 1 else nullcontext()
    with blas_threads(spec.rows.x, spec.largest_product), threads:
        if spec.plan is not None:
            return fit_minibatch(
                problem,
                start(),
                spec.plan,
                rng,
                monitor,
                train=spec.train,
                validation=spec.validation,
                state=state,
                measure_all=spec.measure_all,
                steps=chosen.steps,
            )
        return method_of(spec.loss).fit(
            problem, start(), tol=spec.tol, max_iter=spec.max_iter, monitor=monitor
        )
